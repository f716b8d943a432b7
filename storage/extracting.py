"""Taking a tar apart into a directory that has something in it already, and may be at work meanwhile.

Unlike a layer (:mod:`lading.storage.treewriter`), what is made here meets what others have made, and they may swap
names under our hands. So nothing is ever done by a path: a parent directory is opened once, by the kernel and
within the root (openat2(2)), and everything else is one name beneath its descriptor, of which a symlink is never
followed; owner, mode and attributes are given through the descriptor of what was made.

The rules are those of ``docker cp`` (moby, pkg/archive, Untar): a directory is merged into a directory and gets
its entry's metadata, anything else replaces what is there, as a whole; directories without an entry are made with
mode 0755; whiteouts mean nothing; sockets are left out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import Final, NoReturn, TypeVar, assert_never

import attrs

from lading.events.errors import BadLayer, HostError
from lading.storage.beneath import PATH_DIRECTORY
from lading.storage.causes import unpacking_error
from lading.storage.inroot import BENEATH, STEP, WITHIN, is_interface
from lading.storage.layerstream import LayerStream
from lading.storage.linux import openat2
from lading.storage.plan import (
    DEFAULT_LIMITS,
    Directory,
    File,
    HardLink,
    Limits,
    Metadata,
    Node,
    NodeKind,
    Opaque,
    Operation,
    Skip,
    Symlink,
    Whiteout,
    plan,
)
from lading.storage.room import Room
from lading.storage.tar import ByteSource, Entry, EntryType, Regions, TarReader
from lading.storage.trees import printable, remove_tree

__all__ = ["Extracted", "Rules", "extract"]

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_ATTEMPTS: Final = 16
"""How often to try again where somebody makes again what was just removed."""
_KEPT: Final = 32
_KINDS: Final = {NodeKind.CHAR: stat.S_IFCHR, NodeKind.BLOCK: stat.S_IFBLK, NodeKind.FIFO: stat.S_IFIFO}

T = TypeVar("T")


@attrs.frozen
class Rules:
    """``keep_kinds``: nothing but a directory may replace a directory, and the other way round. ``owner``: whose
    everything will be, in place of the archive's owners; ``owned``: False leaves it the caller's."""

    keep_kinds: bool = False
    owner: tuple[int, int] | None = None
    owned: bool = True


@attrs.frozen
class Extracted:
    """How many entries the archive had, and how many bytes their files."""

    entries: int
    file_bytes: int


def extract(
    source: ByteSource,
    into: int,
    *,
    root: int | None = None,
    path: bytes = b"",
    rules: Rules = Rules(),
    rename: tuple[bytes, bytes] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    stop: Callable[[], None] = lambda: None,
) -> Extracted:
    """Take the archive that ``source`` gives, plain, gzip or zstd, apart into the open directory ``into``.

    ``root``: the directory in which ``into`` is, by ``path``; symlinks in ``into`` that lead out of it are then
    resolved in ``root``, otherwise they are refused. ``rename``: what the archive's top entry is called in it, and
    what here. ``stop`` is called between entries. Raises ``BadLayer`` when
    the archive is to blame or does not fit on what is there, ``HostError`` when the machine refuses, and what
    ``source`` and ``stop`` raise. After that, or a crash, part of it is there. Nothing is synced.
    """
    stream = LayerStream(source, limits=limits, stop=stop)
    try:
        reader = TarReader(stream, max_header=limits.header_bytes)
        work = _Extraction(into, root, path, rules, limits)
        try:
            for entry in reader:
                stop()
                if rename is not None:
                    entry = _renamed(entry, *rename)
                work.execute(plan(entry, limits, whiteouts=False), entry.name, reader)
            work.finish()
        finally:
            work.close()
    finally:
        stream.close()
    return Extracted(work.entries, work.file_bytes)


def _renamed(entry: Entry, old: bytes, new: bytes) -> Entry:
    def other(name: bytes) -> bytes:
        if old == b"/":
            return new + b"/" + name.lstrip(b"/")
        return new + name[len(old) :] if name == old or name.startswith(old + b"/") else name

    link = other(entry.linkname) if entry.type is EntryType.HARDLINK else entry.linkname
    return attrs.evolve(entry, name=other(entry.name), linkname=link)


class _Extraction:
    def __init__(self, into: int, root: int | None, path: bytes, rules: Rules, limits: Limits) -> None:
        self.entries = self.file_bytes = 0
        self._entry = b""
        self._rules, self._limits = rules, limits
        self._places = _Places(into, root, path, self._made_parent)
        self._room = Room(into)
        self._times: dict[tuple[bytes, bytes], tuple[int, int]] = {}  # a directory's place: its inode, its time

    def close(self) -> None:
        self._places.forget()

    def execute(self, operation: Operation, entry: bytes, reader: TarReader) -> None:
        """Do ``operation``; ``entry`` is the name as in the archive, for messages."""
        self._entry = entry
        self.entries += 1
        if self.entries > self._limits.entries:
            self._bad(f"more than the limit of {self._limits.entries} entries")
        try:
            self._room.take(0)
            match operation:
                case File():
                    self._file(operation, reader)
                case Directory():
                    self._directory(operation)
                case Symlink():
                    self._symlink(operation)
                case HardLink():
                    self._hard_link(operation)
                case Node():
                    self._node(operation)
                case Whiteout() | Opaque() | Skip():
                    pass
                case _:
                    assert_never(operation)
        except OSError as error:
            self._failed(error)

    def finish(self) -> None:
        """Give the directories their times, now that nothing is made in them."""
        self._entry = b""
        for (parent, name), (inode, mtime_ns) in self._times.items():
            with contextlib.suppress(OSError):  # moved or removed by somebody: it is not ours any more
                fd = openat2(name, _DIRECTORY, resolve=STEP, dir_fd=self._places.get(parent))
                try:
                    if os.fstat(fd).st_ino == inode:
                        os.utime(fd, ns=(mtime_ns, mtime_ns))
                finally:
                    os.close(fd)

    # one operation each

    def _file(self, operation: File, reader: TarReader) -> None:
        size, name, metadata = operation.size, operation.name, operation.metadata
        self.file_bytes += size
        if self.file_bytes > self._limits.file_bytes:
            self._bad(f"its files are larger than the limit of {self._limits.file_bytes} bytes together")
        at = self._places.get(operation.parent)
        fd = self._make(at, name, lambda: os.open(name, _NEW_FILE, 0o600, dir_fd=at))
        assert fd is not None
        try:
            if operation.sparse is not None:
                self._sparse(fd, operation.sparse, reader)
                os.ftruncate(fd, size)
            else:
                left = size
                while left:
                    piece = reader.piece()
                    self._room.take(len(piece))
                    left -= len(piece)
                    while piece:
                        piece = piece[os.write(fd, piece) :]
            self._dress(fd, metadata)
            os.utime(fd, ns=(metadata.mtime_ns, metadata.mtime_ns))
        finally:
            os.close(fd)

    def _sparse(self, fd: int, regions: Regions, reader: TarReader) -> None:
        places = iter(regions)
        offset = left = 0
        while piece := reader.piece():
            self._room.take(len(piece))
            while len(piece):
                while not left:
                    offset, left = next(places)
                written = os.pwrite(fd, piece[:left], offset)
                offset += written
                left -= written
                piece = piece[written:]

    def _directory(self, operation: Directory) -> None:
        parent, name, metadata = operation.parent, operation.name, operation.metadata
        if not name:
            return  # the directory that it is extracted to stays as it is
        at = self._places.get(parent)
        self._make(at, name, lambda: os.mkdir(name, 0o700, dir_fd=at), directory=True)
        fd = openat2(name, _DIRECTORY, resolve=STEP, dir_fd=at)
        try:
            if is_interface(fd):
                raise OSError(errno.EPERM, "the kernel's own files are not to be changed", name)
            self._dress(fd, metadata)
            self._times[parent, name] = os.fstat(fd).st_ino, metadata.mtime_ns
        finally:
            os.close(fd)

    def _symlink(self, operation: Symlink) -> None:
        name, metadata = operation.name, operation.metadata
        at = self._places.get(operation.parent)
        self._make(at, name, lambda: os.symlink(operation.text, name, dir_fd=at))
        if (owner := self._owner(metadata)) is not None:
            os.chown(name, *owner, dir_fd=at, follow_symlinks=False)
        os.utime(name, ns=(metadata.mtime_ns, metadata.mtime_ns), dir_fd=at, follow_symlinks=False)

    def _hard_link(self, operation: HardLink) -> None:
        name = operation.name
        at = os.dup(self._places.get(operation.parent))
        source = -1
        try:
            source = os.dup(self._places.get(operation.target_parent))
            target = os.lstat(operation.target_name, dir_fd=source)
            if stat.S_ISDIR(target.st_mode):
                self._bad(f"a hard link to the directory {operation.target_name[:200]!r}")
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(name, dir_fd=at)
                if (found.st_dev, found.st_ino) == (target.st_dev, target.st_ino):
                    return
            self._make(
                at,
                name,
                lambda: os.link(
                    operation.target_name, name, src_dir_fd=source, dst_dir_fd=at, follow_symlinks=False
                ),
            )
        except FileNotFoundError:
            target_path = operation.target_parent + b"/" + operation.target_name
            self._bad(f"a hard link to {target_path[:200]!r}, which is not there")
        finally:
            os.close(at)
            if source >= 0:
                os.close(source)

    def _node(self, operation: Node) -> None:
        name, metadata, kind = operation.name, operation.metadata, _KINDS[operation.kind]
        device = os.makedev(operation.major, operation.minor)
        at = self._places.get(operation.parent)
        self._make(at, name, lambda: os.mknod(name, kind | 0o600, device, dir_fd=at))
        fd = openat2(name, _PATH, resolve=STEP, dir_fd=at)
        try:
            if stat.S_IFMT(os.fstat(fd).st_mode) != kind:
                return  # somebody replaced it
            if (owner := self._owner(metadata)) is not None:
                os.chown(b"/proc/self/fd/%d" % fd, *owner)
            os.chmod(b"/proc/self/fd/%d" % fd, metadata.mode)
            os.utime(b"/proc/self/fd/%d" % fd, ns=(metadata.mtime_ns, metadata.mtime_ns))
        finally:
            os.close(fd)

    def _make(self, at: int, name: bytes, make: Callable[[], T], *, directory: bool = False) -> T | None:
        """What ``make`` gives once the name is free for it; None where it is a directory, as it should be."""
        for _ in range(_ATTEMPTS):
            try:
                return make()
            except FileExistsError:
                try:
                    found = os.lstat(name, dir_fd=at)
                except FileNotFoundError:
                    continue
            there = stat.S_ISDIR(found.st_mode)
            if there and directory:
                return None
            if self._rules.keep_kinds and there != directory:
                shown = printable(name)
                old, new = ("directory", "non-directory") if there else ("non-directory", "directory")
                self._bad(f"cannot overwrite {old} {shown!r} with {new}")
            if there:
                self._places.forget(keep=at)
                remove_tree(at, name)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=at)
        raise OSError(errno.EBUSY, "somebody makes it again and again", name)

    def _owner(self, metadata: Metadata) -> tuple[int, int] | None:
        if not self._rules.owned:
            return None
        return self._rules.owner or (metadata.uid, metadata.gid)

    def _dress(self, fd: int, metadata: Metadata) -> None:
        """Owner, mode and attributes of what is open; the owner first, since chown clears the others."""
        if (owner := self._owner(metadata)) is not None:
            os.fchown(fd, *owner)
        os.fchmod(fd, metadata.mode)
        for key, value in metadata.xattrs.items():
            try:
                os.setxattr(fd, key, value)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    self._bad(f"extended attribute {key[:80]!r} has a value that the kernel refuses")
                if error.errno != errno.EOPNOTSUPP and (self._rules.owned or error.errno != errno.EPERM):
                    raise

    def _made_parent(self, fd: int) -> None:
        if self._rules.owned:
            os.chown(b"/proc/self/fd/%d" % fd, *(self._rules.owner or (0, 0)))

    def _bad(self, why: str) -> NoReturn:
        raise BadLayer(why, self._entry)

    def _failed(self, error: OSError) -> NoReturn:
        match error.errno:
            case errno.EXDEV:
                raise BadLayer("its path leads out of the directory", self._entry) from error
            case errno.EROFS:
                hint = "what is mounted there is read-only"
                raise HostError("write", printable(self._entry), errno.EROFS, hint) from error
            case errno.EPERM:
                raise HostError("write", printable(self._entry), errno.EPERM) from error
            case _:
                raise unpacking_error(error, self._entry) from error


class _Places:
    """Descriptors of directories by their path in the archive, made where they are missing."""

    def __init__(self, into: int, root: int | None, path: bytes, made: Callable[[int], None]) -> None:
        self._into, self._root, self._path = into, root, path
        self._made = made
        self._open: dict[bytes, int] = {}

    def get(self, path: bytes) -> int:
        """The descriptor of ``path``, good until the next call of any method."""
        if not path:
            return self._into
        fd = self._open.pop(path, None)
        if fd is None:
            while len(self._open) >= _KEPT:
                os.close(self._open.pop(next(iter(self._open))))
            fd = self._find(path)
            if fd is None:
                fd = self._make(path)
            if is_interface(fd):
                os.close(fd)
                raise OSError(errno.EPERM, "the kernel's own files are not to be changed", path)
        self._open[path] = fd
        return fd

    def forget(self, keep: int = -1) -> None:
        """Close every descriptor but ``keep``: a directory is about to go."""
        for path, fd in list(self._open.items()):
            if fd != keep:
                os.close(self._open.pop(path))

    def _find(self, path: bytes) -> int | None:
        try:
            try:
                return openat2(path, PATH_DIRECTORY, resolve=BENEATH, dir_fd=self._into)
            except OSError as error:
                if error.errno != errno.EXDEV or self._root is None:
                    raise
                whole = self._path + b"/" + path if self._path else path
                return openat2(whole, PATH_DIRECTORY, resolve=WITHIN, dir_fd=self._root)
        except FileNotFoundError:
            return None

    def _make(self, path: bytes) -> int:
        names = path.split(b"/")
        there = len(names) - 1
        at: int | None = None
        while there and (at := self._find(b"/".join(names[:there]))) is None:
            there -= 1
        if at is None:
            at = os.dup(self._into)
        try:
            for name in names[there:]:
                new = True
                try:
                    os.mkdir(name, 0o755, dir_fd=at)
                except FileExistsError:
                    new = False
                below = openat2(name, PATH_DIRECTORY | os.O_NOFOLLOW, resolve=STEP, dir_fd=at)
                os.close(at)
                at = below
                if new:
                    self._made(at)
        except BaseException:
            os.close(at)
            raise
        return at
