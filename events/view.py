"""What a view is, and how its states are read and written.

The views themselves, and how the log changes them, are in ``events.views`` and ``events.imageviews``.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

import attrs

__all__ = ["Reader", "View", "Views"]

S = TypeVar("S")


@attrs.frozen(eq=False)
class View(Generic[S]):
    """A table of states by key. ``schema`` goes up whenever the bytes of a state would change."""

    name: str
    state: type[S]
    schema: int = 1


class Reader(Protocol):
    """The views at one moment, to read: now, or as they were at some position."""

    def get(self, view: View[S], key: str) -> S | None:
        """The state at ``key``, or None."""

    def scan(self, view: View[S], prefix: str = "", limit: int = 0) -> list[tuple[str, S]]:
        """Every (or the first ``limit``) state whose key starts with ``prefix``, by key."""


class Views(Protocol):
    """Where states are kept: LMDB, or a dict while views are rebuilt aside."""

    def get(self, view: View[S], key: str) -> S | None:
        """The state at ``key``, or None."""

    def put(self, view: View[S], key: str, state: S) -> None:
        """Set the state at ``key``."""

    def delete(self, view: View[S], key: str) -> None:
        """Forget ``key``."""
