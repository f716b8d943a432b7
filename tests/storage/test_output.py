"""The output file: what was printed comes back, damage costs at most its block, nothing printed forges a frame."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outputs import joined, parts, printed, reading, rest, writing

from lading.storage.output import BLOCK, BLOCK_HEAD, CHUNK, OVERHEAD, encode_chunk, whole_end
from lading.storage.outputcursor import OutputCursor

FIRST = BLOCK_HEAD + OVERHEAD


def old(stream: int, time: int, data: bytes) -> bytes:
    """A chunk of the first format."""
    head = struct.pack("<BBHIQ", 0xB1, stream, 0, len(data), time)
    return head + struct.pack("<I", zlib.crc32(data, zlib.crc32(head))) + data


def write(directory: Path, *data: bytes) -> bytes:
    """The content of the file after ``data`` was printed, from one stream and the other by turns."""
    with writing(directory) as writer:
        for at, piece in enumerate(data):
            writer.write(1 + at % 2, 10 + at, piece)
    return (directory / "output").read_bytes()


def read_back(directory: Path, content: bytes) -> list[bytes]:
    (directory / "output").write_bytes(content)
    return [chunk.data for chunk in printed(directory)]


chunks = st.tuples(st.sampled_from((1, 2)), st.integers(0, 2**64 - 1), st.binary(min_size=1, max_size=300))


@given(st.lists(chunks, max_size=10))
def test_what_was_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, written: list[tuple[int, int, bytes]]
) -> None:
    """In order, with stream, time and bytes, and from any chunk on; and who goes on with a line is known."""
    directory = tmp_path_factory.mktemp("output")
    is_open = {1: False, 2: False}
    with writing(directory) as writer:
        for chunk in written:
            writer.write(*chunk)
    found = printed(directory)
    assert parts(found) == written
    for chunk in found:
        assert chunk.continues == is_open[chunk.stream]
        is_open[chunk.stream] = not chunk.data.endswith(b"\n")
        assert not chunk.lost


def test_layout_is_as_documented(tmp_path: Path) -> None:
    """It is a format on disk: other releases read it."""
    head = "b24c4231" + "554bbbec" + "0000000000000000" + "0000000000000000"
    chunk = "b2010000" + "02000000" + "0a00000000000000" + "1301e157" + b"hi".hex()
    assert write(tmp_path, b"hi").hex() == head + chunk


def test_a_reader_at_the_end_gets_nothing_until_there_is_more(tmp_path: Path) -> None:
    with reading(tmp_path) as cursor, writing(tmp_path) as writer:
        assert cursor.read() == []
        for time, data in ((5, b"one"), (6, b"two")):
            writer.write(1, time, data)
            assert parts(cursor.read()) == [(1, time, data)]
            assert cursor.read() == []
            assert cursor.position == writer.position


def test_a_tail_torn_at_any_byte_hides_only_itself(tmp_path: Path) -> None:
    whole = len(write(tmp_path, b"first", b"second"))
    last = write(tmp_path, b"the torn one")
    for length in range(whole, len(last)):
        assert read_back(tmp_path, last[:length]) == [b"first", b"second"]
    assert len(read_back(tmp_path, last)) == 3


@pytest.mark.parametrize("tail", [bytes(4096), b"\xb2\x01\0\0\xff", b"junk" * 99, encode_chunk(1, 5, b"x" * 50)])
def test_what_comes_after_a_torn_tail_is_read(tmp_path: Path, tail: bytes) -> None:
    """The next run begins a block; the reader who had come to the tail is told that something is missing."""
    content = write(tmp_path, b"first")
    (tmp_path / "output").write_bytes(content + tail)
    with reading(tmp_path) as cursor:
        assert [chunk.data for chunk in rest(cursor)] == [b"first"]
        write(tmp_path, b"later\n", b"and more")
        found = rest(cursor)
    assert [(chunk.data, chunk.lost) for chunk in found] == [(b"later\n", True), (b"and more", False)]
    assert [chunk.data for chunk in printed(tmp_path)] == [b"first", b"later\n", b"and more"]


@pytest.mark.parametrize("length", [1, BLOCK_HEAD - 1, BLOCK_HEAD, BLOCK_HEAD + 1, FIRST + 2])
def test_a_file_torn_at_its_beginning_is_gone_on_with(tmp_path: Path, length: int) -> None:
    content = write(tmp_path, b"first")
    (tmp_path / "output").write_bytes(content[:length])
    write(tmp_path, b"later")
    assert joined(printed(tmp_path)) == b"later"


@pytest.mark.slow
def test_a_flipped_byte_anywhere_costs_no_more_than_its_block(tmp_path: Path) -> None:
    """Nothing damaged is served, and from the next block on everything is."""
    sizes = [1000, 300, 100_000, 70_000, 90_000, 50_000, 5000, 300_000]
    data = [os.urandom(size) for size in sizes]
    content = write(tmp_path, *data)
    whole = b"".join(data)
    for at in [*range(FIRST + 40), *range(1000, len(content), 7919), BLOCK, BLOCK + 8, 2 * BLOCK - 1, 2 * BLOCK]:
        damaged = content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]
        (tmp_path / "output").write_bytes(damaged)
        found = printed(tmp_path)
        got = joined(found)
        assert len(whole) - len(got) <= BLOCK
        position = 0
        for chunk in found:
            position = whole.index(chunk.data, position) + len(chunk.data)
        if got != whole and at // BLOCK < len(content) // BLOCK:
            assert [chunk.lost for chunk in found].count(True) == 1


def test_a_block_that_is_a_hole_is_passed_over(tmp_path: Path) -> None:
    content = write(tmp_path, os.urandom(3 * BLOCK))
    first, last = (
        read_back(tmp_path, content[:BLOCK]),
        read_back(tmp_path, bytes(2 * BLOCK) + content[2 * BLOCK :]),
    )
    assert read_back(tmp_path, content[:BLOCK] + bytes(BLOCK) + content[2 * BLOCK :]) == first + last


@given(
    st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=3),
    st.binary(max_size=5),
    st.binary(max_size=5),
)
def test_printed_frames_are_only_bytes(
    tmp_path_factory: pytest.TempPathFactory, inner: list[bytes], before: bytes, after: bytes
) -> None:
    """A container that prints what looks like blocks and chunks has printed one chunk."""
    forged = before + write(tmp_path_factory.mktemp("inner"), *inner) + after
    directory = tmp_path_factory.mktemp("outer")
    write(directory, forged, b"honest")
    assert [chunk.data for chunk in printed(directory)] == [forged, b"honest"]


def test_damage_does_not_set_printed_frames_free(tmp_path: Path) -> None:
    """Whatever is broken, reading goes on only where a block begins, which is never in what was printed."""
    forged = encode_chunk(2, 1, b"forged") + b"forged"
    block = write(tmp_path, b"forged")
    os.unlink(tmp_path / "output")
    content = write(tmp_path, *([(forged * 40 + block) * 300] * 4))
    for at in range(4, 40_000, 997):
        damaged = content[:at] + b"\xff\xff\xff" + content[at + 3 :]
        assert b"forged" not in read_back(tmp_path, damaged)


@pytest.mark.parametrize(
    "size", [1, CHUNK - 1, CHUNK, CHUNK + 1, BLOCK - FIRST, BLOCK - FIRST + 1, 3 * BLOCK + 17]
)
def test_pieces_of_any_length_come_back(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    with writing(tmp_path) as writer:
        writer.write(1, 1, b"before\n")
        for time in (2, 3):
            writer.write(1, time, data)
        writer.write(2, 4, b"after")
    found = printed(tmp_path)
    assert joined(found) == b"before\n" + data * 2 + b"after"
    assert max(len(chunk.data) for chunk in found) <= CHUNK


def test_no_chunk_crosses_a_block(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        for size in range(1, 700, 3):
            writer.write(1, size, bytes(size * 11))
    for chunk in printed(tmp_path):
        assert chunk.at // BLOCK == (chunk.end - 1) // BLOCK


@pytest.mark.parametrize("size", [0, CHUNK + 1])
def test_more_than_a_chunk_and_nothing_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="a chunk has"):
        encode_chunk(1, 1, bytes(size))


# -- the first format ---------------------------------------------------------------------------------------


def test_the_first_format_is_read(tmp_path: Path) -> None:
    """Also whether lines are begun, which it does not tell."""
    pieces = [(1, 5, b"one\ntw"), (2, 6, b"err\n"), (1, 7, b"o"), (1, 8, b"\nthree\n"), (2, 9, b"e")]
    (tmp_path / "output").write_bytes(b"".join(old(*piece) for piece in pieces))
    found = printed(tmp_path)
    assert parts(found) == pieces
    assert [chunk.continues for chunk in found] == [False, False, True, True, False]


def test_after_the_first_format_a_new_file_is_begun(tmp_path: Path) -> None:
    (tmp_path / "output").write_bytes(old(1, 5, b"one\n") + b"\xb1torn")
    with reading(tmp_path) as cursor:
        assert joined(rest(cursor)) == b"one\n"
        write(tmp_path, b"two\n", b"three\n")
        assert joined(rest(cursor)) == b"two\nthree\n"
    assert sorted(os.listdir(tmp_path)) == ["output", "output.1"]
    assert joined(printed(tmp_path)) == b"one\ntwo\nthree\n"
    assert (tmp_path / "output.1").read_bytes().startswith(old(1, 5, b"one\n"))


def test_chunks_of_the_first_format_end_where_they_are_damaged(tmp_path: Path) -> None:
    content = old(1, 5, b"one") + old(1, 6, b"two") + old(1, 7, b"three")
    damaged = content[:25] + b"x" + content[26:]
    assert read_back(tmp_path, damaged) == [b"one"]
    with open(tmp_path / "output", "rb") as file:
        assert whole_end(file.fileno()) == (23, 5)


# -- a disk that is full ------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [0, 1, BLOCK_HEAD, FIRST - 1, FIRST, FIRST + 3])
def test_a_write_that_is_cut_short_is_taken_back(
    tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file stays whole, so that what is printed once there is room again can be read; and the gap is told."""

    def short(to: int, buffers: list[bytes], offset: int) -> int:
        return os.pwrite(to, b"".join(buffers)[:taken], offset)

    with writing(tmp_path) as writer:
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwritev", short)
            with pytest.raises(OSError, match="No space left") as refused:
                writer.write(2, 2, b"cut short")
        assert refused.value.errno == errno.ENOSPC
        writer.write(2, 3, b"after")
    (found,) = printed(tmp_path)
    assert (found.time, found.data, found.lost) == (3, b"after", True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("rotation", [(0, 0), (20_000, 3)])
def test_a_disk_that_fills_up_keeps_what_fitted(tmpfs: Callable[[str], Path], rotation: tuple[int, int]) -> None:
    """On a real full file system: every chunk that was accepted is there, and room makes it go on."""
    where = tmpfs("size=96k")
    own = where / "own"
    own.mkdir()
    filler = where / "filler"
    filler.write_bytes(bytes(60_000))
    accepted = []
    with writing(own, *rotation) as writer, reading(own) as cursor:
        for number in range(60):
            with contextlib.suppress(OSError):
                writer.write(1, number, b"%04d" % number + b"x" * 1000 + b"\n")
                accepted.append(number)
        assert 5 < len(accepted) < 60
        filler.unlink()
        writer.write(2, 99, b"room again\n")
        assert [chunk.time for chunk in rest(cursor) if len(chunk.data) > 1000 or chunk.time == 99][-1] == 99
    if not rotation[0]:
        assert [chunk.time for chunk in printed(own)] == [*accepted, 99]
    assert printed(own)[-1].lost == (accepted[-1] != 59)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_reader_on_a_full_disk_knows_that_it_has_read_everything(tmpfs: Callable[[str], Path]) -> None:
    """Else it would be told of more, look, find nothing, and ask again, as long as the disk is full."""
    where = tmpfs("size=64k")
    own = where / "own"
    own.mkdir()
    with writing(own, 5000, 3) as writer, reading(own) as cursor:
        writer.write(1, 1, b"x" * 4000)
        filler = os.open(where / "filler", os.O_WRONLY | os.O_CREAT)
        with contextlib.suppress(OSError):
            while True:
                os.write(filler, bytes(512))
        os.close(filler)
        with pytest.raises(OSError, match="No space left"):
            writer.write(1, 2, b"y" * 4000)
        assert len(os.listdir(own)) == 2
        assert joined(rest(cursor)) == b"x" * 4000
        assert cursor.position == writer.position
        (where / "filler").unlink()
        writer.write(1, 3, b"z")
        assert [(chunk.data, chunk.lost) for chunk in rest(cursor)] == [(b"z", True)]
        assert cursor.position == writer.position


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    """Nobody but us can put one there; and if, nothing outside is written or read."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    own = tmp_path / "own"
    own.mkdir()
    (own / "output").symlink_to(outside)
    with writing(own) as writer, pytest.raises(OSError, match="symbolic link"):
        writer.write(1, 1, b"x")
    assert printed(own) == []
    assert outside.read_bytes() == b"secret"


def test_nothing_is_open_after_closing(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with writing(tmp_path, 1000, 3) as writer, reading(tmp_path):
        for time in range(50):
            writer.write(1, time, b"x" * 100)
    fd = os.open(tmp_path, os.O_RDONLY)
    cursor = OutputCursor(fd)
    cursor.close()
    cursor.close()
    os.close(fd)
    assert os.listdir("/proc/self/fd") == before
