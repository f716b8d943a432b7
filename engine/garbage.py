"""What nothing uses any more: worked out over the log's views, then removed in four steps.

A layer is used by the images that have it, by the containers that were made on it, and by leases; and whatever
uses a layer uses all below it. A blob is used as an image's config, as a layer's archive, as a manifest, or by a
name that has its digest. Removing is an intent in the log, a rename into the trash, the outcome in the log, and
then the deletion, which nobody waits for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import attrs
import trio

from lading.engine.core import Caller, Core
from lading.events.envelope import Proposed
from lading.events.ids import ChainId, layer_stream
from lading.events.image import LayerRemoved, LayerRemoveRequested, LayerState
from lading.events.views import ARCHIVES, CONTAINERS, GOING, IMAGES, LAYERS, LEASES, MANIFESTS, TAGS, Reader
from lading.storage.store import Paths

__all__ = ["Reach", "collect", "finish_removals", "reach", "remove_unreached", "unreached"]


@attrs.frozen
class Reach:
    """What is used: layers by chain id, blobs by digest."""

    layers: frozenset[str]
    blobs: frozenset[str]


def reach(reader: Reader, without: Iterable[str] = ()) -> Reach:
    """What the views reach; ``without``: as if the images with these ids weren't there."""
    left_out = frozenset(without)
    layers: set[str] = set()
    blobs: set[str] = set()
    for image, state in reader.scan(IMAGES):
        if image not in left_out:
            layers.update(state.layers)
            blobs.add(image)
    for image, manifests in reader.scan(MANIFESTS):
        if image not in left_out:
            blobs.update(manifests.digests)
    for name, tag in reader.scan(TAGS):
        digest = name.partition("@")[2]
        if digest and tag.image not in left_out:
            blobs.add(digest)
    for _, container in reader.scan(CONTAINERS):
        layers.update(container.spec.layers)
    known = dict(reader.scan(LAYERS))
    for _, lease in reader.scan(LEASES):
        for top in lease.layers:
            layers.update(_with_lower(top, known))
    for chain, archive in reader.scan(ARCHIVES):
        if archive.blob and chain in layers:
            blobs.add(archive.blob)
    return Reach(frozenset(layers), frozenset(blobs))


def _with_lower(top: str, known: dict[str, LayerState]) -> list[str]:
    """The layer ``top`` and every one below it."""
    found, chain = [], top
    while chain:
        found.append(chain)
        chain = known[chain].parent if chain in known else ""
    return found


def unreached(reader: Reader, reached: Reach) -> list[LayerState]:
    """The layers that ``reached`` leaves out, those on top before those below them."""
    left = {chain: layer for chain, layer in reader.scan(LAYERS) if chain not in reached.layers}
    depth: dict[str, int] = {}
    for chain in left:
        depth[chain] = len(_with_lower(chain, left))
    return sorted(left.values(), key=lambda layer: (-depth[layer.chain], layer.chain))


async def remove_unreached(core: Core, caller: Caller, before: Sequence[Proposed] = ()) -> list[ChainId]:
    """Append ``before`` (what makes things unreachable) and remove every layer and blob that nothing reaches then.

    To be called where nothing is made meanwhile (``ContentGate.removing``), and shielded. Returns the chain ids of
    the layers, the top ones first. A crash leaves intents, which the next opening carries out.
    """
    if before:
        await core.journal.append(before, actor=caller.actor, command=caller.command, once=caller.once)
    reached = reach(core.log)
    chains = [layer.chain for layer in unreached(core.log, reached)]
    if chains:
        intents = [Proposed(layer_stream(chain), LayerRemoveRequested(chain)) for chain in chains]
        await core.journal.append(intents, actor=caller.actor, command=caller.command)
    await _discard(core, caller, chains, reached)
    return chains


async def collect(core: Core, caller: Caller) -> None:
    """Remove what nothing reaches any more, when nothing is made. Carried out once it has begun."""
    async with core.content.removing():
        with trio.CancelScope(shield=True):
            await remove_unreached(core, caller)


async def finish_removals(core: Core, caller: Caller) -> None:
    """What a crash left: removals that the log asks for, and layers and blobs that nothing reaches."""
    going = [ChainId(chain) for chain, _ in core.log.scan(GOING)]
    if going:
        await _discard(core, caller, going, reach(core.log))
    await remove_unreached(core, caller)


async def _discard(core: Core, caller: Caller, chains: Sequence[ChainId], reached: Reach) -> None:
    known = frozenset(chain for chain, _ in core.log.scan(LAYERS))
    await trio.to_thread.run_sync(_to_trash, core.paths, known, reached.blobs)
    if chains:
        outcomes = [Proposed(layer_stream(chain), LayerRemoved(chain)) for chain in chains]
        await core.journal.append(outcomes, actor=caller.actor, command=caller.command)
    core.trash.filled()


def _to_trash(paths: Paths, layers: frozenset[str], blobs: frozenset[str]) -> None:
    """All but ``layers`` and ``blobs``: also what was put in place for an append that then failed."""
    for directory, kept in ((paths.layers, layers), (paths.splits, layers), (paths.blobs, blobs)):
        names = {digest.removeprefix("sha256:") for digest in kept}
        for name in os.listdir(directory):
            if name not in names:
                paths.discard(directory / name)
