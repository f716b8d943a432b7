"""What may be asked of a container in which phase, and what is said when it may not."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from lading.events.commands import (
    CreateContainer,
    KillContainer,
    PauseContainer,
    RemoveContainer,
    RenameContainer,
    StartContainer,
    StopContainer,
    UnpauseContainer,
    UpdateContainer,
    decide,
)
from lading.events.container import (
    Configured,
    ContainerState,
    Created,
    KillRequested,
    Paused,
    Phase,
    RemoveRequested,
    Renamed,
    RestartCancelled,
    StartRequested,
    StopRequested,
    Unpaused,
    Updated,
    evolve,
)
from lading.events.errors import Invalid, WrongPhase
from lading.events.settings import ContainerSettings, Resources, RestartPolicy
from lading.events.spec import ContainerSpec, ProcessId

ID = "0123456789ab" + "f" * 52
SPEC = ContainerSpec("sha256:" + "a" * 64, "app", (), ("sleep",), stop_signal="SIGQUIT", stop_timeout=3)
PROCESS = ProcessId("boot", 7, 70)
RUNS = (Phase.RUNNING, Phase.PAUSED, Phase.STOPPING)


def state_in(phase: Phase) -> ContainerState:
    return ContainerState(ID, "web", SPEC, phase, 9, 1, run=4, process=PROCESS if phase in RUNS else None)


COMMANDS: dict[str, tuple[Any, str, Any]] = {
    "start": (StartContainer(), "created stopped restarting", StartRequested(5)),
    "stop": (StopContainer(), "running paused stopping", StopRequested("SIGQUIT", 3)),
    "kill": (KillContainer(), "running paused stopping", KillRequested("SIGKILL")),
    "pause": (PauseContainer(), "running", Paused()),
    "unpause": (UnpauseContainer(), "paused", Unpaused()),
    "update": (
        UpdateContainer(Resources(memory=2**25), RestartPolicy("always")),
        "created starting running paused stopping stopped restarting",
        Updated(Resources(memory=2**25), RestartPolicy("always")),
    ),
    "rename": (
        RenameContainer("api"),
        "created starting running paused stopping stopped restarting dead",
        Renamed("web", "api"),
    ),
    "remove": (RemoveContainer(), "created stopped dead", RemoveRequested(False)),
    "force": (
        RemoveContainer(force=True),
        "created running paused stopping stopped restarting dead",
        RemoveRequested(True),
    ),
}
HINTS = {
    "stop": "; it has no process to stop",
    "kill": "; it has no process to signal",
}


@pytest.mark.parametrize("word", COMMANDS)
@pytest.mark.parametrize("phase", Phase)
def test_every_phase_answers_every_command(phase: Phase, word: str) -> None:
    """The one intent it leads to, which the lifecycle takes; or a refusal that is the same when asked again."""
    command, phases, intent = COMMANDS[word]
    state = state_in(phase)
    before = attrs.evolve(state)
    if (phase, word) == (Phase.RESTARTING, "stop"):
        intent, phases = RestartCancelled(), "restarting"
    if phase in phases.split():
        assert decide(state, command) == (intent,)
        evolve(state, intent, 1)
        return
    verb = "remove" if word == "force" else word
    hint = HINTS.get(word, "")
    if word == "remove" and phase in (*RUNS, Phase.RESTARTING):
        hint = "; stop it first, or remove with force"
    for _ in range(2):
        with pytest.raises(WrongPhase) as refused:
            decide(state, command)
        assert (refused.value.container, refused.value.phase, refused.value.command) == (ID, phase, verb)
        assert str(refused.value) == f"cannot {verb} container 0123456789ab: it is {phase}{hint}"
    assert state == before


def test_removal_of_one_that_is_being_removed_with_its_process_is_refused() -> None:
    state = attrs.evolve(state_in(Phase.REMOVING), process=PROCESS)
    for force in (False, True):
        with pytest.raises(WrongPhase):
            decide(state, RemoveContainer(force))


@pytest.mark.parametrize("start", [False, True])
def test_create_gives_the_container_and_its_first_run_if_asked(start: bool) -> None:
    decided = decide(None, CreateContainer(ID, "web", SPEC, start))
    assert decided == (Created(ID, "web", SPEC), StartRequested(1))[: 2 if start else 1]
    other = ContainerSettings(tty=True)
    told = decide(None, CreateContainer(ID, "web", SPEC, start, other))
    assert told == (Created(ID, "web", SPEC), Configured(other), StartRequested(1))[: 3 if start else 2]
    state = None
    for event in decided:
        state = evolve(state, event, 1)
    assert state is not None
    assert state.run == (1 if start else 0)


@pytest.mark.parametrize("name", ["", "a", "-a", "a b", "a/b", "web\n", "é" * 2, "a" * 256])
def test_bad_names_are_invalid_before_anything_else(name: str) -> None:
    with pytest.raises(Invalid, match="invalid container name"):
        decide(None, CreateContainer(ID, name, SPEC))
    with pytest.raises(Invalid, match="invalid container name"):
        decide(state_in(Phase.DELETED), RenameContainer(name))


def test_rename_to_the_same_name_is_refused() -> None:
    with pytest.raises(WrongPhase) as refused:
        decide(state_in(Phase.RUNNING), RenameContainer("web"))
    assert str(refused.value) == (
        "cannot rename container 0123456789ab: it is already named web; choose another name"
    )


@pytest.mark.parametrize(
    ("command", "intent"),
    [
        (StopContainer(timeout=0), StopRequested("SIGQUIT", 0)),
        (StopContainer(timeout=-1), StopRequested("SIGQUIT", -1)),
        (StopContainer(signal="hup"), StopRequested("SIGHUP", 3)),
        (StopContainer(timeout=60, signal="9"), StopRequested("SIGKILL", 60)),
        (KillContainer("USR1"), KillRequested("SIGUSR1")),
        (KillContainer("RTMIN+3"), KillRequested("37")),
    ],
)
def test_what_is_asked_goes_before_the_containers_own(command: Any, intent: Any) -> None:
    """A timeout of 0 is a timeout; signals are recorded by their canonical names."""
    assert decide(state_in(Phase.RUNNING), command) == (intent,)


@pytest.mark.parametrize("command", [StopContainer(signal="SIGNONE"), KillContainer("65"), KillContainer("0")])
def test_unknown_signals_are_invalid(command: Any) -> None:
    with pytest.raises(Invalid, match="invalid signal"):
        decide(state_in(Phase.RUNNING), command)
