"""Restarts: what follows a run that ended, and the wait until it does.

A restart is decided where the exit is recorded, in the same append, so that no crash can come between them. The
wait is a task of the engine's; the log has when it is over, and the next engine waits for the rest of it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from lading.engine.core import Core, new_caller
from lading.events.commands import StartContainer
from lading.events.container import ContainerEvent, ContainerState, Exited, Phase, StartFailed
from lading.events.errors import EngineClosed, NotFound, WrongPhase
from lading.events.ids import ContainerId
from lading.events.policy import after_exit
from lading.events.views import CONTAINERS, SETTINGS

if TYPE_CHECKING:
    from lading.engine.containers.containers import Containers

__all__ = ["follow_up", "restart_when_due"]


def follow_up(core: Core, state: ContainerState, end: Exited | StartFailed, why: str = "") -> list[ContainerEvent]:
    """What is to be recorded together with ``end``, given the ``state`` before it; nothing if it stays down.

    A start that fails is tried again only if it was a restart itself. ``why``: see ``events.policy.after_exit``.
    """
    settings = core.log.get(SETTINGS, state.id)
    if (settings is None and not why) or state.spec.auto_remove or state.phase is Phase.REMOVING:
        return []
    known = core.supervision(state.id)
    if isinstance(end, StartFailed) and not known.restarts:
        return []
    ran = (end.at or time.time_ns()) - state.started_at if isinstance(end, Exited) else 0
    restart = after_exit(core.settings(state.id).restart, known, end.exit_code, ran, why=why)
    return [] if restart is None else [restart]


async def restart_when_due(containers: Containers, container: ContainerId) -> None:
    """The task that waits for the restart that ``container`` has scheduled, and begins it.

    It ends without one when somebody starts, stops or removes the container before.
    """
    core = containers.core
    due = core.supervision(container).due
    await trio.sleep(max(due - time.time_ns(), 0) / 1e9)
    state = core.log.get(CONTAINERS, container)
    if state is None or state.phase is not Phase.RESTARTING or core.supervision(container).due != due:
        return
    try:
        await containers.begin(container, StartContainer(), new_caller("restart"))
    except (NotFound, WrongPhase, EngineClosed):
        return  # somebody was faster, or the next engine does it
