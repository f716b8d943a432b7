"""The real image behind one that was committed without copying: whose layers' digests are known.

What a container wrote became a layer without being read (``engine/sealing``), so its digest, and the image's id,
were drawn at random. Whoever needs an archive of it needs the real ones: then the layer is packed, like any layer
that is made here, and unpacked as another one, and the image's names move to the image that has that.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal

import trio

from lading.engine.core import Caller, Core
from lading.engine.images.facts import document_of
from lading.engine.images.garbage import remove_unreached
from lading.engine.images.publish import NewImage, publish
from lading.engine.images.saving import leased, plain_archive, save_images
from lading.engine.queries import ImageQueries
from lading.engine.stream import chunks
from lading.events.envelope import Proposed
from lading.events.errors import ImageInvalid
from lading.events.ids import ChainId, Digest, ImageId, chain_id, image_stream
from lading.events.image import ImageRemoved, ImageState
from lading.events.imageconfig import parse_config
from lading.events.imagedocument import with_diff_ids
from lading.events.imageviews import SEALED
from lading.events.views import ARCHIVES, CONTAINERS, IMAGES, LAYERS
from lading.storage.layers import StagedLayer
from lading.storage.pack import pack

__all__ = ["is_provisional", "real_image", "save_real_images"]


def is_provisional(core: Core, image: ImageState) -> bool:
    """Whether the digest of any of its layers isn't known yet."""
    return any(core.log.get(SEALED, chain) is not None for chain in image.layers)


async def real_image(core: Core, reference: str, caller: Caller) -> ImageState:
    """The image ``reference``, with the digests of all its layers known.

    If it was provisional, the real one is made, and gets all its names in the same append; the provisional one
    goes with its last name, unless a container was made from it. One without a name stays, because somebody may
    know its id. Raises ``NotFound``, ``Ambiguous``, ``Invalid``, ``ImageInvalid`` and ``HostError``. A cancel or a
    crash leaves nothing of it, or all of it; perhaps the provisional image without a name.
    """
    image = ImageQueries(core.log).resolve(reference)
    if not is_provisional(core, image):
        return image
    caller = Caller(caller.actor, caller.command)  # not a retry of what this is only a step of
    async with core.resolving:
        image = ImageQueries(core.log).resolve(reference)
        if is_provisional(core, image):
            real = await _Resolving(core, image, caller).run()
            return ImageQueries(core.log).resolve(real)
        return image


@asynccontextmanager
async def save_real_images(
    core: Core, references: Sequence[str], form: Literal["docker", "oci"], caller: Caller
) -> AsyncIterator[AsyncGenerator[bytes, None]]:
    """``save_images``, with the digests of all layers known."""
    real = []
    for reference in references:
        before = ImageQueries(core.log).resolve(reference)
        after = await real_image(core, reference, caller)
        named = not ImageQueries(core.log).is_id(reference, before)
        real.append(reference if named or after.image == before.image else after.image)
    async with save_images(core, real, form, caller) as stream:
        yield stream


class _Resolving:
    def __init__(self, core: Core, image: ImageState, caller: Caller) -> None:
        self._core, self._image, self._caller = core, image, caller
        self._document = document_of(core, image)
        self._staging = core.paths.staging / secrets.token_hex(8)

    async def run(self) -> ImageId:
        core, image = self._core, self._image
        async with core.content.using():
            lease = leased(core, "commit", image.layers[-1:], self._caller)
            await lease.__aenter__()
        try:
            self._staging.mkdir(mode=0o700)
            diffs, staged = await self._unpacked()
            document = with_diff_ids(self._document, diffs)
            new = NewImage(document, parse_config(document), "commit", staged, replaces=image.image)
            await publish(core, [new], self._caller)
        finally:
            core.paths.discard(self._staging)
            core.trash.filled()
            await lease.__aexit__(None, None, None)
        if image.tags:
            await self._drop()
        return new.image

    async def _unpacked(self) -> tuple[list[Digest], dict[ChainId, StagedLayer]]:
        """The real diff ids, and what isn't there yet of the layers from the first sealed one on."""
        core, image = self._core, self._image
        diffs: list[Digest] = []
        staged: dict[ChainId, StagedLayer] = {}
        below: ChainId | None = None
        for number, chain in enumerate(image.layers):
            layer = core.log.get(LAYERS, chain)
            if layer is None:
                raise ImageInvalid(f"layer {chain} of image {image.image} is missing")
            diff = layer.diff_id
            sealed = core.log.get(SEALED, chain) is not None
            if sealed or (chain != chain_id(below, diff)):
                place = self._staging / str(number)
                place.mkdir(mode=0o700)
                unpacked = await core.unpackers.unpack(
                    chunks(self._archive(chain, sealed)), place, limits=core.limits, keep_raw=False, split=False
                )
                diff = Digest(unpacked.unpacked.diff_id)
                if core.log.get(LAYERS, chain_id(below, diff)) is None:
                    staged[chain_id(below, diff)] = unpacked
            below = chain_id(below, diff)
            diffs.append(diff)
        return diffs, staged

    def _archive(self, chain: ChainId, sealed: bool) -> Iterator[bytes]:
        core = self._core
        layer, archive = core.log.get(LAYERS, chain), core.log.get(ARCHIVES, chain)
        assert layer is not None
        if sealed or archive is None:
            return pack(core.paths.layer(chain), whiteouts=True, opaque=layer.opaque)
        return plain_archive(core.paths, layer, archive)()

    async def _drop(self) -> None:
        """The provisional image goes, if nobody has it any more."""
        core, image = self._core, self._image.image
        async with core.content.removing():
            with trio.CancelScope(shield=True):
                state = core.log.get(IMAGES, image)
                if state is None or state.tags:
                    return
                if any(each.spec.image == image for _, each in core.log.scan(CONTAINERS)):
                    return
                gone = Proposed(image_stream(image), ImageRemoved(image))
                await remove_unreached(core, self._caller, [gone])
