"""Pruning: removing, in one go, the images that nobody uses; or only telling which those are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import attrs
import trio

from lading.engine.core import Caller, Core
from lading.engine.garbage import remove_unreached
from lading.engine.untag import Removal, removals
from lading.events.envelope import Proposed
from lading.events.ids import image_stream, tag_stream
from lading.events.image import ImageRemoved, ImageState, LayerRemoveRequested, Untagged
from lading.events.reach import reach, unreached
from lading.events.views import ARCHIVES, CONTAINERS, IMAGES
from lading.storage.layers import blob_name

__all__ = ["Pruned", "is_dangling", "prune_images"]


@attrs.frozen
class Pruned:
    """What went, or would go, and how many bytes that frees on disk."""

    removals: list[Removal]
    reclaimed: int


async def prune_images(
    core: Core,
    caller: Caller,
    *,
    all: bool = False,  # Docker's word
    dry_run: bool = False,
    wanted: Callable[[ImageState], bool] = lambda _: True,
) -> Pruned:
    """Remove every image without a tag (with ``all``: every image) that no container was made from.

    ``wanted`` may spare some. With them go the layers and blobs that nothing reaches any more. With ``dry_run``
    nothing is removed. Carried out once it has begun, also if cancelled; a crash leaves intents, which the next
    opening carries out. Raises ``HostError``.
    """
    if dry_run:
        chosen = _chosen(core, all, wanted)
        return _would_go(core, chosen)
    async with core.content.removing():
        with trio.CancelScope(shield=True):
            chosen = _chosen(core, all, wanted)
            told = _would_go(core, chosen)
            await remove_unreached(core, caller, _events(chosen))
    return told


def _chosen(core: Core, all: bool, wanted: Callable[[ImageState], bool]) -> list[ImageState]:
    used = {state.spec.image for _, state in core.log.scan(CONTAINERS)}
    return [
        image
        for _, image in core.log.scan(IMAGES)
        if image.image not in used and (all or is_dangling(image.tags)) and wanted(image)
    ]


def is_dangling(names: Sequence[str]) -> bool:
    """Whether none of ``names`` has a tag: the image is dangling."""
    return not any("@" not in name for name in names)


def _events(images: Sequence[ImageState]) -> list[Proposed]:
    events = []
    for image in images:
        events += [Proposed(tag_stream(name), Untagged(name, image.image)) for name in image.tags]
        events.append(Proposed(image_stream(image.image), ImageRemoved(image.image)))
    return events


def _would_go(core: Core, images: Sequence[ImageState]) -> Pruned:
    left = reach(core.log, {image.image for image in images})
    layers = unreached(core.log, left)
    events = [event.event for event in _events(images)]
    size = sum(layer.disk_bytes for layer in layers)
    for layer in layers:
        archive = core.log.get(ARCHIVES, layer.chain)
        size += archive.disk_bytes if archive is not None and not archive.blob else 0
    for digest in reach(core.log).blobs - left.blobs:
        with contextlib.suppress(FileNotFoundError):
            size += blob_name(core.paths, digest).stat().st_blocks * 512
    told = removals([*events, *(LayerRemoveRequested(layer.chain) for layer in layers)])
    return Pruned(told, size)
