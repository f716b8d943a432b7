"""What callers may ask of a container, and what the engine decides to do about it.

``decide`` is pure: state and command in, intent events out, or a refusal that changes nothing. Whether a
phase allows an intent is read from the lifecycle table, so that there is one place to look.
"""

from __future__ import annotations

from typing import TypeAlias, assert_never

import attrs

from lading.events.container import (
    Configured,
    ContainerEvent,
    ContainerState,
    Created,
    KillRequested,
    Paused,
    RemoveRequested,
    Renamed,
    RestartCancelled,
    StartRequested,
    StopRequested,
    Unpaused,
    Updated,
    advance,
)
from lading.events.errors import WrongPhase
from lading.events.ids import ContainerId, check_container_name
from lading.events.settings import ContainerSettings, Resources, RestartPolicy
from lading.events.signals import check_signal
from lading.events.spec import ContainerSpec

__all__ = [
    "Command",
    "CreateContainer",
    "KillContainer",
    "PauseContainer",
    "RemoveContainer",
    "RenameContainer",
    "StartContainer",
    "StopContainer",
    "UnpauseContainer",
    "UpdateContainer",
    "decide",
]


_USUAL = ContainerSettings()


@attrs.frozen
class CreateContainer:
    """Make a container called ``name`` from ``spec``; ``start`` asks for its first run as well.

    ``settings``: if they are not the usual ones.
    """

    container: ContainerId
    name: str
    spec: ContainerSpec
    start: bool = False
    settings: ContainerSettings = _USUAL


@attrs.frozen
class StartContainer:
    """Run it (again)."""


@attrs.frozen
class StopContainer:
    """Send ``signal`` (None: the container's own), then SIGKILL after ``timeout`` seconds (None: its own)."""

    timeout: int | None = None
    signal: str | None = None


@attrs.frozen
class KillContainer:
    """Send ``signal`` to the first process."""

    signal: str = "SIGKILL"


@attrs.frozen
class PauseContainer:
    """Its processes have been frozen: say so. Asked before the effect, too, to hear whether it is allowed."""


@attrs.frozen
class UnpauseContainer:
    """Its processes go on: say so."""


@attrs.frozen
class UpdateContainer:
    """Other limits, and another restart policy."""

    resources: Resources
    restart: RestartPolicy


@attrs.frozen
class RenameContainer:
    """Give it another name."""

    name: str


@attrs.frozen
class RemoveContainer:
    """Delete it; ``force`` kills its process first."""

    force: bool = False


Command: TypeAlias = (
    CreateContainer
    | StartContainer
    | StopContainer
    | KillContainer
    | PauseContainer
    | UnpauseContainer
    | UpdateContainer
    | RenameContainer
    | RemoveContainer
)


def decide(state: ContainerState | None, command: Command) -> tuple[ContainerEvent, ...]:
    """The intents that ``command`` leads to in ``state`` (None: the container doesn't exist yet).

    Raises ``WrongPhase`` or ``Invalid``. Only ``CreateContainer`` takes a state of None.
    """
    if isinstance(command, CreateContainer):
        created = Created(command.container, check_container_name(command.name), command.spec)
        configured = (Configured(command.settings),) if command.settings != _USUAL else ()
        return (created, *configured, StartRequested(1)) if command.start else (created, *configured)
    assert state is not None
    match command:
        case StartContainer():
            return (_allowed(state, StartRequested(state.run + 1), "start"),)
        case StopContainer():
            signal = check_signal(command.signal or state.spec.stop_signal)
            if advance(state.phase, RestartCancelled) is not None:
                return (RestartCancelled(),)
            timeout = state.spec.stop_timeout if command.timeout is None else command.timeout
            return (_allowed(state, StopRequested(signal, timeout), "stop", "it has no process to stop"),)
        case KillContainer():
            signal = check_signal(command.signal)
            return (_allowed(state, KillRequested(signal), "kill", "it has no process to signal"),)
        case PauseContainer():
            return (_allowed(state, Paused(), "pause"),)
        case UnpauseContainer():
            return (_allowed(state, Unpaused(), "unpause"),)
        case UpdateContainer():
            return (_allowed(state, Updated(command.resources, command.restart), "update"),)
        case RenameContainer():
            new = check_container_name(command.name)
            if new == state.name:
                raise WrongPhase(state.id, f"already named {new}", "rename", "choose another name")
            return (_allowed(state, Renamed(state.name, new), "rename"),)
        case RemoveContainer():
            restarts = advance(state.phase, RestartCancelled) is not None
            if (state.process is not None or restarts) and not command.force:
                raise WrongPhase(state.id, str(state.phase), "remove", "stop it first, or remove with force")
            return (_allowed(state, RemoveRequested(command.force), "remove"),)
        case _:
            assert_never(command)


def _allowed(state: ContainerState, event: ContainerEvent, verb: str, hint: str = "") -> ContainerEvent:
    if advance(state.phase, type(event)) is None:
        raise WrongPhase(state.id, str(state.phase), verb, hint)
    return event
