"""The local end of ``lading cp``: what is packed and where it is unpacked, by the rules of ``docker cp``.

Source: moby, pkg/archive/copy.go (CopyInfo, PrepareArchiveCopy): whether the destination is there, and whether
either end is a directory, decides which directory the archive is extracted to and what its top entry is called.
Paths are bytes; one that ends in ``/.`` means what is in the directory, one that ends in ``/`` a directory.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

import attrs

from lading.storage.extracting import Extracted, Rules, extract
from lading.storage.pack import pack, pack_one
from lading.storage.worker import FdSource

__all__ = ["End", "asks_for_directory", "local_end", "pack_local", "place", "split_end", "unpack_local"]

_LINKS = 10


@attrs.frozen
class End:
    """One end of a copy: its path, whether something is there, and whether that is a directory."""

    path: bytes
    exists: bool
    directory: bool


def asks_for_directory(path: bytes) -> bool:
    """Whether the path itself says that it is a directory."""
    return path.endswith(b"/") or _is_current(path)


def _is_current(path: bytes) -> bool:
    return path.rpartition(b"/")[2] == b"."


def split_end(path: bytes) -> tuple[bytes, bytes]:
    """The directory and the last name of ``path``; ``.`` is a name."""
    clean = os.path.normpath(path)
    if _is_current(path) and clean not in (b".", b"/"):
        return clean, b"."
    if clean == b"/":
        return b"/", b"." if _is_current(path) else b"/"
    return os.path.dirname(clean) or b".", os.path.basename(clean)


def place(source: End, target: End) -> tuple[bytes, bytes | None]:
    """The directory to extract ``source``'s archive to, and what its top entry is to be called there (None: what
    it is called). Raises ``OSError`` for what can't be copied there."""
    directory, name = split_end(target.path)
    if target.exists and target.directory:
        return target.path, None
    if target.exists and source.directory:
        raise NotADirectoryError(errno.ENOTDIR, "cannot copy a directory to a file", os.fsdecode(target.path))
    if not target.exists and not source.directory and asks_for_directory(target.path):
        raise FileNotFoundError(errno.ENOENT, "no such directory", os.fsdecode(target.path))
    return directory, name


def local_end(path: bytes) -> End:
    """``path`` as a destination: symlinks are followed, to where something is or is to be made. ``OSError`` where
    the directory that it would be in is missing."""
    for _ in range(_LINKS):
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            above = split_end(path)[0]
            if not stat.S_ISDIR(os.stat(above).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(above)) from None
            return End(path, False, False)
        if not stat.S_ISLNK(found.st_mode):
            return End(path, True, stat.S_ISDIR(found.st_mode))
        path = os.path.join(split_end(path)[0], os.readlink(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(path))


def pack_local(path: bytes, follow: bool) -> tuple[End, bytes, LocalTree]:
    """What is at ``path``, the name of it, and the tree to pack. ``follow``: a symlink there is followed, as it is
    where the path says that it is a directory. Raises ``OSError``."""
    followed = os.path.realpath(path, strict=True) if follow or asks_for_directory(path) else path
    found = os.lstat(followed)
    directory = stat.S_ISDIR(found.st_mode)
    if asks_for_directory(path) and not directory:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(path))
    name = split_end(path)[1]
    if name == b"." and not directory:
        name = os.path.basename(followed)
    return End(path, True, directory), name, LocalTree(followed, directory)


@attrs.frozen
class LocalTree:
    """Something to pack, by its real path."""

    path: bytes
    directory: bool

    def pieces(self, name: bytes) -> Iterator[bytes]:
        """The tar of it, its top entry called ``name``. Raises ``OSError``, ``HostError``."""
        if self.directory:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            top = b"/" if name == b"/" else name + b"/"
            try:
                yield from pack(fd, whiteouts=False, live=True, top=top, enter=lambda _: True)
            finally:
                os.close(fd)
            return
        above, last = os.path.split(self.path)
        fd = os.open(above or b".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield from pack_one(fd, last, name)
        finally:
            os.close(fd)


def unpack_local(fd: int, directory: bytes, old: bytes, new: bytes | None, *, owners: bool) -> Extracted:
    """Extract the archive that ``fd`` gives into ``directory``, its top entry ``old`` called ``new`` there.

    What the archive says can't reach anything outside of the directory, by ``..`` or by symlinks. ``owners``: it
    says whose things are; otherwise they are the caller's. Raises ``OSError``, ``ImageInvalid``, ``HostError``.
    """
    into = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        rename = None if new is None else (old, new)
        return extract(FdSource(fd), into, rules=Rules(keep_kinds=True, owned=owners), rename=rename)
    finally:
        os.close(into)
