"""The log and its views: appending, and every way of reading.

An append checks its conditions, writes its records and updates the views in one write transaction, which is
on disk when ``append`` returns (LMDB's default: data synced, then the meta page). So a view is never behind
the log, and what was acknowledged survives a crash at any instant. The tables are drawn in ``storage/keys``.

Only one thread may append. Reads may come from any thread, each in a transaction of its own that ends
before the method returns: no reader holds a page back. Every record that is read is checked against the chain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from lading.events.codec import GENESIS, decode_record
from lading.events.compaction import LogCompacted
from lading.events.envelope import Actor, Proposed, Record
from lading.events.errors import Invalid, NotInHistory, Refused, StoreBroken, StoreCorrupt
from lading.events.ids import CommandId
from lading.events.store import ENGINE_STREAM
from lading.events.views import View
from lading.storage.compact import Segment, clear, rebase
from lading.storage.database import Database, why_failed
from lading.storage.draft import Append, Draft, Pending, decoded, first_append, stream_head, stream_number
from lading.storage.keys import U64, command_key, stream_key, view_key
from lading.storage.meta import Base, check_record_kind, read_base, read_kinds
from lading.storage.past import Past, fold_past, since_mark
from lading.storage.rebuild import rebuild
from lading.storage.snapshots import EVERY, find_mark, first_from, last_until, take
from lading.storage.verify import Progress, Verified, verify_log

__all__ = ["Append", "Log", "Verified"]

_CACHE = 32_768
"""States, and streams, that are remembered so that they need not be read and decoded for the next change."""

S = TypeVar("S")
T = TypeVar("T")


class Log:
    """The open log, from ``open_log``. Never shared across a fork, nor opened twice in one process."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._broken = ""
        self._load()

    def _load(self) -> None:
        """Read what is kept in memory for appending."""
        with self.db.read() as txn:
            self._position, self._chain = _last(self.db, txn)
            self._kinds: Mapping[str, tuple[int, str]] = read_kinds(self.db, txn)
            mark = find_mark(self.db, txn, self._position)
        self._noted: set[type[Any]] = set()
        self._marked = 0 if mark is None else mark.position
        self._states: dict[tuple[View[Any], str], Any] = {}
        self._streams: dict[str, tuple[int, int]] = {}
        # What changed since the last mark, and when: not known until the first snapshot needs it.
        self._dirty: set[bytes] | None = set() if self._position == self._marked else None
        self._times: tuple[int, int] | None = None

    @property
    def path(self) -> Path:
        """The directory of the LMDB environment."""
        return self.db.path

    @property
    def store(self) -> str:
        """The identity of the store that the log was made for."""
        with self.db.read() as txn:
            return bytes(txn.get(b"store", b"", db=self.db.tables["meta"])).decode("utf-8", "replace")

    def close(self) -> None:
        """Close the environment. Every method raises ``EngineClosed`` after."""
        self.db.close()

    # -- appending ------------------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """The position of the last record that this object appended, or found when it was opened."""
        return self._position

    def append(self, batch: Sequence[Append]) -> list[tuple[Record, ...] | Refused | Invalid]:
        """Append every member of ``batch`` that its conditions allow, and sync once.

        Gives, for each member in order, its records or the refusal; a refused member has changed nothing,
        and later members are decided as if it had not been there. Returns after the commit is on disk.
        An event that can't be stored (text that isn't Unicode, a number past 64 bits, a key that is too long) is
        refused as ``Invalid``. A failed commit makes the log ``StoreBroken`` for good: nothing of the
        batch may be relied on, and the log can only be read until it is opened again.
        """
        answers, pending, marked = self._commit(lambda txn: self._write(txn, batch))
        self._position, self._chain = pending.position, pending.chain
        self._kinds, self._noted = pending.kinds, pending.noted
        self._remember(pending)
        if marked:
            self._marked, self._dirty, self._times = pending.position, set(), None
        else:
            if self._dirty is not None:
                self._dirty.update(pending.stored)
            self._times = _spread(self._times, pending.times)
        return answers

    def _remember(self, pending: Pending) -> None:
        """Keep what is needed when the same things change again; what is gone is not."""
        if len(self._states) > _CACHE or len(self._streams) > _CACHE:
            self._states.clear()
            self._streams.clear()
        for place, state in pending.states.items():
            if state is None:
                self._states.pop(place, None)
            else:
                self._states[place] = state
        self._streams.update(pending.streams)

    def _commit(self, work: Callable[[lmdb.Transaction], tuple[T, int, int]]) -> T:
        """``Database.write``, after whose failure this log is broken."""
        if self._broken:
            raise StoreBroken(self._broken)
        try:
            return self.db.write(work)
        except BaseException as error:
            if not isinstance(error, lmdb.Error):
                self._broken = f"{type(error).__name__}: {error}"
                raise
            self._broken = why_failed(self.path, error)
            self.db.reopen_to_read()
            raise StoreBroken(self._broken) from error

    def _write(
        self, txn: lmdb.Transaction, batch: Sequence[Append]
    ) -> tuple[tuple[list[tuple[Record, ...] | Refused | Invalid], Pending, bool], int, int]:
        pending = Pending(self._position, self._chain, self._kinds, set(self._noted), self._states, self._streams)
        answers: list[tuple[Record, ...] | Refused | Invalid] = []
        for member in batch:
            try:
                answers.append(Draft(self.db, txn, pending).decide(member))
            except (Refused, Invalid) as refusal:
                answers.append(refusal)
        entries, size = pending.write(self.db, txn) if pending.records else (0, 0)
        marked = pending.position - self._marked >= EVERY
        if marked:
            if self._dirty is None:
                changed, times = since_mark(self.db, txn, pending.position)
                dirty = set(changed)
            else:
                dirty, times = self._dirty | pending.stored.keys(), _spread(self._times, pending.times) or (0, 0)
            more_entries, more = take(self.db, txn, pending.position, dirty, *times)
            entries, size = entries + more_entries, size + more
        return (answers, pending, marked), entries, size

    # -- records --------------------------------------------------------------------------------------------

    @property
    def first(self) -> int:
        """The position of the oldest record that is kept: 1, unless older ones were compacted away."""
        return self.base.position + 1

    @property
    def base(self) -> Base:
        """The last position that was compacted away and the chain there; 0 and the first chain if none was."""
        with self.db.read() as txn:
            return read_base(self.db, txn)

    def chain_at(self, position: int) -> bytes:
        """The chain at ``position``, which the log or its base must have. Raises ``StoreCorrupt``."""
        with self.db.read() as txn:
            return _chain_before(self.db, txn, position + 1, read_base(self.db, txn))

    def head(self) -> int:
        """The last position on disk now, 0 for an empty log. Sees other processes' appends."""
        with self.db.read() as txn:
            return _last(self.db, txn)[0]

    def read(self, after: int = 0, limit: int = 1000) -> list[Record]:
        """Up to ``limit`` records after position ``after``, in order.

        From the oldest on if those after ``after`` were compacted away. Records before a damaged one are given;
        asked for that one, it raises ``StoreCorrupt`` with its position.
        """
        previous, page = self._page(after, limit)
        records: list[Record] = []
        expected = 0
        for position, stored in page:
            try:
                if expected and position != expected:
                    raise StoreCorrupt(expected, "the record is missing")
                record = decode_record(stored, position, previous)
            except StoreCorrupt as error:
                if records:
                    return records
                with self.db.read() as txn:
                    check_record_kind(self.db, txn, position, stored)
                raise error
            records.append(record)
            previous, expected = record.chain, position + 1
        return records

    def read_raw(self, after: int = 0, limit: int = 1000) -> list[tuple[int, bytes]]:
        """Up to ``limit`` positions after ``after`` with their stored bytes (record || chain), unchecked."""
        return self._page(after, limit)[1]

    def _page(self, after: int, limit: int) -> tuple[bytes, list[tuple[int, bytes]]]:
        """The chain before a page, and the page."""
        page: list[tuple[int, bytes]] = []
        with self.db.read() as txn:
            base = read_base(self.db, txn)
            after = max(after, base.position)
            with txn.cursor(db=self.db.tables["log"]) as cursor:
                found = cursor.set_range(U64.pack(after + 1))
                while found and len(page) < limit:
                    key, value = cursor.item()
                    page.append((U64.unpack(key)[0], value))
                    found = cursor.next()
            previous = _chain_before(self.db, txn, page[0][0], base) if page else GENESIS
        if page and page[0][0] != after + 1:
            raise StoreCorrupt(after + 1, "the record is missing")
        return previous, page

    def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> list[Record]:
        """Up to ``limit`` records of ``stream`` whose version is past ``after``, in order; none that was
        compacted.
        """
        positions: list[int] = []
        with self.db.read() as txn:
            try:
                number = stream_number(self.db, txn, stream)
            except ValueError:  # nothing is called that
                return []
            base = read_base(self.db, txn)
            prefix = U64.pack(number)
            with txn.cursor(db=self.db.tables["stream"]) as cursor:
                found = number and cursor.set_range(stream_key(number, after + 1))
                while found and len(positions) < limit:
                    key, value = cursor.item()
                    if not key.startswith(prefix):
                        break
                    [position] = U64.unpack(value)
                    if position > base.position:
                        positions.append(position)
                    found = cursor.next()
            return _records(self.db, txn, positions, base)

    def version(self, stream: str) -> int:
        """How many events ``stream`` has had; 0 if there is none."""
        with self.db.read() as txn:
            return stream_head(self.db, txn, stream)[1]

    def read_command(self, command: str) -> list[Record]:
        """Every record that the request ``command`` led to, in order."""
        try:
            prefix = command_key(command, 0)[: -U64.size]
        except ValueError:  # nothing is called that
            return []
        positions: list[int] = []
        with self.db.read() as txn:
            with txn.cursor(db=self.db.tables["command"]) as cursor:
                found = cursor.set_range(prefix)
                while found:
                    key, value = cursor.item()
                    if not key.startswith(prefix):
                        break
                    [start], [count] = U64.unpack(key[len(prefix) :]), U64.unpack(value)
                    positions += range(start, start + count)
                    found = cursor.next()
            base = read_base(self.db, txn)
            return _records(self.db, txn, [position for position in positions if position > base.position], base)

    def first_append(self, command: str) -> tuple[Record, ...] | None:
        """The records of the first append of ``command``: what a retry of it is answered with. None if it has
        none.
        """
        with self.db.read() as txn:
            return first_append(self.db, txn, command)

    # -- the views, now and then ----------------------------------------------------------------------------

    def get(self, view: View[S], key: str) -> S | None:
        """The state at ``key`` of ``view``, or None."""
        try:
            full = view_key(view, key)
        except ValueError:  # too long, or no Unicode: nothing is called that
            return None
        with self.db.read() as txn:
            stored = txn.get(full, db=self.db.tables["view"])
        return None if stored is None else decoded(view, key, stored)

    def scan(self, view: View[S], prefix: str = "", limit: int = 0) -> list[tuple[str, S]]:
        """Every (or the first ``limit``) state of ``view`` whose key starts with ``prefix``, by key."""
        try:
            start = view_key(view, prefix)
        except ValueError:
            return []
        page: list[tuple[bytes, bytes]] = []
        with self.db.read() as txn, txn.cursor(db=self.db.tables["view"]) as cursor:
            found = cursor.set_range(start)
            while found and (not limit or len(page) < limit):
                key, value = cursor.item()
                if not key.startswith(start):
                    break
                page.append((key, value))
                found = cursor.next()
        skip = len(view.name.encode()) + 1
        found_keys = [(key[skip:].decode(), value) for key, value in page]
        return [(key, decoded(view, key, value)) for key, value in found_keys]

    def at(self, position: int) -> Past:
        """The views as they were just after ``position`` (0: before the first record). Raises ``NotInHistory``.

        Costs by the distance from the nearest snapshot, at most some two thousand records.
        """
        with self.db.read() as txn:
            base, last = read_base(self.db, txn).position, _last(self.db, txn)[0]
            if not base <= position <= last:
                raise NotInHistory(position, base + 1, last)
            return fold_past(self.db, txn, position)

    def position_at(self, time: int) -> int:
        """The last position whose record's time is at or before ``time`` (nanoseconds UTC), in log order.

        So what a clock that stepped back wrote later still counts. The base's position (0, unless compacted) if
        there is none.
        """
        with self.db.read() as txn:
            base = read_base(self.db, txn).position
            return last_until(self.db, txn, time, base) or base

    def position_from(self, time: int) -> int:
        """The first position whose record's time is at or after ``time``; the one after the last if there is
        none.
        """
        with self.db.read() as txn:
            base = read_base(self.db, txn).position
            return first_from(self.db, txn, time, base) or _last(self.db, txn)[0] + 1

    # -- the whole ------------------------------------------------------------------------------------------

    def verify(self, progress: Progress | None = None) -> Verified:
        """Walk the whole chain, decode everything, rebuild the views aside and compare every byte.

        Raises ``StoreCorrupt`` with the position of the first record that is wrong, or, for anything that is
        made from the records, the position that it should stand for. ``progress`` is called with the position
        reached and the last one.
        """
        return verify_log(self.db, progress)

    def rebase(self, segment: Segment, event_id: str, time: int, actor: Actor, command: CommandId) -> Record:
        """Have the log begin after ``segment``, which ``compact.archive`` made, and record that: step 2 of
        compaction.

        For the appending thread only. ``clear`` deletes what is no longer seen.
        """

        def work(txn: lmdb.Transaction) -> tuple[tuple[Record, ...] | Refused | Invalid, int, int]:
            if read_base(self.db, txn).position + 1 != segment.first:
                raise NotInHistory(segment.first, read_base(self.db, txn).position + 1, self._position)
            state, entries, size = rebase(self.db, txn, segment.last, segment.chain)
            event = LogCompacted(
                segment.first, segment.last, segment.chain.hex(), state, segment.name, segment.digest
            )
            append = Append((Proposed(ENGINE_STREAM, event),), (event_id,), time, actor, command)
            self._marked, self._dirty = max(self._marked, segment.last), None
            (answers, _, _), more_entries, more = self._write(txn, [append])
            return answers[0], entries + more_entries, size + more

        answer = self._commit(work)
        self._load()
        if not isinstance(answer, tuple):
            raise answer
        return answer[0]

    def clear(self) -> bool:
        """Delete some of what was compacted away; whether there may be more. For the appending thread only."""
        return self._commit(lambda txn: clear(self.db, txn))

    def rebuild(self, progress: Progress | None = None) -> None:
        """Make every table but the log's own again, in one transaction. For the appending thread only."""
        self._commit(lambda txn: rebuild(self.db, txn, progress))
        self._load()


def _last(db: Database, txn: lmdb.Transaction) -> tuple[int, bytes]:
    with txn.cursor(db=db.tables["log"]) as cursor:
        if cursor.last():
            return U64.unpack(cursor.key())[0], cursor.value()[-len(GENESIS) :]
    base = read_base(db, txn)
    return base.position, base.chain


def _chain_before(db: Database, txn: lmdb.Transaction, position: int, base: Base) -> bytes:
    if position == base.position + 1:
        return base.chain
    stored = txn.get(U64.pack(position - 1), db=db.tables["log"])
    if stored is None:
        raise StoreCorrupt(position - 1, "the record is missing")
    return bytes(stored[-len(GENESIS) :])


def _records(db: Database, txn: lmdb.Transaction, positions: Sequence[int], base: Base) -> list[Record]:
    records = []
    for position in positions:
        stored = txn.get(U64.pack(position), db=db.tables["log"])
        if stored is None:
            raise StoreCorrupt(position, "the record is missing")
        records.append(decode_record(stored, position, _chain_before(db, txn, position, base)))
    return records


def _spread(one: tuple[int, int] | None, other: tuple[int, int] | None) -> tuple[int, int] | None:
    """The least and the greatest of both; None if there is nothing in either."""
    if one is None or other is None:
        return one or other
    return min(one[0], other[0]), max(one[1], other[1])
