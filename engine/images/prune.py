"""Pruning: removing, in one go, the images that nobody uses; or only telling which those are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import trio

from lading.engine.core import Caller, Core
from lading.engine.images.garbage import remove_unreached
from lading.engine.images.untag import Removal, removals
from lading.engine.images.usage import layer_bytes, measure_writable
from lading.engine.queries import labels_fit
from lading.events.container import LIVE, Phase
from lading.events.envelope import Proposed
from lading.events.errors import HostError, Refused
from lading.events.ids import ContainerId, image_stream, tag_stream
from lading.events.image import ImageRemoved, ImageState, LayerRemoveRequested, Untagged
from lading.events.reach import reach, unreached
from lading.events.views import ARCHIVES, CONTAINERS, IMAGES
from lading.storage.layers import blob_name

if TYPE_CHECKING:
    from lading.engine.containers.containers import Containers

__all__ = ["Chosen", "Pruned", "PrunedAll", "is_dangling", "prune_containers", "prune_images"]


@attrs.frozen
class Chosen:
    """Which of the unused a prune is for: made before ``until`` (nanoseconds UTC), with every one of ``labels``
    (``key`` or ``key=value``), and none of ``not_labels``.
    """

    until: int | None = None
    labels: Sequence[str] = ()
    not_labels: Sequence[str] = ()

    def fits(self, made: int, labels: Mapping[str, str]) -> bool:
        """Whether something that was made then, with those labels, is among them."""
        before = self.until is None or made < self.until
        spared = any(labels_fit((one,), labels) for one in self.not_labels)
        return before and labels_fit(self.labels, labels) and not spared


@attrs.frozen
class Pruned:
    """What went, or would go, and how many bytes that frees on disk."""

    removals: list[Removal]
    reclaimed: int


@attrs.frozen
class PrunedAll:
    """What went, or would go, of everything: ids of containers, images, names of volumes, and how many bytes that
    frees on disk.
    """

    containers: list[ContainerId]
    images: Pruned
    reclaimed: int
    volumes: list[str] = attrs.field(factory=list)


async def prune_containers(
    containers: Containers, caller: Caller, chosen: Chosen, *, dry_run: bool = False
) -> tuple[list[ContainerId], int]:
    """Remove the containers that don't run, and tell which they were and what their writable layers took.

    One that is started or removed meanwhile, or won't go, is passed over: that is in its history. A cancel leaves
    those that were not reached.
    """
    gone: list[ContainerId] = []
    reclaimed = 0
    for state in containers.list():
        if state.phase in LIVE or state.phase is Phase.RESTARTING or state.process is not None:
            continue
        if not chosen.fits(state.created_at, state.spec.labels):
            continue
        size = await trio.to_thread.run_sync(measure_writable, containers.core.paths, state.id)
        if not dry_run:
            try:
                await containers.get(state.id).remove(caller=caller)
            except (Refused, HostError):
                continue
        gone.append(state.id)
        reclaimed += size
    return gone, reclaimed


async def prune_images(
    core: Core,
    caller: Caller,
    *,
    all: bool = False,  # Docker's word
    dry_run: bool = False,
    wanted: Callable[[ImageState], bool] = lambda _: True,
    gone: Collection[str] = (),
) -> Pruned:
    """Remove every image without a tag (with ``all``: every image) that no container was made from.

    ``wanted`` may spare some. With them go the layers and blobs that nothing reaches any more. With ``dry_run``
    nothing is removed, and the containers ``gone`` (ids) are as if they were not there. Carried out once it has
    begun, also if cancelled; a crash leaves intents, which the next opening carries out. Raises ``HostError``.
    """
    if dry_run:
        return _would_go(core, _chosen(core, all, wanted, gone), gone)
    async with core.content.removing():
        with trio.CancelScope(shield=True):
            chosen = _chosen(core, all, wanted)
            told = _would_go(core, chosen)
            await remove_unreached(core, caller, _events(chosen))
    return told


def _chosen(
    core: Core, all: bool, wanted: Callable[[ImageState], bool], gone: Collection[str] = ()
) -> list[ImageState]:
    used = {state.spec.image for key, state in core.log.scan(CONTAINERS) if key not in gone}
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


def _would_go(core: Core, images: Sequence[ImageState], gone: Collection[str] = ()) -> Pruned:
    left = reach(core.log, {image.image for image in images}, gone)
    layers = unreached(core.log, left)
    events = [event.event for event in _events(images)]
    size = sum(layer_bytes(core.paths, layer) for layer in layers)
    for layer in layers:
        archive = core.log.get(ARCHIVES, layer.chain)
        size += archive.disk_bytes if archive is not None and not archive.blob else 0
    for digest in reach(core.log).blobs - left.blobs:
        with contextlib.suppress(FileNotFoundError):
            size += blob_name(core.paths, digest).stat().st_blocks * 512
    told = removals([*events, *(LayerRemoveRequested(layer.chain) for layer in layers)])
    return Pruned(told, size)
