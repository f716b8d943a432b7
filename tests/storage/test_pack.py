"""A tree as an archive: the same bytes for the same tree, the same tree out of the bytes, whoever reads them."""

from __future__ import annotations

import io
import os
import random
import shutil
import socket
import stat
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lading.events.errors import HostError, ImageInvalid
from lading.storage import pack as pack_module
from lading.storage.linux import MNT_DETACH, mount, umount2
from lading.storage.pack import pack
from lading.storage.pieces import PieceSource
from lading.storage.plan import DEFAULT_LIMITS
from lading.storage.tar import TarReader
from lading.storage.tarheader import header
from lading.storage.trees import remove_tree
from lading.storage.unpack import unpack


def packed(tree: Path, whiteouts: bool = False, **kw: Any) -> bytes:
    return b"".join(pack(tree, whiteouts=whiteouts, **kw))


def names(archive: bytes) -> list[bytes]:
    return [entry.name for entry in TarReader(io.BytesIO(archive))]


def remove(path: Path) -> None:
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        remove_tree(fd, os.fsencode(path.name))
    finally:
        os.close(fd)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    where = tmp_path / "tree"
    where.mkdir()
    yield where
    remove(where)  # some are too deep for pytest


def everything(tree: Path) -> None:
    """One of each kind, in no order, with what ustar alone can't say."""
    (tree / "z").write_bytes(b"last")
    (tree / "d").mkdir()
    (tree / "d" / "f").write_bytes(b"x" * 1000)
    (tree / "d-e").write_bytes(b"sorts before d/f in a list of whole paths, after d here")
    os.link(tree / "d/f", tree / "hard")
    (tree / "soft").symlink_to("/somewhere/else")
    (tree / ("s" * 120)).symlink_to("t" * 150)
    os.link(tree / "soft", tree / "soft2", follow_symlinks=False)
    os.mkfifo(tree / "fifo", 0o640)
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(tree / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 1048575))
    (tree / ("n" * 255)).write_bytes(b"long")
    deep = tree / ("a" * 100) / ("b" * 100)
    deep.mkdir(parents=True)
    (deep / "c").write_bytes(b"deep")
    with open(os.fsencode(tree) + b"/caf\xe9\xff", "wb") as file:
        file.write(b"no UTF-8")
    (tree / "größe").write_bytes(b"UTF-8")
    (tree / "new\nline").write_bytes(b"")
    (tree / "caps").write_bytes(b"#!")
    os.chown(tree / "caps", 2**32 - 2, 2_097_152)
    (tree / "caps").chmod(0o6755)
    os.setxattr(tree / "caps", "security.capability", bytes.fromhex("0100000200000020000000000000000000000000"))
    os.setxattr(tree / "caps", "user.empty", b"")
    os.setxattr(tree / "d", "user.bin", b"\0=\n\xff")
    os.setxattr(tree / "d", "user.overlay.opaque", b"y")
    os.setxattr(tree / "d", "trusted.secret", b"x")
    with (tree / "hole").open("wb") as file:
        file.write(b"start")
        file.seek(3_000_000)
        file.write(b"middle")
        file.truncate(5_000_000)
    for at, ns in (("z", 1), ("d/f", -1_500_000_000), ("hole", 2**62), ("größe", 10**18 + 123_456_789), ("d", -1)):
        os.utime(tree / at, ns=(0, ns))
    os.utime(tree / "soft", ns=(0, 999), follow_symlinks=False)


def comparable(tar: Any, tree: Path) -> Any:
    """What of a tree goes into an archive."""
    shot = tar.snapshot(tree)
    shot.pop(b".")
    for name, (*rest, xattrs) in list(shot.items()):
        kept = tuple((k, v) for k, v in xattrs if not k.startswith(("trusted.", "user.overlay.")))
        shot[name] = (*rest, kept)
    return shot


def test_everything_comes_back_exactly(tar: Any, tree: Path, tmp_path: Path) -> None:
    everything(tree)
    archive = packed(tree)
    again = tmp_path / "again"
    again.mkdir()
    made = unpack(io.BytesIO(archive), again)
    assert comparable(tar, again) == comparable(tar, tree)
    assert packed(again) == archive
    assert made.entries == len(names(archive))
    # As a layer it is the same, since nothing in it is hidden.
    assert packed(tree, whiteouts=True) == archive
    fd = os.open(tree, os.O_RDONLY)
    try:
        assert b"".join(pack(fd, whiteouts=False)) == archive
    finally:
        os.close(fd)


def test_other_tars_see_the_same(tar: Any, tree: Path, tmp_path: Path) -> None:
    everything(tree)
    archive = packed(tree)
    (tmp_path / "x.tar").write_bytes(archive)
    listed = subprocess.run(
        ["tar", "--quoting-style=literal", "--null", "-tf", tmp_path / "x.tar"], capture_output=True, check=True
    )
    assert not listed.stderr
    assert listed.stdout == b"".join(name + b"\n" for name in names(archive))
    with tarfile.open(tmp_path / "x.tar", errors="surrogateescape") as theirs:
        assert [os.fsencode(m.name) for m in theirs] == [name.rstrip(b"/") for name in names(archive)]
        assert {m.uname + m.gname for m in theirs} == {""}
    again = tmp_path / "again"
    again.mkdir()
    options = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--warning=no-timestamp"]
    done = subprocess.run(
        ["tar", *options, "-C", again, "-xpf", tmp_path / "x.tar"], capture_output=True, check=True
    )
    assert not done.stderr
    assert comparable(tar, again) == comparable(tar, tree)


def test_the_bytes_depend_on_the_tree_alone(tree: Path, tmp_path: Path) -> None:
    everything(tree)
    os.utime(tree, ns=(0, 0))
    once = packed(tree)
    other = tmp_path / "elsewhere" / "copy"
    other.parent.mkdir()
    order = list(os.walk(tree))
    random.Random(7).shuffle(order)
    subprocess.run(["cp", "-a", tree, other], check=True)
    old = os.umask(0o077)
    try:
        # Made again in another order, the directory gives its names in another order.
        for name in sorted(os.listdir(other), reverse=True):
            (other / name).rename(other / f"{name[:250]}.tmp")
            (other / f"{name[:250]}.tmp").rename(other / name)
        assert packed(other) == once
    finally:
        os.umask(old)


def test_there_is_no_entry_for_the_root_and_directories_end_in_a_slash(tree: Path) -> None:
    assert packed(tree) == bytes(1024)
    (tree / "d").mkdir()
    (tree / "d.x").touch()
    (tree / "d" / "f").touch()
    assert names(packed(tree)) == [b"d/", b"d/f", b"d.x"]


PATHS = ("a", "b", "d", "d/a", "d/b", "d/d/a", "é", "x" * 110)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_packing_what_was_unpacked_gives_the_same_bytes(tar: Any, tmp_path: Path, data: st.DataObject) -> None:
    base = tmp_path / "property"
    base.mkdir()
    try:
        first, second = base / "first", base / "second"
        first.mkdir()
        second.mkdir()
        times = st.integers(-(2**31) * 10**9, 2**40 * 10**6)
        for path in data.draw(st.lists(st.sampled_from(PATHS), unique=True)):
            at = first / path
            kind = data.draw(st.sampled_from("ffdslcwop"))
            if os.path.lexists(at) or any(not above.is_dir() for above in at.parents if os.path.lexists(above)):
                continue
            at.parent.mkdir(parents=True, exist_ok=True)
            others = [other for other in first.rglob("*") if other.is_file() and not other.is_symlink()]
            if kind == "f":
                at.write_bytes(data.draw(st.binary(max_size=2000)))
                at.chmod(data.draw(st.integers(0, 0o7777)))
            elif kind == "s":
                at.symlink_to(data.draw(st.text("abc/.é", min_size=1, max_size=120)))
            elif kind == "l" and others:
                os.link(data.draw(st.sampled_from(others)), at)
            elif kind == "w":
                os.mknod(at, stat.S_IFCHR, 0)
                continue
            elif kind == "c":
                os.mknod(at, stat.S_IFCHR, os.makedev(1, data.draw(st.integers(0, 99))))
            elif kind == "p":
                os.mkfifo(at)
            else:
                at.mkdir(data.draw(st.sampled_from([0, 0o755, 0o1777])))
                if kind == "o":
                    os.setxattr(at, "trusted.overlay.opaque", b"y")
            os.chown(at, data.draw(st.integers(0, 2**32 - 2)), 0, follow_symlinks=False)
            moment = data.draw(times)
            os.utime(at, ns=(moment, moment), follow_symlinks=False)
        archive = packed(first, whiteouts=True)
        unpack(io.BytesIO(archive), second)
        assert packed(second, whiteouts=True) == archive
        assert comparable(tar, second).keys() == comparable(tar, first).keys()
    finally:
        remove(base)


# layers


def test_what_an_overlay_hides_is_told_in_the_words_of_layers(tree: Path, tmp_path: Path) -> None:
    (tree / "d").mkdir()
    os.setxattr(tree / "d", "trusted.overlay.opaque", b"y")
    os.setxattr(tree / "d", "trusted.overlay.origin", b"\0")
    (tree / "d" / "!first").touch()
    os.mknod(tree / "d" / "gone", stat.S_IFCHR, 0)
    os.link(tree / "d" / "gone", tree / "also")  # overlayfs shares one whiteout between many names
    os.setxattr(tree, "trusted.overlay.impure", b"y")
    archive = packed(tree, whiteouts=True)
    assert names(archive) == [b".wh.also", b"d/", b"d/.wh..wh..opq", b"d/.wh.gone", b"d/!first"]
    assert b"overlay" not in archive
    assert names(packed(tree, whiteouts=True, opaque=True))[0] == b".wh..wh..opq"
    noted: list[bytes] = []
    plain = packed(tree, note=lambda path, why: noted.append(path))
    assert names(plain) == [b"d/", b"d/!first"]
    assert noted == [b"also", b"d/gone"]
    os.setxattr(tree, "trusted.overlay.opaque", b"y")
    assert names(packed(tree, whiteouts=True))[0] == b".wh..wh..opq"


@pytest.mark.parametrize("name", [".wh.x", "d/.wh..wh..opq"])
def test_a_name_that_would_hide_another_is_refused_in_a_layer_only(tree: Path, name: str) -> None:
    (tree / "d").mkdir()
    (tree / name).touch()
    with pytest.raises(ImageInvalid, match="rename it"):
        packed(tree, whiteouts=True)
    assert name.encode() in names(packed(tree))


@pytest.mark.parametrize("name", ["redirect", "metacopy"])
def test_an_upper_directory_that_refers_to_lower_ones_is_no_layer(tree: Path, name: str) -> None:
    (tree / "d").mkdir()
    os.setxattr(tree / "d", f"trusted.overlay.{name}", b"/other")
    with pytest.raises(HostError, match="redirect_dir and metacopy"):
        packed(tree, whiteouts=True)
    packed(tree)


def test_a_path_that_no_kernel_takes_is_refused_in_a_layer(tree: Path) -> None:
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(18):
        os.mkdir("x" * 250, dir_fd=fd)
        below = os.open("x" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(ImageInvalid, match="more than the 4095 bytes of path"):
        packed(tree, whiteouts=True)
    assert len(names(packed(tree))) == 18


def test_more_than_a_layer_may_have_is_refused_before_it_is_written(tree: Path) -> None:
    (tree / "a").write_bytes(b"x")
    with (tree / "hole").open("wb") as file:
        file.truncate(2**40)
    begun = time.perf_counter()
    with pytest.raises(ImageInvalid, match="'hole' it has more than the 274877906944 bytes, holes"):
        packed(tree, whiteouts=True)
    assert time.perf_counter() - begun < 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack_module, "DEFAULT_LIMITS", attrs.evolve(DEFAULT_LIMITS, entries=1))
        with pytest.raises(ImageInvalid, match="more than the 1 entries"):
            packed(tree, whiteouts=True)


# what is at work in the tree


def during(tree: Path, change: Callable[[], object], **kw: Any) -> bytes:
    """Pack with ``change`` made when the first file was half read."""
    done = False
    real = os.read

    def read(fd: int, n: int) -> bytes:
        nonlocal done
        piece = real(fd, min(n, 512))
        if not done:
            done = True
            change()
        return piece

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack_module.os, "read", read)
        return packed(tree, **kw)


@pytest.mark.parametrize(
    "change", [lambda f: os.truncate(f, 600), lambda f: f.write_bytes(b"y" * 9999), lambda f: f.open("ab").close()]
)
def test_a_file_that_changes_is_an_error_or_is_made_to_fit(tree: Path, change: Callable[[Path], object]) -> None:
    file = tree / "a"
    file.write_bytes(b"x" * 3000)
    (tree / "b").write_bytes(b"after")
    noted: list[tuple[bytes, str]] = []
    archive = during(tree, lambda: change(file), live=True, note=lambda *told: noted.append(told))
    found = {
        entry.name: b"".join(reader.data()) for reader in [TarReader(io.BytesIO(archive))] for entry in reader
    }
    assert len(found[b"a"]) == 3000
    assert found[b"b"] == b"after"
    assert bool(noted) == (file.stat().st_size < 3000)
    if noted:
        assert noted == [(b"a", "it became shorter; its last 2400 bytes are zeros")]
    file.write_bytes(b"x" * 3000)
    os.utime(file, ns=(0, 0))
    if file.stat().st_size != 3000 or change.__code__.co_consts != (None, "ab"):
        with pytest.raises(HostError, match="while it was read"):
            during(tree, lambda: change(file))


def test_what_vanishes_is_an_error_or_left_out(tree: Path) -> None:
    for name in ("a", "b", "d/x"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(b"x")
    (tree / "link").symlink_to("x")

    def change() -> None:
        (tree / "b").unlink()
        (tree / "link").unlink()
        shutil.rmtree(tree / "d")

    noted: list[bytes] = []
    assert names(during(tree, change, live=True, note=lambda path, why: noted.append(path))) == [b"a"]
    assert noted == [b"b", b"d", b"link"]
    (tree / "b").write_bytes(b"x")
    with pytest.raises(HostError, match="pack b: No such file"):
        during(tree, lambda: (tree / "b").unlink())


def test_a_file_that_becomes_a_fifo_or_a_link_is_not_followed_nor_waited_for(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    for name in ("a", "b", "c"):
        (tree / name).write_bytes(b"x")

    def change() -> None:
        for name in ("b", "c"):
            (tree / name).unlink()
        (tree / "b").symlink_to(tmp_path / "secret")
        os.mkfifo(tree / "c")

    with pytest.raises(HostError, match="no file any more"):
        during(tree, change, live=True)


def test_sockets_are_left_out(tree: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tree / "s"))
    noted: list[bytes] = []
    assert names(packed(tree, note=lambda path, why: noted.append(path))) == []
    assert noted == [b"s"]


@pytest.fixture
def mounted(tree: Path) -> Iterator[Path]:
    (tree / "m").mkdir(0o700)
    mount(b"tmpfs", os.fsencode(tree / "m"), b"tmpfs", 0, b"mode=711")
    (tree / "m" / "inside").touch()
    (tree / "z").touch()
    yield tree
    umount2(os.fsencode(tree / "m"), MNT_DETACH)


def test_what_is_mounted_in_the_tree_is_not_entered(mounted: Path) -> None:
    noted: list[bytes] = []
    assert names(packed(mounted, note=lambda path, why: noted.append(path))) == [b"m/", b"z"]
    assert noted == [b"m"]


# size and speed


@pytest.mark.slow
def test_holes_are_not_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tree / "hole").open("wb") as file:
        file.truncate(2**31)
        file.seek(2**30)
        file.write(b"island")
    reads: list[int] = []
    real = os.pread

    def pread(fd: int, n: int, at: int) -> bytes:
        reads.append(n)
        return real(fd, n, at)

    monkeypatch.setattr(pack_module.os, "pread", pread)
    pieces = pack(tree, whiteouts=False)
    assert sum(len(piece) - piece.count(0) for piece in pieces if piece.count(0) < len(piece)) < 300
    assert sum(reads) < 2**20


def test_a_tree_of_any_depth_needs_few_descriptors(tree: Path) -> None:
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("x", dir_fd=fd)
        below = os.open("x", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    stream = pack(tree, whiteouts=True)
    next(stream)
    assert len(os.listdir("/proc/self/fd")) <= before + 4
    stream.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(names(packed(tree, whiteouts=True))) == 1500


@pytest.mark.slow
def test_nine_thousand_files_are_packed_quickly(tar: Any, tree: Path) -> None:
    archive = b"".join(tar.f(b"usr/%d/f%d" % (n % 90, n), b"x" * (n % 2000)) for n in range(9000)) + tar.END
    unpack(io.BytesIO(archive), tree)
    begun = time.perf_counter()
    assert sum(map(len, pack(tree, whiteouts=True))) > 10**7
    assert time.perf_counter() - begun < 3  # 0.25 s on two idle cores


def test_numbers_larger_than_octal_digits_say() -> None:
    head = header(b"big", b"0", size=2**33, uid=2**21, mtime_ns=-1)
    source = PieceSource([head])
    entry = next(iter(TarReader(source)))
    assert (entry.size, entry.uid, entry.mtime_ns) == (2**33, 2**21, -1)
    with tarfile.open(fileobj=io.BytesIO(head)) as theirs:
        member = theirs.next()
        assert member is not None
        assert (member.size, member.uid, member.mtime) == (2**33, 2**21, -1e-9)


@pytest.mark.parametrize("length", range(80, 130))
def test_pax_records_count_their_own_digits(length: int) -> None:
    name = b"n" * length + b"\xff"
    assert names(header(name, b"0") + bytes(1024)) == [name]
