"""The views as they were at some position: a snapshot's states, with the records after it folded over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import lmdb

from lading.events.codec import decode_record, decode_state
from lading.events.envelope import Record
from lading.events.errors import LadingError, NotInHistory, StoreCorrupt
from lading.events.views import View, project
from lading.storage.database import Database
from lading.storage.keys import U64, view_key
from lading.storage.snapshots import Mark, find_mark, past_states, state_then

__all__ = ["Past", "changes_between", "fold_past", "since_mark"]

S = TypeVar("S")


class Past:
    """A ``Reader`` of the views as of ``position``: what the log's own queries gave then.

    It holds what changed since the snapshot, and reads the snapshot when it is asked, in a transaction that ends
    before the method returns. ``NotInHistory`` once the log was compacted past ``position``.
    """

    def __init__(self, db: Database, position: int, mark: Mark | None) -> None:
        self.position = position
        self._db, self._mark = db, mark
        self._changed: dict[bytes, Any] = {}
        self._touched: set[bytes] = set()
        self._txn: lmdb.Transaction | None = None

    def get(self, view: View[S], key: str) -> S | None:
        """The state at ``key`` of ``view`` at that position, or None."""
        try:
            full = view_key(view, key)
        except ValueError:  # nothing is called that
            return None
        if full in self._changed:
            state: S | None = self._changed[full]
            return state
        if self._mark is None:
            return None
        if self._txn is not None:
            stored = state_then(self._db, self._txn, self._mark.epoch, self._mark.position, full)
        else:
            with self._db.read() as txn:
                mark = self._still_there(txn)
                stored = state_then(self._db, txn, mark.epoch, mark.position, full)
        return None if stored is None else self._decoded(view, stored)

    def scan(self, view: View[S], prefix: str = "", limit: int = 0) -> list[tuple[str, S]]:
        """Every (or the first ``limit``) state of ``view`` whose key starts with ``prefix`` at that position,
        by key.
        """
        try:
            start = view_key(view, prefix)
        except ValueError:
            return []
        found: dict[bytes, bytes | None] = {}
        if self._mark is not None:
            with self._db.read() as txn:
                found.update(past_states(self._db, txn, self._still_there(txn), start))
        skip = len(view.name.encode()) + 1
        for key, state in self._changed.items():
            if key.startswith(start):
                if state is None:
                    found.pop(key, None)
                else:
                    found[key] = None
        page = sorted(found)[: limit or None]
        return [
            (key[skip:].decode(), self._changed[key] if stored is None else self._decoded(view, stored))
            for key, stored in ((key, found[key]) for key in page)
        ]

    def put(self, view: View[S], key: str, state: S) -> None:
        """Set a state while the records are folded."""
        full = view_key(view, key)
        self._changed[full] = state
        self._touched.add(full)

    def delete(self, view: View[S], key: str) -> None:
        """Forget a state while the records are folded."""
        full = view_key(view, key)
        self._changed[full] = None
        self._touched.add(full)

    def changed(self) -> dict[bytes, Any]:
        """What differs from the snapshot: key in the view table -> state, or None for one that is gone."""
        return self._changed

    def touched(self) -> set[bytes]:
        """The keys in the view table that the records of the last ``fold`` changed."""
        return self._touched

    def fold(self, txn: lmdb.Transaction, records: Sequence[Record]) -> None:
        """Bring it to just after ``records``, which must be the ones that come next."""
        self._txn = txn
        self._touched.clear()
        try:
            for record in records:
                try:
                    project(record, self)
                except StoreCorrupt:
                    raise
                except LadingError as error:
                    raise StoreCorrupt(record.position, f"it can't have happened there: {error}") from error
        finally:
            self._txn = None

    def _still_there(self, txn: lmdb.Transaction) -> Mark:
        assert self._mark is not None
        mark = find_mark(self._db, txn, self._mark.position)
        if mark is None or mark.position != self._mark.position:
            raise NotInHistory(self.position, self.position + 1, self.position + 1)
        return mark

    def _decoded(self, view: View[S], stored: bytes) -> S:
        try:
            state: S = decode_state(view.state, stored)
        except (ValueError, TypeError) as error:
            where = 0 if self._mark is None else self._mark.position
            raise StoreCorrupt(
                where, f"the snapshot there can't be decoded: {error}; rebuild the views"
            ) from error
        return state


def fold_past(db: Database, txn: lmdb.Transaction, position: int) -> Past:
    """The views as of ``position``, which the log must have. Raises ``StoreCorrupt``."""
    mark = find_mark(db, txn, position)
    past = Past(db, position, mark)
    past.fold(txn, _records(db, txn, 0 if mark is None else mark.position, position))
    return past


def since_mark(db: Database, txn: lmdb.Transaction, position: int) -> tuple[Mapping[bytes, Any], tuple[int, int]]:
    """What changed from the last mark before ``position`` to there; as ``changes_between``."""
    mark = find_mark(db, txn, position - 1)
    return changes_between(db, txn, 0 if mark is None else mark.position, position)


def changes_between(
    db: Database, txn: lmdb.Transaction, after: int, until: int
) -> tuple[Mapping[bytes, Any], tuple[int, int]]:
    """What the records past ``after``, up to ``until``, changed, and the spread of their times.

    As keys in the view table and their states at ``until``, None for one that is gone.
    """
    past = fold_past(db, txn, after)
    records = _records(db, txn, after, until)
    past.fold(txn, records)
    times = [record.time for record in records]
    return {key: past.changed()[key] for key in past.touched()}, (min(times), max(times))


def _records(db: Database, txn: lmdb.Transaction, after: int, until: int) -> list[Record]:
    """The records past ``after``, up to ``until``: all of them, or ``StoreCorrupt``."""
    records = []
    with txn.cursor(db=db.tables["log"]) as cursor:
        found = cursor.set_range(U64.pack(after + 1))
        for position in range(after + 1, until + 1):
            if not found or U64.unpack(cursor.key())[0] != position:
                raise StoreCorrupt(position, "the record is missing")
            records.append(decode_record(cursor.value(), position))
            found = cursor.next()
    return records
