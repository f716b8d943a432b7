"""The compressions that a layer may come in: told by the first bytes, undone piece by piece.

Neither a file name nor a media type is asked. Everything is decoded in this process; no external program ever runs
on these bytes. A decoder is a generator: raw pieces in, plain pieces of at most :data:`PIECE` bytes out, holding
no more than its window and a few pieces. A new format is one more of them and one line in ``_FORMATS``.

Sources: OCI image-spec layer.md (tar, tar+gzip, tar+zstd); RFC 1952 for gzip and RFC 8878 for zstd. Both are a
series of members or frames, all of which count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from lading.events.errors import BadLayer, ImageInvalid

__all__ = ["PIECE", "SNIFF", "Decoder", "find_decoder"]

PIECE: Final = 1 << 20
"""Bytes that are read, decoded and hashed at once: enough for the interpreter's part not to count."""

SNIFF: Final = 16
"""How many bytes it takes to tell any of the formats."""

Decoder = Callable[[Iterator[bytes]], Iterator[bytes]]
"""Raw pieces in, plain ones out; raises ``BadLayer`` when the data is not in the format, or is cut off."""

_SUPPORTED = "uncompressed tar, gzip and zstd"

_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_FEW: Final = 8 * 1024
_BLOCKS: Final = PIECE >> 17  # a block holds at most 128 KiB


def find_decoder(start: bytes, zstd_window: int) -> tuple[str, Decoder | None]:
    """The name of the format that begins with ``start`` and what decodes it; ``none`` and None for plain bytes.

    ``zstd_window`` bounds the memory that a zstd frame may ask for. Raises ``ImageInvalid`` for a format that is
    known and not supported.
    """
    for name, magic in _FORMATS.items():
        if magic.match(start):
            if name == "gzip":
                return name, _gunzip
            if name == "zstd":
                return name, lambda raw: _unzstd(_Raw(raw), zstd_window)
            raise ImageInvalid(
                f"the layer is {name} data, which is not supported; supported are {_SUPPORTED}: "
                "build or pull the image with one of those"
            )
    return "none", None


_FORMATS: dict[str, re.Pattern[bytes]] = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "bzip2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    "lz4": re.compile(rb"\x04\x22\x4d\x18"),
    "zip": re.compile(rb"PK\x03\x04"),
}


def _gunzip(raw: Iterator[bytes]) -> Iterator[bytes]:
    """Every member of a gzip stream; zeros after the last are padding, anything else is refused."""
    from isal import igzip_lib

    def begin() -> igzip_lib.IgzipDecompressor:
        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)

    member = begin()
    begun = True  # whether any byte of the current member was seen
    step = PIECE
    for piece in raw:
        view, at = memoryview(piece), 0
        while at < len(piece):
            if not begun:
                if piece[at] != 0x1F:
                    _only_zeros(piece[at:], raw, "gzip")
                    return
                member, begun = begin(), True
            end = min(at + step, len(piece))
            try:
                if plain := member.decompress(view[at:end], PIECE):
                    yield plain
                while not (member.needs_input or member.eof):
                    if plain := member.decompress(b"", PIECE):
                        yield plain
            except igzip_lib.error as error:  # type: ignore[misc]  # its stub takes the class for an instance
                raise BadLayer(f"its gzip compression is corrupt ({error})") from error
            at = end
            step = min(2 * step, PIECE)
            if member.eof:
                # What is left over was copied: where members are short, they are given little at a time.
                at -= len(member.unused_data)
                begun, step = False, _FEW
    if begun:
        raise BadLayer("its gzip data is cut off")


def _only_zeros(data: bytes, raw: Iterator[bytes], format: str) -> None:
    while True:
        if data.strip(b"\0"):
            raise BadLayer(f"there is something else after the end of its {format} data")
        following = next(raw, None)
        if following is None:
            return
        data = following


class _Raw:
    """Exact numbers of bytes out of pieces of any length."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces
        self._data = b""
        self._at = 0

    def ended(self) -> bool:
        """Whether there is nothing more."""
        if self._at == len(self._data):
            self._data = next(self.pieces, b"")
            self._at = 0
        return not self._data

    def next_is_zero(self) -> bool:
        """Whether the next byte, which is there, is zero."""
        return not self._data[self._at]

    def some(self) -> bytes:
        """What is there already, or the next piece; nothing at the end."""
        if self.ended():
            return b""
        start, self._at = self._at, len(self._data)
        return self._data[start:] if start else self._data

    def exactly(self, size: int) -> bytes:
        """``size`` bytes. Raises ``BadLayer`` if there are fewer."""
        end = self._at + size
        if end <= len(self._data):
            found = self._data[self._at : end]
            self._at = end
            return found
        parts, left = [self.some()], size
        while True:
            left -= len(parts[-1])
            if left <= 0:
                break
            parts.append(self.some())
            if not parts[-1]:
                raise BadLayer("its zstd data is cut off")
        self._at += left  # give back what was too much
        return b"".join(parts)[:size]

    def skip(self, size: int) -> None:
        """Pass over ``size`` bytes in constant memory."""
        while size:
            step = min(size, PIECE)
            self.exactly(step)
            size -= step


def _unzstd(raw: _Raw, window: int) -> Iterator[bytes]:
    """Every frame of a zstd stream; zeros after the last are padding, anything else is refused.

    A few bytes may stand for a block of 128 KiB, so the library, which decodes all that it is given, is given a
    few blocks at a time (RFC 8878, 3.1.1): the frame's structure is read here, its contents there.
    """
    import zstandard

    library = zstandard.ZstdDecompressor(max_window_size=window)
    frames = 0
    while not raw.ended():
        if frames and raw.next_is_zero():
            _only_zeros(raw.some(), raw.pieces, "zstd")
            return
        magic = raw.exactly(4)
        if 0x50 <= magic[0] <= 0x5F and magic[1:] == b"\x2a\x4d\x18":
            raw.skip(int.from_bytes(raw.exactly(4), "little"))
        elif magic == _ZSTD_MAGIC:
            frame = library.decompressobj(write_size=PIECE)
            try:
                for blocks in _blocks(raw):
                    if plain := frame.decompress(blocks):
                        yield plain
            except zstandard.ZstdError as error:
                if "much memory" in str(error):
                    why = f"its zstd frames need a window of more than {window} bytes"
                    raise BadLayer(f"{why}: compress it without --ultra or --long") from error
                if "not enough memory" in str(error):
                    raise MemoryError from error
                raise BadLayer(f"its zstd compression is corrupt ({error})") from error
            if not frame.eof:
                raise BadLayer("its zstd compression is corrupt (a frame goes on after its last block)")
        else:
            raise BadLayer("there is something else after the end of its zstd data")
        frames += 1


def _blocks(raw: _Raw) -> Iterator[bytes]:
    """One frame from behind its magic number, in groups of ``_BLOCKS`` blocks."""
    descriptor = raw.exactly(1)[0]
    single = descriptor >> 5 & 1
    size = (not single) + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[descriptor >> 6]
    parts = [_ZSTD_MAGIC, bytes((descriptor,)), raw.exactly(size)]
    blocks = last = 0
    while not last:
        header = raw.exactly(3)
        number = int.from_bytes(header, "little")
        last, kind, size = number & 1, number >> 1 & 3, number >> 3
        if kind == 3 or size > 1 << 17:
            raise BadLayer("its zstd compression is corrupt (a block of no known kind)")
        parts += (header, raw.exactly(1 if kind == 1 else size))
        blocks += 1
        if last and descriptor & 4:
            parts.append(raw.exactly(4))  # the checksum
        if last or blocks == _BLOCKS:
            yield b"".join(parts)
            parts, blocks = [], 0
