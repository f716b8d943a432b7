"""Pausing a container and letting it go on: the effect first, then its record.

The kernel does either in a moment, so there is no intent, and a cancel comes before or after. After a crash
between the two, the next opening lets a container go on that was not recorded as paused yet (``engine/freezing``),
and records that one goes on which was let go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from lading.engine.containers.freezer import freeze, is_frozen, thaw
from lading.engine.core import Caller
from lading.events.commands import PauseContainer, UnpauseContainer, decide
from lading.events.container import ContainerEvent, ContainerState, Phase, Unpaused
from lading.events.ids import ContainerId
from lading.storage.store import Paths

if TYPE_CHECKING:
    from lading.engine.containers.containers import Containers

__all__ = ["found_running", "pause", "unpause"]


async def pause(containers: Containers, container: ContainerId, caller: Caller) -> None:
    """Freeze ``container`` and record it. Raises ``WrongPhase`` or ``HostError``, and then it is not frozen."""
    core = containers.core
    async with core.pausing:
        decide(core.state(container), PauseContainer())
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(freeze, core.paths, container)
            try:
                await containers.command(container, PauseContainer(), caller)
            except BaseException:
                thaw(core.paths, container)
                raise


async def unpause(containers: Containers, container: ContainerId, caller: Caller) -> None:
    """Let ``container`` go on and record it. Raises ``WrongPhase`` or ``HostError``."""
    core = containers.core
    async with core.pausing:
        decide(core.state(container), UnpauseContainer())
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(thaw, core.paths, container)
            await containers.command(container, UnpauseContainer(), caller)


def found_running(paths: Paths, state: ContainerState) -> list[ContainerEvent]:
    """What is to be recorded of a container that the log has as paused, and that runs."""
    if state.phase is Phase.PAUSED and not is_frozen(paths, state.id):
        return [Unpaused()]
    return []
