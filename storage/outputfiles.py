"""The files that hold what a container printed: ``output``, and the older ``output.1``, ``output.2`` ...

Every file begins where the one before it ended (``BlockHead.base``), so their order and whether one is missing can
be told from themselves. Rotating is a rename of each to the next number, the last one first, and then of a new
file to ``output``. A process that is killed in between leaves one number unused, and whoever rotates next begins
there.

Names are opened without following symlinks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import attrs

from lading.storage.output import BLOCK, BlockHead, encode_head, is_old, read_head

__all__ = ["CURRENT", "OutputFile", "copy_output", "is_output_name", "open_kept", "rotate"]

CURRENT = "output"
"""The file that is written to."""

_PIECE = 1 << 20
_NEW = "output.new"
_NAME = re.compile(r"output(?:\.[1-9][0-9]{0,5})?", re.ASCII)
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@attrs.define
class OutputFile:
    """One open file. ``base``: its place in the whole of what was printed, None while it is empty.

    ``old``: it is in the first format.
    """

    fd: int
    inode: int
    base: int | None = None
    old: bool = False

    @property
    def size(self) -> int:
        """Its length now."""
        return os.fstat(self.fd).st_size

    def look(self) -> None:
        """Find ``base``, if it was empty."""
        if self.base is None:
            self.base, self.old = _base(self.fd)

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)


def is_output_name(name: str) -> bool:
    """Whether a file of this name in a container's directory is one of its output."""
    return _NAME.fullmatch(name) is not None


def open_kept(directory: int) -> Iterator[OutputFile]:
    """The files that there are, each opened as it is asked for, the newest first.

    Those that are rotated meanwhile may come twice and are never missed. Whoever takes one closes it.
    """
    number = missing = 0
    while missing < 2:
        try:
            fd = os.open(CURRENT if number == 0 else f"{CURRENT}.{number}", _READ, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                raise
            missing += 1
        else:
            missing = 0
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode):
                yield OutputFile(fd, found.st_ino, *(_base(fd) if found.st_size else ()))
            else:
                os.close(fd)
        number += 1


def rotate(directory: int, base: int, latest: int, keep: int) -> int:
    """A new ``output``, open for writing; of the files before it the newest ``keep`` stay, under the next numbers.

    ``OSError`` before anything was renamed leaves all as it was. After a crash it can be done again.
    """
    with contextlib.suppress(FileNotFoundError):  # what a crash left
        os.unlink(_NEW, dir_fd=directory)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(_NEW, flags, 0o600, dir_fd=directory)
    try:
        with contextlib.suppress(OSError):  # a full disk: the head comes with the first chunk
            os.pwrite(fd, encode_head(BlockHead(base, latest)), 0)
        if keep and _is_there(directory, 0):  # else somebody was killed here
            _shift(directory, keep)
        os.rename(_NEW, CURRENT, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.close(fd)
        raise
    return fd


def copy_output(source: Path, target: Path) -> None:
    """Copy the files of the container's directory ``source`` to ``target``, as they are now, rotated or not.

    What is rotated meanwhile is copied all the same. Raises ``OSError``.
    """
    directory = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    files: dict[int, OutputFile] = {}
    try:
        for file in open_kept(directory):
            if file.inode in files:
                file.close()
            else:
                files[file.inode] = file
        for number, file in enumerate(files.values()):
            with open(file.fd, "rb", closefd=False) as whole, (target / _name(number)).open("xb") as copy:
                os.fchmod(copy.fileno(), 0o600)
                shutil.copyfileobj(whole, copy, _PIECE)
    finally:
        os.close(directory)
        for file in files.values():
            file.close()


def _shift(directory: int, keep: int) -> None:
    """Move the files one number on, up to the first number that is free, or over the oldest."""
    free = 1
    while free < keep and _is_there(directory, free):
        free += 1
    for number in range(free, 0, -1):
        os.rename(_name(number - 1), _name(number), src_dir_fd=directory, dst_dir_fd=directory)


def _name(number: int) -> str:
    return f"{CURRENT}.{number}" if number else CURRENT


def _is_there(directory: int, number: int) -> bool:
    try:
        os.stat(_name(number), dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return True


def _base(fd: int) -> tuple[int | None, bool]:
    """The base that the first of the blocks with a whole head tells, and whether the format is the first one."""
    size = os.fstat(fd).st_size
    if size and is_old(fd):
        return 0, True
    for block in range(0, size, BLOCK):
        head = read_head(fd, block)
        if head is not None:
            return head.base - block, False
    return None, False
