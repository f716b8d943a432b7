"""Images: importing a root file system, listing, finding."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
from collections.abc import AsyncIterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import trio

from lading.engine.core import Caller, Core, new_caller
from lading.engine.nursery import open_bare_nursery
from lading.engine.queries import ImageQueries
from lading.engine.retry import first_result
from lading.events.envelope import Actor, Proposed
from lading.events.errors import Conflict, HostError, ImageInvalid, Invalid
from lading.events.ids import Digest, ImageId, chain_id, image_stream, layer_stream, tag_stream
from lading.events.image import ImageAdded, ImageConfig, ImageState, LayerAdded, Tagged
from lading.events.reference import parse_reference
from lading.events.views import LAYERS, TAGS
from lading.storage.layers import StagedLayer, publish_layer, stage_layer, write_blob

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
        if isinstance(source, AsyncIterable):
            return await self._stage_stream(source, staging)
        if not isinstance(source, str | os.PathLike):
            return await trio.to_thread.run_sync(stage_layer, source, staging)
        try:
            file = open(source, "rb")  # noqa: SIM115  # closed below
        except OSError as error:
            raise HostError("read the archive", os.fspath(source), error.errno or 0) from error
        try:
            return await trio.to_thread.run_sync(stage_layer, file, staging)
        finally:
            file.close()

    async def _stage_stream(self, source: AsyncIterable[bytes], staging: Path) -> StagedLayer:
        """Through a pipe, so that the unpacking thread reads at its own pace and nothing piles up."""
        read, write = os.pipe2(os.O_CLOEXEC)
        result: list[StagedLayer] = []

        source_failed = False

        async def unpack() -> None:
            with os.fdopen(read, "rb") as file:
                try:
                    result.append(await trio.to_thread.run_sync(stage_layer, file, staging))
                except ImageInvalid:
                    if not source_failed:  # else it is cut short, and its source says why
                        raise

        async with open_bare_nursery() as nursery:
            nursery.start_soon(unpack)
            async with trio.lowlevel.FdStream(write) as pipe:
                try:
                    async for data in source:
                        await pipe.send_all(data)
                except trio.BrokenResourceError:
                    pass  # the unpacker hung up; its error says why
                except BaseException:
                    source_failed = True
                    raise
        [staged] = result
        return staged

    async def _publish(
        self, staged: StagedLayer, name: str | None, config: ImageConfig, comment: str, caller: Caller
    ) -> ImageState:
        """Files first, then the events that name them."""
        core = self._core
        unpacked = staged.unpacked
        diff = Digest(unpacked.diff_id)
        chain = chain_id(None, diff)
        created = datetime.fromtimestamp(core.journal.clock() / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        architecture = _MACHINES.get(platform.machine(), platform.machine())
        document = _config_document(config, diff, created, architecture, comment)
        image = ImageId("sha256:" + hashlib.sha256(document).hexdigest())
        await trio.to_thread.run_sync(write_blob, core.paths, document, image)
        await trio.to_thread.run_sync(publish_layer, core.paths, staged, chain)
        while True:
            events: list[Proposed] = []
            if core.log.get(LAYERS, chain) is None:
                added = LayerAdded(
                    chain, diff, "", unpacked.size, unpacked.disk_bytes, unpacked.inodes, unpacked.opaque_root
                )
                events.append(Proposed(layer_stream(chain), added, 0))
            events.append(
                Proposed(
                    image_stream(image),
                    ImageAdded(
                        image, (chain,), (diff,), config, created, architecture, "linux", "import", comment
                    ),
                    0,
                )
            )
            if name is not None:
                tag = core.log.get(TAGS, name)
                events.append(Proposed(tag_stream(name), Tagged(name, image, tag.image if tag else "")))
            try:
                records = await core.journal.append(
                    events, actor=caller.actor, command=caller.command, once=caller.once
                )
                break
            except Conflict as conflict:
                if conflict.stream != layer_stream(chain):
                    raise
        [added_image] = [record.event.image for record in records if isinstance(record.event, ImageAdded)]
        return self._queries.resolve(added_image)


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
