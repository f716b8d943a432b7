"""Making everything but the records again: when a release changes what is made of them, or when it was damaged."""

from __future__ import annotations

import attrs
import lmdb

from lading.events.codec import GENESIS, RELEASES, SCHEMAS
from lading.events.errors import StoreCorrupt
from lading.events.views import VIEWS
from lading.storage.database import Database
from lading.storage.draft import stream_number
from lading.storage.keys import U64, command_key, name_key, past_key, stream_key
from lading.storage.meta import Base, last_position, read_base, view_schemas, write_kinds
from lading.storage.snapshots import EVERY, Mark, put_mark, takes_all
from lading.storage.walk import Fold, Progress, read_page

__all__ = ["rebuild"]

_PAGE = 4096
_NUMBERS = 100_000
"""Streams whose numbers are remembered on the way."""


def rebuild(db: Database, txn: lmdb.Transaction, progress: Progress | None = None) -> tuple[None, int, int]:
    """Drop every table but the log's own and fold the log again, in one transaction.

    What stands for compacted records is kept: the snapshot at the base and the last entry of each stream before
    it. A crash leaves what was there before. Raises ``StoreCorrupt`` for a record that can't be read.
    """
    base = read_base(db, txn)
    maker = _Maker(db, txn, base)
    last = last_position(db, txn)
    while maker.fold.position < last:
        maker.page(read_page(db, txn, maker.fold.position, _PAGE))
        if progress is not None:
            progress(maker.fold.position, last)
    maker.finish()
    return None, maker.entries, maker.size


@attrs.define(eq=False)
class _Appended:
    """An append, as far as the records tell: a run of one command's records, of one time and cause."""

    same: tuple[str, int, int]
    start: int
    count: int


class _Maker:
    """Writes the tables while the log is walked."""

    def __init__(self, db: Database, txn: lmdb.Transaction, base: Base) -> None:
        self._db, self._txn = db, txn
        self.fold = Fold.from_base(db, txn, base, VIEWS)
        self.entries = self.size = 0
        kept = {name: _old(db, txn, name, base) for name in ("name", "stream")}
        for name in ("name", "stream", "command", "view", "past", "mark"):
            txn.drop(db.tables[name], delete=False)
        for name, entries in kept.items():
            self._put(name, entries)
        self._numbers: dict[str, int] = {}
        self._names: list[tuple[bytes, bytes]] = []
        self._index: list[tuple[bytes, bytes]] = []
        self._commands: list[tuple[bytes, bytes]] = []
        self._kinds: dict[str, tuple[int, str]] = {}
        self._append: _Appended | None = None
        self._mark: Mark | None = None
        self._live = 0
        if base.position:
            self._snapshot(0, 0)

    def page(self, page: list[tuple[int, bytes]]) -> None:
        """Take the next records in, and write down what they make."""
        if not page:
            raise StoreCorrupt(self.fold.position + 1, "the record is missing")
        fold = self.fold
        for entry, (position, stored) in zip(fold.opened(page), page, strict=True):
            try:
                fold.fold(entry, stored)
                number = self._number(entry[2], entry[3], position)
            except ValueError as error:  # a key that is too long, in a log that came from elsewhere
                raise StoreCorrupt(position, f"it can't be stored: {error}") from error
            fold.times.append(entry[5])
            fold.chain = stored[-len(GENESIS) :]
            self._index.append((stream_key(number, entry[3]), U64.pack(position)))
            self._kinds[entry[9]] = SCHEMAS[entry[9]][1], RELEASES[entry[9]]
            append, same = self._append, (entry[7], entry[5], entry[8])
            if append is not None and append.same == same:
                append.count += 1
            else:
                self._end_append()
                self._append = _Appended(same, position, 1)
            if position - (0 if self._mark is None else self._mark.position) >= EVERY:
                self._snapshot(*fold.spread())
        self._put("name", sorted(self._names))
        self._put("stream", sorted(self._index))
        self._put("command", sorted(self._commands))
        self._names.clear()
        self._index.clear()
        self._commands.clear()

    def _number(self, stream: str, version: int, position: int) -> int:
        """The number of ``stream``, which gets one with its first event."""
        if version == 1:
            self._names.append((name_key(stream), U64.pack(position)))
            self._numbers[stream] = position
        elif stream not in self._numbers:
            if len(self._numbers) > _NUMBERS:
                self._put("name", sorted(self._names))
                self._names.clear()
                self._numbers.clear()
            found = stream_number(self._db, self._txn, stream)
            if not found:
                raise StoreCorrupt(
                    position, f"it is event {version} of stream {stream}, of which there is no first"
                )
            self._numbers[stream] = found
        return self._numbers[stream]

    def finish(self) -> None:
        """The last of it: the views as they are now, and what the tables are made for."""
        self._end_append()
        self._put("command", self._commands)
        self._put("view", sorted(self.fold.encoded()))
        write_kinds(self._db, self._txn, self._kinds)
        self._txn.put(b"views", view_schemas(), db=self._db.tables["meta"])

    def _end_append(self) -> None:
        if self._append is not None:
            key = command_key(self._append.same[0], self._append.start)
            self._commands.append((key, U64.pack(self._append.count)))

    def _snapshot(self, oldest: int, newest: int) -> None:
        """What ``snapshots.take`` leaves at this position, from the views that are folded aside."""
        position, before = self.fold.position, self._mark
        changed = self.fold.changes()
        live = self.fold.count()
        if before is None or takes_all(before, live):
            epoch, so_far = position, 0
            entries = [(past_key(epoch, key, position), value) for key, value in sorted(self.fold.encoded())]
            self._in_epoch = {key for key, _ in self.fold.encoded()}
        else:
            epoch, so_far = before.epoch, before.entries
            entries = []
            for key, value in sorted(changed.items()):
                if value is None and key not in self._in_epoch:
                    continue
                entries.append((past_key(epoch, key, position), value or b""))
                (self._in_epoch.discard if value is None else self._in_epoch.add)(key)
        self._put("past", entries)
        self._mark = Mark(position, epoch, so_far + len(entries), oldest, newest)
        put_mark(self._db, self._txn, self._mark)

    def _put(self, table: str, entries: list[tuple[bytes, bytes]]) -> None:
        self.entries += len(entries)
        self.size += sum(len(key) + len(value) for key, value in entries)
        with self._txn.cursor(db=self._db.tables[table]) as cursor:
            cursor.putmulti(entries)


def _old(db: Database, txn: lmdb.Transaction, table: str, base: Base) -> list[tuple[bytes, bytes]]:
    """The entries of a table that stand for records before the base."""
    if not base.position:
        return []
    with txn.cursor(db=db.tables[table]) as cursor:
        return [(key, value) for key, value in cursor if U64.unpack(value)[0] <= base.position]
