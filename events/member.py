"""Members of image archives: the one form of their names, and what is known of those that are layers."""

from __future__ import annotations

import attrs

from lading.events.ids import Digest

__all__ = ["LayerFacts", "clean_member"]


@attrs.frozen
class LayerFacts:
    """What a member that is a layer turned out to be: digests and sizes as it came, and of the plain archive."""

    digest: Digest
    compressed_size: int
    diff_id: Digest
    size: int


def clean_member(name: str) -> str | None:
    """The one form of a member's name (no ``.``, no slash at its end), or None if it leads out of the archive."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts or name.startswith("/") or not parts else "/".join(parts)
