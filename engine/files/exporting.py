"""A container's file system as a tar archive, whether it runs or not."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import trio

from lading.engine.core import Core
from lading.engine.files.roots import read_view, take_away
from lading.engine.stream import chunks
from lading.events.container import ContainerState
from lading.storage.overlay import mounts_below
from lading.storage.pack import pack

__all__ = ["export_container"]


@asynccontextmanager
async def export_container(core: Core, state: ContainerState) -> AsyncIterator[AsyncGenerator[bytes, None]]:
    """The archive, made while it is read. Raises ``HostError``. What a crash leaves mounted, recovery unmounts."""
    root = core.paths.bundle(state.id) / "rootfs"
    made = None
    try:
        with trio.CancelScope(shield=True):
            if root not in mounts_below(root.parent):
                made = await trio.to_thread.run_sync(read_view, core.paths, state)
                root = made / "rootfs"
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # stays what it is if the container stops
        try:
            with core.holds.reading(state.id):
                async with aclosing(chunks(pack(fd, whiteouts=False, live=True))) as stream:
                    yield stream
        finally:
            os.close(fd)
    finally:
        if made is not None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(take_away, made)
