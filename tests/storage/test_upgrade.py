"""Stores of earlier and later releases: brought up to date, or refused with what is needed."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import msgpack
import pytest
from logbook import BORN, dump, made, put, told

from lading.events import codec
from lading.events.container import status
from lading.events.errors import HostError, StoreNewer
from lading.events.store import StoreCreated
from lading.events.views import CLAIMS, CONTAINERS, TAGS
from lading.storage.environment import FORMAT, open_log
from lading.storage.log import Log
from lading.storage.store import open_store, read_log

OLD = Path(__file__).parents[1] / "golden" / "format-1.tar.gz"
"""A store of format 1: without numbers of streams, an index of commands, snapshots, or a note of the kinds of
event.
"""


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("lading.storage.store._RUN", tmp_path / "run")
    with tarfile.open(OLD) as tar:
        tar.extractall(tmp_path, filter="tar")
    return tmp_path / "store"


def test_a_store_of_format_1_is_brought_up_to_date_when_it_is_opened(old: Path) -> None:
    """Every record stays as it is; everything else is made anew; and it says how far it has come."""
    with pytest.raises(HostError, match="open it once with this release"):
        read_log(old)
    seen: list[tuple[int, int]] = []
    store = open_store(old, lambda at, of: seen.append((at, of)))
    log = store.log
    assert seen[-1] == (19, 19)
    assert log.verify().chain.hex().startswith("bd9d54f7320f99"[:8])
    assert dump(log)["meta"][b"format"] == b"%d" % FORMAT
    names = {state.name: (status(state), state.exit_code) for _, state in log.scan(CONTAINERS)}
    assert names == {"www": ("exited", 0), "db": ("exited", None)}
    assert [key for key, _ in log.scan(CLAIMS)] == ["container-name/db", "container-name/www"]
    assert [key for key, _ in log.scan(TAGS)] == ["docker.io/library/busybox:1"]
    [born, *_] = log.read()
    assert born.event == StoreCreated("5" * 32, 1, "")  # schema 1 had no release
    assert [record.position for record in log.read_command(f"{9:032x}")] == [13, 14]
    assert [state.name for _, state in log.at(9).scan(CONTAINERS)] == ["web", "db"]
    told(log, made(1))
    log.verify()
    store.close()
    again: list[Any] = []
    store = open_store(old, lambda at, of: again.append(at))
    assert (again, store.log.verify().records) == ([], 20)
    store.close()


def newer(log: Log, **kinds: tuple[int, str]) -> None:
    """Have the log's note say that events of a later release are in it."""
    known = msgpack.unpackb(dump(log)["meta"][b"kinds"])
    put(log, "meta", b"kinds", msgpack.packb(known | {tag.replace("_", "."): kind for tag, kind in kinds.items()}))


@pytest.mark.parametrize(
    ("kinds", "what", "release"),
    [
        ({"container_teleported": (1, "7.1.0")}, "container.teleported events of schema 1", "7.1.0"),
        ({"store_created": (9, "8.0.0")}, "store.created events of schema 9", "8.0.0"),
    ],
)
def test_a_log_with_events_of_a_later_release_is_not_written(
    path: Path, kinds: dict[str, tuple[int, str]], what: str, release: str
) -> None:
    """It says which release is needed. Reading what is known goes on."""
    log = open_log(path, "id")
    told(log, BORN)
    newer(log, **kinds)
    before = dump(log)
    log.close()
    with pytest.raises(StoreNewer, match=f"install lading {release} or later") as refused:
        open_log(path)
    assert (refused.value.what, refused.value.release) == (what, release)
    log = open_log(path, readonly=True)
    assert [record.position for record in log.read()] == [1]
    assert dump(log) == before
    log.close()


def test_a_record_of_a_later_release_is_told_as_that_and_not_as_damage(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(path, "id")
    told(log, BORN, made(1))
    monkeypatch.delitem(codec.SCHEMAS, "container.created")
    assert [record.position for record in log.read(limit=1)] == [1]
    with pytest.raises(StoreNewer, match=r"a container\.created event of schema 1 at position 2"):
        log.read(1)
    log.close()


def test_every_kind_that_is_written_is_noted_with_its_release(log: Log) -> None:
    told(log, BORN, made(1))
    kinds = msgpack.unpackb(dump(log)["meta"][b"kinds"])
    assert kinds == {
        tag: [codec.SCHEMAS[tag][1], codec.RELEASES[tag]] for tag in ("store.created", "container.created")
    }
    before = dump(log)["meta"]
    log.rebuild()
    assert dump(log)["meta"] == before


def test_a_rebuild_that_is_killed_leaves_what_was_there(old: Path) -> None:
    """It is one transaction: the next opening does it again."""
    program = (
        "import os, sys; from pathlib import Path; from lading.storage import store\n"
        "store._RUN = Path(sys.argv[2])\n"
        "store.open_store(Path(sys.argv[1]), lambda at, of: os.kill(os.getpid(), 9))\n"
    )
    run = os.fspath(old.parent / "run")
    done = subprocess.run([sys.executable, "-c", program, old, run], capture_output=True, check=False)
    assert done.returncode == -9
    store = open_store(old)
    assert store.log.verify().records == 19
    store.close()
