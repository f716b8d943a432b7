"""Images: importing a root file system, listing, finding."""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import secrets
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any, Literal

import trio

from lading.engine.core import Caller, Core, new_caller
from lading.engine.images.facts import Distribution, HistoryStep, distribution, document_of, image_history
from lading.engine.images.loading import Loaded, load_images
from lading.engine.images.platform import host_platform
from lading.engine.images.progress import Tell, untold
from lading.engine.images.prune import Chosen, Pruned, prune_images
from lading.engine.images.publish import NewImage, publish
from lading.engine.images.pulls import pull_image
from lading.engine.images.pushes import PushResult, push_image
from lading.engine.images.resolving import real_image, save_real_images
from lading.engine.images.unpacking import Source
from lading.engine.images.untag import Removal, remove_image
from lading.engine.queries import ImageQueries, created_at
from lading.engine.registry import Credentials
from lading.engine.retry import first_result
from lading.events.envelope import Actor, Proposed
from lading.events.errors import HostError, Invalid
from lading.events.ids import ChainId, Digest, chain_id, tag_stream
from lading.events.image import ImageAdded, ImageConfig, ImageState, Tagged
from lading.events.imageconfig import parse_config
from lading.events.platforms import parse_platform
from lading.events.reference import parse_reference
from lading.events.views import LAYERS, TAGS, Reader
from lading.storage.layers import StagedLayer

__all__ = ["Images"]


_MOST_VISIBLE = 1000


class Images:
    """Every image of the store."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._queries = ImageQueries(core.log)
        self._visible: dict[str, tuple[ChainId, ...]] = {}

    # -- queries --------------------------------------------------------------------------------------------

    def list(self) -> list[ImageState]:
        """Every image, the newest first."""
        return self._queries.list()

    def resolve(self, reference: str) -> ImageState:
        """The image with this name, id, or unique id prefix. Raises ``NotFound``, ``Ambiguous`` or ``Invalid``."""
        return self._queries.resolve(reference)

    def document(self, reference: str) -> bytes:
        """The image's config, as it came, whose digest is its id. Raises as ``resolve``, and ``HostError``."""
        return document_of(self._core, self._queries.resolve(reference))

    def history(self, reference: str) -> builtins.list[HistoryStep]:
        """How the image was made, the last step first. Raises as ``resolve``, and ``HostError``."""
        return image_history(self._core, self._queries.resolve(reference))

    async def distribution(self, reference: str, *, auth: Credentials | None = None) -> Distribution:
        """What the registry has under that name now; nothing is pulled. Raises what ``pull`` does."""
        self._core.check_open()
        return await distribution(self._core, parse_reference(reference), auth)

    def visible_layers(self, image: ImageState) -> tuple[ChainId, ...]:
        """The layers of ``image`` that a container's root is made of: none below one that hides all below it."""
        known = self._visible.get(image.image)
        if known is None:
            known = self._visible[image.image] = _visible(self._core.log, image.layers)
            if len(self._visible) > _MOST_VISIBLE:
                del self._visible[next(iter(self._visible))]
        return known

    # -- names, and going ------------------------------------------------------------------------------------

    async def tag(
        self, reference: str, name: str, *, actor: Actor | None = None, caller: Caller | None = None
    ) -> ImageState:
        """Have ``name`` point at the image ``reference``, wherever it pointed before.

        Raises ``NotFound``, ``Ambiguous``, and ``Invalid`` for a wrong name or one with a digest. One append.
        """
        core = self._core
        core.check_open()
        full = _tag_name(name)
        caller = caller or new_caller(actor=actor)
        async with core.content.using():
            image = self._queries.resolve(reference)
            tag = core.log.get(TAGS, full)
            if tag is None or tag.image != image.image:
                event = Proposed(tag_stream(full), Tagged(full, image.image, tag.image if tag else ""))
                await core.journal.append([event], actor=caller.actor, command=caller.command, once=caller.once)
        return self._queries.resolve(image.image)

    async def remove(
        self, reference: str, *, force: bool = False, actor: Actor | None = None, caller: Caller | None = None
    ) -> builtins.list[Removal]:
        """Take the name ``reference`` away, or, by an id, all names; and the image with its last name.

        Docker's rules: an image that containers use stays without ``force``, one that runs stays in any case.
        Layers that nothing else uses go with it. Raises ``NotFound``, ``Ambiguous``, ``Invalid``, ``ImageInUse``.
        Once begun it is carried out, also if cancelled; after a crash, by the next opening.
        """
        self._core.check_open()
        return await remove_image(self._core, reference, force, caller or new_caller(actor=actor))

    async def prune(
        self,
        *,
        all: bool = False,  # Docker's word
        until: int | None = None,
        labels: Sequence[str] = (),
        not_labels: Sequence[str] = (),
        dry_run: bool = False,
        gone: Collection[str] = (),
        actor: Actor | None = None,
        caller: Caller | None = None,
    ) -> Pruned:
        """Remove the images without a tag that no container was made from; with ``all``, those with tags, too.

        Only images made before ``until`` (nanoseconds UTC), with all of ``labels`` (``key`` or ``key=value``) and
        none of ``not_labels``. Nothing that a container, a pull or a push uses is touched. ``dry_run``: only tell
        what would go, as if the containers ``gone`` (ids) were not there. Once begun it is carried out; after a
        crash, by the next opening.
        """
        self._core.check_open()
        chosen = Chosen(until, labels, not_labels)
        return await prune_images(
            self._core,
            caller or new_caller(actor=actor),
            all=all,
            dry_run=dry_run,
            wanted=lambda image: chosen.fits(created_at(image), image.config.labels),
            gone=gone,
        )

    async def pull(
        self,
        reference: str,
        *,
        platform: str | None = None,
        auth: Credentials | None = None,
        progress: Tell = untold,
        actor: Actor | None = None,
        caller: Caller | None = None,
    ) -> ImageState:
        """Have the image ``reference`` (``name[:tag]``, ``name@digest``) as its registry has it now.

        ``platform``: ``os/architecture[/variant]``; by default this machine's, and an image for another where its
        registry has no choice. ``auth``: by default what ``~/.docker/config.json`` has for that registry;
        ``Credentials()`` for none. Layers that are here are not fetched; one that several pulls need is fetched
        once. Raises ``RegistryError`` (``Unauthorized``, ``RegistryUnavailable``), ``NotFound``, ``Invalid``,
        ``ImageInvalid`` (``DigestMismatch``) and ``HostError``. After an error, a cancel or a crash nothing is
        left but the failure in the history.
        """
        self._core.check_open()
        caller = caller or new_caller(actor=actor)
        wanted = None if platform is None else parse_platform(platform, architecture=host_platform().architecture)
        image = await pull_image(self._core, parse_reference(reference), auth, wanted, progress, caller)
        return self._queries.resolve(image)

    async def push(
        self,
        reference: str,
        *,
        auth: Credentials | None = None,
        progress: Tell = untold,
        actor: Actor | None = None,
        caller: Caller | None = None,
    ) -> PushResult:
        """Send the image called ``reference`` to the registry of that name. ``auth``: as for ``pull``.

        What the registry has is not sent, what another of its repositories has is mounted. An image that was
        pulled or loaded compressed keeps its manifest's digest, unless some of its layers were here before in
        another form and the registry hasn't got them. Raises ``RegistryError``, ``NotFound``,
        ``Invalid`` and ``HostError``. A cancel or a crash leaves at most blobs that no manifest names, in the
        registry.
        """
        self._core.check_open()
        caller = caller or new_caller(actor=actor)
        parsed = parse_reference(reference)
        if parsed.digest is None and parsed.tag is not None:
            await real_image(self._core, parsed.name, caller)
        return await push_image(self._core, parsed, auth, progress, caller)

    def save(
        self,
        references: str | Sequence[str],
        *,
        form: Literal["docker", "oci"] = "docker",
        actor: Actor | None = None,
        caller: Caller | None = None,
    ) -> AbstractAsyncContextManager[AsyncGenerator[bytes, None]]:
        """An archive of images, to be read in ``async with``; made while it is read, in bounded memory.

        ``docker``: what ``docker save`` of Docker 25 and later writes, with a ``manifest.json`` and as an OCI
        layout at once, its layers plain; any Docker, podman and skopeo read it. ``oci``: an OCI layout with the
        blobs as they came. Layers that images share are in it once. The same images give the same bytes. Entering
        raises ``NotFound``, ``Ambiguous``, ``Invalid``; reading raises ``HostError``, ``DigestMismatch`` and
        ``StoreCorrupt``.
        """
        self._core.check_open()
        names = [references] if isinstance(references, str) else list(references)
        return save_real_images(self._core, names, form, caller or new_caller(actor=actor))

    async def load(
        self,
        source: str | os.PathLike[str] | Source,
        *,
        progress: Tell = untold,
        actor: Actor | None = None,
        caller: Caller | None = None,
    ) -> builtins.list[Loaded]:
        """Add every image of an archive that ``docker save``, podman or skopeo wrote (or an OCI layout in a tar).

        ``source``: a path, an open file, a descriptor, or an async iterable of its bytes; plain, gzip or zstd.
        Read once, as a stream, in bounded memory. All of its images are added or none. Raises ``ImageInvalid`` for
        an archive that is corrupt, hostile or inconsistent, ``HostError`` when the machine refuses, and what
        ``source`` raises. A cancel or a crash leaves nothing.
        """
        self._core.check_open()
        caller = caller or new_caller(actor=actor)
        with opened(source) as archive:
            return await load_images(self._core, archive, progress, caller)

    # -- import ---------------------------------------------------------------------------------------------

    async def import_rootfs(
        self,
        source: str | os.PathLike[str] | Source,
        reference: str | None = None,
        *,
        config: ImageConfig | None = None,
        comment: str = "",
        actor: Actor | None = None,
        caller: Caller | None = None,
    ) -> ImageState:
        """A root file system as an image of one layer, named ``reference`` if given.

        ``source``: a tar archive, plain or gzip: a path, an open file, or an async iterable of its bytes. Read
        as a stream, once, in bounded memory. Raises ``ImageInvalid`` for a corrupt or hostile archive,
        ``HostError`` when the machine refuses, and ``Invalid`` for a wrong name. A cancel or a crash leaves
        nothing that is visible; what was unpacked goes to the trash.
        """
        self._core.check_open()
        name = None if reference is None else _tag_name(reference)
        staging = self._core.paths.staging / secrets.token_hex(8)
        caller = caller or new_caller(actor=actor)
        first = first_result(self._core, caller, ImageAdded)
        if first is not None:
            assert isinstance(first.event, ImageAdded)
            return self._queries.resolve(first.event.image)
        try:
            staging.mkdir(mode=0o700)
            with opened(source) as archive:
                staged = await self._core.unpackers.unpack(archive, staging, limits=self._core.limits)
            with trio.CancelScope(shield=True):
                state = await self._publish(staged, name, config or ImageConfig(), comment, caller)
        finally:
            self._core.paths.discard(staging)
            self._core.trash.filled()
        return state

    async def _publish(
        self, staged: StagedLayer, name: str | None, config: ImageConfig, comment: str, caller: Caller
    ) -> ImageState:
        """Files first, then the events that name them."""
        core = self._core
        diff = Digest(staged.unpacked.diff_id)
        created = datetime.fromtimestamp(core.journal.clock() / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        architecture = host_platform().architecture
        document = _config_document(config, diff, created, architecture, comment)
        new = NewImage(
            document,
            parse_config(document),
            "import",
            {chain_id(None, diff): staged},
            names=() if name is None else (name,),
        )
        records = await publish(core, [new], caller)
        [image] = [record.event.image for record in records if isinstance(record.event, ImageAdded)]
        return self._queries.resolve(image)


def _visible(reader: Reader, layers: Sequence[ChainId]) -> tuple[ChainId, ...]:
    for index in range(len(layers) - 1, 0, -1):
        layer = reader.get(LAYERS, layers[index])
        if layer is not None and layer.opaque:
            return tuple(layers[index:])
    return tuple(layers)


@contextlib.contextmanager
def opened(source: str | os.PathLike[str] | Source) -> Iterator[Source]:
    """``source``; opened here, and closed at the end, if it is a path. Raises ``HostError``."""
    if not isinstance(source, str | os.PathLike):
        yield source
        return
    try:
        file = open(source, "rb", buffering=0)  # noqa: SIM115  # closed below
    except OSError as error:
        raise HostError("read the archive", os.fspath(source), error.errno or 0) from error
    with file:
        yield file


def _tag_name(reference: str) -> str:
    parsed = parse_reference(reference)
    if parsed.digest is not None or parsed.tag is None:
        raise Invalid("image reference", reference, "an import is named by a tag, not a digest")
    return parsed.name


def _config_document(config: ImageConfig, diff: Digest, created: str, architecture: str, comment: str) -> bytes:
    """The image's config blob (OCI image-spec, config.md); its digest is the image's id."""
    inner: dict[str, Any] = {
        "Entrypoint": list(config.entrypoint) or None,
        "Cmd": list(config.cmd) or None,
        "Env": list(config.env) or None,
        "WorkingDir": config.working_dir,
        "User": config.user,
        "Labels": dict(config.labels) or None,
        "ExposedPorts": {port: {} for port in config.exposed_ports} or None,
        "Volumes": {volume: {} for volume in config.volumes} or None,
        "StopSignal": config.stop_signal,
    }
    document = {
        "created": created,
        "architecture": architecture,
        "os": "linux",
        "comment": comment,
        "config": {key: value for key, value in inner.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [diff]},
        "history": [{"created": created, "comment": comment}],
    }
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
