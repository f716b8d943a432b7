"""Paths within a container's root, as seen from outside: looked up so that nothing beside the root is reached.

The kernel resolves them with the root's descriptor as its root (openat2(2), RESOLVE_IN_ROOT), so absolute symlinks
and ``..`` mean what they mean in the container, whoever swaps its names meanwhile; magic links, by which /proc
leads anywhere, are refused. What the kernel itself shows as files (/proc, /sys, control groups) is no part of a
container's file system, though it is mounted there: reading it here would be done with the engine's rights.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

import attrs

from lading.storage.beneath import PATH_DIRECTORY
from lading.storage.linux import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    filesystem_type,
    openat2,
)

__all__ = ["BENEATH", "STEP", "WITHIN", "Asked", "Located", "is_interface", "located", "parse_path", "real_target"]

WITHIN: Final = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
"""A path whose root is the descriptor's directory; mount points are crossed."""
BENEATH: Final = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
"""A path that may not lead out of the descriptor's directory."""
STEP: Final = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
"""One name, which is no symlink; a mount point is crossed."""

_INTERFACES: Final = frozenset(
    (
        0x9FA0,  # proc
        0x62656572,  # sysfs
        0x27E0EB,  # cgroup
        0x63677270,  # cgroup2
        0x1CD1,  # devpts
        0x19800202,  # mqueue
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0xCAFE4A11,  # bpf
        0x62656570,  # configfs
        0xDE5E81E4,  # efivarfs
        0x6165676C,  # pstore
        0xF97CFF8C,  # selinuxfs
        0x43415D53,  # smackfs
        0x6E736673,  # nsfs
        0x42494E4D,  # binfmt_misc
        0x5A3C69F0,  # apparmorfs
        0x858458F6,  # ramfs, which the rootfs of an initrd is
        0x50494446,  # pidfs
    )
)
_ITSELF: Final = os.O_PATH | os.O_NOFOLLOW
_MAX_LINKS: Final = 40
_MAX_NAMES: Final = 4096


def is_interface(fd: int) -> bool:
    """Whether what is open is one of the kernel's own file systems (linux/magic.h)."""
    return filesystem_type(fd) in _INTERFACES


@attrs.frozen
class Asked:
    """A path as ``docker cp`` reads it: ``path`` within the root, clean (empty: the root itself).

    ``directory``: it ended in ``/`` or ``/.``, so a symlink there is followed, to a directory. ``base``: what its
    entries are called: its last name, ``.`` if it ended so, ``/`` for the root.
    """

    path: bytes
    directory: bool
    base: bytes


def parse_path(text: bytes) -> Asked:
    """``text``, absolute or relative to the root; ``..`` is taken away before anything is looked up, as Go
    does."""
    names: list[bytes] = []
    for name in text.split(b"/"):
        if name == b"..":
            del names[-1:]
        elif name not in (b"", b"."):
            names.append(name)
    last = text.rpartition(b"/")[2]
    base = b"." if last == b"." else names[-1] if names else b"/"
    return Asked(b"/".join(names), last in (b"", b".") or not names, base)


@attrs.frozen
class Located:
    """What is at a path: ``fd`` (O_PATH) and ``status``; the descriptor of the directory it is in, and its
    ``name`` there (empty: it is the directory ``parent`` itself)."""

    parent: int
    name: bytes
    fd: int
    status: os.stat_result


@contextlib.contextmanager
def located(root: int, asked: Asked) -> Iterator[Located]:
    """What is at ``asked`` in the directory ``root``; a symlink there is not followed, unless ``asked`` says so.

    Raises ``OSError``: ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG; ENOENT, too, for the kernel's own files.
    """
    above, _, name = asked.path.rpartition(b"/")
    if asked.directory:
        above, name = asked.path, b""
    parent = openat2(above or b".", PATH_DIRECTORY, resolve=WITHIN, dir_fd=root)
    try:
        fd = openat2(name, _ITSELF, resolve=STEP, dir_fd=parent) if name else os.dup(parent)
        try:
            if is_interface(fd) or is_interface(parent):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), asked.path)
            yield Located(parent, name, fd, os.fstat(fd))
        finally:
            os.close(fd)
    finally:
        os.close(parent)


def real_target(root: int, path: bytes) -> bytes:
    """Where the symlink ``path`` leads in the end, as an absolute path within ``root``, or as far as that is
    known.

    Only for people to read: between this and the next look it may be another one.
    """
    todo = path.split(b"/")[::-1]
    real: list[bytes] = []
    links = names = 0
    while todo:
        name = todo.pop()
        names += 1
        if name in (b"", b"."):
            continue
        if name == b"..":
            del real[-1:]
            continue
        text = _text(root, real, name) if links < _MAX_LINKS and names < _MAX_NAMES else None
        if text is None:
            real.append(name)
            continue
        links += 1
        todo += text.split(b"/")[::-1]
        if text.startswith(b"/"):
            real.clear()
    return b"/" + b"/".join(real)


def _text(root: int, real: list[bytes], name: bytes) -> bytes | None:
    """The text of the symlink ``name`` in the directory ``real``; None if it is none."""
    with contextlib.suppress(OSError):
        above = openat2(b"/".join(real) or b".", PATH_DIRECTORY, resolve=WITHIN, dir_fd=root)
        try:
            if stat.S_ISLNK(os.lstat(name, dir_fd=above).st_mode):
                return os.readlink(name, dir_fd=above)
        finally:
            os.close(above)
    return None
