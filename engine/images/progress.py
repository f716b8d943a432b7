"""How far a pull, a push or a load is: what is told on the way, in Docker's words."""

from __future__ import annotations

from collections.abc import Callable

import attrs

__all__ = ["Progress", "Tell", "short_digest", "untold"]


@attrs.frozen
class Progress:
    """One step. ``id``: of the layer (12 digits of its digest) that it is about; empty: of the whole.

    ``current`` of ``total`` bytes are through; ``total`` 0: that isn't known, or means nothing here.
    """

    id: str
    status: str
    current: int = 0
    total: int = 0


Tell = Callable[[Progress], None]
"""Called in the engine's task, often: it must be quick, and what it raises ends the transfer."""


def untold(_: Progress) -> None:
    """Tells nobody."""


def short_digest(digest: str) -> str:
    """The 12 digits by which people know a layer."""
    return digest.removeprefix("sha256:")[:12]
