"""Reading the log while it grows."""

from __future__ import annotations

from collections import deque

import trio

from lading.engine.journal import Journal
from lading.events.envelope import Record
from lading.events.errors import EngineClosed
from lading.storage.log import Verified

__all__ = ["Follower", "History"]

_PAGE = 256


class Follower:
    """An async iterator over the records after a position: first those that are there, then each new one.

    No gap, no duplicate, in order, however slow the reader: it reads pages and holds neither a transaction nor
    a queue between them. Ends when the engine closes.
    """

    def __init__(self, journal: Journal, after: int) -> None:
        self._journal = journal
        self._after = after
        self._page: deque[Record] = deque()

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> Record:
        while not self._page:
            self._page.extend(self._journal.log.read(self._after, _PAGE))
            if not self._page:
                try:
                    await self._journal.wait_past(self._after)
                except EngineClosed:
                    raise StopAsyncIteration from None
        await trio.lowlevel.checkpoint_if_cancelled()
        record = self._page.popleft()
        self._after = record.position
        return record


class History:
    """The engine's log, to read: ``engine.log``."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def position(self) -> int:
        """The position of the last record."""
        return self._journal.position

    def read(self, after: int = 0, limit: int = 1000) -> list[Record]:
        """Up to ``limit`` records after position ``after``."""
        return self._journal.log.read(after, limit)

    def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> list[Record]:
        """Up to ``limit`` records of ``stream`` after its version ``after``."""
        return self._journal.log.read_stream(stream, after, limit)

    def follow(self, after: int | None = None) -> Follower:
        """Every record after ``after`` (None: from now on), for ever."""
        return Follower(self._journal, self.position if after is None else after)

    async def verify(self) -> Verified:
        """Walk the chain, rebuild the views aside, and compare. ``StoreCorrupt`` says where it is wrong."""
        return await trio.to_thread.run_sync(self._journal.log.verify)
