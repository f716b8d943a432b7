"""Messages with open descriptors between the engine and its keeper (unix(7), SCM_RIGHTS).

A message that brings descriptors says how many (``fds``); they come no later than its last byte, in the order of
the messages. What has come and belongs to no message yet is closed with the connection.
"""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from collections.abc import Sequence

import trio

__all__ = ["MOST", "Descriptors", "send_with"]

MOST = 250
"""Descriptors in one call of sendmsg(2); the kernel's limit is 253."""

_ROOM = socket.CMSG_SPACE((MOST + 3) * array.array("i").itemsize)
_RECEIVE = 1 << 16


async def send_with(stream: trio.SocketStream, data: bytes, fds: Sequence[int]) -> None:
    """Send ``data``, and with its first byte ``fds``, at most ``MOST``; they stay the caller's, to close.

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
        self._fds: deque[int] = deque()

    async def receive(self) -> bytes:
        """Some bytes, b"" at the end. Raises ``trio.BrokenResourceError``."""
        try:
            data, ancillary, _, _ = await self._stream.socket.recvmsg(_RECEIVE, _ROOM, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise trio.BrokenResourceError from error
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                self._fds.extend(fds)
        return data

    def take(self, count: int) -> list[int]:
        """The next ``count`` descriptors, which are the caller's now. ``trio.BrokenResourceError``: they lack."""
        if count > len(self._fds):
            raise trio.BrokenResourceError(f"{count} descriptors were announced and {len(self._fds)} came")
        return [self._fds.popleft() for _ in range(count)]

    def close(self) -> None:
        """Close what was not taken."""
        while self._fds:
            os.close(self._fds.popleft())
