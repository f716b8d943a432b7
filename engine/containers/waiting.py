"""Waiting for what becomes of a container: the end of a run, or its own."""

from __future__ import annotations

from typing import Literal

from lading.engine.containers.supervisor import Supervisor
from lading.engine.core import Core
from lading.events.container import LIVE, ContainerState, Exited, StartFailed
from lading.events.ids import container_stream
from lading.events.views import CONTAINERS

__all__ = ["WaitCondition", "exit_since", "is_live", "next_run", "wait_begun", "wait_removed", "wait_run"]

WaitCondition = Literal["not-running", "next-exit", "removed"]

Exit = tuple[int | None, str]
"""The exit code, None for unknown, and an error text."""


async def wait_run(core: Core, state: ContainerState) -> int | None:
    """The exit code of the run that is under way in ``state``, or else of the next one, once that is over."""
    run = next_run(state)
    supervisor = await wait_begun(core, state.id, run)
    if supervisor is not None:
        await supervisor.ended.wait()
    return exit_since(core, state, run)[0]


async def wait_removed(core: Core, state: ContainerState) -> int | None:
    """The exit code of the last run once the container is gone, or could not be removed."""
    await core.wait_removed(state.id)
    return exit_since(core, state)[0]


def next_run(state: ContainerState) -> int:
    """The number of the run that is under way, or else of the next one."""
    return state.run if is_live(state) else state.run + 1


async def wait_begun(core: Core, container: str, run: int) -> Supervisor | None:
    """Wait until the start of run number ``run`` has its outcome: its supervisor, or None when it is over already.

    None, too, when the container is removed. Raises ``EngineClosed`` when the engine closes first.
    """
    while True:
        position = core.journal.position
        supervisor = core.live.get(container)
        if supervisor is not None and supervisor.run_number >= run:
            await supervisor.begun.wait()
            return supervisor
        state = core.log.get(CONTAINERS, container)
        if state is None or (state.run >= run and state.phase not in LIVE):
            return None
        await core.journal.wait_past(position)


def is_live(state: ContainerState) -> bool:
    """Whether it has, or may have, a process."""
    return state.phase in LIVE or state.process is not None


def exit_since(core: Core, state: ContainerState, run: int = 0) -> Exit:
    """How run number ``run`` ended, a start that failed included; or else how the last one did.

    Read from the container's stream from ``state`` on, which outlives the container.
    """
    code, why = state.exit_code, state.error
    if state.started_at == 0 and code is None:
        code = 0
    version = state.version
    while page := core.log.read_stream(container_stream(state.id), version):
        for record in page:
            if isinstance(record.event, Exited | StartFailed):
                code, why = record.event.exit_code, record.event.why
                if record.event.run == run:
                    return code, why
        version = page[-1].version
    return code, why
