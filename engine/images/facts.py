"""What an image's own documents tell of it, here or at its registry: how it was made, and for which platforms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from lading.engine.core import Core
from lading.events.errors import HostError
from lading.events.ids import ChainId, Digest
from lading.events.image import ImageState
from lading.events.imageconfig import HistoryEntry, parse_config
from lading.events.manifest import Manifest, Platform, parse_manifest
from lading.events.reference import Reference
from lading.events.views import LAYERS
from lading.storage.layers import blob_name

if TYPE_CHECKING:
    from lading.engine.registry import Credentials

__all__ = ["Distribution", "HistoryStep", "distribution", "document_of", "image_history"]


@attrs.frozen
class HistoryStep:
    """One step in the making of an image, and the layer that it made (``layer`` is empty if it made none).

    ``size``: what the unpacked layer takes on disk.
    """

    entry: HistoryEntry
    layer: ChainId | str
    size: int


@attrs.frozen
class Distribution:
    """What a registry has under a name: type, digest and size of its manifest or index, and the platforms."""

    media_type: str
    digest: Digest
    size: int
    platforms: tuple[Platform, ...]


def document_of(core: Core, image: ImageState) -> bytes:
    """The image's config, as it came. ``HostError`` if it is not on disk."""
    path = blob_name(core.paths, image.image)
    try:
        return path.read_bytes()
    except OSError as error:
        raise HostError("read the image's config", str(path), error.errno or 0, "pull or load it again") from error


def image_history(core: Core, image: ImageState) -> list[HistoryStep]:
    """The steps that made ``image``, the last first, as its config tells them."""
    layers = iter(image.layers)
    steps = []
    for entry in parse_config(document_of(core, image)).history:
        chain: ChainId | str = "" if entry.empty_layer else next(layers, "")
        layer = core.log.get(LAYERS, chain) if chain else None
        steps.append(HistoryStep(entry, chain, layer.disk_bytes if layer is not None else 0))
    return steps[::-1]


async def distribution(core: Core, reference: Reference, auth: Credentials | None) -> Distribution:
    """What the registry of ``reference`` has under that name. Nothing is pulled but the documents."""
    registry = await core.registry()
    found = await registry.manifest(reference, auth=auth)
    parsed = parse_manifest(found.content, found.media_type)
    if isinstance(parsed, Manifest):
        config = parse_config(await registry.small_blob(reference, parsed.config, auth=auth))
        platforms: tuple[Platform, ...] = (Platform(config.os, config.architecture, config.variant),)
    else:
        platforms = tuple(each.platform for each in parsed.manifests if each.platform is not None)
    return Distribution(parsed.media_type, found.digest, len(found.content), platforms)
