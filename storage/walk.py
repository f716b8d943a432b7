"""Walking the log from its base on with the views folded aside: what verifying and rebuilding share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import lmdb

from lading.events.codec import decode_state, encode_state
from lading.events.replay import Replay
from lading.events.views import View
from lading.storage.database import Database
from lading.storage.keys import U64, view_key
from lading.storage.meta import Base
from lading.storage.snapshots import Mark, past_states, state_digest

__all__ = ["Fold", "Progress", "read_page"]

Progress: TypeAlias = Callable[[int, int], None]
"""Called now and then with the position that was reached, and the last one."""


class Fold(Replay):
    """The views, folded aside from the base on, every chain checked; and what changed since it was last asked."""

    def __init__(self) -> None:
        super().__init__(checked=True, traced=True)
        self.last_change: dict[bytes, int] = {}
        self.times: list[int] = []

    @classmethod
    def from_base(cls, db: Database, txn: lmdb.Transaction, base: Base, views: tuple[View[Any], ...]) -> Fold:
        """Before the first record that is kept: empty, or what the snapshot at the base says."""
        fold = cls()
        fold.position, fold.chain = base.position, base.chain
        if base.position:
            by_name = {view.name: view for view in views}
            for full, stored in past_states(db, txn, Mark(base.position, base.position, 0, 0, 0)):
                name, _, key = full.decode().partition("\0")
                fold.put(by_name[name], key, decode_state(by_name[name].state, stored))
        fold.changes()
        return fold

    def spread(self) -> tuple[int, int]:
        """The least and the greatest of ``times``: of the records since ``changes`` was last asked."""
        return (min(self.times), max(self.times)) if self.times else (0, 0)

    def changes(self) -> dict[bytes, bytes | None]:
        """What changed since this was last asked: key in the view table -> bytes, or None for what is gone."""
        assert self.touched is not None
        found: dict[bytes, bytes | None] = {}
        for (view, key), position in self.touched.items():
            full = view_key(view, key)
            state = self.get(view, key)
            if state is None:
                found[full] = None
                self.last_change.pop(full, None)
            else:
                found[full] = encode_state(state)
                self.last_change[full] = position
        self.touched.clear()
        self.times.clear()
        return found

    def encoded(self) -> Iterator[tuple[bytes, bytes]]:
        """Every state as the view table has it: key and bytes."""
        for view, key, state in self.items():
            yield view_key(view, key), encode_state(state)

    def digest(self) -> str:
        """The sha256 (hexadecimal) over every state, in the order of the keys: what ``LogCompacted.state``
        says.
        """
        return state_digest(sorted(self.encoded()))


def read_page(db: Database, txn: lmdb.Transaction, after: int, limit: int) -> list[tuple[int, bytes]]:
    """Up to ``limit`` positions after ``after`` with their stored bytes."""
    page: list[tuple[int, bytes]] = []
    with txn.cursor(db=db.tables["log"]) as cursor:
        if cursor.set_range(U64.pack(after + 1)):
            for key, stored in cursor:
                page.append((U64.unpack(key)[0], stored))
                if len(page) >= limit:
                    break
    return page
