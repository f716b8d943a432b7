"""Writing what a container prints, and rotating its files.

One writer at a time: the keeper, which has at most one run of a container. Nothing is synced; what ``write`` took
is with the kernel, and so survives the death of this process.
"""

from __future__ import annotations

import os

from lading.storage.output import (
    BLOCK,
    BLOCK_HEAD,
    CHUNK,
    OVERHEAD,
    BlockHead,
    encode_chunk,
    encode_head,
    is_old,
    pad,
    read_head,
    whole_end,
)
from lading.storage.outputfiles import CURRENT, OutputFile, open_kept, rotate

__all__ = ["OutputWriter"]

_SMALL = 1 << 12
"""A file that has less room than this and a quarter of its size is not filled up with a piece of what comes."""
_LEAST = 512
"""Payload bytes that a file's first chunk may have, however small files should be."""
_VECTOR = 256
"""Buffers in one call; the kernel takes 1024."""


class OutputWriter:
    """The output of one run, into ``output`` in ``directory`` (a path); opened by the first write.

    ``size``: of a file, headers and all, when it is rotated, 0 for never. No file grows beyond it, except that
    each has one chunk of at least 512 bytes. ``count``: how many files there are at most, with the current one (0
    is 1).
    """

    def __init__(self, directory: str, size: int = 0, count: int = 0) -> None:
        self._path = directory
        self._size, self._count = size, count
        self._directory = -1
        self._fd = -1
        self._base = self._offset = self._latest = 0
        self._end = 0
        self._mark: tuple[int, int] = (0, 0)
        self._open = [False, False, False]
        self._lost = False

    @property
    def position(self) -> int:
        """Where the last chunk that was written ends in all that was printed; 0: none was yet."""
        return self._end

    def write(self, stream: int, time: int, data: bytes | memoryview) -> None:
        """Append ``data``, which came at ``time`` (ns UTC) from ``stream``, as one chunk or several.

        ``OSError`` (a full disk) leaves the file whole: the chunks that fitted are in it, the next one that is
        written tells that something is missing.
        """
        view = memoryview(data)
        try:
            if self._fd < 0:
                self._open_file()
            while view:
                if self._is_full(self._offset, len(view)):
                    self._rotate()
                taken = self._write_some(stream, time, view)
                view = view[taken:]
        except OSError:
            self._lost = True
            raise
        finally:
            if len(data):
                self._open[stream] = data[-1] != 10

    def take_back(self) -> None:
        """Drop what was written: it was no output. Of what was rotated meanwhile, only the newest file."""
        if self._fd >= 0:
            base, size = self._mark
            os.ftruncate(self._fd, size if base == self._base else BLOCK_HEAD)

    def close(self) -> None:
        """Close the files. Idempotent."""
        for fd in (self._fd, self._directory):
            if fd >= 0:
                os.close(fd)
        self._fd = self._directory = -1

    # -- chunks ---------------------------------------------------------------------------------------------

    def _is_full(self, offset: int, more: int) -> bool:
        """Whether ``more`` bytes go to a new file: there is no room, or so little that they'd be cut for it."""
        if not self._size or offset <= BLOCK_HEAD:
            return False
        offset += pad(offset)
        room = self._size - offset - OVERHEAD - (BLOCK_HEAD if offset % BLOCK == 0 else 0)
        return room <= 0 or room < min(more, _SMALL, self._size // 4)

    def _write_some(self, stream: int, time: int, view: memoryview) -> int:
        """Write as much of ``view`` as goes into this file and one call; how many bytes that were."""
        buffers: list[bytes | memoryview] = []
        ends: list[tuple[int, int]] = []  # of each chunk: its length in the file, and of ``view`` up to there
        offset, at, continues, lost = self._offset, 0, self._open[stream], self._lost
        while at < len(view) and len(buffers) < _VECTOR:
            if at and self._is_full(offset, len(view) - at):
                break
            start, fill = offset, pad(offset)
            offset += fill
            head = BLOCK_HEAD if offset % BLOCK == 0 else 0
            most = min(CHUNK, BLOCK - offset % BLOCK - head - OVERHEAD)
            if self._size:
                most = min(most, max(self._size - offset - head - OVERHEAD, 1 if start else _LEAST))
            piece = view[at : at + most]
            if self._size and len(piece) < min(CHUNK, len(view) - at):
                piece = _cut_at_line(piece)
            if fill:
                buffers.append(bytes(fill))
            if head:
                buffers.append(encode_head(BlockHead(self._base + offset, max(self._latest, time if at else 0))))
                offset += head
            buffers += (encode_chunk(stream, time, piece, continues=continues, lost=lost), piece)
            offset += OVERHEAD + len(piece)
            at += len(piece)
            ends.append((offset - start, at))
            continues, lost = piece[-1] != 10, False
        written = os.pwritev(self._fd, buffers, self._offset)
        return self._count_written(stream, time, view, written, ends)

    def _count_written(
        self, stream: int, time: int, view: memoryview, written: int, ends: list[tuple[int, int]]
    ) -> int:
        taken = whole = 0
        for length, at in ends:
            if whole + length > written:
                break
            whole, taken = whole + length, at
        if whole:
            self._offset += whole
            self._end = self._base + self._offset
            self._latest = max(self._latest, time)
            self._open[stream] = view[taken - 1] != 10
            self._lost = False
        if len(ends) and taken < ends[-1][1]:
            os.ftruncate(self._fd, self._offset)
            raise OSError(28, "No space left on device")
        return taken

    # -- files ----------------------------------------------------------------------------------------------

    def _open_file(self) -> None:
        if self._directory < 0:
            self._directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(CURRENT, flags, 0o600, dir_fd=self._directory)
        try:
            fd = self._place(fd)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def _place(self, fd: int) -> int:
        """Find where to go on; gives the file to go on in."""
        own = OutputFile(fd, 0)
        size = own.size
        if is_old(fd):
            self._base, self._latest = size, whole_end(fd)[1]
            new = rotate(self._directory, size, self._latest, max(self._count - 1, 1))
            os.close(fd)
            self._mark = (size, 0)
            return new
        own.look()
        if own.base is None:  # it is new, or not one head is whole
            self._base, self._latest = self._end_of_kept()
        else:
            self._base = own.base
        if size > BLOCK_HEAD:
            end, latest = whole_end(fd)
            self._latest = max(self._latest, latest)
            # Over what can't be read nothing is written: it goes on in the block after it.
            self._offset = end if end == size else -(-size // BLOCK) * BLOCK
        elif (head := read_head(fd, 0)) is not None:
            self._latest = head.latest
        self._mark = (self._base, size)
        return fd

    def _end_of_kept(self) -> tuple[int, int]:
        """Where the newest of the kept files ends, and the greatest time there."""
        for kept in open_kept(self._directory):
            try:
                if kept.base is not None:
                    return kept.base + kept.size, whole_end(kept.fd)[1]
            finally:
                kept.close()
        return 0, 0

    def _rotate(self) -> None:
        """Go on in a new file. ``OSError`` leaves the old one, if need be under another name."""
        base = self._base + self._offset
        new = rotate(self._directory, base, self._latest, max(self._count - 1, 0))
        os.close(self._fd)
        self._fd, self._base, self._offset = new, base, 0


def _cut_at_line(piece: memoryview) -> memoryview:
    """``piece`` up to its last newline, if it has one in its second half: a file should begin with a line."""
    end = bytes(piece).rfind(b"\n") + 1
    return piece[:end] if end * 2 > len(piece) else piece
