"""What a container printed: read back, in lines or pieces of lines, and followed while it runs."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from types import TracebackType

import attrs
import trio

from lading.engine.core import Core
from lading.storage.output import Chunk, read_chunks

__all__ = ["LogPiece", "OutputReader"]


@attrs.frozen
class LogPiece:
    """A line, or a piece of a line too long for one read.

    ``stream``: 1 stdout, 2 stderr. ``time``: when it was read from the container, nanoseconds UTC. ``data``
    has its newline if it ends a line. ``starts``: it begins a line.
    """

    stream: int
    time: int
    data: bytes
    starts: bool


class OutputReader:
    """An async iterator over one container's output; a context manager that closes its file.

    It keeps the file open, so what was printed can be read to the end even when the container is removed
    meanwhile. With ``follow`` it ends when the run that is under way ends; otherwise at what is there now.
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
        self._fd = self._open_file(create=follow or from_now)
        self._offset = os.fstat(self._fd).st_size if from_now else 0
        self._skip = 0
        self._open: dict[int, bool] = {1: False, 2: False}
        self._muted: frozenset[int] = frozenset()
        self._chunks: deque[Chunk] = deque()
        self._ready: deque[LogPiece] = deque()
        if tail is not None and not from_now and self._fd >= 0:
            self._seek_tail(tail)

    def _open_file(self, create: bool) -> int:
        """The output file, or -1. Whoever follows makes it, and so misses nothing of a first start to come."""
        own = self._core.paths.container(self._container)
        flags = os.O_RDONLY | os.O_CLOEXEC
        try:
            if create:
                own.mkdir(mode=0o700, exist_ok=True)
                flags |= os.O_CREAT
            return os.open(own / "output", flags, 0o600)
        except FileNotFoundError:
            return -1

    def __enter__(self) -> OutputReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __aiter__(self) -> OutputReader:
        return self

    async def __anext__(self) -> LogPiece:
        while not self._ready:
            mark = self._core.link.output_mark(self._container)
            running = self._core.runs(self._container)
            if not self._chunks and self._fd >= 0:
                self._chunks.extend(read_chunks(self._fd, self._offset))
            if self._chunks:
                # One chunk at a time, and others' turn before the next: lines may be short and many.
                chunk = self._chunks.popleft()
                self._offset = chunk.end
                self._ready.extend(self._pieces(chunk))
                await trio.lowlevel.checkpoint()
                continue
            if not self._follow or not running:
                self.close()
                raise StopAsyncIteration
            await self._core.link.wait_output(self._container, mark)
        return self._ready.popleft()

    async def read_all(self, limit: int) -> tuple[bytes, bytes, bool]:
        """Standard output and error, at most ``limit`` bytes of both, and whether there was more."""
        parts: dict[int, list[bytes]] = {1: [], 2: []}
        left = limit
        async for piece in self:
            if len(piece.data) > left:
                parts[piece.stream].append(piece.data[:left])
                return b"".join(parts[1]), b"".join(parts[2]), True
            left -= len(piece.data)
            parts[piece.stream].append(piece.data)
        return b"".join(parts[1]), b"".join(parts[2]), False

    def _pieces(self, chunk: Chunk) -> Iterator[LogPiece]:
        data, self._skip = chunk.data[self._skip :], 0
        for line in _lines(data):
            starts = not self._open[chunk.stream]
            self._open[chunk.stream] = not line.endswith(b"\n")
            if starts:
                self._muted -= {chunk.stream}
            if chunk.stream not in self._streams or chunk.stream in self._muted:
                continue
            if chunk.time < self._since or (self._until and chunk.time > self._until):
                continue
            yield LogPiece(chunk.stream, chunk.time, line, starts)

    def _seek_tail(self, tail: int) -> None:
        """Go to where the last ``tail`` lines begin, reading everything once and keeping only places."""
        starts: deque[tuple[int, int, frozenset[int]]] = deque(maxlen=max(tail, 1))
        offset = 0
        is_open = {1: False, 2: False}
        while chunks := read_chunks(self._fd, offset):
            for chunk in chunks:
                at = 0
                for line in _lines(chunk.data):
                    if not is_open[chunk.stream] and chunk.stream in self._streams and chunk.time >= self._since:
                        others = frozenset(s for s, is_so in is_open.items() if is_so)
                        starts.append((offset, at, others))
                    is_open[chunk.stream] = not line.endswith(b"\n")
                    at += len(line)
                offset = chunk.end
        if tail == 0 or not starts:
            self._offset, self._open = offset, is_open
            self._muted = frozenset(s for s, is_so in is_open.items() if is_so)
            return
        self._offset, self._skip, self._muted = starts[0]
        self._open = {stream: stream in self._muted for stream in (1, 2)}


def _lines(data: bytes) -> list[bytes]:
    """``data`` split after each newline, and only there."""
    lines = data.split(b"\n")
    whole = [line + b"\n" for line in lines[:-1]]
    return [*whole, lines[-1]] if lines[-1] else whole
