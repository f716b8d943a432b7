"""What happens to the store as a whole (stream ``engine``)."""

from __future__ import annotations

import attrs

__all__ = ["ENGINE_STREAM", "StoreCreated"]

ENGINE_STREAM = "engine"


@attrs.frozen
class StoreCreated:
    """The store ``store`` was made, in format ``format``, by ``release`` of this program (empty: not recorded).

    The first record of every log.
    """

    store: str
    format: int
    release: str = ""
