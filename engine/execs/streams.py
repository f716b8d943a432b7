"""The ends of an exec's streams that are ours: raw descriptors, read and written with nothing in between."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import attrs
import trio

__all__ = ["ExecInput", "ExecOutput", "ExecStreams", "open_streams"]

_RECEIVE = 1 << 16
_LINGER = 2.0
"""Seconds after its end in which what an exec left behind may hold its output open, as in Docker."""


class ExecOutput(trio.abc.ReceiveStream):
    """What an exec prints on one stream; iterable. Ends when nobody can print there any more, at the latest a
    moment after the exec's own end, when all that was printed by then has been read.

    A reader that is slow or stopped holds up the exec that prints, and nothing else.
    """

    def __init__(self, fd: int = -1) -> None:
        """``first`` is the beginning of what was read; ``on_close`` is called if that comes before the end."""
        self._fd = fd
        self._deadline = math.inf
        self._waiting: trio.CancelScope | None = None
        self._pushed = b""
        self.first: bytes = b""
        self.on_close: Callable[[], None] | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some bytes, b"" at the end. Raises ``trio.ClosedResourceError`` once it was closed."""
        await trio.lowlevel.checkpoint_if_cancelled()
        most = _RECEIVE if max_bytes is None else max_bytes
        data = self._read_now(most)
        if data is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        while data is None:
            with trio.CancelScope(deadline=self._deadline) as self._waiting:
                await trio.lowlevel.wait_readable(self._fd)
            data = self._read_now(most)
        return data

    def _read_now(self, most: int) -> bytes | None:
        """What is there, b"" at the end; None: nothing yet."""
        if self._pushed:
            data, self._pushed = self._pushed[:most], self._pushed[most:]
            return data
        if self._fd < 0:
            return b""
        try:
            data = os.read(self._fd, most)
        except BlockingIOError:
            return b"" if trio.current_time() >= self._deadline else None
        except OSError:  # EIO: a terminal that nobody has open
            return b""
        if not self.first:
            self.first = data[:256]
        return data

    def peek(self) -> bytes:
        """What is there now, up to a page, which ``receive_some`` gives all the same."""
        if self._fd >= 0 and not self._pushed:
            try:
                self._pushed = os.read(self._fd, 4096)
            except OSError:
                self._pushed = b""
        return self._pushed

    def end_soon(self) -> None:
        """The exec is over."""
        self._deadline = trio.current_time() + _LINGER
        if self._waiting is not None:
            self._waiting.deadline = self._deadline

    def close(self) -> None:
        """Close it now. Idempotent."""
        self._pushed = b""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            trio.lowlevel.notify_closing(fd)
            os.close(fd)
            if self._deadline == math.inf and self.on_close is not None:
                self.on_close()

    async def aclose(self) -> None:
        """Close it. What the exec prints there from now on is dropped; it doesn't notice."""
        self.close()
        await trio.lowlevel.checkpoint()


class ExecInput(trio.abc.SendStream):
    """An exec's standard input, with the pipe's own back-pressure."""

    def __init__(self, fd: int, *, terminal: bool = False) -> None:
        self._fd = fd
        self.is_terminal = terminal
        self._sending = trio.Lock()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``. Raises ``trio.BrokenResourceError`` when nobody reads any more."""
        view = memoryview(data)
        async with self._sending:
            while view:
                if self._fd < 0:
                    raise trio.ClosedResourceError
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._fd)
                except OSError as error:
                    raise trio.BrokenResourceError from error

    async def wait_send_all_might_not_block(self) -> None:
        """Return when something could be sent."""
        async with self._sending:
            if self._fd >= 0:
                await trio.lowlevel.wait_writable(self._fd)

    async def send_eof(self) -> None:
        """The end of the input. To a terminal it is typed (ctrl-d); what that means is up to the program there."""
        if self.is_terminal:
            await self.send_all(b"\x04")
        else:
            await self.aclose()

    def close(self) -> None:
        """Close it now. Idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            trio.lowlevel.notify_closing(fd)
            os.close(fd)

    async def aclose(self) -> None:
        """Close it, which ends the input of an exec without a terminal."""
        self.close()
        await trio.lowlevel.checkpoint()


@attrs.define(eq=False)
class ExecStreams:
    """Ours of an exec's streams. Those that nobody asked for are at their end."""

    stdin: ExecInput | None = None
    stdout: ExecOutput = attrs.field(factory=ExecOutput)
    stderr: ExecOutput = attrs.field(factory=ExecOutput)

    def end_soon(self) -> None:
        """The exec is over."""
        self.stdout.end_soon()
        self.stderr.end_soon()

    def take_master(self, fd: int, *, stdin: bool) -> None:
        """Its terminal, whose master ``fd`` is ours from now on. ``OSError`` leaves it closed."""
        os.set_blocking(fd, False)
        self.stdout = ExecOutput(fd)
        if stdin:
            self.stdin = ExecInput(os.dup(fd), terminal=True)

    def close(self) -> None:
        """Close all of them. Idempotent."""
        if self.stdin is not None:
            self.stdin.close()
        self.stdout.close()
        self.stderr.close()


def open_streams(*, stdin: bool, stdout: bool, stderr: bool) -> tuple[ExecStreams, str, list[int]]:
    """Pipes for what is asked: ours, and ``streams`` and descriptors for message ``exec`` (see ``keeper.exec``).

    ``OSError`` leaves none open.
    """
    streams = ExecStreams()
    letters, fds = "", list[int]()
    try:
        if stdin:
            read, write = os.pipe2(os.O_CLOEXEC)
            fds.append(read)
            os.set_blocking(write, False)
            streams.stdin = ExecInput(write)
            letters += "i"
        for letter, wanted in (("o", stdout), ("e", stderr)):
            if wanted:
                read, write = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(read, False)
                output = ExecOutput(read)
                fds += (write,)
                if letter == "o":
                    streams.stdout = output
                else:
                    streams.stderr = output
                fds.append(os.dup(read))
                letters += letter
    except OSError:
        streams.close()
        for fd in fds:
            os.close(fd)
        raise
    return streams, letters, fds
