"""Proving a compacted log together with its archives: both are one history, from its first record on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

import attrs

from lading.events.codec import GENESIS
from lading.events.compaction import LogCompacted
from lading.events.errors import Invalid, StoreCorrupt
from lading.events.store import ENGINE_STREAM
from lading.storage.importing import JoinedExports
from lading.storage.log import Log
from lading.storage.walk import Fold

__all__ = ["Archived", "check_archives"]


@attrs.frozen
class Archived:
    """Archives that hold: the records 1 to ``last``. ``marked``: the chain at the position that was asked for."""

    last: int
    marked: bytes | None = None


def check_archives(
    log: Log, store: str, sources: Iterable[tuple[str, BinaryIO]], mark: int | None = None
) -> Archived:
    """Prove that the archives ``sources`` (name, file; in order, from the first record on) led to what ``log``
    keeps.

    Every line is checked, every chain hashed, every record folded; they must end where the log begins, with its
    chain, and give the very states that the log keeps for them. Raises ``ExportInvalid`` with the file and line
    that is wrong, ``StoreCorrupt`` with the position, and ``Invalid`` for archives that aren't those of this
    log.
    """
    joined = JoinedExports(sources)
    if joined.store != store:
        raise Invalid("archive", joined.store, f"it is of another store; this is {store}")
    fold, marked = Fold(), None
    try:
        for page in joined.pages():
            for entry, (position, stored) in zip(fold.opened(page), page, strict=True):
                fold.fold(entry, stored)
                fold.chain = stored[-len(GENESIS) :]
                if position == mark:
                    marked = fold.chain
            if fold.touched is not None:
                fold.touched.clear()
    except StoreCorrupt as error:
        raise joined.blame(error) from error
    base = log.base
    if fold.position != base.position:
        why = f"the archives end at position {fold.position}, and the log begins after {base.position}"
        raise Invalid("archive", fold.position, f"{why}: give all of them, in order")
    if base.position and fold.chain != base.chain:
        raise StoreCorrupt(base.position, "the archives end with another chain than the log goes on from")
    if base.position and fold.digest() != _recorded(log, base.position):
        raise StoreCorrupt(base.position, "the archives led to other states than the log keeps for them")
    return Archived(fold.position, marked)


def _recorded(log: Log, last: int) -> str:
    """The digest of the states at ``last``, as it was recorded when the log was compacted up to there."""
    version, found = 0, ""
    while page := log.read_stream(ENGINE_STREAM, version):
        for record in page:
            if isinstance(record.event, LogCompacted) and record.event.last == last:
                found = record.event.state
        version = page[-1].version
    return found
