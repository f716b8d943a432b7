"""Unix sockets with a path: listen and connect, safely and at any path length.

Listening promises that nobody can connect before the socket has its final mode and owner, that nothing but a
dead socket is ever replaced, and that what is removed at the end is what was made at the start. Two processes
that listen at one path in the same instant are not kept apart here: that is what the store's lock is for.

``sun_path`` holds 107 bytes and a NUL (unix(7)); a longer path is reached as ``/proc/self/fd/<n>/<name>``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import stat
import struct
from collections.abc import Iterator

import attrs
import trio

from lading.events.errors import HostError, InUse, Invalid

__all__ = ["Peer", "UnixListener", "connect_unix", "listen_unix", "peer_of"]

_SUN_PATH = 107
_BACKLOG = 4096
_CONNECT_TIMEOUT_S = 5

_HINTS = {
    errno.ENOENT: "nothing has made this socket yet: start the engine, or check the path",
    errno.ECONNREFUSED: "nothing listens there any more: start the engine again",
    errno.EACCES: "your user may not use this socket: use its owner or group, or another path",
    errno.EPERM: "your user may not use this socket: use its owner or group, or another path",
    errno.ENOTDIR: "a part of the path is not a directory: check the path",
    errno.ENOTSOCK: "that is not a socket: check the path",
    errno.EAGAIN: "it is not accepting connections: the engine is overloaded or stopped; try again",
    errno.EADDRINUSE: "somebody makes sockets there at the same time; try again",
    errno.EMFILE: "this process has too many open files: raise its limit (ulimit -n)",
    errno.ENFILE: "the machine has too many open files",
    errno.EROFS: "the file system is read-only: choose another path",
}


@attrs.frozen
class Peer:
    """Who is at the other end, as the kernel noted it when they connected (SO_PEERCRED, unix(7))."""

    uid: int
    gid: int
    pid: int


def peer_of(stream: trio.SocketStream) -> Peer:
    """The credentials of the process that connected ``stream``, a Unix socket. Never blocks."""
    return _credentials(stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))


def _credentials(raw: bytes) -> Peer:
    pid, uid, gid = struct.unpack("iII", raw)
    return Peer(uid=uid, gid=gid, pid=pid)


class UnixListener(trio.abc.Listener[trio.SocketStream]):
    """A listening Unix socket at ``path``; closing it removes the path, if that is still this socket.

    A crash leaves the path behind as a dead socket, which the next `listen_unix` replaces.
    """

    def __init__(self, path: str, listener: trio.SocketListener, directory: int, name: str) -> None:
        self.path = path
        self._listener = listener
        self._directory = directory
        self._name = name
        self._identity = _identity(directory, name)

    async def accept(self) -> trio.SocketStream:
        """The next connection. Raises OSError as accept(2) does, EMFILE included; try again later."""
        return await self._listener.accept()

    async def aclose(self) -> None:
        """Stop listening and remove the path. Safe to call twice; a cancel still closes."""
        if self._directory >= 0:
            directory, self._directory = self._directory, -1
            try:
                if _identity(directory, self._name) == self._identity:
                    with contextlib.suppress(OSError):
                        os.unlink(self._name, dir_fd=directory)
            finally:
                os.close(directory)
        await self._listener.aclose()


def listen_unix(path: str | os.PathLike[str], mode: int = 0o600, *, gid: int | None = None) -> UnixListener:
    """Listen at ``path`` with permissions ``mode`` and, if given, group ``gid``; both from the first instant.

    Synchronous: it never waits for anybody. A socket at ``path`` that nothing listens on is replaced.
    Raises `InUse` if something does listen there, `Invalid` if the path is a symlink, not a socket, or in a
    directory in which anybody could replace it, and `HostError` if the kernel refuses. On an error nothing
    is left behind and whatever was at ``path`` is untouched.
    """
    text = os.fspath(path)
    parent, name = os.path.split(text)
    if not name or name in (".", "..") or "\0" in text:
        raise Invalid("socket path", text, "it must end in a file name and have no NUL")
    with _as_host_error("listen at", text):
        directory = os.open(parent or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, directory)
            permissions = os.fstat(directory).st_mode
            if permissions & stat.S_IWOTH and not permissions & stat.S_ISVTX:
                raise Invalid("socket path", text, "anybody may write to its directory; use a private one")
            _check_replaceable(directory, name, text)
            sock = _bound_aside(directory, name, parent, mode, gid, undo)
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
            result = UnixListener(text, listener, directory, name)
            undo.pop_all()
    return result


def _bound_aside(
    directory: int, name: str, parent: str, mode: int, gid: int | None, undo: contextlib.ExitStack
) -> socket.socket:
    """A socket listening at ``name``: made under a temporary name, finished there, and renamed.

    bind(2) makes the file with the permissions the umask leaves, and the umask belongs to the whole process.
    """
    temporary = f".{secrets.token_hex(8)}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    undo.callback(sock.close)
    sock.bind(_address(directory, temporary, os.path.join(parent, temporary)))
    undo.callback(_unlink_if_there, directory, temporary)
    os.chmod(temporary, mode, dir_fd=directory)
    if gid is not None:
        os.chown(temporary, -1, gid, dir_fd=directory)
    sock.listen(_BACKLOG)
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    return sock


def _check_replaceable(directory: int, name: str, text: str) -> None:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found):
        raise Invalid("socket path", text, "it is a symbolic link; remove it or choose another path")
    if not stat.S_ISSOCK(found):
        raise Invalid("socket path", text, "it exists and is not a socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(_address(directory, name, text))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except BlockingIOError:
            user = "a process that is not accepting connections"
        else:
            peer = _credentials(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            user = f"process {peer.pid} of user {peer.uid}"
    raise InUse("socket", text, (user,), "stop that process or choose another path")


async def connect_unix(path: str | os.PathLike[str]) -> trio.SocketStream:
    """A connection to the socket at ``path``. Raises `HostError`, with a hint, if it can't be had.

    A cancel leaves nothing open. If the listener's queue is full this waits up to 5 s in a thread, since
    the kernel tells nobody but a blocking connect(2) when there is room; a cancel takes effect after that.
    """
    text = os.fspath(path)
    await trio.lowlevel.checkpoint()
    if not text or "\0" in text:
        raise Invalid("socket path", text, "it must be a path in the file system")
    with _as_host_error("connect to", text):
        try:
            sock = _dial(text, wait=False)
        except BlockingIOError:
            sock = await trio.to_thread.run_sync(lambda: _dial(text, wait=True))
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


def _dial(text: str, *, wait: bool) -> socket.socket:
    parent, name = os.path.split(text)
    with contextlib.ExitStack() as undo:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        undo.callback(sock.close)
        if wait:
            timeout = struct.pack("ll", _CONNECT_TIMEOUT_S, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        else:
            sock.setblocking(False)
        if len(os.fsencode(text)) <= _SUN_PATH:
            sock.connect(text)
        else:
            directory = os.open(parent or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                sock.connect(_address(directory, name, text))
            finally:
                os.close(directory)
        sock.setblocking(False)
        undo.pop_all()
    return sock


def _address(directory: int, name: str, path: str) -> str:
    if len(os.fsencode(path)) <= _SUN_PATH:
        return path
    short = f"/proc/self/fd/{directory}/{name}"
    if len(os.fsencode(short)) > _SUN_PATH:
        raise Invalid("socket path", path, "its file name is too long for a socket; use a shorter one")
    return short


def _identity(directory: int, name: str) -> tuple[int, int] | None:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _unlink_if_there(directory: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


@contextlib.contextmanager
def _as_host_error(op: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        raise HostError(op, path, number, _HINTS.get(number, "")) from error
