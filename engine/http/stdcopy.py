"""Docker's multiplexed stream: several byte streams as frames on one connection.

A frame is an eight-byte header and a payload: ``[stream, 0, 0, 0, size as 32 bits big-endian]`` (Docker
Engine API, ``POST /containers/{id}/attach``, "Stream format"). Streams are 0 stdin, 1 stdout, 2 stderr and 3,
which carries an error text of the engine itself.
"""

from __future__ import annotations

import struct

from lading.events.errors import Invalid

__all__ = ["HEADER_SIZE", "STDERR", "STDIN", "STDOUT", "SYSTEM_ERROR", "Demultiplexer", "frame", "frame_lines"]

STDIN, STDOUT, STDERR, SYSTEM_ERROR = range(4)
HEADER_SIZE = 8
_HEADER = struct.Struct(">BxxxL")
_WORDS = struct.Struct(">LL")
_STREAMS = frozenset(stream << 24 for stream in range(STDIN, SYSTEM_ERROR + 1))
_PAYLOAD_MAX = 2**32 - 1


def frame(stream: int, payload: bytes) -> bytes:
    """``payload`` as one frame of ``stream``. Raises `Invalid` for an unknown stream or 4 GiB and more."""
    if not STDIN <= stream <= SYSTEM_ERROR:
        raise Invalid("stream number", stream, "it must be 0 to 3")
    if len(payload) > _PAYLOAD_MAX:
        raise Invalid("frame size", len(payload), "a frame holds less than 4 GiB; split it")
    return _HEADER.pack(stream, len(payload)) + payload


def frame_lines(stream: int, data: bytes, prefix: bytes = b"", *, starts: bool = True) -> bytes:
    """``data`` as frames of ``stream``, one for each line, as Docker's logs have it.

    ``prefix`` goes in front of each line; not of the first if that only goes on with one, which ``starts`` tells.
    """
    lines = data.split(b"\n")
    last = lines.pop()
    pack, more = _HEADER.pack, len(prefix) + 1
    parts = []
    if lines and not starts:
        parts.append(pack(stream, len(lines[0]) + 1) + lines.pop(0) + b"\n")
        starts = True
    # One join of short pieces: an object and a call for each line is what this costs.
    parts += [pack(stream, len(line) + more) + prefix + line + b"\n" for line in lines]
    if last:
        last = prefix + last if starts else last
        parts.append(pack(stream, len(last)) + last)
    return b"".join(parts)


class Demultiplexer:
    """Bytes in, pieces of streams out; no I/O, and never more than seven bytes kept.

    A payload is handed on as it arrives, in as many pieces as it arrives in: a header that announces 4 GiB
    costs nothing. Frames without payload give no pieces.
    """

    def __init__(self) -> None:
        self._header = b""
        self._stream = STDIN
        self._left = 0
        self._error: Invalid | None = None

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The pieces that ``data`` completes, in order, as (stream, bytes).

        Raises `Invalid` at a header that can't be one, and ever after: where the next frame begins is
        unknown. If there are pieces before the bad header they are returned, and the next call raises.
        """
        if self._error is not None:
            raise self._error
        pieces: list[tuple[int, bytes]] = []
        at = 0
        if not self._left and not self._header:  # the many frames that are whole
            while at + HEADER_SIZE <= len(data):
                word, size = _WORDS.unpack_from(data, at)
                start = at + HEADER_SIZE
                if word not in _STREAMS or start + size > len(data):
                    break
                if size:
                    pieces.append((word >> 24, data[start : start + size]))
                at = start + size
        view = memoryview(data)
        while at < len(view):
            if self._left:
                piece = bytes(view[at : at + self._left])
                pieces.append((self._stream, piece))
                self._left -= len(piece)
                at += len(piece)
                continue
            taken = view[at : at + HEADER_SIZE - len(self._header)]
            self._header += taken
            at += len(taken)
            if len(self._header) == HEADER_SIZE:
                header, self._header = self._header, b""
                if header[0] > SYSTEM_ERROR or header[1:4] != b"\0\0\0":
                    why = "a frame begins with a stream number from 0 to 3 and three zero bytes"
                    self._error = Invalid("frame header", header, why)
                    break
                self._stream, self._left = _HEADER.unpack(header)
        if self._error is not None and not pieces:
            raise self._error
        return pieces

    def finish(self) -> None:
        """Say that no more comes. Raises `Invalid` if that is in the middle of a frame."""
        if self._error is not None:
            raise self._error
        if self._left or self._header:
            missing = self._left or HEADER_SIZE - len(self._header)
            raise Invalid("multiplexed stream", missing, "it ended this many bytes before the end of a frame")
