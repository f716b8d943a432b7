"""Commands run inside a container that runs already (exec): their facts, and the table of their lives.

::

    None --ExecCreated--> CREATED --ExecRequested--> RUNNING --ExecExited--> (over)
                             |                                     ^
                             +-----------ExecExited----------------+   its container ended first

Each has a stream of its own, ``exec/<id>``, which keeps what became of it. The view has those that are not over.
An exec never outlives its container's run: the exits of all of them are in the log before the container's.
"""

from __future__ import annotations

import enum
from typing import NewType, TypeAlias, assert_never

import attrs

from lading.events.errors import WrongPhase
from lading.events.ids import ContainerId

__all__ = [
    "EXEC_LIFECYCLE",
    "ExecCreated",
    "ExecEvent",
    "ExecExited",
    "ExecId",
    "ExecPhase",
    "ExecRequested",
    "ExecSpec",
    "ExecState",
    "evolve_exec",
    "exec_stream",
]

ExecId = NewType("ExecId", str)
"""64 lower-case hexadecimal digits, drawn at random by the engine."""


class ExecPhase(enum.StrEnum):
    """Where an exec is in its life."""

    CREATED = "created"
    RUNNING = "running"


@attrs.frozen
class ExecSpec:
    """What is to run. ``env`` and ``working_dir`` are all there is: the container's own are merged in.

    ``user`` as given, empty for the container's. ``stdin``, ``stdout``, ``stderr``: what is attached;
    ``detach``: nobody waits for it. ``privileged``: with every capability.
    """

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    working_dir: str = "/"
    user: str = ""
    tty: bool = False
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    privileged: bool = False


@attrs.frozen
class ExecCreated:
    """It was asked for, in run ``run`` of ``container``, and has not started."""

    exec: ExecId
    container: ContainerId
    run: int
    spec: ExecSpec


@attrs.frozen
class ExecRequested:
    """Intent: it will be started."""


@attrs.frozen
class ExecExited:
    """Outcome: it is over, or never ran.

    ``exit_code``: 0 to 255, 128 + n for death by signal n, 126 or 127 when the command can't be executed, and
    None when nobody was there to see it. ``why`` is empty for an exit that was seen.
    """

    exit_code: int | None
    why: str = ""


ExecEvent: TypeAlias = ExecCreated | ExecRequested | ExecExited

EXEC_LIFECYCLE: dict[ExecPhase | None, dict[type[ExecEvent], ExecPhase | None]] = {
    None: {ExecCreated: ExecPhase.CREATED},
    ExecPhase.CREATED: {ExecRequested: ExecPhase.RUNNING, ExecExited: None},
    ExecPhase.RUNNING: {ExecExited: None},
}


@attrs.frozen
class ExecState:
    """An exec that is not over."""

    exec: ExecId
    container: ContainerId
    run: int
    spec: ExecSpec
    phase: ExecPhase
    created_at: int


def evolve_exec(state: ExecState | None, event: ExecEvent, time: int) -> ExecState | None:
    """The state after ``event``, recorded at ``time``; None: it is over. ``WrongPhase`` if the table hasn't it."""
    row = EXEC_LIFECYCLE[None if state is None else state.phase]
    if type(event) not in row:
        who, where = (state.exec, str(state.phase)) if state else ("?", "over, or was never there")
        raise WrongPhase(who, where, f"record {type(event).__name__} for")
    match event:
        case ExecCreated():
            return ExecState(event.exec, event.container, event.run, event.spec, ExecPhase.CREATED, time)
        case ExecRequested():
            assert state is not None
            return attrs.evolve(state, phase=ExecPhase.RUNNING)
        case ExecExited():
            return None
        case _:
            assert_never(event)


def exec_stream(exec_id: str) -> str:
    """The stream of an exec."""
    return f"exec/{exec_id}"
