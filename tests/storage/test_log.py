"""The log: what an append promises, what reading gives, and that no damage goes unnoticed."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from lading.events.codec import GENESIS
from lading.events.container import Created, Removed, RemoveRequested, Renamed, StartRequested
from lading.events.envelope import Actor, Proposed, Record
from lading.events.errors import (
    AlreadyExists,
    Conflict,
    HostError,
    InUse,
    Invalid,
    Refused,
    StoreBroken,
    StoreCorrupt,
    StoreNewer,
    WrongPhase,
)
from lading.events.ids import container_stream, tag_stream
from lading.events.image import LayerAdded, Tagged
from lading.events.spec import ContainerSpec
from lading.events.store import ENGINE_STREAM, StoreCreated
from lading.events.views import CONTAINERS, LAYERS, NAMES, VIEWS
from lading.storage import environment, store
from lading.storage import log as log_module
from lading.storage.environment import open_log
from lading.storage.log import Append, Log
from lading.storage.store import open_store, read_log

IMAGE = "sha256:" + "1" * 64
SPEC = ContainerSpec(IMAGE, "app", (), ("true",))
ACTOR = Actor(1000, 1000, 4, "test")
BORN = Proposed(ENGINE_STREAM, StoreCreated("0" * 32, 1), 0)


def cid(number: int) -> str:
    return f"{number:064x}"


def made(number: int, name: str = "", expect: int | None = 0, **spec: Any) -> Proposed:
    event = Created(cid(number), name or f"name{number}", attrs.evolve(SPEC, **spec))
    return Proposed(container_stream(cid(number)), event, expect)


def does(number: int, event: Any, expect: int | None = None) -> Proposed:
    return Proposed(container_stream(cid(number)), event, expect)


def layer(number: int) -> Proposed:
    chain = f"sha256:{cid(number)}"
    return Proposed(f"layer/{chain}", LayerAdded(chain, chain, "", 1, 2, 3, False))


def member(*events: Proposed) -> Append:
    return Append(events, tuple(f"{at:032x}" for at in range(len(events))), 777, ACTOR, "c" * 32, 0)


def told(log: Log, *events: Proposed) -> tuple[Record, ...]:
    """Append ``events`` as one member, which must be allowed."""
    (answer,) = log.append([member(*events)])
    assert not isinstance(answer, Refused), answer
    return answer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def log(path: Path) -> Iterator[Log]:
    made_log = open_log(path, "id")
    yield made_log
    made_log.close()


@pytest.fixture
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_RUN", tmp_path / "run")


def dump(log: Log) -> dict[str, dict[bytes, bytes]]:
    """Every byte of every table, except for what names the store."""
    tables = {"log": log._log, "stream": log._streams, "head": log._heads, "view": log._view, "meta": log._meta}
    with log._env.begin() as txn:
        return {name: dict(txn.cursor(db=table)) for name, table in tables.items()}


def put(log: Log, table: Any, key: bytes, value: bytes | None) -> None:
    """Damage: change or (None) delete an entry behind the log's back."""
    with log._env.begin(write=True, db=table) as txn:
        assert txn.delete(key) if value is None else txn.put(key, value)


def u64(number: int) -> bytes:
    return struct.pack(">Q", number)


def test_records_come_back_as_they_were_appended(log: Log) -> None:
    """Positions without a gap from 1, versions without a gap in each stream, a chain over all."""
    first = told(log, BORN, made(1), made(2))
    second = told(log, does(1, StartRequested(1)), layer(1), does(2, RemoveRequested(False)))
    everything = [*first, *second]
    assert [record.position for record in everything] == [1, 2, 3, 4, 5, 6]
    assert [record.version for record in everything] == [1, 1, 1, 2, 1, 2]
    assert log.read() == everything
    one = everything[3]
    assert (one.stream, one.event, one.time) == (container_stream(cid(1)), StartRequested(1), 777)
    assert (one.actor, one.command, one.cause, one.event_id) == (ACTOR, "c" * 32, 0, "0" * 32)
    assert log.position == log.head() == 6
    assert len({record.chain for record in everything} | {GENESIS}) == 7
    assert log.verify().records == 6


def test_an_empty_log_has_nothing(log: Log) -> None:
    assert (log.position, log.head(), log.read(), log.read_stream("engine")) == (0, 0, [], [])
    assert (log.get(CONTAINERS, cid(1)), log.scan(CONTAINERS), log.append([])) == (None, [], [])
    assert attrs.astuple(log.verify()) == (0, 0, GENESIS)


@pytest.mark.parametrize(
    ("expect", "actual", "fits"),
    [(None, 0, True), (0, 0, True), (1, 0, False), (None, 2, True), (0, 2, False), (1, 2, False), (2, 2, True)],
)
def test_expect_is_the_number_of_events_in_the_stream(log: Log, expect: int, actual: int, fits: bool) -> None:
    told(log, BORN)
    for _ in range(actual):
        told(log, layer(1))
    before = dump(log)
    (answer,) = log.append([member(attrs.evolve(layer(1), expect=expect))])
    if fits:
        assert isinstance(answer, tuple)
        assert answer[0].version == actual + 1
    else:
        assert isinstance(answer, Conflict)
        assert (answer.stream, answer.expected, answer.actual) == (layer(1).stream, expect, actual)
        assert dump(log) == before


def test_expect_counts_what_the_same_append_and_batch_put_there(log: Log) -> None:
    told(log, BORN)
    start, rename = StartRequested(1), Renamed("name1", "new")
    answers = log.append(
        [member(made(1), does(1, start, 1)), member(does(1, rename, 1)), member(does(1, rename, 2))]
    )
    assert isinstance(answers[0], tuple)
    assert isinstance(answers[1], Conflict)
    assert (answers[1].expected, answers[1].actual) == (1, 2)
    assert isinstance(answers[2], tuple)
    assert log.head() == 4


@pytest.mark.parametrize(
    ("refused", "error"),
    [
        ((made(9), made(1)), Conflict),
        ((made(9), made(8, "name1")), AlreadyExists),
        ((made(9), does(9, StartRequested(1)), does(9, StartRequested(2))), WrongPhase),
        ((does(1, Renamed("name1", "free")), layer(5), does(7, StartRequested(1))), WrongPhase),
    ],
)
def test_a_refused_member_leaves_no_trace(path: Path, tmp_path: Path, refused: Any, error: type) -> None:
    """Those after it are decided, numbered and chained as if it had never been asked."""
    before, after = [member(BORN, made(1)), member(made(2))], [member(made(3)), member(made(4, "free"), made(9))]
    with_it, without = open_log(path, "id"), open_log(tmp_path / "other", "id")
    answers = with_it.append([*before, member(*refused), *after])
    assert isinstance(answers[2], error)
    assert [*answers[:2], *answers[3:]] == without.append([*before, *after])
    assert dump(with_it) == dump(without)
    assert with_it.verify() == without.verify()
    assert told(with_it, made(20)) == told(without, made(20))
    with_it.close()
    without.close()


def test_a_name_goes_to_the_first_of_a_batch(log: Log) -> None:
    answers = log.append([member(made(1, "web")), member(made(2, "web")), member(made(3, "api"))])
    assert [type(answer) for answer in answers] == [tuple, AlreadyExists, tuple]
    assert isinstance(answers[1], AlreadyExists)
    assert answers[1].holder == cid(1)
    assert [key for key, _ in log.scan(NAMES)] == ["api", "web"]


def test_a_name_claimed_twice_within_one_member_refuses_all_of_it(log: Log) -> None:
    (answer,) = log.append([member(made(1, "web"), made(2, "web"))])
    assert isinstance(answer, AlreadyExists)
    assert (log.head(), log.scan(NAMES), log.scan(CONTAINERS)) == (0, [], [])


def test_a_name_is_free_again_within_the_batch_that_frees_it(log: Log) -> None:
    told(log, made(1, "web"), does(1, RemoveRequested(False)))
    answers = log.append([member(does(1, Removed("web"))), member(made(2, "web"))])
    assert [type(answer) for answer in answers] == [tuple, tuple]
    assert [(key, state.container) for key, state in log.scan(NAMES)] == [("web", cid(2))]
    assert log.get(CONTAINERS, cid(1)) is None


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(made(9, env=("WORD=\udcff",)), id="text that is no text"),
        pytest.param(does(1, StartRequested(2**64)), id="a number past 64 bits"),
        pytest.param(Proposed(tag_stream("x" * 600), Tagged("x" * 600, IMAGE, "")), id="a key too long for LMDB"),
    ],
)
def test_what_cannot_be_stored_is_that_members_own_fault(log: Log, bad: Proposed) -> None:
    """It is told ``Invalid``; the others of its batch are appended, and the log is not broken by it."""
    told(log, BORN, made(1))
    try:
        answers: list[Any] = log.append([member(made(2)), member(made(3), bad), member(made(4))])
    except Exception as error:
        pytest.fail(f"nobody was answered: {error!r}")
    assert [type(answer) for answer in answers] == [tuple, Invalid, tuple]
    assert [key for key, _ in log.scan(CONTAINERS)] == [cid(1), cid(2), cid(4)]
    told(log, made(5))
    log.verify()


def test_reading_pages_through_everything_once(log: Log) -> None:
    told(log, BORN, *(made(number) for number in range(1, 30)))
    after, seen = 0, []
    while page := log.read(after, 7):
        assert len(page) <= 7
        seen += page
        after = page[-1].position
    assert [record.position for record in seen] == list(range(1, 31))
    assert [record.position for record in log.read(28)] == [29, 30]
    assert log.read(30) == log.read(99) == log.read(0, 0) == []


def test_reading_a_stream_gives_only_that_stream(log: Log) -> None:
    """Also beside streams whose names begin the same."""
    chain = layer(1).stream
    longer = attrs.evolve(layer(2), stream=chain + "x")
    for _ in range(3):
        told(log, layer(1), longer, layer(3))
    assert [(record.stream, record.version) for record in log.read_stream(chain)] == [
        (chain, n) for n in (1, 2, 3)
    ]
    assert [record.position for record in log.read_stream(chain)] == [1, 4, 7]
    assert [record.version for record in log.read_stream(chain, after=1, limit=1)] == [2]
    assert [record.version for record in log.read_stream(chain + "x", after=2)] == [3]
    assert log.read_stream(chain, after=3) == log.read_stream(chain[:-1]) == log.read_stream("") == []


def test_scan_goes_by_key_prefix_and_limit_within_one_view(log: Log) -> None:
    told(log, made(0x10, "web"), made(0x11, "web.1"), made(0x20, "api"), layer(0x10))
    assert [key for key, _ in log.scan(NAMES)] == ["api", "web", "web.1"]
    assert [key for key, _ in log.scan(NAMES, "web")] == ["web", "web.1"]
    assert [key for key, _ in log.scan(NAMES, "web", limit=1)] == ["web"]
    assert [key for key, _ in log.scan(NAMES, limit=2)] == ["api", "web"]
    assert log.scan(NAMES, "x") == []
    assert [key for key, _ in log.scan(CONTAINERS, cid(0x10)[:-1])] == [cid(0x10), cid(0x11)]
    assert [key for key, _ in log.scan(LAYERS)] == [f"sha256:{cid(0x10)}"]


def test_many_states_outgrow_the_cache_and_nothing_is_lost(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_CACHE", 4)
    for number in range(1, 12):
        told(log, made(number), does(number, StartRequested(1)))
    answers = log.append([member(made(20, "name1")), member(does(1, StartRequested(2)))])
    assert [type(answer) for answer in answers] == [AlreadyExists, WrongPhase]
    log.verify()


def test_reopening_goes_on_where_it_ended(path: Path) -> None:
    log = open_log(path, "id")
    told(log, BORN, made(1))
    chain, before = log.verify().chain, dump(log)
    log.close()
    log = open_log(path)
    assert (log.position, log.verify().chain, dump(log)) == (2, chain, before)
    (record,) = told(log, does(1, StartRequested(1), 1))
    assert (record.position, record.version) == (3, 2)
    assert log.verify().chain == record.chain
    log.close()


@pytest.mark.slow
def test_a_readers_own_process_sees_what_is_on_disk_and_writes_nothing(path: Path, log: Log) -> None:
    told(log, BORN, made(1))
    script = (
        "import sys; from pathlib import Path; from lading.storage.environment import open_log\n"
        "log = open_log(Path(sys.argv[1]), readonly=True)\n"
        "print(log.head(), len(log.read()), log.verify().states)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("2 2 2\n", "")


def test_a_full_map_breaks_the_log_until_it_is_opened_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the batch is there after, not even the members that would have fitted."""
    monkeypatch.setattr(environment, "_MAP", 1 << 20)
    log = open_log(path, "id")
    told(log, BORN)
    with pytest.raises(StoreBroken) as broken:
        log.append([member(made(1)), member(made(2, args=("x" * 2_000_000,)))])
    with pytest.raises(StoreBroken, match="until it is opened again"):
        log.append([member(made(3))])
    assert "MDB_MAP_FULL" in broken.value.why
    assert (log.position, log.head(), log.scan(CONTAINERS)) == (1, 1, [])
    log.close()
    log = open_log(path)
    told(log, made(1))
    assert log.verify().records == 2
    log.close()


def test_a_log_that_somebody_else_wrote_to_is_never_written_over(log: Log) -> None:
    told(log, BORN)
    put(log, log._log, u64(3), b"not ours")
    before = dump(log)
    with pytest.raises(StoreCorrupt) as found:
        log.append([member(made(1), made(2))])
    assert found.value.position in (2, 3)
    assert dump(log) == before


def grown(log: Log) -> Log:
    told(log, BORN, made(1, labels={"a": "b"}), made(2), layer(1))
    told(
        log, does(1, StartRequested(1)), does(2, Renamed("name2", "web")), made(3), does(3, RemoveRequested(False))
    )
    told(log, does(3, Removed("name3")), Proposed(tag_stream("t"), Tagged("t", IMAGE, "")), layer(1))
    return log


def test_verify_finds_a_flipped_bit_in_any_record(log: Log) -> None:
    grown(log)
    for key, value in dump(log)["log"].items():
        for at in {*range(0, len(value), 37), len(value) - 33, len(value) - 32, len(value) - 1}:
            put(log, log._log, key, value[:at] + bytes([value[at] ^ 1 << at % 8]) + value[at + 1 :])
            with pytest.raises(StoreCorrupt) as found:
                log.verify()
            assert found.value.position == int.from_bytes(key, "big")
        put(log, log._log, key, value)
    assert log.verify().records == 11


@pytest.mark.parametrize("position", range(1, 12))
def test_verify_finds_a_missing_record(log: Log, position: int) -> None:
    """The last one, too, though it changed no view."""
    put(grown(log), log._log, u64(position), None)
    with pytest.raises(StoreCorrupt) as found:
        log.verify()
    assert found.value.position in ((0, position) if position == 11 else (position,))


@pytest.mark.parametrize("table", ["stream", "head", "view"])
@pytest.mark.parametrize("damage", ["deleted", "altered", "added"])
def test_verify_finds_damage_in_everything_that_is_derived(log: Log, table: str, damage: str) -> None:
    """Views, heads and index decide appends and answer queries: all are compared with what the log gives."""
    grown(log)
    where = {"stream": log._streams, "head": log._heads, "view": log._view}[table]
    for key, value in dump(log)[table].items():
        if damage == "added":
            put(log, where, key[:-1] + bytes([key[-1] ^ 0x40]), value)
        else:
            put(log, where, key, None if damage == "deleted" else value[:-1] + bytes([value[-1] ^ 1]))
        with pytest.raises(StoreCorrupt):
            pytest.fail(f"{damage} {key!r} in {table}: {log.verify()}")
        put(log, where, key, value)
        if damage == "added":
            put(log, where, key[:-1] + bytes([key[-1] ^ 0x40]), None)
    log.verify()


@pytest.mark.parametrize("query", [lambda log: log.get(CONTAINERS, cid(1)), lambda log: log.scan(CONTAINERS)])
@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x90", b"\xa1x"], ids=bytes.hex)
def test_queries_tell_a_damaged_state_as_corrupt(log: Log, query: Callable[[Log], Any], value: bytes) -> None:
    put(grown(log), log._view, b"container\0" + cid(1).encode(), value)
    with pytest.raises(StoreCorrupt):
        query(log)


@pytest.mark.parametrize("read", [lambda log: log.read(), lambda log: log.read_stream(container_stream(cid(1)))])
def test_reading_tells_a_damaged_record_by_its_position(log: Log, read: Callable[[Log], Any]) -> None:
    put(grown(log), log._log, u64(2), b"\xc1" * 50)
    with pytest.raises(StoreCorrupt) as found:
        read(log)
    assert found.value.position == 2


def test_rebuild_gives_the_same_bytes(log: Log) -> None:
    before = dump(grown(log))
    log.rebuild()
    assert dump(log) == before
    put(log, log._view, b"container\0" + cid(1).encode(), b"junk")
    put(log, log._view, b"container-name\0nobody", b"junk")
    log.rebuild()
    assert dump(log) == before
    told(log, does(1, Renamed("name1", "name3")))
    log.verify()


def test_views_of_another_schema_are_rebuilt_on_opening(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = grown(open_log(path, "id"))
    before = dump(log)
    put(log, log._view, b"container\0" + cid(1).encode(), b"as another release wrote it")
    log.close()
    changed = [attrs.evolve(VIEWS[0], schema=VIEWS[0].schema + 1), *VIEWS[1:]]
    monkeypatch.setattr(log_module, "VIEWS", changed)
    log = open_log(path)
    assert dump(log)["view"] == before["view"]
    assert dump(log)["meta"][b"views"].startswith(b"container=%d," % changed[0].schema)
    put(log, log._view, b"container\0" + cid(1).encode(), b"junk")
    log.close()
    log = open_log(path)  # the same schema: not looked at, so not rebuilt
    assert dump(log)["view"][b"container\0" + cid(1).encode()] == b"junk"
    log.close()


@pytest.mark.usefixtures("run_directory")
def test_a_store_is_its_owners_alone(tmp_path: Path) -> None:
    """Directories 0700 and files 0600, whatever the umask; beneath a root that nobody else can enter."""
    old = os.umask(0)
    try:
        opened = open_store(tmp_path / "root")
        told(opened.log, BORN)
        opened.close()
    finally:
        os.umask(old)
    root = tmp_path / "root"
    modes = {where.relative_to(root).as_posix(): stat.S_IMODE(where.stat().st_mode) for where in root.rglob("*")}
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    files = ("lock", "log/data.mdb", "log/lock.mdb")
    assert {name: oct(modes[name]) for name in files} == dict.fromkeys(files, "0o600")
    ours = ("log", "blobs", "blobs/sha256", "layers", "containers", "staging", "trash")
    assert {name: oct(modes[name]) for name in ours} == dict.fromkeys(ours, "0o700")


@pytest.mark.slow
@pytest.mark.usefixtures("run_directory")
def test_a_store_has_one_owner_and_says_who(tmp_path: Path) -> None:
    """A second opener, of this process or another, is told the owner's pid; afterwards the store is free."""
    opened = open_store(tmp_path / "root")
    with pytest.raises(InUse) as refused:
        open_store(tmp_path / "root")
    assert refused.value.users == (f"process {os.getpid()}",)
    script = (
        "import sys; from pathlib import Path; from lading.storage.store import open_store\n"
        "try: open_store(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", script, tmp_path / "root"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(
        f"InUse store {tmp_path / 'root'} is in use by process {os.getpid()}; talk to it"
    )
    opened.close()
    open_store(tmp_path / "root").close()


@pytest.mark.usefixtures("run_directory")
@pytest.mark.parametrize(
    ("content", "error"),
    [
        ('{"store": "x", "format": 2}', StoreNewer),
        *(
            (text, StoreCorrupt)
            for text in ("", "{", "[]", "{}", '{"store": "x"}', '{"store": 1, "format": 1}', "1")
        ),
        ('{"store": "x", "format": true}', StoreCorrupt),
        ("\udcff", StoreCorrupt),
    ],
)
def test_an_identity_that_cannot_be_read_is_refused(tmp_path: Path, content: str, error: type) -> None:
    opened = open_store(tmp_path / "root")
    opened.close()
    (tmp_path / "root" / "store.json").write_text(content, errors="surrogateescape")
    for opener in (open_store, read_log):
        with pytest.raises(error):
            opener(tmp_path / "root")


@pytest.mark.usefixtures("run_directory")
def test_what_the_host_refuses_is_a_host_error(tmp_path: Path) -> None:
    """No parent; a file instead of the root, or of a directory in it; no store to read."""
    (tmp_path / "file").write_text("")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "log").write_text("")
    for root in ("none/root", "file", "root"):
        with pytest.raises(HostError):
            open_store(tmp_path / root)
    with pytest.raises(HostError, match="no store is there"):
        read_log(tmp_path / "root")
