"""Who may count on layers and blobs being there, and when what nothing counts on may be taken away.

What is reachable is worked out over the views. Between that and the removal nobody may come to count on something
that is about to go: making anything that refers to layers (a container, an image, a lease) goes on beside
others of its kind, and removing goes on alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

__all__ = ["ContentGate"]


class ContentGate:
    """Many users at once, or one remover. First come, first served, so that neither waits for ever.

    Not to be entered twice by one task. A cancel while waiting leaves nothing behind.
    """

    def __init__(self) -> None:
        self._door = trio.Lock()
        self._users = 0
        self._empty = trio.Event()

    @asynccontextmanager
    async def using(self) -> AsyncIterator[None]:
        """Inside, nothing is removed: what the views have now is still there when an append refers to it."""
        async with self._door:
            self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._empty.set()

    @asynccontextmanager
    async def removing(self) -> AsyncIterator[None]:
        """Inside, nothing is made that refers to layers: what the views don't reach now may be removed."""
        async with self._door:
            while self._users:
                self._empty = trio.Event()
                await self._empty.wait()
            yield
