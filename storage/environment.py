"""Opening the log without trusting what is on disk."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import lmdb

from lading.events.errors import HostError, StoreBroken, StoreCorrupt, StoreNewer
from lading.storage.database import Database, open_database, why_failed
from lading.storage.log import Log
from lading.storage.meta import check_kinds, view_schemas
from lading.storage.walk import Progress

__all__ = ["FORMAT", "open_log"]

FORMAT = 2
"""The store's format. A release refuses a newer one, and brings an older one up to date when it opens it to
write.
"""

_RESTORE = "restore it from a backup"
_EMPTY = 4 << 20
"""The file's length at first: see ``Database``."""


def open_log(path: Path, store: str = "", readonly: bool = False, progress: Progress | None = None) -> Log:
    """The log in directory ``path``; made, with the identity ``store``, if it isn't there.

    What is made from the records is made again when this release makes it otherwise, in one transaction (a crash
    leaves it as it was); ``progress`` is called meanwhile. Readers whose process died are cleared away.

    Raises ``StoreBroken`` if the disk refuses that, ``StoreNewer`` for a store of a newer format, and, to
    write, for one with events that this release doesn't know; and ``StoreCorrupt`` for files that LMDB could
    crash on: a page file that is shorter than its meta pages say would end the process with SIGBUS, so it is
    checked before it is mapped.
    """
    data = path / "data.mdb"
    fresh = not data.exists()
    if fresh and readonly:
        raise StoreCorrupt(0, f"{path} has no log")
    if not fresh:
        _check_length(data)
    try:
        db = open_database(path, readonly, create=fresh)
    except lmdb.Error as error:
        if fresh:
            raise StoreBroken(why_failed(path, error)) from error
        raise StoreCorrupt(0, f"{data} is not a log: {error}") from error
    try:
        db.clear_readers()
        if fresh:
            os.truncate(data, _EMPTY)
            db.make_tables(create=True)
            _written(db, lambda txn: _begin(db, txn, store))
            return Log(db)
        return _open_old(db, path, progress)
    except BaseException as error:
        db.close()
        if isinstance(error, lmdb.Error) and fresh:
            raise StoreBroken(why_failed(path, error)) from error
        if isinstance(error, lmdb.Error):
            raise StoreCorrupt(0, f"{data} can't be read: {error}; {_RESTORE}") from error
        raise


def _written(db: Database, work: Callable[[lmdb.Transaction], tuple[None, int, int]]) -> None:
    try:
        db.write(work)
    except lmdb.Error as error:
        raise StoreBroken(why_failed(db.path, error)) from error


def _begin(db: Database, txn: lmdb.Transaction, store: str) -> tuple[None, int, int]:
    meta = db.tables["meta"]
    txn.put(b"format", str(FORMAT).encode(), db=meta)
    txn.put(b"store", store.encode(), db=meta)
    txn.put(b"views", view_schemas(), db=meta)
    return None, 3, 0


def _open_old(db: Database, path: Path, progress: Progress | None) -> Log:
    db.make_tables(create=False, only=("meta",))
    with db.read() as txn:
        form = _check_format(path, txn.get(b"format", db=db.tables["meta"]))
        schemas = txn.get(b"views", db=db.tables["meta"])
        if not db.readonly:
            check_kinds(db, txn)
    stale = form != FORMAT or schemas != view_schemas()
    if stale and db.readonly:
        hint = "open it once with this release, to have its views made again: lading serve"
        raise HostError("read the views of an earlier release in", os.fspath(path), 0, hint)
    db.make_tables(create=not db.readonly and stale)
    log = Log(db)
    if stale:
        log.rebuild(progress)
        _written(db, lambda txn: _now_current(db, txn))
    return log


def _now_current(db: Database, txn: lmdb.Transaction) -> tuple[None, int, int]:
    txn.put(b"format", str(FORMAT).encode(), db=db.tables["meta"])
    db.drop_table(txn, "head")  # of format 1
    return None, 2, 0


def _check_format(path: Path, found: bytes | None) -> int:
    text = found or b""
    if not text.isdigit():
        raise StoreCorrupt(0, f"{path} has no format number; {_RESTORE}")
    if int(text) > FORMAT:
        raise StoreNewer(os.fspath(path), f"format {int(text)}", "")
    return int(text)


def _check_length(data: Path) -> None:
    """Refuse a file that lacks pages which its meta pages count on (LMDB 0.9, mdb.c, MDB_meta).

    The log keeps the file longer than that at every instant, so a shorter one was cut.
    """
    size = data.stat().st_size
    page = os.sysconf("SC_PAGE_SIZE")
    with data.open("rb") as file:
        head = file.read(2 * page)
    if len(head) < 2 * page:
        raise StoreCorrupt(0, f"{data} has {size} bytes, less than its two meta pages; restore it from a backup")
    last_page = 0
    for start in (0, page):
        # 16 bytes of page header; magic, version, address, map size: 24; two MDB_db of 48; the last page
        magic, psize = (
            struct.unpack_from("<I", head, start + 16)[0],
            struct.unpack_from("<I", head, start + 40)[0],
        )
        if magic != 0xBEEFC0DE:
            raise StoreCorrupt(0, f"{data} has a meta page that isn't LMDB's; {_RESTORE}")
        if psize != page:
            return
        last_page = max(last_page, struct.unpack_from("<Q", head, start + 16 + 24 + 96)[0])
    if size < (last_page + 1) * page:
        raise StoreCorrupt(0, f"{data} has {size} bytes and needs {(last_page + 1) * page}; {_RESTORE}")
