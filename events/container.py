"""The container's lifecycle.

Two rules hold the whole of it:

1. A container is in exactly one phase, and only an event listed for that phase in ``LIFECYCLE`` can change
   it. Nothing else in the project compares phases to decide what may happen; what is not in the table is
   refused, and a refused event changes nothing.
2. A decision is not an outcome. ``StartRequested`` says that somebody may start the container and that the
   engine will try; ``Started`` or ``StartFailed`` says what came of it. Between the two, after a crash, the
   log alone tells that something was under way, and recovery appends the outcome that is missing.

::

                    StartRequested          Started            StopRequested
          CREATED ----------------> STARTING -------> RUNNING ---------------> STOPPING
             |                       |  ^                |                        |
             |           StartFailed |  | StartRequested | Exited                 | Exited
             |                       v  |                v                        |
             |                      STOPPED <------------+------------------------+
             |                         |
             | RemoveRequested         | RemoveRequested (with force: from any phase that has a process, too)
             v                         v
          REMOVING ------------------------------> DELETED
             |  ^           Removed
RemoveFailed v  | RemoveRequested
            DEAD

The words users see are Docker's: ``status`` maps a state to them (a stopped container that never ran is
``created``; one that ran is ``exited``).
"""

from __future__ import annotations

import enum
from typing import TypeAlias, assert_never

import attrs

from lading.events.construct import constructor
from lading.events.errors import WrongPhase
from lading.events.ids import ContainerId
from lading.events.spec import ContainerSpec, ProcessId
from lading.events.upkeep import Configured, HealthChanged, Rebased, RestartCancelled, RestartScheduled, Updated

__all__ = [
    "LIFECYCLE",
    "LIVE",
    "Configured",
    "ContainerEvent",
    "ContainerState",
    "Created",
    "Exited",
    "HealthChanged",
    "KillRequested",
    "Paused",
    "Phase",
    "Rebased",
    "RemoveFailed",
    "RemoveRequested",
    "Removed",
    "Renamed",
    "RestartCancelled",
    "RestartScheduled",
    "StartFailed",
    "StartRequested",
    "Started",
    "StopRequested",
    "Unpaused",
    "Updated",
    "advance",
    "evolve",
    "status",
]


class Phase(enum.StrEnum):
    """Where a container is in its life."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    RESTARTING = "restarting"
    REMOVING = "removing"
    DEAD = "dead"
    DELETED = "deleted"


@attrs.frozen
class Created:
    """The container exists, with this recipe and name. Its writable layer is made at its first start."""

    container: ContainerId
    name: str
    spec: ContainerSpec


@attrs.frozen
class StartRequested:
    """Intent: run number ``run`` (from 1) will be tried."""

    run: int


@attrs.frozen
class Started:
    """Outcome: the container's command was executed as ``process``."""

    run: int
    process: ProcessId


@attrs.frozen
class StartFailed:
    """Outcome: the command was never executed. ``exit_code`` as in ``CannotStart``; ``why`` is for people."""

    run: int
    exit_code: int
    why: str


@attrs.frozen
class StopRequested:
    """Intent: ``signal`` now, SIGKILL after ``timeout`` seconds (negative: never)."""

    signal: str
    timeout: int


@attrs.frozen
class KillRequested:
    """Intent: ``signal`` is sent to the container's first process, nothing more."""

    signal: str


@attrs.frozen
class Exited:
    """Outcome: run ``run`` is over.

    ``exit_code``: 0 to 255, 128 + n for death by signal n, and None when nobody was there to see it: unknown
    is never told as 0. ``at``: when, nanoseconds UTC, by the clock of who saw it; 0 if nobody did. ``why``
    is empty for an exit that was seen, and says how the rest are known. ``oom``: the kernel killed a process of
    it for want of memory.
    """

    run: int
    exit_code: int | None
    at: int
    why: str = ""
    oom: bool = False


@attrs.frozen
class Paused:
    """Outcome: every process of it is frozen."""


@attrs.frozen
class Unpaused:
    """Outcome: its processes go on."""


@attrs.frozen
class Renamed:
    """The container's name changed from ``old`` to ``new``."""

    old: str
    new: str


@attrs.frozen
class RemoveRequested:
    """Intent: the container and its writable layer will go; with ``force``, its process is killed first."""

    force: bool


@attrs.frozen
class RemoveFailed:
    """Outcome: the container is not gone, for ``why``. Remove it again."""

    why: str


@attrs.frozen
class Removed:
    """Outcome: the container, its writable layer and its logs are gone. ``name`` is free again."""

    name: str


ContainerEvent: TypeAlias = (
    Created
    | StartRequested
    | Started
    | StartFailed
    | StopRequested
    | KillRequested
    | Exited
    | Paused
    | Unpaused
    | RestartScheduled
    | RestartCancelled
    | Configured
    | Updated
    | HealthChanged
    | Rebased
    | Renamed
    | RemoveRequested
    | RemoveFailed
    | Removed
)

LIFECYCLE: dict[Phase | None, dict[type[ContainerEvent], Phase]] = {
    None: {Created: Phase.CREATED},
    Phase.CREATED: {
        Configured: Phase.CREATED,
        StartRequested: Phase.STARTING,
        Rebased: Phase.CREATED,
        Updated: Phase.CREATED,
        Renamed: Phase.CREATED,
        RemoveRequested: Phase.REMOVING,
    },
    Phase.STARTING: {
        Started: Phase.RUNNING,
        StartFailed: Phase.STOPPED,
        Updated: Phase.STARTING,
        Renamed: Phase.STARTING,
    },
    Phase.RUNNING: {
        StopRequested: Phase.STOPPING,
        KillRequested: Phase.RUNNING,
        Exited: Phase.STOPPED,
        Paused: Phase.PAUSED,
        HealthChanged: Phase.RUNNING,
        Updated: Phase.RUNNING,
        Renamed: Phase.RUNNING,
        RemoveRequested: Phase.REMOVING,
    },
    Phase.PAUSED: {
        Unpaused: Phase.RUNNING,
        StopRequested: Phase.STOPPING,
        KillRequested: Phase.PAUSED,
        Exited: Phase.STOPPED,
        Updated: Phase.PAUSED,
        Renamed: Phase.PAUSED,
        RemoveRequested: Phase.REMOVING,
    },
    Phase.STOPPING: {
        StopRequested: Phase.STOPPING,
        KillRequested: Phase.STOPPING,
        Exited: Phase.STOPPED,
        Updated: Phase.STOPPING,
        Renamed: Phase.STOPPING,
        RemoveRequested: Phase.REMOVING,
    },
    Phase.STOPPED: {
        StartRequested: Phase.STARTING,
        RestartScheduled: Phase.RESTARTING,
        Rebased: Phase.STOPPED,
        Updated: Phase.STOPPED,
        Renamed: Phase.STOPPED,
        RemoveRequested: Phase.REMOVING,
    },
    Phase.RESTARTING: {
        StartRequested: Phase.STARTING,
        RestartCancelled: Phase.STOPPED,
        Updated: Phase.RESTARTING,
        Renamed: Phase.RESTARTING,
        RemoveRequested: Phase.REMOVING,
    },
    Phase.REMOVING: {
        Exited: Phase.REMOVING,
        Removed: Phase.DELETED,
        RemoveFailed: Phase.DEAD,
    },
    Phase.DEAD: {
        Exited: Phase.DEAD,
        RemoveRequested: Phase.REMOVING,
        Renamed: Phase.DEAD,
    },
    Phase.DELETED: {},
}

LIVE: frozenset[Phase] = frozenset({Phase.STARTING, Phase.RUNNING, Phase.PAUSED, Phase.STOPPING})
"""The phases in which the container has or may have a process; ``ContainerState.process`` is the fact."""


@attrs.frozen
class ContainerState:
    """A container as it is now: the fold of its stream.

    Times are nanoseconds UTC, 0 for never. ``run`` counts starts that were asked for. ``process`` is set
    while a run's process is believed alive. ``exit_code`` is the last run's (None: unknown, or never ran).
    """

    id: ContainerId
    name: str
    spec: ContainerSpec
    phase: Phase
    version: int
    created_at: int
    run: int = 0
    process: ProcessId | None = None
    started_at: int = 0
    finished_at: int = 0
    exit_code: int | None = None
    error: str = ""


_state = constructor(ContainerState)


def advance(phase: Phase | None, event: type[ContainerEvent]) -> Phase | None:
    """The phase after ``event`` in ``phase`` (None before the container exists), or None: not allowed."""
    return LIFECYCLE[phase].get(event)


def evolve(state: ContainerState | None, event: ContainerEvent, time: int) -> ContainerState:
    """The state after ``event``, recorded at ``time``. ``WrongPhase`` if the table doesn't have it."""
    phase = LIFECYCLE[None if state is None else state.phase].get(type(event))
    if phase is None:
        who, where = (state.id, str(state.phase)) if state else ("?", "absent")
        raise WrongPhase(who, where, f"record {type(event).__name__} for")
    if isinstance(event, Created):
        return _state(event.container, event.name, event.spec, phase, 1, time, 0, None, 0, 0, None, "")
    assert state is not None
    name, run, process = state.name, state.run, state.process
    spec = state.spec
    started_at, finished_at = state.started_at, state.finished_at
    exit_code, error = state.exit_code, state.error
    match event:
        case StartRequested():
            run, error = event.run, ""
        case Started():
            process, started_at, exit_code = event.process, time, None
        case StartFailed():
            exit_code, error = event.exit_code, event.why
        case Exited():
            process, exit_code, error = None, event.exit_code, event.why
            finished_at = event.at or time
        case Renamed():
            name = event.new
        case RemoveFailed():
            error = event.why
        case Rebased():
            spec = attrs.evolve(spec, layers=(*spec.layers, event.chain))
        case StopRequested() | KillRequested() | Paused() | Unpaused() | RemoveRequested() | Removed():
            pass
        case RestartScheduled() | RestartCancelled() | Configured() | Updated() | HealthChanged():
            pass
        case _:
            assert_never(event)
    return _state(
        state.id,
        name,
        spec,
        phase,
        state.version + 1,
        state.created_at,
        run,
        process,
        started_at,
        finished_at,
        exit_code,
        error,
    )


_STATUS = {
    Phase.CREATED: "created",
    Phase.STARTING: "created",
    Phase.RUNNING: "running",
    Phase.PAUSED: "paused",
    Phase.STOPPING: "running",
    Phase.STOPPED: "exited",
    Phase.RESTARTING: "restarting",
    Phase.REMOVING: "removing",
    Phase.DEAD: "dead",
    Phase.DELETED: "removing",
}


def status(state: ContainerState) -> str:
    """Docker's word for it: created, running, paused, restarting, exited, removing or dead."""
    word = _STATUS[state.phase]
    never_ran = state.started_at == 0
    return (
        "created" if word == "exited" and never_ran else "exited" if word == "created" and not never_ran else word
    )
