"""Compressed layers: every member and frame counts, each cut and change is noticed, and bombs stay small."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import time
import tracemalloc
from collections import deque
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lading.events.errors import BadLayer, HostError, ImageInvalid
from lading.storage.layerstream import LayerStream
from lading.storage.plan import Limits

SKIPPABLE = b"\x5a\x2a\x4d\x18" + struct.pack("<I", 5) + b"aside"
TEXT = b"".join(b"line %d of a text that can be compressed\n" % number for number in range(40000))  # 1.7 MB


class Chopped(io.RawIOBase):
    """Gives at most ``step`` bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data = io.BytesIO(data)
        self._step = step

    def read(self, n: int = -1, /) -> bytes:
        return self._data.read(min(self._step, n))


class Endless(io.RawIOBase):
    """``start``, and then ``again`` for ever."""

    def __init__(self, start: bytes, again: bytes) -> None:
        self._start = start
        self._again = again * (1 + (1 << 20) // len(again))

    def read(self, n: int = -1, /) -> bytes:
        data, self._start = self._start or self._again, b""
        return data


def zstd(data: bytes, level: int = 3, **kw: Any) -> bytes:
    return zstandard.ZstdCompressor(level=level, write_checksum=True, **kw).compress(data)


def plain(raw: bytes, step: int = 1 << 20, threads: int = 0, **limits: int) -> bytes:
    """All of it; the sizes and names of what was read are checked on the way."""
    kept = io.BytesIO()
    stream = LayerStream(Chopped(raw, step), limits=Limits(**limits), tee=kept, threads=threads)
    out = b"".join(iter(stream.read, b""))
    assert stream.size == len(out)
    assert stream.compressed_size == len(raw)
    assert kept.getvalue() == (b"" if stream.compression == "none" else raw)
    return out


@pytest.mark.parametrize("threads", [0, 1, 2])
@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gzip", "zstd"])
def test_members_and_frames_are_all_read(pack: Any, threads: int) -> None:
    assert plain(pack(TEXT), threads=threads) == TEXT
    assert plain(pack(b"one ") + pack(b"") + pack(b"two"), threads=threads) == b"one two"
    assert plain(pack(b"one") + bytes(3000), threads=threads) == b"one"


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gzip", "zstd"])
def test_short_reads_make_no_difference(pack: Any, step: int) -> None:
    small = TEXT[:50000]
    raw = pack(small) + pack(small)
    if pack is zstd:
        raw = SKIPPABLE + raw + SKIPPABLE
    assert plain(raw + bytes(20), step) == small + small


def test_skippable_frames_are_skipped() -> None:
    assert plain(SKIPPABLE + zstd(b"a") + SKIPPABLE + SKIPPABLE + zstd(b"b") + SKIPPABLE) == b"ab"
    big = b"\x50\x2a\x4d\x18" + struct.pack("<I", 3 << 20) + bytes(3 << 20)
    assert plain(big + zstd(b"a")) == b"a"


def test_frames_of_every_form() -> None:
    for level in (-5, 1, 19):
        assert plain(zstd(TEXT, level)) == TEXT
    assert plain(zstandard.ZstdCompressor(write_content_size=False).compress(TEXT)) == TEXT
    streamed = zstandard.ZstdCompressor().compressobj()
    assert plain(streamed.compress(TEXT) + streamed.flush()) == TEXT
    assert plain(zstd(bytes(10 << 20))) == bytes(10 << 20)


@pytest.mark.parametrize("junk", [b"junk", b"\0\0junk", bytes(5000) + b"x", b"\x28\xb5\x2f"])
@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gzip", "zstd"])
def test_anything_but_zeros_after_the_end_is_an_error(pack: Any, junk: bytes) -> None:
    with pytest.raises(BadLayer, match=r"something else after|cut off"):
        plain(pack(b"x") + junk)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gzip", "zstd"])
def test_every_cut_is_noticed(pack: Any, threads: int) -> None:
    raw = pack(TEXT[:3000]) + pack(TEXT[:200])
    ends = {len(raw), len(pack(TEXT[:3000]))}
    for cut in range(20, len(raw)):
        if cut not in ends:
            with pytest.raises(BadLayer, match="cut off"):
                plain(raw[:cut], threads=threads)


@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gzip", "zstd"])
def test_every_changed_byte_is_noticed_or_harmless(pack: Any) -> None:
    data = TEXT[:300]
    raw = pack(data)
    for at in range(4, len(raw)):
        changed = raw[:at] + bytes([raw[at] ^ 0x55]) + raw[at + 1 :]
        try:
            found = plain(changed)
        except ImageInvalid:
            continue
        assert found == data  # a time or a name in a header


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_decoded_or_refused(data: bytes, as_zstd: bool) -> None:
    start = zstd(b"x")[:4] if as_zstd else gzip.compress(b"x")[:4]
    with contextlib.suppress(ImageInvalid):
        plain(start + data)


def test_a_window_larger_than_the_limit_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    streamed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()  # which knows no size
    raw = streamed.compress(TEXT) + streamed.flush()
    assert plain(raw) == TEXT
    with pytest.raises(BadLayer, match=r"window of more than 8388608 bytes.*--long"):
        plain(raw, zstd_window=1 << 23)
    # A header that asks for 2 GiB and has nothing in it: refused for what it asks.
    with pytest.raises(BadLayer, match="window"):
        plain(b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3]) + b"\x01\x00\x00")


def test_what_expands_too_much_is_refused() -> None:
    raw = zstd(bytes(64 << 20))
    assert len(raw) < 10000
    assert len(plain(raw)) == 64 << 20  # honest zeros, up to a gibibyte
    with pytest.raises(BadLayer, match=r"bomb: .* bytes expand to more than 2000 times"):
        plain(raw, expansion_free=1 << 20)
    assert plain(raw, expansion_free=1 << 20, expansion=50000)
    with pytest.raises(BadLayer, match="larger than the limit of 1000 bytes"):
        plain(raw, stream_bytes=1000)
    # gzip can't: 1032 to 1 is its best.
    assert plain(gzip.compress(bytes(16 << 20), 9), expansion_free=1 << 20)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["zstd", "gzip", "headers"])
def test_a_bomb_takes_little_memory(form: str) -> None:
    if form == "zstd":  # blocks of one repeated byte: 4 bytes for 128 KiB, 8 GiB in a piece
        block = struct.pack("<I", (1 << 17) << 3 | 1 << 1)[:3] + b"x"
        source = Endless(b"\x28\xb5\x2f\xfd\x00\x58", block)
    elif form == "gzip":
        source = Endless(b"", gzip.compress(bytes(1 << 24), 9))
    else:
        source = Endless(b"", SKIPPABLE)
    stream = LayerStream(source, limits=Limits(stream_bytes=1 << 28))
    tracemalloc.start()
    try:
        if form == "headers":
            source.read = _few(source.read, 2)  # type: ignore[method-assign]
            assert stream.read() == b""
        else:
            with pytest.raises(BadLayer, match="limit"):
                deque(iter(stream.read, b""), maxlen=0)
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


def _few(read: Any, times: int) -> Any:
    pieces = iter(range(times))
    return lambda n: read(n)[: 13 * ((1 << 20) // 13)] if next(pieces, None) is not None else b""


@pytest.mark.slow
@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gzip", "zstd"])
def test_many_short_members_take_no_more_time_than_their_bytes(pack: Any) -> None:
    """What is left of a piece is not copied for each of the thousands of members in it."""
    started = time.process_time()
    assert plain(pack(b"") * 300_000 + pack(b"x")) == b"x"
    assert time.process_time() - started < 2.5  # 0.5 s, and 4 s with the copies


def test_a_source_and_a_tee_that_fail_are_told_apart() -> None:
    class Broken(io.RawIOBase):
        def read(self, n: int = -1, /) -> bytes:
            raise OSError(5, "no")

        def write(self, data: Any, /) -> int:
            raise OSError(28, "full")

    with pytest.raises(HostError, match="cannot read the layer"):
        LayerStream(Broken()).read()
    with pytest.raises(HostError, match=r"cannot keep the layer's blob.*free some space"):
        LayerStream(io.BytesIO(gzip.compress(b"x")), tee=Broken()).read()


@pytest.mark.parametrize("threads", [1, 2])
def test_what_a_source_raises_comes_through_the_threads(threads: int) -> None:
    class Broken(io.RawIOBase):
        def __init__(self) -> None:
            self._first = gzip.compress(TEXT)[:-100]

        def read(self, n: int = -1, /) -> bytes:
            if not self._first:
                raise KeyError("mine")
            data, self._first = self._first, b""
            return data

    stream = LayerStream(Broken(), threads=threads)
    assert stream.read()
    with pytest.raises(KeyError, match="mine"):
        list(iter(stream.read, b""))
    stream.close()
