"""A store made of exports: one history out of several files, each record with the bytes that it always had.

What is folded on the way are the views; what comes out is, byte for byte, the log and the views of the store that
was exported. Nothing is believed before it is checked: each line (``export``), that each file goes on where the
one before it ended, each record (``events.foreign``), and that it can have happened there (``events.views``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NoReturn

import attrs
import lmdb

from lading.events.codec import GENESIS, decode_record
from lading.events.errors import ExportInvalid, HostError, Invalid, LadingError, StoreCorrupt
from lading.events.foreign import check_foreign
from lading.storage.database import Database
from lading.storage.environment import open_log
from lading.storage.export import ExportReader, Header, Summary, read_export
from lading.storage.keys import U64
from lading.storage.log import Log
from lading.storage.newstore import making_store

__all__ = ["Imported", "JoinedExports", "import_history", "replay_into"]

_RECORDS = 4000
_BYTES = 16 << 20


@attrs.frozen
class Imported:
    """The store that was made: its identity, and the ``position`` and ``chain`` of its last record."""

    store: str
    position: int
    chain: bytes


def import_history(root: Path, sources: Iterable[tuple[str, BinaryIO]]) -> Imported:
    """Make the store at ``root`` (see ``making_store``) of the exports ``sources``: (name, file), in order.

    The first begins at position 1, each of the others where the one before it ended. Each is read once, and the
    next is asked for only then. Raises ``ExportInvalid`` with the file, line and position that is wrong, and what
    ``making_store`` raises. An error, or a crash, leaves no store.
    """
    with making_store(root) as making:
        history = JoinedExports(sources)
        (making.work / "log").mkdir(mode=0o700)
        log = open_log(making.work / "log", history.store)
        try:
            replay_into(log, history.store, history.pages())
        except StoreCorrupt as error:
            raise history.blame(error) from error
        except lmdb.Error as error:
            raise HostError(
                f"write the log ({error}) in", os.fspath(root), 0, "see whether its disk is full"
            ) from error
        finally:
            log.close()
        assert history.last is not None
        making.publish(history.store)
    last = history.last
    return Imported(history.store, last.position, last.chain)


def replay_into(log: Log, store: str, pages: Iterable[list[tuple[int, bytes]]]) -> None:
    """Put these very stored bytes of a history of ``store`` into the empty ``log``, and make the rest of them.

    Each page is a transaction of its own, and so are the tables that are made from them; then all is verified.
    Raises ``StoreCorrupt``, which names the first record that does not follow, can't be decoded, or can't have
    happened; then the log holds some of the records and is of no use.
    """
    position, chain = 0, GENESIS
    for page in pages:
        for at, stored in page:
            position += 1
            if at != position:
                raise StoreCorrupt(position, "the record is missing")
            record = decode_record(stored, position, chain)
            chain = record.chain
            try:
                check_foreign(record, store)
            except LadingError as error:
                raise StoreCorrupt(position, f"it can't have happened there: {error}") from error
        log.db.write(partial(_put, log.db, page))
    log.rebuild()
    log.verify()


def _put(db: Database, page: list[tuple[int, bytes]], txn: lmdb.Transaction) -> tuple[None, int, int]:
    with txn.cursor(db=db.tables["log"]) as cursor:
        cursor.putmulti([(U64.pack(position), stored) for position, stored in page], append=True)
    return None, len(page), sum(len(stored) for _, stored in page)


class JoinedExports:
    """The exports ``sources``, in order, as pages of one history that begins at position 1."""

    def __init__(self, sources: Iterable[tuple[str, BinaryIO]]) -> None:
        self._sources = iter(sources)
        self._begun: list[tuple[str, Header]] = []
        self.last: Summary | None = None
        self._reader = self._next()
        if self._reader is None:
            raise Invalid("exports", (), "there is none to import")
        self.store: str = self._reader.header.store

    def pages(self) -> Iterator[list[tuple[int, bytes]]]:
        """The records, some thousand at a time. Ends only when the end of the last file is verified."""
        page: list[tuple[int, bytes]] = []
        size = 0
        while self._reader is not None:
            for position, stored in self._reader:
                page.append((position, stored))
                size += len(stored)
                if len(page) >= _RECORDS or size >= _BYTES:
                    yield page
                    page, size = [], 0
            self.last = self._reader.summary
            self._reader = self._next()
        if self.last is None or self.last.position == 0:
            self._fail(1, 0, "there is no record in it, not even of the store's making")
        if page:
            yield page

    def blame(self, error: StoreCorrupt) -> ExportInvalid:
        """``error`` with the file and the line that has the record."""
        for name, header in reversed(self._begun):
            if header.after < error.position:
                return ExportInvalid(error.position - header.after + 1, error.position, error.why, name)
        raise error

    def _next(self) -> ExportReader | None:
        """The next file, which goes on where the one before it ended."""
        found = next(self._sources, None)
        if found is None:
            return None
        name, source = found
        reader = read_export(source, name)
        header, before = reader.header, self.last
        self._begun.append((name, header))
        if before is None:
            if header.after:
                self._fail(
                    1,
                    header.after + 1,
                    "the history begins earlier: give the export that begins at position 1 first",
                )
        elif header.store != before.header.store:
            self._fail(1, 0, f"it is of store {header.store}, and what is before it of {before.header.store}")
        elif header.after != before.position:
            why = f"it goes on after position {header.after}, and what is before it ends at {before.position}"
            self._fail(1, header.after + 1, why)
        elif header.chain != before.chain:
            self._fail(1, header.after + 1, "it does not follow: what is before it ends with another chain")
        return reader

    def _fail(self, line: int, position: int, why: str) -> NoReturn:
        raise ExportInvalid(line, position, why, self._begun[-1][0])
