"""The history, to read and to follow: ``engine.log``.

A follower first reads what is there, from disk and page by page, then takes what is new from the records that
the engine keeps in memory (``Tail``). It holds the page that it is giving out and nothing else: no LMDB reader,
no queue, nothing that grows. So a reader that is slow or stopped costs nobody anything; when it goes on and what
it has not seen is no longer in memory, it reads from disk again until it has caught up.

Every promise is made of positions: what a follower gives comes after the last thing it gave, without a gap but for
what the selection leaves out, whichever of the two it comes from.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, Unpack, overload

import attrs
import trio

from lading.engine.history.journal import Journal
from lading.engine.history.verifier import verify_aside
from lading.events.codec import check_chain, decode_record
from lading.events.envelope import Record
from lading.events.errors import EngineClosed, NotInHistory, StoreCorrupt
from lading.events.selection import EVERYTHING, Selection, SelectionWords, select
from lading.storage.log import Log, Verified
from lading.storage.lookback import Lookback

__all__ = ["CaughtUp", "FellBehind", "Follower", "History", "Item", "Pages"]

_PAGE: Final = 256
"""Records between two checkpoints, at most."""
_SKIP: Final = 1024
"""Records that are looked at between two checkpoints where most are left out undecoded."""


@attrs.frozen
class CaughtUp:
    """Everything up to ``position`` has been given; what comes is new."""

    position: int


@attrs.frozen
class FellBehind:
    """This reader was too slow to get what comes after ``position`` as it happened: it reads from disk again.

    Nothing is left out. ``CaughtUp`` follows when it has caught up.
    """

    position: int


Item: TypeAlias = Record | CaughtUp | FellBehind
T = TypeVar("T")


class Pages(Generic[T]):
    """An async iterator of lists, from ``History.pages``: each has 1 to 256 items, in order.

    Each list comes after a checkpoint. A cancel loses nothing: the next call goes on where this one would have.
    """

    def __init__(
        self, journal: Journal, past: Lookback, after: int, until: int | None, selection: Selection, notices: bool
    ) -> None:
        self._log, self._tail, self._past = journal.log, journal.tail, past
        self._until = until
        self._selection = selection
        self._needles = selection.needles()
        self._all = selection.everything
        self._notices = notices
        self._live = False
        self.position: int = after
        """Everything up to here has been given, or is not selected."""

    def __aiter__(self) -> Pages[T]:
        return self

    async def __anext__(self) -> list[T]:
        while True:
            page: list[Any]
            if self._until is not None and self.position >= self._until:
                await trio.lowlevel.checkpoint()
                raise StopAsyncIteration
            if self._tail.position > self.position:
                await trio.lowlevel.checkpoint()
            elif self._live or not self._notices:
                self._live = True
                try:
                    await self._tail.wait_past(self.position)
                except EngineClosed:
                    raise StopAsyncIteration from None
            else:
                await trio.lowlevel.checkpoint()
                if self._tail.position <= self.position:
                    self._live = True
                    page = [CaughtUp(self.position)]
                    return page
            recent = self._tail.after(self.position, _PAGE)
            if recent is None and self._live:
                self._live = False
                if self._notices:
                    page = [FellBehind(self.position)]
                    return page
            page = self._from_disk() if recent is None else self._from_tail(recent)
            if page:
                return page

    def _from_tail(self, recent: list[Record]) -> list[Any]:
        if self._until is not None and recent and recent[-1].position > self._until:
            recent = recent[: self._until - self.position]
        if recent:
            self.position = recent[-1].position
        if self._all:
            return recent
        wants, origin = self._selection.wants, self._past.origin
        return [record for record in recent if wants(record, origin)]

    def _from_disk(self) -> list[Any]:
        try:
            stored = self._log.read_raw(self.position, _SKIP if self._needles else _PAGE)
        except EngineClosed:
            raise StopAsyncIteration from None
        if stored and stored[0][0] != self.position + 1:
            raise NotInHistory(self.position + 1, stored[0][0], self._log.head())
        page: list[Record] = []
        chain = self._log.chain_at(self.position) if stored else b""
        for position, value in stored:
            if self._until is not None and position > self._until:
                break
            try:
                chain = check_chain(value, position, chain)
            except StoreCorrupt:
                if page:
                    break  # what is before it first; then it is told
                raise
            if all(any(needle in value for needle in group) for group in self._needles):
                record = decode_record(value, position)
                if self._all or self._selection.wants(record, self._past.origin):
                    page.append(record)
            self.position = position
            if len(page) == _PAGE:
                break
        return page


class Follower(Generic[T]):
    """An async iterator over what ``History.follow`` promises, one item at a time.

    Iterating is a checkpoint once for each page of at most 256 items, and not for each item. ``aclose`` is not
    needed: there is nothing to close.
    """

    def __init__(self, pages: Pages[T]) -> None:
        self._pages = pages
        self._page: Iterator[T] = iter(())

    def __aiter__(self) -> Follower[T]:
        return self

    async def __anext__(self) -> T:
        for item in self._page:
            return item
        self._page = iter(await self._pages.__anext__())
        return next(self._page)


class History:
    """The engine's log, to read: ``engine.log``."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._past = Lookback(journal.log)

    @property
    def position(self) -> int:
        """The position of the last record."""
        return self._journal.position

    @property
    def first(self) -> int:
        """The position of the oldest record that is kept."""
        return self._journal.log.first

    def read(self, after: int = 0, limit: int = 1000) -> list[Record]:
        """Up to ``limit`` records after position ``after``, beginning with the oldest that is kept."""
        return self._journal.log.read(after, limit)

    def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> list[Record]:
        """Up to ``limit`` records of ``stream`` after its version ``after``."""
        return self._journal.log.read_stream(stream, after, limit)

    def read_command(self, command: str) -> list[Record]:
        """All that the request ``command`` led to, in order."""
        return self._journal.log.read_command(command)

    def pages(self, after: int = 0, *, until: int | None = None, **words: Unpack[SelectionWords]) -> Pages[Record]:
        """What is in the log after ``after``, up to position ``until`` (None: to what is the last now), in lists.

        Selects as ``follow`` does, and raises what it raises. Ends at ``until``, at once if that is not past
        ``after``; it waits for an ``until`` that the log has not reached.
        """
        return self.select(select(**words), after, self.position if until is None else until)

    @overload
    def follow(
        self, after: int | None = ..., *, notices: Literal[False] = ..., **words: Unpack[SelectionWords]
    ) -> Follower[Record]: ...

    @overload
    def follow(
        self, after: int | None = ..., *, notices: Literal[True], **words: Unpack[SelectionWords]
    ) -> Follower[Item]: ...

    def follow(
        self, after: int | None = None, *, notices: bool = False, **words: Unpack[SelectionWords]
    ) -> AsyncIterator[Any]:
        """Every selected record after position ``after`` (None: from now on): what there is, then what comes.

        In order, without a gap, none twice, however slow the reader. ``streams``, ``types``, ``images``,
        ``labels``, ``actors`` and ``command`` select (``events/selection.py`` has what their words mean); without
        them it is everything. With ``notices``, a ``CaughtUp`` comes between the past and the present, and
        ``FellBehind`` and ``CaughtUp`` again around what a reader that was too slow is given from disk.

        Raises ``Invalid`` for a word that nothing could fit, and ``NotInHistory`` where the records after
        ``after`` are not all kept; later, too, if they are compacted away before a slow reader has had them.
        Ends when the engine closes. A position beyond the last one is waited for.
        """
        start = self.position if after is None else after
        return Follower(self.select(select(**words), start, notices=notices))

    def select(
        self, selection: Selection = EVERYTHING, after: int = 0, until: int | None = None, *, notices: bool = False
    ) -> Pages[Any]:
        """``pages`` of a checked selection; ``until`` None is for ever. ``notices`` as in ``follow``."""
        check_kept(self._journal.log, after)
        return Pages(self._journal, self._past, after, until, selection, notices)

    def position_at(self, time: int) -> int:
        """The last position whose time is at or before ``time`` (nanoseconds UTC); 0 if there is none."""
        return self._journal.log.position_at(time)

    def position_from(self, time: int) -> int:
        """The first position whose time is at or after ``time`` (nanoseconds UTC), or one past the last."""
        return self._journal.log.position_from(time)

    async def verify(self, progress: Callable[[int, int], None] | None = None) -> Verified:
        """Walk the chain, rebuild the views aside, and compare. ``StoreCorrupt`` says where it is wrong.

        In a process of its own, which a cancel ends: the engine goes on meanwhile. ``progress`` is called with the
        position reached and the last one.
        """
        return await verify_aside(self._journal.log.path.parent, progress)


def check_kept(log: Log, after: int) -> None:
    """Raise ``NotInHistory`` unless every record after position ``after`` is in the log."""
    first = log.first
    if after < first - 1:
        raise NotInHistory(after + 1, first, log.head())
