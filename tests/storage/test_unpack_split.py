"""What a split is told while a layer is unpacked makes the archive again, whatever the archive."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lading.events.errors import ImageInvalid
from lading.storage.plan import Limits
from lading.storage.settle import settle
from lading.storage.tar import Regions
from lading.storage.trees import remove_tree
from lading.storage.unpack import unpack

END = bytes(1024)


class Recorder:
    """Keeps what it is told; files by where they are now."""

    def __init__(self, root: Path, spill: Path) -> None:
        self.events: list[bytes | tuple[Path, bytes, Regions | None, int]] = []
        self.spilled = 0
        self._root = root
        self._spill = spill

    def raw(self, data: bytes | memoryview) -> None:
        self.events.append(bytes(data))

    def file(self, path: bytes, regions: Regions | None, size: int) -> None:
        self.events.append((self._root, path, regions, size))

    def spill(self, path: bytes, parent: int, name: bytes) -> None:
        self.spilled += 1
        os.rename(name, os.fsencode(self._spill) + b"/%d" % self.spilled, src_dir_fd=parent)
        self._put(path, self._spill, b"%d" % self.spilled)

    def moved(self, path: bytes, to: bytes) -> None:
        self._put(path, self._root, to)

    def _put(self, path: bytes, base: Path, to: bytes) -> None:
        for at, event in enumerate(self.events):
            if isinstance(event, tuple) and event[0] == self._root and (event[1] + b"/").startswith(path + b"/"):
                self.events[at] = base, to + event[1][len(path) :], *event[2:]

    def archive(self) -> bytes:
        """The stream, made of the events and the files."""
        out = []
        for event in self.events:
            if isinstance(event, bytes):
                out.append(event)
                continue
            base, path, regions, size = event
            where = os.fsencode(base) + b"/" + path
            assert os.path.realpath(where) == where, "a symlink leads through it"
            content = Path(os.fsdecode(where)).read_bytes()
            assert len(content) == size
            pieces = ((0, size),) if regions is None else regions
            out += [content[offset : offset + length] for offset, length in pieces]
        return b"".join(out)


@pytest.fixture
def spill(tmp_path: Path) -> Path:
    path = tmp_path / "spill"
    path.mkdir()
    return path


def check(place: Any, spill: Path, *pieces: bytes, end: bytes = END) -> Recorder:
    data = b"".join(pieces) + end
    recorder = Recorder(place.root, spill)
    unpack(io.BytesIO(data), place.root, split=recorder)
    assert recorder.archive() == data
    return recorder


def test_files_are_told_by_their_real_paths(place: Any, spill: Path, tar: Any) -> None:
    recorder = check(
        place,
        spill,
        tar.d(b"usr/bin"),
        tar.s(b"bin", b"/usr/bin"),
        tar.s(b"usr/up", b"../bin/../.."),
        tar.f(b"bin/f", b"1" * 700),
        tar.f(b"usr/up/g", b"2"),
        tar.f(b"./usr//bin/h", b"3"),
        tar.f(b"implied/f", b"4"),
        tar.f(b"empty"),
        tar.lnk(b"link", b"bin/f"),
    )
    names = [event[1] for event in recorder.events if isinstance(event, tuple)]
    assert names == [b"usr/bin/f", b"g", b"usr/bin/h", b"implied/f"]


def test_everything_that_is_no_file_data_is_raw(place: Any, spill: Path, tar: Any) -> None:
    pieces = (
        tar.x((b"path", b"long/" + b"n" * 200)),
        tar.f(b"_", b"x" * 600),
        tar.g((b"comment", b"hello")),
        tar.f(b"d/.wh.gone", b"data of a whiteout"),
        tar.f(b".wh..wh.plnk/1", b"data of aufs"),
        tar.long(b"l" * 200),
        tar.f(b"_", b"y"),
        tar.header(b"sock", b"s"),
        tar.f(b"last", b"z" * 512),
    )
    check(place, spill, *pieces, end=END + b"trailing" * 1000)
    place.refresh()
    check(place, spill, *pieces, end=b"")
    place.refresh()
    check(place, spill, tar.f(b"a", b"b")[: 512 + 1], end=b"")  # a last entry without its padding


def test_sparse_files_are_told_by_their_regions(place: Any, spill: Path, tar: Any) -> None:
    pax = (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"100000")
    old = {
        386: tar.number(0, 12) + tar.number(3, 12) + tar.number(5000, 12) + tar.number(2, 12),
        483: tar.number(9000, 12),
    }
    check(
        place,
        spill,
        tar.x(*pax),
        tar.f(b"one", tar.pad(b"2\n10\n3\n90000\n4\n") + b"abcdefg"),
        tar.header(b"two", b"S", size=5, magic=b"ustar  \0", raw=old) + tar.pad(b"ABCde"),
    )


def test_what_a_later_entry_replaces_is_spilled(place: Any, spill: Path, tar: Any) -> None:
    recorder = check(
        place,
        spill,
        tar.f(b"f", b"first"),
        tar.f(b"f", b"second"),
        tar.d(b"d"),
        tar.f(b"d/a", b"inner"),
        tar.d(b"d/e"),
        tar.f(b"d/e/b", b"deeper"),
        tar.s(b"d", b"other"),
        tar.f(b"d/a", b"elsewhere"),
        tar.f(b"h", b"shared"),
        tar.lnk(b"i", b"h"),
        tar.s(b"h", b"x"),
        tar.f(b"i", b"own"),
        tar.f(b"none"),
        tar.f(b"none", b"some"),
    )
    assert recorder.spilled == 4
    assert (place.at("other/a")).read_bytes() == b"elsewhere"


def test_a_compressed_layer_tells_nothing(place: Any, spill: Path, tar: Any) -> None:
    recorder = Recorder(place.root, spill)
    unpack(io.BytesIO(gzip.compress(tar.f(b"f", b"x") + END)), place.root, split=recorder)
    assert recorder.events == []


def test_what_is_settled_makes_the_archive_again(place: Any, spill: Path, tar: Any, tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    lower.mkdir()
    unpack(io.BytesIO(tar.s(b"l", b"to") + tar.s(b"m", b"to/d") + END), lower)
    data = tar.f(b"l/f", b"1") + tar.f(b"to/f", b"2") + tar.f(b"m/x/g", b"3") + tar.f(b"l/d/x/h", b"4") + END
    recorder = Recorder(place.root, spill)
    made = unpack(io.BytesIO(data), place.root, split=recorder)
    settle(place.root, [lower], made.implied, moves=recorder)
    assert recorder.archive() == data
    assert place.at("to/d/x/g").read_bytes() == b"3"


# any archive at all

NAMES = st.sampled_from(
    b"a|b|c|a/b|a/b/c|b/a|l|l/a|l/l|l/b/c|m/a|./a|/b/|.|..|a/..|../victim/file|.wh.a|.wh.l|a/.wh.b|"
    b".wh..wh..opq|a/.wh..wh..opq|l/.wh.file|l/file|l/sub/x||.wh..|.wh..wh.x/a|a\\b|\xff".split(b"|")
)
TEXTS = st.sampled_from(
    [b"a", b"..", b"../victim", b"/", b"a/b", b"l", b".", b"../../../..", b"b/c", b"@", b"@/file", b"@/sub", b"c"]
)
FLAGS = st.sampled_from([b"0"] * 5 + [b"1", b"1", b"2", b"2", b"3", b"5", b"5", b"6", b"s", b"\0"])
BODIES = st.sampled_from([b"", b"x", b"y" * 600])
ENTRY = st.tuples(FLAGS, NAMES, TEXTS, BODIES, st.sampled_from([0o644, 0, 0o6777]))


def entries(place: Any, tar: Any, drawn: list[tuple[bytes, bytes, bytes, bytes, int]]) -> bytes:
    out = b""
    for flag, name, text, body, mode in drawn:
        link = text.replace(b"@", os.fsencode(place.victim))
        out += tar.f(name, body if flag in b"0\0" else b"", flag=flag, link=link, mode=mode, major=1)
    return out + END


@pytest.mark.slow
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ENTRY, min_size=1, max_size=14), st.lists(ENTRY, max_size=6), st.sampled_from([0, 1, 2]))
def test_any_archive_stays_inside_and_can_be_made_again(
    place: Any, spill: Path, tar: Any, tmp_path: Path, drawn: list[Any], below: list[Any], threads: int
) -> None:
    place.refresh()
    lower = tmp_path / "lower"
    lower.mkdir(exist_ok=True)
    data = entries(place, tar, drawn)
    recorder = Recorder(place.root, spill)
    limits = Limits(file_bytes=2**20)
    try:
        with contextlib.suppress(ImageInvalid):  # what is there then is a layer, too
            unpack(io.BytesIO(entries(place, tar, below)), lower, limits=limits)
        made = unpack(
            io.BytesIO(data), place.root, limits=limits, split=recorder, lower_links=True, threads=threads
        )
        assert recorder.archive() == data
        settle(place.root, [lower], made.implied, made.borrowed, opaque_root=made.opaque_root, moves=recorder)
        assert recorder.archive() == data
    except ImageInvalid:
        pass  # and never anything else
    finally:
        place.check()
        for number in range(1, recorder.spilled + 1):
            fd = os.open(spill, os.O_RDONLY)
            remove_tree(fd, b"%d" % number)
            os.close(fd)
        fd = os.open(tmp_path, os.O_RDONLY)
        remove_tree(fd, b"lower")
        os.close(fd)
