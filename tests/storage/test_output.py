"""The output file: what was printed comes back, a torn tail is left out, and nothing printed can forge a frame."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.storage.output import CHUNK, Chunk, append_chunk, read_chunks

HEADER = 20


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "output", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    yield opened
    os.close(opened)


def everything(fd: int, most: int = 1 << 20) -> list[Chunk]:
    """What a reader that starts at the beginning gets, page by page."""
    chunks: list[Chunk] = []
    while page := read_chunks(fd, chunks[-1].end if chunks else 0, most):
        chunks += page
    return chunks


def parts(chunks: list[Chunk]) -> list[tuple[int, int, bytes]]:
    return [(chunk.stream, chunk.time, chunk.data) for chunk in chunks]


def framed(*data: bytes) -> bytes:
    fd = os.memfd_create("output")
    try:
        for at, piece in enumerate(data):
            append_chunk(fd, 1 + at % 2, 10 + at, piece)
        return os.pread(fd, 1 << 22, 0)
    finally:
        os.close(fd)


def read_back(content: bytes) -> list[Chunk]:
    fd = os.memfd_create("output")
    try:
        os.write(fd, content)
        return everything(fd)
    finally:
        os.close(fd)


chunks = st.tuples(st.sampled_from((1, 2)), st.integers(0, 2**64 - 1), st.binary(max_size=300))


@given(st.lists(chunks, max_size=10), st.integers(1, 400))
def test_what_was_appended_is_read_back(written: list[tuple[int, int, bytes]], most: int) -> None:
    """In order, with stream, time and bytes; whatever the size of the reader's page."""
    fd = os.memfd_create("output")
    try:
        for chunk in written:
            append_chunk(fd, *chunk)
        found = everything(fd, most)
        assert parts(found) == written
        ends = [HEADER * (at + 1) + sum(len(data) for *_, data in written[: at + 1]) for at in range(len(written))]
        assert [chunk.end for chunk in found] == ends
        for chunk in found:
            assert parts(read_chunks(fd, chunk.end)) == written[ends.index(chunk.end) + 1 :]
    finally:
        os.close(fd)


def test_layout_is_as_documented() -> None:
    """It is a format on disk: other releases read it."""
    assert framed(b"hi").hex() == "b1010000" + "02000000" + "0a00000000000000" + "71dc67bd" + b"hi".hex()


def test_a_reader_at_the_end_gets_nothing_until_there_is_more(fd: int) -> None:
    assert read_chunks(fd, 0) == []
    append_chunk(fd, 1, 5, b"one")
    (first,) = read_chunks(fd, 0)
    assert read_chunks(fd, first.end) == []
    append_chunk(fd, 2, 6, b"two")
    assert parts(read_chunks(fd, first.end)) == [(2, 6, b"two")]
    assert read_chunks(fd, 10_000) == []


def test_a_tail_torn_at_any_byte_hides_only_itself() -> None:
    whole, last = framed(b"first", b"", b"third"), framed(b"first", b"", b"third", b"the torn one")
    assert last.startswith(whole)
    for length in range(len(whole), len(last)):
        assert [chunk.data for chunk in read_back(last[:length])] == [b"first", b"", b"third"]
    assert len(read_back(last)) == 4


def test_a_tail_of_zeros_is_no_chunk() -> None:
    """What a file system may leave of a write that was lost in a power cut."""
    assert [chunk.data for chunk in read_back(framed(b"first") + bytes(4096))] == [b"first"]


def test_a_flipped_byte_anywhere_stops_there() -> None:
    """Nothing after damage is served, and nothing damaged."""
    start, content = len(framed(b"first")), framed(b"first", b"second", b"third")
    stop = len(framed(b"first", b"second"))
    for at in range(start, stop):
        for bit in range(8):
            damaged = content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
            assert [chunk.data for chunk in read_back(damaged)] == [b"first"]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=3), st.binary(max_size=5), st.binary(max_size=5))
def test_printed_frames_are_only_bytes(inner: list[bytes], before: bytes, after: bytes) -> None:
    """A container that prints what looks like chunks has printed one chunk."""
    forged = before + framed(*inner) + after
    assert [chunk.data for chunk in read_back(framed(forged, b"honest"))] == [forged, b"honest"]


@pytest.mark.parametrize("most", [1, CHUNK, 1 << 20])
def test_the_largest_chunk_is_read_by_any_reader(fd: int, most: int) -> None:
    data = os.urandom(CHUNK)
    for time in (1, 2):
        append_chunk(fd, 1, time, data)
    append_chunk(fd, 2, 3, b"after")
    assert parts(everything(fd, most)) == [(1, 1, data), (1, 2, data), (2, 3, b"after")]


def test_more_than_a_chunk_never_hides_what_comes_after(fd: int) -> None:
    """It is refused before it is written, or it can be read: never written and then taken for damage."""
    append_chunk(fd, 1, 1, b"before")
    size = os.fstat(fd).st_size
    try:
        append_chunk(fd, 1, 2, b"x" * (CHUNK + 1))
    except ValueError:
        assert os.fstat(fd).st_size == size
    append_chunk(fd, 2, 3, b"after")
    assert parts(everything(fd))[-1] == (2, 3, b"after")


@pytest.mark.parametrize("taken", [0, 1, HEADER - 1, HEADER, HEADER + 3])
def test_a_write_that_is_cut_short_is_taken_back(fd: int, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file stays whole, so that what is printed once there is room again can be read."""
    append_chunk(fd, 1, 1, b"before")
    size = os.fstat(fd).st_size

    def short(to: int, buffers: tuple[bytes, ...]) -> int:
        return os.write(to, b"".join(buffers)[:taken])

    with monkeypatch.context() as patched:
        patched.setattr(os, "writev", short)
        with pytest.raises(OSError, match="No space left") as refused:
            append_chunk(fd, 2, 2, b"cut short")
    assert refused.value.errno == errno.ENOSPC
    assert os.fstat(fd).st_size == size
    append_chunk(fd, 2, 3, b"after")
    assert parts(everything(fd)) == [(1, 1, b"before"), (2, 3, b"after")]


def test_errors_of_the_write_itself_are_the_callers(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "writev", fails)
    with pytest.raises(OSError, match="Input/output error"):
        append_chunk(fd, 1, 1, b"x")
    assert os.fstat(fd).st_size == 0


def fill(fd: int) -> int:
    """Append until the disk is full; gives how many chunks were accepted."""
    for number in range(100):
        try:
            append_chunk(fd, 1, number, b"x" * 3000)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return number
    pytest.fail("it never got full")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_disk_that_fills_up_keeps_what_fitted(tmpfs: Callable[[str], Path]) -> None:
    """On a real full file system: every chunk that was accepted is there, and room makes it go on."""
    where = tmpfs("size=64k")
    filler = where / "filler"
    filler.write_bytes(bytes(20_000))
    fd = os.open(where / "output", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
    try:
        accepted = fill(fd)
        assert accepted > 5
        assert os.fstat(fd).st_size == accepted * (3000 + HEADER)
        filler.unlink()
        append_chunk(fd, 2, 99, b"room again")
        assert [chunk.time for chunk in everything(fd)] == [*range(accepted), 99]
    finally:
        os.close(fd)
