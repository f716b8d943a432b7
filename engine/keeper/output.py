"""What a run prints, on its way from the pipes to the disk, as the keeper does it.

A pipe is read when something is in it. If that happens again within ``_PAUSE``, what comes is left to gather for
so long before it is read, unless it is much, or the run ends: a container that prints a line at a time must not
cost a wakeup for each. The first output after a silence is never held up, and what somebody waits for only for
``_SHORT_PAUSE``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable
from typing import Any

import trio

from lading.storage.outputwriter import OutputWriter

__all__ = ["RunOutput"]

_PAUSE = 0.02
"""Seconds that output gathers at most."""
_SHORT_PAUSE = 0.001
"""The same, while somebody who follows has read everything."""
_PIPE = 1 << 16
"""Bytes that a pipe holds when it is made."""
_LARGE_PIPE = 1 << 20
"""What a pipe that was found full is enlarged to."""
_FIRST = 4096
_buffer: list[memoryview] = []  # one, for all pipes: what was read is written before anybody else's turn


class RunOutput:
    """The output of the run that ``message`` asks for. ``tell`` sends to the engine, if there is one.

    ``first_error``: the beginning of what the first read of standard error (or of the terminal) gave, if nothing
    else came before.
    ``total``: how many bytes were printed, kept or not.
    """

    def __init__(self, message: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
        directory = os.path.dirname(message["output"])
        self._writer = OutputWriter(directory, message.get("log_size", 0), message.get("log_files", 0))
        self._id = message["id"]
        self._tell = tell
        self._watched: bool = message["watch"]
        self._terminal = bool(message.get("tty"))
        self.first_error: bytes = b""
        self.total: int = 0
        self._pauses: set[trio.CancelScope] = set()

    def watch(self, after: int) -> None:
        """Tell once, as soon as there is more than ``after`` bytes (``OutputWriter.position``)."""
        self._watched = True
        if self._writer.position > after:
            self._wrote()
            return
        soon = trio.current_time() + _SHORT_PAUSE
        for pause in self._pauses:
            pause.deadline = min(pause.deadline, soon)

    def unwatch(self) -> None:
        """Tell no longer."""
        self._watched = False

    def take_back(self) -> None:
        """What was printed was the runtime's, and is no output."""
        with contextlib.suppress(OSError):
            self._writer.take_back()

    def close(self) -> None:
        """Close the files."""
        self._writer.close()

    async def _gather(self, over: trio.Event) -> None:
        with trio.move_on_after(_SHORT_PAUSE if self._watched else _PAUSE) as pause:
            self._pauses.add(pause)
            try:
                await over.wait()
            finally:
                self._pauses.discard(pause)

    async def pump(self, stream: int, fd: int, over: trio.Event) -> None:
        """Write what comes from ``fd`` until its end, and close it. ``over``: nothing needs to gather any more."""
        buffer = _shared_buffer()
        try:
            os.set_blocking(fd, False)
            room, last = _PIPE, 0.0
            while True:
                try:
                    count = os.readv(fd, [buffer])
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(fd)
                    continue
                except OSError as error:
                    if error.errno != errno.EIO:  # the end of a terminal
                        raise
                    return
                if not count:
                    return
                self.take(stream, buffer[:count])
                now = trio.current_time()
                if count >= room // 4 or over.is_set():
                    if count >= _PIPE and room == _PIPE:
                        room = _enlarge(fd)
                    await trio.lowlevel.checkpoint()
                elif now - last < _PAUSE:
                    await self._gather(over)
                last = now
        finally:
            os.close(fd)

    def take(self, stream: int, data: memoryview | bytes) -> None:
        """Output came. What goes wrong with it is no matter of the container's."""
        if self.total == 0 and (stream == 2 or self._terminal):
            self.first_error = bytes(data[:_FIRST])
        self.total += len(data)
        with contextlib.suppress(OSError):  # a full disk loses output, never the container
            self._writer.write(stream, time.time_ns(), data)
        if self._watched:
            self._wrote()

    def _wrote(self) -> None:
        self._watched = False
        self._tell({"op": "wrote", "id": self._id})


def _shared_buffer() -> memoryview:
    if not _buffer:
        _buffer.append(memoryview(bytearray(_LARGE_PIPE)))
    return _buffer[0]


def _enlarge(fd: int) -> int:
    """Make the pipe larger, if the host allows it; how many bytes it holds."""
    with contextlib.suppress(OSError):
        return fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _LARGE_PIPE)
    return _PIPE + 1
