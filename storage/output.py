"""What a container printed, as an append-only file of framed chunks.

Each chunk is a 20-byte header and up to ``CHUNK`` bytes as they were read from the pipe::

    0xB1  stream (1 stdout, 2 stderr)  0 0   length u32   time u64 (ns UTC)   crc32 u32 of these and the payload

(little endian). Framing by length means that nothing a container prints can forge a frame or a timestamp,
and a torn tail, after a power cut or on a full disk, is recognised: what is before it is served.
"""

from __future__ import annotations

import os
import struct
import zlib

import attrs

__all__ = ["CHUNK", "Chunk", "append_chunk", "read_chunks"]

CHUNK = 1 << 16
"""The most payload bytes in one chunk."""

_HEAD = struct.Struct("<BBHIQ")
_CRC = struct.Struct("<I")
_MAGIC = 0xB1
_OVERHEAD = _HEAD.size + _CRC.size


@attrs.frozen
class Chunk:
    """Bytes that one ``read`` gave: ``stream`` 1 or 2, ``time`` in ns UTC, ``end`` the offset after it."""

    stream: int
    time: int
    data: bytes
    end: int


def append_chunk(fd: int, stream: int, time: int, data: bytes) -> None:
    """Append one chunk to ``fd`` (opened with O_APPEND). ``OSError`` as ``write`` gives it.

    A write that a full disk cut short is taken back, so that the file stays whole. Not synced.
    """
    if len(data) > CHUNK:
        raise ValueError(f"a chunk has at most {CHUNK} bytes, not {len(data)}")
    head = _HEAD.pack(_MAGIC, stream, 0, len(data), time)
    crc = _CRC.pack(zlib.crc32(data, zlib.crc32(head)))
    written = os.writev(fd, (head, crc, data))
    if written != _OVERHEAD + len(data):
        os.ftruncate(fd, os.fstat(fd).st_size - written)
        raise OSError(28, "No space left on device")


def read_chunks(fd: int, offset: int, most: int = 1 << 20) -> list[Chunk]:
    """The whole chunks from ``offset`` on, about ``most`` bytes of them; empty at the end or at damage."""
    window = os.pread(fd, max(most, _OVERHEAD + CHUNK), offset)
    chunks = []
    at = 0
    while at + _OVERHEAD <= len(window):
        magic, stream, _, length, time = _HEAD.unpack_from(window, at)
        start = at + _OVERHEAD
        data = window[start : start + length]
        if magic != _MAGIC or length > CHUNK or len(data) < length:
            break
        (crc,) = _CRC.unpack_from(window, at + _HEAD.size)
        if crc != zlib.crc32(data, zlib.crc32(window[at : at + _HEAD.size])):
            break
        at = start + length
        chunks.append(Chunk(stream, time, data, offset + at))
    return chunks
