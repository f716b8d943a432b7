"""Replay: every view folded again from stored records, as fast as they can be read.

This is what rebuilding, verifying and travelling in time have in common. ``views.project`` stays the one
definition of how a record changes the views. What is here is a short cut past it for the bulk of a log: a
container that is made under a free name, moves along, or is gone. That needs of the record nothing but the
stream, the time and the event. Everything else goes through ``project``, with the whole record. That the two
ways give the same, and refuse the same, is a test over whole histories.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from lading.events.claims import ClaimState, container_name
from lading.events.codec import GENESIS, check_chain, decode_entry, record_of
from lading.events.construct import constructor
from lading.events.container import (
    Created,
    Exited,
    Removed,
    evolve,
)
from lading.events.containerviews import SETTINGS, SUPERVISED, SUPERVISION, forget_upkeep, project_upkeep
from lading.events.errors import Refused, StoreCorrupt
from lading.events.ids import container_stream
from lading.events.views import CLAIMS, CONTAINERS, MOVES, VIEWS, View, project

__all__ = ["Replay"]

S = TypeVar("S")

_claim = constructor(ClaimState)
_NAME = container_name("").key
_CONTAINER = container_stream("")


class Replay:
    """The views after ``position``, in dicts; ``feed`` takes them further. A ``Views``.

    It begins before the first record, with nothing in any view. To begin elsewhere, ``put`` the states of there
    and set ``position`` (and ``chain``, if it is to be checked) before feeding. With ``checked``, each record's
    chain is checked as well. With ``traced``, ``touched`` has, for every state that was changed, the position
    that changed it last, until somebody clears it.
    """

    def __init__(self, *, checked: bool = False, traced: bool = False) -> None:
        self.position: int = 0
        self.chain: bytes = GENESIS
        self.touched: dict[tuple[View[Any], str], int] | None = {} if traced else None
        self._checked = checked
        self._at = 0
        self._tables: dict[View[Any], dict[str, Any]] = {view: {} for view in VIEWS}
        self._settings, self._supervision = self._tables[SETTINGS], self._tables[SUPERVISION]

    def feed(self, page: Iterable[tuple[int, bytes]]) -> None:
        """Fold ``page``: positions with their stored bytes, in order, going on from ``position``.

        Raises ``StoreCorrupt`` with the position of the first record that is missing, that is not exactly what
        was written, or that can't have happened there. The states are then of no use any more.
        """
        fold, checked, chain, last = self.fold, self._checked, self.chain, self.position
        for position, stored in page:  # as in ``opened``, without a step between
            last += 1
            if position != last:
                raise StoreCorrupt(last, "the record is missing")
            if checked:
                chain = check_chain(stored, position, chain)
            fold(decode_entry(stored, position), stored)
        self.chain = chain

    def opened(self, page: Iterable[tuple[int, bytes]]) -> Iterator[list[Any]]:
        """The entries (``codec.decode_entry``) of ``page``, which goes on from ``position``; see ``feed``."""
        checked, chain, last = self._checked, self.chain, self.position
        for position, stored in page:
            last += 1
            if position != last:
                raise StoreCorrupt(last, "the record is missing")
            if checked:
                chain = check_chain(stored, position, chain)
            yield decode_entry(stored, position)

    def fold(self, entry: list[Any], stored: bytes) -> None:
        """Fold the next record, opened before."""
        position, stream, event = entry[1], entry[2], entry[11]
        containers, touched = self._tables[CONTAINERS], self.touched
        try:
            kind = type(event)
            if kind in MOVES:
                key = stream.removeprefix(_CONTAINER)
                before = containers.get(key)
                containers[key] = evolve(before, event, entry[5])
                if touched is not None:
                    touched[CONTAINERS, key] = position
                if kind in SUPERVISED and (
                    key in self._settings or key in self._supervision or (kind is Exited and event.oom)
                ):
                    self._at = position
                    project_upkeep(self, key, event, before.phase if before else None, entry[5])
            elif kind is Created and _NAME + event.name not in self._tables[CLAIMS]:
                key, name = event.container, _NAME + event.name
                containers[key] = evolve(containers.get(key), event, entry[5])
                self._tables[CLAIMS][name] = _claim(stream)
                if touched is not None:
                    touched[CONTAINERS, key] = touched[CLAIMS, name] = position
            elif kind is Removed:
                key, claims = stream.removeprefix(_CONTAINER), self._tables[CLAIMS]
                name = _NAME + evolve(containers.get(key), event, entry[5]).name
                if name in claims and claims[name].holder == stream:
                    del claims[name]
                del containers[key]
                self._at = position
                forget_upkeep(self, key)
                if touched is not None:
                    touched[CONTAINERS, key] = touched[CLAIMS, name] = position
            else:
                self._at = position
                project(record_of(entry, stored), self)
        except Refused as error:
            raise StoreCorrupt(position, f"it can't have happened there: {error}") from error
        self.position = position

    def get(self, view: View[S], key: str) -> S | None:
        """The state at ``key``, or None."""
        state: S | None = self._tables[view].get(key)
        return state

    def put(self, view: View[S], key: str, state: S) -> None:
        """Set the state at ``key``."""
        self._tables[view][key] = state
        if self.touched is not None:
            self.touched[view, key] = self._at

    def delete(self, view: View[S], key: str) -> None:
        """Forget ``key``; nothing happens if it isn't there."""
        self._tables[view].pop(key, None)
        if self.touched is not None:
            self.touched[view, key] = self._at

    def items(self) -> Iterator[tuple[View[Any], str, Any]]:
        """Every state, with its view and key."""
        for view, table in self._tables.items():
            for key, state in table.items():
                yield view, key, state

    def count(self) -> int:
        """How many states there are."""
        return sum(map(len, self._tables.values()))
