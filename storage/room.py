"""Leaving some room on a disk that an archive is unpacked to.

Whatever else is on it must go on: above all the log, for which a disk without room is the end. So unpacking ends
before everything is used up, as if the disk were a little smaller than it is.
"""

from __future__ import annotations

import errno
import os
from typing import Final

__all__ = ["Room"]

_BYTES: Final = 64 * 2**20
_INODES: Final = 1000
_PART: Final = 16
"""What is left: so many bytes and inodes, or this part of a small disk's."""

_STEPS: Final = 16
"""How often to look: when a sixteenth of what is to be left may be used, since several may write at once."""

_ENTRY: Final = 8 * 2**10
"""An entry counts as so many bytes more, so that inodes are looked at, too."""


class Room:
    """The file system of the directory ``fd``, which stays open while this is used."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        found = os.fstatvfs(fd)
        self._left = min(_BYTES, found.f_blocks * found.f_frsize // _PART)
        self._inodes = min(_INODES, found.f_files // _PART)
        self._unchecked = self._left

    def take(self, size: int) -> None:
        """``size`` more bytes, or an entry, are about to be written. ``OSError`` (ENOSPC) if there is no room."""
        self._unchecked += size + _ENTRY
        if self._unchecked * _STEPS < self._left:
            return
        self._unchecked = 0
        found = os.fstatvfs(self._fd)
        if found.f_bavail * found.f_frsize - size < self._left or (
            found.f_files and found.f_favail < self._inodes
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
