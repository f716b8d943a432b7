"""Views in plain dicts: the twin that the stored and the replayed ones are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, cast

from lading.events.views import View

__all__ = ["MemoryViews"]

S = TypeVar("S")


class MemoryViews:
    """A ``Views`` of dicts. Folding the same records gives the same states as the stored views hold."""

    def __init__(self) -> None:
        self._tables: dict[View[Any], dict[str, Any]] = {}

    def get(self, view: View[S], key: str) -> S | None:
        """The state at ``key``, or None."""
        return cast("S | None", self._tables.get(view, {}).get(key))

    def put(self, view: View[S], key: str, state: S) -> None:
        """Set the state at ``key``."""
        self._tables.setdefault(view, {})[key] = state

    def delete(self, view: View[S], key: str) -> None:
        """Forget ``key``; nothing happens if it isn't there."""
        self._tables.get(view, {}).pop(key, None)

    def count(self) -> int:
        """How many states there are."""
        return sum(map(len, self._tables.values()))

    def items(self) -> Iterator[tuple[View[Any], str, Any]]:
        """Every state, with its view and key."""
        for view, table in self._tables.items():
            for key, state in table.items():
                yield view, key, state
