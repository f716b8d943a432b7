"""Attributes, holes, compression, limits and the machine's refusals, in layers that are honest."""

from __future__ import annotations

import errno
import io
import os
import stat
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lading.events.errors import BadLayer, HostError
from lading.storage.linux import (
    openat2,
    rename_exchange,
    rename_noreplace,
    syncfs,
)
from lading.storage.plan import Limits
from lading.storage.trees import measure_tree, remove_tree
from lading.storage.unpack import unpack

CAPABILITY = bytes.fromhex("0000000200200000000000000000000000000000")
OPAQUE = "trusted.overlay.opaque"


def is_whiteout(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return OPAQUE in os.listxattr(path) and os.getxattr(path, OPAQUE) == b"y"


def test_extended_attributes(place: Any, tar: Any) -> None:
    def key(name: bytes, value: bytes) -> tuple[bytes, bytes]:
        return b"SCHILY.xattr." + name, value

    place.unpack(
        tar.x(
            key(b"user.kept", b"a\0b"),
            key(b"security.capability", CAPABILITY),
            key(b"security.selinux", b"x"),
            key(b"security.ima", b"x"),
            key(b"system.nfs4_acl", b"x"),
            key(b"system.posix_acl_access", b"x"),
            key(b"trusted.overlay.redirect", b"/hidden"),
            key(b"trusted.overlay.opaque", b"y"),
            key(b"trusted.other", b"y"),
            key(b"user.overlay.opaque", b"y"),
            key(b"nonsense", b"y"),
        ),
        tar.f(b"f", b"x", uid=5),
        tar.x(key(b"user.kept", b"1"), key(b"trusted.overlay.opaque", b"y")),
        tar.d(b"d"),
        tar.x(key(b"user.kept", b"1"), key(b"trusted.overlay.opaque", b"y")),
        tar.s(b"s", b"f"),
    )
    f = place.at("f")
    assert sorted(os.listxattr(f)) == ["security.capability", "user.kept"]
    assert os.getxattr(f, "user.kept") == b"a\0b"
    assert os.getxattr(f, "security.capability") == CAPABILITY
    assert os.listxattr(place.at("d")) == ["user.kept"]


@pytest.mark.parametrize(
    "pair",
    [(b"security.capability", b"junk"), (b"user." + b"n" * 255, b""), (b"user.v", b"v" * 65537), (b"user.", b"")],
)
def test_attributes_that_linux_cannot_hold_are_the_archives_fault(
    place: Any, tar: Any, pair: tuple[bytes, bytes]
) -> None:
    with pytest.raises(BadLayer):
        place.unpack(tar.x((b"SCHILY.xattr." + pair[0], pair[1])), tar.f(b"f"))


def test_sparse_files_have_holes(place: Any, tar: Any) -> None:
    big = 2**30
    pax = tar.x((b"GNU.sparse.size", b"%d" % big), (b"GNU.sparse.map", b"4096,5,1000000,0,500000000,3"))
    place.unpack(pax, tar.f(b"f", b"helloend"))
    found = place.at("f").stat()
    assert found.st_size == big
    assert found.st_blocks * 512 < 2**20
    with place.at("f").open("rb") as file:
        assert file.read(4102) == bytes(4096) + b"hello\0"
        file.seek(500_000_000)
        assert file.read(4) == b"end\0"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["--format=gnu"],
        ["--format=posix", "--xattrs"],
        *(["--format=posix", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0")),
    ],
    ids=lambda a: a[-1].strip("-"),
)
def test_a_real_tree_goes_through_gnu_tar_and_back(
    place: Any, tar: Any, tmp_path: Path, arguments: list[str]
) -> None:
    tree = tmp_path / "tree"
    deep = tree / "/".join(["d" * 50] * 6)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(os.urandom(100_000))
    os.link(deep / "file", tree / "hard")
    (tree / "l").symlink_to("x" * 200)
    os.mkfifo(tree / "fifo", 0o600)
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(tree / "disk", stat.S_IFBLK | 0o640, os.makedev(7, 300))
    with (tree / "sparse").open("wb") as sparse:
        for i in range(30):
            sparse.seek(i * 2**20)
            sparse.write(b"data%d" % i)
        sparse.truncate(64 * 2**20)
    Path(os.fsdecode(os.fsencode(tree) + b"/caf\xe9\n")).write_bytes(b"e")
    (tree / "owned").write_bytes(b"")
    os.chown(tree / "owned", 3_000_000, 100)
    (tree / "owned").chmod(0o6755)
    os.setxattr(tree / "owned", "user.note", b"n\0n")
    os.setxattr(tree / "owned", "security.capability", CAPABILITY)
    (tree / "sticky").mkdir()
    (tree / "sticky").chmod(0o1777)
    os.utime(tree / "owned", ns=(1, -5 * 10**9 if "gnu" in arguments[0] else 123_456_789))
    if "--xattrs" in arguments:
        arguments = [*arguments, "--xattrs-include=*"]
    else:
        os.removexattr(tree / "owned", "user.note")
        os.removexattr(tree / "owned", "security.capability")

    packed = subprocess.run(
        ["tar", "-c", "-z", "-S", "--numeric-owner", *arguments, "-C", tree, "."],
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    unpack(io.BytesIO(packed), place.root)
    whole_seconds = "gnu" in arguments[0]

    def seen(root: Path) -> dict[bytes, Any]:
        shot = tar.snapshot(root)
        return {k: (*v[:6], v[6] // 10**9 if whole_seconds else v[6], *v[7:]) for k, v in shot.items()}

    assert seen(place.root) == seen(tree)
    assert place.at("sparse").stat().st_blocks * 512 < 2**20


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (Limits(entries=5), "entries"),
        (Limits(stream_bytes=4096), "limit of 4096"),
        (Limits(file_bytes=900), "limit of 900"),
        (Limits(path_bytes=5), "path of"),
        (Limits(path_depth=2), "levels deep"),
        (Limits(component_bytes=3), "longer than 3"),
        (Limits(implied_bytes=60), "without an entry of their own"),
    ],
)
def test_limits_are_kept(place: Any, tar: Any, limits: Limits, why: str) -> None:
    with pytest.raises(BadLayer, match=why):
        place.unpack(*(tar.f(b"d/e/file%d" % i, b"x" * 500) for i in range(4)), limits=limits)


def test_limits_of_headers_and_sparse_maps_are_kept(place: Any, tar: Any) -> None:
    place.unpack(tar.x((b"comment", b"c" * 4000)), tar.f(b"f"), limits=Limits(header_bytes=5000))
    with pytest.raises(BadLayer, match="at most 3000 are accepted"):
        place.unpack(tar.x((b"comment", b"c" * 4000)), tar.f(b"f"), limits=Limits(header_bytes=3000))
    with pytest.raises(BadLayer, match="hard links to files of lower layers"):
        place.unpack(tar.lnk(b"h", b"none"), lower_links=True, limits=Limits(implied_bytes=60))


def test_stop_is_asked_and_what_it_raises_goes_through(place: Any, tar: Any) -> None:
    calls = iter(range(12))

    def stop() -> None:
        if next(calls) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.unpack(*(tar.f(b"f%d" % i) for i in range(100)), stop=stop)


def test_into_may_be_a_descriptor_which_stays_open(place: Any, tar: Any) -> None:
    fd = os.open(place.root, os.O_PATH)
    try:
        unpack(io.BytesIO(tar.f(b"f", b"x") + bytes(1024)), fd)
        os.fstat(fd)
    finally:
        os.close(fd)
    assert place.at("f").read_bytes() == b"x"


def test_no_descriptor_leaks(place: Any, tar: Any) -> None:
    before = len(os.listdir("/proc/self/fd"))
    place.unpack(
        tar.d(b"a"), tar.f(b"b/c/d"), tar.lnk(b"e", b"b/c/d"), tar.f(b"a/.wh.x"), tar.s(b"l", b"/n"), tar.f(b"l/f")
    )
    for bad in (tar.f(b"../x"), tar.lnk(b"h", b"missing"), tar.s(b"r", b"r") + tar.f(b"r/x")):
        with pytest.raises(BadLayer):
            place.unpack(tar.f(b"i/j/f"), bad)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_full_disk_is_a_host_error_that_says_so(tmpfs: Callable[[str], Path], tar: Any) -> None:
    where = tmpfs("size=64k")
    with pytest.raises(HostError) as caught:
        unpack(io.BytesIO(tar.f(b"big", bytes(200_000)) + bytes(1024)), where)
    assert (caught.value.errno, caught.value.path) == (errno.ENOSPC, "big")
    assert "free" in caught.value.hint
    where = tmpfs("nr_inodes=5")
    with pytest.raises(HostError) as caught:
        unpack(io.BytesIO(b"".join(tar.f(b"f%d" % i) for i in range(9)) + bytes(1024)), where)
    assert caught.value.errno == errno.ENOSPC


def test_a_failing_source_is_a_host_error(place: Any) -> None:
    class Broken(io.RawIOBase):
        def read(self, n: int = -1, /) -> bytes:
            raise OSError(errno.EIO, "broken")

    with pytest.raises(HostError) as caught:
        unpack(Broken(), place.root)
    assert caught.value.errno == errno.EIO


def test_into_must_be_a_directory(place: Any) -> None:
    with pytest.raises(HostError):
        unpack(io.BytesIO(b""), place.root / "missing")
    place.at("f").touch()
    with pytest.raises(HostError):
        unpack(io.BytesIO(b""), place.root / "f")


# removing


@pytest.fixture
def here(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.slow
def test_trees_of_any_depth_are_measured_and_removed(tmp_path: Path, here: int) -> None:
    fd = os.dup(here)
    for _ in range(3000):
        os.mkdir(b"d" * 10, dir_fd=fd)
        below = os.open(b"d" * 10, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open(b"f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    assert measure_tree(here).inodes == 3002
    remove_tree(here, b"d" * 10)
    assert os.listdir(tmp_path) == []


def test_removal_follows_no_symlink_and_forgives_what_is_gone(place: Any, here: int, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "l").symlink_to(place.victim)
    (tree / "caf\udce9").mkdir()
    (tmp_path / "link").symlink_to(place.victim)
    os.link(place.victim / "file", tree / "a" / "hard")
    for name in (b"tree", b"link", b"missing"):
        remove_tree(here, name)
    assert os.listdir(tmp_path) == ["outer"]


def test_removal_stops_at_a_mount_point(tmpfs: Callable[[str], Path], here: int) -> None:
    where = tmpfs("size=64k")
    (where / "kept").write_bytes(b"x")
    with pytest.raises(HostError, match="mounted"):
        remove_tree(here, os.fsencode(where.name))
    outer = os.open(where.parent.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(HostError, match="mounted"):
            remove_tree(outer, os.fsencode(where.parent.name))
    finally:
        os.close(outer)
    assert (where / "kept").read_bytes() == b"x"


def test_hard_links_are_measured_once(tmp_path: Path, here: int) -> None:
    (tmp_path / "a").write_bytes(bytes(10_000))
    os.link(tmp_path / "a", tmp_path / "b")
    assert measure_tree(here).disk_bytes == int(subprocess.check_output(["du", "-s", "-B1", tmp_path]).split()[0])


def test_openat2_names_the_path_that_failed(here: int) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        openat2(b"missing", os.O_RDONLY, dir_fd=here)
    assert caught.value.filename == b"missing"


def test_a_window_that_ends_with_the_member_is_not_a_cut(place: Any, tar: Any) -> None:
    data = bytes(256 * 1024 * 3 - 512 - 1024)
    plain = tar.f(b"f", data) + bytes(1024)
    for level in (0, 1, 9):
        squeeze = zlib.compressobj(level, wbits=31)
        made = unpack(io.BytesIO(squeeze.compress(plain) + squeeze.flush()), place.root)
        assert made.size == len(plain)


def test_renames_that_exchange_or_refuse(tmp_path: Path, here: int) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").mkdir()
    rename_exchange(b"a", b"b", source_fd=here, target_fd=here)
    assert (tmp_path / "b").read_bytes() == b"a"
    with pytest.raises(FileExistsError):
        rename_noreplace(b"a", b"b", source_fd=here, target_fd=here)
    rename_noreplace(b"a", b"c", source_fd=here, target_fd=here)
    syncfs(here)
    with pytest.raises(OSError, match="Bad file"):
        syncfs(-1)
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]
