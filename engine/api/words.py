"""Docker's way of saying times: how long ago, which instant, and how a container is doing.

Sources: docker/go-units ``HumanDuration`` and moby's ``State.String`` for the words; Docker Engine API v1.47 for
RFC 3339 instants with nanoseconds and for ``seconds.nanoseconds`` in queries.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from lading.events.container import ContainerState, status
from lading.events.errors import Invalid

__all__ = ["human_duration", "instant", "parse_instant", "stamp", "status_line"]

_SECOND = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNIX_TIME = re.compile(r"(-?[0-9]{1,10})(?:\.([0-9]{0,20}))?")


def human_duration(nanoseconds: int) -> str:
    """How long, in one unit: ``About a minute``, ``3 hours``. A clock that stepped back gives no negative."""
    seconds = max(nanoseconds, 0) // _SECOND
    minutes, hours = seconds // 60, (max(nanoseconds, 0) + 1800 * _SECOND) // (3600 * _SECOND)
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if seconds == 1 else f"{seconds} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for limit, unit, word in ((24 * 14, 24, "days"), (24 * 60, 24 * 7, "weeks"), (24 * 730, 24 * 30, "months")):
        if hours < limit:
            return f"{hours // unit} {word}"
    return f"{hours // (24 * 365)} years"


def status_line(state: ContainerState, now: int) -> str:
    """The STATUS column of ``docker ps`` at ``now`` (nanoseconds UTC)."""
    match status(state):
        case "running":
            return f"Up {human_duration(now - state.started_at)}"
        case "exited":
            code = 255 if state.exit_code is None else state.exit_code
            return f"Exited ({code}) {human_duration(now - state.finished_at)} ago"
        case "removing":
            return "Removal In Progress"
        case "dead":
            return "Dead"
        case _:
            return "Created"


def instant(nanoseconds: int) -> str:
    """RFC 3339 in UTC with as many decimals as it takes; 0, which is never, is Go's zero time."""
    if nanoseconds == 0:
        return "0001-01-01T00:00:00Z"
    whole, rest = stamp(nanoseconds)[:-1].split(".")
    rest = rest.rstrip("0")
    return f"{whole}.{rest}Z" if rest else f"{whole}Z"


def stamp(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nine decimals, as in front of log lines."""
    seconds, rest = divmod(nanoseconds, _SECOND)
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def parse_instant(text: str, field: str) -> int:
    """``seconds[.nanoseconds]`` since 1970 as nanoseconds, 0 for empty, 0 and before; else ``Invalid``."""
    if not text:
        return 0
    found = _UNIX_TIME.fullmatch(text)
    if found is None:
        raise Invalid(field, text, "it is seconds since 1970, and nanoseconds after a dot if need be")
    return max(int(found[1]) * _SECOND + int((found[2] or "").ljust(9, "0")[:9]), 0)
