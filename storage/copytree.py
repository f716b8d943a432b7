"""Copying a whole directory, as it is, to an empty one: any depth, any names, no symlink followed.

Owners, modes, times, attributes and hard links come out as they were; a fifo, a socket or a device is made anew
and never opened, so that nothing waits for somebody at its other end. Mount points in the source are not entered.
Memory is one list of names for each level, and one entry for each file that has several names.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from lading.storage.beneath import CHILD
from lading.storage.copying import copy_directory_metadata, copy_entry
from lading.storage.linux import openat2

__all__ = ["copy_tree"]

_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_PATH: Final = 4096

_Identity = tuple[int, int]


def copy_tree(source: int, target: int, pause: Callable[[], None] = lambda: None) -> int:
    """Copy what is in the open directory ``source`` into ``target``, which is open and empty; how many entries.

    ``target`` itself gets the look of ``source``, too. ``pause`` is called before each entry: what it raises ends
    the copy. Raises ``OSError``, ENOENT or ESTALE if somebody changes the source meanwhile; then, and after a
    crash, part of it is there.
    """
    return _Copy(source, target, pause).run()


class _Copy:
    def __init__(self, source: int, target: int, pause: Callable[[], None]) -> None:
        self._top = target
        self._pause = pause
        self._count = 0
        self._linked: dict[_Identity, bytes] = {}
        self._source = os.open(b".", _FLAGS, dir_fd=source)
        self._target = os.open(b".", _FLAGS, dir_fd=target)
        self._path: list[bytes] = []

    def run(self) -> int:
        # For each level above: the identity of its two directories, and the names still to enter.
        above: list[tuple[_Identity, _Identity, list[bytes]]] = []
        try:
            pending = self._files()
            while True:
                if pending:
                    name = pending.pop()
                    above.append((_identity(self._source), _identity(self._target), pending))
                    self._enter(name)
                    pending = self._files()
                    continue
                copy_directory_metadata(self._source, self._target)
                if not above:
                    return self._count
                source, target, pending = above.pop()
                self._source = _up(self._source, source)
                self._target = _up(self._target, target)
                self._path.pop()
        finally:
            os.close(self._source)
            os.close(self._target)

    def _enter(self, name: bytes) -> None:
        self._pause()
        self._count += 1
        os.mkdir(name, 0o700, dir_fd=self._target)
        below = openat2(name, _FLAGS, resolve=CHILD, dir_fd=self._source)
        os.close(self._source)
        self._source = below
        below = openat2(name, _FLAGS, resolve=CHILD, dir_fd=self._target)
        os.close(self._target)
        self._target = below
        self._path.append(name)

    def _files(self) -> list[bytes]:
        """Copy every entry here that is no directory; the names of the rest."""
        directories = []
        with os.scandir(self._source) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    directories.append(name)
                    continue
                self._pause()
                self._count += 1
                self._file(name, entry.stat(follow_symlinks=False))
        return directories

    def _file(self, name: bytes, found: os.stat_result) -> None:
        if found.st_nlink > 1:
            key = found.st_dev, found.st_ino
            first = self._linked.get(key)
            if first is not None:
                os.link(first, name, src_dir_fd=self._top, dst_dir_fd=self._target, follow_symlinks=False)
                return
            own = b"/".join((*self._path, name))
            if len(own) < _PATH:  # deeper than that it can't be named from the top: it becomes a file of its own
                self._linked[key] = own
        copy_entry(self._source, name, found, self._target, name)


def _up(fd: int, identity: _Identity) -> int:
    """The directory above ``fd``, which is closed; ``OSError`` if it is another than on the way down."""
    above = os.open(b"..", _FLAGS, dir_fd=fd)
    if _identity(above) != identity:
        os.close(above)
        raise OSError(errno.ESTALE, "the tree was moved while it was copied")
    os.close(fd)
    return above


def _identity(fd: int) -> _Identity:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
