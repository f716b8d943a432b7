"""Lives: what the records of a log, or of a part of it, say about each container over time.

The log's order is the order here. A clock may step, so that a later record has an earlier time; what is drawn must
not run backwards. ``steady`` gives the times to draw: those closest to the recorded ones that never decrease. One
wrong clock reading moves that one mark, whichever way it was wrong, and nothing that was in order moves at all.

A part of a log may begin in the middle of lives. For those that ``before`` knows, the fold goes on from there; of
the others a record may still tell the phase, since most events lead to one phase wherever they happen
(``CERTAIN``). Until one does, the phase is None: unknown. A record that can't have happened where it stands
changes nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import attrs

from lading.events.container import (
    LIFECYCLE,
    LIVE,
    ContainerEvent,
    ContainerState,
    Created,
    Exited,
    KillRequested,
    Phase,
    RemoveRequested,
    Renamed,
    StartFailed,
    StartRequested,
    StopRequested,
    advance,
    evolve,
)
from lading.events.envelope import Record
from lading.events.ids import ContainerId

__all__ = ["CERTAIN", "Life", "Mark", "Name", "Outcome", "Segment", "Timeline", "steady", "trace"]


def _certain() -> dict[type[ContainerEvent], Phase]:
    reached: dict[type[ContainerEvent], set[Phase]] = {}
    for row in LIFECYCLE.values():
        for event, phase in row.items():
            reached.setdefault(event, set()).add(phase)
    return {event: next(iter(phases)) for event, phases in reached.items() if len(phases) == 1}


CERTAIN: Mapping[type[ContainerEvent], Phase] = _certain()
"""The events that lead to the same phase from every phase in which they are allowed, and that phase."""


@attrs.frozen
class Segment:
    """A stretch of one life in one phase (None: unknown), begun by the record at ``position``.

    ``start`` and ``end`` are drawn times. Of what had begun before the first record, ``position`` is 0 and
    ``start`` None; of what had not ended after the last, ``end`` is None.
    """

    phase: Phase | None
    position: int
    start: int | None
    end: int | None


@attrs.frozen
class Name:
    """What the container was called from ``position``, drawn at ``start``, on; 0 and None as in ``Segment``."""

    name: str
    position: int
    start: int | None


@attrs.frozen
class Outcome:
    """How run ``run`` ended: with ``exit_code`` (None: nobody saw it), or, if ``failed``, before it began.

    ``asked``: somebody had asked for it, by a stop, a kill or a removal. ``position`` and ``at`` are 0 and None
    for one from before the first record, of which ``asked`` is not known and told as so.
    """

    run: int
    exit_code: int | None
    failed: bool
    asked: bool
    position: int
    at: int | None


@attrs.frozen
class Life:
    """One container as far as the records tell.

    ``image``, ``image_name``, ``labels`` and ``names`` are empty where neither a record nor ``before`` has them.
    ``segments`` has no gap; a container that was removed (phase ``DELETED``) is in none after that. ``outcomes``
    has those of the records; ``outcome`` is the last, even if it came before them. ``changed`` is the position
    of the container's last record, 0 if none of the records is its.
    """

    container: ContainerId
    names: tuple[Name, ...]
    image: str
    image_name: str
    labels: Mapping[str, str]
    segments: tuple[Segment, ...]
    outcomes: tuple[Outcome, ...]
    outcome: Outcome | None
    phase: Phase | None
    changed: int

    @property
    def name(self) -> str:
        """Its last name, or empty if no record tells it."""
        return self.names[-1].name if self.names else ""


@attrs.frozen
class Mark:
    """A record, when it is drawn, and the phase that its container was in after it (None: unknown or no one's)."""

    record: Record
    at: int
    phase: Phase | None


@attrs.frozen
class Timeline:
    """The lives in the order in which they began, and a mark for each record.

    ``first`` and ``last`` are the drawn times of the first and last record, both 0 if there was none.
    """

    lives: tuple[Life, ...]
    marks: tuple[Mark, ...]
    first: int
    last: int


def steady(times: Iterable[int]) -> list[int]:
    """The sequence closest to ``times`` that never decreases: the sum of the differences is the least possible.

    (Isotonic regression in the sum of absolute differences, by one heap: n log n.)
    """
    heap: list[int] = []
    best: list[int] = []
    for time in times:
        heapq.heappush(heap, -time)
        if -heap[0] > time:
            heapq.heapreplace(heap, -time)
        best.append(-heap[0])
    for index in range(len(best) - 2, -1, -1):
        best[index] = min(best[index], best[index + 1])
    return best


def trace(
    records: Iterable[Record], before: Mapping[str, ContainerState] | None = None, *, marks: bool = True
) -> Timeline:
    """The lives that ``records``, in the log's order, tell of.

    ``before`` has, by id, the containers that there were just before the first record; they come first, by age.
    Without ``marks`` the records are not kept: a stream of any length takes the memory of its times and lives.
    """
    drafts: dict[str, _Draft] = {}
    for state in sorted((before or {}).values(), key=lambda state: (state.created_at, state.id)):
        drafts[state.id] = _Draft.of_state(state)
    times: list[int] = []
    kept: list[tuple[Record, Phase | None]] = []
    for record in records:
        phase = None
        kind, _, identifier = record.stream.partition("/")
        if kind == "container":
            draft = drafts.get(identifier)
            if draft is None:
                draft = drafts[identifier] = _Draft(ContainerId(identifier))
            draft.add(record, len(times))
            phase = draft.phase
        times.append(record.time)
        if marks:
            kept.append((record, phase))
    at = steady(times)
    return Timeline(
        tuple(draft.finish(at) for draft in drafts.values()),
        tuple(Mark(record, drawn, phase) for (record, phase), drawn in zip(kept, at, strict=False)),
        at[0] if at else 0,
        at[-1] if at else 0,
    )


@attrs.define
class _Draft:
    """A life while it is told; instants are indexes of records until all are known, and -1 is before the first."""

    container: ContainerId
    state: ContainerState | None = None
    phase: Phase | None = None
    began: list[tuple[Phase | None, int, int]] = attrs.field(factory=list)
    names: list[tuple[str, int, int]] = attrs.field(factory=list)
    outcomes: list[tuple[int, int | None, bool, bool, int, int]] = attrs.field(factory=list)
    earlier: Outcome | None = None
    asked: bool = False
    changed: int = 0

    @classmethod
    def of_state(cls, state: ContainerState) -> _Draft:
        draft = cls(state.id, state, state.phase, [(state.phase, 0, -1)], [(state.name, 0, -1)])
        failed = state.finished_at == 0 and state.exit_code is not None
        if state.phase not in LIVE and (failed or state.finished_at):
            draft.earlier = Outcome(state.run, state.exit_code, failed, True, 0, None)
        return draft

    def add(self, record: Record, index: int) -> None:
        event = cast("ContainerEvent", record.event)  # whatever else is there, the table refuses
        self.changed = record.position
        if self.phase is not None or isinstance(event, Created):
            phase = advance(self.phase, type(event))
            if phase is None:
                return  # it can't have happened here
            if self.state is not None or isinstance(event, Created):
                self.state = evolve(self.state, event, record.time)
        else:
            phase = CERTAIN.get(type(event))
            if not self.began:
                self.began.append((None, 0, -1))
        if phase is not self.phase:
            self.phase = phase
            self.began.append((phase, record.position, index))
        if isinstance(event, Created):
            self.names.append((event.name, record.position, index))
        elif isinstance(event, Renamed):
            if not self.names:
                self.names.append((event.old, 0, -1))
            self.names.append((event.new, record.position, index))
        elif isinstance(event, StartRequested):
            self.asked = False
        elif isinstance(event, StopRequested | KillRequested | RemoveRequested):
            self.asked = True
        elif isinstance(event, Exited | StartFailed):
            failed = isinstance(event, StartFailed)
            self.outcomes.append((event.run, event.exit_code, failed, self.asked, record.position, index))

    def finish(self, at: Sequence[int]) -> Life:
        def drawn(index: int) -> int | None:
            return None if index < 0 else at[index]

        ends = [drawn(index) for _, _, index in self.began[1:]]
        segments = tuple(
            Segment(phase, position, drawn(index), end)
            for (phase, position, index), end in zip(self.began, [*ends, None], strict=True)
            if phase is not Phase.DELETED
        )
        outcomes = tuple(
            Outcome(run, code, failed, asked, position, at[index])
            for run, code, failed, asked, position, index in self.outcomes
        )
        spec = None if self.state is None else self.state.spec
        return Life(
            self.container,
            tuple(Name(name, position, drawn(index)) for name, position, index in self.names),
            "" if spec is None else spec.image,
            "" if spec is None else spec.image_name,
            {} if spec is None else spec.labels,
            segments,
            outcomes,
            outcomes[-1] if outcomes else self.earlier,
            self.phase,
            self.changed,
        )
