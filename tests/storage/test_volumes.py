"""Directories of volumes: what a copy keeps, what a crash leaves, and what a subpath can't reach."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from lading.events.errors import Invalid
from lading.storage.copytree import copy_tree
from lading.storage.store import Paths
from lading.storage.volumes import data_of, fill_volume, make_volumes, measure_volume, open_subpath

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path / "root", tmp_path / "run")
    for directory in (found.root, found.volumes, found.trash):
        directory.mkdir()
    make_volumes(found, ["box"])
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "source"
    (top / "a/b").mkdir(parents=True)
    (top / "a/b/file").write_bytes(b"x" * 100_000)
    (top / "a/b/file").chmod(0o4755)
    os.link(top / "a/b/file", top / "again")
    (top / "link").symlink_to("/etc/passwd")
    (top / b"\xff\n".decode(errors="surrogateescape")).touch()
    os.mkfifo(top / "fifo")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(top / "socket"))
    with (top / "holes").open("wb") as file:
        file.seek(1 << 24)
        file.write(b"end")
    os.setxattr(top / "a", "user.of", b"a")
    os.utime(top / "a", ns=(5, 6))
    os.utime(top, ns=(7, 8_000_000_001))
    top.chmod(0o1750)
    return top


class Opened:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> int:
        self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        return self.fd

    def __exit__(self, *args: object) -> None:
        os.close(self.fd)


def looks(top: Path) -> dict[str, tuple[object, ...]]:
    """Everything of a tree that a copy keeps."""
    found = {}
    for path in (top, *sorted(top.rglob("*"))):
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        content: object = ""
        if kind == stat.S_IFREG:
            content = hash(path.read_bytes())
        elif kind == stat.S_IFLNK:
            content = os.readlink(path)
        links = status.st_nlink if kind != stat.S_IFDIR else 0
        attributes = (
            [] if kind != stat.S_IFDIR else [(name, os.getxattr(path, name)) for name in os.listxattr(path)]
        )
        key = str(path.relative_to(top))
        found[key] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, links, content, attributes)
    return found


@root_only
def test_a_copy_is_as_the_original(source: Path, tmp_path: Path) -> None:
    os.chown(source / "a/b", 1000, 50)
    os.mknod(source / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    (tmp_path / "copy").mkdir()
    with Opened(source) as one, Opened(tmp_path / "copy") as other:
        assert copy_tree(one, other) == 10
    assert looks(tmp_path / "copy") == looks(source)
    assert (tmp_path / "copy/holes").stat().st_blocks < 100


def test_a_deep_tree_and_one_that_is_moved_meanwhile(tmp_path: Path) -> None:
    top, copy = tmp_path / "source", tmp_path / "copy"
    top.mkdir()
    copy.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with Opened(top) as one, Opened(copy) as other:
        assert copy_tree(one, other) == 3000
    (tmp_path / "more").mkdir()
    count = 0

    def move() -> None:
        nonlocal count
        count += 1
        if count == 10:
            (top / "d/d/d").rename(tmp_path / "elsewhere")

    with Opened(top) as one, Opened(tmp_path / "more") as other, pytest.raises(OSError, match="moved"):
        copy_tree(one, other, move)
    for name in ("copy", "source", "more", "elsewhere"):
        os.system(f"rm -r {tmp_path / name}")


def test_an_empty_volume_is_filled_once(paths: Paths, source: Path) -> None:
    with Opened(source) as fd:
        assert fill_volume(fd, paths.volume("box"))
        assert looks(data_of(paths, "box")) == looks(source)
        (data_of(paths, "box") / "link").unlink()
        assert not fill_volume(fd, paths.volume("box"))
    assert not (data_of(paths, "box") / "link").is_symlink()
    assert os.listdir(paths.volume("box")) == ["_data"]


def test_a_directory_without_content_gives_its_look(paths: Paths, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty").chmod(0o1770)
    with Opened(tmp_path / "empty") as fd:
        assert not fill_volume(fd, paths.volume("box"))
    assert data_of(paths, "box").stat().st_mode & 0o7777 == 0o1770


class Stop(Exception):
    """Somebody stops the copy."""


def test_a_copy_that_is_stopped_leaves_an_empty_volume(paths: Paths, source: Path) -> None:
    for after in range(1, 10):
        left = after

        def pause() -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Stop

        with Opened(source) as fd, pytest.raises(Stop):
            fill_volume(fd, paths.volume("box"), pause)
        assert os.listdir(paths.volume("box")) == ["_data"]
        assert os.listdir(data_of(paths, "box")) == []


def test_what_a_crash_left_is_gone_on_from_and_nothing_is_overwritten(paths: Paths, source: Path) -> None:
    top = paths.volume("box")
    (top / "filling/half").mkdir(parents=True)  # it was being copied: begun again
    with Opened(source) as fd:
        assert fill_volume(fd, top)
    assert looks(data_of(paths, "box")) == looks(source)
    (data_of(paths, "box") / "link").unlink()
    (top / "filled/a").mkdir(parents=True)  # it was being moved: what isn't there yet comes
    (top / "filled/link").write_text("of the image")
    with Opened(source) as fd:
        assert fill_volume(fd, top)
    assert (data_of(paths, "box") / "link").read_text() == "of the image"
    assert (data_of(paths, "box") / "a/b/file").exists()
    assert os.listdir(top) == ["_data"]


@pytest.mark.parametrize(
    "subpath", ["..", "../x", "a/../../..", "abs", "up/x", "/etc", "", "no", "file/x", "loop"]
)
def test_a_subpath_stays_within(paths: Paths, tmp_path: Path, subpath: str) -> None:
    data = data_of(paths, "box")
    (tmp_path / "x").touch()
    (data / "a").mkdir()
    (data / "file").touch()
    (data / "abs").symlink_to("/etc")
    (data / "up").symlink_to("../../../..")
    (data / "loop").symlink_to("loop")
    with pytest.raises(Invalid):
        open_subpath(paths, "box", subpath)


@pytest.mark.parametrize("subpath", ["a", "a/..", ".", "a/b/../b", "in", "a/file"])
def test_a_subpath_can_lead_anywhere_within(paths: Paths, subpath: str) -> None:
    data = data_of(paths, "box")
    (data / "a/b").mkdir(parents=True)
    (data / "a/file").touch()
    (data / "in").symlink_to("a/./b")
    os.close(open_subpath(paths, "box", subpath))


def test_volumes_are_made_whole_or_not_at_all(paths: Paths) -> None:
    (paths.volumes / "left").mkdir()
    (paths.volumes / "left/file").touch()  # of a crash, or of an append that was refused
    make_volumes(paths, ["one", "left"])
    assert sorted(os.listdir(paths.volumes)) == ["box", "left", "one"]
    assert (os.listdir(paths.volume("left")), measure_volume(paths, "gone")) == (["_data"], 0)
    assert stat.S_IMODE(data_of(paths, "one").stat().st_mode) == 0o755
    assert len(list(paths.trash.iterdir())) == 1
