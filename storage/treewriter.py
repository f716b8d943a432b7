"""Filling a directory with what a layer's entries ask for, one checked operation after the other.

Everything happens beneath one directory descriptor. The kernel resolves every path with that directory as its
root (openat2(2), RESOLVE_IN_ROOT), so a symlink in the layer means what it will mean in the container, and
nothing outside can be reached. The last component is never followed: what stands there is removed first, except
a directory under a directory.

On disk, whiteouts are overlayfs's (kernel Documentation/filesystems/overlayfs.rst): a character device 0:0
for a hidden name, ``trusted.overlay.opaque`` = ``y`` on a directory that hides what is below it. Since the
layer starts empty, whatever is there was made by this layer, so a whiteout never removes anything and the
order of entries does not matter (OCI image-spec layer.md: whiteouts apply to lower layers only).

A file costs five system calls: it is made with its mode, written, looked at, given its time and closed. The look
tells whether owner and mode are right, which they nearly always are, and what the file takes on disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, assert_never

import attrs

from lading.events.errors import BadLayer, HostError
from lading.storage.beneath import CHILD, IN_ROOT, PATH_DIRECTORY, Parents, is_whiteout
from lading.storage.causes import unpacking_error
from lading.storage.linux import filesystem_type, openat2
from lading.storage.merged import OPAQUE_XATTR
from lading.storage.plan import (
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
)
from lading.storage.room import Room
from lading.storage.tar import Regions, TarReader
from lading.storage.trees import Usage, measure_tree, printable, remove_tree

if TYPE_CHECKING:
    from pathlib import Path  # workers start without it

__all__ = ["Borrowed", "Splitter", "TreeWriter"]

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# An implied directory has no entry, hence no time of its own; a fixed one makes equal layers equal trees.
_IMPLIED: Final = Metadata(0o755, 0, 0, 0)

# File systems on which what a file takes is known once it is written: tmpfs and ext4, which counts blocks that it
# has promised and not yet allocated (fs/ext4/inode.c, ext4_file_getattr).
STEADY: Final = (0x01021994, 0xEF53)

_REPLACED: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@attrs.frozen
class Borrowed:
    """A hard link at the real path ``path`` to ``target``, which only a lower layer can have."""

    path: bytes
    target: bytes


class Splitter(Protocol):
    """Keeps what makes the archive again (:mod:`lading.storage.split`): every byte of the stream is in exactly one
    of the calls of :meth:`raw` and :meth:`file`, in order. Paths are real ones within the tree."""

    def raw(self, data: bytes | memoryview, /) -> None:
        """Bytes that no file of the tree has."""
        ...

    def file(self, path: bytes, regions: Regions | None, size: int, /) -> None:
        """The contents of the file at ``path``, of ``size`` bytes; only its ``regions``, end to end, if given."""
        ...

    def spill(self, path: bytes, parent: int, name: bytes, /) -> None:
        """Move ``name`` of directory ``parent``, which was called ``path`` so far, out of the tree: a later entry
        replaces it."""
        ...


class TreeWriter:
    """The directory ``into`` being filled, and what has to be known about it until the end.

    ``into`` is a path or a descriptor, which stays open. With ``lower_links`` a hard link whose target is
    nowhere in this layer is left out and told in ``borrowed`` after :meth:`finish`, which is when ``implied`` is
    right, too: the real paths of directories that have no entry of their own.
    """

    def __init__(
        self, into: Path | int, limits: Limits, split: Splitter | None = None, lower_links: bool = False
    ) -> None:
        self.entries: int = 0
        self.borrowed: list[Borrowed] = []
        self.opaque_root: bool = False
        self._limits = limits
        self._split = split
        self._lower_links = lower_links
        self._made = 0  # entries and implied directories, for the limit
        self._file_bytes = 0
        self._entry = b""
        self._times: dict[int, tuple[bytes, bytes, int]] = {}  # inode of a directory: where it was made, mtime
        self._implied: dict[bytes, int] = {}  # real path: inode
        self._implied_bytes = 0
        try:
            where: Path | bytes = b"." if isinstance(into, int) else into
            self.root: int = os.open(where, PATH_DIRECTORY, dir_fd=into if isinstance(into, int) else None)
        except OSError as error:
            raise HostError(
                "open the layer directory", printable(os.fsencode(str(into))), error.errno or 0
            ) from error
        found = os.fstat(self.root)
        self._root_identity = found.st_dev, found.st_ino
        self._parents = Parents(self.root, self._imply)
        self._inodes = 1
        self._blocks = 0
        self._room = Room(self.root)
        # Where what a file takes may change once it is closed, or something was removed again, all is measured.
        self._measure = filesystem_type(self.root) not in STEADY

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parents.close()
        os.close(self.root)

    @property
    def implied(self) -> tuple[bytes, ...]:
        """The real paths of the directories that have no entry of their own, parents first."""
        return tuple(sorted(self._implied))

    def execute(self, operation: Operation, entry: bytes, reader: TarReader) -> None:
        """Do ``operation``; ``entry`` is the name as in the archive, for messages."""
        self._entry = entry
        self.entries += 1
        self._count()
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
                case Whiteout():
                    self._whiteout(operation)
                case Opaque():
                    self._opaque(operation)
                case Skip():
                    pass
                case _:
                    assert_never(operation)
        except OSError as error:
            self._failed(error)

    def finish(self) -> Usage:
        """Give the directories their times, now that nothing is made in them; what the tree takes on disk."""
        self._parents.forget()
        self._entry = b""
        for inode, (parent, name, mtime_ns) in self._times.items():
            try:
                fd = openat2(parent + b"/" + name if name else b".", _DIRECTORY, resolve=IN_ROOT, dir_fd=self.root)
            except OSError as error:
                # Replaced by a later entry, or its parent was.
                if error.errno in _REPLACED:
                    continue
                self._failed(error)
            try:
                found = os.fstat(fd)
                if found.st_ino == inode:
                    os.utime(fd, ns=(mtime_ns, mtime_ns))
                    if name:
                        self._blocks += found.st_blocks
            except OSError as error:
                self._failed(error)
            finally:
                os.close(fd)
        self._implied = {path: inode for path, inode in self._implied.items() if self._is_there(path, inode)}
        if self._measure:
            return measure_tree(self.root)
        return Usage(self._inodes, (self._blocks + os.fstat(self.root).st_blocks) * 512)

    def _is_there(self, path: bytes, inode: int) -> bool:
        try:
            fd = openat2(path, PATH_DIRECTORY, resolve=CHILD, dir_fd=self.root)
        except OSError as error:
            if error.errno in _REPLACED:
                return False
            self._failed(error)
        try:
            return os.fstat(fd).st_ino == inode
        finally:
            os.close(fd)

    # one operation each

    def _file(self, operation: File, reader: TarReader) -> None:
        size = operation.size
        self._file_bytes += size
        if self._file_bytes > self._limits.file_bytes:
            self._bad(f"its files are larger than the limit of {self._limits.file_bytes} bytes together")
        name, metadata = operation.name, operation.metadata
        parent = self._parents.get(operation.parent)
        try:
            fd = os.open(name, _NEW_FILE, metadata.mode, dir_fd=parent)
        except FileExistsError:
            parent = self._clear(operation.parent, name)
            fd = os.open(name, _NEW_FILE, metadata.mode, dir_fd=parent)
        try:
            if operation.sparse is not None:
                _write_sparse(fd, operation.sparse, reader, self._room)
                os.ftruncate(fd, size)
            elif size:
                left = size
                while left:
                    piece = reader.piece()
                    self._room.take(len(piece))
                    written = os.write(fd, piece)
                    while written < len(piece):
                        written += os.write(fd, piece[written:])
                    left -= written
            found = self._correct(fd, metadata, stat.S_IFREG)
            self._inodes += 1
            self._blocks += found.st_blocks
            mtime_ns = metadata.mtime_ns
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)
        if self._split is not None and size:
            self._split.file(self._real(operation.parent, name), operation.sparse, size)

    def _directory(self, operation: Directory) -> None:
        parent, name, metadata = operation.parent, operation.name, operation.metadata
        if not name:
            fd = os.open(b".", _DIRECTORY, dir_fd=self.root)
            path = b""
        else:
            path = parent + b"/" + name if parent else name
            at = self._parents.get(parent)
            opaque = False
            try:
                os.mkdir(name, metadata.mode, dir_fd=at)
                self._inodes += 1
            except FileExistsError:
                found = os.lstat(name, dir_fd=at)
                if not stat.S_ISDIR(found.st_mode):
                    opaque = is_whiteout(found)
                    at = self._clear(parent, name)
                    os.mkdir(name, metadata.mode, dir_fd=at)
                elif self._implied:
                    self._implied.pop(self._real(parent, name), None)
                    at = self._parents.get(parent)
            fd = os.open(name, _DIRECTORY, dir_fd=at)
            if opaque:
                os.setxattr(fd, OPAQUE_XATTR, b"y")
        try:
            self._times[self._correct(fd, metadata, stat.S_IFDIR).st_ino] = parent, name, metadata.mtime_ns
        except BaseException:
            os.close(fd)
            raise
        self._parents.remember(path, fd)

    def _symlink(self, operation: Symlink) -> None:
        name, metadata = operation.name, operation.metadata
        parent = self._parents.get(operation.parent)
        try:
            os.symlink(operation.text, name, dir_fd=parent)
        except FileExistsError:
            parent = self._clear(operation.parent, name)
            os.symlink(operation.text, name, dir_fd=parent)
        found = os.lstat(name, dir_fd=parent)
        self._inodes += 1
        self._blocks += found.st_blocks
        if (found.st_uid, found.st_gid) != (metadata.uid, metadata.gid):
            os.chown(name, metadata.uid, metadata.gid, dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(metadata.mtime_ns, metadata.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _hard_link(self, operation: HardLink) -> None:
        name = operation.name
        parent = self._parents.get(operation.parent)
        try:
            source = openat2(operation.target_parent or b".", PATH_DIRECTORY, resolve=IN_ROOT, dir_fd=self.root)
        except FileNotFoundError:
            self._no_target(operation)
            return
        try:
            target = os.lstat(operation.target_name, dir_fd=source)
            if stat.S_ISDIR(target.st_mode) or is_whiteout(target):
                self._no_target(operation, hidden=True)
            try:
                found = os.lstat(name, dir_fd=parent)
            except FileNotFoundError:
                pass
            else:
                if (found.st_dev, found.st_ino) == (target.st_dev, target.st_ino):
                    return  # a link to itself, or made before
                parent = self._clear(operation.parent, name)
            os.link(operation.target_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            self._no_target(operation)
        finally:
            os.close(source)

    def _node(self, operation: Node) -> None:
        name, metadata = operation.name, operation.metadata
        mode = metadata.mode | _NODE_MODES[operation.kind]
        device = os.makedev(operation.major, operation.minor)
        parent = self._parents.get(operation.parent)
        try:
            os.mknod(name, mode, device, dir_fd=parent)
        except FileExistsError:
            parent = self._clear(operation.parent, name)
            os.mknod(name, mode, device, dir_fd=parent)
        os.chown(name, metadata.uid, metadata.gid, dir_fd=parent, follow_symlinks=False)
        # By name, because opening a node has side effects; it was made just now, so it is no symlink.
        os.chmod(name, metadata.mode, dir_fd=parent)
        os.utime(name, ns=(metadata.mtime_ns, metadata.mtime_ns), dir_fd=parent, follow_symlinks=False)
        self._inodes += 1

    def _whiteout(self, operation: Whiteout) -> None:
        parent = self._parents.get(operation.parent)
        try:
            os.mknod(operation.name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
            self._inodes += 1
        except FileExistsError:
            # This layer's own file hides the lower one already; its directory has to be told to.
            if stat.S_ISDIR(os.lstat(operation.name, dir_fd=parent).st_mode):
                self._set_opaque(openat2(operation.name, _DIRECTORY, resolve=CHILD, dir_fd=parent))
                if self._implied:
                    self._implied.pop(self._real(operation.parent, operation.name), None)

    def _opaque(self, operation: Opaque) -> None:
        self._set_opaque(os.open(b".", _DIRECTORY, dir_fd=self._parents.get(operation.parent)))

    def _set_opaque(self, fd: int) -> None:
        """Closes ``fd``."""
        try:
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) == self._root_identity:
                self.opaque_root = True
            else:
                os.setxattr(fd, OPAQUE_XATTR, b"y")
        finally:
            os.close(fd)

    def _correct(self, fd: int, metadata: Metadata, kind: int) -> os.stat_result:
        """Give what is open the rest of its metadata, but for the time; how it is then."""
        found = os.fstat(fd)
        mode = metadata.mode | kind
        if found.st_mode != mode or found.st_uid != metadata.uid or found.st_gid != metadata.gid:
            # chown clears set-id bits and capabilities, so it comes first.
            os.fchown(fd, metadata.uid, metadata.gid)
            os.fchmod(fd, metadata.mode)
        if metadata.xattrs:
            self._set_xattrs(fd, metadata.xattrs)
            found = os.fstat(fd)
        return found

    def _set_xattrs(self, fd: int, xattrs: Mapping[bytes, bytes]) -> None:
        for key, value in xattrs.items():
            try:
                os.setxattr(fd, key, value)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    self._bad(f"extended attribute {key[:80]!r} has a value that the kernel refuses")
                raise

    def _imply(self, parent: int, above: list[bytes], name: bytes, opaque: bool) -> None:
        """Make a directory that has no entry of its own."""
        self._count()
        os.mkdir(name, _IMPLIED.mode, dir_fd=parent)
        fd = openat2(name, _DIRECTORY, resolve=CHILD, dir_fd=parent)
        try:
            found = self._correct(fd, _IMPLIED, stat.S_IFDIR)
            self._inodes += 1
            self._times[found.st_ino] = b"/".join(above), name, _IMPLIED.mtime_ns
            if opaque:
                os.setxattr(fd, OPAQUE_XATTR, b"y")
                self._measure = True  # a whiteout gave way
                return
        finally:
            os.close(fd)
        path = b"/".join((*above, name))
        self._implied[path] = found.st_ino
        self._implied_bytes += len(path) + 64
        if self._implied_bytes > self._limits.implied_bytes:
            self._bad("too many directories without an entry of their own")

    def _clear(self, path: bytes, name: bytes) -> int:
        """Remove ``name`` of the parent ``path``, a whole tree if need be; returns the parent's descriptor,
        which may be another one after that."""
        self._measure = True
        found = os.lstat(name, dir_fd=self._parents.get(path))
        directory = stat.S_ISDIR(found.st_mode)
        if self._split is not None and (directory or (stat.S_ISREG(found.st_mode) and found.st_size)):
            real = self._real(path, name)
            self._split.spill(real, self._parents.get(path), name)
        elif directory:
            remove_tree(self._parents.get(path), name)
        else:
            os.unlink(name, dir_fd=self._parents.get(path))
        if directory or stat.S_ISLNK(found.st_mode):
            self._parents.forget()
        return self._parents.get(path)

    def _real(self, parent: bytes, name: bytes) -> bytes:
        above = self._parents.real(parent)
        return above + b"/" + name if above else name

    # trouble

    def _count(self) -> None:
        self._made += 1
        if self._made > self._limits.entries:
            self._bad(f"more than the limit of {self._limits.entries} entries and directories")

    def _bad(self, why: str) -> NoReturn:
        raise BadLayer(why, self._entry)

    def _no_target(self, operation: HardLink, hidden: bool = False) -> None:
        path = operation.target_parent + b"/" + operation.target_name
        if not self._lower_links or hidden:
            self._bad(f"a hard link to {path[:200]!r}, which is no file of this layer")
        found = None
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(operation.name, dir_fd=self._parents.get(operation.parent))
        if found is not None:
            self._clear(operation.parent, operation.name)
        real = self._real(operation.parent, operation.name)
        self._implied_bytes += len(path) + len(real) + 64
        if self._implied_bytes > self._limits.implied_bytes:
            self._bad("too many hard links to files of lower layers")
        self.borrowed.append(Borrowed(real, path.lstrip(b"/")))

    def _failed(self, error: OSError) -> NoReturn:
        raise unpacking_error(error, self._entry) from error


_NODE_MODES: Final = {NodeKind.CHAR: stat.S_IFCHR, NodeKind.BLOCK: stat.S_IFBLK, NodeKind.FIFO: stat.S_IFIFO}


def _write_sparse(fd: int, regions: Regions, reader: TarReader, room: Room) -> None:
    """Put the entry's bytes where ``regions`` say; together they are exactly as long."""
    places = iter(regions)
    offset = left = 0
    while piece := reader.piece():
        room.take(len(piece))
        while len(piece):
            while not left:
                offset, left = next(places)
            written = os.pwrite(fd, piece[:left], offset)
            offset += written
            left -= written
            piece = piece[written:]
