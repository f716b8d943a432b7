"""Messages with open descriptors between the engine and its keeper (unix(7), SCM_RIGHTS).

A message that brings descriptors says how many (``fds``), and is the last of what is sent with them: one call of
sendmsg(2) carries those of one message, which come no later than its last byte. What has come and belongs to no
message yet is closed with the connection. A receiver that is out of descriptors gets some of them or none, and
the message all the same: that is said of this message, and the connection goes on.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Sequence

import trio

__all__ = ["Descriptors", "Sender", "close_all"]

_ROOM = socket.CMSG_SPACE(16 * array.array("i").itemsize)
"""More than any message brings."""
_RECEIVE = 1 << 16
_AGAIN = 0.01


class Sender:
    """The sending end: what is posted goes out in its order, at once where the socket takes it.

    ``run`` is the task that sends what it doesn't take. A connection that is broken swallows what is posted:
    whoever reads from it is told.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = socket.socket(fileno=os.dup(stream.socket.fileno()))
        self._socket.setblocking(False)
        self._waiting: deque[tuple[bytes | memoryview, Sequence[int]]] = deque()
        self._more = trio.Event()
        self._emptied = trio.Event()
        self._pause = 0.0
        self._closed = False

    def post(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send ``data``, one message, and with it ``fds``, which are the sender's to close from now on."""
        if self._closed:
            close_all(fds)
            return
        self._waiting.append((data, fds))
        if len(self._waiting) == 1:
            self._push()
        if self._waiting:
            self._more.set()

    async def run(self) -> None:
        """Send what waits, whenever something does, until cancelled or closed."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            while self._waiting:
                await trio.sleep(self._pause)
                with contextlib.suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_writable(self._socket)
                self._push()

    def _push(self) -> None:
        self._pause = 0.0
        while self._waiting:
            data, fds = self._waiting[0]
            brings = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                sent = self._socket.sendmsg([data], brings, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:  # as many on their way as may be (unix(7))
                    self.close()
                else:
                    self._pause = _AGAIN
                return
            close_all(fds)
            self._waiting.popleft()
            if sent < len(data):
                self._waiting.appendleft((memoryview(data)[sent:], ()))
        self._emptied.set()

    async def drain(self) -> None:
        """Return when nothing waits any more."""
        while self._waiting:
            self._emptied = trio.Event()
            await self._emptied.wait()

    def close(self) -> None:
        """Drop what waits, and close this end of the connection; the stream stays its owner's to close."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            while self._waiting:
                close_all(self._waiting.popleft()[1])
            self._emptied.set()


class Descriptors:
    """The receiving end: bytes as they come, and the descriptors that came and were not taken."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._sets: deque[list[int]] = deque()

    async def receive(self) -> bytes:
        """Some bytes, b"" at the end. Raises ``trio.BrokenResourceError``."""
        try:
            data, ancillary, flags, _ = await self._stream.socket.recvmsg(_RECEIVE, _ROOM, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise trio.BrokenResourceError from error
        fds = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        if fds or flags & socket.MSG_CTRUNC:  # one call never joins what two calls sent (unix(7))
            self._sets.append(list(fds))
        return data

    def take(self, count: int) -> list[int]:
        """The ``count`` descriptors of the next message that brings any, which are the caller's now.

        Raises ``OSError`` (EMFILE) if they found no room in this process: none of them is open then;
        ``trio.BrokenResourceError`` if the other end didn't send them.
        """
        if not count:
            return []
        if not self._sets:
            raise trio.BrokenResourceError(f"{count} descriptors were announced and none came")
        fds = self._sets.popleft()
        if len(fds) != count:
            close_all(fds)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return fds

    def close(self) -> None:
        """Close what was not taken."""
        while self._sets:
            close_all(self._sets.popleft())


def close_all(fds: Sequence[int]) -> None:
    """Close each of ``fds``."""
    for fd in fds:
        os.close(fd)
