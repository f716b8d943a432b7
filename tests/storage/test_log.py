"""The log: what an append promises, and what reading gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from logbook import ACTOR, BORN, IMAGE, cid, does, dump, layer, made, member, put, told, u64

from lading.events.codec import GENESIS
from lading.events.container import Removed, RemoveRequested, Renamed, StartRequested
from lading.events.envelope import Proposed
from lading.events.errors import (
    AlreadyExists,
    Conflict,
    Invalid,
    StoreCorrupt,
    WrongPhase,
)
from lading.events.ids import container_stream, tag_stream
from lading.events.image import Tagged
from lading.events.views import CLAIMS, CONTAINERS, LAYERS
from lading.storage import database
from lading.storage.environment import open_log
from lading.storage.log import Log


def test_records_come_back_as_they_were_appended(log: Log) -> None:
    """Positions without a gap from 1, versions without a gap in each stream, a chain over all."""
    first = told(log, BORN, made(1), made(2))
    second = told(log, does(1, StartRequested(1)), layer(1), does(2, RemoveRequested(False)))
    everything = [*first, *second]
    assert [record.position for record in everything] == [1, 2, 3, 4, 5, 6]
    assert [record.version for record in everything] == [1, 1, 1, 2, 1, 2]
    assert log.read() == everything
    one = everything[3]
    assert (one.stream, one.event, one.time) == (container_stream(cid(1)), StartRequested(1), 780)
    assert (one.actor, one.command, one.cause, one.event_id) == (ACTOR, "c" * 32, 0, "0" * 32)
    assert log.position == log.head() == 6
    assert len({record.chain for record in everything} | {GENESIS}) == 7
    assert log.verify().records == 6


def test_an_empty_log_has_nothing(log: Log) -> None:
    assert (log.position, log.head(), log.read(), log.read_stream("engine")) == (0, 0, [], [])
    assert (log.get(CONTAINERS, cid(1)), log.scan(CONTAINERS), log.append([])) == (None, [], [])
    assert attrs.astuple(log.verify()) == (0, 0, GENESIS, 0, 1)


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
    assert [key for key, _ in log.scan(CLAIMS)] == ["container-name/api", "container-name/web"]


def test_a_name_claimed_twice_within_one_member_refuses_all_of_it(log: Log) -> None:
    (answer,) = log.append([member(made(1, "web"), made(2, "web"))])
    assert isinstance(answer, AlreadyExists)
    assert (log.head(), log.scan(CLAIMS), log.scan(CONTAINERS)) == (0, [], [])


def test_a_name_is_free_again_within_the_batch_that_frees_it(log: Log) -> None:
    told(log, made(1, "web"), does(1, RemoveRequested(False)))
    answers = log.append([member(does(1, Removed("web"))), member(made(2, "web"))])
    assert [type(answer) for answer in answers] == [tuple, tuple]
    assert [(key, state.holder) for key, state in log.scan(CLAIMS)] == [
        ("container-name/web", container_stream(cid(2)))
    ]
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
    prefix = "container-name/"
    assert [key.removeprefix(prefix) for key, _ in log.scan(CLAIMS)] == ["api", "web", "web.1"]
    assert [key.removeprefix(prefix) for key, _ in log.scan(CLAIMS, prefix + "web")] == ["web", "web.1"]
    assert [key.removeprefix(prefix) for key, _ in log.scan(CLAIMS, prefix + "web", limit=1)] == ["web"]
    assert [key.removeprefix(prefix) for key, _ in log.scan(CLAIMS, limit=2)] == ["api", "web"]
    assert log.scan(CLAIMS, "x") == []
    assert [key for key, _ in log.scan(CONTAINERS, cid(0x10)[:-1])] == [cid(0x10), cid(0x11)]
    assert [key for key, _ in log.scan(LAYERS)] == [f"sha256:{cid(0x10)}"]


def test_many_states_outgrow_the_cache_and_nothing_is_lost(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lading.storage.log._CACHE", 4)
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


def test_a_full_map_grows_and_no_append_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The map starts small where address space is short; readers of this process and of others go on."""
    monkeypatch.setattr(database, "_MAPS", (1 << 20,))
    log = open_log(path, "id")
    told(log, BORN)
    other = subprocess.Popen(
        [sys.executable, "-c", GROWING, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == "1 1\n"
    told(log, made(1), made(2, args=("x" * 2_000_000,)))
    for number in range(3, 12):
        told(log, made(number, args=("x" * 300_000,)))
    assert (path / "data.mdb").stat().st_size > 4 << 20
    assert [log.head(), len(log.scan(CONTAINERS)), log.verify().records] == [12, 11, 12]
    print(file=other.stdin, flush=True)
    assert other.communicate()[0] == "12 12\n"
    log.close()


GROWING = """
import sys; from pathlib import Path; from lading.storage import database
database._MAPS = (1 << 20,)
from lading.storage.environment import open_log
log = open_log(Path(sys.argv[1]), readonly=True)
print(log.head(), len(log.read()), flush=True)
sys.stdin.readline()
print(log.head(), len(log.read()), flush=True)
"""


def test_a_log_that_somebody_else_wrote_to_is_never_written_over(log: Log) -> None:
    told(log, BORN)
    put(log, "log", u64(3), b"not ours")
    before = dump(log)
    with pytest.raises(StoreCorrupt) as found:
        log.append([member(made(1), made(2))])
    assert found.value.position in (2, 3)
    assert dump(log) == before
