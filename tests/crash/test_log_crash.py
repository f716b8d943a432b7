"""What is left after a crash, and what is told of files that are not what was written."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from lading.events.container import Created, Removed, RemoveRequested
from lading.events.envelope import UNKNOWN, Proposed
from lading.events.errors import Refused, StoreCorrupt, StoreNewer
from lading.events.ids import container_stream
from lading.events.spec import ContainerSpec
from lading.events.store import ENGINE_STREAM, StoreCreated
from lading.storage import store
from lading.storage.environment import open_log
from lading.storage.log import Append, Log
from lading.storage.store import open_store, seal_identity

BORN = Proposed(ENGINE_STREAM, StoreCreated("0" * 32, 1))


def made(number: int, *args: str) -> Proposed:
    container = f"{number:064x}"
    spec = ContainerSpec("sha256:" + "1" * 64, "app", (), args)
    return Proposed(container_stream(container), Created(container, f"name{number}", spec), 0)


def member(*events: Proposed) -> Append:
    return Append(events, ("0" * 32,) * len(events), 777, UNKNOWN, "c" * 32)


def told(log: Log, *members: Append) -> None:
    assert not any(isinstance(answer, Refused) for answer in log.append(members))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(store, "_RUN", tmp_path / "run")
    return tmp_path / "root"


APPENDER = """
import itertools, random, sys
from pathlib import Path
from lading.events.container import Created, Removed, RemoveRequested
from lading.events.envelope import UNKNOWN, Proposed
from lading.events.spec import ContainerSpec
from lading.storage.environment import open_log
from lading.storage.log import Append

chance = random.Random(int(sys.argv[2]))
log = open_log(Path(sys.argv[1]), "id")
spec = ContainerSpec("sha256:" + "1" * 64, "app", (), ("x",))
print("ready", flush=True)
while True:
    batch = []
    for _ in range(chance.randint(1, 4)):
        container = f"{chance.getrandbits(256):064x}"
        life = [Created(container, container[:12], spec), RemoveRequested(False), Removed(container[:12])]
        events = tuple(Proposed("container/" + container, event) for event in life[: chance.choice((1, 1, 2, 3))])
        ids = tuple(f"{chance.getrandbits(128):032x}" for _ in events)
        batch.append(Append(events, ids, 5, UNKNOWN, "c" * 32))
    for records in log.append(batch):
        print(records[0].position, len(records), records[0].event_id, flush=True)
"""


@pytest.mark.long
def test_what_was_acknowledged_is_there_after_sigkill(path: Path) -> None:
    """Killed at twenty random moments, one after another on one log: whole members, none lost, none torn."""
    chance = random.Random(os.urandom(8).hex())
    acknowledged: dict[int, tuple[int, str]] = {}
    for run in range(20):
        command = [sys.executable, "-c", APPENDER, path, str(chance.getrandbits(64) + run)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as appender:
            assert appender.stdout is not None
            assert appender.stdout.readline() == "ready\n"
            lines = [appender.stdout.readline() for _ in range(chance.randrange(60))]
            appender.send_signal(signal.SIGKILL)
            lines += appender.stdout.readlines()
        assert appender.returncode == -signal.SIGKILL
        for line in lines:
            position, count, event_id = line.split()
            acknowledged[int(position)] = int(count), event_id
        log = open_log(path)
        verified = log.verify()
        records = log.read(limit=1_000_000)
        log.close()
        assert verified.records == len(records)
        for position, (count, event_id) in acknowledged.items():
            assert records[position - 1].event_id == event_id
            assert len({record.stream for record in records[position - 1 : position - 1 + count]}) == 1
    assert len(acknowledged) > 20


TRUNCATED = """
import os, sys, resource
from pathlib import Path
from lading.events.errors import StoreCorrupt
from lading.storage.environment import open_log
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
data, place = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
used = int(sys.argv[3])
for length in sorted({*range(0, used, 4096), *range(1, used, 5003), used - 1, used, len(data)}):
    (place / "lock.mdb").unlink(missing_ok=True)
    (place / "data.mdb").write_bytes(data[:length])
    pid = os.fork()
    if not pid:
        try:
            log = open_log(place)
            log.read()
            print(length, "opened", log.verify().records, flush=True)
        except StoreCorrupt as error:
            kept = (place / "data.mdb").read_bytes() == data[:length]
            print(length, "refused", kept, error.position, "restore it" in str(error), flush=True)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        print(length, "ended with", status, flush=True)
"""


@pytest.mark.slow
def test_a_truncated_file_is_refused_at_every_length_and_never_a_crash(path: Path, tmp_path: Path) -> None:
    """LMDB would end the process with SIGBUS. The file is left as it is, to be restored or looked at."""
    log = open_log(path, "id")
    for number in range(1, 12):
        told(log, member(made(number, "x" * (number * 600))))
    used = (log.db.last_page() + 1) * os.sysconf("SC_PAGE_SIZE")
    log.close()
    place = tmp_path / "cut"
    place.mkdir()
    command = [sys.executable, "-c", TRUNCATED, path / "data.mdb", place, str(used)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    *cut, used_up, whole = done.stdout.splitlines()
    assert done.stderr == ""
    assert used_up.split()[1:] == whole.split()[1:] == ["opened", "11"]
    assert len(cut) > 20
    assert [line for line in cut if line.split()[1:] != ["refused", "True", "0", "True"]] == []


def test_a_sound_file_is_never_shorter_than_its_meta_page_says(path: Path) -> None:
    """LMDB never writes a page that was taken and given back in one commit; the log keeps the file long itself."""
    log = open_log(path, "id")
    first = made(1, "x" * 40_000)
    gone = [Proposed(first.stream, event) for event in (RemoveRequested(False), Removed("name1"))]
    told(log, member(BORN, first), member(*gone))
    last_page = log.db.last_page()
    log.close()
    assert (path / "data.mdb").stat().st_size >= (last_page + 1) * os.sysconf("SC_PAGE_SIZE")
    log = open_log(path)
    assert log.verify().records == 4
    told(log, member(made(2)))
    log.close()


def test_a_store_that_lost_its_log_is_refused(root: Path) -> None:
    """An empty or missing data.mdb is a loss to be told, never a new store."""
    opened = open_store(root)
    told(opened.log, member(BORN))
    seal_identity(opened)
    data = opened.paths.log / "data.mdb"
    opened.close()
    opened.close()
    content = data.read_bytes()
    for _ in range(2):
        data.write_bytes(b"")
        with pytest.raises(StoreCorrupt, match=r"has lost its log; restore log/data\.mdb from a backup"):
            open_store(root)
    data.unlink()
    with pytest.raises(StoreCorrupt, match="has lost its log"):
        open_store(root)
    assert not data.exists()
    data.write_bytes(content)
    again = open_store(root)
    assert (again.identity, again.created, again.log.head()) == (opened.identity, False, 1)
    again.close()


def test_a_store_whose_making_was_cut_short_is_made_anew(root: Path) -> None:
    """Without an identity nothing was ever acknowledged."""
    first = open_store(root)
    told(first.log, member(BORN))
    first.close()
    second = open_store(root)
    assert (second.created, second.log.head()) == (True, 0)
    assert second.identity != first.identity
    second.close()


def damage_format(path: Path, found: bytes | None) -> None:
    log = open_log(path, "id")
    told(log, member(BORN, made(1)))
    table = log.db.tables["meta"]

    def damage(txn: lmdb.Transaction) -> tuple[None, int, int]:
        assert txn.delete(b"format", db=table) if found is None else txn.put(b"format", found, db=table)
        return None, 1, 0

    log.db.write(damage)
    log.close()


def meta(path: Path) -> dict[bytes, bytes]:
    with lmdb.open(str(path), max_dbs=9) as env:
        table = env.open_db(b"meta", create=False)
        with env.begin(db=table) as txn:
            return dict(txn.cursor())


@pytest.mark.parametrize("found", [b"3", b"10", b"999999999999999999999"])
def test_a_newer_format_is_refused_and_left_alone(path: Path, found: bytes) -> None:
    damage_format(path, found)
    before = meta(path)
    with pytest.raises(StoreNewer) as refused:
        open_log(path)
    assert (refused.value.path, refused.value.what, refused.value.release) == (
        str(path),
        f"format {int(found)}",
        "",
    )
    assert meta(path) == before


@pytest.mark.parametrize("found", [b"", b"x", b"-1", b"1.0", None])
def test_a_format_that_is_none_is_corrupt(path: Path, found: bytes | None) -> None:
    damage_format(path, found)
    with pytest.raises(StoreCorrupt):
        open_log(path).close()
