"""A watch on one directory for files that were written or moved into place (inotify(7))."""

from __future__ import annotations

import ctypes
import os
import struct
from types import TracebackType

__all__ = ["Watch"]

_IN_CLOSE_WRITE = 0x8
_IN_MOVED_TO = 0x80
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """Names of files in ``directory`` as they become complete. ``fd`` is non-blocking and polls readable."""

    def __init__(self, directory: str) -> None:
        self.fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        if _libc.inotify_add_watch(self.fd, os.fsencode(directory), _IN_CLOSE_WRITE | _IN_MOVED_TO) < 0:
            error = ctypes.get_errno()
            os.close(self.fd)
            raise OSError(error, os.strerror(error), directory)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)

    def read(self) -> list[str]:
        """The names since the last call; empty if there are none."""
        try:
            data = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return []
        names, at = [], 0
        while at < len(data):
            _, _, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            names.append(os.fsdecode(data[at : at + length].rstrip(b"\0")))
            at += length
        return names
