"""Removing a container: the effect of ``RemoveRequested``, and its outcome."""

from __future__ import annotations

import os

from lading.engine.bundle import clear_bundle
from lading.engine.core import Caller, Core
from lading.engine.garbage import collect
from lading.events.container import Removed, RemoveFailed
from lading.events.envelope import Proposed
from lading.events.errors import HostError
from lading.events.ids import container_stream
from lading.events.views import IMAGES

__all__ = ["remove_container"]


async def remove_container(core: Core, container: str, caller: Caller, cause: int) -> None:
    """Carry out a removal that the log already asks for; the same at recovery as in normal running.

    The process is killed and its end recorded by its supervisor first. The directory is renamed into the
    trash before the outcome is recorded, and deleted behind it. Raises ``HostError`` after recording
    ``RemoveFailed``.
    """
    supervisor = core.live.get(container)
    if supervisor is not None:
        supervisor.kill()
        await supervisor.done.wait()
    stream = container_stream(container)
    try:
        clear_bundle(core.paths, container)
        core.paths.discard(core.paths.container(container))
    except (OSError, HostError) as error:
        failure = error if isinstance(error, HostError) else _host_error(core, container, error)
        await core.journal.append(
            [Proposed(stream, RemoveFailed(str(failure)))], actor=caller.actor, command=caller.command, cause=cause
        )
        core.removed(container)
        raise failure from error
    state = core.state(container)
    await core.journal.append(
        [Proposed(stream, Removed(state.name))], actor=caller.actor, command=caller.command, cause=cause
    )
    core.trash.filled()
    core.removed(container)
    if core.log.get(IMAGES, state.spec.image) is None:  # it was the image's last user, perhaps
        core.nursery.start_soon(collect, core, caller)


def _host_error(core: Core, container: str, error: OSError) -> HostError:
    return HostError("remove", os.fspath(core.paths.container(container)), error.errno or 0, "remove it again")
