"""Making a layer of what a container wrote: without copying anything of one that doesn't run
(``storage/sealing``).

The layer's digest is not known then, nor that of anything above it: both are drawn at random, until somebody needs
the real ones (``engine/resolving``).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import attrs
import trio

from lading.engine.core import Caller, Core
from lading.events.container import ContainerState, Rebased
from lading.events.envelope import Proposed, Record
from lading.events.errors import AlreadyExists, EngineClosed, LadingError, StoreBroken
from lading.events.ids import ChainId, Digest, chain_id, container_stream, layer_stream
from lading.events.image import LayerAdded, LayerSealed
from lading.events.views import CONTAINERS, GOING, LAYERS
from lading.storage.sealing import place_copy, put_back, seal, stranded
from lading.storage.trees import Usage

__all__ = ["Sealed", "draw_layer", "put_back_stranded", "seal_copy", "seal_writable"]


@attrs.frozen
class Sealed:
    """A layer with a digest drawn at random."""

    chain: ChainId
    diff_id: Digest


def draw_layer(state: ContainerState) -> Sealed:
    """A new name for what the container wrote, on top of its layers."""
    diff = Digest(f"sha256:{secrets.token_hex(32)}")
    return Sealed(chain_id(state.spec.layers[-1] if state.spec.layers else None, diff), diff)


async def seal_writable(
    core: Core,
    state: ContainerState,
    layer: Sealed,
    more: Callable[[], Sequence[Proposed]],
    caller: Caller,
    *,
    retry: bool = False,
) -> tuple[Record, ...]:
    """Make the writable layer of the container, which has one and doesn't run, the layer ``layer``; the container
    goes on on top of it.

    To be called shielded, while the container is held alone and nothing is removed (``ContentGate.using``). One
    append has all of it and the events that ``more`` gives, which is asked again, with ``retry``, after
    ``AlreadyExists``. Raises ``HostError``, and ``Refused`` if the container changed meanwhile: with everything as
    it was. A crash leaves either all of it, or a layer that no record names, which is put back.
    """
    unsynced = state.spec.auto_remove or core.holds.is_read(state.id)
    usage = await trio.to_thread.run_sync(partial(seal, core.paths, state.id, layer.chain, sync=unsynced))
    try:
        rebased = Proposed(container_stream(state.id), Rebased(layer.chain), state.version)
        return await _append(core, lambda: [*_added(core, state, layer, usage), rebased, *more()], caller, retry)
    except (StoreBroken, EngineClosed):
        raise  # whether it is in the log, the next opening sees
    except LadingError:
        await trio.to_thread.run_sync(put_back, core.paths, state.id, layer.chain)
        raise


async def seal_copy(
    core: Core,
    state: ContainerState,
    layer: Sealed,
    staging: Path,
    more: Callable[[], Sequence[Proposed]],
    caller: Caller,
    *,
    retry: bool = False,
) -> tuple[Record, ...]:
    """As ``seal_writable``, with ``staging``, a copy of what is in the writable layer, which stays what it is.

    Raises as it does; ``staging`` is for the caller to remove then. A crash leaves what no record names.
    """
    usage = await trio.to_thread.run_sync(place_copy, core.paths, staging, layer.chain)
    try:
        return await _append(core, lambda: [*_added(core, state, layer, usage), *more()], caller, retry)
    except (StoreBroken, EngineClosed):
        raise
    except LadingError:
        core.paths.discard(core.paths.layer(layer.chain))
        raise


async def _append(
    core: Core, events: Callable[[], list[Proposed]], caller: Caller, retry: bool
) -> tuple[Record, ...]:
    while True:
        try:
            return await core.journal.append(events(), actor=caller.actor, command=caller.command)
        except AlreadyExists:
            if not retry:
                raise


def _added(core: Core, state: ContainerState, layer: Sealed, usage: Usage) -> list[Proposed]:
    stream = layer_stream(layer.chain)
    parent = state.spec.layers[-1] if state.spec.layers else ""
    added = LayerAdded(layer.chain, layer.diff_id, parent, 0, usage.disk_bytes, usage.inodes, False)
    return [
        Proposed(stream, added, core.log.version(stream)),
        Proposed(stream, LayerSealed(layer.chain, state.id)),
    ]


def put_back_stranded(core: Core) -> None:
    """What a crash left between the renaming of a writable layer and its record: it is the writable layer again.

    To be called before what no record names is deleted. Raises ``HostError``.
    """
    known = {chain for chain, _ in core.log.scan(LAYERS)} | {chain for chain, _ in core.log.scan(GOING)}
    for chain, container in stranded(core.paths, known):
        if core.log.get(CONTAINERS, container) is not None:
            put_back(core.paths, container, chain)
