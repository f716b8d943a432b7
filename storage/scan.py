"""Going through a log for what is selected of it, forwards or backwards, a page at a time.

No read transaction stays open between two records, and what is certainly not selected is not decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from lading.events.codec import decode_record
from lading.events.envelope import Record
from lading.events.selection import Selection
from lading.storage.log import Log
from lading.storage.lookback import Lookback

__all__ = ["scan"]

_PAGE: Final = 1000
_WHOLE_ID: Final = 32


def scan(
    log: Log, selection: Selection, after: int, last: int, *, backwards: bool = False, past: Lookback | None = None
) -> Iterator[Record]:
    """What is selected of the records after position ``after`` up to ``last``, by position, or the last one first.

    Records of one stream or of one command are found by their index.
    """
    past = past or Lookback(log)
    if len(selection.command) == _WHOLE_ID:
        indexed: Iterable[Record] = log.read_command(selection.command)
    elif len(selection.streams) == 1 and not selection.kinds:
        indexed = _stream(log, *selection.streams)
    else:
        yield from _through(log, selection, after, last, backwards, past)
        return
    if backwards:
        indexed = reversed(list(indexed))
    for record in indexed:
        if after < record.position <= last and selection.wants(record, past.origin):
            yield record


def _stream(log: Log, stream: str) -> Iterator[Record]:
    version = 0
    while page := log.read_stream(stream, version, _PAGE):
        yield from page
        version = page[-1].version


def _through(
    log: Log, selection: Selection, after: int, last: int, backwards: bool, past: Lookback
) -> Iterator[Record]:
    needles = selection.needles()
    after, last = max(after, log.first - 1), min(last, log.head())
    while after < last:
        begin = max(after, last - _PAGE) if backwards else after
        page = log.read_raw(begin, min(_PAGE, last - begin))
        if not page:
            return
        for position, stored in reversed(page) if backwards else page:
            if all(any(needle in stored for needle in group) for group in needles):
                record = decode_record(stored, position)
                if selection.everything or selection.wants(record, past.origin):
                    yield record
        if backwards:
            last = begin
        else:
            after = page[-1][0]
