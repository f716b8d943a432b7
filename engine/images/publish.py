"""Making an image visible: its files are put in place, then one append names all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import attrs
import trio

from lading.engine.core import Caller, Core
from lading.events.envelope import Proposed, Record
from lading.events.errors import Conflict, ImageInvalid, NotFound
from lading.events.ids import (
    ChainId,
    Digest,
    ImageId,
    chain_id,
    image_stream,
    layer_stream,
    tag_stream,
)
from lading.events.image import ImageAdded, LayerAdded, LayerArchived, ManifestAdded, Tagged
from lading.events.imageconfig import ParsedConfig
from lading.events.views import IMAGES, LAYERS, MANIFESTS, TAGS
from lading.storage.layers import Placed, Placement, StagedLayer, blob_name, place

__all__ = ["NewImage", "chain_ids", "digest_of", "publish"]


@attrs.frozen
class NewImage:
    """An image that is about to be added.

    ``document``: its config, whose digest is its id, and what that says, ``parsed``. ``origin``: how it came.
    ``staged``: the layers that may not be in the store yet, by chain id, and ``media_types`` those of their
    archives. ``manifests``: content and media type of each manifest or index that is to be kept with it.
    ``names``: full names, with a tag or a digest. ``replaces``: the image whose names it takes over, those that it
    has by then.
    """

    document: bytes
    parsed: ParsedConfig
    origin: str
    staged: Mapping[ChainId, StagedLayer]
    media_types: Mapping[ChainId, str] = attrs.field(factory=dict)
    manifests: Sequence[tuple[bytes, str]] = ()
    names: Sequence[str] = ()
    replaces: ImageId | None = None

    @property
    def image(self) -> ImageId:
        """Its id."""
        return ImageId(digest_of(self.document))

    @property
    def chains(self) -> tuple[ChainId, ...]:
        """The chain ids of its layers, the lowest first."""
        return chain_ids(self.parsed.diff_ids)


def digest_of(content: bytes) -> Digest:
    """The digest of ``content``."""
    return Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")


def chain_ids(diff_ids: Sequence[Digest]) -> tuple[ChainId, ...]:
    """The chain id of each layer, the lowest first."""
    chains: list[ChainId] = []
    for diff in diff_ids:
        chains.append(chain_id(chains[-1] if chains else None, diff))
    return tuple(chains)


async def publish(
    core: Core, images: Sequence[NewImage], caller: Caller, more: Sequence[Proposed] = ()
) -> tuple[Record, ...]:
    """Add ``images``, all of them or none, in one append with the events ``more``; what is there already stays.

    Shielded from cancels. Raises ``HostError`` when the disk refuses, ``ImageInvalid`` for an image without
    some of its layers, and ``NotFound`` if a layer that isn't staged went away meanwhile. A crash leaves orphans,
    which the next opening deletes, or all of it.
    """
    for image in images:
        if len(set(image.staged) - set(image.chains)):
            raise ImageInvalid(f"image {image.image} has layers that its config doesn't name")
    with trio.CancelScope(shield=True):
        async with core.content.using():
            records = await _publish(core, images, caller, more)
    return records


async def _publish(
    core: Core, images: Sequence[NewImage], caller: Caller, more: Sequence[Proposed]
) -> tuple[Record, ...]:
    placed: dict[str, Placed] = {}
    while True:
        await _place(core, images, placed)
        events = [event for image in images for event in _events(core, image, placed)]
        if not events and not more:
            return ()
        try:
            return await core.journal.append(
                _once_each([*events, *more]), actor=caller.actor, command=caller.command, once=caller.once
            )
        except Conflict:
            continue  # somebody else added one of the layers: it is the same one


async def _place(core: Core, images: Sequence[NewImage], placed: dict[str, Placed]) -> None:
    """Put in place what isn't there yet."""
    placements: dict[ChainId, Placement] = {}
    blobs: dict[Digest, bytes] = {}
    for image in images:
        blobs[digest_of(image.document)] = image.document
        blobs |= {digest_of(content): content for content, _ in image.manifests}
        chains = image.chains
        for index, chain in enumerate(chains):
            if chain in placed or chain in placements or core.log.get(LAYERS, chain) is not None:
                continue
            if chain not in image.staged:
                raise NotFound("layer", chain)
            placements[chain] = Placement(chain, image.staged[chain], _lowers(core, chains[:index]))
    # A layer that several pulls fetched together is settled once.
    unsettled = any(placement.unsettled for placement in placements.values())
    async with core.settling if unsettled else nullcontext():
        placed |= await trio.to_thread.run_sync(place, core.paths, list(placements.values()), blobs)


def _lowers(core: Core, chains: Sequence[ChainId]) -> list[str]:
    """The layers below, the top one first, as far down as anything shows through."""
    lowers: list[str] = []
    for chain in reversed(chains):
        lowers.append(chain)
        known = core.log.get(LAYERS, chain)
        if known is not None and known.opaque:
            break
    return lowers


def _events(core: Core, image: NewImage, placed: Mapping[str, Placed]) -> list[Proposed]:
    """The events that add ``image`` to what is there now."""
    log = core.log
    events: list[Proposed] = []
    chains = image.chains
    for index, (chain, diff) in enumerate(zip(chains, image.parsed.diff_ids, strict=True)):
        if log.get(LAYERS, chain) is not None:
            continue
        if chain not in placed:
            raise NotFound("layer", chain)
        events += _layer(core, image, chains[index - 1] if index else None, chain, diff, placed[chain])
    if log.get(IMAGES, image.image) is None:
        added = ImageAdded(
            image.image,
            chains,
            image.parsed.diff_ids,
            image.parsed.config,
            image.parsed.created,
            image.parsed.architecture,
            image.parsed.os,
            image.origin,
            image.parsed.comment,
        )
        stream = image_stream(image.image)
        events.append(Proposed(stream, added, log.version(stream)))
    kept = log.get(MANIFESTS, image.image)
    for content, media_type in image.manifests:
        digest = digest_of(content)
        if kept is None or digest not in kept.digests:
            size = blob_name(core.paths, digest).stat().st_blocks * 512
            events.append(
                Proposed(image_stream(image.image), ManifestAdded(image.image, digest, media_type, size))
            )
    for name in image.names:
        tag = log.get(TAGS, name)
        if tag is None or tag.image != image.image:
            events.append(Proposed(tag_stream(name), Tagged(name, image.image, tag.image if tag else "")))
    replaced = log.get(IMAGES, image.replaces) if image.replaces is not None else None
    if replaced is not None and replaced.image != image.image:
        events += [
            Proposed(tag_stream(name), Tagged(name, image.image, replaced.image), log.version(tag_stream(name)))
            for name in replaced.tags
        ]
    return events


def _layer(
    core: Core, image: NewImage, parent: ChainId | None, chain: ChainId, diff: Digest, placed: Placed
) -> list[Proposed]:
    unpacked, stream = image.staged[chain].unpacked, layer_stream(chain)
    added = LayerAdded(chain, diff, parent or "", unpacked.size, placed.disk_bytes, placed.inodes, placed.opaque)
    blob = placed.form == "blob"
    archived = LayerArchived(
        chain,
        placed.form,
        unpacked.digest if blob else "",
        unpacked.compressed_size if blob else 0,
        image.media_types.get(chain, f"application/vnd.oci.image.layer.v1.tar+{unpacked.compression}")
        if blob
        else "",
        placed.archive_bytes,
    )
    return [Proposed(stream, added, core.log.version(stream)), Proposed(stream, archived)]


def _once_each(events: Sequence[Proposed]) -> list[Proposed]:
    """Images that are added together may share layers, and two names may be one."""
    kept: list[Proposed] = []
    seen: set[tuple[str, type]] = set()
    for proposed in events:
        key = proposed.stream, type(proposed.event)
        if key not in seen or isinstance(proposed.event, ManifestAdded):
            kept.append(proposed)
        seen.add(key)
    return kept
