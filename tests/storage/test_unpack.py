"""What an honest layer becomes on disk: all of it, exactly, whatever dialect it was written in."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import stat
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lading.events.errors import BadLayer, HostError, ImageInvalid
from lading.storage.linux import (
    MNT_DETACH,
    MOUNT_ATTR_RDONLY,
    fsconfig_create,
    fsconfig_set_string,
    fsmount,
    fsopen,
    move_mount,
    openat2,
    rename_exchange,
    rename_noreplace,
    syncfs,
    umount2,
)
from lading.storage.plan import Limits
from lading.storage.trees import measure_tree, remove_tree
from lading.storage.unpack import unpack

OPAQUE = "trusted.overlay.opaque"


def is_whiteout(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return OPAQUE in os.listxattr(path) and os.getxattr(path, OPAQUE) == b"y"


def test_every_kind_of_entry_arrives_with_its_metadata(place: Any, tar: Any) -> None:
    made = place.unpack(
        tar.d(b"./", 0o750, uid=1, gid=2),
        tar.d(b"./d/", 0o2775, uid=3, gid=4, mtime=100),
        tar.f(b"./d/f", b"hello", mode=0o4711, uid=2**32 - 2, gid=6, mtime=200),
        tar.s(b"./d/s", b"/nowhere", uid=7, gid=8, mtime=300),
        tar.lnk(b"./d/l", b"./d/f"),
        tar.header(b"./d/p", b"6", mode=0o622, uid=9, mtime=400),
        tar.header(b"./d/c", b"3", mode=0o666, major=1, minor=3),
        tar.header(b"./d/b", b"4", mode=0o660, major=8, minor=1048575),
    )
    assert (made.entries, made.opaque_root, made.compression) == (8, False, "none")
    shot = tar.snapshot(place.root)
    seen = {
        name: (oct(m), uid, gid, links, mtime // 10**9)
        for name, (m, uid, gid, links, _, _, mtime, *_) in shot.items()
    }
    then = 1_000_000_000
    assert seen == {
        b".": ("0o40750", 1, 2, 0, then),
        b"d": ("0o42775", 3, 4, 0, 100),
        b"d/f": ("0o104711", 2**32 - 2, 6, 2, 200),
        b"d/l": ("0o104711", 2**32 - 2, 6, 2, 200),
        b"d/s": ("0o120777", 7, 8, 1, 300),
        b"d/p": ("0o10622", 9, 0, 1, 400),
        b"d/c": ("0o20666", 0, 0, 1, then),
        b"d/b": ("0o60660", 0, 0, 1, then),
    }
    assert place.at("d/c").stat().st_rdev == os.makedev(1, 3)
    assert made.inodes == 7
    assert made.disk_bytes == int(subprocess.check_output(["du", "-s", "-B1", place.root]).split()[0])


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_modes_do_not_depend_on_the_umask(place: Any, tar: Any, umask: int) -> None:
    old = os.umask(umask)
    try:
        place.unpack(
            tar.f(b"i/f", mode=0o37777777777 & 0o7777777), tar.d(b"d", 0o1777), tar.header(b"p", b"6", mode=0o666)
        )
    finally:
        os.umask(old)
    modes = {name: stat.S_IMODE(place.at(name).stat().st_mode) for name in ("i", "i/f", "d", "p")}
    assert modes == {"i": 0o755, "i/f": 0o7777, "d": 0o1777, "p": 0o666}


def test_digests_and_sizes_cover_the_stream_to_its_last_byte(place: Any, tar: Any) -> None:
    plain = tar.f(b"f", b"x") + bytes(1024) + b"trailing junk"
    packed = gzip.compress(plain)
    made = unpack(io.BytesIO(packed), place.root)
    assert made.diff_id == f"sha256:{hashlib.sha256(plain).hexdigest()}"
    assert made.digest == f"sha256:{hashlib.sha256(packed).hexdigest()}"
    assert (made.size, made.compressed_size, made.compression) == (len(plain), len(packed), "gzip")
    place.refresh()
    again = unpack(io.BytesIO(plain), place.root)
    assert (again.diff_id, again.digest, again.size) == (made.diff_id, made.diff_id, len(plain))


@pytest.mark.parametrize("step", [1, 3, 100, 10_000])
def test_gzip_members_are_all_read_and_zeros_may_follow(place: Any, tar: Any, step: int) -> None:
    plain = tar.f(b"f", b"one") + tar.f(b"g", b"two" * 1000) + bytes(1024)
    packed = gzip.compress(plain[:700]) + gzip.compress(b"") + gzip.compress(plain[700:]) + bytes(300)
    made = unpack(tar.Chopped(packed, step), place.root)
    assert made.diff_id == f"sha256:{hashlib.sha256(plain).hexdigest()}"
    assert place.at("g").read_bytes() == b"two" * 1000


@pytest.mark.parametrize("junk", [b"junk", b"\0junk", b"\x1f", b"\x1fjunk", b"\0" + gzip.compress(b"")])
def test_anything_else_after_gzip_data_is_an_error(place: Any, tar: Any, junk: bytes) -> None:
    with pytest.raises(BadLayer):
        unpack(io.BytesIO(gzip.compress(tar.f(b"f") + bytes(1024)) + junk), place.root)


def test_gzip_data_cut_or_changed_anywhere_is_an_error(place: Any, tar: Any) -> None:
    packed = gzip.compress(tar.f(b"f", os.urandom(300)) + bytes(1024), mtime=0)
    for length in range(2, len(packed), 13):
        with pytest.raises(BadLayer):
            unpack(io.BytesIO(packed[:length]), place.root)
    for at in range(1, 9):
        broken = packed[:-at] + bytes([packed[-at] ^ 1]) + packed[len(packed) - at + 1 :]
        with pytest.raises(BadLayer):
            unpack(io.BytesIO(broken), place.root)


@pytest.mark.parametrize(
    ("magic", "name"),
    [
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh91AY&SY", "bzip2"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x50\x2a\x4d\x18", "zstd"),
        (b"\x04\x22\x4d\x18", "lz4"),
    ],
)
def test_other_formats_are_named_with_what_is_supported(place: Any, magic: bytes, name: str) -> None:
    with pytest.raises(ImageInvalid, match=rf"{name}.*gzip"):
        unpack(io.BytesIO(magic + bytes(1000)), place.root)


def test_an_empty_stream_is_an_empty_layer(place: Any) -> None:
    assert unpack(io.BytesIO(b""), place.root).entries == 0


def test_names_that_real_images_have(place: Any, tar: Any) -> None:
    place.unpack(
        tar.d(b"/"),
        tar.f(b"/abs/one", b"1"),
        tar.f(b"//two//./x", b"2"),
        tar.f(b"caf\xe9 \n\x1b", b"3"),
        tar.f(b"n" * 100 + b"", b"4"),
        tar.x((b"path", b"m" * 255)),
        tar.f(b"_", b"5"),
        tar.lnk(b"kaniko", b"/abs/one"),
        tar.lnk(b"dots", b"two/../abs/./one"),
        tar.g((b"comment", b"a commit")),
        tar.f(b"a\\b"),
        tar.f(b"..."),
        tar.f(b"..a"),
    )
    assert place.at("abs/one").stat().st_nlink == 3
    assert place.at("two/x").read_bytes() == b"2"
    assert b"caf\xe9 \n\x1b" in os.listdir(os.fsencode(place.root))
    assert place.at("m" * 255).read_bytes() == b"5"


def test_paths_through_symlinks_land_where_the_container_will_look(place: Any, tar: Any) -> None:
    place.unpack(
        tar.d(b"run"),
        tar.s(b"var/run", b"/run"),
        tar.f(b"var/run/x", b"1"),
        tar.s(b"var/lock", b"../run/lock"),
        tar.f(b"var/lock/y", b"2"),
        tar.s(b"up", b"../../../run"),
        tar.f(b"up/z", b"3"),
        tar.lnk(b"hard", b"var/run/x"),
        tar.d(b"var/run/made", mtime=77),
    )
    assert place.at("run/x").read_bytes() == b"1"
    assert place.at("run/lock/y").read_bytes() == b"2"
    assert place.at("run/z").read_bytes() == b"3"
    assert place.at("hard").stat().st_ino == place.at("run/x").stat().st_ino
    assert place.at("run/made").stat().st_mtime == 77
    assert os.readlink(place.at("var/run")) == "/run"


def test_implied_parents_have_fixed_metadata(place: Any, tar: Any) -> None:
    place.unpack(tar.f(b"a/b/c"), tar.f(b"a/d"))
    for name in ("a", "a/b"):
        found = place.at(name).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime) == (0o755, 0, 0, 0)


def test_directory_times_survive_what_is_put_in_them(place: Any, tar: Any) -> None:
    place.unpack(
        tar.d(b"d", mtime=5), tar.f(b"d/f"), tar.d(b"d/e", mtime=6), tar.f(b"d/e/f"), tar.d(b"d", 0o700, mtime=7)
    )
    assert (place.at("d").stat().st_mtime, place.at("d/e").stat().st_mtime) == (7, 6)
    assert stat.S_IMODE(place.at("d").stat().st_mode) == 0o700


def test_more_directories_than_are_kept_open(place: Any, tar: Any) -> None:
    place.unpack(
        *(tar.d(b"d%d" % i, mtime=i) for i in range(100)), *(tar.f(b"d%d/f" % (i % 100)) for i in range(300))
    )
    assert all(place.at(f"d{i}").stat().st_mtime == i and place.at(f"d{i}/f").exists() for i in range(100))
    assert len(os.listdir("/proc/self/fd")) < 60


def test_a_root_that_forbids_everything_is_no_obstacle(place: Any, tar: Any) -> None:
    place.unpack(tar.d(b"./", 0), tar.d(b"d", 0), tar.f(b"d/f", b"x"))
    assert stat.S_IMODE(place.root.stat().st_mode) == 0
    assert place.at("d/f").read_bytes() == b"x"


def test_whiteouts_become_overlayfs_ones(place: Any, tar: Any) -> None:
    made = place.unpack(
        tar.d(b"d"), tar.f(b"d/.wh.gone"), tar.f(b"implied/.wh.gone"), tar.f(b"d/.wh...."), tar.d(b".wh.dir")
    )
    assert is_whiteout(place.at("d/gone"))
    assert is_whiteout(place.at("implied/gone"))
    assert is_whiteout(place.at("d/..."))
    assert is_whiteout(place.at("dir"))
    assert not made.opaque_root


@pytest.mark.parametrize("order", [1, -1])
def test_whiteouts_spare_this_layers_own_entries_in_any_order(place: Any, tar: Any, order: int) -> None:
    for own in (tar.f(b"a", b"x"), tar.s(b"a", b"t"), tar.header(b"a", b"6")):
        place.unpack(*[own, tar.f(b".wh.a")][::order])
        assert not is_whiteout(place.at("a"))
        place.refresh()


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [1, 2, 0]])
def test_a_directory_that_replaces_a_lower_one_is_opaque(place: Any, tar: Any, order: list[int]) -> None:
    pieces = [tar.f(b".wh.d"), tar.d(b"d", 0o711), tar.f(b"d/new", b"n")]
    place.unpack(*(pieces[i] for i in order))
    assert is_opaque(place.at("d"))
    assert place.at("d/new").read_bytes() == b"n"
    assert stat.S_IMODE(place.at("d").stat().st_mode) == 0o711


def test_an_implied_directory_over_a_whiteout_is_opaque(place: Any, tar: Any) -> None:
    place.unpack(tar.f(b".wh.d"), tar.f(b"d/e/f"))
    assert is_opaque(place.at("d"))
    assert not is_opaque(place.at("d/e"))


@pytest.mark.parametrize("order", [1, -1])
def test_opaque_directories(place: Any, tar: Any, order: int) -> None:
    made = place.unpack(*[tar.f(b"d/.wh..wh..opq"), tar.f(b"d/f", b"x")][::order])
    assert is_opaque(place.at("d"))
    assert place.at("d/f").read_bytes() == b"x"
    assert not made.opaque_root
    assert os.listdir(place.at("d")) == ["f"]


@pytest.mark.parametrize("name", [b".wh..wh..opq", b"./.wh..wh..opq", b"/.wh..wh..opq"])
def test_an_opaque_root_is_reported(place: Any, tar: Any, name: bytes) -> None:
    assert place.unpack(tar.f(b"f"), tar.f(name)).opaque_root
    assert os.listxattr(place.root) == []


@pytest.mark.real
def test_the_kernel_hides_what_the_layer_says(place: Any, tar: Any, tmp_path: Path) -> None:
    lower, merged = tmp_path / "lower", tmp_path / "merged"
    for path in (lower / "d" / "sub", lower / "whole" / "sub", lower / "kept", merged):
        path.mkdir(parents=True)
    for name in ("gone", "stays", "d/old", "whole/old", "kept/gone", "kept/stays"):
        (lower / name).write_bytes(b"lower")
    place.unpack(
        *(
            tar.f(name)
            for name in (b".wh.gone", b"d/new", b".wh.d", b"whole/.wh..wh..opq", b"kept/.wh.gone", b"whole/n")
        )
    )
    config = fsopen(b"overlay")
    fsconfig_set_string(config, b"lowerdir", os.fsencode(f"{place.root}:{lower}"))
    fsconfig_create(config)
    mounted = fsmount(config, MOUNT_ATTR_RDONLY)
    move_mount(mounted, os.fsencode(merged))
    os.close(config)
    os.close(mounted)
    try:
        seen = {
            os.path.relpath(os.path.join(at, name), merged) for at, _, names in os.walk(merged) for name in names
        }
    finally:
        umount2(os.fsencode(merged), MNT_DETACH)
    assert seen == {"stays", "d/new", "whole/n", "kept/stays"}


def test_aufs_bookkeeping_and_sockets_are_left_out(place: Any, tar: Any) -> None:
    made = place.unpack(
        tar.d(b".wh..wh.plnk"),
        tar.f(b".wh..wh.plnk/1.2", b"x"),
        tar.f(b"a/.wh..wh.aufs"),
        tar.header(b"sock", b"s"),
    )
    assert os.listdir(place.root) == []
    assert made.entries == 4


CAPABILITY = bytes.fromhex("0000000200200000000000000000000000000000")


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
    ],
)
def test_limits_are_kept(place: Any, tar: Any, limits: Limits, why: str) -> None:
    with pytest.raises(BadLayer, match=why):
        place.unpack(*(tar.f(b"d/e/file%d" % i, b"x" * 500) for i in range(4)), limits=limits)


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
