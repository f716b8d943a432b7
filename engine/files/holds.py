"""Who is at work in the files of a container that may not change hands meanwhile.

A container's writable layer is mounted by its start, written to by a copy, and becomes a layer by a commit or a
fork. Each of them but the start says here what it is about; the start waits until nobody is. Whoever holds a
container looks at its state after that, and never waits, while holding it, for a run that is being started.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import attrs

from lading.engine.images.content import ContentGate

__all__ = ["Holds"]


@attrs.define(eq=False)
class _Hold:
    gate: ContentGate = attrs.field(factory=ContentGate)
    users: int = 0


class Holds:
    """The containers whose files somebody works with. A container that is not in it costs nothing."""

    def __init__(self) -> None:
        self._holds: dict[str, _Hold] = {}
        self._readers: Counter[str] = Counter()

    def __contains__(self, container: str) -> bool:
        return container in self._holds

    @asynccontextmanager
    async def alone(self, container: str) -> AsyncIterator[None]:
        """Inside, nobody else holds ``container``, and its root is not mounted by a start."""
        async with self._hold(container) as hold, hold.gate.removing():
            yield

    @asynccontextmanager
    async def shared(self, container: str) -> AsyncIterator[None]:
        """Inside, nobody holds ``container`` alone, and its root is not mounted by another start."""
        async with self._hold(container) as hold, hold.gate.using():
            yield

    async def free(self, container: str) -> None:
        """Return when nobody holds ``container`` of those who did when this was called."""
        if container in self._holds:
            async with self.alone(container):
                pass

    @contextmanager
    def reading(self, container: str) -> Iterator[None]:
        """Inside, somebody has the mounted root of ``container`` open, so that its end may not unmount it."""
        self._readers[container] += 1
        try:
            yield
        finally:
            self._readers[container] -= 1
            if not self._readers[container]:
                del self._readers[container]

    def is_read(self, container: str) -> bool:
        """Whether anybody is in ``reading``: then what it wrote may not be on disk, though it is over."""
        return container in self._readers

    @asynccontextmanager
    async def _hold(self, container: str) -> AsyncIterator[_Hold]:
        hold = self._holds.setdefault(container, _Hold())
        hold.users += 1
        try:
            yield hold
        finally:
            hold.users -= 1
            if not hold.users:
                del self._holds[container]
