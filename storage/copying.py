"""Copying one entry of a layer to another layer, with what a layer keeps of it: content, owner, mode,
attributes, time.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from lading.storage.beneath import CHILD
from lading.storage.linux import openat2

__all__ = ["copy_directory_metadata", "copy_entry"]

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE: Final = 1 << 30


def copy_directory_metadata(source: int, target: int) -> None:
    """Give the open directory ``target`` what ``source`` has: owner, mode, attributes, and time."""
    found = os.fstat(source)
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    _copy_attributes(source, target)
    os.utime(target, ns=(found.st_mtime_ns, found.st_mtime_ns))


def copy_entry(source: int, name: bytes, found: os.stat_result, parent: int, new: bytes) -> None:
    """Make ``new`` in the open directory ``parent``: a copy of ``name`` in ``source``, which is ``found`` there
    and no directory. Raises ``FileExistsError`` if there is something already."""
    times = found.st_mtime_ns, found.st_mtime_ns
    if stat.S_ISREG(found.st_mode):
        read = openat2(name, os.O_RDONLY | os.O_NOFOLLOW, resolve=CHILD, dir_fd=source)
        try:
            write = os.open(new, _NEW, 0o600, dir_fd=parent)
            try:
                _copy_content(read, write, found.st_size)
                os.fchown(write, found.st_uid, found.st_gid)
                os.fchmod(write, stat.S_IMODE(found.st_mode))
                _copy_attributes(read, write)
                os.utime(write, ns=times)
            finally:
                os.close(write)
        finally:
            os.close(read)
        return
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), new, dir_fd=parent)
    else:
        os.mknod(new, found.st_mode, found.st_rdev, dir_fd=parent)
    os.chown(new, found.st_uid, found.st_gid, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(new, stat.S_IMODE(found.st_mode), dir_fd=parent)  # made just now, so it is no symlink
    os.utime(new, ns=times, dir_fd=parent, follow_symlinks=False)


def _copy_content(read: int, write: int, size: int) -> None:
    """The data of a file and its holes."""
    os.ftruncate(write, size)
    at = 0
    while at < size:
        try:
            start = os.lseek(read, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole to the end
            raise
        at = os.lseek(read, start, os.SEEK_HOLE)
        os.lseek(read, start, os.SEEK_SET)
        os.lseek(write, start, os.SEEK_SET)
        left = at - start
        while left:
            done = os.sendfile(write, read, None, min(left, _PIECE))
            if not done:
                raise OSError(errno.EIO, "the file became shorter while it was copied")
            left -= done


def _copy_attributes(source: int, target: int) -> None:
    for name in os.listxattr(source):
        plain = name.startswith(("user.", "system.posix_acl_")) and not name.startswith("user.overlay.")
        if plain or name == "security.capability":
            os.setxattr(target, name, os.getxattr(source, name))
