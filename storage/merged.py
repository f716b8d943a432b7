"""What a stack of unpacked layers shows when it is mounted, found without mounting it.

The rules are overlayfs's (kernel Documentation/filesystems/overlayfs.rst): a whiteout hides a name in the layers
below, an opaque directory everything they have in it, and whatever is no directory hides what is below it. Paths
are real ones, relative to the root; each step is one name beneath a descriptor, and no symlink is followed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import Final

import attrs

from lading.storage.beneath import CHILD, is_whiteout
from lading.storage.linux import openat2

__all__ = ["OPAQUE_XATTR", "Found", "find", "is_opaque", "open_directory", "split_path"]

OPAQUE_XATTR: Final = "trusted.overlay.opaque"

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@attrs.frozen
class Found:
    """Where something is: the root descriptor of the topmost layer that shows it, and what it is there."""

    layer: int
    path: bytes
    status: os.stat_result


def find(layers: Sequence[int], path: bytes, *, below_first: bool = False) -> Found | None:
    """What ``layers`` (root descriptors, topmost first) show at ``path``; None if that is nothing.

    With ``below_first`` only what the layers below the first have there, as far as the first lets it be seen: what
    the first itself has at ``path`` does not count.
    """
    names = path.split(b"/") if path else []
    for layer in layers:
        skipped = below_first and layer is layers[0]
        found, hidden = _look(layer, path, names, skipped)
        if found is not None:
            return found
        if hidden:
            return None
    return None


def _look(layer: int, path: bytes, names: list[bytes], skipped: bool) -> tuple[Found | None, bool]:
    """What ``layer`` has at ``path``, and whether it hides what the layers below have there."""
    if not names and not skipped:
        return Found(layer, path, os.fstat(layer)), False
    at = os.dup(layer)
    hidden = False
    try:
        for number, name in enumerate(names, 1):
            last = number == len(names)
            if last and skipped:
                break
            try:
                status = os.lstat(name, dir_fd=at)
            except FileNotFoundError:
                break
            if is_whiteout(status):
                return None, True
            if last:
                return Found(layer, path, status), True
            if not stat.S_ISDIR(status.st_mode):
                return None, True
            below = openat2(name, _DIRECTORY, resolve=CHILD, dir_fd=at)
            os.close(at)
            at = below
            hidden = hidden or is_opaque(at)
    finally:
        os.close(at)
    return None, hidden


def is_opaque(fd: int) -> bool:
    """Whether the open directory hides what lower layers have in it."""
    try:
        return os.getxattr(fd, OPAQUE_XATTR) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise


def open_directory(layer: int, path: bytes) -> int:
    """A descriptor of the directory at the real ``path`` of one layer."""
    return openat2(path or b".", _DIRECTORY, resolve=CHILD, dir_fd=layer)


def split_path(path: bytes) -> tuple[bytes, bytes]:
    """The parent (empty: the root) and the name."""
    parent, _, name = path.rpartition(b"/")
    return parent, name
