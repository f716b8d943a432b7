"""What the history costs on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import attrs

from lading.storage.log import Log

__all__ = ["HistoryCosts", "history_costs"]

_GROUPS: Mapping[str, tuple[str, ...]] = {
    "records": ("log",),
    "indexes": ("stream", "command"),
    "views": ("view",),
    "snapshots": ("past", "mark"),
}


@attrs.frozen
class Part:
    """Some tables: ``entries`` in them, and ``size``: bytes of the pages that they fill."""

    entries: int
    size: int


@attrs.frozen
class HistoryCosts:
    """``parts``: records, indexes, views and snapshots. ``size``: bytes on disk of the whole file, with the
    pages that are free to be used again. ``archives``: how many segments are in the store, and ``archive_size``
    their bytes.
    """

    parts: Mapping[str, Part]
    size: int
    archives: int
    archive_size: int


def history_costs(log: Log, archive: Path) -> HistoryCosts:
    """What ``log`` and the segments in the directory ``archive`` take. Raises ``OSError``."""
    parts = {}
    with log.db.read() as txn:
        for name, tables in _GROUPS.items():
            stats = [txn.stat(log.db.tables[table]) for table in tables]
            pages = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
            parts[name] = Part(sum(stat["entries"] for stat in stats), pages * stats[0]["psize"])
    segments = [entry.stat() for entry in os.scandir(archive)] if archive.is_dir() else []
    return HistoryCosts(
        parts,
        os.stat(log.path / "data.mdb").st_blocks * 512,
        len(segments),
        sum(status.st_blocks * 512 for status in segments),
    )
