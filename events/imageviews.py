"""The views of images, layers and names, and of what is under way with them: each a fold of its facts.

Nothing here decides what may be removed: that is worked out over these views when something is to be removed
(``engine/garbage``). What is refused here is what would leave a name or an image that points at nothing.
"""

from __future__ import annotations

from typing import assert_never

import attrs

from lading.events.envelope import Record
from lading.events.errors import InUse, NotFound
from lading.events.facts import ImageEvent, TransferEvent
from lading.events.image import (
    ArchiveState,
    GoingState,
    ImageAdded,
    ImageRemoved,
    ImageState,
    LayerAdded,
    LayerArchived,
    LayerPacked,
    LayerRemoved,
    LayerRemoveRequested,
    LayerSealed,
    LayerState,
    ManifestAdded,
    ManifestsState,
    Pushed,
    SealedState,
    Tagged,
    TagState,
    Untagged,
)
from lading.events.transfer import (
    LeaseReleased,
    LeaseState,
    LeaseTaken,
    PullFailed,
    PullFinished,
    PullProgressed,
    PullRequested,
    PullState,
)
from lading.events.view import View, Views

__all__ = [
    "ARCHIVES",
    "GOING",
    "IMAGES",
    "LAYERS",
    "LEASES",
    "MANIFESTS",
    "PULLS",
    "SEALED",
    "TAGS",
    "project_image",
    "project_transfer",
]

IMAGES = View("image", ImageState)
"""Image id -> its state."""
LAYERS = View("layer", LayerState)
"""Chain id -> its state."""
TAGS = View("tag", TagState)
"""Full name -> the image it points at."""
ARCHIVES = View("archive", ArchiveState)
"""Chain id -> how that layer's archive can be made again."""
MANIFESTS = View("manifest", ManifestsState)
"""Image id -> the manifests that are kept for it."""
GOING = View("going", GoingState)
"""Chain id -> a layer that is being moved into the trash."""
SEALED = View("sealed", SealedState)
"""Chain id -> a layer whose digest is not known yet."""
PULLS = View("pull", PullState)
"""Pull id -> a pull that is under way."""
LEASES = View("lease", LeaseState)
"""Lease id -> what it keeps."""


def project_image(event: ImageEvent, time: int, views: Views) -> None:
    """Bring ``views`` to just after ``event``, recorded at ``time``. Raises ``NotFound`` or ``InUse``."""
    match event:
        case LayerAdded():
            views.put(LAYERS, event.chain, LayerState(**attrs.asdict(event)))
            if views.get(GOING, event.chain) is not None:
                views.delete(GOING, event.chain)  # its removal failed, and now it is wanted again
        case LayerArchived():
            fields = attrs.asdict(event)
            del fields["chain"]
            views.put(ARCHIVES, event.chain, ArchiveState(**fields))
        case LayerPacked():
            known = views.get(ARCHIVES, event.chain)
            if known is not None:
                packed = attrs.evolve(
                    known, packed=event.digest, packed_size=event.size, packed_type=event.media_type
                )
                views.put(ARCHIVES, event.chain, packed)
        case LayerSealed():
            views.put(SEALED, event.chain, SealedState(event.container, time))
        case LayerRemoveRequested():
            if views.get(LAYERS, event.chain) is None:
                raise NotFound("layer", event.chain)
            views.delete(LAYERS, event.chain)
            views.delete(ARCHIVES, event.chain)
            if views.get(SEALED, event.chain) is not None:
                views.delete(SEALED, event.chain)
            views.put(GOING, event.chain, GoingState(event.chain, time))
        case LayerRemoved():
            views.delete(GOING, event.chain)
        case ImageAdded():
            _add(event, time, views)
        case ImageRemoved():
            image = views.get(IMAGES, event.image)
            if image is None:
                raise NotFound("image", event.image)
            if image.tags:
                raise InUse("image", event.image, image.tags, "it goes with its last name")
            views.delete(IMAGES, event.image)
            if views.get(MANIFESTS, event.image) is not None:
                views.delete(MANIFESTS, event.image)
        case ManifestAdded():
            _keep_manifest(event, views)
        case Tagged():
            _tag(event, time, views)
        case Untagged():
            _untag(event, views)
        case Pushed():
            pass
        case _:
            assert_never(event)


def project_transfer(event: TransferEvent, record: Record, views: Views) -> None:
    """Bring ``views`` to just after ``event``, which is ``record``'s. Raises ``NotFound``."""
    key = record.stream.partition("/")[2]
    match event:
        case PullRequested():
            views.put(PULLS, key, PullState(event.reference, event.platform, record.time))
        case PullProgressed():
            pull = views.get(PULLS, key)
            if pull is None:
                raise NotFound("pull", key)
            views.put(PULLS, key, attrs.evolve(pull, **attrs.asdict(event)))
        case PullFinished() | PullFailed():
            if views.get(PULLS, key) is None:
                raise NotFound("pull", key)
            views.delete(PULLS, key)
        case LeaseTaken():
            views.put(LEASES, key, LeaseState(event.purpose, event.layers, record.time))
        case LeaseReleased():
            if views.get(LEASES, key) is None:
                raise NotFound("lease", key)
            views.delete(LEASES, key)
        case _:
            assert_never(event)


def _add(event: ImageAdded, time: int, views: Views) -> None:
    layers = [views.get(LAYERS, chain) for chain in event.layers]
    size = sum(layer.disk_bytes for layer in layers if layer is not None)
    fields = {field.name: getattr(event, field.name) for field in attrs.fields(ImageAdded)}
    known = views.get(IMAGES, event.image)
    tags = () if known is None else known.tags
    views.put(IMAGES, event.image, ImageState(**fields, added_at=time, size=size, tags=tags))


def _keep_manifest(event: ManifestAdded, views: Views) -> None:
    known = views.get(MANIFESTS, event.image) or ManifestsState((), (), 0)
    if event.digest not in known.digests:
        digests, types = (*known.digests, event.digest), (*known.media_types, event.media_type)
        views.put(MANIFESTS, event.image, ManifestsState(digests, types, known.disk_bytes + event.disk_bytes))


def _tag(event: Tagged, time: int, views: Views) -> None:
    pointed = views.get(TAGS, event.name)
    before = views.get(IMAGES, pointed.image) if pointed is not None else None
    if before is not None and before.image != event.image:
        _drop_name(before, event.name, views)
    now = views.get(IMAGES, event.image)
    if now is not None and event.name not in now.tags:
        views.put(IMAGES, event.image, attrs.evolve(now, tags=tuple(sorted((*now.tags, event.name)))))
    views.put(TAGS, event.name, TagState(event.name, event.image, time))


def _untag(event: Untagged, views: Views) -> None:
    pointed = views.get(TAGS, event.name)
    if pointed is None or pointed.image != event.image:
        raise NotFound("image", event.name)
    views.delete(TAGS, event.name)
    image = views.get(IMAGES, event.image)
    if image is not None:
        _drop_name(image, event.name, views)


def _drop_name(image: ImageState, name: str, views: Views) -> None:
    views.put(IMAGES, image.image, attrs.evolve(image, tags=tuple(tag for tag in image.tags if tag != name)))
