"""Loading the images of an archive: taken apart in one go by a worker, then all of them added at once."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import attrs

from lading.engine.core import Caller, Core
from lading.engine.images.platform import host_platform
from lading.engine.images.progress import Progress, Tell
from lading.engine.images.publish import NewImage, publish
from lading.engine.images.unpacking import Source
from lading.engine.stream import chunks
from lading.events.ids import ChainId, ImageId
from lading.events.imagearchive import ArchivedImage, read_images
from lading.events.imageconfig import parse_config
from lading.events.manifest import Manifest, parse_manifest
from lading.events.views import LAYERS
from lading.storage.archivejob import decode_contents, limits_argument
from lading.storage.imagearchive import ArchiveContents, ArchivedLayer, ArchiveLimits
from lading.storage.layers import StagedLayer
from lading.storage.splitread import read_split

__all__ = ["Loaded", "load_images"]

_THREADS = 2


@attrs.frozen
class Loaded:
    """An image that an archive had: its id, and its names there (full form), of which there may be none."""

    image: ImageId
    names: tuple[str, ...]


async def load_images(core: Core, source: Source, tell: Tell, caller: Caller) -> list[Loaded]:
    """Add the images of the archive that ``source`` gives, all of them or none, in the archive's order.

    Raises ``ImageInvalid`` (``DigestMismatch``, ``BadLayer``), ``HostError``, and what ``source`` raises. A cancel
    or a crash leaves nothing.
    """
    staging = core.paths.staging / secrets.token_hex(8)
    try:
        staging.mkdir(mode=0o700)
        contents = await _read(core, source, staging, tell)
        found = read_images(contents.documents, contents.facts, contents.links, host_platform(), contents.broken)
        images = [_image(staging, each, contents.layers) for each in found]
        images = await _each_its_own(core, images, staging)
        tell(Progress("", "Writing to disk"))
        await publish(core, images, caller)
    finally:
        core.paths.discard(staging)
        core.trash.filled()
    return [Loaded(each.image, each.names) for each in found]


async def _read(core: Core, source: Source, staging: Path, tell: Tell) -> ArchiveContents:
    directory = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        arguments = {"limits": limits_argument(ArchiveLimits(layer=core.limits)), "threads": _THREADS}
        result = await core.unpackers.job(
            "archive",
            arguments,
            source,
            (directory,),
            progress=lambda read: tell(Progress("", "Loading", read)),
        )
    finally:
        os.close(directory)
    return decode_contents(result)


def _image(staging: Path, found: ArchivedImage, layers: Mapping[str, ArchivedLayer]) -> NewImage:
    parsed = parse_config(found.config)
    new = NewImage(found.config, parsed, "load", {}, names=found.names)
    staged = {chain: _staged(staging, layers[name]) for chain, name in zip(new.chains, found.layers, strict=True)}
    media_types: dict[ChainId, str] = {}
    manifests: list[tuple[bytes, str]] = []
    if found.manifest is not None:
        manifest = parse_manifest(found.manifest)
        assert isinstance(manifest, Manifest)
        manifests.append((found.manifest, manifest.media_type))
        media_types = dict(zip(new.chains, (layer.media_type for layer in manifest.layers), strict=True))
    return attrs.evolve(new, staged=staged, media_types=media_types, manifests=manifests)


def _staged(staging: Path, layer: ArchivedLayer) -> StagedLayer:
    return StagedLayer(
        staging / layer.directory,
        layer.unpacked,
        None if layer.blob is None else staging / layer.blob,
        None if layer.split is None else staging / layer.split,
    )


async def _each_its_own(core: Core, images: list[NewImage], staging: Path) -> list[NewImage]:
    """A tree for each layer: what lies on different layers in two places is two layers, from one archive."""
    taken: dict[Path, ChainId] = {}
    own: dict[ChainId, StagedLayer] = {}
    for image in images:
        for chain, layer in image.staged.items():
            if chain in own or core.log.get(LAYERS, chain) is not None:
                continue
            if taken.setdefault(layer.tree, chain) == chain:
                own[chain] = layer
            else:
                own[chain] = await _again(core, layer, staging / f"again-{len(own)}")
    return [
        attrs.evolve(image, staged={chain: own.get(chain, layer) for chain, layer in image.staged.items()})
        for image in images
    ]


async def _again(core: Core, layer: StagedLayer, staging: Path) -> StagedLayer:
    """``layer`` unpacked once more."""
    staging.mkdir(mode=0o700)
    if layer.raw is not None:
        with layer.raw.open("rb") as raw:
            return await core.unpackers.unpack(raw, staging, limits=core.limits, lower_links=True)
    assert layer.split is not None
    return await core.unpackers.unpack(
        chunks(read_split(layer.tree, layer.split)), staging, limits=core.limits, lower_links=True
    )
