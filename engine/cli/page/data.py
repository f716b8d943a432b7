"""What the page is given: a window's records, lives and beginning as plain values for JSON.

The page draws with numbers and shows times to the nanosecond, and a number in JavaScript holds 53 bits: so
instants to draw are milliseconds since ``base`` with a fraction, and whatever doesn't fit 53 bits is a string of
digits. ``tables`` gives the page the lifecycle's own table: the page folds by it and has none of its own.

An event is a list, in the order of ``EVENT``; what repeats (tag, stream, actor, command) is an index into a list.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

import attrs

from lading.engine.cli.events import Words, as_dict, details
from lading.engine.cli.window import Window, window_end
from lading.events.codec import SCHEMAS
from lading.events.container import LIFECYCLE, ContainerState, Phase
from lading.events.errors import Invalid
from lading.events.lives import CERTAIN, Life, Mark, trace
from lading.events.views import IMAGES, TAGS

__all__ = ["EVENT", "MOST", "page_data", "plain_state"]

EVENT = (
    *("position", "at", "time", "tag", "stream", "version", "event_id", "actor", "command", "cause", "details"),
    *("data", "chain"),
)
MOST = 200_000
"""Events that a page may hold: what a browser still opens in seconds."""

_SAFE = 2**53 - 1
_MS = 10**6


def page_data(
    window: Window,
    containers: Collection[str] | None = None,
    *,
    root: str = "",
) -> dict[str, Any]:
    """Everything the page shows of ``window``; with ``containers``, of those and of the images.

    Raises ``Invalid`` if that is more than ``MOST`` events.
    """
    earlier = {key: state for key, state in window.containers_before().items() if _wanted(key, containers)}
    told = trace(_bounded(window, containers), earlier)
    now = window_end(window, told.last, time.time_ns())
    starts = [each for each in (window.since, told.first if told.marks else None) if each is not None]
    base = min(starts, default=now)
    goes_on = any(life.segments and life.segments[-1].end is None for life in told.lives)
    end = max(now if goes_on or not told.marks else told.last, told.last)
    lists = _Lists()
    words = Words(window.log, utc=True)
    events = [_event(mark, base, lists, words) for mark in told.marks]
    return {
        "root": root,
        "made": str(time.time_ns()),
        "base": str(base),
        "end": _ms(end, base),
        "phases": [str(phase) for phase in Phase if phase is not Phase.DELETED],
        "tables": _tables(),
        "fields": EVENT,
        "tags": list(lists.tags),
        "streams": list(lists.streams),
        "actors": list(lists.actors),
        "commands": list(lists.commands),
        "events": events,
        "rows": [_row(life, base) for life in told.lives],
        "before": {
            "position": window.after,
            "containers": [plain_state(state) for state in earlier.values()],
            "images": [[key, list(state.tags)] for key, state in window.before.scan(IMAGES)],
            "tags": [[key, state.image] for key, state in window.before.scan(TAGS)],
        },
    }


def plain_state(state: ContainerState) -> dict[str, Any]:
    """A container's state as the page shows it and folds it; instants are nanoseconds as digits."""
    return {
        "id": state.id,
        "name": state.name,
        "phase": str(state.phase),
        "image": state.spec.image,
        "image_name": state.spec.image_name,
        "exit_code": state.exit_code,
        "run": _safe(state.run),
        "error": state.error,
        "created_at": str(state.created_at),
        "started_at": str(state.started_at),
        "finished_at": str(state.finished_at),
    }


def _wanted(container: str, containers: Collection[str] | None) -> bool:
    return containers is None or container in containers


def _bounded(window: Window, containers: Collection[str] | None) -> Any:
    for count, record in enumerate(window.records(containers), 1):
        if count > MOST:
            why = f"a page holds at most {MOST:,}; narrow it with --since, --until, --last or names"
            raise Invalid("timeline", f"more than {MOST:,} events", why)
        yield record


def _tables() -> dict[str, Any]:
    tag_of = {cls: tag for tag, (cls, _) in SCHEMAS.items()}
    return {
        "lifecycle": {
            str(phase or ""): {tag_of[event]: str(after) for event, after in row.items()}
            for phase, row in LIFECYCLE.items()
        },
        "certain": {tag_of[event]: str(phase) for event, phase in CERTAIN.items()},
    }


@attrs.frozen
class _Lists:
    """What repeats, each once: a dict from the value to its index."""

    tags: dict[str, int] = attrs.field(factory=dict)
    streams: dict[str, int] = attrs.field(factory=dict)
    actors: dict[str, int] = attrs.field(factory=dict)
    commands: dict[str, int] = attrs.field(factory=dict)


def _event(mark: Mark, base: int, lists: _Lists, words: Words) -> list[Any]:
    record = mark.record
    whole = as_dict(record)

    def index(known: dict[str, int], value: str) -> int:
        return known.setdefault(value, len(known))

    return [
        record.position,
        _ms(mark.at, base),
        str(record.time),
        index(lists.tags, whole["type"]),
        index(lists.streams, record.stream),
        record.version,
        record.event_id,
        index(lists.actors, words.who(record.actor)),
        index(lists.commands, record.command),
        record.cause,
        details(record.event),
        _safe(whole["data"]),
        whole["chain"],
    ]


def _row(life: Life, base: int) -> dict[str, Any]:
    return {
        "id": life.container,
        "name": life.name,
        "names": [each.name for each in life.names],
        "image_name": life.image_name,
        "labels": dict(life.labels),
        "segments": [
            [None if each.phase is None else str(each.phase), _ms(each.start, base), _ms(each.end, base)]
            for each in life.segments
        ],
        "outcomes": [
            [each.exit_code, each.failed, each.asked, _ms(each.at, base), each.position] for each in life.outcomes
        ],
    }


def _ms(instant: int | None, base: int) -> float | None:
    return None if instant is None else (instant - base) / _MS


def _safe(value: Any) -> Any:
    """``value`` with every whole number that JavaScript would round as digits."""
    if isinstance(value, Mapping):
        return {key: _safe(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_safe(each) for each in value]
    if isinstance(value, int) and not -_SAFE <= value <= _SAFE:
        return str(value)
    return value
