"""Pushing an image: the layers that the registry hasn't got, the config, and then the manifest that names them.

A layer whose compressed archive is kept goes as it is. Any other is compressed on the way; what came out is noted
in the log, so that the next push knows what to ask the registry for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from lading.engine.core import Caller, Core
from lading.engine.images.progress import Progress, Tell, short_digest
from lading.engine.images.publish import digest_of
from lading.engine.images.saving import kept_manifests, leased, saved_image
from lading.engine.nursery import together
from lading.engine.queries import ImageQueries
from lading.engine.stream import chunks
from lading.events.envelope import Proposed
from lading.events.errors import Invalid
from lading.events.ids import ChainId, Digest, image_stream, layer_stream, tag_stream
from lading.events.image import ArchiveState, ImageState, LayerPacked, ManifestAdded, Pushed, Tagged
from lading.events.manifest import OCI_CONFIG, OCI_LAYER_GZIP, Descriptor, encode_manifest, parse_manifest
from lading.events.reference import Reference, parse_reference
from lading.events.views import ARCHIVES, IMAGES, LAYERS, MANIFESTS, TAGS
from lading.storage.archivewriter import SavedImage, SavedLayer
from lading.storage.compressing import compressed
from lading.storage.layers import blob_name, place

if TYPE_CHECKING:
    from lading.engine.registry import Credentials, Registry

__all__ = ["PushResult", "push_image"]

_UPLOADS = 5
"""Layers that one push sends at once, as Docker does."""


@attrs.frozen
class PushResult:
    """What the registry has now: the full name, and its manifest's digest and size in bytes."""

    name: str
    digest: Digest
    size: int


async def push_image(
    core: Core, reference: Reference, auth: Credentials | None, tell: Tell, caller: Caller
) -> PushResult:
    """Have the registry of ``reference`` hold the image that it names here, under that name.

    Raises ``NotFound`` (no such image), ``RegistryError``, and ``HostError`` or ``DigestMismatch`` for a layer
    that can't be read. A cancel or a crash leaves at most blobs in the registry, which it clears away.
    """
    if reference.digest is not None or reference.tag is None:
        raise Invalid("image reference", reference.familiar, "a push is named by a tag, not by a digest")
    registry = await core.registry()
    async with core.content.using():
        image = ImageQueries(core.log).resolve(reference.name)
        saved = saved_image(core, image)
        lease = leased(core, "push", image.layers[-1:], caller)
        await lease.__aenter__()
    try:
        return await _Push(core, registry, reference, auth, tell, caller, image, saved).run()
    finally:
        await lease.__aexit__(None, None, None)


class _Push:
    def __init__(
        self,
        core: Core,
        registry: Registry,
        reference: Reference,
        auth: Credentials | None,
        tell: Tell,
        caller: Caller,
        image: ImageState,
        saved: SavedImage,
    ) -> None:
        self._core, self._registry, self._reference, self._auth = core, registry, reference, auth
        self._tell, self._caller, self._image, self._saved = tell, caller, image, saved
        self._limit = trio.CapacityLimiter(_UPLOADS)
        # As what the image came: the registry may have layers of which only the plain archive can be made here.
        self._manifests = kept_manifests(core, image)

    async def run(self) -> PushResult:
        reference = self._reference
        self._tell(Progress("", f"The push refers to repository [{reference.domain}/{reference.path}]"))
        found: dict[int, Descriptor] = {}

        async def one(index: int, layer: SavedLayer) -> None:
            async with self._limit:
                found[index] = await self._layer(index, layer)

        for layer in self._saved.layers:
            self._tell(Progress(short_digest(layer.diff_id), "Preparing"))
        await together(*(partial(one, *each) for each in enumerate(self._saved.layers)))
        layers = [found[index] for index in range(len(found))]
        await self._config()
        content, media_type = self._manifest(layers)
        digest = await self._registry.put_manifest(reference, content, media_type, auth=self._auth)
        await self._told(content, media_type, digest)
        self._tell(Progress("", f"{reference.tag}: digest: {digest} size: {len(content)}"))
        return PushResult(reference.name, digest, len(content))

    async def _layer(self, index: int, layer: SavedLayer) -> Descriptor:
        chain = self._image.layers[index]
        name = short_digest(layer.diff_id)
        archive = self._core.log.get(ARCHIVES, chain)
        known = _known_as(layer, archive)
        candidates = [] if known is None else [known]
        candidates += [manifest.layers[index] for manifest, _ in self._manifests]
        for candidate in {candidate.digest: candidate for candidate in candidates}.values():
            if await self._there(candidate.digest, chain, name):
                return candidate
        if layer.blob is not None:
            assert known is not None
            path, size = layer.blob.path, layer.blob.size

            async def read() -> AsyncGenerator[bytes, None]:
                sent = 0
                with path.open("rb", buffering=0) as file:
                    async with aclosing(chunks(iter(lambda: file.read(1 << 20), b""))) as pieces:
                        async for piece in pieces:
                            yield piece
                            sent += len(piece)
                            self._tell(Progress(name, "Pushing", sent, size))

            await self._registry.upload(self._reference, known.digest, size, read, auth=self._auth)
        else:
            known = await self._compressed(chain, layer, name)
        self._tell(Progress(name, "Pushed"))
        return known

    async def _compressed(self, chain: ChainId, layer: SavedLayer, name: str) -> Descriptor:
        """Send a layer whose compressed archive isn't kept."""

        async def read() -> AsyncGenerator[bytes, None]:
            def told(plain: int) -> None:
                trio.from_thread.run_sync(self._tell, Progress(name, "Pushing", plain, layer.size))

            async with aclosing(chunks(compressed(layer.open(), layer.diff_id, told))) as pieces:
                async for piece in pieces:
                    yield piece

        digest, size = await self._registry.upload_stream(self._reference, read, auth=self._auth)
        if self._core.log.get(LAYERS, chain) is not None:
            packed = Proposed(layer_stream(chain), LayerPacked(chain, digest, size, OCI_LAYER_GZIP))
            await self._core.journal.append([packed], actor=self._caller.actor, command=self._caller.command)
        return Descriptor(OCI_LAYER_GZIP, digest, size)

    async def _there(self, digest: Digest, chain: ChainId, name: str) -> bool:
        """Whether the repository has the blob, or gets it from another one of the same registry."""
        if await self._registry.has_blob(self._reference, digest, auth=self._auth) is not None:
            self._tell(Progress(name, "Layer already exists"))
            return True
        for path in self._elsewhere(chain):
            if await self._registry.mount(self._reference, digest, path, auth=self._auth):
                self._tell(Progress(name, f"Mounted from {path}"))
                return True
        return False

    def _elsewhere(self, chain: ChainId) -> Sequence[str]:
        """Other repositories of this registry that are known to have the layer."""
        paths: dict[str, None] = {}
        for _, image in self._core.log.scan(IMAGES):
            if chain in image.layers:
                for tag in image.tags:
                    other = parse_reference(tag)
                    if other.digest and other.domain == self._reference.domain:
                        paths[other.path] = None
        paths.pop(self._reference.path, None)
        return list(paths)[:3]

    async def _config(self) -> None:
        digest, content = digest_of(self._saved.config), self._saved.config
        if await self._registry.has_blob(self._reference, digest, auth=self._auth) is None:
            await self._registry.upload(self._reference, digest, len(content), content, auth=self._auth)

    def _manifest(self, layers: Sequence[Descriptor]) -> tuple[bytes, str]:
        """The manifest by which the image came, if it names just these blobs; else one that does."""
        for own, content in self._manifests:
            if [layer.digest for layer in own.layers] == [layer.digest for layer in layers]:
                return content, own.media_type
        config = Descriptor(OCI_CONFIG, digest_of(self._saved.config), len(self._saved.config))
        content = encode_manifest(config, layers)
        return content, parse_manifest(content).media_type

    async def _told(self, content: bytes, media_type: str, digest: Digest) -> None:
        """Keep the manifest and the name that it has there, if the image is still here."""
        core, image = self._core, self._image.image
        name = attrs.evolve(self._reference, tag=None, digest=digest).full
        async with core.content.using():
            if core.log.get(IMAGES, image) is None:
                return
            await trio.to_thread.run_sync(place, core.paths, [], {digest: content})
            events = [Proposed(image_stream(image), Pushed(image, self._reference.name, digest, len(content)))]
            kept = core.log.get(MANIFESTS, image)
            if kept is None or digest not in kept.digests:
                size = blob_name(core.paths, digest).stat().st_blocks * 512
                events.append(Proposed(image_stream(image), ManifestAdded(image, digest, media_type, size)))
            tag = core.log.get(TAGS, name)
            if tag is None or tag.image != image:
                events.append(Proposed(tag_stream(name), Tagged(name, image, tag.image if tag else "")))
            await core.journal.append(events, actor=self._caller.actor, command=self._caller.command)


def _known_as(layer: SavedLayer, archive: ArchiveState | None) -> Descriptor | None:
    """The layer's compressed archive, if it is known which that is."""
    if layer.blob is not None:
        return Descriptor(layer.blob.media_type, layer.blob.digest, layer.blob.size)
    if archive is not None and archive.packed:
        return Descriptor(archive.packed_type, Digest(archive.packed), archive.packed_size)
    return None
