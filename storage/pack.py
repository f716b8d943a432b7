"""A directory tree as a tar: the layer that was made here, or a container's file system for somebody to take
along.

The same tree gives the same bytes: names are sorted as bytes, a directory comes before what is in it, and neither
the machine, the umask nor the order on disk is in it anywhere. Unpacked again it is the same tree: modes, numeric
owners, times to the nanosecond (unlike Docker, which cuts them to seconds), hard links, devices, fifos, and the
extended attributes that :mod:`lading.storage.plan` keeps. What only means something here is left out: access and
change times, names of owners, ``trusted.*``, sockets. There is no entry for the root, as in Docker's layers.

A sparse file is written whole, its holes as zeros (OCI image-spec layer.md: sparse files should not be used), but
holes are not read from the disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NoReturn

import attrs

from lading.events.errors import HostError, ImageInvalid
from lading.storage.beneath import CHILD, is_whiteout
from lading.storage.linux import RESOLVE_NO_XDEV, openat2
from lading.storage.pieces import gathered
from lading.storage.plan import DEFAULT_LIMITS, KEPT_XATTRS, OPAQUE, WHITEOUT
from lading.storage.tarheader import END, header, padding
from lading.storage.trees import printable

__all__ = ["pack", "pack_one"]

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What is a file now and a fifo when it is opened must not be waited for.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_READ: Final = 1024 * 1024
_ZEROS: Final = bytes(_READ)
_FLAGS: Final = {stat.S_IFIFO: b"6", stat.S_IFCHR: b"3", stat.S_IFBLK: b"4"}

Note = Callable[[bytes, str], None]
Enter = Callable[[int], bool]


def pack(
    tree: int | Path,
    *,
    whiteouts: bool,
    opaque: bool = False,
    live: bool = False,
    top: bytes | None = None,
    enter: Enter | None = None,
    note: Note | None = None,
) -> Iterator[bytes]:
    """The tar of the directory ``tree`` (a path or a descriptor), in pieces of about a quarter to one MiB.

    With ``whiteouts`` the tree is an overlay's upper directory and the tar is a layer: a character device 0:0 is
    ``.wh.<name>`` and an opaque directory has ``.wh..wh..opq``, both before what stands beside them; ``opaque``
    says that about the root. What could not be unpacked as a layer again is :class:`ImageInvalid`: names that
    begin with ``.wh.``, and paths, entries or bytes beyond the default ``Limits``. Without, devices 0:0 are left
    out, because no archive may have them.

    With ``top``, which ends in a slash, the root has an entry by this name, and all others are beneath it.

    Other file systems that are mounted in the tree are not entered, unless ``enter`` says so of the descriptor of
    what is mounted. With ``live`` something may be at work in
    the tree: a file is as long as it was when its header was made, cut off or filled up with zeros, and what has
    vanished is left out; otherwise that is a :class:`HostError`, as is whatever the machine refuses. ``note`` is
    called with the path of whatever was left out or filled up, and why. Descriptors, at most four whatever the
    depth, are closed when the iterator is exhausted or closed.
    """
    return gathered(_Packing(whiteouts, opaque, live, note or _ignore, enter).pieces(tree, top))


def pack_one(parent: int, name: bytes, path: bytes, *, note: Note | None = None) -> Iterator[bytes]:
    """The tar of what is called ``name`` in the directory ``parent`` and is no directory, as ``path``.

    Otherwise as :func:`pack` of something ``live``: what is gone by then, or a socket, leaves an empty archive.
    """
    return gathered(_Packing(False, False, True, note or _ignore, None).one(parent, name, path))


def _ignore(path: bytes, why: str) -> None:
    pass


@attrs.frozen
class _Level:
    """A directory being walked: where it is, what it is called, and what in it is still to come, last first."""

    identity: tuple[int, int]
    path: bytes
    pending: list[tuple[bytes, str]]


class _Packing:
    """One walk."""

    def __init__(self, whiteouts: bool, opaque: bool, live: bool, note: Note, enter: Enter | None) -> None:
        self._enter = enter
        self._whiteouts = whiteouts
        self._opaque = opaque
        self._live = live
        self._note = note
        self._links: dict[tuple[int, int], bytes] = {}
        self._path = b""
        self._entries = 0
        self._bytes = 0

    def one(self, parent: int, name: bytes, path: bytes) -> Iterator[bytes]:
        self._path = path
        try:
            if stat.S_ISREG(os.lstat(name, dir_fd=parent).st_mode):
                yield from self._file(parent, name, path)
            else:
                yield self._other(parent, name, path)
        except OSError as error:
            raise HostError("pack", printable(path), error.errno or 0) from error
        yield END

    def pieces(self, tree: int | Path, top: bytes | None) -> Iterator[bytes]:
        where, at = (".", tree) if isinstance(tree, int) else (tree, None)
        fd = -1
        try:
            fd = os.open(where, _DIRECTORY, dir_fd=at)
            if top is not None:
                yield self._entry(top, b"5", os.fstat(fd), xattrs=self._xattrs(fd, top, b"user."))
            hidden, pending = self._scan(fd, top or b"", self._opaque or self._is_opaque(fd))
            yield hidden
            levels = [_Level(_identity(fd), top or b"", pending)]
            while True:
                level = levels[-1]
                if not level.pending:
                    levels.pop()
                    if not levels:
                        break
                    up = os.open(b"..", _DIRECTORY, dir_fd=fd)
                    os.close(fd)
                    fd = up
                    if _identity(fd) != levels[-1].identity:
                        self._changed(level.path, "it was moved")
                    continue
                name, kind = level.pending.pop()
                self._path = path = level.path + name
                self._entries += 1
                self._check(path, self._entries, DEFAULT_LIMITS.entries, "entries")
                if kind == "file":
                    yield from self._file(fd, name, path)
                elif kind == "directory":
                    below, entry = self._directory(fd, name, path)
                    if below >= 0:
                        os.close(fd)
                        fd = below
                    yield entry
                    if below >= 0:
                        hidden, pending = self._scan(fd, path + b"/", self._is_opaque(fd))
                        yield hidden
                        levels.append(_Level(_identity(fd), path + b"/", pending))
                else:
                    yield self._other(fd, name, path)
            yield END
        except OSError as error:
            hint = "it was mounted over or replaced; try again" if error.errno == errno.ESTALE else ""
            raise HostError("pack", printable(self._path), error.errno or 0, hint) from error
        finally:
            if fd >= 0:
                os.close(fd)

    def _scan(self, fd: int, path: bytes, opaque: bool) -> tuple[bytes, list[tuple[bytes, str]]]:
        """The whiteouts of a directory, as entries, and everything else in it with its kind, last first."""
        found: list[tuple[bytes, str]] = []
        hidden: list[bytes] = []
        with os.scandir(fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if self._whiteouts and name.startswith(WHITEOUT):
                    raise ImageInvalid(
                        f"{printable(path + name)!r} can't be in a layer, where names that begin with '.wh.' hide "
                        "others; rename it"
                    )
                kind = "other"
                if entry.is_file(follow_symlinks=False):
                    kind = "file"
                elif entry.is_dir(follow_symlinks=False):
                    kind = "directory"
                elif not entry.is_symlink():
                    with contextlib.suppress(FileNotFoundError):
                        if is_whiteout(os.lstat(name, dir_fd=fd)):
                            hidden.append(name)
                            continue
                found.append((name, kind))
        found.sort(reverse=True)
        if not self._whiteouts:
            for name in hidden:
                self._note(path + name, "a character device 0:0, which no archive may have")
            return b"", found
        entries_ = [header(path + OPAQUE, b"0")] if opaque else []
        entries_ += [header(path + WHITEOUT + name, b"0") for name in sorted(hidden)]
        return b"".join(entries_), found

    def _directory(self, parent: int, name: bytes, path: bytes) -> tuple[int, bytes]:
        """Its descriptor, or -1 when it is not to be entered, and its entry."""
        self._check(path, len(path), DEFAULT_LIMITS.path_bytes, "bytes of path")
        self._check(path, path.count(b"/"), DEFAULT_LIMITS.path_depth, "levels")
        try:
            fd = openat2(name, _DIRECTORY, resolve=CHILD, dir_fd=parent)
        except OSError as error:
            if error.errno != errno.EXDEV:
                return -1, self._vanished(path, error)
            fd = self._mounted(parent, name)
            if fd < 0:
                self._note(path, "a mount point, which is left empty")
                return -1, self._entry(path + b"/", b"5", os.lstat(name, dir_fd=parent))
        try:
            return fd, self._entry(path + b"/", b"5", os.fstat(fd), xattrs=self._xattrs(fd, path, b"user."))
        except BaseException:
            os.close(fd)
            raise

    def _mounted(self, parent: int, name: bytes) -> int:
        """The descriptor of the directory that is mounted there, if it is to be entered; -1 if not."""
        if self._enter is None:
            return -1
        fd = openat2(name, _DIRECTORY, resolve=CHILD & ~RESOLVE_NO_XDEV, dir_fd=parent)
        if self._enter(fd):
            return fd
        os.close(fd)
        return -1

    def _open_file(self, parent: int, name: bytes) -> int:
        """A file to read. Where something is at work, what is a file now may be a device when it is opened, which
        does things by being opened: so it is looked at before that, by a descriptor that stays on it."""
        if not self._live:
            return os.open(name, _FILE, dir_fd=parent)
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                self._changed(name, "it is no file any more")
            return os.open(b"/proc/self/fd/%d" % fd, _FILE & ~os.O_NOFOLLOW)
        finally:
            os.close(fd)

    def _file(self, parent: int, name: bytes, path: bytes) -> Iterator[bytes]:
        try:
            fd = self._open_file(parent, name)
        except OSError as error:
            yield self._vanished(path, error)
            return
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                self._changed(path, "it is no file any more")
            if (link := self._link(path, found)) is not None:
                yield link
                return
            size = found.st_size
            self._bytes += size
            self._check(path, self._bytes, DEFAULT_LIMITS.file_bytes, "bytes, holes in files included")
            xattrs = self._xattrs(fd, path, *KEPT_XATTRS)
            yield self._entry(path, b"0", found, size=size, xattrs=xattrs)
            yield from self._data(fd, path, found)
            yield padding(size)
            if not self._live:
                after = os.fstat(fd)
                if (after.st_size, after.st_mtime_ns) != (size, found.st_mtime_ns):
                    self._changed(path, "it was written to")
        finally:
            os.close(fd)

    def _data(self, fd: int, path: bytes, found: os.stat_result) -> Iterator[bytes]:
        """Exactly as many bytes as the header said."""
        at, size = 0, found.st_size
        sparse = found.st_blocks * 512 < size
        data = 0 if not sparse else -1  # where the next data is, if that is known
        end = size  # where that data ends
        while at < size:
            if at >= end or data < 0:
                data, end = _extent(fd, at, size)
            if at < data:
                piece = _ZEROS[: min(data - at, _READ)]
            else:
                piece = os.read(fd, min(end - at, _READ)) if not sparse else os.pread(fd, min(end - at, _READ), at)
            if not piece:
                if not self._live:
                    self._changed(path, f"it ends {size - at} bytes early")
                self._note(path, f"it became shorter; its last {size - at} bytes are zeros")
                data, end = size, size
                continue
            at += len(piece)
            yield piece

    def _other(self, parent: int, name: bytes, path: bytes) -> bytes:
        """A symlink, a device or a fifo."""
        try:
            found = os.lstat(name, dir_fd=parent)
            text = os.readlink(name, dir_fd=parent) if stat.S_ISLNK(found.st_mode) else b""
        except OSError as error:
            return self._vanished(path, error)
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFSOCK:
            self._note(path, "a socket, which means nothing without its process")
            return b""
        if (link := self._link(path, found)) is not None:
            return link
        if text:
            return self._entry(path, b"2", found, linkname=text)
        if kind not in _FLAGS:
            self._changed(path, "it is something else by now")
        return self._entry(path, _FLAGS[kind], found)

    def _link(self, path: bytes, found: os.stat_result) -> bytes | None:
        """The entry of a further name for something, or None for a first one."""
        if found.st_nlink == 1:
            return None
        first = self._links.setdefault((found.st_dev, found.st_ino), path)
        if first is path:
            return None
        return header(
            path, b"1", linkname=first, mode=stat.S_IMODE(found.st_mode), uid=found.st_uid, gid=found.st_gid
        )

    def _entry(
        self,
        path: bytes,
        flag: bytes,
        found: os.stat_result,
        *,
        size: int = 0,
        linkname: bytes = b"",
        xattrs: dict[bytes, bytes] | None = None,
    ) -> bytes:
        device = found.st_rdev if flag in b"34" else 0
        return header(
            path,
            flag,
            linkname=linkname,
            mode=stat.S_IMODE(found.st_mode),
            uid=found.st_uid,
            gid=found.st_gid,
            size=size,
            mtime_ns=found.st_mtime_ns,
            devmajor=os.major(device),
            devminor=os.minor(device),
            xattrs=xattrs,
        )

    def _xattrs(self, fd: int, path: bytes, *prefixes: bytes) -> dict[bytes, bytes]:
        kept: dict[bytes, bytes] = {}
        for name in _names(fd):
            key = os.fsencode(name)
            if self._whiteouts and key in (b"trusted.overlay.redirect", b"trusted.overlay.metacopy"):
                raise HostError(
                    "pack",
                    printable(path),
                    0,
                    f"it refers to a lower layer ({name}): mount overlays with redirect_dir and metacopy off",
                )
            if not key.startswith(prefixes) or key.startswith(b"user.overlay."):
                continue
            if b"=" in key:
                self._note(path, f"its extended attribute {name}, which no archive can hold")
                continue
            try:
                kept[key] = os.getxattr(fd, key)
            except OSError as error:
                if error.errno != errno.ENODATA or not self._live:
                    raise
        return kept

    def _is_opaque(self, fd: int) -> bool:
        if not self._whiteouts or "trusted.overlay.opaque" not in _names(fd):
            return False
        return os.getxattr(fd, "trusted.overlay.opaque") == b"y"

    def _check(self, path: bytes, count: int, limit: int, what: str) -> None:
        if self._whiteouts and count > limit:
            raise ImageInvalid(f"with {printable(path[-80:])!r} it has more than the {limit} {what} of a layer")

    def _vanished(self, path: bytes, error: OSError) -> bytes:
        if not self._live or error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            raise error
        self._note(path, "it vanished")
        return b""

    def _changed(self, path: bytes, why: str) -> NoReturn:
        raise HostError(
            "pack", printable(path), 0, f"{why} while it was read; stop what is at work there, try again"
        )


def _extent(fd: int, at: int, size: int) -> tuple[int, int]:
    """Where the next data from ``at`` on begins and ends; both ``size`` if there is none."""
    try:
        data = os.lseek(fd, at, os.SEEK_DATA)
        end = os.lseek(fd, data, os.SEEK_HOLE)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size, size
        if error.errno == errno.EINVAL:  # a file system that doesn't know: all of it is data
            return at, size
        raise
    return min(data, size), min(end, size)


def _names(fd: int) -> list[str]:
    try:
        return sorted(os.listxattr(fd))
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EPERM):
            return []
        raise


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
