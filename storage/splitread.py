"""A layer's original tar from its unpacked tree and its split (see :mod:`lading.storage.split` for the format).

In bounded memory, but for the moves, of which there are only as many as the archive replaced of itself.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn

import attrs
import zstandard

from lading.events.errors import HostError, StoreCorrupt
from lading.storage.linux import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2
from lading.storage.paxheader import MAX_REGIONS, Regions
from lading.storage.pieces import PIECE, gathered
from lading.storage.split import END, FILE, IN_TREE, MAGIC, MAX_MOVE_BYTES, MOVE, RAW, REGION, SPARSE
from lading.storage.trees import printable

__all__ = ["read_split"]

_MAX_PATH: Final = 4096
_SAFE: Final = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
# A fifo or a device where a file should be must neither be waited for nor do anything.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def read_split(tree: int | Path, directory: int | Path) -> Iterator[bytes]:
    """The archive again, in pieces of at most some MiB, from the layer's ``tree`` and its split in ``directory``.

    Raises :class:`StoreCorrupt` when the split is damaged or a file is missing or has another size than it had,
    and :class:`HostError` when reading fails; a file of the same size with other contents is found only by the
    digest: see :func:`lading.storage.pieces.verified`. Descriptors are closed when the iterator is exhausted or
    closed.
    """
    try:
        with contextlib.ExitStack() as opened:
            places = []
            for place in (tree, directory):
                where, at = (".", place) if isinstance(place, int) else (place, None)
                places.append(os.open(where, _DIRECTORY, dir_fd=at))
                opened.callback(os.close, places[-1])
            try:
                split = os.open("split", _READ, dir_fd=places[1])
            except FileNotFoundError as error:
                raise StoreCorrupt(0, "a layer can't be made an archive again: it has no split") from error
            opened.callback(os.close, split)
            files = _Files(places[0], places[1], _read_moves(places[1]))
            opened.callback(files.close)
            yield from gathered(_stream(_Records(split), files))
    except OSError as error:
        where = printable(os.fsencode(error.filename or ""))
        raise HostError("read the archive of a layer", where, error.errno or 0) from error


def _stream(records: _Records, files: _Files) -> Iterator[bytes]:
    """What the records say; every length is checked before it is believed."""
    total = 0
    while True:
        kind = records.kind()
        if kind == b"R":
            _, length = records.unpack(RAW)
            if length > PIECE:
                _damaged(f"a record of {length} bytes")
            piece = records.take(length)
            total += length
            yield piece
        elif kind == b"F":
            _, length, size = records.unpack(FILE)
            total += size
            yield from files.whole(records.path(length), size)
        elif kind == b"S":
            _, length, size, count = records.unpack(SPARSE)
            if count > MAX_REGIONS:
                _damaged(f"{count} regions")
            path = records.path(length)
            regions = tuple(REGION.iter_unpack(records.take(count * REGION.size)))
            total += sum(stored for _, stored in regions)
            yield from files.regions(path, regions, size)
        elif kind == b"E":
            _, size = records.unpack(END)
            if size != total or not records.ended():
                _damaged("its end is not where it should be")
            return
        else:
            _damaged(f"a record of kind {kind!r}")


class _Records:
    """The plain bytes of a split or of its moves, a few at a time."""

    def __init__(self, fd: int, magic: bytes = MAGIC) -> None:
        if magic and os.read(fd, len(magic)) != magic:
            _damaged("it has another format")
        source = os.fdopen(fd, "rb", buffering=0, closefd=False)
        decompressor = zstandard.ZstdDecompressor(max_window_size=2**27)
        self._reader = decompressor.stream_reader(source, read_across_frames=True, closefd=False)
        self._buffer = b""
        self._at = 0

    def kind(self) -> bytes:
        self._need(1)
        return self._buffer[self._at : self._at + 1]

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        self._need(form.size)
        self._at += form.size
        return form.unpack_from(self._buffer, self._at - form.size)

    def take(self, size: int) -> bytes:
        self._need(size)
        self._at += size
        return self._buffer[self._at - size : self._at]

    def path(self, length: int) -> bytes:
        if length > _MAX_PATH:
            _damaged(f"a path of {length} bytes")
        return self.take(length)

    def ended(self) -> bool:
        """Whether nothing is left. zstd's checksum of everything before is compared on the way."""
        return self._at == len(self._buffer) and not self._fill()

    def _need(self, size: int) -> None:
        while len(self._buffer) - self._at < size:
            if not self._fill():
                _damaged("it is cut off")

    def _fill(self) -> bool:
        try:
            more = self._reader.read(PIECE)
        except zstandard.ZstdError as error:
            raise StoreCorrupt(0, f"the split of a layer is damaged: {error}") from error
        self._buffer = self._buffer[self._at :] + more
        self._at = 0
        return bool(more)


@attrs.frozen
class _Move:
    order: int
    when: int
    spill: int
    to: bytes


class _Files:
    """The files that the records name, each where it is by now."""

    def __init__(self, tree: int, directory: int, moves: dict[bytes, list[_Move]]) -> None:
        self._tree = tree
        self._directory = directory
        self._moves = moves
        self._count = 0
        self._parent = b""
        self._parent_root = tree
        self._parent_fd = -1

    def close(self) -> None:
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
            self._parent_fd = -1

    def whole(self, path: bytes, size: int) -> Iterator[bytes]:
        fd = self._open(path, size)
        try:
            left = size
            while left:
                piece = os.read(fd, min(left, 4 * PIECE))
                if not piece:
                    _gone(path, f"it ends {left} bytes early")
                left -= len(piece)
                yield piece
        finally:
            os.close(fd)

    def regions(self, path: bytes, regions: Regions, size: int) -> Iterator[bytes]:
        fd = self._open(path, size)
        try:
            for offset, length in regions:
                while length:
                    piece = os.pread(fd, min(length, 4 * PIECE), offset)
                    if not piece:
                        _gone(path, f"it ends {length} bytes early")
                    offset += len(piece)
                    length -= len(piece)
                    yield piece
        finally:
            os.close(fd)

    def _open(self, path: bytes, size: int) -> int:
        self._count += 1
        root, real = self._tree, path
        if self._moves:
            root, real = self._where(path)
        parent, _, name = real.rpartition(b"/")
        try:
            if parent != self._parent or root != self._parent_root:
                self.close()
                if parent:
                    self._parent_fd = openat2(parent, _DIRECTORY, resolve=_SAFE, dir_fd=root)
                self._parent, self._parent_root = parent, root
            fd = os.open(name, _READ, dir_fd=self._parent_fd if parent else root)
        except OSError as error:
            _gone(path, error.strerror, error)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            os.close(fd)
            _gone(path, f"it is no file of {size} bytes any more")
        return fd

    def _where(self, path: bytes) -> tuple[int, bytes]:
        """The first move after this record of anything that ``path`` leads through, and so on from there."""
        order = -1
        while True:
            best: _Move | None = None
            prefix = path
            while prefix:
                for move in self._after(prefix, order):
                    if best is None or move.order < best.order:
                        best, rest = move, path[len(prefix) :]
                prefix = prefix.rpartition(b"/")[0]
            if best is None:
                return self._tree, path
            if best.spill != IN_TREE:
                return self._directory, b"spill/%d" % best.spill + rest
            order, path = best.order, (best.to + rest).strip(b"/")

    def _after(self, prefix: bytes, order: int) -> list[_Move]:
        """At most one: the first move of ``prefix`` itself after ``order`` and after the current record."""
        moves = self._moves.get(prefix, [])
        if order < 0:
            at = bisect.bisect_left(moves, self._count, key=lambda move: move.when)
        else:
            at = bisect.bisect_right(moves, order, key=lambda move: move.order)
        return moves[at : at + 1]


def _read_moves(directory: int) -> dict[bytes, list[_Move]]:
    """Every move of a path, in order."""
    try:
        fd = os.open("moves", _READ, dir_fd=directory)
    except FileNotFoundError:
        return {}
    moves: dict[bytes, list[_Move]] = {}
    try:
        records = _Records(fd, b"")
        order = size = 0
        while not records.ended():
            when, spill, length, length_to = records.unpack(MOVE)
            path, to = records.path(length), records.path(length_to)
            moves.setdefault(path, []).append(_Move(order, when, spill, to))
            order += 1
            size += length + length_to
            if size > 2 * MAX_MOVE_BYTES:
                _damaged("it has more moves than are ever written")
    finally:
        os.close(fd)
    return moves


def _damaged(why: str) -> NoReturn:
    raise StoreCorrupt(0, f"the split of a layer is damaged: {why}; pull or load the image again")


def _gone(path: bytes, why: str | None, cause: BaseException | None = None) -> NoReturn:
    raise StoreCorrupt(
        0, f"the layer's file {printable(path)!r} is not what was unpacked: {why}; pull or load the image again"
    ) from cause
