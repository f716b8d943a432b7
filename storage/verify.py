"""Whether everything in the log is what was written, and everything made from it what the records give.

Nothing is believed: the chain is hashed again, every record decoded, the views folded aside and compared byte for
byte, and so are the snapshots, the times of the marks, and the indexes of streams and commands.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import lmdb

from lading.events.codec import GENESIS, SCHEMAS
from lading.events.compaction import LogCompacted
from lading.events.errors import StoreCorrupt
from lading.events.views import VIEWS
from lading.storage.database import Database
from lading.storage.draft import stream_number
from lading.storage.keys import U64, command_key, past_key, stream_key
from lading.storage.meta import Base, last_position, read_base, read_kinds
from lading.storage.snapshots import Mark, find_mark, marks, state_then
from lading.storage.walk import Fold, Progress, read_page

__all__ = ["Progress", "Verified", "verify_log"]

_PAGE = 4096


@attrs.frozen
class Verified:
    """What was seen: ``records`` in the log, ``states`` in the views, the last chain, ``snapshots``, the first
    position.
    """

    records: int
    states: int
    chain: bytes
    snapshots: int = 0
    first: int = 1


def verify_log(
    db: Database, progress: Progress | None = None, watch: Callable[[int], None] | None = None
) -> Verified:
    """Verify everything; see ``Log.verify``. ``watch`` is told every position on the way.

    Read in pages, each in a transaction of its own, so that a walk of minutes holds no page back; only the last
    stretch is seen together with what is made from it.
    """
    with db.read() as txn:
        check = _Check(db, txn)
    try:
        return _walk(db, check, progress, watch)
    except StoreCorrupt as error:
        if error.position:
            raise
        # A page that LMDB can't make sense of: told by how far the walk came.
        raise StoreCorrupt(check.fold.position + 1, error.why) from error


def _walk(
    db: Database,
    check: _Check,
    progress: Progress | None,
    watch: Callable[[int], None] | None,
) -> Verified:
    while True:
        with db.read() as txn:
            if read_base(db, txn) != check.base:
                raise StoreCorrupt(
                    check.base.position, "the log was compacted while it was verified; verify it again"
                )
            last = last_position(db, txn)
            check.look_ahead(txn)
            check.page(txn, read_page(db, txn, check.fold.position, _PAGE), watch)
            if progress is not None:
                progress(check.fold.position, last)
            if check.fold.position >= last:
                return check.finish(txn)


class _Check:
    """A walk that compares on its way."""

    def __init__(self, db: Database, txn: lmdb.Transaction) -> None:
        self.db = db
        self.base = read_base(db, txn)
        self.fold = Fold.from_base(db, txn, self.base, VIEWS)
        self._marks: dict[int, Mark] = {}
        self._streams = self._in_epoch = self._snapshots = self._entries = self._commands = 0
        self._kinds: set[str] = set()
        self._left_of_command = 0
        self._compacted: LogCompacted | None = None
        if self.base.position:
            self._at_base(txn)

    def _at_base(self, txn: lmdb.Transaction) -> None:
        mark = find_mark(self.db, txn, self.base.position)
        states = self.fold.count()
        if mark != Mark(self.base.position, self.base.position, states, 0, 0):
            raise StoreCorrupt(
                self.base.position, "the snapshot that the compacted records led to is missing, or is another"
            )
        self._base_state = self.fold.digest()
        self._entries += states
        self._in_epoch = states
        self._snapshots += 1

    def look_ahead(self, txn: lmdb.Transaction) -> None:
        """Find the marks of the coming page."""
        self._marks = {mark.position: mark for mark in marks(self.db, txn, self.fold.position + 1, _PAGE)}

    def page(
        self, txn: lmdb.Transaction, page: list[tuple[int, bytes]], watch: Callable[[int], None] | None
    ) -> None:
        """Fold the records of ``page``, which come next, and compare what is made from them."""
        fold = self.fold
        for entry, (position, stored) in zip(fold.opened(page), page, strict=True):
            self._index(txn, position, entry[2], entry[3])
            self._command(txn, position, entry[7])
            self._kinds.add(entry[9])
            if isinstance(entry[11], LogCompacted):
                self._compacted = entry[11]
            fold.fold(entry, stored)
            fold.times.append(entry[5])
            fold.chain = stored[-len(GENESIS) :]
            if position in self._marks:
                self._snapshot(txn, self._marks[position])
            if watch is not None:
                watch(position)

    def _index(self, txn: lmdb.Transaction, position: int, stream: str, version: int) -> None:
        table, key = self.db.tables["stream"], U64.pack(position)
        number = stream_number(self.db, txn, stream)
        if version == 1:
            self._streams += 1
            if number != position:
                raise StoreCorrupt(position, f"stream {stream} begins with it, and is said to begin elsewhere")
        if txn.get(stream_key(number, version), db=table) != key:
            raise StoreCorrupt(position, f"it is not in the index of stream {stream}")
        if version > 1:
            before = txn.get(stream_key(number, version - 1), db=table)
            if before is None or before >= key:
                raise StoreCorrupt(position, f"its version in stream {stream} is {version}")

    def _command(self, txn: lmdb.Transaction, position: int, command: str) -> None:
        found = txn.get(command_key(command, position), db=self.db.tables["command"])
        if found is not None:
            self._commands += 1
            [count] = U64.unpack(found)
            if self._left_of_command or not count:
                raise StoreCorrupt(position, "the index of commands has it in two appends")
            self._left_of_command = count
        if not self._left_of_command:
            raise StoreCorrupt(position, f"it is not in the index of command {command}")
        self._left_of_command -= 1

    def _snapshot(self, txn: lmdb.Transaction, mark: Mark) -> None:
        where = mark.position
        spread, changed = self.fold.spread(), self.fold.changes()
        if (mark.oldest, mark.newest) != spread:
            raise StoreCorrupt(where, "the mark there has other times than its records; rebuild the views")
        if mark.epoch == mark.position:
            everything = dict(self.fold.encoded())
            changed = {**dict.fromkeys(changed), **everything}
            self._in_epoch = 0
        table = self.db.tables["past"]
        before = self._entries
        for key, value in changed.items():
            found = txn.get(past_key(mark.epoch, key, mark.position), db=table)
            if found is None and value is None:
                if state_then(self.db, txn, mark.epoch, mark.position, key) is None:
                    continue
            elif found == (value or b""):
                self._entries += 1
                continue
            raise StoreCorrupt(
                where, f"the snapshot there has another {key!r} than the log gives; rebuild the views"
            )
        self._in_epoch += self._entries - before
        if mark.entries != self._in_epoch:
            raise StoreCorrupt(where, "the mark there counts other entries than there are; rebuild the views")
        self._snapshots += 1

    def finish(self, txn: lmdb.Transaction) -> Verified:
        """Compare what is there with what the whole log gives."""
        db, last = self.db, self.fold.position
        if self._left_of_command:
            raise StoreCorrupt(last + 1, "the index of commands has an append that goes past the end of the log")
        counts = {
            name: txn.stat(db.tables[name])["entries"]
            for name in ("log", "name", "stream", "command", "past", "mark")
        }
        records = last - self.base.position
        if counts["log"] != records + _left_over(db, txn, "log", self.base):
            raise StoreCorrupt(last + 1, "the log has records that are not in its order")
        old = sum(1 for _ in _old_heads(db, txn, self.base)) if self.base.position else 0
        named = self._streams + sum(1 for _ in _old_names(db, txn, self.base))
        if counts["name"] != named:
            raise StoreCorrupt(last + 1, "there are names of streams that the log doesn't have")
        if counts["stream"] != records + old:
            raise StoreCorrupt(last + 1, "the index of streams names records that the log has not")
        old_commands = 0
        if self.base.position:
            with txn.cursor(db=db.tables["command"]) as cursor:
                old_commands = sum(U64.unpack(key[-U64.size :])[0] <= self.base.position for key, _ in cursor)
        if counts["command"] != self._commands + old_commands:
            raise StoreCorrupt(last + 1, "the index of commands names records that the log has not")
        if counts["mark"] != self._snapshots or counts["past"] != self._entries + _left_over(
            db, txn, "past", self.base
        ):
            raise StoreCorrupt(last, "there are snapshots which no record led to; rebuild the views")
        self._check_views(txn)
        if set(read_kinds(db, txn)) - SCHEMAS.keys() or self._kinds - read_kinds(db, txn).keys():
            raise StoreCorrupt(last, "the note of which kinds of event occur is wrong; rebuild the views")
        if self.base.position and (
            self._compacted is None
            or self._compacted.last != self.base.position
            or self._compacted.chain != self.base.chain.hex()
            or self._compacted.state != self._base_state
        ):
            raise StoreCorrupt(self.base.position, "the log begins there, and no record says so")
        return Verified(records, self._states, self.fold.chain, self._snapshots, self.base.position + 1)

    def _check_views(self, txn: lmdb.Transaction) -> None:
        self.fold.changes()
        rebuilt = dict(self.fold.encoded())
        with txn.cursor(db=self.db.tables["view"]) as cursor:
            live = dict(cursor)
        for key in sorted(rebuilt.keys() | live.keys()):
            if rebuilt.get(key) != live.get(key):
                where = self.fold.last_change.get(key, self.fold.position)
                raise StoreCorrupt(where, f"view entry {key!r} differs from what the log gives; rebuild the views")
        self._states = len(live)


def _left_over(db: Database, txn: lmdb.Transaction, table: str, base: Base) -> int:
    """How many entries of ``table`` are from before the base: not seen any more, and not deleted yet."""
    limit = base.position + 1 if table == "log" else base.position
    count = 0
    with txn.cursor(db=db.tables[table]) as cursor:
        found = cursor.first()
        while found and U64.unpack_from(cursor.key())[0] < limit:
            count += 1
            found = cursor.next()
    return count


def _old_names(db: Database, txn: lmdb.Transaction, base: Base) -> list[bytes]:
    """The names of streams that began before the base."""
    if not base.position:
        return []
    with txn.cursor(db=db.tables["name"]) as cursor:
        return [key for key, value in cursor if U64.unpack(value)[0] <= base.position]


def _old_heads(db: Database, txn: lmdb.Transaction, base: Base) -> list[bytes]:
    """The entries of the stream index that stand for records which were compacted away."""
    with txn.cursor(db=db.tables["stream"]) as cursor:
        return [key for key, value in cursor if U64.unpack(value)[0] <= base.position]
