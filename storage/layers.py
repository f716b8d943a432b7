"""Layers and blobs on disk: made aside, synced, then renamed into place.

Nothing here is visible before the event that names it, and everything that an event names is complete and
on disk: power may fail at any instant (a metadata database that is synced, above layer data that is not, is
how other engines lose layers).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

import attrs

from lading.events.errors import HostError
from lading.storage.decode import ByteSource
from lading.storage.linux import sync_directory, syncfs
from lading.storage.store import Paths
from lading.storage.unpack import Unpacked, unpack

__all__ = ["StagedLayer", "publish_layer", "stage_layer", "write_blob"]


@attrs.frozen
class StagedLayer:
    """An unpacked layer that nobody can see yet: its directory, and what the archive turned out to be."""

    directory: Path
    unpacked: Unpacked


def stage_layer(source: ByteSource, staging: Path, stop: Callable[[], None] | None = None) -> StagedLayer:
    """Unpack ``source`` into the new directory ``staging``, which stays on an error (those of ``unpack``)."""
    staging.mkdir(mode=0o755)
    staging.chmod(0o755)
    return StagedLayer(staging, unpack(source, staging, stop=stop))


def publish_layer(paths: Paths, staged: StagedLayer, chain: str) -> None:
    """Sync ``staged`` to disk and put it in its place; if the same layer is there already, leave that one."""
    target = paths.layer(chain)
    if target.exists():
        return
    try:
        directory = os.open(paths.layers, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syncfs(directory)
            with contextlib.suppress(FileExistsError):
                staged.directory.rename(target)
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise HostError("publish the layer", os.fspath(target), error.errno or 0) from error


def write_blob(paths: Paths, content: bytes, digest: str) -> None:
    """Keep ``content``, whose digest is ``digest``, durably. ``HostError`` when the disk refuses."""
    target = paths.blobs / digest.removeprefix("sha256:")
    if target.exists():
        return
    new = paths.staging / f"blob-{target.name}"
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.rename(target)
        sync_directory(paths.blobs)
    except OSError as error:
        raise HostError("write the blob", os.fspath(target), error.errno or 0) from error
