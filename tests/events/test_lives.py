"""What the records of a log, or of a part of it, say about each container over time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from histories import histories
from hypothesis import given
from hypothesis import strategies as st
from plainviews import MemoryViews
from strategies import EVENTS, container_ids

from lading.events.container import (
    LIFECYCLE,
    Created,
    Exited,
    KillRequested,
    Phase,
    Rebased,
    Removed,
    RemoveRequested,
    Renamed,
    Started,
    StartFailed,
    StartRequested,
    StopRequested,
    Updated,
)
from lading.events.envelope import UNKNOWN, Proposed, Record
from lading.events.ids import container_stream
from lading.events.lives import CERTAIN, Life, Name, Outcome, Segment, Timeline, steady, trace
from lading.events.spec import ContainerSpec, ProcessId
from lading.events.store import StoreCreated
from lading.events.views import CONTAINERS, project

A, B = "a" * 64, "b" * 64
SPEC = ContainerSpec("sha256:" + "1" * 64, "app:1", (), ("true",), labels={"tier": "front"})
PROCESS = ProcessId("boot", 7, 9)


def recorded(events: Sequence[tuple[str, Any]], times: Sequence[int] | None = None) -> list[Record]:
    """Records of ``events`` (stream, event) from position 1, at ``times`` or else at 10, 20, ..."""
    at = times or [10 * (index + 1) for index in range(len(events))]
    return [
        Record(index + 1, stream, 1, "0" * 32, at[index], UNKNOWN, "0" * 32, 0, event, b"")
        for index, (stream, event) in enumerate(events)
    ]


def life(*events: Any, times: Sequence[int] | None = None, skip: int = 0) -> Life:
    """The one life of container A that ``events`` tell, without the first ``skip``."""
    records = recorded([(container_stream(A), event) for event in events], times)
    [only] = trace(records[skip:]).lives
    return only


def shape(told: Life) -> list[tuple[str | None, int | None, int | None]]:
    return [(segment.phase and str(segment.phase), segment.start, segment.end) for segment in told.segments]


WHOLE = (
    Created(A, "web", SPEC),
    StartRequested(1),
    Started(1, PROCESS),
    StopRequested("SIGTERM", 10),
    Exited(1, 143, 39),
    Renamed("web", "old"),
    RemoveRequested(False),
    Removed("old"),
)


def test_a_whole_life_is_a_row_of_phases_without_a_gap() -> None:
    told = life(*WHOLE)
    assert shape(told) == [
        ("created", 10, 20),
        ("starting", 20, 30),
        ("running", 30, 40),
        ("stopping", 40, 50),
        ("stopped", 50, 70),
        ("removing", 70, 80),
    ]
    assert [segment.position for segment in told.segments] == [1, 2, 3, 4, 5, 7]
    assert told.names == (Name("web", 1, 10), Name("old", 6, 60))
    assert told.outcomes == (Outcome(1, 143, False, True, 5, 50),)
    assert (told.name, told.phase, told.changed) == ("old", Phase.DELETED, 8)
    assert (told.image, told.image_name, told.labels) == (SPEC.image, "app:1", {"tier": "front"})


def test_what_has_not_ended_is_open() -> None:
    told = life(*WHOLE[:3])
    assert told.segments[-1] == Segment(Phase.RUNNING, 3, 30, None)
    assert told.outcome is None


def test_a_start_that_failed_is_an_outcome_of_its_own_kind() -> None:
    told = life(*WHOLE[:2], StartFailed(1, 127, "no such file"), StartRequested(2))
    assert told.outcome == Outcome(1, 127, True, False, 3, 30)
    assert told.phase is Phase.STARTING


def test_an_exit_that_nobody_saw_stays_unknown() -> None:
    assert life(*WHOLE[:3], Exited(1, None, 0, "rebooted")).outcome == Outcome(1, None, False, False, 4, 40)


def test_certain_events_are_those_whose_outcome_does_not_depend_on_the_phase() -> None:
    """By the table itself: what is certain leads to one place, and what is left out does not."""
    kinds = {kind for row in LIFECYCLE.values() for kind in row}
    reached = {kind: {row[kind] for row in LIFECYCLE.values() if kind in row} for kind in kinds}
    assert {kind: {phase} for kind, phase in CERTAIN.items()} == {
        kind: phases for kind, phases in reached.items() if len(phases) == 1
    }
    assert kinds - CERTAIN.keys() == {Renamed, KillRequested, Exited, Rebased, Updated}


def test_a_log_without_its_beginning_tells_what_it_can() -> None:
    told = life(*WHOLE, skip=2)
    assert shape(told)[:3] == [(None, None, 30), ("running", 30, 40), ("stopping", 40, 50)]
    assert told.names == (Name("web", 0, None), Name("old", 6, 60))
    assert (told.image, told.labels) == ("", {})
    assert shape(life(*WHOLE, skip=4))[0] == (None, None, 70), "an exit alone may have been during a removal"
    assert life(*WHOLE, skip=4).outcome == Outcome(1, 143, False, False, 5, 50)
    assert shape(life(*WHOLE, skip=7)) == [(None, None, 80)]


def test_a_fold_goes_on_from_what_was_before() -> None:
    records = recorded([(container_stream(A), event) for event in WHOLE])
    views = MemoryViews()
    for record in records[:3]:
        project(record, views)
    state = views.get(CONTAINERS, A)
    assert state is not None
    idle = attrs.evolve(state, id=B, name="idle", created_at=5, phase=Phase.STOPPED, exit_code=3, finished_at=6)
    [first, told] = trace(records[3:], {A: state, B: idle}).lives
    assert first.container == B, "the older one"
    assert (first.segments, first.changed) == ((Segment(Phase.STOPPED, 0, None, None),), 0)
    assert first.outcome == Outcome(1, 3, False, True, 0, None)
    assert shape(told)[:2] == [("running", None, 40), ("stopping", 40, 50)]
    assert (told.names[0], told.image_name) == (Name("web", 0, None), "app:1")


def test_what_can_not_have_happened_changes_nothing() -> None:
    told = life(WHOLE[0], Started(1, PROCESS), WHOLE[0], WHOLE[1], StoreCreated("s", 1), Removed("web"))
    assert shape(told) == [("created", 10, 40), ("starting", 40, None)]
    assert told.name == "web"


def test_a_mark_for_each_record_in_order_and_none_when_they_are_not_wanted() -> None:
    records = recorded([("engine", StoreCreated("s", 1)), *((container_stream(A), event) for event in WHOLE)])
    told = trace(records)
    assert [mark.record for mark in told.marks] == records
    assert [mark.phase for mark in told.marks][:4] == [None, Phase.CREATED, Phase.STARTING, Phase.RUNNING]
    assert (told.first, told.last) == (10, 90)
    assert trace(records, marks=False) == attrs.evolve(told, marks=())


def test_nothing_is_a_timeline_too() -> None:
    assert trace([]) == Timeline((), (), 0, 0)


@pytest.mark.parametrize(
    ("times", "drawn"),
    [
        ([], []),
        ([1, 2, 2, 3], [1, 2, 2, 3]),
        ([1, 2, 0, 3, 4], [1, 2, 2, 3, 4]),  # one that was too early
        ([1, 2, 99, 3, 4], [1, 2, 3, 3, 4]),  # one that was too late
        ([10, 20, 30, 15, 40], [10, 20, 20, 20, 40]),
    ],
)
def test_a_wrong_clock_moves_only_what_it_stamped(times: list[int], drawn: list[int]) -> None:
    moved = steady(times)
    assert moved == sorted(moved)
    assert sum(abs(a - b) for a, b in zip(moved, times, strict=True)) == sum(
        abs(a - b) for a, b in zip(drawn, times, strict=True)
    )
    assert len(moved) == len(drawn)


@given(st.lists(st.integers(0, 4), max_size=5))
def test_drawn_times_are_the_closest_that_never_decrease(times: list[int]) -> None:
    """Against every non-decreasing sequence there is."""
    moved = steady(times)

    def distance(other: Sequence[int]) -> int:
        return sum(abs(a - b) for a, b in zip(other, times, strict=True))

    every = itertools.combinations_with_replacement(range(5), len(times))
    assert moved == sorted(moved)
    assert distance(moved) == min(map(distance, every))


def of_history(members: Sequence[tuple[Proposed, ...]], times: Sequence[int]) -> list[Record]:
    events = [(each.stream, each.event) for member in members for each in member]
    return recorded(events, [times[index % len(times)] for index in range(len(events))])


@pytest.mark.slow
@given(histories(), st.lists(st.integers(1, 1000), min_size=1, max_size=9), st.integers(0, 60))
def test_from_wherever_it_begins_it_ends_where_the_fold_ends(
    members: list[tuple[Proposed, ...]], times: list[int], cut: int
) -> None:
    """With what was before, the lives of any rest of a log are in the phases, and called, as the views say."""
    records = of_history(members, times)
    views = MemoryViews()
    for record in records[:cut]:
        project(record, views)
    before = {key: state for view, key, state in views.items() if view is CONTAINERS}
    told = trace(records[cut:], before)
    for record in records[cut:]:
        project(record, views)
    there = {
        key: (state.phase, state.name, state.spec.image) for v, key, state in views.items() if v is CONTAINERS
    }
    assert {
        each.container: (each.phase, each.name, each.image)
        for each in told.lives
        if each.phase is not Phase.DELETED
    } == there
    for each in told.lives:
        instants = [instant for segment in each.segments for instant in (segment.start, segment.end)]
        known = [instant for instant in instants if instant is not None]
        assert known == sorted(known)
        assert all(a.end == b.start for a, b in itertools.pairwise(each.segments))


@pytest.mark.slow
@given(histories(), st.lists(st.integers(1, 1000), min_size=1, max_size=9), st.integers(0, 60))
def test_without_what_was_before_nothing_is_told_that_is_not_so(
    members: list[tuple[Proposed, ...]], times: list[int], cut: int
) -> None:
    records = of_history(members, times)
    whole = trace(records)
    rest = trace(records[cut:])
    truth = {each.container: each for each in whole.lives}
    for each in rest.lives:
        assert each.phase in (None, truth[each.container].phase)
        assert each.name in ("", truth[each.container].name)
    for mark, real in zip(rest.marks, whole.marks[cut:], strict=True):
        assert mark.phase in (None, real.phase)


@given(st.lists(st.tuples(st.sampled_from((A, B)), st.one_of(*EVENTS.values()), container_ids), max_size=30))
def test_any_records_at_all_give_lives(events: list[tuple[str, Any, str]]) -> None:
    """A log that somebody has written into by hand is drawn as far as it makes sense, never refused."""
    told = trace(recorded([(container_stream(which), event) for which, event, _ in events]))
    assert len(told.marks) == len(events)
    assert all(each.segments or each.phase is Phase.DELETED for each in told.lives)
