"""A store made of exports is the store that was exported; of anything else, nothing is made."""

from __future__ import annotations

import io
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from histories import histories
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logbook import dump
from pasts import STORE, Stored, make_store, rechained, some_past, spoilt, stored, with_bodies

from lading.events.container import Created, KillRequested, Removed, Renamed, StartRequested
from lading.events.envelope import UNKNOWN, Proposed
from lading.events.errors import ExportInvalid, HostError, InUse, LadingError
from lading.events.ids import container_stream
from lading.events.image import ImageAdded, ImageConfig, LayerAdded, Tagged
from lading.events.spec import ContainerSpec
from lading.events.store import ENGINE_STREAM, StoreCreated
from lading.storage import store
from lading.storage.environment import open_log
from lading.storage.export import Header, write_export
from lading.storage.importing import import_history
from lading.storage.log import Append, Log
from lading.storage.store import open_store, own_root, read_identity, read_log

PAST = some_past()
DIGEST = "sha256:" + "1" * 64
SPEC = ContainerSpec(DIGEST, "app", (), ("true",))
CID = "a" * 64


def exported(past: Stored, header: Header | None = None) -> bytes:
    out = io.BytesIO()
    write_export(out, header or Header(STORE), [past])
    return out.getvalue()


def part(past: Stored, after: int, until: int) -> bytes:
    return exported(past[after:until], Header(STORE, after, past[after - 1][1][-32:]) if after else None)


def imported(root: Path, *data: bytes) -> None:
    import_history(root, [(f"F{at}", io.BytesIO(each)) for at, each in enumerate(data, 1)])


def tables(log: Log) -> dict[str, dict[bytes, bytes]]:
    """Every byte of every table, but for the index of commands: it says which records were appended together."""
    return {name: table for name, table in dump(log).items() if name != "command"}


@pytest.fixture(autouse=True)
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_RUN", tmp_path / "run")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(histories(), st.data())
def test_a_store_made_of_exports_is_the_store_that_was_exported(tmp_path: Path, members: Any, data: Any) -> None:
    """Whatever happened, and however it was cut into files: every byte of the log, its indexes and its views."""
    at = tmp_path / os.urandom(8).hex()
    original = open_log(at, STORE)
    for number, member in enumerate(members):
        ids = tuple(f"{number:016x}{each:016x}" for each in range(len(member)))
        original.append([Append(member, ids, 5 + number, UNKNOWN, "c" * 32)])
    past = original.read_raw(limit=10_000)
    before = tables(original)
    original.close()
    cuts = sorted({0, len(past), *data.draw(st.lists(st.integers(0, len(past)), max_size=3))})
    files = [part(past, after, until) for after, until in itertools.pairwise(cuts)]
    root = tmp_path / os.urandom(8).hex()
    imported(root, *files)
    log = read_log(root)
    try:
        assert log.verify().records == len(past)
        assert tables(log) == before
    finally:
        log.close()


def test_the_imported_store_opens_and_goes_on(root: Path) -> None:
    """Its owner appends after the last record that came from elsewhere, in its chain and streams."""
    make_store(root, PAST)
    assert read_identity(root) == STORE
    assert root.stat().st_mode & 0o777 == 0o700
    opened = open_store(root)
    try:
        assert (opened.created, opened.identity, opened.log.position) == (False, STORE, len(PAST))
        asked = Proposed(container_stream("0" * 64), StartRequested(2), 4)
        [answer] = opened.log.append([Append((asked,), ("e" * 32,), 5, UNKNOWN, "c" * 32)])
        assert answer[0].position == len(PAST) + 1  # type: ignore[index]
        assert opened.log.verify().records == len(PAST) + 1
        assert os.listdir(opened.paths.staging) == []
    finally:
        opened.close()


def test_batches_make_no_difference(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One record to a transaction, or all in one: the same store."""
    past = some_past(30)
    make_store(root, past)
    monkeypatch.setattr("lading.storage.importing._RECORDS", 1)
    make_store(root.parent / "other", past)
    logs = [read_log(root), read_log(root.parent / "other")]
    try:
        assert tables(logs[0]) == tables(logs[1])
        assert logs[1].verify().records == len(past)
    finally:
        for log in logs:
            log.close()


@pytest.mark.slow
def test_of_a_spoilt_export_nothing_is_left_behind(root: Path) -> None:
    """Whatever line was lost, doubled, swapped or cut: its line is told, and there is not even a directory."""
    for line, what, data in spoilt(exported(PAST)):
        with pytest.raises(ExportInvalid) as refused:
            imported(root, data)
        assert (refused.value.line, refused.value.file) == (line, "F1"), what
        assert os.listdir(root.parent) == [], what
    root.mkdir()
    with pytest.raises(ExportInvalid):
        imported(root, exported(PAST)[:-5])
    assert os.listdir(root) == []
    imported(root, exported(PAST))
    assert read_identity(root) == STORE


@pytest.mark.parametrize(
    ("files", "file", "why"),
    [
        ([part(PAST, 2, 10)], "F1", "begins earlier"),
        ([part(PAST, 0, 2), part(PAST, 3, 10)], "F2", "goes on after position 3, and what is before it ends at 2"),
        ([part(PAST, 0, 4), part(PAST, 3, 10)], "F2", "goes on after position 3, and what is before it ends at 4"),
        ([part(PAST, 2, 10), part(PAST, 0, 2)], "F1", "begins earlier"),
        ([part(PAST, 0, 2), exported(PAST)], "F2", "goes on after position 0"),
        ([part(PAST, 0, 2), exported(PAST[2:], Header("1" * 32, 2, PAST[1][1][-32:]))], "F2", "of store 1111"),
        ([part(PAST, 0, 2), exported([], Header(STORE, 2, b"x" * 32))], "F2", "another chain"),
        ([part(PAST, 0, 5), part(PAST, 5, 10)[:-9]], "F2", "cut off"),
        ([part(PAST, 0, 5)[:-9], part(PAST, 5, 10)], "F1", "cut off"),
        ([exported([])], "F1", "no record"),
    ],
)
def test_files_that_are_not_one_history_are_told_apart(
    root: Path, files: list[bytes], file: str, why: str
) -> None:
    with pytest.raises(ExportInvalid, match=why) as refused:
        imported(root, *files)
    assert refused.value.file == file
    assert not root.exists()


def hostile(event: Any, stream: str = "") -> Stored:
    """A history that is whole and consistent, with an event in it that no engine would have written."""
    born = [Proposed(ENGINE_STREAM, StoreCreated(STORE, 1))]
    made = [Proposed(container_stream(CID), Created(CID, "fine", SPEC))]
    return stored([born, made, [Proposed(stream or container_stream(CID), event)]])


def spec(**fields: Any) -> ContainerSpec:
    import attrs

    return attrs.evolve(SPEC, **fields)


PATHS = "../../../etc"
CONFIG = ImageConfig()


@pytest.mark.parametrize(
    "past",
    [
        hostile(Created(PATHS, "name", SPEC), f"container/{PATHS}"),
        hostile(Created("b" * 64, "name", SPEC), container_stream("c" * 64)),
        hostile(Created("b" * 64 + "\n", "name", SPEC), container_stream("b" * 64 + "\n")),
        hostile(Created("b" * 64, "../name", SPEC), container_stream("b" * 64)),
        hostile(Created("b" * 64, "fine", SPEC), container_stream("b" * 64)),
        hostile(Created("b" * 64, "name", spec(layers=(PATHS,))), container_stream("b" * 64)),
        hostile(Created("b" * 64, "name", spec(image="x")), container_stream("b" * 64)),
        hostile(Renamed("fine", "../x")),
        hostile(Removed("fine")),
        hostile(KillRequested("99")),
        hostile(StartRequested(1), "container/x"),
        hostile(StartRequested(1), "engine"),
        hostile(StartRequested(1), container_stream("d" * 64)),
        hostile(LayerAdded(PATHS, DIGEST, "", 1, 1, 1, False), f"layer/{PATHS}"),
        hostile(LayerAdded(DIGEST, DIGEST, PATHS, 1, 1, 1, False), f"layer/{DIGEST}"),
        hostile(LayerAdded(DIGEST, DIGEST, "", 1, 1, 1, False), "layer/x"),
        hostile(ImageAdded(PATHS, (), (), CONFIG, "", "", "", "", ""), f"image/{PATHS}"),
        hostile(ImageAdded(DIGEST, (PATHS,), (), CONFIG, "", "", "", "", ""), f"image/{DIGEST}"),
        hostile(Tagged("x", DIGEST, ""), "tag/x"),
        hostile(Tagged("docker.io/library/x:1", "x", ""), "tag/docker.io/library/x:1"),
        hostile(StoreCreated(STORE, 1), "engine"),
    ],
)
def test_a_history_that_no_engine_wrote_is_refused(root: Path, past: Stored) -> None:
    """Its chain is right, and it would make a path of a name, or change what is not there: told by its line."""
    with pytest.raises(ExportInvalid, match="can't have happened there") as refused:
        imported(root, exported(past))
    assert (refused.value.line, refused.value.position) == (4, 3)
    assert not root.exists()


def body(position: int, stream: str, version: int, tag: str, schema: int, fields: Any) -> list[Any]:
    return [1, position, stream, version, "e", 5, [None, 0, 0, ""], "c", 0, tag, schema, fields]


@pytest.mark.parametrize(
    ("bodies", "line"),
    [
        ([body(1, "engine", 1, "store.created", 1, ["1" * 32, 1])], 2),
        ([body(1, "engine", 2, "store.created", 1, [STORE, 1])], 2),
        ([body(1, "tag/x", 1, "tag.set", 1, ["x", "y", "z"])], 2),
        ([body(1, "engine", 1, "store.created", 9, [STORE, 1])], 2),
        ([body(1, "engine", 1, "no.such", 1, [])], 2),
        ([body(1, "engine", 1, "store.created", 0, [])], 2),
        ([body(1, "engine", 1, "store.created", 1, [STORE, "x"])], 2),
        ([body(1, "engine", 1, "store.created", 1, [STORE, 1]), body(2, "engine", 2, "no.such", 1, [1.5])], 3),
    ],
)
def test_records_that_can_not_be_decoded_are_refused(root: Path, bodies: list[Any], line: int) -> None:
    with pytest.raises(ExportInvalid) as refused:
        imported(root, exported(with_bodies(bodies)))
    assert refused.value.line == line
    assert not root.exists()


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_fuzzed_history_raises_nothing_but_our_own(tmp_path: Path, data: Any) -> None:
    """Bodies with values changed at random, chained again: made, or refused without a trace."""
    past = some_past(1)
    bodies = [msgpack.unpackb(whole[:-32]) for _, whole in past]
    value = (
        st.none() | st.integers(0, 2**64 - 1) | st.text(max_size=9) | st.binary(max_size=3) | st.just("a" * 600)
    )
    for _ in range(data.draw(st.integers(1, 3))):
        target = data.draw(st.sampled_from(bodies))
        while isinstance(inner := target[data.draw(st.integers(0, len(target) - 1))], list) and inner:
            target = inner
        target[data.draw(st.integers(0, len(target) - 1))] = data.draw(value | st.lists(value, max_size=3))
    root = tmp_path / os.urandom(8).hex()
    try:
        imported(root, exported(with_bodies(bodies)))
    except LadingError:
        assert not root.exists()
    else:
        log = read_log(root)
        log.verify()
        log.close()


def test_no_store_is_ever_replaced(root: Path) -> None:
    make_store(root, PAST)
    before = sorted(path.relative_to(root) for path in root.rglob("*"))
    with pytest.raises(HostError, match="a store is there already"):
        make_store(root, some_past(1))
    assert sorted(path.relative_to(root) for path in root.rglob("*")) == before
    other = root.parent / "other"
    other.mkdir()
    lock = own_root(other)
    try:
        with pytest.raises(InUse):
            make_store(other, PAST)
    finally:
        os.close(lock)
    assert os.listdir(other) == ["lock"]


def test_what_a_store_without_its_identity_has_is_not_touched(root: Path) -> None:
    (root / "containers" / CID).mkdir(parents=True)
    with pytest.raises(HostError, match=f"no store is there, but containers/{CID} is"):
        make_store(root, PAST)
    assert sorted(path.name for path in root.rglob("*")) == [CID, "containers"]


def test_a_directory_of_something_else_is_not_touched(root: Path) -> None:
    """Neither its mode nor what is in it: somebody's home is no place for a store."""
    root.mkdir(mode=0o755)
    (root / "mine").touch()
    with pytest.raises(HostError, match="no store is there, but mine is"):
        make_store(root, PAST)
    assert os.listdir(root) == ["mine"]
    assert root.stat().st_mode & 0o777 == 0o755


def test_records_of_an_older_schema_are_moved_as_they_are(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that has upcasters exports and imports what an older one wrote, and folds what it means today."""
    from lading.events import codec
    from lading.events.container import Exited

    bodies = [msgpack.unpackb(whole[:-32]) for _, whole in PAST]
    for body in bodies:
        if body[9] == "container.exited":
            body[10], body[11] = 1, body[11][:3]
    past = with_bodies(bodies)
    monkeypatch.setitem(codec.UPCASTERS, ("container.exited", 1), lambda fields: [*fields, "it was older", False])
    data = exported(past)
    assert data.count(b'"type":"container.exited","schema":1,"fields":[1,null,0]') == 2
    imported(root, data)
    log = read_log(root)
    try:
        assert log.read_raw() == past
        assert log.verify().records == len(past)
        whys = [record.event.why for record in log.read() if isinstance(record.event, Exited)]
        assert whys == ["it was older"] * 2
    finally:
        log.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file system of its own")
def test_a_full_disk_leaves_no_store(tmpfs: Callable[[str], Path]) -> None:
    place = tmpfs("size=200k")
    with pytest.raises(HostError, match="see whether its disk is full"):
        make_store(place / "root", some_past(300))
    assert os.listdir(place) == []


CRASHING = """
import io, os, signal, sys
from pathlib import Path
import lading.storage.importing, lading.storage.newstore, lading.storage.store
import lading.storage.log, lading.storage.database
lading.storage.store._RUN = Path(sys.argv[1]).parent / "run"
lading.storage.importing._RECORDS = 4
last, steps = int(sys.argv[3]), 0
def step():
    global steps
    steps += 1
    if steps == last:
        os.kill(os.getpid(), signal.SIGKILL)
def crashing(place, name):
    real = getattr(place, name)
    def wrapped(*args, **options):
        step()
        result = real(*args, **options)
        step()
        return result
    setattr(place, name, wrapped)
crashing(lading.storage.database.Database, "write")
crashing(lading.storage.log.Log, "close")
for name in ("rename", "mkdir", "unlink", "rmdir", "chmod"):
    crashing(Path, name)
crashing(lading.storage.newstore, "write_identity")
crashing(lading.storage.newstore, "syncfs")
crashing(lading.storage.newstore, "remove_tree")
crashing(os, "fsync")
lading.storage.importing.import_history(Path(sys.argv[1]), [("F", open(sys.argv[2], "rb"))])
print(steps)
"""


@pytest.mark.slow
@pytest.mark.long
def test_killed_at_any_step_there_is_the_store_or_none(tmp_path: Path) -> None:
    """At each step of an import: the next opening finds all of it, or begins anew; importing again works."""
    source = tmp_path / "export"
    source.write_bytes(exported(PAST))

    def run(root: Path, last: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", CRASHING, os.fspath(root), os.fspath(source), str(last)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    whole = run(tmp_path / "whole", 0)
    assert whole.returncode == 0, whole.stderr
    outcomes: list[bool] = []
    for last in range(1, int(whole.stdout) + 1):
        root = tmp_path / f"root{last}"
        assert run(root, last).returncode == -signal.SIGKILL
        there = (root / "store.json").exists()
        if not there:
            imported(root, exported(PAST)) if last % 2 else root.mkdir(exist_ok=True)
        opened = open_store(root)
        assert opened.created is (not there and not last % 2)
        assert opened.log.verify().records == (0 if opened.created else len(PAST))
        opened.close()
        outcomes.append(there)
    assert outcomes == sorted(outcomes), "once it is there, it stays"
    assert outcomes[0] is False
    assert outcomes[-1] is True


def test_rechained_is_what_it_says() -> None:
    """The tampering that other tests use makes histories that are consistent in themselves."""
    again = rechained(PAST[:4] + PAST[5:])
    assert [at for at, _ in again] == list(range(1, len(PAST)))
    assert exported(again)
