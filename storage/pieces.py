"""Streams of bytes as iterators of pieces: gathered into larger ones, checked at their end, read as a source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from lading.events.errors import DigestMismatch

__all__ = ["PIECE", "PieceSource", "gathered", "verified"]

PIECE: Final = 256 * 1024
"""What pieces are gathered to, in bytes; a larger one stays as it is."""


def gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of at least ``PIECE`` bytes, but for the last; none is empty."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield b"".join(held)
            held.clear()
            size = 0
    if size:
        yield b"".join(held)


def verified(pieces: Iterable[bytes], digest: str, what: str) -> Iterator[bytes]:
    """``pieces`` as they are; after the last, :class:`DigestMismatch` naming ``what`` if they hash to another."""
    sha256 = hashlib.sha256()
    for piece in pieces:
        sha256.update(piece)
        yield piece
    actual = f"sha256:{sha256.hexdigest()}"
    if actual != digest:
        raise DigestMismatch(what, digest, actual)


class PieceSource:
    """``pieces`` as what a reader reads from (``ByteSource``): ``read(n)`` gives 1 to ``n`` bytes, or none at
    the end.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def read(self, n: int, /) -> bytes:
        """The next bytes; whatever the iterator raises goes through."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = memoryview(piece)
        given, self._rest = self._rest[:n], self._rest[n:]
        return bytes(given)
