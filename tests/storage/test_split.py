"""A layer's archive comes out again byte for byte, whatever was in it, or it is said that it can't."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from lading.events.errors import BadLayer, DigestMismatch, StoreCorrupt
from lading.storage import split as split_module
from lading.storage.pieces import verified
from lading.storage.split import SplitMoves, SplitWriter
from lading.storage.splitread import read_split
from lading.storage.unpack import unpack


def take_apart(archive: bytes, tree: Path, directory: Path) -> None:
    """Unpack ``archive`` with a split; both directories are made."""
    tree.mkdir()
    directory.mkdir()
    fd = os.open(directory, os.O_RDONLY)
    try:
        with SplitWriter(fd) as writer:
            made = unpack(io.BytesIO(archive), tree, split=writer)
            writer.finish()
            assert writer.size == len(archive) == made.size
    finally:
        os.close(fd)


Apart = Callable[[bytes], tuple[Path, Path]]


@pytest.fixture
def apart(tmp_path: Path) -> Apart:
    def take(archive: bytes) -> tuple[Path, Path]:
        take_apart(archive, tmp_path / "tree", tmp_path / "split")
        return tmp_path / "tree", tmp_path / "split"

    return take


def again(places: tuple[Path, Path]) -> bytes:
    return b"".join(read_split(*places))


@contextlib.contextmanager
def edit(directory: Path) -> Iterator[SplitWriter]:
    directory.mkdir()
    fd = os.open(directory, os.O_RDONLY)
    try:
        with SplitWriter(fd) as writer:
            yield writer
    finally:
        os.close(fd)


# what archives are made of

NAMES = (b"a", b"b", b"d", b"d/a", b"d/b", b"d/d", b"d/d/a", b"l/a", b"\xff\xe9", b"d/" + b"n" * 120, b"l")
names = st.sampled_from(NAMES)
contents = st.one_of(st.binary(max_size=40), st.integers(500, 1100).map(lambda size: b"x" * size))
numbers = st.integers(0, 2**31)


@st.composite
def entries(draw: Callable[[Any], Any], tar: Any) -> bytes:
    """One entry of some kind, with the headers before it."""
    name = draw(names)
    before = b""
    if len(name) > 100:
        before = draw(st.sampled_from([tar.long(name), tar.x((b"path", name))]))
    keywords = {"mode": draw(st.integers(0, 0o7777)), "uid": draw(numbers), "mtime": draw(numbers)}
    kind = draw(st.sampled_from("ffffffddslppocwxzgt"))
    match kind:
        case "f":
            return bytes(before + tar.f(name, draw(contents), **keywords))
        case "d":
            return bytes(before + tar.d(name + b"/", **keywords))
        case "s":
            return bytes(before + tar.s(name, draw(st.sampled_from([b"d", b"/d", b"a", b"."]))))
        case "l":
            return bytes(before + tar.lnk(name, draw(names)[:100]))
        case "p":
            return bytes(before + tar.header(name, b"6"))
        case "o":
            return bytes(before + tar.header(name[:40] + b"/.wh..wh..opq", size=0))
        case "w":
            return bytes(tar.f(b"d/.wh.a", draw(contents)))
        case "c":
            return bytes(before + tar.header(name, b"3", major=1, minor=draw(st.integers(1, 9))))
        case "x":
            value = draw(st.binary(max_size=30))
            return bytes(tar.x((b"path", name), (b"SCHILY.xattr.user.k", value)) + tar.f(b"short", draw(contents)))
        case "g":
            return bytes(tar.g((b"comment", b"of no use")))
        case "t":
            return bytes(tar.header(name, b"s", size=0))
        case _:
            first, gap, second = draw(
                st.tuples(st.binary(max_size=9), st.integers(0, 5000), st.binary(max_size=9))
            )
            return bytes(sparse(tar, name, first, gap, second))


def sparse(tar: Any, name: bytes, first: bytes, gap: int, second: bytes) -> bytes:
    """A pax 1.0 sparse file: data, a hole, data, a hole."""
    at = len(first) + gap
    table = tar.pad(b"2\n0\n%d\n%d\n%d\n" % (len(first), at, len(second)))
    pairs = (
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", name),
        (b"GNU.sparse.realsize", b"%d" % (at + len(second) + 7)),
    )
    return bytes(tar.x(*pairs) + tar.f(b"GNUSparseFile.0/x", table + first + second))


ends = st.one_of(
    st.just(bytes(1024)),
    st.just(b""),
    st.just(bytes(10_240)),
    st.binary(max_size=2000).map(lambda junk: bytes(1024) + junk),
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_can_be_unpacked_comes_out_again(tar: Any, data: st.DataObject) -> None:
    pieces = data.draw(st.lists(entries(tar), max_size=14))
    archive = b"".join(pieces) + data.draw(ends)
    with tempfile.TemporaryDirectory() as base:
        tree, directory = Path(base, "tree"), Path(base, "split")
        try:
            take_apart(archive, tree, directory)
        except BadLayer:
            event("refused")
            return
        event(f"spilled: {(directory / 'spill').exists()}")
        assert again((tree, directory)) == archive


def test_an_archive_of_every_dialect_comes_out_again(tar: Any, apart: Apart, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / ("n" * 200)).mkdir(parents=True)
    (source / "deep" / ("n" * 200) / ("f" * 200)).write_bytes(b"far down")
    (source / "hole").write_bytes(b"start")
    os.truncate(source / "hole", 3_000_000)
    os.link(source / "hole", source / "second")
    for number, form in enumerate(("gnu", "pax", "ustar", "v7", "oldgnu")):
        sparse = ["--sparse"] if form in ("gnu", "pax", "oldgnu") else []
        packed = subprocess.run(
            ["tar", f"--format={form}", *sparse, "-C", source, "-c", *(["."] if sparse else ["hole", "second"])],
            capture_output=True,
            check=True,
        ).stdout
        places = tmp_path / f"tree{number}", tmp_path / f"split{number}"
        take_apart(packed, *places)
        assert again(places) == packed


def test_what_a_later_entry_replaced_is_found(tar: Any, apart: Apart) -> None:
    archive = b"".join(
        [
            tar.f(b"a", b"first"),
            tar.d(b"d/"),
            tar.f(b"d/x", b"beneath"),
            tar.f(b"a", b"second"),
            tar.s(b"d", b"e"),
            tar.f(b"d/x", b"through the link"),
            tar.f(b"d", b"a file at last"),
            tar.f(b"a", b"third"),
            tar.f(b"e/x", b"replaced too"),
            tar.END,
        ]
    )
    tree, directory = places = apart(archive)
    assert again(places) == archive
    # The link that was replaced has no contents to keep.
    assert sorted(os.listdir(directory / "spill")) == ["0", "1", "2", "3"]
    assert (tree / "a").read_bytes() == b"third"


def test_moves_within_the_tree_are_followed_one_after_the_other(tar: Any, apart: Apart) -> None:
    archive = b"".join(
        [
            tar.f(b"var/run/pid", b"1"),
            tar.f(b"var/log", b"22"),
            tar.f(b"var/run/pid", b"333"),
            tar.f(b"run/pid", b"4444"),
            tar.f(b"run/sub/x", b"55555"),
            tar.END,
        ]
    )
    tree, directory = places = apart(archive)
    fd, parent = os.open(directory, os.O_RDONLY), os.open(tree / "run", os.O_RDONLY)
    try:
        moves = SplitMoves(fd)
        moves.spill(b"run/pid", parent, b"pid")
        (tree / "var/run/pid").rename(tree / "run/pid")
        moves.moved(b"var/run/pid", b"run/pid")
        (tree / "var").rename(tree / "other")
        moves.moved(b"var", b"other")
        moves.finish()
        assert again(places) == archive
        # Some more, of which one takes along what came there by an earlier one.
        moves = SplitMoves(fd)
        (tree / "run").rename(tree / "elsewhere")
        moves.moved(b"run", b"elsewhere")
        moves.moved(b"never", b"mind")
        moves.spill(b"elsewhere/sub", parent, b"sub")
        moves.finish()
    finally:
        os.close(fd)
        os.close(parent)
    assert again(places) == archive
    assert sorted(os.listdir(directory / "spill")) == ["0", "1", "2"]


def test_moves_that_a_writer_is_told_of_count_for_what_came_before_only(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "b").write_bytes(b"old")
    (tree / "a").write_bytes(b"new!")
    with edit(tmp_path / "split") as writer:
        writer.file(b"a", None, 3)
        writer.moved(b"a", b"b")
        writer.raw(b"|")
        writer.file(b"a", None, 4)
        writer.finish()
    assert again((tree, tmp_path / "split")) == b"old|new!"


def test_many_raw_bytes_and_none(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    junk = os.urandom(3_000_001)
    with edit(tmp_path / "one") as writer:
        writer.raw(b"")
        writer.raw(memoryview(junk))
        writer.finish()
    assert again((tree, tmp_path / "one")) == junk
    with edit(tmp_path / "two") as writer:
        writer.finish()
    assert again((tree, tmp_path / "two")) == b""


# damage


@pytest.fixture
def small(tar: Any, apart: Apart) -> tuple[Path, Path]:
    return apart(tar.f(b"d/a", b"12345") + sparse(tar, b"s", b"ab", 100, b"cd") + tar.f(b"d/a", b"678") + tar.END)


@pytest.mark.parametrize(
    "harm",
    [
        lambda tree, split: (tree / "d/a").unlink(),
        lambda tree, split: (tree / "d/a").write_bytes(b"12"),
        lambda tree, split: (tree / "s").write_bytes(b"longer than it was" * 99),
        lambda tree, split: ((tree / "d/a").unlink(), (tree / "d/a").mkdir()),
        lambda tree, split: ((tree / "d/a").unlink(), os.mkfifo(tree / "d/a")),
        lambda tree, split: ((tree / "d/a").rename(tree / "t"), (tree / "d/a").symlink_to("../t")),
        lambda tree, split: ((tree / "d").rename(tree / "e"), (tree / "d").symlink_to("e")),
        lambda tree, split: (split / "split").unlink(),
        lambda tree, split: (split / "split").write_bytes(b""),
        lambda tree, split: (split / "moves").unlink(),
        lambda tree, split: (split / "moves").write_bytes(b"\0" * 40),
        lambda tree, split: (split / "spill/0").unlink(),
    ],
)
def test_what_is_missing_or_of_another_kind_is_told(
    small: tuple[Path, Path], harm: Callable[[Path, Path], object]
) -> None:
    harm(*small)
    with pytest.raises(StoreCorrupt):
        again(small)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["split", "moves"])
def test_no_damage_to_a_split_goes_unseen(small: tuple[Path, Path], name: str) -> None:
    whole = again(small)
    file = small[1] / name
    stored = file.read_bytes()
    descriptors = len(os.listdir("/proc/self/fd"))
    seen = 0
    for at in range(len(stored)):
        for harmed in (stored[:at], stored[:at] + bytes([stored[at] ^ 0x10]) + stored[at + 1 :], stored[at:]):
            if harmed == stored:
                continue
            file.write_bytes(harmed)
            # Bits of the frame's header that mean nothing may change; nothing else may come out than before.
            with contextlib.suppress(StoreCorrupt):
                assert again(small) == whole
                continue
            seen += 1
    assert seen > 2 * len(stored)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_other_contents_of_the_same_size_are_found_by_the_digest(small: tuple[Path, Path]) -> None:
    whole = again(small)
    diff_id = f"sha256:{hashlib.sha256(whole).hexdigest()}"
    assert b"".join(verified(read_split(*small), diff_id, "layer x")) == whole
    (small[0] / "d/a").write_bytes(b"ABC")
    with pytest.raises(DigestMismatch, match="layer x"):
        b"".join(verified(read_split(*small), diff_id, "layer x"))


def test_closing_early_closes_everything(small: tuple[Path, Path]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    stream = read_split(*small)
    assert isinstance(stream, Iterator)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == before


def test_more_moves_than_are_held_in_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_module, "MAX_MOVES", 3)
    with edit(tmp_path / "split") as writer:
        writer.moved(b"a", b"b")  # nothing came before
        writer.file(b"a", None, 3)
        for _ in range(3):
            writer.moved(b"a", b"b")
        with pytest.raises(BadLayer, match="replaces more"):
            writer.moved(b"a", b"b")


# size and speed


@pytest.mark.slow
def test_nine_thousand_files_are_read_again_in_well_under_a_second(tar: Any, apart: Apart) -> None:
    archive = b"".join(tar.f(b"usr/%d/f%d" % (n % 90, n), b"x" * (n % 2000)) for n in range(9000)) + tar.END
    tree, directory = places = apart(archive)
    assert again(places) == archive
    begun = time.perf_counter()
    count = sum(map(len, read_split(tree, directory)))
    assert count == len(archive)
    assert time.perf_counter() - begun < 1.5  # 0.1 s on two idle cores
    assert (directory / "split").stat().st_size < 30 * 9000


@pytest.mark.slow
def test_memory_does_not_grow_with_the_archive(tar: Any, apart: Apart) -> None:
    archive = tar.f(b"large", bytes(64 * 2**20)) + bytes(1024) + bytes(16 * 2**20)
    places = apart(archive)
    del archive
    tracemalloc.start()
    try:
        assert sum(map(len, read_split(*places))) == 80 * 2**20 + 1536
        assert tracemalloc.get_traced_memory()[1] < 6 * 2**20
    finally:
        tracemalloc.stop()
