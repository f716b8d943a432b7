"""Docker's multiplexed stream: what is framed comes out again, however the bytes are cut."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.engine.http.stdcopy import STDERR, STDIN, STDOUT, SYSTEM_ERROR, Demultiplexer, frame, frame_lines
from lading.events.errors import Invalid

frames = st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=40)), max_size=12)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def joined(pieces: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Neighbouring pieces of one stream put together: the part of the answer that must not vary."""
    result: list[tuple[int, bytes]] = []
    for stream, piece in pieces:
        if result and result[-1][0] == stream:
            piece = result.pop()[1] + piece
        result.append((stream, piece))
    return result


def test_a_frame_is_the_stream_the_size_and_the_payload() -> None:
    assert frame(STDERR, b"oops") == b"\x02\0\0\0\0\0\0\x04oops"
    assert frame(STDOUT, b"") == b"\x01\0\0\0\0\0\0\0"


@pytest.mark.parametrize("stream", [-1, 4, 256])
def test_there_are_four_streams(stream: int) -> None:
    with pytest.raises(Invalid, match="0 to 3"):
        frame(stream, b"x")


@given(frames, st.lists(st.integers(min_value=0)))
def test_any_cut_of_the_bytes_gives_the_same_streams(sent: list[tuple[int, bytes]], places: list[int]) -> None:
    data = b"".join(frame(stream, payload) for stream, payload in sent)
    demultiplexer = Demultiplexer()
    pieces = [piece for part in cut(data, places) for piece in demultiplexer.feed(part)]
    demultiplexer.finish()
    assert joined(pieces) == joined([(stream, payload) for stream, payload in sent if payload])


@given(frames, st.binary(min_size=8, max_size=8), st.lists(st.integers(min_value=0)))
def test_a_bad_header_is_an_error_after_everything_before_it_and_for_good(
    sent: list[tuple[int, bytes]], bad: bytes, places: list[int]
) -> None:
    if bad[0] <= 3 and bad[1:4] == b"\0\0\0":
        bad = b"\x07" + bad[1:]
    data = b"".join(frame(stream, payload) for stream, payload in sent) + bad
    demultiplexer = Demultiplexer()
    pieces = []
    with pytest.raises(Invalid, match="frame header"):  # noqa: PT012 - which feed raises depends on the cut
        for part in cut(data, places):
            pieces += demultiplexer.feed(part)
        demultiplexer.finish()
    assert joined(pieces) == joined([(stream, payload) for stream, payload in sent if payload])
    with pytest.raises(Invalid):
        demultiplexer.feed(frame(STDIN, b"later"))
    with pytest.raises(Invalid):
        demultiplexer.finish()


def test_a_frame_of_four_gigabytes_is_handed_on_and_not_kept() -> None:
    demultiplexer = Demultiplexer()
    assert demultiplexer.feed(struct.pack(">BxxxL", SYSTEM_ERROR, 2**32 - 1)) == []
    assert demultiplexer.feed(b"some") == [(SYSTEM_ERROR, b"some")]
    assert sum(len(value) for value in vars(demultiplexer).values() if isinstance(value, bytes)) == 0
    with pytest.raises(Invalid, match="before the end of a frame"):
        demultiplexer.finish()


def test_the_end_inside_a_header_is_an_error() -> None:
    demultiplexer = Demultiplexer()
    assert demultiplexer.feed(b"\x01\0\0") == []
    with pytest.raises(Invalid):
        demultiplexer.finish()


@given(st.binary(max_size=60), st.binary(max_size=6), st.booleans())
def test_lines_as_frames_are_those_lines(data: bytes, prefix: bytes, starts: bool) -> None:
    """Each with the prefix, the first only if it starts; nothing is a frame without payload."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    lines = [line for line in lines if line]
    expected = [(prefix if starts or at else b"") + line for at, line in enumerate(lines)]
    pieces = Demultiplexer().feed(frame_lines(1, data, prefix, starts=starts))
    assert pieces == [(1, line) for line in expected]
