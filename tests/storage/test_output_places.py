"""Where reading begins: the last lines, and those from a time on, as in a list of lines, without reading all."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from outputs import joined, printed, reading, rest, writing

from lading.storage.output import BLOCK
from lading.storage.outputcursor import OutputCursor

BOTH = frozenset({1, 2})

Piece = tuple[int, int, bytes]
"""Stream, time, bytes."""

text = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\0", b"\r"]), min_size=1, max_size=6).map(b"".join)
pieces = st.lists(st.tuples(st.sampled_from((1, 2)), st.integers(1, 30), text), max_size=25)


def lines_of(written: list[Piece]) -> list[tuple[int, int, bytes]]:
    """Stream, time of the first byte, and bytes of each line, in the order of beginnings."""
    lines: list[list[object]] = []
    still_open: dict[int, list[object]] = {}
    for stream, time, data in written:
        for line in data.splitlines(keepends=True) if b"\r" not in data else split(data):
            if stream in still_open:
                still_open[stream][2] += line  # type: ignore[operator]
            else:
                still_open[stream] = [stream, time, line]
                lines.append(still_open[stream])
            if line.endswith(b"\n"):
                del still_open[stream]
    return [tuple(line) for line in lines]  # type: ignore[misc]


def split(data: bytes) -> list[bytes]:
    parts = [part + b"\n" for part in data.split(b"\n")]
    return [*parts[:-1], parts[-1][:-1]] if parts[-1] != b"\n" else parts[:-1]


def from_tail(cursor: OutputCursor, count: int, streams: frozenset[int]) -> dict[int, bytes]:
    """What comes from each stream, without what is left of lines that began before."""
    found = cursor.seek_tail(count, streams)
    got = dict.fromkeys(streams, b"")
    muted = set(streams) if found else set()
    for chunk in rest(cursor):
        data = chunk.data
        if chunk.stream not in streams:
            continue
        if chunk.stream in muted and chunk.continues:
            _, newline, data = data.partition(b"\n")
            if not newline:
                continue
        muted.discard(chunk.stream)
        got[chunk.stream] += data
    return got


@pytest.mark.slow
@given(pieces, st.integers(0, 12), st.sampled_from([BOTH, frozenset({1}), frozenset({2})]), st.booleans())
@settings(max_examples=200)
@example([(1, 1, b"x\n"), (2, 1, b"y\ny\ny\n"), (1, 1, b"z\n")], 1, BOTH, False)
@example([(1, 1, b"ab"), (2, 1, b"y\n"), (1, 1, b"c\nd")], 1, BOTH, False)
def test_the_tail_is_the_last_lines_in_the_order_of_beginnings(
    tmp_path_factory: pytest.TempPathFactory,
    written: list[Piece],
    count: int,
    streams: frozenset[int],
    first_format: bool,
) -> None:
    own = tmp_path_factory.mktemp("own")
    if first_format:
        (own / "output").write_bytes(b"".join(old(*piece) for piece in written))
    else:
        with writing(own) as writer:
            for piece in written:
                writer.write(*piece)
    wanted = [line for line in lines_of(written) if line[0] in streams]
    wanted = wanted[len(wanted) - min(count, len(wanted)) :]
    with reading(own) as cursor:
        got = from_tail(cursor, count, streams)
    assert got == {stream: b"".join(line[2] for line in wanted if line[0] == stream) for stream in streams}


def old(stream: int, time: int, data: bytes) -> bytes:
    head = struct.pack("<BBHIQ", 0xB1, stream, 0, len(data), time)
    return head + struct.pack("<I", zlib.crc32(data, zlib.crc32(head))) + data


@pytest.mark.slow
@given(pieces, st.integers(0, 32), st.sampled_from((0, 60, 200)))
@settings(max_examples=150)
def test_what_a_time_passes_over_is_all_from_before_it(
    tmp_path_factory: pytest.TempPathFactory, written: list[Piece], since: int, size: int
) -> None:
    """However the clock steps."""
    own = tmp_path_factory.mktemp("own")
    with writing(own, size, 1000) as writer:
        for stream, time, data in written:
            writer.write(stream, time, data * 20)
    with reading(own) as cursor:
        cursor.seek_time(since)
        got = joined([chunk for chunk in rest(cursor) if chunk.time >= since])
    assert got == b"".join(data * 20 for _, time, data in written if time >= since)


@pytest.mark.parametrize("count", [1, 3, 7, 100, 5000])
def test_the_tail_goes_over_files_and_blocks(tmp_path: Path, count: int) -> None:
    with writing(tmp_path, BLOCK + BLOCK // 2, 20) as writer:
        for number in range(0, 60_000, 100):
            writer.write(
                1, number, b"".join(b"line %06d of many\n" % each for each in range(number, number + 100))
            )
    assert len(os.listdir(tmp_path)) > 3
    with reading(tmp_path) as cursor:
        assert cursor.seek_tail(count, BOTH)
        found = joined(rest(cursor)).splitlines()
    assert [int(line.split()[1]) for line in found] == list(range(60_000 - count, 60_000))


def test_the_tail_of_too_few_lines_is_everything(tmp_path: Path) -> None:
    with writing(tmp_path, 200, 3) as writer:
        for number in range(40):
            writer.write(1, number, b"%d\n" % number)
    with reading(tmp_path) as cursor:
        assert not cursor.seek_tail(41, BOTH)
        assert joined(rest(cursor)) == joined(printed(tmp_path))


@contextmanager
def counting_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many bytes each read of a file gave."""
    sizes: list[int] = []
    real = os.pread

    def pread(fd: int, length: int, offset: int) -> bytes:
        data = real(fd, length, offset)
        sizes.append(len(data))
        return data

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", pread)
        yield sizes


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred megabytes of lines, a thousand of each millisecond."""
    own = tmp_path_factory.mktemp("large")
    with writing(own) as writer:
        for number in range(1000):
            writer.write(1 + number % 2, number, b"%099d\n" % number * 1000)
    return own


@pytest.mark.slow
def test_little_of_a_large_file_is_read_for_its_tail(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with reading(large) as cursor, counting_reads(monkeypatch) as sizes:
        assert cursor.seek_tail(10, BOTH)
        assert joined(rest(cursor)) == b"%099d\n" % 999 * 10
    assert sum(sizes) < 4 * BLOCK


@pytest.mark.slow
@pytest.mark.parametrize("since", [0, 1, 500, 998, 999, 1000])
def test_little_of_a_large_file_is_read_for_a_time(
    large: Path, since: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reading(large) as cursor, counting_reads(monkeypatch) as sizes:
        cursor.seek_time(since)
        assert sum(sizes) < 2000
        first = next((chunk for chunk in rest(cursor) if chunk.time >= since), None)
    assert (first.time if first is not None else 1000) == since


@pytest.mark.slow
def test_little_is_read_for_the_tail_of_what_came_since(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are fewer such lines than asked for, and none is looked for where there can't be one."""
    with reading(large) as cursor, counting_reads(monkeypatch) as sizes:
        assert not cursor.seek_tail(10_000_000, BOTH, since=997)
    assert sum(sizes) < 5 * BLOCK


@pytest.mark.slow
def test_a_tail_goes_round_damage(large: Path, tmp_path: Path) -> None:
    """As reading does: what can't be read is no line."""
    content = bytearray((large / "output").read_bytes())
    content[-2 * BLOCK : -2 * BLOCK + 40] = bytes(40)
    (tmp_path / "output").write_bytes(content)
    with reading(tmp_path) as cursor:
        lines = joined(rest(cursor)).count(b"\n")
    with reading(tmp_path) as cursor:
        assert cursor.seek_tail(lines // 2, BOTH)
        assert abs(joined(rest(cursor)).count(b"\n") - lines // 2) <= 2
