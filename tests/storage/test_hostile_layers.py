"""Hostile layers: nothing outside the layer's directory is created, changed, read or touched.

Each class has its twin: what honest images contain and what looks much the same has to work. The ``place``
fixture compares the victims (content, mode, owner, times, link count) after every test.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from lading.events.errors import ImageInvalid

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
