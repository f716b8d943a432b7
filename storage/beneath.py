"""Parent directories beneath a root descriptor: found, made where they are missing, and kept open for a while.

The kernel resolves each path with the root descriptor as its root (openat2(2)), so an absolute symlink is taken
from there and ``..`` stops there. Only where something is missing are the components walked here, one at a time
and by the same rules (path_resolution(7)).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final

from lading.storage.linux import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)

__all__ = ["CHILD", "IN_ROOT", "PATH_DIRECTORY", "Parents", "is_whiteout"]

IN_ROOT: Final = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
CHILD: Final = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
PATH_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

_MAX_SYMLINKS: Final = 40  # the kernel's own limit
_KEPT: Final = 32
_KEPT_PATHS: Final = 1024

Imply = Callable[[int, list[bytes], bytes, bool], None]


class Parents:
    """Descriptors of directories by their path as written in the archive, relative to ``root``.

    A path that was resolved once stays right as long as none of its components becomes something else, which only
    the removal of a symlink or of a directory can bring about: whoever does that calls :meth:`forget`.
    ``imply(parent_fd, path_of_parent, name, opaque)`` makes a missing directory; ``opaque`` when a whiteout of the
    same name had to give way.
    """

    def __init__(self, root: int, imply: Imply) -> None:
        self._root = root
        self._imply = imply
        self._open: dict[bytes, int] = {}
        self._real: dict[bytes, bytes] = {}

    def get(self, path: bytes) -> int:
        """The descriptor of the directory ``path``, valid until the next call of any method.

        Raises OSError: ENOTDIR when a file is in the way, ELOOP, ENAMETOOLONG, EXDEV for a mount point.
        """
        fd = self._open.get(path)
        if fd is not None:
            return fd
        if not path:
            return self._root
        try:
            fd = openat2(path, PATH_DIRECTORY, resolve=IN_ROOT, dir_fd=self._root)
        except (FileNotFoundError, NotADirectoryError):
            fd = self._make(path)
        self.remember(path, fd)
        return fd

    def real(self, path: bytes) -> bytes:
        """The path of the directory ``path`` by which no symlink is met; it is made if it is missing.

        Raises OSError as :meth:`get`, also ENAMETOOLONG where a symlink leads deeper than any path can.
        """
        found = self._real.get(path)
        if found is None:
            if len(self._real) >= _KEPT_PATHS:
                self._real.clear()
            found = self._real[path] = self._find_real(path, self.get(path))
        return found

    def _find_real(self, path: bytes, fd: int) -> bytes:
        if not path or fd == self._root:  # the root may be remembered by a descriptor of its own entry
            return b""
        try:
            os.close(openat2(path, PATH_DIRECTORY, resolve=CHILD, dir_fd=self._root))
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        else:
            return path
        root = os.readlink(b"/proc/self/fd/%d" % self._root)
        found = os.readlink(b"/proc/self/fd/%d" % fd)
        if found == root:
            return b""
        if not found.startswith(root + b"/"):
            raise OSError(errno.ESTALE, "the tree was moved while it was filled")
        return found[len(root) + 1 :]

    def remember(self, path: bytes, fd: int) -> None:
        """Take over ``fd`` as the descriptor of ``path``."""
        old = self._open.pop(path, None)
        if old is not None:
            os.close(old)
        elif len(self._open) >= _KEPT:
            os.close(self._open.pop(next(iter(self._open))))
        self._open[path] = fd

    def forget(self) -> None:
        """Close every descriptor."""
        self._real.clear()
        while self._open:
            os.close(self._open.popitem()[1])

    def close(self) -> None:
        """Close every descriptor, for good; ``imply`` is let go, which is likely to be of whoever has this."""
        self.forget()
        del self._imply

    def _make(self, path: bytes) -> int:
        """Make what is missing of ``path``; where a dangling symlink points to, too."""
        pending = path.split(b"/")[::-1]
        real: list[bytes] = []  # the names from the root to ``at``
        at = os.dup(self._root)
        links = 0
        try:
            while pending:
                part = pending.pop()
                if part in (b"", b"."):
                    continue
                if part == b"..":
                    if real:
                        real.pop()
                        below = openat2(b"/".join(real) or b".", PATH_DIRECTORY, resolve=CHILD, dir_fd=self._root)
                        os.close(at)
                        at = below
                    continue
                text = self._enter(at, real, part)
                if text is None:
                    below = openat2(part, PATH_DIRECTORY | os.O_NOFOLLOW, resolve=CHILD, dir_fd=at)
                    real.append(part)
                else:
                    links += 1
                    if links > _MAX_SYMLINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                    pending += text.split(b"/")[::-1]
                    if not text.startswith(b"/"):
                        continue
                    real.clear()
                    below = os.dup(self._root)
                os.close(at)
                at = below
        except BaseException:
            os.close(at)
            raise
        return at

    def _enter(self, at: int, real: list[bytes], part: bytes) -> bytes | None:
        """Make sure that ``part`` is a directory, or give the text of the symlink that it is."""
        try:
            found = os.lstat(part, dir_fd=at)
        except FileNotFoundError:
            self._imply(at, real, part, False)
            return None
        if stat.S_ISLNK(found.st_mode):
            return os.readlink(part, dir_fd=at)
        if is_whiteout(found):
            os.unlink(part, dir_fd=at)
            self._imply(at, real, part, True)
        elif not stat.S_ISDIR(found.st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), part)
        return None


def is_whiteout(found: os.stat_result) -> bool:
    """Whether this is overlayfs's whiteout, a character device 0:0."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0
