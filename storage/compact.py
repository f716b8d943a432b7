"""Compaction: old records leave the log for an archive, and the state that they led to stays.

Three steps, each of which a crash may come after:

1. The archive segment is written beside the log, synced, read back, and renamed into place. Until the next step
it is
   a spare copy of records that are still in the log.
2. One transaction appends ``LogCompacted``, leaves a snapshot at the last position that goes, which is the base
from
   now on, and drops the older snapshots. From here on nobody sees the old records.
3. What nobody sees is deleted, some thousand entries at a time, so that appends go on meanwhile. What a crash
leaves
   of it is deleted when the log is next opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import attrs
import lmdb

from lading.events.codec import decode_record, encode_state
from lading.events.container import Removed
from lading.events.errors import HostError, Invalid, NotInHistory, StoreCorrupt
from lading.storage.database import Database
from lading.storage.draft import stream_number
from lading.storage.export import Header, read_export, write_export
from lading.storage.keys import U64, command_key, name_key, past_key, stream_key
from lading.storage.linux import sync_directory
from lading.storage.meta import Base, last_position, read_base, write_base
from lading.storage.past import changes_between, fold_past
from lading.storage.snapshots import Mark, find_mark, marks, past_states, put_mark, state_digest
from lading.storage.walk import read_page

__all__ = ["Segment", "archive", "clear", "rebase", "segment_name"]

_PAGE = 4096


@attrs.frozen
class Segment:
    """An archive: the records ``first`` to ``last`` in the file ``name``, whose bytes' sha256 is ``digest``."""

    first: int
    last: int
    chain: bytes
    name: str
    digest: str
    size: int


def segment_name(first: int, last: int) -> str:
    """The file name of the archive that has the records ``first`` to ``last``: names sort as the records do."""
    return f"{first:020}-{last:020}.jsonl.gz"


# -- the archive ----------------------------------------------------------------------------------------


def archive(db: Database, store: str, last: int, directory: Path) -> Segment:
    """Write the records from the log's first to ``last`` into a segment in ``directory``, on disk when this
    returns.

    To a little before ``last``, if there an append would be cut in two. Read back before it gets its name.
    Raises ``NotInHistory``, ``StoreCorrupt`` for a record that isn't what was written, and ``HostError``; then,
    and after a crash, no segment is there.
    """
    with db.read() as txn:
        base = read_base(db, txn)
        head = last_position(db, txn)
        if not base.position < last <= head:
            raise NotInHistory(last, base.position + 1, head)
        last = _end_of_append(db, txn, last, base.position)
    if last == base.position:
        why = "the append that begins the log goes further than that; name a later position"
        raise Invalid("position", last + 1, why)
    name = segment_name(base.position + 1, last)
    new = directory / f".{name}.new"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        with open(os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w+b") as file:
            pages = _pages(db, base.position, last)
            summary = write_export(file, Header(store, base.position, base.chain), pages, compress=True)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            reader = read_export(file, name)
            for _ in reader:
                pass
            if reader.summary != summary:
                raise StoreCorrupt(last, f"the archive {new} does not read as it was written; look at its disk")
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
        new.rename(directory / name)
        sync_directory(directory)
    except BaseException as error:
        with contextlib.suppress(OSError):
            new.unlink()
        if not isinstance(error, OSError):
            raise
        raise HostError("write the archive", os.fspath(new), error.errno or 0, "make room, or mend it") from error
    return Segment(base.position + 1, last, summary.chain, name, digest, size)


def _pages(db: Database, after: int, last: int) -> Iterator[list[tuple[int, bytes]]]:
    while after < last:
        with db.read() as txn:
            page = read_page(db, txn, after, min(_PAGE, last - after))
        if not page:
            raise StoreCorrupt(after + 1, "the record is missing")
        yield page
        after += len(page)


# -- the new base ---------------------------------------------------------------------------------------


def rebase(db: Database, txn: lmdb.Transaction, position: int, chain: bytes) -> tuple[str, int, int]:
    """Have the log begin after ``position``, with a snapshot there; what is older is no longer seen.

    Returns the digest of the states at ``position``, and how many entries and bytes were written.
    """
    states = sorted(_states_at(db, txn, position).items())
    written = _later_entries(db, txn, position, {key for key, _ in states})
    entries = [(past_key(position, key, position), value) for key, value in states]
    with txn.cursor(db=db.tables["past"]) as cursor:
        cursor.putmulti(entries)
        cursor.putmulti(sorted(written))
    for mark in marks(db, txn):
        if mark.position <= position:
            txn.delete(U64.pack(mark.position), db=db.tables["mark"])
    put_mark(db, txn, Mark(position, position, len(entries), 0, 0))
    write_base(db, txn, Base(position, chain))
    entries += written
    return state_digest(states), 2 * len(entries) + 8, sum(len(key) + len(value) for key, value in entries)


def _states_at(db: Database, txn: lmdb.Transaction, position: int) -> dict[bytes, bytes]:
    mark = find_mark(db, txn, position)
    states = {} if mark is None else dict(past_states(db, txn, mark))
    for key, state in fold_past(db, txn, position).changed().items():
        if state is None:
            states.pop(key, None)
        else:
            states[key] = encode_state(state)
    return states


def _later_entries(
    db: Database, txn: lmdb.Transaction, position: int, states: Collection[bytes]
) -> list[tuple[bytes, bytes]]:
    """The snapshots after ``position`` that build on one before it, built on the one at ``position`` instead.

    ``states``: the keys that one has.
    """
    later = marks(db, txn, position + 1)
    if not later:
        return []
    # The first of them is about the records after ``position`` only, from now on.
    first = later[0]
    changed, (oldest, newest) = changes_between(db, txn, position, first.position)
    put_mark(db, txn, attrs.evolve(first, oldest=oldest, newest=newest))
    if first.epoch > position:
        return []
    entries = [
        (past_key(position, key, first.position), b"" if state is None else encode_state(state))
        for key, state in changed.items()
        if state is not None or key in states
    ]
    so_far = len(states) + len(entries)
    put_mark(db, txn, Mark(first.position, position, so_far, oldest, newest))
    moved = {mark.position: mark for mark in later[1:] if mark.epoch == first.epoch}
    copies: dict[int, list[tuple[bytes, bytes]]] = {mark: [] for mark in moved}
    with txn.cursor(db=db.tables["past"]) as cursor:
        found = cursor.set_range(U64.pack(first.epoch))
        while found:
            full, value = cursor.item()
            if not full.startswith(U64.pack(first.epoch)):
                break
            key, [at] = full[U64.size : -U64.size - 1], U64.unpack(full[-U64.size :])
            if at in copies:
                copies[at].append((past_key(position, key, at), value))
            found = cursor.next()
    for at, mark in moved.items():
        so_far += len(copies[at])
        entries += copies[at]
        put_mark(db, txn, attrs.evolve(mark, epoch=position, entries=so_far))
    return entries


# -- what nobody sees any more --------------------------------------------------------------------------


def clear(db: Database, txn: lmdb.Transaction, limit: int = _PAGE) -> tuple[bool, int, int]:
    """Delete up to ``limit`` records, and as many snapshot entries, from before the base; whether there may be
    more.

    Each stream keeps the entry of its last event, which says how many it has, unless that was a container's
    removal: nothing follows that.
    """
    base = read_base(db, txn).position
    more = _clear_records(db, txn, base, limit)
    return _clear_past(db, txn, base, limit) or more, 4 * limit, 0


def _clear_records(db: Database, txn: lmdb.Transaction, base: int, limit: int) -> bool:
    tables = db.tables
    for _ in range(limit):
        with txn.cursor(db=tables["log"]) as cursor:
            if not cursor.first():
                return False
            key, stored = cursor.item()
            [position] = U64.unpack(key)
            if position > base:
                return False
            cursor.delete()
        record = decode_record(stored, position)
        txn.delete(command_key(record.command, position), db=tables["command"])
        number = stream_number(db, txn, record.stream)
        txn.delete(stream_key(number, record.version - 1), db=tables["stream"])
        if isinstance(record.event, Removed):
            txn.delete(stream_key(number, record.version), db=tables["stream"])
            txn.delete(name_key(record.stream), db=tables["name"])
    return True


def _clear_past(db: Database, txn: lmdb.Transaction, base: int, limit: int) -> bool:
    with txn.cursor(db=db.tables["past"]) as cursor:
        for _ in range(limit):
            if not cursor.first() or U64.unpack_from(cursor.key())[0] >= base:
                return False
            cursor.delete()
    return True


def _end_of_append(db: Database, txn: lmdb.Transaction, position: int, base: int) -> int:
    """The last position up to ``position`` at which an append ends; ``base`` if there is none after it."""
    while position > base:
        following = txn.get(U64.pack(position + 1), db=db.tables["log"])
        if following is None:
            break
        record = decode_record(following, position + 1)
        if txn.get(command_key(record.command, position + 1), db=db.tables["command"]) is not None:
            break
        position -= 1
    return position
