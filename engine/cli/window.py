"""A part of a store's history: which records it has, and what there was just before them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import attrs

from lading.events.container import ContainerState
from lading.events.envelope import Record
from lading.events.moments import Moment, Position
from lading.events.views import CONTAINERS, Reader
from lading.storage.log import Log

__all__ = ["Window", "open_window", "window_end"]

_PAGE = 1000


@attrs.frozen
class Window:
    """The records of ``log`` after position ``after`` up to ``end``, and ``before``: the views as of ``after``.

    ``since`` and ``until`` are the instants that it was asked for by, nanoseconds UTC; None where it was asked for
    by a position, or not at all.
    """

    log: Log
    after: int
    end: int
    before: Reader
    since: int | None = None
    until: int | None = None

    def records(self, containers: Collection[str] | None = None) -> Iterator[Record]:
        """The records, in order; with ``containers``, without those of any other container."""
        after = self.after
        while after < self.end:
            page = self.log.read(after, min(_PAGE, self.end - after))
            if not page:
                return
            for record in page:
                kind, _, name = record.stream.partition("/")
                if containers is None or kind != "container" or name in containers:
                    yield record
            after = page[-1].position

    def containers_before(self) -> Mapping[str, ContainerState]:
        """The containers that there were just before the first record, by id."""
        return dict(self.before.scan(CONTAINERS))


def open_window(log: Log, since: Moment | None = None, until: Moment | None = None) -> Window:
    """From the first record whose time is ``since`` or later to the last whose time is ``until`` or earlier.

    A position is the point just after its record: of two, what is between them. Whatever lies between is in it,
    whatever its clock said. It begins with the oldest record that is kept at the earliest, and the end is the
    log's as of now: records that come meanwhile are not in it.
    """
    base, head = log.first - 1, log.head()
    after, end = base, head
    if since is not None:
        after = since.position if isinstance(since, Position) else log.position_from(since.time) - 1
    if until is not None:
        end = until.position if isinstance(until, Position) else log.position_at(until.time)
    after = min(max(after, base), head)
    end = min(max(end, after), head)
    return Window(log, after, end, log.at(after), _time(since), _time(until))


def _time(moment: Moment | None) -> int | None:
    return None if moment is None or isinstance(moment, Position) else moment.time


def window_end(window: Window, last: int, now: int) -> int:
    """The instant at which the picture of what still goes on ends: ``now``, or earlier if it was asked for so.

    A window that ends at a position ends when that record, drawn at ``last``, was written.
    """
    if window.until is not None:
        return min(window.until, now)
    return last if window.end < window.log.head() and last else now
