"""Removing what nothing uses any more (``events/reach``), in four steps.

An intent in the log, a rename into the trash, the outcome in the log, and then the deletion, which nobody waits
for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import trio

from lading.engine.core import Caller, Core
from lading.events.envelope import Proposed
from lading.events.ids import ChainId, layer_stream
from lading.events.image import LayerRemoved, LayerRemoveRequested
from lading.events.reach import Reach, reach, unreached
from lading.events.views import GOING, LAYERS
from lading.storage.store import Paths

__all__ = ["collect", "finish_removals", "remove_unreached"]


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
    """Remove the layers that nothing reaches any more, if there are any, when nothing is made.

    Carried out once it has begun.
    """
    if not unreached(core.log, reach(core.log)):
        return
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
