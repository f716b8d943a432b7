"""A flipped bit anywhere in the file is found, or it changed nothing that is stored; and it is never a crash."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import trio
from logbook import BORN, busy, made, told

from lading.engine.history.verifier import verify_aside
from lading.events.errors import HostError, StoreCorrupt, StoreNewer
from lading.storage import snapshots
from lading.storage.environment import FORMAT, open_log

STORE = "0" * 32


def make_store(root: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A store of some hundred records and many snapshots; how many bytes of its file are in use."""
    for name in ("snapshots", "log", "rebuild"):
        monkeypatch.setattr(f"lading.storage.{name}.EVERY", 25)
    monkeypatch.setattr(snapshots, "_SMALL", 40)
    root.mkdir()
    log = open_log(root / "log", STORE)
    for _ in busy(log, 120):
        pass
    told(log, made(9000, args=("x" * 20_000,)))
    used = (log.db.last_page() + 1) * os.sysconf("SC_PAGE_SIZE")
    log.close()
    (root / "store.json").write_text(json.dumps({"store": STORE, "format": FORMAT}))
    return used


@pytest.mark.long
def test_a_flipped_bit_is_found_by_position_or_changed_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verifying runs in a child: where LMDB itself would crash on a page, that is told as damage, too."""
    root = tmp_path / "store"
    used = make_store(root, monkeypatch)
    data = root / "log" / "data.mdb"
    whole = data.read_bytes()
    sound = trio.run(verify_aside, root)
    chance = random.Random(os.urandom(8))
    found: list[int] = []
    refused = unfound = 0
    for _ in range(250):
        at, bit = chance.randrange(used), chance.randrange(8)
        changed = bytearray(whole[:used])
        changed[at] ^= 1 << bit
        with data.open("r+b") as file:
            file.write(changed)
        (root / "log" / "lock.mdb").unlink(missing_ok=True)
        try:
            verified = trio.run(verify_aside, root)
        except StoreCorrupt as error:
            found.append(error.position)
        except (StoreNewer, HostError):  # a bit of the notes of which release made it
            refused += 1
        else:
            unfound += 1
            assert verified == sound, (at, bit)  # in a page, or a part of one, that holds nothing
    assert len(found) > 30
    assert all(0 <= position <= sound.records + 1 for position in found)
    assert found.count(0) < len(found) / 5  # what is no record's, such as LMDB's own pages at the start
    assert refused < 5
    assert unfound > 10


def test_a_record_that_was_altered_is_found_in_a_child_by_its_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    make_store(root, monkeypatch)
    sound = trio.run(verify_aside, root)
    assert (sound.first, sound.snapshots > 5) == (1, True)
    log = open_log(root / "log")
    [(position, stored)] = log.read_raw(41, 1)
    log.close()
    data = root / "log" / "data.mdb"
    content = bytearray(data.read_bytes())
    places = [at for at in range(len(content)) if content.startswith(stored, at)]
    assert places
    for at in places:  # its page may have been copied since
        content[at + 5] ^= 4
    data.write_bytes(content)
    with pytest.raises(StoreCorrupt) as found:
        trio.run(verify_aside, root)
    assert found.value.position == position == 42


def test_progress_is_told_and_a_cancel_ends_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "store"
    make_store(root, monkeypatch)
    seen: list[tuple[int, int]] = []

    async def cancelled() -> None:
        with trio.move_on_after(0.01) as scope:
            await verify_aside(root)
        assert scope.cancelled_caught

    verified = trio.run(verify_aside, root, lambda at, of: seen.append((at, of)))
    assert seen[-1] == (verified.records, verified.records)
    trio.run(cancelled)


def test_what_is_no_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no store is there"):
        trio.run(verify_aside, tmp_path)


def test_a_log_of_another_store_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "store"
    make_store(root, monkeypatch)
    (root / "store.json").write_text(json.dumps({"store": "1" * 32, "format": FORMAT}))
    with pytest.raises(StoreCorrupt, match="is not this store's"):
        trio.run(verify_aside, root)


def test_a_log_is_not_mistaken_for_a_new_one(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log", STORE)
    told(log, BORN)
    assert log.store == STORE
    log.close()
