"""Images: importing a root file system, listing, finding."""

from __future__ import annotations

import builtins
import json
import os
import platform
import secrets
from collections.abc import AsyncIterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import trio

from lading.engine.core import Caller, Core, new_caller
from lading.engine.prune import Pruned, prune_images
from lading.engine.publish import NewImage, publish
from lading.engine.queries import ImageQueries, created_at, labels_fit
from lading.engine.retry import first_result
from lading.engine.untag import Removal, remove_image
from lading.events.envelope import Actor, Proposed
from lading.events.errors import HostError, Invalid
from lading.events.ids import Digest, chain_id, tag_stream
from lading.events.image import ImageAdded, ImageConfig, ImageState, Tagged
from lading.events.reference import parse_reference
from lading.events.views import TAGS
from lading.storage.layers import StagedLayer

__all__ = ["Images"]

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


class Images:
    """Every image of the store."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._queries = ImageQueries(core.log)

    # -- queries --------------------------------------------------------------------------------------------

    def list(self) -> list[ImageState]:
        """Every image, the newest first."""
        return self._queries.list()

    def resolve(self, reference: str) -> ImageState:
        """The image with this name, id, or unique id prefix. Raises ``NotFound``, ``Ambiguous`` or ``Invalid``."""
        return self._queries.resolve(reference)

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
        actor: Actor | None = None,
        caller: Caller | None = None,
    ) -> Pruned:
        """Remove the images without a tag that no container was made from; with ``all``, those with tags, too.

        Only images made before ``until`` (nanoseconds UTC), with all of ``labels`` (``key`` or ``key=value``) and
        none of ``not_labels``. Nothing that a container, a pull or a push uses is touched. ``dry_run``: only
        tell what would go. Once begun it is carried out; after a crash, by the next opening.
        """

        def wanted(image: ImageState) -> bool:
            own = image.config.labels
            made = until is None or created_at(image) < until
            return made and labels_fit(labels, own) and not any(labels_fit((one,), own) for one in not_labels)

        self._core.check_open()
        caller = caller or new_caller(actor=actor)
        return await prune_images(self._core, caller, all=all, dry_run=dry_run, wanted=wanted)

    # -- import ---------------------------------------------------------------------------------------------

    async def import_rootfs(
        self,
        source: str | os.PathLike[str] | BinaryIO | AsyncIterable[bytes],
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
            staged = await self._stage(source, staging)
            with trio.CancelScope(shield=True):
                state = await self._publish(staged, name, config or ImageConfig(), comment, caller)
        finally:
            self._core.paths.discard(staging)
            self._core.trash.filled()
        return state

    async def _stage(
        self, source: str | os.PathLike[str] | BinaryIO | AsyncIterable[bytes], staging: Path
    ) -> StagedLayer:
        unpackers = self._core.unpackers
        if not isinstance(source, str | os.PathLike):
            return await unpackers.unpack(source, staging)
        try:
            file = open(source, "rb")  # noqa: SIM115  # closed below
        except OSError as error:
            raise HostError("read the archive", os.fspath(source), error.errno or 0) from error
        with file:
            return await unpackers.unpack(file, staging)

    async def _publish(
        self, staged: StagedLayer, name: str | None, config: ImageConfig, comment: str, caller: Caller
    ) -> ImageState:
        """Files first, then the events that name them."""
        core = self._core
        diff = Digest(staged.unpacked.diff_id)
        created = datetime.fromtimestamp(core.journal.clock() / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        architecture = _MACHINES.get(platform.machine(), platform.machine())
        new = NewImage(
            _config_document(config, diff, created, architecture, comment),
            (diff,),
            config,
            created,
            architecture,
            "linux",
            comment,
            "import",
            {chain_id(None, diff): staged},
            names=() if name is None else (name,),
        )
        records = await publish(core, [new], caller)
        [image] = [record.event.image for record in records if isinstance(record.event, ImageAdded)]
        return self._queries.resolve(image)


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
        "config": {key: value for key, value in inner.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [diff]},
        "history": [{"created": created, "comment": comment}],
    }
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
