"""Opening the LMDB environment without trusting what is on disk.

The map is a terabyte of address space from the start: it costs nothing until it is used, since the file
grows with its pages, and so it never has to grow under a reader's feet.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import lmdb

from lading.events.errors import StoreCorrupt, StoreNewer
from lading.storage.log import Log, view_schemas

__all__ = ["FORMAT", "open_log"]

FORMAT = 1
"""The store's format. A release refuses a newer one."""

_MAP = 1 << 40
_TABLES = ("log", "stream", "head", "view", "meta")
_RESTORE = "restore it from a backup"


def open_log(path: Path, store: str = "", readonly: bool = False) -> Log:
    """The log in directory ``path``; made, with the identity ``store``, if it isn't there.

    Views whose schema is of another release are rebuilt. Raises ``StoreNewer`` for a store of a newer
    format, and ``StoreCorrupt`` for files that LMDB could crash on: a page file that is shorter than its
    meta pages say would end the process with SIGBUS, so it is checked before it is mapped.
    """
    data = path / "data.mdb"
    fresh = not data.exists()
    if fresh and readonly:
        raise StoreCorrupt(0, f"{path} has no log")
    if not fresh:
        _check_length(data)
    old = os.umask(0o077)
    try:
        env = lmdb.open(
            os.fspath(path),
            map_size=_MAP,
            max_dbs=len(_TABLES),
            mode=0o600,
            readonly=readonly,
            create=fresh,
            max_readers=512,
        )
    except lmdb.Error as error:
        raise StoreCorrupt(0, f"{data} is not a log: {error}") from error
    finally:
        os.umask(old)
    try:
        env.reader_check()
        tables = {name: env.open_db(name.encode(), create=fresh) for name in _TABLES}
        with env.begin(db=tables["meta"]) as txn:
            found = txn.get(b"format")
            schemas = txn.get(b"views")
        if not fresh:
            _check_format(path, found)
        if fresh:
            os.truncate(data, 4 << 20)  # see Log._lengthen
            with env.begin(write=True, db=tables["meta"]) as txn:
                txn.put(b"format", str(FORMAT).encode())
                txn.put(b"store", store.encode())
                txn.put(b"views", view_schemas())
        log = Log(env, tables)
        if not fresh and schemas != view_schemas() and not readonly:
            log.rebuild()
    except BaseException as error:
        env.close()
        if isinstance(error, lmdb.Error):
            raise StoreCorrupt(0, f"{data} can't be read: {error}") from error
        raise
    return log


def _check_format(path: Path, found: bytes | memoryview | None) -> None:
    text = b"" if found is None else bytes(found)
    if not text.isdigit():
        raise StoreCorrupt(0, f"{path} has no format number; {_RESTORE}")
    if int(text) > FORMAT:
        raise StoreNewer(os.fspath(path), int(text), FORMAT)


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
