"""The table ``meta``: the facts about the log itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import lmdb
import msgpack

from lading.events.codec import GENESIS, SCHEMAS
from lading.events.errors import StoreCorrupt, StoreNewer
from lading.events.views import VIEWS
from lading.storage.database import Database
from lading.storage.keys import U64

__all__ = [
    "Base",
    "check_kinds",
    "check_record_kind",
    "last_position",
    "read_base",
    "read_kinds",
    "view_schemas",
    "write_base",
    "write_kinds",
]


@attrs.frozen
class Base:
    """Where the log begins: after ``position``, whose chain is ``chain``."""

    position: int = 0
    chain: bytes = GENESIS


def view_schemas() -> bytes:
    """The views' names and schema versions, as stored with them: when they differ, rebuild."""
    return ",".join(f"{view.name}={view.schema}" for view in VIEWS).encode()


def read_base(db: Database, txn: lmdb.Transaction) -> Base:
    """Where the log begins."""
    stored = txn.get(b"base", db=db.tables["meta"])
    if stored is None:
        return Base()
    position, chain = _unpacked(stored, "base")
    if type(position) is not int or type(chain) is not bytes or len(chain) != len(GENESIS):
        raise StoreCorrupt(0, "the log's base is not a position and a chain; restore it from a backup")
    return Base(position, chain)


def last_position(db: Database, txn: lmdb.Transaction) -> int:
    """The position of the last record; the base's if there is none after it."""
    with txn.cursor(db=db.tables["log"]) as cursor:
        return int(U64.unpack(cursor.key())[0]) if cursor.last() else read_base(db, txn).position


def write_base(db: Database, txn: lmdb.Transaction, base: Base) -> None:
    """Have the log begin after ``base``."""
    txn.put(b"base", msgpack.packb((base.position, base.chain)), db=db.tables["meta"])


def read_kinds(db: Database, txn: lmdb.Transaction) -> dict[str, tuple[int, str]]:
    """The kinds of event that occur in the log: tag -> newest schema, and the release that it needs."""
    stored = txn.get(b"kinds", db=db.tables["meta"])
    if stored is None:
        return {}
    kinds = _unpacked(stored, "kinds")
    return {tag: (schema, release) for tag, (schema, release) in kinds.items()}


def write_kinds(db: Database, txn: lmdb.Transaction, kinds: Mapping[str, tuple[int, str]]) -> None:
    """Note which kinds of event occur."""
    txn.put(b"kinds", msgpack.packb(kinds), db=db.tables["meta"])


def check_kinds(db: Database, txn: lmdb.Transaction) -> None:
    """Raise ``StoreNewer``, with the release that is needed, if the log has events that this one doesn't know."""
    for tag, (schema, release) in sorted(read_kinds(db, txn).items()):
        if tag not in SCHEMAS or schema > SCHEMAS[tag][1]:
            raise StoreNewer(str(db.path), f"{tag} events of schema {schema}", release)


def check_record_kind(db: Database, txn: lmdb.Transaction, position: int, stored: bytes) -> None:
    """Raise ``StoreNewer`` if the record at ``position`` can't be read because it is of a kind that was noted
    as newer.
    """
    try:
        entry = msgpack.unpackb(stored[: -len(GENESIS)])
        tag, schema = entry[9], entry[10]
        found = read_kinds(db, txn).get(tag)
    except (ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException):
        return
    if found is not None and schema <= found[0] and (tag not in SCHEMAS or schema > SCHEMAS[tag][1]):
        raise StoreNewer(str(db.path), f"a {tag} event of schema {schema} at position {position}", found[1])


def _unpacked(stored: bytes, name: str) -> Any:
    try:
        return msgpack.unpackb(stored)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise StoreCorrupt(0, f"the log's {name} can't be decoded: {error}; restore it from a backup") from error
