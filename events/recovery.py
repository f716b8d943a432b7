"""What the log is missing after the engine was gone: a pure function of the folded state and what is seen.

The engine may have died between any intent and its outcome, the keeper may have died with it, the machine
may have been rebooted. ``recover`` gives the outcomes that are missing, which are exactly those that normal
running would have recorded, or says that they are unknown. Folding them in and recovering again gives none.
"""

from __future__ import annotations

import attrs

from lading.events.container import ContainerEvent, ContainerState, Exited, Phase, Started, StartFailed
from lading.events.spec import ProcessId

__all__ = ["ExitSeen", "Seen", "recover"]


@attrs.frozen
class ExitSeen:
    """An exit that the keeper saw: of run ``run``, with ``code``, at ``at`` (nanoseconds UTC); ``Exited.oom``."""

    run: int
    code: int
    at: int
    process: ProcessId
    oom: bool = False


@attrs.frozen
class Seen:
    """What is found on the host for one container.

    ``boot`` is this boot's identity. ``kept``: the process that the keeper has for run ``kept_run`` (None:
    it has none, or that one has not started yet). ``exit``: an exit record, from the keeper or from disk.
    ``alive``: the process that the log names still runs.
    """

    boot: str
    kept_run: int = 0
    kept: ProcessId | None = None
    exit: ExitSeen | None = None
    alive: bool = False


def recover(state: ContainerState, seen: Seen) -> tuple[ContainerEvent, ...]:
    """The outcomes that are missing from ``state``'s stream, given what was ``seen``; empty if none is.

    A run that the keeper still has is left to go on: its supervisor records what comes. A process that runs
    without a keeper has lost its output and its exit status; the caller ends it, and it is told as unknown.
    """
    if state.phase is Phase.STARTING:
        return _finish_start(state, seen)
    if state.process is None:
        return ()
    return _finish_run(state.run, state.process, seen)


def _finish_start(state: ContainerState, seen: Seen) -> tuple[ContainerEvent, ...]:
    if seen.exit is not None and seen.exit.run == state.run:
        return (
            Started(state.run, seen.exit.process),
            Exited(state.run, seen.exit.code, seen.exit.at, oom=seen.exit.oom),
        )
    if seen.kept_run == state.run:
        return () if seen.kept is None else (Started(state.run, seen.kept),)
    return (StartFailed(state.run, 125, "the engine ended before it could start it; start it again"),)


def _finish_run(run: int, process: ProcessId, seen: Seen) -> tuple[ContainerEvent, ...]:
    if seen.exit is not None and seen.exit.run == run:
        return (Exited(run, seen.exit.code, seen.exit.at, oom=seen.exit.oom),)
    if seen.kept_run == run and seen.kept is not None:
        return ()
    if process.boot != seen.boot:
        return (Exited(run, None, 0, "the machine was rebooted; its exit status is unknown"),)
    if seen.alive:
        return (Exited(run, None, 0, "its keeper was gone, so it was killed; its exit status is unknown"),)
    return (Exited(run, None, 0, "it ended while no keeper was there; its exit status is unknown"),)
