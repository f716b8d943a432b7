"""A terminal as the keeper has it: the master's end of a pseudo-terminal that the OCI runtime made.

The runtime sends it over a socket of ours (OCI runtime command line, ``--console-socket``). crun can do that and
stay in the foreground; runc can't, so it lets go of what it started, and the keeper, a subreaper, is its parent.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable

import trio

from lading.engine.keeper.fdpass import Descriptors

__all__ = ["Console", "resize"]

_AGAIN = 0.05
"""Seconds after which the master is read again when no process has the terminal open at the moment."""


def resize(master: int, rows: int, columns: int) -> None:
    """Give the terminal its size (tty_ioctl(4), TIOCSWINSZ); its foreground processes get SIGWINCH."""
    with contextlib.suppress(OSError):  # it has just ended
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0))


class Console:
    """Listens at ``path`` for the master. ``ready`` is set when it has come, or will not come any more.

    ``size``: rows and columns, (0, 0) for whatever the runtime gives it.
    """

    def __init__(self, path: str, size: tuple[int, int]) -> None:
        self.master: int = -1
        self.ready: trio.Event = trio.Event()
        self._path = path
        self._size = size
        self._writing = trio.Lock()
        self._waiting = trio.CancelScope()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self._listener.bind(path)
            self._listener.listen(1)
            self._listener.setblocking(False)
        except OSError:
            self._listener.close()
            raise

    async def receive(self) -> None:
        """Take the master from the runtime, and give it its size."""
        listener = trio.socket.from_stdlib_socket(self._listener)
        try:
            with self._waiting:
                connection, _ = await listener.accept()
            if self._waiting.cancelled_caught:
                return
            stream = trio.SocketStream(connection)
            brought = Descriptors(stream)
            try:
                await brought.receive()
                with contextlib.suppress(trio.BrokenResourceError):
                    (master,) = brought.take(1)
                    os.set_blocking(master, False)
                    self.master = master
                    if self._size != (0, 0):
                        resize(master, *self._size)
            finally:
                brought.close()
                connection.close()
        except trio.BrokenResourceError:
            return  # the runtime ended before it had sent it
        finally:
            self._forget_path()
            self.ready.set()

    def give_up(self) -> None:
        """The runtime is gone: a master that has not come by now never will."""
        self._waiting.cancel()

    def resize(self, rows: int, columns: int) -> None:
        """Its size from now on, or from its beginning."""
        self._size = (rows, columns)
        if self.master >= 0:
            resize(self.master, rows, columns)

    async def pump(self, take: Callable[[bytes], None], is_over: Callable[[], bool], most: int) -> None:
        """Give what is printed to ``take``, until no process has the terminal open and ``is_over`` says so.

        That nobody has it open for a moment is not the end: a login closes its terminal and opens it again.
        """
        await self.ready.wait()
        while self.master >= 0:
            try:
                data = os.read(self.master, most)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.master)
                continue
            except OSError:  # EIO: nobody has its other end
                data = b""
            if data:
                take(data)
                await trio.lowlevel.checkpoint()
            elif is_over():
                return
            else:
                await trio.sleep(_AGAIN)

    async def send_all(self, data: bytes) -> None:
        """Type ``data``. Raises ``trio.BrokenResourceError`` when nobody will read it."""
        await self.ready.wait()
        view = memoryview(data)
        async with self._writing:
            while view:
                if self.master < 0:
                    raise trio.BrokenResourceError
                try:
                    view = view[os.write(self.master, view) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self.master)
                except OSError as error:
                    raise trio.BrokenResourceError from error
            await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close the master, which hangs up the terminal (SIGHUP to its session). Idempotent."""
        self.ready.set()
        self._listener.close()
        self._forget_path()
        if self.master >= 0:
            master, self.master = self.master, -1
            trio.lowlevel.notify_closing(master)
            os.close(master)

    def _forget_path(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
