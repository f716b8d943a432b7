"""Old records can leave the log: what they led to stays, what is left is sound, and the archive has the rest."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from histories import histories
from hypothesis import strategies as st
from logbook import ACTOR, BORN, append, busy, cid, does, dump, everything, made, put, told

from lading.events.compaction import LogCompacted
from lading.events.container import Renamed
from lading.events.envelope import Proposed
from lading.events.errors import Invalid, NotInHistory, StoreCorrupt
from lading.events.ids import CommandId, container_stream
from lading.events.views import CONTAINERS
from lading.storage import snapshots
from lading.storage.compact import archive
from lading.storage.environment import open_log
from lading.storage.export import read_export
from lading.storage.log import Append, Log

STORE = "0" * 32


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots every few records, and new epochs soon."""
    for name in ("snapshots", "log", "rebuild"):
        monkeypatch.setattr(f"lading.storage.{name}.EVERY", 7)
    monkeypatch.setattr(snapshots, "_SMALL", 20)


def compact(log: Log, last: int, directory: Path, *, clear: bool = True) -> Any:
    segment = archive(log.db, STORE, last, directory)
    record = log.rebase(segment, "e" * 32, 10**6 + last, ACTOR, CommandId("d" * 32))
    while clear and log.clear():
        pass
    return record.event


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("clear", [True, False])
def test_what_is_left_is_as_it_was(path: Path, tmp_path: Path, seed: int, clear: bool) -> None:
    """Compacted at any position, again and again; the same queries, travel, appends and a clean verify."""
    chance = random.Random(seed)
    log = open_log(path, STORE)
    for _ in busy(log, 90, seed):
        pass
    seen = {position: everything(log.at(position)) for position in range(log.position + 1)}
    records = {record.position: record for record in log.read(limit=10**6)}
    base = 0
    for _ in range(4):
        last = chance.randint(base + 2, len(records))
        event = compact(log, last, tmp_path / "archive", clear=clear)
        assert last - 1 <= event.last <= last  # appends here have one or two records, and none is cut
        last = event.last
        assert (event.first, event.chain) == (base + 1, records[last].chain.hex())
        base = last
        verified = log.verify()
        assert (verified.first, log.first) == (last + 1, last + 1)
        assert verified.records == log.head() - last
        for position in range(base, max(records) + 1):
            assert everything(log.at(position)) == seen[position]
        assert [record for record in log.read(limit=10**6) if record.position in records] == [
            record for position, record in records.items() if position > base
        ]
        with pytest.raises(NotInHistory, match="compacted up to"):
            log.at(base - 1)
        if base > max(records) - 3:
            break
    log.rebuild()
    log.verify()
    assert everything(log.at(log.position)) == everything(log) == seen[max(records)]
    number = 10_000
    for _ in range(30):
        number += 1
        append(log, made(number), time=10**7 + number)
    log.verify()
    log.close()
    log = open_log(path)
    assert log.first == base + 1
    append(log, made(20_000), time=10**8)
    log.verify()
    while log.clear():
        pass
    log.verify()
    log.close()


def test_the_archive_and_what_is_left_are_the_whole_history(path: Path, tmp_path: Path) -> None:
    """The same bytes, in order, with nothing twice and nothing missing."""
    log = open_log(path, STORE)
    for _ in busy(log, 60):
        pass
    before = log.read_raw(limit=10**6)
    first = compact(log, 20, tmp_path / "archive")
    second = compact(log, 50, tmp_path / "archive")
    assert sorted(file.name for file in (tmp_path / "archive").iterdir()) == [first.archive, second.archive]
    found: list[tuple[int, bytes]] = []
    for event in (first, second):
        with (tmp_path / "archive" / event.archive).open("rb") as file:
            reader = read_export(file)
            assert reader.header.after == len(found)
            found += reader
    left = log.read_raw(limit=10**6)
    assert (found + left)[: len(before)] == before
    assert isinstance(log.read(limit=10**6)[-1].event, LogCompacted)
    log.close()


def test_streams_go_on_counting(log: Log, tmp_path: Path) -> None:
    told(log, BORN, made(1), made(2))
    told(log, does(1, Renamed("name1", "a")))
    compact(log, 4, tmp_path)
    assert log.read_stream(container_stream(cid(1))) == []
    told(log, does(1, Renamed("a", "b"), 2))
    [record] = log.read_stream(container_stream(cid(1)))
    assert (record.version, record.position) == (3, 6)
    state = log.get(CONTAINERS, cid(1))
    assert state is not None
    assert (state.version, state.name) == (3, "b")
    log.verify()


def test_a_command_that_was_compacted_away_is_forgotten(log: Log, tmp_path: Path) -> None:
    """Retries are known for as long as the history is kept."""
    again = Append((made(1),), ("0" * 32,), 5, ACTOR, CommandId("5" * 32), once=True)
    [first], [second] = log.append([again]), log.append([again])
    assert first == second
    compact(log, 1, tmp_path, clear=False)
    assert log.first_append("5" * 32) is None
    assert log.read_command("5" * 32) == []


@pytest.mark.parametrize("last", [0, 4, 99])
def test_only_what_is_there_can_be_archived(log: Log, tmp_path: Path, last: int) -> None:
    told(log, BORN, made(1), made(2))
    with pytest.raises(NotInHistory):
        archive(log.db, STORE, last, tmp_path / "archive")
    assert not (tmp_path / "archive").exists()


def test_a_damaged_record_is_not_archived(log: Log, tmp_path: Path) -> None:
    """It is told, nothing is dropped, and no file is left."""
    told(log, BORN, made(1), made(2))
    value = dump(log)["log"][(2).to_bytes(8, "big")]
    put(log, "log", (2).to_bytes(8, "big"), value[:30] + b"?" + value[31:])
    with pytest.raises(StoreCorrupt) as found:
        archive(log.db, STORE, 3, tmp_path / "archive")
    assert found.value.position == 2
    assert list((tmp_path / "archive").iterdir()) == []


@pytest.mark.parametrize("table", ["past", "mark", "meta"])
def test_damage_to_what_stands_for_the_compacted_records_is_found(log: Log, tmp_path: Path, table: str) -> None:
    told(log, BORN, made(1), made(2))
    compact(log, 3, tmp_path)
    log.verify()
    key, value = next((key, value) for key, value in dump(log)[table].items() if table != "meta" or key == b"base")
    put(log, table, key, value[:-1] + bytes([value[-1] ^ 1]))
    with pytest.raises(StoreCorrupt):
        log.verify()
    put(log, table, key, None)
    with pytest.raises(StoreCorrupt):
        log.verify()


@pytest.mark.long
@hypothesis.given(history=histories(), cut=st.integers(0, 10**6))
def test_any_history_can_be_compacted_anywhere(
    history: list[tuple[Proposed, ...]], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    top = tmp_path_factory.mktemp("log")
    log = open_log(top / "log", STORE)
    try:
        for number, events in enumerate(history):
            append(log, *events, time=number)
        states = everything(log)
        with contextlib.suppress(Invalid):  # it would have cut the first append
            compact(log, 1 + cut % log.position, top / "archive", clear=cut % 2 == 0)
        assert everything(log) == states
        log.verify()
        log.rebuild()
        assert everything(log) == states
        log.verify()
    finally:
        log.close()
