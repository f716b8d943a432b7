"""Messages with open descriptors between the engine and its keeper (unix(7), SCM_RIGHTS).

A message that brings descriptors says how many (``fds``), and is the last of what is sent with them: one call of
sendmsg(2) carries those of one message, which come no later than its last byte. What has come and belongs to no
message yet is closed with the connection. A receiver that is out of descriptors gets some of them or none, and
the message all the same: that is said of this message, and the connection goes on.
"""

from __future__ import annotations

import array
import errno
import os
import socket
from collections import deque
from collections.abc import Sequence

import trio

__all__ = ["Descriptors", "close_all", "send_with"]

_ROOM = socket.CMSG_SPACE(16 * array.array("i").itemsize)
"""More than any message brings."""
_RECEIVE = 1 << 16


async def send_with(stream: trio.SocketStream, data: bytes, fds: Sequence[int]) -> None:
    """Send ``data``, and with its first byte ``fds``; they stay the caller's, to close.

    Raises as ``stream.send_all`` does. One task at a time.
    """
    if not fds:
        await stream.send_all(data)
        return
    try:
        sent = await stream.socket.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
    except OSError as error:
        raise trio.BrokenResourceError from error
    if sent < len(data):
        await stream.send_all(memoryview(data)[sent:])


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
