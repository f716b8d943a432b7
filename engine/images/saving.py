"""Reading images out again: layers' archives, byte for byte as they came, and images as archives."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Literal

import trio

from lading.engine.core import Caller, Core, new_command_id
from lading.engine.images.garbage import collect
from lading.engine.queries import ImageQueries
from lading.engine.stream import chunks
from lading.events.envelope import Proposed
from lading.events.errors import ImageInvalid, Invalid
from lading.events.ids import ChainId, Digest
from lading.events.image import ArchiveState, ImageState, LayerState
from lading.events.manifest import Manifest, parse_manifest
from lading.events.reference import parse_reference
from lading.events.transfer import LeasePurpose, LeaseReleased, LeaseTaken, lease_stream
from lading.events.views import ARCHIVES, LAYERS, MANIFESTS
from lading.storage.archivewriter import (
    KeptBlob,
    SavedImage,
    SavedLayer,
    write_docker_archive,
    write_oci_layout,
)
from lading.storage.layers import blob_name
from lading.storage.layerstream import decompressed
from lading.storage.pack import pack
from lading.storage.splitread import read_split
from lading.storage.store import Paths

__all__ = ["kept_manifests", "leased", "plain_archive", "save_images", "saved_image"]


@asynccontextmanager
async def leased(
    core: Core, purpose: LeasePurpose, layers: Sequence[ChainId], caller: Caller
) -> AsyncIterator[None]:
    """Inside the block ``layers``, which are there now, stay. To be entered where nothing is removed meanwhile.

    What nothing but the lease kept is removed when the block is left.
    """
    lease = lease_stream(new_command_id())
    taken = Proposed(lease, LeaseTaken(purpose, tuple(layers)))
    await core.journal.append([taken], actor=caller.actor, command=caller.command)
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            released = Proposed(lease, LeaseReleased(purpose))
            await core.journal.append([released], actor=caller.actor, command=caller.command)
            await collect(core, caller)


@asynccontextmanager
async def save_images(
    core: Core, references: Sequence[str], form: Literal["docker", "oci"], caller: Caller
) -> AsyncIterator[AsyncGenerator[bytes, None]]:
    """The bytes of an archive of the images ``references``, made as they are read; see ``Images.save``."""
    if not references:
        raise Invalid("references", references, "name at least one image")
    async with core.content.using():
        queries = ImageQueries(core.log)
        chosen: dict[str, tuple[ImageState, list[str]]] = {}
        for reference in references:
            image = queries.resolve(reference)
            _, names = chosen.setdefault(image.image, (image, []))
            names += [name for name in _names(queries, reference, image) if name not in names]
        images = [saved_image(core, image, names) for image, names in chosen.values()]
        tops = [image.layers[-1] for image, _ in chosen.values() if image.layers]
        lease = leased(core, "save", tops, caller)
        await lease.__aenter__()
    try:
        writer = write_docker_archive if form == "docker" else write_oci_layout
        async with aclosing(chunks(writer(images))) as stream:
            yield stream
    finally:
        await lease.__aexit__(None, None, None)


def _names(queries: ImageQueries, reference: str, image: ImageState) -> list[str]:
    """The names that go into the archive: the one that was asked for; none by an id, as ``docker save`` does."""
    if queries.is_id(reference, image):
        return []
    parsed = parse_reference(reference)
    return [] if parsed.digest else [parsed.name]


def saved_image(core: Core, image: ImageState, names: Sequence[str] = ()) -> SavedImage:
    """What an archive of ``image`` is made of. Raises ``ImageInvalid`` for a layer whose archive wasn't kept."""
    layers = []
    for chain in image.layers:
        layer, archive = core.log.get(LAYERS, chain), core.log.get(ARCHIVES, chain)
        if layer is None:
            raise ImageInvalid(f"layer {chain} of image {image.image} is missing: pull or load the image again")
        if archive is None:  # it came with a release that kept none
            raise ImageInvalid(f"the archive of layer {chain} was not kept when it came: import or pull it again")
        layers.append(_layer(core.paths, layer, archive))
    return SavedImage(
        blob_name(core.paths, image.image).read_bytes(), tuple(names), tuple(layers), _manifest(core, image)
    )


def _layer(paths: Paths, layer: LayerState, archive: ArchiveState) -> SavedLayer:
    blob = None
    if archive.form == "blob":
        digest = Digest(archive.blob)
        blob = KeptBlob(archive.media_type, digest, archive.blob_size, blob_name(paths, digest))
    return SavedLayer(layer.diff_id, layer.size, plain_archive(paths, layer, archive), blob)


def plain_archive(paths: Paths, layer: LayerState, archive: ArchiveState) -> Callable[[], Iterator[bytes]]:
    """What gives the plain archive of ``layer``; whoever reads it compares the digest."""
    if archive.form == "blob":
        return partial(decompressed, blob_name(paths, archive.blob))
    tree = paths.layer(layer.chain)
    if archive.form == "split":
        return lambda: read_split(tree, paths.split(layer.chain))
    return lambda: pack(tree, whiteouts=True, opaque=layer.opaque)


def _manifest(core: Core, image: ImageState) -> bytes | None:
    """The manifest by which the image came, if all that it names is here."""
    blobs = {archive.blob for chain in image.layers if (archive := core.log.get(ARCHIVES, chain)) is not None}
    for manifest, content in kept_manifests(core, image):
        if all(layer.digest in blobs for layer in manifest.layers):
            return content
    return None


def kept_manifests(core: Core, image: ImageState) -> list[tuple[Manifest, bytes]]:
    """The manifests by which the image came, and their content; no indexes."""
    kept = core.log.get(MANIFESTS, image.image)
    found: list[tuple[Manifest, bytes]] = []
    for digest in kept.digests if kept is not None else ():
        content = blob_name(core.paths, digest).read_bytes()
        manifest = parse_manifest(content)
        if isinstance(manifest, Manifest) and len(manifest.layers) == len(image.layers):
            found.append((manifest, content))
    return found
