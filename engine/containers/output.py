"""What a container printed: read back, in chunks, pieces or lines, and followed while it runs."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Iterator
from types import TracebackType

import attrs
import trio

from lading.engine.core import Core
from lading.events.errors import Invalid
from lading.storage.output import Chunk
from lading.storage.outputcursor import OutputCursor
from lading.storage.outputfiles import CURRENT

__all__ = ["LogChunk", "LogLine", "LogPiece", "OutputReader"]

_LINE = 1 << 20


@attrs.frozen
class LogPiece:
    """A line, or a piece of a line too long for one read.

    ``stream``: 1 stdout, 2 stderr. ``time``: when it was read from the container, nanoseconds UTC. ``data``
    has its newline if it ends a line. ``starts``: it begins a line. ``lost``: before it there was output that was
    rotated away before it could be read, found no room on the disk, or is damaged.
    """

    stream: int
    time: int
    data: bytes
    starts: bool
    lost: bool = False


@attrs.frozen
class LogLine:
    """A whole line, or a part of one that is longer than was asked for.

    As ``LogPiece``, and ``more``: the line goes on in the next one of the stream, which has ``starts`` False.
    """

    stream: int
    time: int
    data: bytes
    starts: bool
    more: bool
    lost: bool = False


@attrs.frozen
class LogChunk:
    """Lines and parts of lines that came at one time: ``starts`` tells of the first one. As ``LogPiece`` else."""

    stream: int
    time: int
    data: bytes
    starts: bool
    lost: bool = False


class OutputReader:
    """An async iterator over one container's output; a context manager that closes its files.

    It keeps files open, so what was printed can be read to the end even when the container is removed meanwhile.
    With ``follow`` it ends when the run that is under way ends; otherwise at what is there now. Of a container
    whose output is rotated it begins with the oldest that is kept. ``tail``: the last so many lines of those that
    ``streams``, ``since`` and ``until`` allow; nothing is read after the first that is later than ``until``.
    Memory: about a megabyte, however much was printed and however long the lines are.
    """

    def __init__(
        self,
        core: Core,
        container: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: int = 0,
        until: int = 0,
        from_now: bool = False,
        streams: frozenset[int] = frozenset({1, 2}),
    ) -> None:
        self._core, self._container, self._follow = core, container, follow
        self._since, self._until, self._streams = since, until, streams
        self._chunks: deque[Chunk] = deque()
        self._ready: deque[LogPiece] = deque()
        self._lost = False
        self._began: set[int] = set()  # the streams of which something was given
        self._muted: frozenset[int] = frozenset()  # those whose first line began before the place to begin
        self._directory = self._open_directory(create=follow or from_now)
        self._cursor = OutputCursor(self._directory) if self._directory >= 0 else None
        if self._cursor is not None:
            if from_now or tail == 0:
                self._cursor.seek_end()
                self._muted = streams if tail == 0 else self._muted
            elif tail is not None:
                if self._cursor.seek_tail(tail, streams, since, until):
                    self._muted = streams
                else:
                    self._cursor.seek_time(since)
            elif since:
                self._cursor.seek_time(since)

    def _open_directory(self, create: bool) -> int:
        """The container's directory, or -1. Who follows makes it, and the file, to hold on to what comes there."""
        own = self._core.paths.container(self._container)
        flags = os.O_RDONLY | os.O_CLOEXEC
        try:
            if create:
                own.mkdir(mode=0o700, exist_ok=True)
            directory = os.open(own, flags | os.O_DIRECTORY)
        except FileNotFoundError:
            return -1
        if create:
            try:
                os.close(os.open(CURRENT, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=directory))
            except BaseException:
                os.close(directory)
                raise
        return directory

    def __enter__(self) -> OutputReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files. Idempotent."""
        if self._cursor is not None:
            self._cursor.close()
            os.close(self._directory)
            self._cursor = None

    def __aiter__(self) -> OutputReader:
        return self

    async def __anext__(self) -> LogPiece:
        while not self._ready:
            chunk = await self._next_chunk()
            if chunk is None:
                raise StopAsyncIteration
            self._ready.extend(_pieces(chunk))
        return self._ready.popleft()

    async def chunks(self) -> AsyncIterator[LogChunk]:
        """The same, without a value for each line."""
        while (chunk := await self._next_chunk()) is not None:
            yield chunk

    async def lines(self, limit: int = _LINE) -> AsyncIterator[LogLine]:
        """Whole lines, with their newlines; one of more than ``limit`` bytes comes in parts of at most as many.

        A line is given at its end, in the order of ends. What has no end yet is given when the output ends, with
        ``more`` False. Memory: ``limit`` bytes for each stream, too.
        """
        if limit < 1:
            raise Invalid("limit of a line", limit, "give at least one byte")
        held: dict[int, LogLine] = {}
        async for piece in self:
            line = LogLine(piece.stream, piece.time, piece.data, piece.starts, False, piece.lost)
            before = held.pop(piece.stream, None)
            if before is not None and (piece.starts or piece.lost):
                yield before  # of which the rest was lost, or which an earlier run left without an end
            elif before is not None:
                line = attrs.evolve(before, data=before.data + piece.data)
            while len(line.data) > limit:
                yield attrs.evolve(line, data=line.data[:limit], more=True)
                line = attrs.evolve(line, data=line.data[limit:], starts=False, lost=False)
            if line.data.endswith(b"\n"):
                yield line
            else:
                held[line.stream] = line
        for line in sorted(held.values(), key=lambda line: line.time):
            yield line

    async def read_all(self, limit: int) -> tuple[bytes, bytes, bool]:
        """Standard output and error, at most ``limit`` bytes of both, and whether there was more."""
        parts: dict[int, list[bytes]] = {1: [], 2: []}
        left, more = limit, False
        while (chunk := await self._next_chunk()) is not None:
            parts[chunk.stream].append(chunk.data[:left])
            more = more or chunk.lost
            if len(chunk.data) > left:
                more = True
                break
            left -= len(chunk.data)
        return b"".join(parts[1]), b"".join(parts[2]), more

    async def _next_chunk(self) -> LogChunk | None:
        """The next one that was asked for, after the others' turn; None at the end."""
        while self._cursor is not None:
            mark = self._core.link.output_mark(self._container)
            running = self._core.runs(self._container)
            if not self._chunks:
                self._chunks.extend(self._cursor.read())
            if self._chunks:
                chunk = self._chunks.popleft()
                if self._until and chunk.time > self._until:
                    break
                wanted = self._selected(chunk)
                await trio.lowlevel.checkpoint()
                if wanted is not None:
                    return wanted
            elif self._follow and running:
                await self._core.link.wait_output(self._container, mark, self._cursor.position)
            else:
                break
        self.close()
        return None

    def _selected(self, chunk: Chunk) -> LogChunk | None:
        stream, data, starts = chunk.stream, chunk.data, not chunk.continues
        self._lost = self._lost or chunk.lost
        if stream not in self._streams or chunk.time < self._since:
            return None
        if stream in self._muted:
            if not starts:
                data = data[data.find(b"\n") + 1 :] if b"\n" in data else b""
                if not data:
                    self._muted -= {stream} if chunk.data.endswith(b"\n") else set()
                    return None
            self._muted -= {stream}
            starts = True
        lost, self._lost = self._lost, False
        if lost:
            self._began.clear()
        if stream not in self._began:  # what is left of a line is shown as one
            self._began.add(stream)
            starts = True
        return LogChunk(stream, chunk.time, data, starts, lost)


def _pieces(chunk: LogChunk) -> Iterator[LogPiece]:
    stream, time, starts, lost = chunk.stream, chunk.time, chunk.starts, chunk.lost
    for line in _lines(chunk.data):
        yield LogPiece(stream, time, line, starts, lost)
        starts, lost = True, False


def _lines(data: bytes) -> list[bytes]:
    """``data`` split after each newline, and only there."""
    lines = data.split(b"\n")
    last = lines.pop()
    whole = [line + b"\n" for line in lines]
    return [*whole, last] if last else whole
