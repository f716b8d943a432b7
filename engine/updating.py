"""Changing the limits and the restart policy of a container that is there: the kernel first, then the record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from lading.engine.core import Caller
from lading.events.commands import UpdateContainer, decide
from lading.events.errors import Invalid
from lading.events.ids import ContainerId
from lading.events.settings import Resources, RestartPolicy

if TYPE_CHECKING:
    from lading.engine.containers import Containers

__all__ = ["update"]


async def update(
    containers: Containers,
    container: ContainerId,
    resources: Resources | None,
    restart: RestartPolicy | None,
    caller: Caller,
) -> None:
    """Carry out what ``Container.update`` promises.

    Limits are those of its next start.
    """
    core = containers.core
    supervisor = await containers.supervisor(container)
    known = core.settings(container)
    command = UpdateContainer(resources or known.resources, restart or known.restart)
    state = core.state(container)
    decide(state, command)
    if command.restart.name != "no" and state.spec.auto_remove:
        raise Invalid("restart policy", command.restart.name, "the container is removed when it ends")
    if supervisor is not None and command.resources != known.resources:
        raise Invalid("resources", container, "a running container keeps its limits; stop it first")
    with trio.CancelScope(shield=True):
        await containers.command(container, command, caller)
