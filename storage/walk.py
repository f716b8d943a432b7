"""Walking the log from its base on with the views folded aside: what verifying and rebuilding share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

import attrs
import lmdb

from lading.events.codec import decode_record, decode_state, encode_state
from lading.events.envelope import Record
from lading.events.errors import LadingError, StoreCorrupt
from lading.events.views import View, project
from lading.storage.database import Database
from lading.storage.keys import U64, view_key
from lading.storage.memory import MemoryViews
from lading.storage.meta import Base
from lading.storage.snapshots import Mark, past_states, state_digest

__all__ = ["Fold", "Progress", "read_page"]

Progress: TypeAlias = Callable[[int, int], None]
"""Called now and then with the position that was reached, and the last one."""

S = TypeVar("S")


@attrs.define(eq=False)
class Fold:
    """The views, folded aside from the base on, with the chain and what changed since it was last asked."""

    position: int
    chain: bytes
    views: MemoryViews = attrs.field(factory=MemoryViews)
    dirty: dict[bytes, tuple[View[Any], str]] = attrs.field(factory=dict)
    times: list[int] = attrs.field(factory=list)
    last_change: dict[bytes, int] = attrs.field(factory=dict)

    @classmethod
    def from_base(cls, db: Database, txn: lmdb.Transaction, base: Base, views: tuple[View[Any], ...]) -> Fold:
        """Before the first record that is kept: empty, or what the snapshot at the base says."""
        fold = cls(base.position, base.chain)
        if base.position:
            by_name = {view.name: view for view in views}
            for full, stored in past_states(db, txn, Mark(base.position, base.position, 0, 0, 0)):
                name, _, key = full.decode().partition("\0")
                fold.views.put(by_name[name], key, decode_state(by_name[name].state, stored))
        return fold

    def step(self, record: Record) -> None:
        """Fold ``record``, the next one. ``StoreCorrupt`` if it can't have happened there."""
        try:
            project(record, self)
        except StoreCorrupt:
            raise
        except LadingError as error:
            raise StoreCorrupt(record.position, f"it can't have happened there: {error}") from error
        self.position, self.chain = record.position, record.chain
        self.times.append(record.time)

    def spread(self) -> tuple[int, int]:
        """The least and the greatest time of the records since ``changes`` was last asked."""
        return (min(self.times), max(self.times)) if self.times else (0, 0)

    def changes(self) -> dict[bytes, bytes | None]:
        """What changed since this was last asked: key in the view table -> bytes, or None for what is gone."""
        found: dict[bytes, bytes | None] = {}
        for full, (view, key) in self.dirty.items():
            state = self.views.get(view, key)
            found[full] = None if state is None else encode_state(state)
        self.dirty.clear()
        self.times.clear()
        return found

    def encoded(self) -> Iterator[tuple[bytes, bytes]]:
        """Every state as the view table has it: key and bytes."""
        for view, key, state in self.views.items():
            yield view_key(view, key), encode_state(state)

    def digest(self) -> str:
        """The sha256 (hexadecimal) over every state, in the order of the keys: what ``LogCompacted.state``
        says.
        """
        return state_digest(sorted(self.encoded()))

    # -- a Views, that notes what is changed ----------------------------------------------------------------

    def get(self, view: View[S], key: str) -> S | None:
        return self.views.get(view, key)

    def put(self, view: View[S], key: str, state: S) -> None:
        self.views.put(view, key, state)
        full = view_key(view, key)
        self.dirty[full] = view, key
        self.last_change[full] = self.position + 1

    def delete(self, view: View[S], key: str) -> None:
        self.views.delete(view, key)
        full = view_key(view, key)
        self.dirty[full] = view, key
        self.last_change.pop(full, None)


def read_page(db: Database, txn: lmdb.Transaction, after: int, chain: bytes, limit: int) -> Iterator[Record]:
    """Up to ``limit`` records after ``after``, whose chain is ``chain``, each checked against the one before."""
    expected = after
    with txn.cursor(db=db.tables["log"]) as cursor:
        found = cursor.set_range(U64.pack(after + 1))
        while found and expected < after + limit:
            expected += 1
            key, stored = cursor.item()
            if U64.unpack(key)[0] != expected:
                raise StoreCorrupt(expected, "the record is missing")
            record = decode_record(stored, expected, chain)
            chain = record.chain
            yield record
            found = cursor.next()
