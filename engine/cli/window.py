"""A part of a store's history: which records it has, and what there was just before them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import attrs

from lading.events.container import ContainerState
from lading.events.envelope import Record
from lading.events.errors import LadingError
from lading.events.views import CONTAINERS, project
from lading.storage.log import Log
from lading.storage.memory import MemoryViews

__all__ = ["Window", "open_window"]

_PAGE = 1000


@attrs.frozen
class Window:
    """The records of ``log`` after position ``after`` up to ``end``. ``before``: the views as of ``after``."""

    log: Log
    after: int
    end: int
    before: MemoryViews

    def records(self, containers: Collection[str] | None = None) -> Iterator[Record]:
        """The records, in order; with ``containers``, without those of any other container."""
        for record in _walk(self.log, self.after, self.end):
            kind, _, name = record.stream.partition("/")
            if containers is None or kind != "container" or name in containers:
                yield record

    def containers_before(self) -> Mapping[str, ContainerState]:
        """The containers that there were just before the first record, by id."""
        return {key: state for view, key, state in self.before.items() if view is CONTAINERS}


def open_window(log: Log, since: int = 0, until: int | None = None) -> Window:
    """From the first record whose time is ``since`` or later to the last whose time is ``until`` or earlier.

    Times are nanoseconds UTC. What lies between the two is in it, whatever its clock said. The end is the log's
    as of now: records that come meanwhile are not in it.
    """
    head = log.head()
    before = MemoryViews()
    after = 0
    if since > 0:
        for record in _walk(log, 0, head):
            if record.time >= since:
                break
            _fold(record, before)
            after = record.position
    end = head
    if until is not None:
        end = after
        for record in _walk(log, after, head):
            if record.time <= until:
                end = record.position
    return Window(log, after, end, before)


def _fold(record: Record, views: MemoryViews) -> None:
    try:
        project(record, views)
    except LadingError:
        return  # a log without its first records: what it can't tell is not known


def _walk(log: Log, after: int, end: int) -> Iterator[Record]:
    while after < end:
        page = log.read(after, min(_PAGE, end - after))
        if not page:
            return
        for record in page:
            if record.position > end:
                return
            yield record
        after = page[-1].position
