"""What a container printed, on disk: blocks of framed chunks.

A file is a row of blocks of ``BLOCK`` bytes, the last one as long as it has become. Each begins with a head::

    0xB2 'L' 'B' '1'   crc32 u32 of the rest   base u64   latest u64

``base`` is the block's place in the whole of what was printed, counted in bytes of files, over all files that
there ever were; ``latest`` the greatest time of any chunk before it, ns UTC. Chunks follow, none across a block's
end::

    0xB2  stream (1 stdout, 2 stderr)  flags  0   length u32   time u64 (ns UTC)   crc32 u32 of these and payload

and then the payload, at most ``CHUNK`` bytes as they were read from the pipe. Flag 1: it goes on with a line that
an earlier chunk of its stream began; 2: something before it was lost. Where no header and one byte would fit any
more, zeros fill the block. Everything is little endian.

What a container prints can't forge a frame: lengths lead over it, and the places where reading begins again after
damage are multiples of ``BLOCK``, which are never inside of a payload. Damage costs at most the rest of its block.
A tail that was torn, by a power cut or a full disk, is not read; who writes on begins with the next block.

Files of the first format, 0xB1, are a row of such chunks without blocks and flags. They are read up to damage.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable

import attrs

__all__ = [
    "BLOCK",
    "BLOCK_HEAD",
    "CHUNK",
    "OVERHEAD",
    "BlockHead",
    "Chunk",
    "Page",
    "crc32",
    "encode_chunk",
    "encode_head",
    "is_old",
    "pad",
    "read_head",
    "read_page",
    "whole_end",
]

BLOCK = 1 << 18
"""Bytes of a block: how much is read at once, and what damage may cost."""
CHUNK = 1 << 16
"""The most payload bytes in one chunk."""

_HEAD = struct.Struct("<BBBBIQ")
_CRC = struct.Struct("<I")
_BLOCK = struct.Struct("<QQ")
_MAGIC = 0xB2
_OLD = 0xB1
_BLOCK_MAGIC = b"\xb2LB1"
_CONTINUES, _LOST = 1, 2

OVERHEAD = _HEAD.size + _CRC.size
"""Bytes of a chunk besides its payload."""
BLOCK_HEAD = len(_BLOCK_MAGIC) + _CRC.size + _BLOCK.size
"""Bytes of a block's head."""

_FAST_FROM = 4096
_fast: Callable[[bytes | memoryview, int], int] | None = None


@attrs.frozen
class BlockHead:
    """Where a block is in the whole of what was printed, and the greatest time before it."""

    base: int
    latest: int


@attrs.frozen
class Chunk:
    """Bytes that one ``read`` gave: ``stream`` 1 or 2, ``time`` in ns UTC.

    ``at`` and ``end``: its place in the file. ``continues``: its first byte goes on with a line that was begun
    before; always False in the first format, which doesn't tell. ``lost``: something before it could not be kept,
    or not be read.
    """

    stream: int
    time: int
    data: bytes
    at: int
    end: int
    continues: bool = False
    lost: bool = False


@attrs.frozen
class Page:
    """The chunks of one read, and the ``end`` to read on from. ``skipped``: there is damage between the two."""

    chunks: list[Chunk]
    end: int
    skipped: bool = False


def crc32(data: bytes | memoryview, start: int = 0) -> int:
    """zlib's checksum, by the faster of two libraries; the second is imported when there is much to do."""
    if len(data) < _FAST_FROM:
        return zlib.crc32(data, start)
    global _fast
    if _fast is None:
        from isal import isal_zlib

        _fast = isal_zlib.crc32
    return _fast(data, start)


def encode_head(head: BlockHead) -> bytes:
    """A block's head."""
    rest = _BLOCK.pack(head.base, head.latest)
    return _BLOCK_MAGIC + _CRC.pack(zlib.crc32(rest)) + rest


def encode_chunk(
    stream: int, time: int, data: bytes | memoryview, *, continues: bool = False, lost: bool = False
) -> bytes:
    """What comes before ``data`` in the file. ``ValueError`` for more than ``CHUNK`` bytes, or none."""
    if not 0 < len(data) <= CHUNK:
        raise ValueError(f"a chunk has 1 to {CHUNK} bytes, not {len(data)}")
    head = _HEAD.pack(_MAGIC, stream, continues * _CONTINUES | lost * _LOST, 0, len(data), time)
    return head + _CRC.pack(crc32(data, zlib.crc32(head)))


def pad(offset: int) -> int:
    """How many zeros come at ``offset`` before the next chunk's header: none, or what is left of the block."""
    left = BLOCK - offset % BLOCK
    return left if left <= OVERHEAD else 0


def is_old(fd: int) -> bool:
    """Whether the file is in the first format, which has no blocks."""
    return os.pread(fd, 1, 0) == bytes([_OLD])


def read_head(fd: int, offset: int) -> BlockHead | None:
    """The head of the block at ``offset``; None if there is none that is whole."""
    return _parse_head(os.pread(fd, BLOCK_HEAD, offset))


def read_page(fd: int, offset: int, most: int = BLOCK, *, old: bool | None = None) -> Page:
    """The whole chunks from ``offset`` on, to the end of its block or (in the first format) about ``most`` bytes.

    ``old``: whether the file is in the first format, None to find out.
    ``offset`` is 0 or where a chunk or a page ended. A page without chunks whose ``end`` is ``offset`` is the end
    of what there is now, or a chunk that is just being written, or a torn tail. Otherwise there is more to read at
    ``end``.
    """
    size = os.fstat(fd).st_size  # before reading: what is below it and can't be read then will never be
    if offset >= size:
        return Page([], offset)
    if is_old(fd) if old is None else old:
        return _read_old(fd, offset, max(most, OVERHEAD + CHUNK))
    stop = offset - offset % BLOCK + BLOCK
    window = os.pread(fd, stop - offset, offset)
    chunks, at = _parse(window, 0 if offset % BLOCK else BLOCK_HEAD, offset, _MAGIC, stop - offset - OVERHEAD)
    end = offset + at
    if stop - end <= OVERHEAD:
        return Page(chunks, stop)
    if size > stop:  # there are blocks after this one, so nothing more will come here
        return Page(chunks, stop, skipped=True)
    return Page(chunks, end if chunks else offset)


def whole_end(fd: int) -> tuple[int, int]:
    """Where the file's last whole chunk ends, and the greatest time there is; (0, 0) if there is nothing whole.

    Reads no more than the last block that has something, whatever the file's size. ``end`` is less than the size
    of the file if its tail is torn.
    """
    size = os.fstat(fd).st_size
    if is_old(fd):
        end = latest = 0
        while (page := read_page(fd, end)).chunks:
            end = page.end
            latest = max(latest, *(chunk.time for chunk in page.chunks))
        return end, latest
    for block in range((size - 1) // BLOCK * BLOCK, -1, -BLOCK):
        head = read_head(fd, block)
        window = os.pread(fd, BLOCK, block)
        chunks, _ = _parse(window, BLOCK_HEAD, block, _MAGIC, BLOCK - OVERHEAD)
        if chunks:
            latest = max(head.latest if head is not None else 0, *(chunk.time for chunk in chunks))
            return chunks[-1].end, latest
    return 0, 0


def _parse_head(data: bytes) -> BlockHead | None:
    if len(data) < BLOCK_HEAD or not data.startswith(_BLOCK_MAGIC):
        return None
    rest = data[len(_BLOCK_MAGIC) + _CRC.size :]
    (crc,) = _CRC.unpack_from(data, len(_BLOCK_MAGIC))
    return BlockHead(*_BLOCK.unpack(rest)) if crc == zlib.crc32(rest) else None


def _parse(window: bytes, at: int, offset: int, kind: int, stop: int) -> tuple[list[Chunk], int]:
    """The whole chunks in ``window`` from ``at`` on, and where the last one ends. ``offset``: of the window."""
    chunks = []
    view = memoryview(window)
    while at < stop and at + OVERHEAD <= len(window):
        magic, stream, flags, _, length, time = _HEAD.unpack_from(window, at)
        start = at + OVERHEAD
        if magic != kind or length > CHUNK or start + length > len(window):
            break
        (crc,) = _CRC.unpack_from(window, at + _HEAD.size)
        if crc != crc32(view[start : start + length], zlib.crc32(view[at : at + _HEAD.size])):
            break
        data = window[start : start + length]
        continues, lost = bool(flags & _CONTINUES), bool(flags & _LOST)
        chunks.append(Chunk(stream, time, data, offset + at, offset + start + length, continues, lost))
        at = start + length
    return chunks, at


def _read_old(fd: int, offset: int, most: int) -> Page:
    window = os.pread(fd, most, offset)
    chunks, at = _parse(window, 0, offset, _OLD, len(window))
    return Page(chunks, offset + at)
