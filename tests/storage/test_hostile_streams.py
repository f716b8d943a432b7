"""Hostile streams: sizes, bombs, framing, and bytes at random; nothing outside the layer is touched."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import time
import tracemalloc
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
