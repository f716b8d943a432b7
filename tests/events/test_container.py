"""The container's lifecycle: the whole product of phases and events, random walks, and Docker's words."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from histories import next_event
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from strategies import EVENTS, process_ids, texts, times

from lading.events.container import (
    LIFECYCLE,
    LIVE,
    Configured,
    ContainerState,
    Created,
    Exited,
    HealthChanged,
    KillRequested,
    Paused,
    Phase,
    Rebased,
    Removed,
    RemoveFailed,
    RemoveRequested,
    Renamed,
    RestartCancelled,
    RestartScheduled,
    Started,
    StartFailed,
    StartRequested,
    StopRequested,
    Unpaused,
    Updated,
    advance,
    evolve,
    status,
)
from lading.events.errors import WrongPhase
from lading.events.recovery import ExitSeen, Seen, recover
from lading.events.settings import ContainerSettings, Resources, RestartPolicy
from lading.events.spec import ContainerSpec, ProcessId

ARROWS = """
    absent    Created          created

    created   StartRequested   starting
    stopped   StartRequested   starting
    starting  Started          running
    starting  StartFailed      stopped

    running   StopRequested    stopping
    stopping  StopRequested    stopping
    running   KillRequested    running
    stopping  KillRequested    stopping
    paused    StopRequested    stopping
    paused    KillRequested    paused
    paused    Exited           stopped
    paused    RemoveRequested  removing
    paused    Renamed          paused
    running   Paused           paused
    paused    Unpaused         running

    stopped   RestartScheduled restarting
    restarting RestartCancelled stopped
    restarting StartRequested  starting
    restarting RemoveRequested removing
    restarting Renamed         restarting

    created   Configured       created
    running   HealthChanged    running
    created   Rebased          created
    stopped   Rebased          stopped
    created   Updated          created
    starting  Updated          starting
    running   Updated          running
    paused    Updated          paused
    stopping  Updated          stopping
    stopped   Updated          stopped
    restarting Updated         restarting

    running   Exited           stopped
    stopping  Exited           stopped
    removing  Exited           removing
    dead      Exited           dead

    created   RemoveRequested  removing
    running   RemoveRequested  removing
    stopping  RemoveRequested  removing
    stopped   RemoveRequested  removing
    dead      RemoveRequested  removing
    removing  RemoveFailed     dead
    removing  Removed          deleted

    created   Renamed          created
    starting  Renamed          starting
    running   Renamed          running
    stopping  Renamed          stopping
    stopped   Renamed          stopped
    dead      Renamed          dead
"""
EXPECTED = {
    (before, event): after for before, event, after in map(str.split, filter(str.strip, ARROWS.splitlines()))
}

ID = "c" * 64
SPEC = ContainerSpec(image="sha256:" + "a" * 64, image_name="app", layers=(), args=("sleep", "9"))
PROCESS = ProcessId("boot", 7, 70)
SAMPLES: list[Any] = [
    Created(ID, "web", SPEC),
    StartRequested(1),
    Started(1, PROCESS),
    StartFailed(1, 127, "no such file"),
    StopRequested("SIGTERM", 10),
    KillRequested("SIGHUP"),
    Exited(1, 0, 50),
    Paused(),
    Unpaused(),
    RestartScheduled(10**9, 1),
    RestartCancelled(),
    Configured(ContainerSettings()),
    Updated(Resources(), RestartPolicy()),
    HealthChanged(1, "healthy"),
    Rebased("sha256:" + "b" * 64),
    Renamed("web", "api"),
    RemoveRequested(False),
    RemoveFailed("busy"),
    Removed("web"),
]
CREATE, REQUEST, START, STOP, REMOVE = *SAMPLES[:3], SAMPLES[4], RemoveRequested(False)
PATHS: dict[Phase, list[Any]] = {
    Phase.CREATED: [CREATE],
    Phase.STARTING: [CREATE, REQUEST],
    Phase.RUNNING: [CREATE, REQUEST, START],
    Phase.STOPPING: [CREATE, REQUEST, START, STOP],
    Phase.STOPPED: [CREATE, REQUEST, START, Exited(1, 3, 50)],
    Phase.PAUSED: [CREATE, REQUEST, START, Paused()],
    Phase.RESTARTING: [CREATE, REQUEST, START, Exited(1, 3, 50), RestartScheduled(10**9, 1)],
    Phase.REMOVING: [CREATE, REMOVE],
    Phase.DEAD: [CREATE, REMOVE, RemoveFailed("busy")],
    Phase.DELETED: [CREATE, REMOVE, Removed("web")],
}


def fold(*events: Any, state: ContainerState | None = None) -> ContainerState:
    for time, event in enumerate(events, start=100):
        state = evolve(state, event, time)
    assert state is not None
    return state


def name_of(sample: Any) -> str:
    return type(sample).__name__ if attrs.has(type(sample)) else str(sample or "absent")


def test_samples_and_paths_are_complete() -> None:
    assert {type(sample) for sample in SAMPLES} == {kind for row in LIFECYCLE.values() for kind in row}
    assert PATHS.keys() == set(Phase)
    assert LIFECYCLE.keys() == {None, *Phase}


@pytest.mark.parametrize("event", SAMPLES, ids=name_of)
@pytest.mark.parametrize("phase", [None, *Phase], ids=name_of)
def test_every_phase_takes_exactly_the_events_of_the_diagram(phase: Phase | None, event: Any) -> None:
    """An arrow of the diagram leads where it says; anything else is refused and changes nothing."""
    after = EXPECTED.get((name_of(phase), name_of(event)))
    assert advance(phase, type(event)) == after
    before = None if phase is None else fold(*PATHS[phase])
    assert before is None or before.phase is phase
    if after is not None:
        now = evolve(before, event, 999)
        assert (now.phase, now.version) == (after, 1 if before is None else before.version + 1)
        return
    untouched = None if before is None else attrs.evolve(before)
    with pytest.raises(WrongPhase) as refused:
        evolve(before, event, 999)
    assert before == untouched
    assert (refused.value.container, refused.value.phase) == (
        ("?", "absent") if before is None else (ID, name_of(phase))
    )
    assert refused.value.command == f"record {name_of(event)} for"


def test_a_life_told_field_by_field() -> None:
    """Every event sets what it is about and leaves the rest alone."""
    made = evolve(None, CREATE, 100)
    assert made == ContainerState(ID, "web", SPEC, Phase.CREATED, 1, 100)
    asked = evolve(made, StartRequested(1), 101)
    assert asked == attrs.evolve(made, phase=Phase.STARTING, version=2, run=1)
    runs = evolve(asked, Started(1, PROCESS), 102)
    assert runs == attrs.evolve(asked, phase=Phase.RUNNING, version=3, process=PROCESS, started_at=102)
    signalled = evolve(runs, KillRequested("SIGHUP"), 103)
    assert signalled == attrs.evolve(runs, version=4)
    named = evolve(signalled, Renamed("web", "api"), 104)
    assert named == attrs.evolve(signalled, version=5, name="api")
    stopping = evolve(named, StopRequested("SIGTERM", 1), 105)
    assert stopping == attrs.evolve(named, version=6, phase=Phase.STOPPING)
    over = evolve(stopping, Exited(1, 143, 77, "why"), 106)
    assert over == attrs.evolve(
        stopping, version=7, phase=Phase.STOPPED, process=None, exit_code=143, finished_at=77, error="why"
    )
    again = evolve(over, StartRequested(2), 107)
    assert again == attrs.evolve(over, version=8, phase=Phase.STARTING, run=2, error="")
    failed = evolve(again, StartFailed(2, 127, "gone"), 108)
    assert failed == attrs.evolve(again, version=9, phase=Phase.STOPPED, exit_code=127, error="gone")
    going = evolve(failed, RemoveRequested(False), 109)
    assert going == attrs.evolve(failed, version=10, phase=Phase.REMOVING)
    stuck = evolve(going, RemoveFailed("busy"), 110)
    assert stuck == attrs.evolve(going, version=11, phase=Phase.DEAD, error="busy")
    gone = fold(RemoveRequested(True), Removed("api"), state=stuck)
    assert gone == attrs.evolve(stuck, version=13, phase=Phase.DELETED)


def test_unknown_exit_code_stays_unknown_and_its_time_is_the_records() -> None:
    """Nobody saw the end: the code is None, never 0, and the time is when that was recorded."""
    over = evolve(fold(*PATHS[Phase.RUNNING]), Exited(1, None, 0, "the machine was rebooted"), 500)
    assert over.exit_code is None
    assert over.finished_at == 500
    assert over.error == "the machine was rebooted"


def test_a_new_run_forgets_the_last_exit_code_once_it_has_started() -> None:
    asked = fold(StartRequested(2), state=fold(*PATHS[Phase.STOPPED]))
    assert asked.exit_code == 3
    assert evolve(asked, Started(2, PROCESS), 1).exit_code is None


@pytest.mark.parametrize(
    ("events", "word"),
    [
        ([CREATE], "created"),
        ([CREATE, REQUEST], "created"),
        ([CREATE, REQUEST, StartFailed(1, 127, "no")], "created"),
        ([CREATE, REQUEST, START], "running"),
        ([CREATE, REQUEST, START, STOP], "running"),
        ([CREATE, REQUEST, START, Exited(1, 0, 5)], "exited"),
        ([CREATE, REQUEST, START, Exited(1, 0, 5), StartRequested(2)], "exited"),
        ([CREATE, REQUEST, START, Exited(1, 0, 5), StartRequested(2), StartFailed(2, 127, "no")], "exited"),
        ([CREATE, REQUEST, START, Exited(1, 0, 5), StartRequested(2), Started(2, PROCESS)], "running"),
        ([CREATE, REMOVE], "removing"),
        ([CREATE, REQUEST, START, REMOVE], "removing"),
        ([CREATE, REMOVE, RemoveFailed("busy")], "dead"),
        ([CREATE, REMOVE, RemoveFailed("busy"), REMOVE], "removing"),
        ([CREATE, REMOVE, Removed("web")], "removing"),
    ],
)
def test_status_is_dockers_word(events: list[Any], word: str) -> None:
    assert status(fold(*events)) == word


def test_live_phases_are_those_that_have_or_may_get_a_process() -> None:
    having = {phase for phase, path in PATHS.items() if fold(*path).process is not None}
    assert having | {Phase.STARTING} == LIVE


class Walk(RuleBasedStateMachine):
    """Any sequence of allowed events, with what must hold after each, told by a second, simpler account."""

    def __init__(self) -> None:
        super().__init__()
        self.state: ContainerState | None = None
        self.events: list[Any] = []

    @rule(data=st.data(), time=times)
    def something_happens(self, data: st.DataObject, time: int) -> None:
        phase = self.state.phase if self.state else None
        kinds = [kind for kind in LIFECYCLE[phase] if kind is not Removed or data.draw(st.integers(0, 9)) == 0]
        if self.state is not None and self.state.process is not None:
            kinds = [kind for kind in kinds if kind is not Removed]  # whoever removes it ends it first
        if not kinds:
            return
        kind = data.draw(st.sampled_from(kinds))
        if self.state is None:
            event = data.draw(EVENTS[Created])
        else:
            event = next_event(data.draw, kind, self.state, ("one", "two"))
        before = attrs.asdict(self.state, recurse=False) if self.state else {}
        self.state, old = evolve(self.state, event, time), self.state
        self.events.append(event)
        assert old is None or attrs.asdict(old, recurse=False) == before

    @precondition(lambda self: self.state is not None)
    @rule(data=st.data(), time=times)
    def something_impossible_is_tried(self, data: st.DataObject, time: int) -> None:
        assert self.state is not None
        kind = data.draw(st.sampled_from([kind for kind in EVENTS if kind in dict.fromkeys(map(type, SAMPLES))]))
        if kind not in LIFECYCLE[self.state.phase]:
            with pytest.raises(WrongPhase):
                evolve(self.state, data.draw(EVENTS[kind]), time)

    @invariant()
    def version_counts_events(self) -> None:
        assert (self.state.version if self.state else 0) == len(self.events)

    @invariant()
    def the_recipe_never_changes_but_for_sealed_layers(self) -> None:
        if self.state:
            made = self.events[0]
            sealed = tuple(event.chain for event in self.events if isinstance(event, Rebased))
            spec = attrs.evolve(made.spec, layers=made.spec.layers + sealed)
            assert (self.state.id, self.state.spec) == (made.container, spec)

    @invariant()
    def run_counts_the_starts_that_were_asked_for(self) -> None:
        if self.state:
            assert self.state.run == sum(isinstance(event, StartRequested) for event in self.events)

    @invariant()
    def process_is_that_of_the_run_that_is_not_over(self) -> None:
        if self.state:
            edges = [event for event in self.events if isinstance(event, Started | Exited)]
            alive = edges[-1].process if edges and isinstance(edges[-1], Started) else None
            assert self.state.process == alive
            assert alive is None or Exited in LIFECYCLE[self.state.phase]
            assert self.state.phase not in (Phase.RUNNING, Phase.PAUSED, Phase.STOPPING) or alive is not None

    @invariant()
    def exit_code_is_what_was_seen(self) -> None:
        if self.state:
            ends = [event for event in self.events if isinstance(event, Started | StartFailed | Exited)]
            assert self.state.exit_code == (getattr(ends[-1], "exit_code", None) if ends else None)

    @invariant()
    def name_is_the_last_one_given(self) -> None:
        if self.state:
            given_names = [self.events[0].name, *(e.new for e in self.events if isinstance(e, Renamed))]
            assert self.state.name == given_names[-1]

    @invariant()
    def status_agrees_with_the_process(self) -> None:
        if self.state and self.state.phase not in (Phase.REMOVING, Phase.DEAD):
            assert (status(self.state) in ("running", "paused")) == (self.state.process is not None)


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestWalk.pytestmark = [pytest.mark.slow]


@st.composite
def states(draw: Any) -> ContainerState:
    """Any state that some sequence of allowed events leads to."""
    state = evolve(None, CREATE, 1)
    for _ in range(draw(st.integers(0, 8))):
        kinds = [kind for kind in LIFECYCLE[state.phase] if kind is not Removed]
        state = evolve(state, next_event(draw, draw(st.sampled_from(kinds)), state, ("one", "two")), draw(times))
    return state


@st.composite
def sightings(draw: Any, state: ContainerState) -> Seen:
    """Anything that may be found on the host, of this run, the one before or the one after."""
    runs = st.integers(max(0, state.run - 1), state.run + 1)
    boots = st.sampled_from(("boot", state.process.boot if state.process else "other"))
    seen = st.none() | st.builds(ExitSeen, run=runs, code=st.integers(0, 255), at=times, process=process_ids)
    return Seen(draw(boots), draw(runs), draw(st.none() | process_ids), draw(seen), draw(st.booleans()))


@pytest.mark.slow
@given(st.data())
@settings(max_examples=150)
def test_recovery_is_allowed_everywhere_and_done_after_once(data: st.DataObject) -> None:
    """From any reachable state what is recovered fits the table and the run, and recovering again gives none."""
    state = data.draw(states())
    seen = data.draw(sightings(state))
    for event in recover(state, seen):
        assert getattr(event, "run", 0) == state.run
        if isinstance(event, Exited) and event.exit_code is not None:
            assert seen.exit is not None
            assert (event.run, event.exit_code) == (seen.exit.run, seen.exit.code)
        state = evolve(state, event, 9)
    assert recover(state, seen) == ()


@pytest.mark.slow
@given(states())
@settings(max_examples=150)
def test_a_process_is_never_beyond_the_reach_of_its_exit(state: ContainerState) -> None:
    """Wherever the log says that a process is alive, it takes the record of its end."""
    if state.process is not None:
        over = evolve(state, Exited(state.run, 0, 1), 2)
        assert over.process is None


@given(texts)
def test_a_deleted_container_has_no_process(why: str) -> None:
    gone = fold(*PATHS[Phase.RUNNING], RemoveRequested(True), Exited(1, 137, 1, why), Removed("web"))
    assert gone.process is None
    assert gone.exit_code == 137
