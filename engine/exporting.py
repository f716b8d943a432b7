"""A container's file system as a tar archive, whether it runs or not."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import trio

from lading.engine.core import Core
from lading.engine.stream import chunks
from lading.events.container import ContainerState
from lading.storage.overlay import mount_view, mounts_below, unmount
from lading.storage.pack import pack
from lading.storage.store import Paths

__all__ = ["export_container"]


@asynccontextmanager
async def export_container(core: Core, state: ContainerState) -> AsyncIterator[AsyncGenerator[bytes, None]]:
    """The archive, made while it is read. Raises ``HostError``. What a crash leaves mounted, recovery unmounts."""
    root = core.paths.bundle(state.id) / "rootfs"
    made = None
    try:
        with trio.CancelScope(shield=True):
            if root not in mounts_below(root.parent):
                made = await trio.to_thread.run_sync(_view, core.paths, state)
                root = made / "rootfs"
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # stays what it is if the container stops
        try:
            async with aclosing(chunks(pack(fd, whiteouts=False, live=True))) as stream:
                yield stream
        finally:
            os.close(fd)
    finally:
        if made is not None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_take_away, made)


def _view(paths: Paths, state: ContainerState) -> Path:
    """Mount what the container would see, to be read only."""
    place = paths.bundle(f"export-{secrets.token_hex(8)}")
    (place / "rootfs").mkdir(parents=True, mode=0o700)
    upper = paths.container(state.id) / "upper"
    layers = [paths.layer(chain) for chain in reversed(state.spec.layers)]
    try:
        mount_view(place / "rootfs", [*([upper] if upper.is_dir() else []), *layers, paths.skeleton])
    except BaseException:
        _take_away(place)
        raise
    return place


def _take_away(place: Path) -> None:
    unmount(place / "rootfs")
    for directory in (place / "rootfs", place):
        with suppress(FileNotFoundError):
            directory.rmdir()
