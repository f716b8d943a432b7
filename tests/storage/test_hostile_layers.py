"""Hostile layers: nothing outside the layer's directory is created, changed, read or touched.

Each class has its twin: what honest images contain and what looks much the same has to work. The ``place``
fixture compares the victims (content, mode, owner, times, link count) after every test.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import time
import tracemalloc
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lading.events.errors import BadLayer, HostError, ImageInvalid
from lading.storage.plan import Limits, Metadata, Node, NodeKind, plan
from lading.storage.tar import Entry, EntryType, TarReader
from lading.storage.unpack import unpack

UP = b"../" * 12


def attempt(place: Any, *pieces: bytes, **kw: Any) -> bool:
    """Unpack; True when it was accepted. Either way the victims are checked at once."""
    try:
        place.unpack(*pieces, **kw)
    except ImageInvalid:
        return False
    finally:
        place.check()
    return True


def refused(place: Any, *pieces: bytes, **kw: Any) -> None:
    assert not attempt(place, *pieces, **kw)


def victim(place: Any, name: bytes = b"") -> bytes:
    path = os.fsencode(place.victim)
    return path + b"/" + name if name else path


@pytest.mark.parametrize(
    "name", [b"../pwned", UP + b"tmp/x", b"a/../../pwned", b"/../x", b"..", b"a/..", b"../victim/file", b"a/../b"]
)
@pytest.mark.parametrize("flag", [b"0", b"1", b"2", b"3", b"5", b"6"])
def test_a1_dot_dot_in_a_name_is_refused(place: Any, tar: Any, name: bytes, flag: bytes) -> None:
    refused(place, tar.f(b"t"), tar.header(name, flag, link=b"t", major=1))


def test_a1_names_with_dots_are_just_names(place: Any, tar: Any) -> None:
    assert attempt(place, tar.f(b"..."), tar.f(b"a/..b/c.."), tar.f(b"./d/."))
    assert sorted(os.listdir(place.root)) == ["...", "a", "d"]


def test_a2_absolute_names_are_beneath_the_root(place: Any, tar: Any) -> None:
    path = victim(place, b"file")
    assert attempt(place, tar.d(b"/"), tar.f(path, b"mine"), tar.f(b"//etc//passwd", b"mine"))
    assert Path(os.fsdecode(os.fsencode(place.root) + path)).read_bytes() == b"mine"
    assert place.at("etc/passwd").read_bytes() == b"mine"


def test_a3_writing_through_symlinks(place: Any, tar: Any) -> None:
    out = victim(place)
    file = victim(place, b"file")
    relative = UP + out[1:]
    cases = [
        [tar.s(b"l", out), tar.f(b"l/f", b"x")],
        [tar.s(b"l", out), tar.f(b"l/file", b"x")],
        [tar.s(b"l", relative), tar.f(b"l/file", b"x")],
        [tar.s(b"up", b".."), tar.s(b"up/esc", b"../victim"), tar.f(b"esc/f", b"x")],
        [tar.s(b"up", b".."), tar.s(b"esc", b"up/victim"), tar.f(b"esc/file", b"x")],
        [tar.s(b"x", file), tar.f(b"x", b"mine", mode=0o777)],
        [tar.s(b"x", relative + b"/file"), tar.f(b"x", b"mine")],
        [tar.s(b"d", out), tar.d(b"d", 0o777, uid=5)],
        [tar.s(b"l/", out), tar.f(b"l/f")],
        [tar.s(b"a", b"b"), tar.s(b"b", out), tar.s(b"c", b"a"), tar.f(b"c/f")],
        [tar.s(b"l", b"/proc/self/root" + out), tar.f(b"l/f")],
        [tar.s(b"l", b"/proc/self/cwd"), tar.d(b"l/d")],
        [
            tar.s(b"l", out),
            tar.header(b"l/n", b"6"),
            tar.d(b"l/d"),
            tar.s(b"l/s", b"t"),
            tar.header(b"l/c", b"3", major=1),
        ],
        [tar.s(b"l", out), tar.x((b"SCHILY.xattr.user.k", b"v")), tar.d(b"l/sub", 0o777)],
        [tar.s(b"l", out), tar.x((b"SCHILY.xattr.user.k", b"v")), tar.d(b"l", 0o777)],
        [tar.s(b"l", b"."), *(tar.s(b"l%d" % i, b"l/l%d/.." % (i - 1)) for i in range(1, 5)), tar.f(b"l4/../f")],
    ]
    for pieces in cases:
        attempt(place, *pieces)
        place.refresh()


def test_a3_a_link_is_replaced_and_its_target_is_not(place: Any, tar: Any) -> None:
    assert attempt(place, tar.s(b"x", victim(place, b"file")), tar.f(b"x", b"mine", mode=0o604))
    found = place.at("x").lstat()
    assert (stat.S_ISREG(found.st_mode), stat.S_IMODE(found.st_mode)) == (True, 0o604)
    assert attempt(place, tar.s(b"d", victim(place)), tar.d(b"d", 0o700), tar.f(b"d/f"))
    assert os.listdir(place.at("d")) == ["f"]


def test_a3_links_that_never_end_are_refused(place: Any, tar: Any) -> None:
    refused(place, tar.s(b"a", b"b"), tar.s(b"b", b"a"), tar.f(b"a/f"))
    refused(place, tar.s(b"r", b"r"), tar.d(b"r/d/e"))
    refused(place, *(tar.s(b"l%d" % i, b"l%d/x" % (i + 1)) for i in range(60)), tar.f(b"l0/f"))


def test_a4_links_to_the_root(place: Any, tar: Any) -> None:
    made = place.unpack(tar.s(b"l", b"/"), tar.f(b"l/tmp/x", b"1"), tar.f(b"l/.wh.y"), tar.f(b"l/.wh..wh..opq"))
    assert place.at("tmp/x").read_bytes() == b"1"
    assert stat.S_ISCHR(place.at("y").lstat().st_mode)
    assert made.opaque_root


@pytest.mark.parametrize("name", [b".", b"./", b"/.", b"/", b"", b"//", b"./."])
@pytest.mark.parametrize("flag", [b"1", b"2", b"3", b"6"])
def test_a5_the_root_is_not_replaced(place: Any, tar: Any, name: bytes, flag: bytes) -> None:
    refused(place, tar.header(name, flag, link=victim(place), major=1))
    refused(place, tar.f(name, b"data"))
    assert stat.S_ISDIR(place.root.lstat().st_mode)


@pytest.mark.parametrize("name", [b".", b"./", b"/", b""])
def test_a5_a_root_directory_entry_is_common(place: Any, tar: Any, name: bytes) -> None:
    assert attempt(place, tar.d(name, 0), tar.f(b"f"), tar.d(b"d"), tar.f(b"d/f"), tar.d(name, 0o711))
    assert stat.S_IMODE(place.root.stat().st_mode) == 0o711


def test_a6_hard_links_stay_inside(place: Any, tar: Any) -> None:
    out, file = victim(place), victim(place, b"file")
    cases = [
        [tar.lnk(b"h", file)],
        [tar.lnk(b"h", b"../../victim/file")],
        [tar.lnk(b"h", b"/../victim/file")],
        [tar.lnk(b"h", b"a/../../victim/file")],
        [tar.lnk(b"a/b/h", b"../victim/file")],
        [tar.lnk(b"h", UP + file[1:]), tar.f(b"h", b"x")],
        [tar.s(b"d", out), tar.lnk(b"h", b"d/file")],
        [tar.s(b"d", UP + out[1:]), tar.lnk(b"h", b"d/file"), tar.f(b"h", b"x")],
        [tar.s(b"up", b".."), tar.lnk(b"h", b"up/victim/file")],
        [tar.lnk(b"h", b"")],
        [tar.lnk(b"h", b"/")],
        [tar.lnk(b"h", b"h")],
        [tar.d(b"d"), tar.lnk(b"h", b"d")],
        [tar.f(b".wh.w"), tar.lnk(b"h", b"w")],
        [tar.d(b"d"), tar.f(b"d/f"), tar.lnk(b"d", b"d/f")],
        [tar.long(b"a\0b", b"K"), tar.lnk(b"h", b"x")],
        [tar.x((b"linkpath", file)), tar.lnk(b"h", b"x")],
    ]
    for pieces in cases:
        refused(place, *pieces)
        place.refresh()


def test_a6_a_link_to_a_symlink_is_to_the_symlink(place: Any, tar: Any) -> None:
    file = victim(place, b"file")
    assert attempt(
        place, tar.s(b"l", file), tar.lnk(b"h", b"l", mode=0o777, uid=5), tar.lnk(b"g", b"l"), tar.f(b"g", b"x")
    )
    assert place.at("h").lstat().st_ino == place.at("l").lstat().st_ino
    assert place.at("g").read_bytes() == b"x"


def test_a6_honest_hard_links_work(place: Any, tar: Any) -> None:
    assert attempt(
        place,
        tar.f(b"usr/bin/a", b"x", mode=0o755),
        tar.lnk(b"abs", b"/usr/bin/a", mode=0o4777, uid=9),
        tar.s(b"bin", b"/usr/bin"),
        tar.lnk(b"through", b"bin/a"),
        tar.lnk(b"dots", b"usr/lib/../bin/a"),
        tar.lnk(b"dots", b"usr/bin/a"),
        tar.lnk(b"usr/bin/a", b"./usr/bin/a"),
    )
    found = place.at("usr/bin/a").stat()
    assert (found.st_nlink, stat.S_IMODE(found.st_mode), found.st_uid) == (4, 0o755, 0)


@pytest.mark.parametrize(
    "name",
    [
        b".wh.",
        b".wh..",
        b".wh...",
        b"etc/.wh.",
        b"etc/.wh..",
        b"etc/.wh...",
        b"a/../.wh.b",
        b".wh.a/b",
        b"./.wh...",
    ],
)
@pytest.mark.parametrize("flag", [b"0", b"5"])
def test_a7_whiteouts_of_nothing_are_refused(place: Any, tar: Any, name: bytes, flag: bytes) -> None:
    refused(place, tar.d(b"etc"), tar.f(b"etc/kept"), tar.header(name, flag))
    assert place.at("etc/kept").exists()


def test_a8_whiteouts_through_links_act_inside(place: Any, tar: Any) -> None:
    out = victim(place)
    inside = os.fsdecode(os.fsencode(place.root) + out)
    assert attempt(place, tar.s(b"l", out), tar.f(b"l/.wh.file"), tar.f(b"l/.wh..wh..opq"))
    assert stat.S_ISCHR(os.lstat(inside + "/file").st_mode)
    assert os.getxattr(inside, "trusted.overlay.opaque") == b"y"
    for text in (UP + out[1:], b"/nonexist", b"../victim", b"/proc/self/root" + out):
        place.refresh()
        attempt(place, tar.s(b"l", text), tar.f(b"l/.wh.file"), tar.f(b"l/.wh..wh..opq"), tar.f(b".wh.l"))


@pytest.mark.parametrize("flag", [b"0", b"1", b"2", b"3", b"5", b"6"])
def test_a9_a_whiteout_is_one_whatever_its_type(place: Any, tar: Any, flag: bytes) -> None:
    assert attempt(place, tar.header(b".wh.x", flag, link=victim(place, b"file")))
    assert stat.S_ISCHR(place.at("x").lstat().st_mode)
    assert place.at("x").lstat().st_rdev == 0


def test_a10_an_image_does_not_speak_to_overlayfs(place: Any, tar: Any) -> None:
    refused(place, tar.header(b"x", b"3", major=0, minor=0))
    for name in ("opaque", "redirect", "metacopy", "origin", "whiteout", "upper", "overlay.opaque"):
        for space in ("trusted", "user"):
            pax = tar.x((f"SCHILY.xattr.{space}.overlay.{name}".encode(), b"y"))
            assert attempt(place, pax, tar.d(b"d"), pax, tar.f(b"d/f"), pax, tar.d(b"./"))
            assert [os.listxattr(place.at(at)) for at in (".", "d", "d/f")] == [[], [], []]
    assert attempt(place, tar.header(b"null", b"3", major=1, minor=3), tar.header(b"b", b"4"))


@pytest.mark.parametrize(("major", "minor"), [(2**33, 0), (4096, 0), (1, 2**20), (-1, 0), (1, -1), (2**55, 2**55)])
@pytest.mark.parametrize("flag", [b"3", b"4"])
def test_a11_device_numbers_past_linux_are_refused(
    place: Any, tar: Any, major: int, minor: int, flag: bytes
) -> None:
    refused(place, tar.header(b"n", flag, major=major, minor=minor))


def test_a11_devices_fifos_and_sockets(place: Any, tar: Any) -> None:
    assert attempt(
        place,
        tar.header(b"mem", b"3", major=1, minor=1, mode=0o666),
        tar.header(b"sda", b"4", major=8),
        tar.header(b"p", b"6"),
        tar.header(b"s", b"s"),
        tar.header(b"p", b"6"),
        tar.f(b"p", b"no one waits for a reader"),
    )
    assert sorted(os.listdir(place.root)) == ["mem", "p", "sda"]


@pytest.mark.parametrize(
    ("uid", "gid"), [(2**32 - 1, 0), (2**32, 0), (-1, 0), (0, -1), (0, 2**32 - 1), (2**55, 0)]
)
def test_a12_owners_past_linux_are_refused(place: Any, tar: Any, uid: int, gid: int) -> None:
    for flag in (b"0", b"2", b"3", b"5", b"6"):
        refused(place, tar.header(b"n", flag, uid=uid, gid=gid, link=b"t", major=1))
    if uid >= 0 <= gid:
        refused(place, tar.x((b"uid", b"%d" % uid), (b"gid", b"%d" % gid)), tar.f(b"n"))


def test_a12_owners_are_numbers_whatever_their_names(place: Any, tar: Any) -> None:
    pax = tar.x((b"uname", b"root"), (b"gname", b"root"))
    assert attempt(place, pax, tar.f(b"f", uid=1000, gid=1001, raw={265: b"root", 297: b"root"}, mode=0o17777))
    found = place.at("f").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1000, 1001, 0o7777)


def test_a13_names_from_extended_headers_obey_the_same_rules(place: Any, tar: Any) -> None:
    sparse = (b"GNU.sparse.size", b"0"), (b"GNU.sparse.map", b"0,0")
    for pieces in (
        [tar.x((b"path", b"../../x")), tar.f(b"safe")],
        [tar.x((b"path", b"a\0b")), tar.f(b"safe")],
        [tar.x((b"GNU.sparse.name", b"../../x"), *sparse), tar.f(b"safe")],
        [tar.long(b"../../x"), tar.f(b"safe")],
        [tar.header(b"x", prefix=b"../..")],
        [tar.x((b"linkpath", b"../../victim/file")), tar.lnk(b"h", b"safe")],
    ):
        refused(place, tar.f(b"safe"), *pieces)
    assert attempt(place, tar.g((b"path", b"../x"), (b"size", b"99")), tar.x((b"path", b"")), tar.f(b"fine", b"x"))
    assert place.at("fine").read_bytes() == b"x"


def test_a14_sizes_do_not_smuggle_entries(place: Any, tar: Any) -> None:
    smuggled = tar.f(b"smuggled", b"x")
    assert attempt(place, tar.x((b"size", b"1024")), tar.header(b"f") + smuggled, tar.f(b"after"))
    assert sorted(os.listdir(place.root)) == ["after", "f"]
    for size in (b"-512", b"abc", b"9" * 30):
        started = time.monotonic()
        refused(place, tar.x((b"size", size)), tar.f(b"f"))
        assert time.monotonic() - started < 1
    refused(place, tar.header(b"f", size=-512), smuggled)
    assert attempt(
        place, tar.header(b"d/", b"5", size=512), tar.lnk(b"l", b"f", size=512), tar.s(b"s", b"t", size=512)
    )


def test_a15_sparse_files_count_with_their_holes(place: Any, tar: Any) -> None:
    raw = {386: tar.number(0, 12) + tar.number(3, 12), 483: tar.number(2**60, 12)}
    refused(place, tar.header(b"f", b"S", size=3, magic=b"ustar  \0", raw=raw) + tar.pad(b"abc"))
    pax = tar.x((b"GNU.sparse.size", b"%d" % 2**30), (b"GNU.sparse.map", b"0,0"))
    assert attempt(place, pax, tar.f(b"f"), limits=Limits(file_bytes=2**30))
    refused(place, pax, tar.f(b"f"), pax, tar.f(b"f"), limits=Limits(file_bytes=2**30))


@pytest.mark.slow
def test_a16_bombs_are_cut_short_in_bounded_memory(place: Any, tar: Any) -> None:
    bomb = gzip.compress(tar.header(b"big", size=2**26) + bytes(2**26), 1)
    zeros = gzip.compress(bytes(2**24))
    tracemalloc.start()
    try:
        with pytest.raises(BadLayer, match="limit"):
            unpack(io.BytesIO(bomb), place.root, limits=Limits(file_bytes=2**20))
        with pytest.raises(BadLayer, match="limit"):
            unpack(io.BytesIO(bomb), place.root, limits=Limits(stream_bytes=2**20))
        with pytest.raises(BadLayer, match="limit"):
            unpack(io.BytesIO(zeros), place.root, limits=Limits(stream_bytes=2**20))
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
    refused(place, tar.header(b"x", b"L", size=2**30))
    refused(place, *(tar.f(b"a/b/c/%d/x" % i) for i in range(60)), limits=Limits(entries=100))


def test_a17_the_last_of_several_wins(place: Any, tar: Any) -> None:
    out = victim(place)
    cases: list[tuple[list[bytes], bool]] = [
        ([tar.f(b"a"), tar.s(b"a", out), tar.f(b"a/x", b"1")], True),
        ([tar.d(b"d"), tar.f(b"d/f"), tar.s(b"d", b".."), tar.f(b"d/x", b"1")], True),
        ([tar.d(b"d"), tar.f(b"d/f"), tar.s(b"d", out), tar.f(b"d/file", b"1")], True),
        ([tar.d(b"a/b/c"), tar.f(b"a/b/c/f"), tar.s(b"a", out), tar.f(b"a/b/c/f", b"1"), tar.f(b"a/file")], True),
        ([tar.s(b"l", b"d"), tar.f(b"l/a"), tar.s(b"l", out), tar.f(b"l/file", b"1")], True),
        ([tar.s(b"l", b"d"), tar.d(b"d"), tar.f(b"l/a"), tar.s(b"d", out), tar.f(b"l/file", b"1")], True),
        ([tar.f(b"a"), tar.f(b"a/b")], False),
        ([tar.header(b"p", b"6"), tar.d(b"p/d")], False),
        ([tar.f(b"a"), tar.d(b"a"), tar.f(b"a/b"), tar.f(b"a", b"1"), tar.lnk(b"a", b"a")], True),
    ]
    for pieces, fine in cases:
        assert attempt(place, *pieces) is fine
        place.refresh()


def test_a17_times_do_not_follow_a_directory_that_was_replaced(place: Any, tar: Any) -> None:
    assert attempt(
        place,
        tar.d(b"other", mtime=5),
        tar.d(b"d", mtime=1),
        tar.d(b"d/e", mtime=2),
        tar.s(b"d", b"other"),
        tar.d(b"d/e", mtime=9),
    )
    assert (place.at("other").stat().st_mtime, place.at("other/e").stat().st_mtime) == (5, 9)
    place.refresh()
    assert attempt(place, tar.d(b"d", mtime=1), tar.s(b"d", victim(place)))


def test_a18_hostile_names(place: Any, tar: Any) -> None:
    refused(place, tar.x((b"path", b"n" * 256)), tar.f(b"_"))
    refused(place, tar.x((b"path", b"a/" * 2500 + b"f")), tar.f(b"_"))
    refused(place, tar.x((b"linkpath", b"n" * 4096)), tar.s(b"l", b"_"))
    refused(place, tar.x((b"linkpath", b"n" * 256)), tar.lnk(b"l", b"_"))
    refused(place, tar.x((b"linkpath", b"n/" * 3000)), tar.lnk(b"l", b"_"))
    refused(place, tar.s(b"l", b""))
    refused(place, tar.f(b""))


@pytest.mark.slow
def test_a18_deep_trees_can_be_made_and_removed(place: Any, tar: Any) -> None:
    deep = b"d/" * 1500
    assert attempt(place, tar.x((b"path", deep)), tar.d(b"_"))
    # Deeper than PATH_MAX, through a symlink: made or refused, it has to be removable.
    attempt(
        place,
        tar.x((b"path", deep)),
        tar.d(b"_"),
        tar.x((b"linkpath", deep)),
        tar.s(b"l", b"_"),
        tar.x((b"path", b"l/" + deep + b"f")),
        tar.f(b"_", b"x"),
    )
    place.refresh()
    assert os.listdir(place.root) == []


@pytest.mark.parametrize("stamp", [-1, -(2**31) - 1, 2**33, 2**63, 2**64, -(2**62)])
def test_a19_times_of_any_size_are_stored_or_clamped(place: Any, tar: Any, stamp: int) -> None:
    for flag in (b"0", b"2", b"5", b"6"):
        assert attempt(place, tar.header(b"n", flag, link=b"t", mtime=stamp))
        if stamp in (-1, 2**33):
            assert place.at("n").lstat().st_mtime == stamp
        place.refresh()
    for text in (b"%d" % stamp, b"%d.999999999999" % stamp, b"9" * 400):
        assert attempt(place, tar.x((b"mtime", text)), tar.f(b"n"))
    for text in (b"nan", b"inf", b"1e300"):
        refused(place, tar.x((b"mtime", text)), tar.f(b"n"))


def test_a20_truncation_and_trailing_bytes(place: Any, tar: Any) -> None:
    good = tar.f(b"f", b"x" * 600)
    assert attempt(place, good, end=b"")
    assert attempt(place, good, end=bytes(1024) + tar.f(b"ignored") + b"junk")
    assert os.listdir(place.root) == ["f"]
    for broken in (good[:700], good[:300], good + bytes(512) + good, good + b"junk", tar.header(b"z", b"Z")):
        refused(place, broken, end=b"")
    refused(place, good, tar.header(b"late", checksum=5), good)


def test_a21_a_name_like_a_magic_number_is_still_a_tar(place: Any, tar: Any) -> None:
    assert attempt(place, tar.f(b"BZhang"), tar.f(b"7z"))
    assert sorted(os.listdir(place.root)) == ["7z", "BZhang"]


def test_what_was_refused_leaves_only_what_can_be_removed(place: Any, tar: Any) -> None:
    refused(place, tar.d(b"d", 0), tar.f(b"d/f", mode=0), tar.s(b"d/l", victim(place)), tar.f(b"../x"))
    place.refresh()
    assert os.listdir(place.root) == []


def test_errors_name_the_entry_and_can_be_printed(place: Any, tar: Any) -> None:
    with pytest.raises(BadLayer) as caught:
        place.unpack(tar.f(b"\xff\n\x1b[31m/../x"))
    assert caught.value.entry == b"\xff\n\x1b[31m/../x"
    assert str(caught.value).isprintable()
    place.at("\udcff\n").mkdir()
    with pytest.raises(HostError) as host:
        unpack(io.BytesIO(b""), place.root / "\udcff\n" / "missing")
    assert str(host.value).isprintable()


def test_a_plan_is_pure(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry(b"/a//b", EntryType.CHAR, b"", 0o17777, 1, 2, 3, 0, 1, 5, {b"user.x": b""}, None)
    with monkeypatch.context() as patch:
        for name in ("open", "lstat", "stat", "mknod", "readlink"):
            patch.setattr(os, name, None)
        assert plan(entry) == Node(b"a", b"b", NodeKind.CHAR, 1, 5, Metadata(0o7777, 1, 2, 3, {}))
        with pytest.raises(BadLayer):
            plan(attrs.evolve(entry, name=b"../x"))


# fuzzing: honest and hostile pieces in any order, then bytes changed

NAMES = st.sampled_from(
    b"a|b|a/b|a/b/c|l|l/a|l/l|./a|/b/|.|..|a/..|../victim/file|.wh.a|a/.wh.b|.wh..wh..opq|a/.wh..wh..opq|"
    b"l/.wh.file|l/file|l/sub/x||.wh..".split(b"|")
)
TEXTS = st.sampled_from(
    [b"a", b"..", b"../victim", b"/", b"a/b", b"l", b".", b"../../../..", b"b/c", b"@", b"@/file", b"@/sub"]
)
FLAGS = st.sampled_from([b"0", b"1", b"2", b"2", b"3", b"5", b"5", b"6", b"s", b"\0"])


@pytest.mark.slow
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_mixture_of_entries_stays_inside(place: Any, tar: Any, data: st.DataObject) -> None:
    place.refresh()
    pieces = []
    for _ in range(data.draw(st.integers(1, 12))):
        flag = data.draw(FLAGS)
        text = data.draw(TEXTS).replace(b"@", victim(place))
        body = b"payload" if flag == b"0" else b""
        pieces.append(
            tar.f(
                data.draw(NAMES),
                body,
                flag=flag,
                link=text,
                mode=data.draw(st.sampled_from([0o644, 0, 0o6777])),
                major=1,
            )
        )
    attempt(place, *pieces)


@pytest.mark.slow
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 8000), st.binary(min_size=1, max_size=12)), max_size=6),
    st.integers(0, 9000),
    st.booleans(),
)
def test_changed_bytes_never_do_worse_than_an_error(
    place: Any, tar: Any, changes: list[tuple[int, bytes]], cut: int, packed: bool
) -> None:
    place.refresh()
    whole = bytearray(
        tar.d(b"./")
        + tar.x((b"path", b"long"), (b"size", b"3"), (b"SCHILY.xattr.user.a", b"b"))
        + tar.f(b"_", b"abc", size=0)
        + tar.s(b"l", victim(place))
        + tar.lnk(b"h", b"long")
        + tar.long(b"n" * 120)
        + tar.f(b"_", b"z" * 600)
        + tar.x((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9"))
        + tar.f(b"sp", tar.pad(b"1\n0\n3\n") + b"abc")
        + tar.f(b"d/.wh.x")
        + tar.END
    )
    if packed:
        whole = bytearray(gzip.compress(bytes(whole), mtime=0))
    for at, value in changes:
        at %= len(whole)
        whole[at : at + len(value)] = value
        if not packed:
            _repair(whole, at)
    with contextlib.suppress(ImageInvalid, HostError):
        unpack(
            io.BytesIO(bytes(whole[:cut] if cut < len(whole) else whole)),
            place.root,
            limits=Limits(file_bytes=2**24),
        )
    place.check()


def _repair(archive: bytearray, at: int) -> None:
    """Make the checksum of the changed block right, so that the change gets past it."""
    start = at - at % 512
    if archive[start + 257 : start + 262] == b"ustar":
        archive[start + 148 : start + 156] = b" " * 8
        archive[start + 148 : start + 156] = b"%06o\0 " % sum(archive[start : start + 512])


def test_a_reader_never_loops_on_empty_extended_headers(tar: Any) -> None:
    assert list(TarReader(io.BytesIO(tar.raw_x(b"", b"g") * 1000))) == []
