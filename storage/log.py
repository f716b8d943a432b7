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
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import lmdb
import msgpack

from lading.events.codec import GENESIS, decode_record, decode_state, encode_record, encode_state
from lading.events.envelope import Actor, Proposed, Record
from lading.events.errors import Conflict, EngineClosed, Invalid, LadingError, Refused, StoreBroken, StoreCorrupt
from lading.events.ids import CommandId
from lading.events.views import VIEWS, View, project
from lading.storage.memory import MemoryViews

__all__ = ["Append", "Log", "Verified", "view_schemas"]

_U64 = struct.Struct(">Q")
_CACHE = 8192
_PAGES_A_PUT = 8
_PAGES_SPARE = 64
_STEP = 4 << 20
_KEY = 511
"""The longest key (LMDB's MDB_MAXKEYSIZE)."""

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
        self._closed = False
        self._log, self._streams = tables["log"], tables["stream"]
        self._heads, self._view, self._meta = tables["head"], tables["view"], tables["meta"]
        self._position, self._chain = self._last()
        self._states: dict[bytes, Any] = {}
        self._broken = ""
        self._file = f"{env.path()}/data.mdb"
        self._length = 0
        self._page = env.stat()["psize"]

    def close(self) -> None:
        """Close the environment. Every method raises ``EngineClosed`` after."""
        self._closed = True
        self._env.close()

    def _begin(self, *, db: Any = None, write: bool = False) -> lmdb.Transaction:
        if self._closed:
            raise EngineClosed
        return self._env.begin(db=db, write=write)

    @property
    def position(self) -> int:
        """The position of the last record that this object appended, or found when it was opened."""
        return self._position

    def append(self, batch: Sequence[Append]) -> list[tuple[Record, ...] | Refused | Invalid]:
        """Append every member of ``batch`` that its conditions allow, and sync once.

        Gives, for each member in order, its records or the refusal; a refused member has changed nothing,
        and later members are decided as if it had not been there. Returns after the commit is on disk.
        An event that can't be stored (text that isn't Unicode, a number past 64 bits, a key past LMDB's 511
        bytes) is refused as ``Invalid``. A failed commit makes the log ``StoreBroken`` for good: nothing of the
        batch may be relied on.
        """
        if self._broken:
            raise StoreBroken(self._broken)
        position, chain = self._position, self._chain
        answers: list[tuple[Record, ...] | Refused | Invalid] = []
        pages = 0
        try:
            with self._begin(write=True) as txn:
                for member in batch:
                    draft = _Draft(self, txn, position, chain)
                    try:
                        records = draft.write(member)
                    except (Refused, Invalid) as refusal:
                        answers.append(refusal)
                        continue
                    pages += draft.flush()
                    position, chain = draft.position, draft.chain
                    answers.append(records)
                self._lengthen(pages)
        except lmdb.Error as error:
            self._broken = str(error)
            self._states.clear()
            raise StoreBroken(self._broken) from error
        except BaseException as error:
            self._broken = f"{type(error).__name__}: {error}"
            self._states.clear()
            raise
        self._position, self._chain = position, chain
        if len(self._states) > _CACHE:
            self._states.clear()
        return answers

    def read(self, after: int = 0, limit: int = 1000) -> list[Record]:
        """Up to ``limit`` records after position ``after``, in order."""
        return [decode_record(value, position) for position, value in self.read_raw(after, limit)]

    def read_raw(self, after: int = 0, limit: int = 1000) -> list[tuple[int, bytes]]:
        """Up to ``limit`` positions after ``after`` with their stored bytes (record || chain), undecoded."""
        page: list[tuple[int, bytes]] = []
        with self._begin(db=self._log) as txn, txn.cursor() as cursor:
            found = cursor.set_range(_U64.pack(after + 1))
            while found and len(page) < limit:
                key, value = cursor.item()
                page.append((_U64.unpack(key)[0], bytes(value)))
                found = cursor.next()
        return page

    def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> list[Record]:
        """Up to ``limit`` records of ``stream`` whose version is past ``after``, in order."""
        try:
            prefix = _stream_key(stream, 0)[: -_U64.size]
        except ValueError:  # nothing is called that
            return []
        page: list[tuple[int, bytes]] = []
        with self._begin(db=self._streams) as txn, txn.cursor() as cursor:
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
        try:
            full = _view_key(view, key)
        except ValueError:  # too long, or no Unicode: nothing is called that
            return None
        with self._begin(db=self._view) as txn:
            stored = txn.get(full)
        return None if stored is None else _decoded(view, key, bytes(stored))

    def scan(self, view: View[S], prefix: str = "", limit: int = 0) -> list[tuple[str, S]]:
        """Every (or the first ``limit``) state of ``view`` whose key starts with ``prefix``, by key."""
        try:
            start = _view_key(view, prefix)
        except ValueError:
            return []
        with self._begin(db=self._view) as txn:
            page = list(_walk(txn, start, limit))
        skip = len(view.name.encode()) + 1
        found = [(key[skip:].decode(), value) for key, value in page]
        return [(key, _decoded(view, key, value)) for key, value in found]

    def verify(self) -> Verified:
        """Walk the whole chain, decode everything, rebuild the views aside and compare every byte.

        Raises ``StoreCorrupt`` with the position of the first record that is wrong, or position 0 and the
        key for a view that is.
        """
        aside, chain, last = MemoryViews(), GENESIS, 0
        heads: dict[bytes, bytes] = {}
        with self._begin() as txn:
            with txn.cursor(db=self._log) as cursor:
                for key, value in cursor:
                    last += 1
                    if _U64.unpack(key)[0] != last:
                        raise StoreCorrupt(last, "the record is missing")
                    record = decode_record(bytes(value), last, chain)
                    chain = record.chain
                    version = _U64.pack(record.version)
                    if record.version != 1 + _U64.unpack(heads.get(record.stream.encode(), bytes(8)))[0]:
                        raise StoreCorrupt(last, f"its version in stream {record.stream} is {record.version}")
                    heads[record.stream.encode()] = version
                    if txn.get(_stream_key(record.stream, record.version), db=self._streams) != key:
                        raise StoreCorrupt(last, f"it is not in the index of stream {record.stream}")
                    try:
                        project(record, aside)
                    except LadingError as error:
                        raise StoreCorrupt(last, f"it can't have happened there: {error}") from error
            with txn.cursor(db=self._heads) as cursor:
                if dict(cursor) != heads:
                    raise StoreCorrupt(last + 1, "the streams' heads name other records than the log has")
            if txn.stat(self._streams)["entries"] != last:
                raise StoreCorrupt(last + 1, "the index of streams names records that the log has not")
            rebuilt = {_view_key(view, key): encode_state(state) for view, key, state in aside.items()}
            with txn.cursor(db=self._view) as cursor:
                live = {bytes(key): bytes(value) for key, value in cursor}
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
        with self._begin(write=True) as txn:
            txn.drop(self._view, delete=False)
            stored = {_view_key(view, key): encode_state(state) for view, key, state in aside.items()}
            for key, value in stored.items():
                txn.put(key, value, db=self._view)
            txn.put(b"views", view_schemas(), db=self._meta)
            self._lengthen(_PAGES_A_PUT * len(stored) + sum(map(len, stored.values())) // 1024)

    def _lengthen(self, pages: int) -> None:
        """Have the file longer than the coming commit, which takes at most ``pages`` more, can make it.

        LMDB never writes a page that was taken and given back in one commit, not even to lengthen the file: a
        sound file could be shorter than its meta page says, and opening could not tell it from a cut one. The
        length costs no disk: what is not written is a hole.
        """
        need = (self._env.info()["last_pgno"] + 1 + _PAGES_SPARE + pages) * self._page
        if need > self._length:
            self._length = need + _STEP
            if os.path.getsize(self._file) < self._length:
                os.truncate(self._file, self._length)

    def _last(self) -> tuple[int, bytes]:
        with self._begin(db=self._log) as txn, txn.cursor() as cursor:
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
        self._stored: dict[bytes, bytes | None] = {}

    def write(self, member: Append) -> tuple[Record, ...]:
        """Decide and encode all of ``member``; raises a ``Refused`` or ``Invalid`` that leaves no trace."""
        try:
            return self._write(member)
        except (ValueError, OverflowError, TypeError) as error:  # UnicodeEncodeError is a ValueError
            raise Invalid("event", member.events[0].stream, f"it can't be stored: {error}") from error

    def _write(self, member: Append) -> tuple[Record, ...]:
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
        self._stored = {key: None if state is None else encode_state(state) for key, state in self._states.items()}
        return tuple(records)

    def flush(self) -> int:
        """Write it all down; at most so many pages were taken for that."""
        txn, log = self._txn, self._store
        puts = 2 * len(self._records) + len(self._versions) + len(self._stored)
        size = sum(len(stored) for _, stored in self._records) + sum(map(len, filter(None, self._stored.values())))
        for position, stored in self._records:
            if not txn.put(_U64.pack(position), stored, db=log._log, append=True):
                raise StoreCorrupt(position, "the log already goes further than its writer knows")
        for key, position in self._index:
            txn.put(key, _U64.pack(position), db=log._streams)
        for stream, version in self._versions.items():
            txn.put(stream.encode(), _U64.pack(version), db=log._heads)
        for key, value in self._stored.items():
            if value is None:
                txn.delete(key, db=log._view)
            else:
                txn.put(key, value, db=log._view)
        log._states.update(self._states)
        return _PAGES_A_PUT * puts + size // 1024

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
        return None if stored is None else _decoded(view, key, bytes(stored))

    def put(self, view: View[S], key: str, state: S) -> None:
        self._states[_view_key(view, key)] = state

    def delete(self, view: View[S], key: str) -> None:
        self._states[_view_key(view, key)] = None


def view_schemas() -> bytes:
    """The views' names and schema versions, as stored with them: when they differ, rebuild."""
    return ",".join(f"{view.name}={view.schema}" for view in VIEWS).encode()


def _view_key(view: View[Any], key: str) -> bytes:
    return _checked(f"{view.name}\0{key}".encode())


def _stream_key(stream: str, version: int) -> bytes:
    return _checked(stream.encode() + b"\0" + _U64.pack(version))


def _checked(key: bytes) -> bytes:
    if len(key) > _KEY:
        raise ValueError(f"a key of {len(key)} bytes is longer than LMDB's {_KEY}")
    return key


def _decoded(view: View[S], key: str, stored: bytes) -> S:
    try:
        state: S = decode_state(view.state, stored)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise StoreCorrupt(
            0, f"entry {key!r} of view {view.name} can't be decoded: {error}; rebuild the views"
        ) from (error)
    return state


def _walk(txn: lmdb.Transaction, prefix: bytes, limit: int) -> Iterator[tuple[bytes, bytes]]:
    with contextlib.closing(txn.cursor()) as cursor:
        found, count = cursor.set_range(prefix), 0
        while found and bytes(cursor.key()).startswith(prefix) and (not limit or count < limit):
            yield bytes(cursor.key()), bytes(cursor.value())
            count += 1
            found = cursor.next()
