"""No damage to the log goes unnoticed, and what was made from the records can be made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from logbook import cid, does, dump, grown, put, told, u64

from lading.events.container import Renamed
from lading.events.errors import (
    StoreCorrupt,
)
from lading.events.ids import container_stream
from lading.events.views import CONTAINERS, VIEWS
from lading.storage import meta
from lading.storage.environment import open_log
from lading.storage.log import Log


def test_verify_finds_a_flipped_bit_in_any_record(log: Log) -> None:
    grown(log)
    for key, value in dump(log)["log"].items():
        for at in {*range(0, len(value), 37), len(value) - 33, len(value) - 32, len(value) - 1}:
            put(log, "log", key, value[:at] + bytes([value[at] ^ 1 << at % 8]) + value[at + 1 :])
            with pytest.raises(StoreCorrupt) as found:
                log.verify()
            assert found.value.position == int.from_bytes(key, "big")
        put(log, "log", key, value)
    assert log.verify().records == 11


@pytest.mark.parametrize("position", range(1, 12))
def test_verify_finds_a_missing_record(log: Log, position: int) -> None:
    """The last one, too, though it changed no view."""
    put(grown(log), "log", u64(position), None)
    with pytest.raises(StoreCorrupt) as found:
        log.verify()
    assert found.value.position in ((0, position) if position == 11 else (position,))


@pytest.mark.parametrize("table", ["stream", "command", "view"])
@pytest.mark.parametrize("damage", ["deleted", "altered", "added"])
def test_verify_finds_damage_in_everything_that_is_derived(log: Log, table: str, damage: str) -> None:
    """Views, heads and index decide appends and answer queries: all are compared with what the log gives."""
    grown(log)
    for key, value in dump(log)[table].items():
        if damage == "added":
            put(log, table, key[:-1] + bytes([key[-1] ^ 0x40]), value)
        else:
            put(log, table, key, None if damage == "deleted" else value[:-1] + bytes([value[-1] ^ 1]))
        with pytest.raises(StoreCorrupt):
            pytest.fail(f"{damage} {key!r} in {table}: {log.verify()}")
        put(log, table, key, value)
        if damage == "added":
            put(log, table, key[:-1] + bytes([key[-1] ^ 0x40]), None)
    log.verify()


@pytest.mark.parametrize("query", [lambda log: log.get(CONTAINERS, cid(1)), lambda log: log.scan(CONTAINERS)])
@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x90", b"\xa1x"], ids=bytes.hex)
def test_queries_tell_a_damaged_state_as_corrupt(log: Log, query: Callable[[Log], Any], value: bytes) -> None:
    put(grown(log), "view", b"container\0" + cid(1).encode(), value)
    with pytest.raises(StoreCorrupt):
        query(log)


@pytest.mark.parametrize("read", [lambda log: log.read(1), lambda log: log.read_stream(container_stream(cid(1)))])
def test_reading_tells_a_damaged_record_by_its_position(log: Log, read: Callable[[Log], Any]) -> None:
    """What is before it can still be read."""
    put(grown(log), "log", u64(2), b"\xc1" * 50)
    with pytest.raises(StoreCorrupt) as found:
        read(log)
    assert found.value.position == 2
    assert [record.position for record in log.read()] == [1]


def test_rebuild_gives_the_same_bytes(log: Log) -> None:
    before = dump(grown(log))
    log.rebuild()
    assert dump(log) == before
    put(log, "view", b"container\0" + cid(1).encode(), b"junk")
    put(log, "view", b"claim\0container-name/nobody", b"junk")
    log.rebuild()
    assert dump(log) == before
    told(log, does(1, Renamed("name1", "name3")))
    log.verify()


def test_views_of_another_schema_are_rebuilt_on_opening(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = grown(open_log(path, "id"))
    before = dump(log)
    put(log, "view", b"container\0" + cid(1).encode(), b"as another release wrote it")
    log.close()
    changed = [attrs.evolve(VIEWS[0], schema=VIEWS[0].schema + 1), *VIEWS[1:]]
    monkeypatch.setattr(meta, "VIEWS", changed)
    log = open_log(path)
    assert dump(log)["view"] == before["view"]
    assert dump(log)["meta"][b"views"].startswith(b"container=%d," % changed[0].schema)
    put(log, "view", b"container\0" + cid(1).encode(), b"junk")
    log.close()
    log = open_log(path)  # the same schema: not looked at, so not rebuilt
    assert dump(log)["view"][b"container\0" + cid(1).encode()] == b"junk"
    log.close()
