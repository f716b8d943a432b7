"""The log and its views, in one LMDB environment.

What is kept where::

    log      position (8 bytes, big endian)              -> record bytes || chain (events/codec)
    stream   stream name, NUL, version (8 bytes, BE)     -> position (8 bytes, BE)
    head     stream name                                 -> version (8 bytes, BE): events in the stream
    view     view name, NUL, key                         -> the state's bytes
    meta     "format", "store", "views"                  -> format number, store identity, view schemas

An append checks its conditions, writes its records and updates the views in one write transaction, which is
on disk when ``append`` returns (LMDB's default: data synced, then the meta page). So a view is never behind
the log, and what was acknowledged survives a crash at any instant.

Only one thread may append. Reads may come from any thread, each in a transaction of its own that ends
before the method returns: no reader holds a page back.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import lmdb

from lading.events.codec import GENESIS, decode_record, decode_state, encode_record, encode_state
from lading.events.envelope import Actor, Proposed, Record
from lading.events.errors import Conflict, LadingError, Refused, StoreBroken, StoreCorrupt
from lading.events.ids import CommandId
from lading.events.views import VIEWS, View, project
from lading.storage.memory import MemoryViews

__all__ = ["Append", "Log", "Verified", "view_schemas"]

_U64 = struct.Struct(">Q")
_CACHE = 8192

S = TypeVar("S")


@attrs.frozen
class Append:
    """One atomic append: all of ``events`` or none.

    ``ids`` has one event id for each event; ``cause`` is the position that this answers, 0 for none.
    """

    events: tuple[Proposed, ...]
    ids: tuple[str, ...]
    time: int
    actor: Actor
    command: CommandId
    cause: int = 0


@attrs.frozen
class Verified:
    """What ``verify`` saw: ``records`` in the log, ``states`` in the views, and the last chain."""

    records: int
    states: int
    chain: bytes


class Log:
    """The open log, from ``open_log``. Never shared across a fork, nor opened twice in one process."""

    def __init__(self, env: lmdb.Environment, tables: Mapping[str, Any]) -> None:
        self._env = env
        self._log, self._streams = tables["log"], tables["stream"]
        self._heads, self._view, self._meta = tables["head"], tables["view"], tables["meta"]
        self._position, self._chain = self._last()
        self._states: dict[bytes, Any] = {}
        self._broken = ""

    def close(self) -> None:
        """Close the environment. Nothing may use the log after."""
        self._env.close()

    @property
    def position(self) -> int:
        """The position of the last record that this object appended, or found when it was opened."""
        return self._position

    def append(self, batch: Sequence[Append]) -> list[tuple[Record, ...] | Refused]:
        """Append every member of ``batch`` that its conditions allow, and sync once.

        Gives, for each member in order, its records or the refusal; a refused member has changed nothing,
        and later members are decided as if it had not been there. Returns after the commit is on disk.
        A failed commit makes the log ``StoreBroken`` for good: nothing of the batch may be relied on.
        """
        if self._broken:
            raise StoreBroken(self._broken)
        position, chain = self._position, self._chain
        answers: list[tuple[Record, ...] | Refused] = []
        try:
            with self._env.begin(write=True) as txn:
                for member in batch:
                    draft = _Draft(self, txn, position, chain)
                    try:
                        records = draft.write(member)
                    except Refused as refusal:
                        answers.append(refusal)
                        continue
                    draft.flush()
                    position, chain = draft.position, draft.chain
                    answers.append(records)
        except lmdb.Error as error:
            self._broken = str(error)
            self._states.clear()
            raise StoreBroken(self._broken) from error
        except BaseException:
            self._states.clear()
            raise
        self._position, self._chain = position, chain
        if len(self._states) > _CACHE:
            self._states.clear()
        return answers

    def read(self, after: int = 0, limit: int = 1000) -> list[Record]:
        """Up to ``limit`` records after position ``after``, in order."""
        with self._env.begin(db=self._log) as txn, txn.cursor() as cursor:
            found = cursor.set_range(_U64.pack(after + 1))
            page: list[tuple[int, bytes]] = []
            while found and len(page) < limit:
                key, value = cursor.item()
                page.append((_U64.unpack(key)[0], bytes(value)))
                found = cursor.next()
        return [decode_record(value, position) for position, value in page]

    def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> list[Record]:
        """Up to ``limit`` records of ``stream`` whose version is past ``after``, in order."""
        prefix = stream.encode() + b"\0"
        page: list[tuple[int, bytes]] = []
        with self._env.begin(db=self._streams) as txn, txn.cursor() as cursor:
            found = cursor.set_range(prefix + _U64.pack(after + 1))
            while found and len(page) < limit and bytes(cursor.key()).startswith(prefix):
                position = bytes(cursor.value())
                page.append((_U64.unpack(position)[0], bytes(txn.get(position, b"", db=self._log))))
                found = cursor.next()
        return [decode_record(value, position) for position, value in page]

    def head(self) -> int:
        """The last position on disk now, 0 for an empty log. Sees other processes' appends."""
        return self._last()[0]

    def get(self, view: View[S], key: str) -> S | None:
        """The state at ``key`` of ``view``, or None."""
        with self._env.begin(db=self._view) as txn:
            stored = txn.get(_view_key(view, key))
        return None if stored is None else decode_state(view.state, bytes(stored))

    def scan(self, view: View[S], prefix: str = "", limit: int = 0) -> list[tuple[str, S]]:
        """Every (or the first ``limit``) state of ``view`` whose key starts with ``prefix``, by key."""
        with self._env.begin(db=self._view) as txn:
            page = list(_walk(txn, _view_key(view, prefix), limit))
        skip = len(view.name.encode()) + 1
        return [(key[skip:].decode(), decode_state(view.state, value)) for key, value in page]

    def verify(self) -> Verified:
        """Walk the whole chain, decode everything, rebuild the views aside and compare every byte.

        Raises ``StoreCorrupt`` with the position of the first record that is wrong, or position 0 and the
        key for a view that is.
        """
        aside, chain, last = MemoryViews(), GENESIS, 0
        with self._env.begin() as txn:
            with txn.cursor(db=self._log) as cursor:
                for key, value in cursor:
                    last += 1
                    if _U64.unpack(key)[0] != last:
                        raise StoreCorrupt(last, "the record is missing")
                    record = decode_record(value, last, chain)
                    chain = record.chain
                    if txn.get(_stream_key(record.stream, record.version), db=self._streams) != key:
                        raise StoreCorrupt(last, f"it is not in the index of stream {record.stream}")
                    try:
                        project(record, aside)
                    except LadingError as error:
                        raise StoreCorrupt(last, f"it can't have happened there: {error}") from error
            rebuilt = {_view_key(view, key): encode_state(state) for view, key, state in aside.items()}
            with txn.cursor(db=self._view) as cursor:
                live = dict(cursor)
        for key in sorted(rebuilt.keys() | live.keys()):
            if rebuilt.get(key) != live.get(key):
                raise StoreCorrupt(0, f"view entry {key!r} differs from what the log gives")
        return Verified(last, len(live), chain)

    def rebuild(self) -> None:
        """Drop the views and fold the log again, in one transaction. For the appending thread only."""
        aside = MemoryViews()
        after = 0
        while page := self.read(after, 10_000):
            for record in page:
                project(record, aside)
            after = page[-1].position
        self._states.clear()
        with self._env.begin(write=True) as txn:
            txn.drop(self._view, delete=False)
            for view, key, state in aside.items():
                txn.put(_view_key(view, key), encode_state(state), db=self._view)
            txn.put(b"views", view_schemas(), db=self._meta)

    def _last(self) -> tuple[int, bytes]:
        with self._env.begin(db=self._log) as txn, txn.cursor() as cursor:
            if not cursor.last():
                return 0, GENESIS
            return _U64.unpack(cursor.key())[0], bytes(cursor.value()[-len(GENESIS) :])


class _Draft:
    """One member of a batch while it is decided: its writes are held back until all of it is allowed."""

    def __init__(self, log: Log, txn: lmdb.Transaction, position: int, chain: bytes) -> None:
        self._store, self._txn = log, txn
        self.position, self.chain = position, chain
        self._records: list[tuple[int, bytes]] = []
        self._versions: dict[str, int] = {}
        self._index: list[tuple[bytes, int]] = []
        self._states: dict[bytes, Any] = {}

    def write(self, member: Append) -> tuple[Record, ...]:
        records = []
        for proposed, event_id in zip(member.events, member.ids, strict=True):
            version = self._version(proposed.stream)
            if proposed.expect is not None and proposed.expect != version:
                raise Conflict(proposed.stream, proposed.expect, version)
            self.position += 1
            record = Record(
                self.position,
                proposed.stream,
                version + 1,
                event_id,
                member.time,
                member.actor,
                member.command,
                member.cause,
                proposed.event,
                b"",
            )
            project(record, self)
            stored, self.chain = encode_record(record, self.chain)
            self._records.append((self.position, stored))
            self._versions[proposed.stream] = version + 1
            self._index.append((_stream_key(proposed.stream, version + 1), self.position))
            records.append(attrs.evolve(record, chain=self.chain))
        return tuple(records)

    def flush(self) -> None:
        txn, log = self._txn, self._store
        for position, stored in self._records:
            if not txn.put(_U64.pack(position), stored, db=log._log, append=True):
                raise StoreCorrupt(position, "the log already goes further than its writer knows")
        for key, position in self._index:
            txn.put(key, _U64.pack(position), db=log._streams)
        for stream, version in self._versions.items():
            txn.put(stream.encode(), _U64.pack(version), db=log._heads)
        for key, state in self._states.items():
            if state is None:
                txn.delete(key, db=log._view)
            else:
                txn.put(key, encode_state(state), db=log._view)
        log._states.update(self._states)

    def _version(self, stream: str) -> int:
        if stream not in self._versions:
            stored = self._txn.get(stream.encode(), db=self._store._heads)
            self._versions[stream] = 0 if stored is None else _U64.unpack(stored)[0]
        return self._versions[stream]

    def get(self, view: View[S], key: str) -> S | None:
        full = _view_key(view, key)
        for known in (self._states, self._store._states):
            if full in known:
                state: S | None = known[full]
                return state
        stored = self._txn.get(full, db=self._store._view)
        return None if stored is None else decode_state(view.state, bytes(stored))

    def put(self, view: View[S], key: str, state: S) -> None:
        self._states[_view_key(view, key)] = state

    def delete(self, view: View[S], key: str) -> None:
        self._states[_view_key(view, key)] = None


def view_schemas() -> bytes:
    """The views' names and schema versions, as stored with them: when they differ, rebuild."""
    return ",".join(f"{view.name}={view.schema}" for view in VIEWS).encode()


def _view_key(view: View[Any], key: str) -> bytes:
    return f"{view.name}\0{key}".encode()


def _stream_key(stream: str, version: int) -> bytes:
    return stream.encode() + b"\0" + _U64.pack(version)


def _walk(txn: lmdb.Transaction, prefix: bytes, limit: int) -> Iterator[tuple[bytes, bytes]]:
    with contextlib.closing(txn.cursor()) as cursor:
        found, count = cursor.set_range(prefix), 0
        while found and bytes(cursor.key()).startswith(prefix) and (not limit or count < limit):
            yield bytes(cursor.key()), bytes(cursor.value())
            count += 1
            found = cursor.next()
