"""Walking and removing directory trees that somebody else made: any depth, any names, no symlink followed.

Memory is one list of sub-directory names for each level; descriptors are two, however deep the tree. The
way up is ``..``, checked against the identity seen on the way down, so that a tree moved by somebody else
during the walk is an error and never a walk through the rest of the machine. Mount points are not entered.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import attrs

from lading.events.errors import HostError
from lading.storage.linux import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

__all__ = ["Usage", "measure", "measure_tree", "printable", "remove_tree"]

_ENTER = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@attrs.frozen
class Usage:
    """What a tree takes on disk, as ``du`` counts it: inodes once however often linked, 512-byte blocks."""

    inodes: int
    disk_bytes: int


def printable(name: bytes) -> str:
    """``name`` for a message: UTF-8 where it is, and no byte that could forge a line or drive a terminal."""
    text = name.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def remove_tree(parent_fd: int, name: bytes) -> None:
    """Remove the entry ``name`` of the directory ``parent_fd`` with everything beneath it.

    A missing ``name`` is not an error, so a removal that was cut short by a crash is finished by calling
    again. A symlink is removed, not followed. Raises :class:`HostError`; a mount point in the tree is EXDEV
    or EBUSY and what it holds is left alone, as is the rest of the tree that was not yet reached.
    """

    def leaf(directory: int, entry: os.DirEntry[str]) -> None:
        os.unlink(entry.name, dir_fd=directory)

    def emptied(directory: int, child: str) -> None:
        os.rmdir(child, dir_fd=directory)

    try:
        try:
            found = os.lstat(name, dir_fd=parent_fd)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            _walk(openat2(name, _FLAGS, resolve=_ENTER, dir_fd=parent_fd), leaf, emptied)
            os.rmdir(name, dir_fd=parent_fd)
        else:
            os.unlink(name, dir_fd=parent_fd)
    except OSError as error:
        hint = "something is mounted in it; unmount that first" if error.errno in _MOUNTED else ""
        raise HostError("remove", printable(name), error.errno or 0, hint) from error


_MOUNTED = (errno.EBUSY, errno.EXDEV)


def measure_tree(root_fd: int, stop: Callable[[], None] = lambda: None) -> Usage:
    """The usage of the directory ``root_fd`` and everything beneath it. ``stop`` is called for each file.

    Raises :class:`HostError`, and what ``stop`` raises.
    """
    inodes = 0
    blocks = 0
    linked: set[int] = set()

    def count(entry: os.stat_result) -> None:
        nonlocal inodes, blocks
        stop()
        if entry.st_nlink > 1 and not stat.S_ISDIR(entry.st_mode):
            if entry.st_ino in linked:
                return
            linked.add(entry.st_ino)
        inodes += 1
        blocks += entry.st_blocks

    def leaf(_directory: int, entry: os.DirEntry[str]) -> None:
        count(entry.stat(follow_symlinks=False))

    def left(directory: int, child: str) -> None:
        count(os.lstat(child, dir_fd=directory))

    try:
        count(os.fstat(root_fd))
        _walk(os.open(b".", _FLAGS, dir_fd=root_fd), leaf, left)
    except OSError as error:
        raise HostError("measure the directory tree", "", error.errno or 0) from error
    return Usage(inodes, blocks * 512)


def measure(directory: str | os.PathLike[str]) -> Usage:
    """``measure_tree`` of the directory at a path. Raises :class:`HostError`."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError("measure", os.fspath(directory), error.errno or 0) from error
    try:
        return measure_tree(fd)
    finally:
        os.close(fd)


def _walk(fd: int, leaf: Callable[[int, os.DirEntry[str]], None], left: Callable[[int, str], None]) -> None:
    """Call ``leaf`` for each non-directory, ``left`` for each directory after its contents; closes ``fd``."""
    # For each level above: its identity, its directories still to enter, and the one that was entered.
    above: list[tuple[tuple[int, int], list[str], str]] = []
    try:
        pending = _scan(fd, leaf)
        while True:
            if pending:
                child = pending.pop()
                below = openat2(os.fsencode(child), _FLAGS, resolve=_ENTER, dir_fd=fd)
                above.append((_identity(fd), pending, child))
                os.close(fd)
                fd = below
                pending = _scan(fd, leaf)
            elif above:
                identity, pending, child = above.pop()
                up = os.open(b"..", _FLAGS, dir_fd=fd)
                os.close(fd)
                fd = up
                if _identity(fd) != identity:
                    raise OSError(errno.ESTALE, "the tree was moved while it was walked")
                left(fd, child)
            else:
                return
    finally:
        os.close(fd)


def _scan(fd: int, leaf: Callable[[int, os.DirEntry[str]], None]) -> list[str]:
    directories = []
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                leaf(fd, entry)
    return directories


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
