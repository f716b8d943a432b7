"""A layer's original tar, byte for byte: what is not file data, and where in the tree the file data is.

Most of an archive is the contents of its files, which the unpacked tree has already. The rest (headers, padding,
maps of sparse files, whatever follows the end) is kept here, compressed: some ten bytes for each entry.
:mod:`lading.storage.splitread` puts both together again.

On disk, a directory for each layer::

    split      "LDSP", a format byte, then one zstd frame with a checksum, of records:
                 R length(4)                      bytes of the stream, as they are
                 F length(4) size(8)              path: the whole of the file at that path, ``size`` bytes
                 S length(4) size(8) regions(4)   path, regions: those (offset(8), length(8)) of it, end to end
                 E size(8)                        the end, and how many bytes the stream has altogether
    moves      only if anything moved: zstd frames of records
                 when(8) spill(8) length(4) length(4)   path, new path
    spill/<n>  files and trees that a later entry of the same archive replaced

Numbers are little-endian. ``when`` counts the file records that came before the move, to which alone it applies:
what they call ``path``, or something beneath it, is at ``spill/<n>`` now or, with a ``spill`` of ``2**64 - 1``, at
the new path in the tree. Paths are real ones: no symlink leads through them, and none is followed.

A split is made while its layer is staged and never changes after that, but for :class:`SplitMoves`.
"""

from __future__ import annotations

import contextlib
import os
import struct
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Final

import zstandard

from lading.events.errors import BadLayer
from lading.storage.paxheader import Regions
from lading.storage.pieces import PIECE

__all__ = ["MAX_MOVES", "SplitMoves", "SplitWriter"]

MAGIC: Final = b"LDSP\x01"
_LEVEL: Final = 3
RAW = struct.Struct("<cI")
FILE = struct.Struct("<cIQ")
SPARSE = struct.Struct("<cIQI")
REGION = struct.Struct("<QQ")
END = struct.Struct("<cQ")
MOVE = struct.Struct("<QQII")
IN_TREE: Final = 2**64 - 1
_AFTER_ALL: Final = 2**64 - 1

MAX_MOVES: Final = 1_000_000
"""How many of its own entries an archive may replace; reading it again holds as many paths in memory."""
MAX_MOVE_BYTES: Final = 64 * 2**20

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class _Mover(ABC):
    """Notes where contents went that the records so far name by other paths."""

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._spilled = 0
        self._moves: list[bytes] = []
        self._move_bytes = 0

    def spill(self, path: bytes, parent: int, name: bytes, /) -> None:
        """Move ``name`` of the directory ``parent``, which is at ``path`` in the tree, out of the tree."""
        if not self._spilled:
            os.mkdir("spill", 0o700, dir_fd=self._directory)
        os.rename(name, b"spill/%d" % self._spilled, src_dir_fd=parent, dst_dir_fd=self._directory)
        self._note(path, self._spilled, b"")
        self._spilled += 1

    def moved(self, path: bytes, to: bytes, /) -> None:
        """What is at ``path`` in the tree, and beneath it, is at ``to`` from now on."""
        self._note(path, IN_TREE, to)

    @abstractmethod
    def _when(self) -> int:
        """How many records came before what moves now: it is for them."""

    def _note(self, path: bytes, spill: int, to: bytes) -> None:
        when = self._when()
        if not when:
            return
        self._move_bytes += len(path) + len(to) + MOVE.size
        if len(self._moves) >= MAX_MOVES or self._move_bytes > MAX_MOVE_BYTES:
            raise BadLayer(f"it replaces more of its own entries than is accepted, {len(self._moves)}", path)
        self._moves.append(MOVE.pack(when, spill, len(path), len(to)) + path + to)

    def _write_moves(self) -> None:
        if not self._moves:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        fd = os.open("moves", flags, 0o600, dir_fd=self._directory)
        try:
            zstd = _compressor()
            for record in self._moves:
                _write(fd, zstd.compress(record))
            _write(fd, zstd.flush())
        finally:
            os.close(fd)
        self._moves.clear()


class SplitMoves(_Mover):
    """Notes, in the finished split in ``directory`` (a descriptor, which stays open), what moves after that: while
    its layer is settled on others, one move after the other. ``OSError`` of the disk goes through. Until
    :meth:`finish` the split is not right any more, nor after a failure.
    """

    def __init__(self, directory: int) -> None:
        super().__init__(directory)
        with contextlib.suppress(FileNotFoundError):
            fd = os.open("spill", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
            try:
                self._spilled = len(os.listdir(fd))
            finally:
                os.close(fd)

    def finish(self) -> None:
        """Everything that moves has moved."""
        self._write_moves()

    def _when(self) -> int:
        return _AFTER_ALL


class SplitWriter(_Mover):
    """Writes the split of one archive into the empty directory ``directory`` (a descriptor, which stays open).

    Whoever unpacks calls :meth:`raw` and :meth:`file` in the order of the stream, every byte of which is in
    exactly one of the calls, and :meth:`spill` or :meth:`moved` when something is put elsewhere, which then holds
    for the calls before. ``OSError`` of the disk goes through. Without :meth:`finish` there is no split, but a
    directory for the caller to remove; nothing is synced.
    """

    def __init__(self, directory: int) -> None:
        super().__init__(directory)
        self.size: int = 0
        self._files = 0
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._records: list[bytes] = []
        self._records_size = 0
        self._fd = os.open("split", _NEW, 0o600, dir_fd=directory)
        self._zstd = _compressor()
        _write(self._fd, MAGIC)

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open, finished or not. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def raw(self, data: bytes | memoryview, /) -> None:
        """The next bytes of the stream, which no file of the tree has."""
        # A copy: the reader's buffer must not live as long as a long run of headers.
        self._pending.append(bytes(data))
        self._pending_size += len(data)
        if self._pending_size >= PIECE:
            self._flush()

    def file(self, path: bytes, regions: Regions | None, size: int, /) -> None:
        """The next bytes of the stream are the contents of the file at ``path``, which is ``size`` bytes long.

        With ``regions`` they are only those pieces of it, end to end.
        """
        self._flush()
        self._files += 1
        if regions is None:
            self._put(FILE.pack(b"F", len(path), size) + path)
            self.size += size
        else:
            table = b"".join(REGION.pack(*region) for region in regions)
            self._put(SPARSE.pack(b"S", len(path), size, len(regions)) + path + table)
            self.size += sum(length for _, length in regions)

    def finish(self) -> None:
        """The stream has ended."""
        self._flush()
        self._put(END.pack(b"E", self.size))
        self._compress()
        _write(self._fd, self._zstd.flush())
        self.close()
        self._write_moves()

    def _when(self) -> int:
        return self._files

    def _flush(self) -> None:
        if self._pending:
            data = b"".join(self._pending)
            self._pending.clear()
            self._pending_size = 0
            self.size += len(data)
            for at in range(0, len(data), PIECE):
                piece = data[at : at + PIECE]
                self._put(RAW.pack(b"R", len(piece)) + piece)

    def _put(self, record: bytes) -> None:
        self._records.append(record)
        self._records_size += len(record)
        if self._records_size >= PIECE:
            self._compress()

    def _compress(self) -> None:
        packed = self._zstd.compress(b"".join(self._records))
        self._records.clear()
        self._records_size = 0
        _write(self._fd, packed)


def _compressor() -> zstandard.ZstdCompressionObj:
    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
