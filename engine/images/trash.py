"""Deleting what was renamed into the trash, behind everybody's back and one thing at a time."""

from __future__ import annotations

import contextlib
import os
from functools import partial

import trio

from lading.events.errors import HostError
from lading.storage.store import Paths
from lading.storage.trees import remove_tree

__all__ = ["Trash"]


class Trash:
    """Empties the trash when told that there is something in it. ``run`` is its task.

    What a cancel or a crash leaves in the trash is deleted after the next open.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._filled = trio.Event()

    def filled(self) -> None:
        """There is something to delete."""
        self._filled.set()

    async def run(self) -> None:
        """Delete for ever. Never raises for what can't be deleted: that is tried again at the next open."""
        while True:
            await self._filled.wait()
            self._filled = trio.Event()
            # A moment later there is more to do in the same trip to the thread.
            await trio.sleep(0.05)
            await trio.to_thread.run_sync(partial(empty, self._paths))


def empty(paths: Paths) -> None:
    """Delete everything in the trash that can be deleted. Blocks."""
    directory = os.open(paths.trash, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(directory):
            with contextlib.suppress(HostError):
                remove_tree(directory, os.fsencode(name))
    finally:
        os.close(directory)
