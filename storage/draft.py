"""One append while it is decided: nothing is written before all of it is allowed.

The members of a batch are decided one after another, each seeing what those before it will write. What is
allowed is collected in the batch's ``Pending`` and written at the end, each table in one call and in the order
of its keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import attrs
import lmdb
import msgpack

from lading.events.codec import (
    RELEASES,
    SCHEMAS,
    decode_record,
    decode_state,
    encode_record,
    encode_state,
    event_tag,
)
from lading.events.construct import constructor
from lading.events.envelope import Actor, Proposed, Record, set_chain
from lading.events.errors import CommandReused, Conflict, Invalid, StoreCorrupt
from lading.events.facts import Event
from lading.events.ids import CommandId
from lading.events.views import View, project
from lading.storage.database import Database
from lading.storage.keys import U64, command_key, name_key, stream_key, view_key
from lading.storage.meta import read_base

__all__ = ["Append", "Draft", "Pending", "decoded", "first_append", "stream_number"]

S = TypeVar("S")

_record = constructor(Record)
_AROUND = 256
"""More bytes than the keys and index entries of a record or state take."""


@attrs.frozen
class Append:
    """One atomic append: all of ``events`` or none.

    ``ids`` has one event id for each event; ``cause`` is the position that this answers, 0 for none. ``once``: if
    ``command`` is in the log already, this is a retry, and its answer is what its first append gave; nothing is
    appended then.
    """

    events: tuple[Proposed, ...]
    ids: tuple[str, ...]
    time: int
    actor: Actor
    command: CommandId
    cause: int = 0
    once: bool = False


@attrs.define
class Pending:
    """What a batch will write, and what is known without asking the tables. Thrown away if the commit fails.

    ``size``: about how many bytes that are. ``times``: the least and the greatest time in it; None: there is none.
    """

    position: int
    chain: bytes
    kinds: Mapping[str, tuple[int, str]]
    noted: set[type[Any]]
    known_states: Mapping[tuple[View[Any], str], Any]
    known_streams: Mapping[str, tuple[int, int]]
    states: dict[tuple[View[Any], str], Any] = attrs.field(factory=dict)
    streams: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    new_kinds: bool = False
    records: list[tuple[bytes, bytes]] = attrs.field(factory=list)
    names: list[tuple[bytes, bytes]] = attrs.field(factory=list)
    index: list[tuple[bytes, bytes]] = attrs.field(factory=list)
    commands: list[tuple[bytes, bytes]] = attrs.field(factory=list)
    stored: dict[bytes, bytes | None] = attrs.field(factory=dict)
    size: int = 0
    times: tuple[int, int] | None = None
    first_of: dict[str, tuple[Record, ...]] = attrs.field(factory=dict)

    def write(self, db: Database, txn: lmdb.Transaction) -> tuple[int, int]:
        """Write it all down; how many entries and bytes that were."""
        tables = db.tables
        with txn.cursor(db=tables["log"]) as cursor:
            if cursor.putmulti(self.records, append=True)[1] != len(self.records):
                raise StoreCorrupt(self.position, "the log already goes further than its writer knows")
        states = [entry for entry in self.stored.items() if entry[1] is not None]
        for table, entries in (
            ("name", self.names),
            ("stream", self.index),
            ("command", self.commands),
            ("view", states),
        ):
            if entries:
                entries.sort()  # keys are unique: in the order of their pages
                with txn.cursor(db=tables[table]) as cursor:
                    cursor.putmulti(entries)
        if len(states) != len(self.stored):
            for key, value in self.stored.items():
                if value is None:
                    txn.delete(key, db=tables["view"])
        if self.new_kinds:
            txn.put(b"kinds", msgpack.packb(self.kinds), db=tables["meta"])
        return 3 * len(self.records) + len(self.commands) + len(self.stored) + 1, self.size

    def note(self, event: Event) -> None:
        """Note that events like this one occur, and which release they need."""
        self.noted.add(type(event))
        tag = event_tag(event)
        if tag not in self.kinds or self.kinds[tag][0] < SCHEMAS[tag][1]:
            self.kinds = {**self.kinds, tag: (SCHEMAS[tag][1], RELEASES[tag])}
            self.new_kinds = True


class Draft:
    """A member of a batch. It is a ``Views``: what it puts stays with it until it is accepted."""

    __slots__ = ("_db", "_pending", "_states", "_txn")

    def __init__(self, db: Database, txn: lmdb.Transaction, pending: Pending) -> None:
        self._db, self._txn, self._pending = db, txn, pending
        self._states: dict[tuple[View[Any], str], Any] = {}

    def decide(self, member: Append) -> tuple[Record, ...]:
        """The records that ``member`` becomes, or, for a retry, became; accepted into the pending batch.

        Raises a ``Refused`` or ``Invalid`` that leaves no trace.
        """
        if member.once:
            first = self._first(member)
            if first is not None:
                return first
        try:
            return self._decide(member)
        except (ValueError, OverflowError, TypeError) as error:  # UnicodeEncodeError is a ValueError
            raise Invalid("event", member.events[0].stream, f"it can't be stored: {error}") from error

    def _decide(self, member: Append) -> tuple[Record, ...]:
        pending, states = self._pending, self._states
        position, chain, size = pending.position, pending.chain, 0
        time, actor, command, cause = member.time, member.actor, member.command, member.cause
        streams: dict[str, tuple[int, int]] = {}
        raw, names, index, records = [], [], [], []
        for proposed, event_id in zip(member.events, member.ids, strict=True):
            stream, event = proposed.stream, proposed.event
            number, version = streams[stream] if stream in streams else self._stream(stream)
            if proposed.expect is not None and proposed.expect != version:
                raise Conflict(stream, proposed.expect, version)
            position += 1
            version += 1
            record = _record(position, stream, version, event_id, time, actor, command, cause, event, b"")
            project(record, self)
            stored, chain = encode_record(record, chain)
            key = U64.pack(position)
            raw.append((key, stored))
            size += len(stored)
            if version == 1:
                number = position
                names.append((name_key(stream), key))
            streams[stream] = number, version
            index.append((stream_key(number, version), key))
            records.append(set_chain(record, chain))
        if not records:
            return ()
        entry = command_key(command, pending.position + 1), U64.pack(len(records))
        changed: dict[bytes, bytes | None] = {}
        for place, state in states.items():
            value = None if state is None else encode_state(state)
            changed[view_key(*place)] = value
            size += len(value) if value is not None else 0
        # From here on nothing is refused any more.
        for record in records:
            if type(record.event) not in pending.noted:
                pending.note(record.event)
        pending.commands.append(entry)
        pending.position, pending.chain = position, chain
        pending.records += raw
        pending.names += names
        pending.index += index
        pending.size += size + _AROUND * (len(raw) + len(changed))
        least, most = pending.times or (time, time)
        pending.times = min(least, time), max(most, time)
        pending.streams.update(streams)
        pending.states.update(states)
        pending.stored.update(changed)
        answer = tuple(records)
        pending.first_of.setdefault(command, answer)
        return answer

    def _first(self, member: Append) -> tuple[Record, ...] | None:
        """What the first append of ``member``'s command gave, if there was one."""
        first = self._pending.first_of.get(member.command)
        if first is None:
            first = first_append(self._db, self._txn, member.command)
        if first is None:
            return None
        # A retry that creates something comes with an id of its own, which is not the one that counts.
        new = {proposed.stream for proposed in member.events if proposed.expect == 0}
        asked = [(type(event.event), "" if event.stream in new else event.stream) for event in member.events]
        known = [
            (type(record.event), "" if event.stream in new else record.stream)
            for record, event in zip(first, member.events, strict=False)
        ]
        if asked != known or len(first) != len(asked):
            raise CommandReused(member.command, first[0].position)
        return first

    def _stream(self, stream: str) -> tuple[int, int]:
        for known in (self._pending.streams, self._pending.known_streams):
            if stream in known:
                return known[stream]
        return stream_head(self._db, self._txn, stream)

    # -- the views, as this member sees them ----------------------------------------------------------------

    def get(self, view: View[S], key: str) -> S | None:
        place, pending = (view, key), self._pending
        for known in (self._states, pending.states, pending.known_states):
            if place in known:
                state: S | None = known[place]
                return state
        stored = self._txn.get(view_key(view, key), db=self._db.tables["view"])
        return None if stored is None else decoded(view, key, stored)

    def put(self, view: View[S], key: str, state: S) -> None:
        self._states[view, key] = state

    def delete(self, view: View[S], key: str) -> None:
        self._states[view, key] = None


def stream_head(db: Database, txn: lmdb.Transaction, stream: str) -> tuple[int, int]:
    """The number of ``stream``, and how many events it has; (0, 0) if there is none."""
    number = stream_number(db, txn, stream)
    if not number:
        return 0, 0
    last = stream_key(number, (1 << 64) - 1)
    with txn.cursor(db=db.tables["stream"]) as cursor:
        if not ((cursor.set_range(last) and cursor.key() == last) or cursor.prev()):
            return number, 0
        key = cursor.key()
    return number, U64.unpack(key[U64.size :])[0] if key.startswith(U64.pack(number)) else 0


def stream_number(db: Database, txn: lmdb.Transaction, stream: str) -> int:
    """The number of ``stream``; 0 if there is none."""
    stored = txn.get(name_key(stream), db=db.tables["name"])
    return 0 if stored is None else U64.unpack(stored)[0]


def first_append(db: Database, txn: lmdb.Transaction, command: str) -> tuple[Record, ...] | None:
    """The records of the first append of ``command``; None if it has none in the log, or that was compacted
    away.
    """
    try:
        prefix = command_key(command, 0)[: -U64.size]
    except ValueError as error:
        raise Invalid("command id", command, str(error)) from error
    with txn.cursor(db=db.tables["command"]) as cursor:
        if not cursor.set_range(prefix):
            return None
        key, value = cursor.item()
    if len(key) != len(prefix) + U64.size or not key.startswith(prefix):
        return None
    [start], [count] = U64.unpack(key[len(prefix) :]), U64.unpack(value)
    if start <= read_base(db, txn).position:
        return None
    records = []
    for position in range(start, start + count):
        stored = txn.get(U64.pack(position), db=db.tables["log"])
        if stored is None:
            raise StoreCorrupt(position, "the record is missing")
        records.append(decode_record(stored, position))
    return tuple(
        record for record in records if (record.time, record.cause) == (records[0].time, records[0].cause)
    )


def decoded(view: View[S], key: str, stored: bytes) -> S:
    """A state of the view table; ``StoreCorrupt`` if it is none."""
    try:
        state: S = decode_state(view.state, stored)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise StoreCorrupt(
            0, f"entry {key!r} of view {view.name} can't be decoded: {error}; rebuild the views"
        ) from (error)
    return state
