"""Removing a container: the effect of ``RemoveRequested``, and its outcome.

Its own volumes go with it, if that is asked for: those that nobody named, and that no other container mounts. That
is an intent for each (``VolumeRemoveRequested``) in the same append as ``RemoveRequested``, so that nothing is
forgotten after a crash, and an outcome for each in the same append as ``Removed``.
"""

from __future__ import annotations

import os

from lading.engine.core import Caller, Core
from lading.engine.images.garbage import collect
from lading.engine.oci.bundle import clear_bundle
from lading.engine.volumes.volumes import volume_users
from lading.events.container import Removed, RemoveFailed
from lading.events.containerviews import VOLUMES
from lading.events.envelope import Proposed
from lading.events.errors import HostError
from lading.events.ids import container_stream
from lading.events.imageviews import SEALED
from lading.events.views import IMAGES
from lading.events.volume import VolumeRemoved, VolumeRemoveRequested, volume_stream

__all__ = ["own_volumes", "remove_container"]


def own_volumes(core: Core, container: str) -> list[Proposed]:
    """The intents to remove the volumes that go with ``container``, to be appended together with its removal's.

    To be called where nothing comes to use a volume meanwhile (``ContentGate.removing``).
    """
    mounts = core.settings(container).mounts
    names = {mount.source for mount in mounts if mount.kind == "volume" and mount.anonymous}
    if not names:
        return []
    users = volume_users(core.log, (container,))
    going = [name for name in sorted(names - users.keys()) if _is_there(core, name)]
    return [Proposed(volume_stream(name), VolumeRemoveRequested()) for name in going]


def _is_there(core: Core, name: str) -> bool:
    state = core.log.get(VOLUMES, name)
    return state is not None and not state.removing


def _going_volumes(core: Core, container: str) -> list[str]:
    """The volumes of ``container`` that the log wants gone."""
    names = {mount.source for mount in core.settings(container).mounts if mount.kind == "volume"}
    states = ((name, core.log.get(VOLUMES, name)) for name in sorted(names))
    return [name for name, state in states if state is not None and state.removing]


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
    volumes = _going_volumes(core, container)
    try:
        clear_bundle(core.paths, container)
        core.paths.discard(core.paths.container(container))
        for name in volumes:
            core.paths.discard(core.paths.volume(name))
    except (OSError, HostError) as error:
        failure = error if isinstance(error, HostError) else _host_error(core, container, error)
        await core.journal.append(
            [Proposed(stream, RemoveFailed(str(failure)))], actor=caller.actor, command=caller.command, cause=cause
        )
        core.removed(container)
        raise failure from error
    state = core.state(container)
    await core.journal.append(
        [
            Proposed(stream, Removed(state.name)),
            *(Proposed(volume_stream(name), VolumeRemoved()) for name in volumes),
        ],
        actor=caller.actor,
        command=caller.command,
        cause=cause,
    )
    core.trash.filled()
    core.removed(container)
    own = state.spec.layers and core.log.get(SEALED, state.spec.layers[-1]) is not None
    if own or core.log.get(IMAGES, state.spec.image) is None:  # it was their last user, perhaps
        core.nursery.start_soon(collect, core, caller)


def _host_error(core: Core, container: str, error: OSError) -> HostError:
    return HostError("remove", os.fspath(core.paths.container(container)), error.errno or 0, "remove it again")
