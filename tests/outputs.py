"""What the tests of output files share: a writer's directory, and reading all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lading.storage.output import Chunk
from lading.storage.outputcursor import OutputCursor
from lading.storage.outputwriter import OutputWriter

__all__ = ["joined", "parts", "printed", "reading", "rest", "writing"]


@contextmanager
def writing(directory: Path, size: int = 0, count: int = 0) -> Iterator[OutputWriter]:
    """A writer of ``directory`` that is closed at the end."""
    writer = OutputWriter(os.fspath(directory), size, count)
    try:
        yield writer
    finally:
        writer.close()


@contextmanager
def reading(directory: Path) -> Iterator[OutputCursor]:
    """A cursor over ``directory`` that is closed at the end."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    cursor = OutputCursor(fd)
    try:
        yield cursor
    finally:
        cursor.close()
        os.close(fd)


def rest(cursor: OutputCursor) -> list[Chunk]:
    """Every chunk from where ``cursor`` is."""
    found: list[Chunk] = []
    while page := cursor.read():
        found += page
    return found


def printed(directory: Path) -> list[Chunk]:
    """What a reader that comes now gets."""
    with reading(directory) as cursor:
        return rest(cursor)


def parts(chunks: list[Chunk]) -> list[tuple[int, int, bytes]]:
    """Stream, time and bytes of each."""
    return [(chunk.stream, chunk.time, chunk.data) for chunk in chunks]


def joined(chunks: list[Chunk], stream: int | None = None) -> bytes:
    """The bytes of all, or of one stream."""
    return b"".join(chunk.data for chunk in chunks if stream in (None, chunk.stream))
