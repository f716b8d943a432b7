"""What an honest layer becomes on disk: all of it, exactly, whatever dialect it was written in."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lading.events.errors import BadLayer, ImageInvalid
from lading.storage.linux import (
    MNT_DETACH,
    MOUNT_ATTR_RDONLY,
    fsconfig_create,
    fsconfig_set_string,
    fsmount,
    fsopen,
    move_mount,
    umount2,
)
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
