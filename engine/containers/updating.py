"""Changing the limits and the restart policy of a container that is there: the kernel first, then the record."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from lading.engine.containers.hostchecks import check_host_resources
from lading.engine.core import Caller
from lading.engine.oci.limits import apply_resources
from lading.events.commands import UpdateContainer, decide
from lading.events.errors import HostError, Invalid
from lading.events.ids import ContainerId
from lading.events.limits import check_resources
from lading.events.settings import Resources, RestartPolicy

if TYPE_CHECKING:
    from lading.engine.containers.containers import Containers

__all__ = ["update"]


async def update(
    containers: Containers,
    container: ContainerId,
    resources: Resources | None,
    restart: RestartPolicy | None,
    caller: Caller,
) -> None:
    """Carry out what ``Container.update`` promises.

    A crash between the kernel and the record leaves a container with limits that it has until it ends.
    """
    core = containers.core
    supervisor = await containers.supervisor(container)
    known = core.settings(container)
    command = UpdateContainer(resources or known.resources, restart or known.restart)
    state = core.state(container)
    decide(state, command)
    if command.restart.name != "no" and state.spec.auto_remove:
        raise Invalid("restart policy", command.restart.name, "the container is removed when it ends")
    changed = command.resources != known.resources
    if changed:
        check_resources(command.resources)
        check_host_resources(command.resources)
    with trio.CancelScope(shield=True):
        live = changed and supervisor is not None
        if live:
            await trio.to_thread.run_sync(
                apply_resources, core.paths, container, command.resources, known.resources
            )
        try:
            await containers.command(container, command, caller)
        except BaseException:
            if live:
                with suppress(HostError):  # it has ended
                    apply_resources(core.paths, container, known.resources, command.resources)
            raise
