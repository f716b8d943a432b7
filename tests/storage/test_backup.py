"""A backup is whole or is refused, whatever was done to it; of a refused one, nothing is left."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pasts import STORE, Stored, make_store, some_past, stored

from lading.events.container import Created, Exited, Started, StartRequested
from lading.events.envelope import Proposed
from lading.events.errors import BackupInvalid, HostError, LadingError
from lading.events.ids import container_stream
from lading.events.image import ImageAdded, ImageConfig, LayerAdded
from lading.events.spec import ContainerSpec, ProcessId
from lading.events.store import ENGINE_STREAM, StoreCreated
from lading.storage import store
from lading.storage.backup import Manifest, make_backup, read_manifest
from lading.storage.outputwriter import OutputWriter
from lading.storage.restoring import restore_backup
from lading.storage.store import open_store, read_log

CHAIN = "sha256:" + "1" * 64
CONTENT = b'{"config":1}'
BLOB = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
CID = "a" * 64
NOW = 1_800_000_000_000_000_000
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="a backup of files needs root")


def past() -> Stored:
    """A store with an image of one layer of three files, and a container that ran."""
    spec = ContainerSpec(BLOB, "app:1", (CHAIN,), ("true",))
    life = [Created(CID, "web", spec), StartRequested(1), Started(1, ProcessId("b", 7, 7)), Exited(1, 0, 5)]
    config = ImageConfig()
    members = [
        [Proposed(ENGINE_STREAM, StoreCreated(STORE, 1))],
        [Proposed(f"layer/{CHAIN}", LayerAdded(CHAIN, CHAIN, "", 1, 0, 3, False))],
        [Proposed(f"image/{BLOB}", ImageAdded(BLOB, (CHAIN,), (CHAIN,), config, "", "", "linux", "", ""))],
        *([Proposed(container_stream(CID), event)] for event in life),
    ]
    return stored(members)


def printed(*words: bytes) -> bytes:
    """What a container's output file has when it printed ``words``."""
    with tempfile.TemporaryDirectory() as directory:
        writer = OutputWriter(directory)
        for word in words:
            writer.write(1, 5, word)
        writer.close()
        return Path(directory, "output").read_bytes()


PRINTED = printed(b"one", b"two")


@pytest.fixture(autouse=True)
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_RUN", tmp_path / "run")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with the files that its log names."""
    root = tmp_path / "root"
    make_store(root, past())
    opened = open_store(root)
    layer, own = opened.paths.layer(CHAIN), opened.paths.container(CID)
    layer.mkdir()
    (layer / "file").write_text("in the layer")
    (layer / "link").symlink_to("/etc/shadow")
    (opened.paths.blobs / BLOB.removeprefix("sha256:")).write_bytes(CONTENT)
    (own / "upper").mkdir(parents=True)
    (own / "work" / "work").mkdir(parents=True)
    (own / "upper" / "written").write_text("by the container")
    os.setxattr(own / "upper" / "written", "user.x", b"1")
    (own / "output").write_bytes(PRINTED)
    opened.close()
    return root


@pytest.fixture
def backup(root: Path, tmp_path: Path) -> Path:
    make_backup(root, tmp_path / "backup", NOW)
    return tmp_path / "backup"


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every path beneath ``root`` with its mode and its content or target."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[os.fspath(path.relative_to(root))] = (status.st_mode, content)
    return found


@root_only
def test_what_the_log_names_is_copied_and_comes_back(root: Path, backup: Path, tmp_path: Path) -> None:
    manifest = read_manifest(backup)
    assert (manifest.store, manifest.position, manifest.time) == (STORE, 7, "2027-01-15T08:00:00.000000000Z")
    assert (manifest.files, manifest.layers, manifest.running, manifest.missing) == (True, 1, [], [])
    names = set(tree(backup))
    assert f"containers/{CID}/upper/written" in names
    assert not any("work" in name or name.endswith("lock.mdb") for name in names)
    other = tmp_path / "other"
    restore_backup(backup, other)
    for part in ("layers", f"containers/{CID}/upper"):
        assert tree(other / part) == tree(root / part)
    assert (other / BLOB_PATH).read_bytes() == CONTENT
    assert os.getxattr(other / "containers" / CID / "upper" / "written", "user.x") == b"1"
    assert (other / "containers" / CID / "output").read_bytes() == PRINTED
    log = read_log(other)
    assert log.verify().records == 7
    log.close()
    opened = open_store(other)
    assert (opened.created, opened.identity) == (False, STORE)
    assert os.listdir(opened.paths.staging) == []
    opened.close()


def test_the_log_alone_needs_no_files(root: Path, tmp_path: Path) -> None:
    shutil.rmtree(root / "layers")
    manifest = make_backup(root, tmp_path / "backup", NOW, files=False)
    assert manifest == read_manifest(tmp_path / "backup")
    restore_backup(tmp_path / "backup", tmp_path / "other")
    log = read_log(tmp_path / "other")
    assert log.verify().chain.hex() == manifest.chain
    log.close()


@root_only
def test_what_was_removed_meanwhile_is_told(root: Path, tmp_path: Path) -> None:
    """A container's files may go; a layer's may not, and then there is no backup."""
    shutil.rmtree(root / "containers" / CID)
    assert make_backup(root, tmp_path / "backup", NOW).missing == [CID]
    restore_backup(tmp_path / "backup", tmp_path / "other")
    shutil.rmtree(root / "layers" / ("1" * 64))
    with pytest.raises(HostError, match=r"cannot copy .*No such file"):
        make_backup(root, tmp_path / "second", NOW)
    assert not (tmp_path / "second").exists()


def test_a_backup_never_replaces_anything(root: Path, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "mine").touch()
    with pytest.raises(HostError, match="it has something in it"):
        make_backup(root, tmp_path / "backup", NOW)
    assert os.listdir(tmp_path / "backup") == ["mine"]
    (tmp_path / "empty").mkdir()
    make_backup(root, tmp_path / "empty", NOW, files=False)
    with pytest.raises(HostError, match="a store is there already"):
        restore_backup(tmp_path / "empty", root)
    with pytest.raises(HostError, match="no store is there"):
        make_backup(tmp_path / "nowhere", tmp_path / "x", NOW)
    assert not (tmp_path / "x").exists()


@root_only
def test_a_full_disk_leaves_no_backup(root: Path, tmpfs: Callable[[str], Path]) -> None:
    full = tmpfs("size=300k")
    (root / "layers" / ("1" * 64) / "big").write_bytes(os.urandom(1 << 20))
    with pytest.raises(HostError, match="No space left"):
        make_backup(root, full / "backup", NOW)
    assert os.listdir(full) == []


def spoil(path: str, change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda backup: change(backup / path)


def link(target: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to(target)

    return change


BLOB_PATH = f"blobs/sha256/{BLOB.removeprefix('sha256:')}"
LAYER = "layers/" + "1" * 64
SPOILT: dict[str, Callable[[Path], object]] = {
    "no manifest": spoil("backup.json", Path.unlink),
    "manifest only begun": lambda backup: (backup / "backup.json").rename(backup / "backup.json.new"),
    "manifest a link": spoil("backup.json", link("/etc/passwd")),
    "manifest empty": spoil("backup.json", lambda path: path.write_bytes(b"")),
    "manifest a fifo": spoil("backup.json", lambda path: (path.unlink(), os.mkfifo(path))),
    "no log": spoil("log/data.mdb", Path.unlink),
    "log empty": spoil("log/data.mdb", lambda path: path.write_bytes(b"")),
    "log cut": spoil("log/data.mdb", lambda path: os.truncate(path, path.stat().st_size - 1)),
    "log longer": spoil("log/data.mdb", lambda path: os.truncate(path, path.stat().st_size + 1)),
    "log a link": spoil("log/data.mdb", link("/dev/zero")),
    "no layers": spoil("layers", shutil.rmtree),
    "layers a link": spoil("layers", link("/")),
    "no layer": spoil(LAYER, shutil.rmtree),
    "layer a link": spoil(LAYER, link("/")),
    "layer a file": spoil(LAYER, lambda path: (shutil.rmtree(path), path.touch())),
    "layer lost a file": spoil(f"{LAYER}/file", Path.unlink),
    "layer has one more": spoil(f"{LAYER}/more", Path.touch),
    "no blob": spoil(BLOB_PATH, Path.unlink),
    "blob changed": spoil(BLOB_PATH, lambda path: path.write_bytes(b"{}")),
    "blob a link": spoil(BLOB_PATH, link("/etc/passwd")),
    "no containers": spoil("containers", shutil.rmtree),
    "upper a link": spoil(f"containers/{CID}/upper", link("/")),
    "output a link": spoil(f"containers/{CID}/output", link("/etc/passwd")),
    "output a fifo": spoil(f"containers/{CID}/output", lambda path: (path.unlink(), os.mkfifo(path))),
    "exit a directory": spoil(f"containers/{CID}/exit", Path.mkdir),
}


@root_only
@pytest.mark.parametrize("what", SPOILT)
def test_a_backup_that_is_not_what_was_copied_is_refused(what: str, backup: Path, tmp_path: Path) -> None:
    """In words, with the path that is wrong; nothing is left, and nothing outside was followed or read."""
    SPOILT[what](backup)
    with pytest.raises((BackupInvalid, HostError)) as refused:
        restore_backup(backup, tmp_path / "other")
    assert "\n" not in str(refused.value)
    assert str(backup) in str(refused.value)
    assert not (tmp_path / "other").exists()


@root_only
def test_output_that_was_being_written_is_cut_to_whole_chunks(backup: Path, tmp_path: Path) -> None:
    """Else what the container prints next, after the torn chunk, could never be read."""
    for number, tail in enumerate((b"\xb1", printed(b"three")[:-1], b"junk" * 99)):
        (backup / "containers" / CID / "output").write_bytes(PRINTED + tail)
        restore_backup(backup, tmp_path / f"other{number}")
        assert (tmp_path / f"other{number}" / "containers" / CID / "output").read_bytes() == PRINTED


@root_only
def test_rotated_output_is_backed_up_and_restored(root: Path, tmp_path: Path) -> None:
    """All the files that are kept, in order, whole; a link in the place of one is refused."""
    own = root / "containers" / CID
    (own / "output").unlink()
    writer = OutputWriter(str(own), 200, 4)
    for number in range(40):
        writer.write(1, number, b"line %d\n" % number)
    writer.close()
    backup = tmp_path / "rotated"
    make_backup(root, backup, 0)
    restore_backup(backup, tmp_path / "again")
    restored = tmp_path / "again" / "containers" / CID
    names = ["output", "output.1", "output.2", "output.3"]
    assert sorted(name for name in os.listdir(restored) if "output" in name) == names
    assert [(restored / name).read_bytes() for name in names] == [(own / name).read_bytes() for name in names]
    (backup / "containers" / CID / "output.2").unlink()
    (backup / "containers" / CID / "output.2").symlink_to("/etc/passwd")
    with pytest.raises(BackupInvalid, match=r"output\.2"):
        restore_backup(backup, tmp_path / "refused")


@root_only
def test_only_what_the_log_names_is_taken(backup: Path, tmp_path: Path) -> None:
    """Whatever else lies in the backup stays there."""
    for extra in ("layers/" + "2" * 64, "containers/" + "b" * 64, f"containers/{CID}/work", "more"):
        (backup / extra).mkdir()
        (backup / extra / "file").touch()
    (backup / "blobs/sha256/x").touch()
    other = tmp_path / "other"
    restore_backup(backup, other)
    assert os.listdir(other / "layers") == ["1" * 64]
    assert os.listdir(other / "containers") == [CID]
    assert sorted(os.listdir(other / "containers" / CID)) == ["output", "upper"]
    assert sorted(os.listdir(other)) == ["blobs", "containers", "layers", "lock", "log", "staging", "store.json"]


def relabelled(backup: Path) -> None:
    """Make the manifest fit the log, as somebody would who means harm."""
    data = (backup / "log/data.mdb").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    manifest = attrs.evolve(read_manifest(backup), log_bytes=len(data), log_sha256=digest)
    (backup / "backup.json").write_bytes(manifest.content)


@pytest.mark.long
@pytest.mark.slow
def test_a_log_that_lmdb_would_crash_on_is_refused(root: Path, tmp_path: Path) -> None:
    """Pages overwritten at random and the checksum made to fit: the reading process may die, never this one."""
    backup = tmp_path / "backup"
    make_backup(root, backup, NOW, files=False)
    data = (backup / "log/data.mdb").read_bytes()
    chance = random.Random(3)
    refused = 0
    for number in range(12):
        changed = bytearray(data)
        for _ in range(number + 1):
            page = chance.randrange(len(data) // 4096) * 4096
            at = page + chance.randrange(64)
            changed[at : at + 16] = chance.randbytes(16)
        (backup / "log/data.mdb").write_bytes(changed)
        relabelled(backup)
        other = tmp_path / f"other{number}"
        with contextlib.suppress(BackupInvalid):
            restore_backup(backup, other)
        refused += not other.exists()
    assert refused > 6


def test_a_log_that_is_another_is_refused(root: Path, tmp_path: Path) -> None:
    """Another store's, or another part of the history, whatever the checksum says."""
    backup = tmp_path / "backup"
    make_backup(root, backup, NOW, files=False)
    for number, (records, name) in enumerate(((some_past(store="1" * 32), "1" * 32), (some_past(), STORE))):
        make_store(tmp_path / f"s{number}", records, name)
        make_backup(tmp_path / f"s{number}", tmp_path / f"b{number}", NOW, files=False)
        shutil.copy(tmp_path / f"b{number}" / "log/data.mdb", backup / "log/data.mdb")
        relabelled(backup)
        with pytest.raises(BackupInvalid, match=r"of store 0000|another chain"):
            restore_backup(backup, tmp_path / "other")
        assert not (tmp_path / "other").exists()


GOOD = Manifest(STORE, 7, "a" * 64, "2027-01-15T08:00:00.000000000Z", True, 9, "b" * 64, 1, [CID], [])


@given(
    st.binary(max_size=200)
    | st.builds(
        lambda at, end, more: GOOD.content[:at] + more + GOOD.content[end:],
        st.integers(0, 500),
        st.integers(0, 500),
        st.binary(max_size=8) | st.sampled_from((b"null", b"1e9", b"[[[", b'"x":', b"true", b"-1")),
    )
)
def test_a_fuzzed_manifest_raises_nothing_but_our_own(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "backup.json").write_bytes(content)
        try:
            assert read_manifest(Path(place)).content == content
        except BackupInvalid:
            return


def test_every_changed_character_of_a_manifest_is_refused_or_says_something_else(tmp_path: Path) -> None:
    content = GOOD.content
    for at in range(len(content)):
        (tmp_path / "backup.json").write_bytes(content[:at] + bytes((content[at] ^ 1,)) + content[at + 1 :])
        try:
            assert read_manifest(tmp_path) != GOOD
        except LadingError:
            continue


CRASHING = """
import os, signal, sys
from pathlib import Path
import lading.storage.backup, lading.storage.newstore, lading.storage.restoring, lading.storage.store
lading.storage.store._RUN = Path(sys.argv[1]).parent / "run"
last, steps = int(sys.argv[4]), 0
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
for name in ("rename", "mkdir", "unlink", "rmdir", "chmod"):
    crashing(Path, name)
for place, name in (
    (lading.storage.newstore, "write_identity"), (lading.storage.newstore, "syncfs"), (os, "fsync"),
    (lading.storage.newstore, "remove_tree"), (lading.storage.restoring, "copy_tree"),
    (lading.storage.restoring, "_verified"), (lading.storage.restoring, "_copy_file"),
    (lading.storage.backup, "copy_tree"), (lading.storage.backup, "copy_log"), (lading.storage.backup, "_sync"),
):
    crashing(place, name)
if sys.argv[3] == "backup":
    lading.storage.backup.make_backup(Path(sys.argv[1]), Path(sys.argv[2]), 5)
else:
    lading.storage.restoring.restore_backup(Path(sys.argv[2]), Path(sys.argv[1]))
print(steps)
"""


def crash(root: Path, backup: Path, what: str, last: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CRASHING, os.fspath(root), os.fspath(backup), what, str(last)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def steps(done: subprocess.CompletedProcess[str]) -> Iterator[int]:
    assert done.returncode == 0, done.stderr
    yield from range(1, int(done.stdout) + 1)


@root_only
@pytest.mark.slow
@pytest.mark.long
def test_a_restore_that_is_killed_leaves_the_store_or_none(backup: Path, tmp_path: Path) -> None:
    """At each of its steps: what opens is all of it, or a new store without anything."""
    outcomes = []
    for last in steps(crash(tmp_path / "whole", backup, "restore", 0)):
        other = tmp_path / f"other{last}"
        assert crash(other, backup, "restore", last).returncode == -signal.SIGKILL
        there = (other / "store.json").exists()
        other.mkdir(exist_ok=True)
        opened = open_store(other)
        assert opened.created is not there
        assert opened.log.verify().records == (7 if there else 0)
        if there:
            assert (opened.paths.container(CID) / "upper" / "written").read_text() == "by the container"
        opened.close()
        outcomes.append(there)
    assert outcomes == sorted(outcomes)
    assert (outcomes[0], outcomes[-1]) == (False, True)


@root_only
@pytest.mark.slow
@pytest.mark.long
def test_a_backup_that_is_killed_is_whole_or_refused(root: Path, tmp_path: Path) -> None:
    """At each of its steps: one without its manifest is told to be cut short; one with it is restored."""
    before = tree(root)
    outcomes = []
    for last in steps(crash(root, tmp_path / "whole", "backup", 0)):
        backup, other = tmp_path / f"backup{last}", tmp_path / f"other{last}"
        assert crash(root, backup, "backup", last).returncode == -signal.SIGKILL
        whole = (backup / "backup.json").exists()
        if whole:
            restore_backup(backup, other)
        else:
            with pytest.raises(BackupInvalid, match=r"cut short|not there"):
                restore_backup(backup, other)
        assert other.exists() is whole
        outcomes.append(whole)
    assert outcomes == sorted(outcomes)
    assert (outcomes[0], outcomes[-1]) == (False, True)
    assert {name: each for name, each in tree(root).items() if "lock.mdb" not in name} == {
        name: each for name, each in before.items() if "lock.mdb" not in name
    }, "the store itself is only read"
