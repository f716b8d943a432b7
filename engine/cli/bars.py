"""Lives as bars over a time axis, in lines of characters.

Every phase has a glyph of its own, so that it reads without colour, and a colour for terminals. What is shorter
than a character is not lost: of the stretches that begin and end inside one, the most telling is shown, so a
restart is a notch in its bar. A run that ended in failure, unasked, is marked where it did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import attrs

from lading.engine.cli.tables import one_line
from lading.events.container import Phase
from lading.events.lives import Life, Outcome, Segment

__all__ = ["ASCII", "GLYPHS", "Line", "Span", "bars", "status_of", "ticks"]

_FAILED = "failed"
_UNKNOWN = "unknown"
_STYLES = {
    Phase.CREATED: "bright_black",
    Phase.STARTING: "yellow",
    Phase.RUNNING: "green",
    Phase.PAUSED: "cyan",
    Phase.STOPPING: "magenta",
    Phase.STOPPED: "blue",
    Phase.RESTARTING: "yellow",
    Phase.REMOVING: "cyan",
    Phase.DEAD: "red",
    _UNKNOWN: "bright_black",
    _FAILED: "bold red",
}
GLYPHS: Mapping[str, str] = {
    Phase.CREATED: "·",
    Phase.STARTING: "▒",
    Phase.RUNNING: "█",
    Phase.PAUSED: "‖",
    Phase.STOPPING: "▓",
    Phase.STOPPED: "─",
    Phase.RESTARTING: "╌",
    Phase.REMOVING: "░",
    Phase.DEAD: "!",
    _UNKNOWN: "?",
    _FAILED: "×",
}
"""What a phase looks like; ``failed`` is no phase but a run's end."""
ASCII: Mapping[str, str] = dict(zip(GLYPHS, ".>#=<-:~!?x", strict=True))
"""The same where the terminal's encoding has no blocks."""

_TELLING = (
    Phase.RUNNING,
    Phase.PAUSED,
    Phase.STOPPED,
    Phase.RESTARTING,
    Phase.DEAD,
    Phase.STOPPING,
    Phase.STARTING,
    Phase.REMOVING,
    Phase.CREATED,
)
_GAP = 2
_LABEL = 11
_SHORTEST = 10
_MS = 10**6
_SECOND = 10**9
_DAY = 86_400 * _SECOND
_STEPS = (
    *(unit * count for unit in (_MS, 10 * _MS, 100 * _MS) for count in (1, 2, 5)),
    *(_SECOND * count for count in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800)),
    *(3600 * _SECOND * count for count in (1, 2, 3, 6, 12)),
    *(_DAY * count for count in (1, 2, 7, 14, 30, 90, 180, 365, 730, 1825, 3650, 36500)),
)


@attrs.frozen
class Span:
    """A piece of a line in one style (rich's words; empty for plain)."""

    text: str
    style: str = ""


Line = tuple[Span, ...]


def status_of(life: Life) -> str:
    """How the container is or ended, in two words."""
    if life.phase is None:
        return _UNKNOWN
    if life.phase not in (Phase.STOPPED, Phase.DELETED):
        return str(life.phase)
    gone = "gone" if life.phase is Phase.DELETED else ""
    if life.outcome is None:
        return gone or "stopped"
    code = _UNKNOWN if life.outcome.exit_code is None else str(life.outcome.exit_code)
    how = f"{'failed' if life.outcome.failed else 'exit'} {code}"
    return f"{gone}, {how}" if gone else how


def bars(
    lives: Sequence[Life], start: int, end: int, width: int, *, utc: bool = False, ascii_only: bool = False
) -> Iterator[Line]:
    """An axis from ``start`` to ``end`` (nanoseconds), a line for each life, and a legend, in ``width`` columns.

    What began before the axis or goes on after it is drawn to its edge. Names are escaped and cut where they are
    too long; of containers with the same name each is followed by the beginning of its id.
    """
    glyphs = ASCII if ascii_only else GLYPHS
    labels = _labels(lives)
    states = [status_of(life) for life in lives]
    right = max(map(len, (*states, "STATUS")))
    left = min(max(map(len, (*labels, "CONTAINER"))), max(width // 4, len("CONTAINER")))
    columns = max(width - left - right - 2 * _GAP, _SHORTEST)
    end = max(end, start + _MS)
    rule, names = _axis(start, end, columns, utc, ascii_only)
    indent = " " * (left + _GAP)
    yield (Span(indent + names.rstrip(), "bright_black"),)
    yield (
        Span("CONTAINER".ljust(left + _GAP), "bold"),
        Span(rule + " " * _GAP, "bright_black"),
        Span("STATUS", "bold"),
    )
    more = "~" if ascii_only else "…"
    used: set[str] = set()
    for life, label, state in zip(lives, labels, states, strict=True):
        cells = _cells(life, start, end, columns)
        used.update(cell for cell in cells if cell)
        shown = label if len(label) <= left else label[: left - 1] + more
        yield (Span(shown.ljust(left + _GAP)), *_painted(cells, glyphs), Span(" " * _GAP), _ending(life, state))
    yield from _legend([kind for kind in GLYPHS if kind in used], glyphs, width)


def _labels(lives: Sequence[Life]) -> list[str]:
    shared = Counter(life.name for life in lives)
    return [
        one_line(life.name) + (f" {life.container[:6]}" if shared[life.name] > 1 else "")
        if life.name
        else one_line(life.container[:12])
        for life in lives
    ]


def _ending(life: Life, state: str) -> Span:
    if life.outcome is not None and life.phase in (Phase.STOPPED, Phase.DELETED) and _went_wrong(life.outcome):
        return Span(state, "red")
    return Span(state, "" if life.phase is Phase.DELETED else _STYLES[life.phase or _UNKNOWN])


def _went_wrong(outcome: Outcome) -> bool:
    return outcome.failed or (outcome.exit_code not in (0, None) and not outcome.asked)


def _cells(life: Life, start: int, end: int, columns: int) -> list[str]:
    """What each column shows: a phase, ``unknown``, ``failed``, or nothing."""

    def column(instant: int) -> int:
        return min(max((instant - start) * columns // (end - start), 0), columns - 1)

    cells = [""] * columns
    inside: dict[int, list[str]] = {}
    shares: dict[int, Counter[str]] = {}
    for segment in life.segments:
        first, last = _extent(segment, start, end)
        if last < start or first > end:
            continue
        kind = segment.phase or _UNKNOWN
        a, b = column(first), column(last)
        if a == b:
            inside.setdefault(a, []).append(kind)
            continue
        cells[a + 1 : b] = [kind] * (b - a - 1)
        edges = (
            (a, start + (a + 1) * (end - start) // columns - first),
            (b, last - _left(b, start, end, columns)),
        )
        for at, length in edges:
            if length > 0 or at == a:
                shares.setdefault(at, Counter())[kind] += length
    for at, share in shares.items():
        cells[at] = share.most_common(1)[0][0]
    for at, kinds in inside.items():
        cells[at] = min(kinds, key=lambda kind: _TELLING.index(Phase(kind)) if kind in _TELLING else len(_TELLING))
    for outcome in life.outcomes:
        if outcome.at is not None and start <= outcome.at <= end and _went_wrong(outcome):
            cells[column(outcome.at)] = _FAILED
    return cells


def _left(column: int, start: int, end: int, columns: int) -> int:
    return start + column * (end - start) // columns


def _extent(segment: Segment, start: int, end: int) -> tuple[int, int]:
    first = start - 1 if segment.start is None else segment.start
    return first, end + 1 if segment.end is None else segment.end


def _painted(cells: Sequence[str], glyphs: Mapping[str, str]) -> Iterator[Span]:
    at = 0
    while at < len(cells):
        to = at
        while to < len(cells) and cells[to] == cells[at]:
            to += 1
        kind = cells[at]
        yield Span((glyphs[kind] if kind else " ") * (to - at), _STYLES[kind] if kind else "")
        at = to


def _legend(kinds: Sequence[str], glyphs: Mapping[str, str], width: int) -> Iterator[Line]:
    line: list[Span] = []
    used = 0
    for kind in kinds:
        gap = 3 if line else 0
        if line and used + gap + 2 + len(kind) > width:
            yield tuple(line)
            line, used, gap = [], 0, 0
        line += [Span(" " * gap), Span(glyphs[kind], _STYLES[kind]), Span(f" {kind}", "bright_black")]
        used += gap + 2 + len(kind)
    if line:
        yield tuple(line)


# -- the axis -------------------------------------------------------------------------------------------


def ticks(start: int, end: int, most: int, *, utc: bool = False) -> list[tuple[int, str]]:
    """About ``most`` round instants from ``start`` to ``end``, each with its name: a time of day or a date."""
    span = max(end - start, 1)
    step = next((step for step in _STEPS if span <= step * max(most, 1)), _STEPS[-1])
    offset = _moment(start, utc).utcoffset() or timedelta()
    shift = round(offset.total_seconds()) * _SECOND
    first = -((-(start + shift)) // step) * step - shift
    return [(at, _name(at, step, utc)) for at in range(first, end + 1, step)]


def _moment(nanoseconds: int, utc: bool) -> datetime:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)
    return moment if utc else moment.astimezone()


def _name(at: int, step: int, utc: bool) -> str:
    moment = _moment(at, utc)
    if step >= 90 * _DAY:
        return f"{moment:%b %Y}"
    if step >= _DAY or (step >= 60 * _SECOND and (moment.hour, moment.minute) == (0, 0)):
        return f"{moment:%b} {moment.day}"
    if step >= 60 * _SECOND:
        return f"{moment:%H:%M}"
    return f"{moment:%H:%M:%S}" if step >= _SECOND else f"{moment:%S}.{moment.microsecond // 1000:03d}"


def _axis(start: int, end: int, columns: int, utc: bool, ascii_only: bool) -> tuple[str, str]:
    line, tick = ("-", "+") if ascii_only else ("─", "┬")
    rule, names = [line] * columns, [" "] * (columns + 8)
    free = 0
    for at, name in ticks(start, end, columns // _LABEL, utc=utc):
        column = min((at - start) * columns // (end - start), columns - 1)
        rule[column] = tick
        begin = min(max(column - len(name) // 2, 0), columns - len(name))
        if begin >= free:
            names[begin : begin + len(name)] = name
            free = begin + len(name) + 1
    return "".join(rule), "".join(names)
