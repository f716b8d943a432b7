"""Pulling an image: what its registry says it is made of, the layers that aren't here, then all of it at once.

A pull is told in the log from its request to its outcome. It takes a lease on every layer of the image before it
looks which of them are here, so that none is removed meanwhile. Nothing of it can be seen before its last append;
a pull that fails leaves nothing but its failure in the history.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

from lading.engine.core import Caller, Core, new_command_id
from lading.engine.images.garbage import collect
from lading.engine.images.platform import host_platform
from lading.engine.images.progress import Progress, Tell, short_digest
from lading.engine.images.publish import NewImage, chain_ids, digest_of, publish
from lading.engine.nursery import together
from lading.events.envelope import Proposed
from lading.events.errors import DigestMismatch, LadingError, NotFound
from lading.events.ids import ChainId, Digest, ImageId
from lading.events.imageconfig import ParsedConfig, parse_config
from lading.events.manifest import (
    Descriptor,
    Manifest,
    Platform,
    pair_layers,
)
from lading.events.platforms import normal_platform
from lading.events.reference import Reference
from lading.events.transfer import (
    LeaseReleased,
    LeaseTaken,
    PullFailed,
    PullFinished,
    PullProgressed,
    PullRequested,
    lease_stream,
    pull_stream,
)
from lading.events.views import IMAGES, LAYERS, TAGS
from lading.storage.layers import StagedLayer

if TYPE_CHECKING:
    from lading.engine.registry import Credentials, Registry

__all__ = ["pull_image"]


@attrs.frozen
class _Plan:
    """What is to be pulled: all documents, and the layers with their diff ids, the lowest first."""

    manifests: Sequence[tuple[bytes, str]]
    digest: Digest
    document: bytes
    parsed: ParsedConfig
    layers: Sequence[tuple[Descriptor, Digest]]

    @property
    def chains(self) -> tuple[ChainId, ...]:
        return chain_ids(self.parsed.diff_ids)


async def pull_image(
    core: Core,
    reference: Reference,
    auth: Credentials | None,
    platform: Platform | None,
    tell: Tell,
    caller: Caller,
) -> ImageId:
    """Have the image that ``reference`` is in its registry for ``platform``, and its names point at it.

    ``platform``: None for this machine's, of which an image for another is better than none. Raises
    ``RegistryError`` when the registry or the way to it is to blame, ``NotFound``, ``ImageInvalid``
    (``DigestMismatch``) and ``HostError``. After an error, a cancel or a crash nothing is left.
    """
    pull = _Pull(core, await core.registry(), reference, auth, platform, tell, caller)
    core.nursery.start_soon(_warm, core)  # while the manifest is on its way
    await pull.append(PullRequested(reference.full, str(platform or host_platform())))
    try:
        return await pull.run()
    except BaseException as error:
        with trio.CancelScope(shield=True), contextlib.suppress(LadingError):
            await pull.failed(error)
        raise


async def _warm(core: Core) -> None:
    with contextlib.suppress(LadingError):  # who needs a worker will hear of it
        await core.unpackers.warm()


class _Pull:
    def __init__(
        self,
        core: Core,
        registry: Registry,
        reference: Reference,
        auth: Credentials | None,
        platform: Platform | None,
        tell: Tell,
        caller: Caller,
    ) -> None:
        self._core, self._registry, self._reference, self._auth = core, registry, reference, auth
        self._platform, self._chosen = platform or host_platform(), platform is not None
        self._tell, self._caller = tell, caller
        self._id = new_command_id()
        self._leased = False
        self._fetched: dict[ChainId, int] = {}

    async def append(self, event: PullRequested | PullProgressed) -> None:
        await self._core.journal.append(
            [Proposed(pull_stream(self._id), event)], actor=self._caller.actor, command=self._caller.command
        )

    async def failed(self, error: BaseException) -> None:
        """Tell the log that it came to nothing."""
        why = (str(error) or type(error).__name__) if isinstance(error, Exception) else "it was cancelled"
        events = [Proposed(pull_stream(self._id), PullFailed(why[:2000]))]
        if self._leased:
            events.append(Proposed(lease_stream(self._id), LeaseReleased("pull")))
        await self._core.journal.append(events, actor=self._caller.actor, command=self._caller.command)
        if self._leased:  # what it kept may have lost its other users meanwhile
            await collect(self._core, self._caller)

    async def run(self) -> ImageId:
        reference = self._reference
        shown = reference.digest or reference.tag or ""
        self._tell(Progress(shown, f"Pulling from {reference.path}"))
        plan = await self._plan()
        image = ImageId(digest_of(plan.document))
        async with contextlib.AsyncExitStack() as stack:
            staged = await self._layers(plan, stack)
            names = [Reference(reference.domain, reference.path, None, plan.digest).full]
            if reference.digest is None:
                names.append(reference.name)
            known = all((tag := self._core.log.get(TAGS, name)) and tag.image == image for name in names)
            new = NewImage(
                plan.document,
                plan.parsed,
                "pull",
                staged,
                dict(zip(plan.chains, (layer.media_type for layer, _ in plan.layers), strict=True)),
                plan.manifests,
                names,
            )
            fetched = sum(self._fetched.values())
            ends = (
                Proposed(pull_stream(self._id), PullFinished(image, plan.digest, fetched)),
                Proposed(lease_stream(self._id), LeaseReleased("pull")),
            )
            await publish(self._core, [new], self._caller, ends)
        self._tell(Progress("", f"Digest: {plan.digest}"))
        what = "Image is up to date for" if known else "Downloaded newer image for"
        self._tell(Progress("", f"Status: {what} {reference.familiar}"))
        return image

    # -- what it is ----------------------------------------------------------------------------------------

    async def _plan(self) -> _Plan:
        found = await self._registry.image(self._reference, self._platform, auth=self._auth)
        documents = {each.digest: (each.content, each.media_type) for each in (found.top, found.fetched)}
        document = await self._config(found.manifest)
        parsed = parse_config(document)
        self._check_platform(parsed)
        layers = pair_layers(found.manifest.layers, parsed.diff_ids)
        return _Plan(list(documents.values()), found.top.digest, document, parsed, layers)

    async def _config(self, manifest: Manifest) -> bytes:
        known = self._core.log.get(IMAGES, manifest.config.digest)
        if known is not None:
            async with self._core.content.using():
                with contextlib.suppress(FileNotFoundError):
                    return (self._core.paths.blobs / known.image.removeprefix("sha256:")).read_bytes()
        return await self._registry.small_blob(self._reference, manifest.config, auth=self._auth)

    def _check_platform(self, parsed: ParsedConfig) -> None:
        own = normal_platform(Platform(parsed.os, parsed.architecture, parsed.variant))
        if self._chosen and (own.os, own.architecture) != (self._platform.os, self._platform.architecture):
            name = f"{self._reference.familiar} for {self._platform} (it is there for {own})"
            raise NotFound("image", name)

    # -- its layers ----------------------------------------------------------------------------------------

    async def _layers(self, plan: _Plan, stack: contextlib.AsyncExitStack) -> dict[ChainId, StagedLayer]:
        """The layers that weren't here, whole, until ``stack`` is closed."""
        core, chains = self._core, plan.chains
        async with core.content.using():
            taken = Proposed(lease_stream(self._id), LeaseTaken("pull", chains))
            await core.journal.append([taken], actor=self._caller.actor, command=self._caller.command)
            self._leased = True
            there = {chain for chain in chains if core.log.get(LAYERS, chain) is not None}
        missing = [
            (chain, layer, diff)
            for chain, (layer, diff) in zip(chains, plan.layers, strict=True)
            if chain not in there
        ]
        for chain, (layer, _) in zip(chains, plan.layers, strict=True):
            status = "Already exists" if chain in there else "Pulling fs layer"
            self._tell(Progress(short_digest(layer.digest), status))
        total = sum(layer.size for _, layer, _ in missing)
        await self.append(PullProgressed(len(missing), 0, total, 0))
        staged: dict[ChainId, StagedLayer] = {}

        async def one(chain: ChainId, layer: Descriptor, diff: Digest) -> None:
            staged[chain] = await self._layer(chain, layer, diff, stack)
            self._tell(Progress(short_digest(layer.digest), "Pull complete"))
            if len(staged) < len(missing):
                await self.append(PullProgressed(len(missing), len(staged), total, sum(self._fetched.values())))

        await together(*(partial(one, *each) for each in missing))
        return staged

    async def _layer(
        self, chain: ChainId, layer: Descriptor, diff: Digest, stack: contextlib.AsyncExitStack
    ) -> StagedLayer:
        name = short_digest(layer.digest)

        def progress(read: int) -> None:
            self._fetched[chain] = read
            if read < layer.size:
                self._tell(Progress(name, "Downloading", read, layer.size))
            else:
                self._tell(Progress(name, "Download complete"))
                self._tell(Progress(name, "Extracting", layer.size, layer.size))

        async def fetch(staging: Path, told: Callable[[int], None]) -> StagedLayer:
            blob = self._registry.blob(self._reference, layer, auth=self._auth)
            async with self._core.transfers, blob:
                found = await self._core.unpackers.unpack(
                    blob, staging, limits=self._core.limits, lower_links=True, progress=told
                )
            told(layer.size)
            return found

        found = await stack.enter_async_context(
            self._core.downloads.layer(f"{chain} {layer.digest}", fetch, progress)
        )
        for what, expected, actual in (
            (f"layer {layer.digest}", layer.digest, found.unpacked.digest),
            (f"the contents of layer {layer.digest}", diff, found.unpacked.diff_id),
        ):
            if expected != actual:
                raise DigestMismatch(what, expected, actual)
        return found
