"""Docker's way of saying times: how long ago, which instant, and how a container is doing.

Sources: docker/go-units ``HumanDuration`` and moby's ``State.String`` for the words; Docker Engine API v1.47 for
RFC 3339 instants with nanoseconds and for ``seconds.nanoseconds`` in queries.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from lading.events.container import ContainerState, status
from lading.events.errors import Invalid
from lading.events.upkeep import Health

__all__ = ["human_duration", "instant", "parse_created", "parse_instant", "parse_past", "stamp", "status_line"]

_SECOND = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SPAN = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,9})?(?:ns|us|µs|ms|s|m|h))+")
_SPAN_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h)")
_SPAN_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
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


def status_line(state: ContainerState, now: int, health: Health = "") -> str:
    """The STATUS column of ``docker ps`` at ``now`` (nanoseconds UTC)."""
    code = 255 if state.exit_code is None else state.exit_code
    match status(state):
        case "running":
            known = {"": "", "starting": " (health: starting)"}.get(health, f" ({health})")
            return f"Up {human_duration(now - state.started_at)}{known}"
        case "paused":
            return f"Up {human_duration(now - state.started_at)} (Paused)"
        case "restarting":
            return f"Restarting ({code}) {human_duration(now - state.finished_at)} ago"
        case "exited":
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


def parse_past(text: str, field: str, now: int) -> int:
    """How long before ``now`` (``10m``, ``1h30m``), a date (local, if it names no offset), or seconds since 1970.

    In nanoseconds, as ``now`` is; else ``Invalid``.
    """
    if _SPAN.fullmatch(text):
        parts = _SPAN_PART.findall(text)
        return now - sum(int(float(count) * _SPAN_UNITS[unit]) for count, unit in parts)
    if _UNIX_TIME.fullmatch(text):
        return parse_instant(text, field)
    moment = parse_created(text)
    if not moment:
        raise Invalid(field, text, "it is no time: give a duration such as 1h30m, a date, or seconds since 1970")
    return moment


def parse_created(text: str) -> int:
    """RFC 3339, or as much of it as there is, as nanoseconds since 1970; 0 for what is none or out of range."""
    try:
        moment = datetime.fromisoformat(text)
        since = moment.astimezone(UTC) - _EPOCH
    except (ValueError, OverflowError):
        return 0
    return (since.days * 86_400 + since.seconds) * _SECOND + since.microseconds * 1000
