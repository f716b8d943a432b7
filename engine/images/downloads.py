"""Layers on their way: each is fetched and unpacked once, however many pulls wait for it."""

from __future__ import annotations

import copy
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from lading.engine.images.trash import Trash
from lading.events.errors import LadingError
from lading.storage.layers import StagedLayer
from lading.storage.store import Paths

__all__ = ["Downloads", "Fetch"]

Fetch = Callable[[Path, Callable[[int], None]], Awaitable[StagedLayer]]
"""Fetch a layer into a new directory, telling how many bytes have come."""


@attrs.define(eq=False)
class _Download:
    staging: Path
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)
    users: int = 0
    listeners: list[Callable[[int], None]] = attrs.field(factory=list)
    layer: StagedLayer | None = None
    error: Exception | None = None

    def tell(self, read: int) -> None:
        for listener in self.listeners:
            listener(read)


class Downloads:
    """The downloads of an engine. They run in its ``nursery``, so that they outlive the pull that began them."""

    def __init__(self, paths: Paths, trash: Trash, nursery: trio.Nursery) -> None:
        self._paths = paths
        self._trash = trash
        self._nursery = nursery
        self._running: dict[str, _Download] = {}

    @asynccontextmanager
    async def layer(self, key: str, fetch: Fetch, progress: Callable[[int], None]) -> AsyncIterator[StagedLayer]:
        """The layer called ``key``, fetched by ``fetch`` unless it is on its way already; whole inside the block.

        ``progress`` hears of the bytes that come. Raises what fetching raised, to everybody who waited. When the
        last one who wants it leaves, it is cancelled, and what was not put in place is thrown away.
        """
        download = self._running.get(key)
        if download is None:
            download = self._running[key] = _Download(self._paths.staging / secrets.token_hex(8))
            self._nursery.start_soon(self._run, key, download, fetch)
        download.users += 1
        download.listeners.append(progress)
        try:
            await download.ended.wait()
            if download.error is not None:
                raise copy.copy(download.error) from download.error
            assert download.layer is not None, "it is cancelled only when nobody waits for it"
            yield download.layer
        finally:
            download.listeners.remove(progress)
            download.users -= 1
            if not download.users:
                self._forget(key, download)
                download.scope.cancel()
                with trio.CancelScope(shield=True):
                    await download.ended.wait()
                self._paths.discard(download.staging)
                self._trash.filled()

    async def _run(self, key: str, download: _Download, fetch: Fetch) -> None:
        try:
            with download.scope:
                download.staging.mkdir(mode=0o700)
                download.layer = await fetch(download.staging, download.tell)
        except (LadingError, OSError) as error:
            download.error = error
            self._forget(key, download)  # the next one who asks tries again
        finally:
            download.ended.set()

    def _forget(self, key: str, download: _Download) -> None:
        if self._running.get(key) is download:
            del self._running[key]
