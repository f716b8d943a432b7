"""The newest records, kept decoded in memory for all who follow the log.

A follower that is up to date takes its records from here: no disk, no decoding, and the same objects for a hundred
followers as for one. Nothing is handed to anybody, so there is nothing to hold for who is slow or stopped: records
leave when newer ones come, and who had not taken them reads them from disk instead.

Who waits is woken once for a commit, or for several, when the engine is so busy that they pile up. To wake many
followers less often than that was tried: it saved a tenth of the processor's time and cost as much again in delay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from lading.events.envelope import Record
from lading.events.errors import EngineClosed

__all__ = ["Tail"]

_KEPT: Final = 4096
_SLACK: Final = 1024


class Tail:
    """The last few thousand records of a log that ends at ``position``. For the engine's own thread."""

    def __init__(self, position: int) -> None:
        self.position: int = position
        """The position of the last record that this has seen; it is on disk."""
        self._records: list[Record] = []
        self._grown = trio.Event()
        self._closed = False

    def add(self, records: Sequence[Record]) -> None:
        """Take in what an append answered; records that were there before it are left alone."""
        for record in records:
            if record.position <= self.position:
                continue
            self.reach(record.position - 1)
            self._records.append(record)
            self.position = record.position
        if len(self._records) > _KEPT + _SLACK:
            del self._records[:-_KEPT]

    def reach(self, position: int) -> None:
        """Take note that the log goes to ``position`` by now: what this was not given is on disk."""
        if position > self.position:
            self._records.clear()
            self.position = position

    def after(self, position: int, limit: int) -> list[Record] | None:
        """Up to ``limit`` records after ``position``, or None if those have left already."""
        skip = len(self._records) - (self.position - position)
        return None if skip < 0 else self._records[skip : skip + limit]

    async def wait_past(self, position: int) -> None:
        """Return once there are records past ``position``; ``EngineClosed`` when there never will be any."""
        while self.position <= position:
            if self._closed:
                raise EngineClosed
            await self._grown.wait()

    def tell(self) -> None:
        """Wake who waits: to be called when all of a commit has been added."""
        if self._grown.statistics().tasks_waiting:
            grown, self._grown = self._grown, trio.Event()
            grown.set()

    def close(self) -> None:
        """Nothing more will come: who waits for it gets ``EngineClosed``."""
        self._closed = True
        self.tell()
