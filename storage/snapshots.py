"""Snapshots of the views, so that travelling costs by the distance from the nearest one, not by the log's length.

Every ``EVERY`` records or so the appending transaction leaves a *mark*. What the views held at a mark is kept
in the table ``past``, grouped in *epochs*: an epoch's first mark has every state there was, each later one only
the states that changed since the mark before it. So a state at a mark is the newest entry of its epoch that is
not newer than the mark, and an epoch is closed, with a full copy after it, once its changes outweigh a full
copy.

A mark also has the least and the greatest time of the records since the mark before it: with these, the
position of an instant is found without reading the log, even though clocks step back.

Snapshots are a cache: all of this can be dropped and made again from the log. One is not: once the log was
compacted, the snapshot at its base stands for the records that are gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Iterable, Iterator

import attrs
import lmdb
import msgpack

from lading.events.codec import record_time
from lading.events.errors import StoreCorrupt
from lading.storage.database import Database
from lading.storage.keys import U64, past_key

__all__ = [
    "EVERY",
    "Mark",
    "find_mark",
    "first_from",
    "last_until",
    "marks",
    "past_states",
    "put_mark",
    "state_digest",
    "state_then",
    "take",
    "takes_all",
]

EVERY = 4096
"""Records between two marks."""

_SMALL = 8192
"""Changes that an epoch may have whatever the views' size."""


@attrs.frozen
class Mark:
    """A snapshot: where, in which epoch, how many entries the epoch has so far, and the times since the last
    mark.
    """

    position: int
    epoch: int
    entries: int
    oldest: int
    newest: int


def take(
    db: Database, txn: lmdb.Transaction, position: int, dirty: Iterable[bytes], oldest: int, newest: int
) -> tuple[int, int]:
    """Leave a mark at ``position``, up to which the view table must be; ``dirty``: what changed since the last
    mark.

    Returns how many entries and bytes that wrote.
    """
    before = find_mark(db, txn, position)
    live = txn.stat(db.tables["view"])["entries"]
    full = before is None or takes_all(before, live)
    epoch = position if full or before is None else before.epoch
    entries = list(_everything(db, txn, position) if full else _changes(db, txn, epoch, position, dirty))
    with txn.cursor(db=db.tables["past"]) as cursor:
        cursor.putmulti(entries)
    so_far = len(entries) + (0 if full or before is None else before.entries)
    put_mark(db, txn, Mark(position, epoch, so_far, oldest, newest))
    return len(entries) + 1, sum(len(key) + len(value) for key, value in entries)


def state_digest(states: Iterable[tuple[bytes, bytes]]) -> str:
    """The sha256 (hexadecimal) over states, in the order of their keys: what ``LogCompacted.state`` says."""
    sha = hashlib.sha256()
    for key, value in states:
        sha.update(b"%d:%b%d:%b" % (len(key), key, len(value), value))
    return sha.hexdigest()


def takes_all(before: Mark, live: int) -> bool:
    """Whether the mark after ``before`` begins an epoch, when there are ``live`` states."""
    return before.entries > 2 * live + _SMALL


def put_mark(db: Database, txn: lmdb.Transaction, mark: Mark) -> None:
    """Write ``mark`` down."""
    value = msgpack.packb((mark.epoch, mark.entries, mark.oldest, mark.newest))
    txn.put(U64.pack(mark.position), value, db=db.tables["mark"])


def _everything(db: Database, txn: lmdb.Transaction, position: int) -> Iterator[tuple[bytes, bytes]]:
    with txn.cursor(db=db.tables["view"]) as cursor:
        for key, value in cursor:
            yield past_key(position, key, position), value


def _changes(
    db: Database, txn: lmdb.Transaction, epoch: int, position: int, dirty: Iterable[bytes]
) -> Iterator[tuple[bytes, bytes]]:
    view = db.tables["view"]
    for key in sorted(dirty):
        value = txn.get(key, db=view)
        if value is None and not state_then(db, txn, epoch, position, key):
            continue  # it came and went between two marks
        yield past_key(epoch, key, position), value or b""


def state_then(db: Database, txn: lmdb.Transaction, epoch: int, position: int, key: bytes) -> bytes | None:
    """The bytes at ``key`` of the view table as of the mark at ``position``, or None."""
    wanted = past_key(epoch, key, position)
    with txn.cursor(db=db.tables["past"]) as cursor:
        if not ((cursor.set_range(wanted) and cursor.key() == wanted) or cursor.prev()):
            # Past the end of the table, ``prev`` goes to its last entry.
            return None
        found, value = cursor.item()
    if len(found) != len(wanted) or found[: -U64.size] != wanted[: -U64.size]:
        return None
    return value or None


def past_states(
    db: Database, txn: lmdb.Transaction, mark: Mark, prefix: bytes = b""
) -> Iterator[tuple[bytes, bytes]]:
    """Every state as of ``mark`` whose key in the view table starts with ``prefix``, by key."""
    start = U64.pack(mark.epoch) + prefix
    held: tuple[bytes, bytes] | None = None
    with contextlib.closing(txn.cursor(db=db.tables["past"])) as cursor:
        found = cursor.set_range(start)
        while found:
            full, value = cursor.item()
            if not full.startswith(start):
                break
            key, at = full[U64.size : -U64.size - 1], U64.unpack_from(full, len(full) - U64.size)[0]
            if held is not None and held[0] != key:
                if held[1]:
                    yield held
                held = None
            if at <= mark.position:
                held = key, value
            found = cursor.next()
    if held is not None and held[1]:
        yield held


# -- marks ----------------------------------------------------------------------------------------------


def find_mark(db: Database, txn: lmdb.Transaction, position: int) -> Mark | None:
    """The last mark at or before ``position``."""
    with txn.cursor(db=db.tables["mark"]) as cursor:
        wanted = U64.pack(position)
        if (cursor.set_range(wanted) and cursor.key() == wanted) or cursor.prev():
            return _mark(*cursor.item())
    return None


def marks(db: Database, txn: lmdb.Transaction, first: int = 0, length: int = 1 << 62) -> list[Mark]:
    """Every mark, in order, or those at the ``length`` positions from ``first`` on."""
    found: list[Mark] = []
    with txn.cursor(db=db.tables["mark"]) as cursor:
        more = cursor.set_range(U64.pack(first))
        while more:
            mark = _mark(*cursor.item())
            if mark.position >= first + length:
                break
            found.append(mark)
            more = cursor.next()
    return found


def _mark(key: bytes, value: bytes) -> Mark:
    try:
        [position] = U64.unpack(key)
        epoch, entries, oldest, newest = msgpack.unpackb(value)
        if not all(type(number) is int for number in (epoch, entries, oldest, newest)):
            raise ValueError("a number is not one")
    except (ValueError, TypeError, msgpack.exceptions.UnpackException, struct.error) as error:
        raise StoreCorrupt(0, f"the mark {key.hex()} can't be decoded: {error}; rebuild the views") from error
    return Mark(position, epoch, entries, oldest, newest)


# -- instants -------------------------------------------------------------------------------------------


def last_until(db: Database, txn: lmdb.Transaction, time: int, base: int) -> int:
    """The last position past ``base`` whose record's time is at or before ``time``; 0 if there is none."""
    known = marks(db, txn)
    end: int | None = None
    for number in range(len(known), -1, -1):
        start = known[number - 1].position if number else base
        if number == len(known) or known[number].oldest <= time:
            found = 0
            for position, stored in _between(db, txn, start, end):
                if _time(position, stored) <= time:
                    found = position
            if found:
                return found
        end = start
    return 0


def first_from(db: Database, txn: lmdb.Transaction, time: int, base: int) -> int:
    """The first position past ``base`` whose record's time is at or after ``time``; 0 if there is none."""
    start = base
    for mark in marks(db, txn):
        if mark.newest >= time:
            for position, stored in _between(db, txn, start, mark.position):
                if _time(position, stored) >= time:
                    return position
        start = mark.position
    for position, stored in _between(db, txn, start, None):
        if _time(position, stored) >= time:
            return position
    return 0


def _between(db: Database, txn: lmdb.Transaction, after: int, until: int | None) -> Iterator[tuple[int, bytes]]:
    with contextlib.closing(txn.cursor(db=db.tables["log"])) as cursor:
        found = cursor.set_range(U64.pack(after + 1))
        while found:
            key, value = cursor.item()
            [position] = U64.unpack(key)
            if until is not None and position > until:
                return
            yield position, value
            found = cursor.next()


def _time(position: int, stored: bytes) -> int:
    try:
        return record_time(stored)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise StoreCorrupt(position, f"it can't be decoded: {error}") from error
