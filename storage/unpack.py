"""Unpacking a layer: a tar stream in, the upper directory of an overlay out.

The work is a plan first (:mod:`lading.storage.plan`), then its execution here, beneath one directory
descriptor. The kernel resolves every path with that directory as its root (openat2(2), RESOLVEIN_ROOT), so a
symlink in the layer means what it will mean in the container, and nothing outside can be reached. The last
component is never followed: what stands there is unlinked first, except a directory under a directory.

On disk, whiteouts are overlayfs's (kernel Documentation/filesystems/overlayfs.rst): a character device 0:0
for a hidden name, ``trusted.overlay.opaque`` = ``y`` on a directory that hides what is below it. Since the
layer starts empty, whatever is there was made by this layer, so a whiteout never removes anything and the
order of entries does not matter (OCI image-spec layer.md: whiteouts apply to lower layers only).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, assert_never

import attrs

from lading.events.errors import BadLayer, HostError
from lading.storage.beneath import CHILD, IN_ROOT, PATH_DIRECTORY, Parents, is_whiteout
from lading.storage.decode import LayerStream
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
from lading.storage.tar import ByteSource, Regions, TarReader
from lading.storage.trees import measure_tree, printable, remove_tree

__all__ = ["Unpacked", "unpack"]

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_OPAQUE_XATTR: Final = "trusted.overlay.opaque"

# An implied directory has no entry, hence no time of its own; a fixed one makes equal layers equal trees.
_IMPLIED: Final = Metadata(0o755, 0, 0, 0)

_HINTS: Final = {
    errno.ENOSPC: "the disk or its inodes are used up; free some space and try again",
    errno.EDQUOT: "the disk quota is used up; raise it or free some space and try again",
    errno.EFBIG: "the file is larger than this file system can hold",
    errno.EPERM: "unpacking layers needs root with CAP_MKNOD, CAP_CHOWN and CAP_SYS_ADMIN",
    errno.EACCES: "unpacking layers needs root with CAP_DAC_OVERRIDE",
    errno.EOPNOTSUPP: "the file system has no extended attributes; put the data root on ext4, XFS or btrfs",
    errno.EROFS: "the data root is on a read-only file system",
    errno.ENOSYS: "Linux 5.6 or later is needed",
    errno.EMFILE: "raise the limit on open files",
    errno.EIO: "the disk is failing; see the kernel's log",
}
_ARCHIVE_ERRNOS: Final = {
    errno.ENAMETOOLONG: "its name or path is too long for the file system",
    errno.ELOOP: "its path leads through a loop of symlinks",
    errno.ENOTDIR: "its path leads through something that is not a directory",
    errno.EXDEV: "its path leads to another file system",
    errno.EILSEQ: "its name can't be stored by the file system",
}


@attrs.frozen
class Unpacked:
    """What was unpacked; every number and digest covers the stream to its last byte.

    ``diff_id`` and ``size`` are of the uncompressed stream, ``digest`` and ``compressed_size`` of the stream
    as it came, ``compression`` is ``none`` or ``gzip``. ``entries`` counts the archive's entries; ``inodes`` and
    ``disk_bytes`` what the directory has at the end, itself included, as ``du`` would say. ``opaque_root``:
    the layer hides everything beneath it, which the kernel does not do for a layer's root, so whoever mounts
    the layer must leave out the lower ones.
    """

    diff_id: str
    size: int
    digest: str
    compressed_size: int
    compression: str
    entries: int
    inodes: int
    disk_bytes: int
    opaque_root: bool


def unpack(
    source: ByteSource,
    into: Path | int,
    *,
    limits: Limits = DEFAULT_LIMITS,
    stop: Callable[[], None] | None = None,
) -> Unpacked:
    """Unpack the layer that ``source`` gives, plain or gzip, into the empty directory ``into``.

    ``into`` is a path or a descriptor (which stays open) of a directory that nobody else can reach meanwhile.
    Owners are numeric and set exactly, so this needs root; modes do not depend on the umask. Nothing outside
    ``into`` is created, changed or read. ``stop`` is called between entries and between pieces of data; what
    it raises goes through.

    Raises :class:`ImageInvalid` (mostly :class:`BadLayer`) when the archive is to blame, :class:`HostError`
    when the machine is, and what ``source`` or ``stop`` raise. After any exception, a crash too, ``into`` holds
    part of the layer and is for the caller to remove. Nothing is synced: do that before the layer is made
    visible. The caller compares ``diff_id`` and ``digest`` with what they should be before it trusts a byte.
    """
    check = stop or _go_on
    stream = LayerStream(source, max_bytes=limits.stream_bytes, stop=check)
    reader = TarReader(stream)
    with _Tree(into, limits) as tree:
        for entry in reader:
            check()
            tree.execute(plan(entry, limits), entry.name, reader)
        opaque_root = tree.finish()
        usage = measure_tree(tree.root)
    return Unpacked(
        stream.diff_id,
        stream.size,
        stream.digest,
        stream.compressed_size,
        stream.compression,
        tree.entries,
        usage.inodes,
        usage.disk_bytes,
        opaque_root,
    )


def _go_on() -> None:
    pass


class _Tree:
    """The directory being filled, and what has to be known about it until the end."""

    def __init__(self, into: Path | int, limits: Limits) -> None:
        self.entries = 0
        self._limits = limits
        self._made = 0  # entries and implied directories, for the limit
        self._file_bytes = 0
        self._opaque_root = False
        self._entry = b""
        self._times: dict[int, tuple[bytes, bytes, int]] = {}  # inode of a directory: where it was made, mtime
        try:
            where: Path | bytes = b"." if isinstance(into, int) else into
            self.root = os.open(where, PATH_DIRECTORY, dir_fd=into if isinstance(into, int) else None)
        except OSError as error:
            raise HostError(
                "open the layer directory", printable(os.fsencode(str(into))), error.errno or 0
            ) from error
        found = os.fstat(self.root)
        self._root_identity = found.st_dev, found.st_ino
        self._parents = Parents(self.root, self._imply)

    def __enter__(self) -> _Tree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parents.forget()
        os.close(self.root)

    def execute(self, operation: Operation, entry: bytes, reader: TarReader) -> None:
        """Do ``operation``; ``entry`` is the name as in the archive, for messages."""
        self._entry = entry
        self.entries += 1
        self._count()
        try:
            match operation:
                case File():
                    self._file(operation, reader.data())
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

    def finish(self) -> bool:
        """Give the directories their times, now that nothing is made in them; True if the root is opaque."""
        self._parents.forget()
        for inode, (parent, name, mtime_ns) in self._times.items():
            try:
                fd = openat2(parent + b"/" + name if name else b".", _DIRECTORY, resolve=IN_ROOT, dir_fd=self.root)
            except OSError as error:
                # Replaced by a later entry, or its parent was.
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue
                self._failed(error)
            try:
                if os.fstat(fd).st_ino == inode:
                    os.utime(fd, ns=(mtime_ns, mtime_ns))
            except OSError as error:
                self._failed(error)
            finally:
                os.close(fd)
        return self._opaque_root

    # one operation each

    def _file(self, operation: File, data: Iterator[memoryview]) -> None:
        self._file_bytes += operation.size
        if self._file_bytes > self._limits.file_bytes:
            self._bad(f"its files are larger than the limit of {self._limits.file_bytes} bytes together")
        parent = self._parents.get(operation.parent)
        name = operation.name
        try:
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        except FileExistsError:
            parent = self._clear(operation.parent, name)
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            if operation.sparse is None:
                for piece in data:
                    _write(fd, piece)
            else:
                _write_sparse(fd, operation.sparse, data)
                os.ftruncate(fd, operation.size)
            self._apply(fd, operation.metadata)
            mtime_ns = operation.metadata.mtime_ns
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)

    def _directory(self, operation: Directory) -> None:
        parent, name, metadata = operation.parent, operation.name, operation.metadata
        if not name:
            fd = os.open(b".", _DIRECTORY, dir_fd=self.root)
            path = b""
        else:
            path = parent + b"/" + name if parent else name
            at = self._parents.get(parent)
            try:
                os.mkdir(name, 0o700, dir_fd=at)
                opaque = False
            except FileExistsError:
                found = os.lstat(name, dir_fd=at)
                opaque = is_whiteout(found)
                if not stat.S_ISDIR(found.st_mode):
                    at = self._clear(parent, name)
                    os.mkdir(name, 0o700, dir_fd=at)
            fd = os.open(name, _DIRECTORY, dir_fd=at)
            if opaque:
                os.setxattr(fd, _OPAQUE_XATTR, b"y")
        try:
            self._apply(fd, metadata)
            self._times[os.fstat(fd).st_ino] = parent, name, metadata.mtime_ns
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
        os.chown(name, metadata.uid, metadata.gid, dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(metadata.mtime_ns, metadata.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _hard_link(self, operation: HardLink) -> None:
        name = operation.name
        parent = self._parents.get(operation.parent)
        try:
            source = openat2(operation.target_parent or b".", PATH_DIRECTORY, resolve=IN_ROOT, dir_fd=self.root)
        except FileNotFoundError:
            self._no_target(operation)
        try:
            target = os.lstat(operation.target_name, dir_fd=source)
            if stat.S_ISDIR(target.st_mode) or is_whiteout(target):
                self._no_target(operation)
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

    def _whiteout(self, operation: Whiteout) -> None:
        parent = self._parents.get(operation.parent)
        try:
            os.mknod(operation.name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        except FileExistsError:
            # This layer's own file hides the lower one already; its directory has to be told to.
            if stat.S_ISDIR(os.lstat(operation.name, dir_fd=parent).st_mode):
                self._set_opaque(openat2(operation.name, _DIRECTORY, resolve=CHILD, dir_fd=parent))

    def _opaque(self, operation: Opaque) -> None:
        self._set_opaque(os.open(b".", _DIRECTORY, dir_fd=self._parents.get(operation.parent)))

    def _set_opaque(self, fd: int) -> None:
        """Closes ``fd``."""
        try:
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) == self._root_identity:
                self._opaque_root = True
            else:
                os.setxattr(fd, _OPAQUE_XATTR, b"y")
        finally:
            os.close(fd)

    def _apply(self, fd: int, metadata: Metadata) -> None:
        # chown clears set-id bits and capabilities, so it comes first.
        os.fchown(fd, metadata.uid, metadata.gid)
        os.fchmod(fd, metadata.mode)
        if metadata.xattrs:
            self._set_xattrs(fd, metadata.xattrs)

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
        os.mkdir(name, 0o700, dir_fd=parent)
        fd = openat2(name, _DIRECTORY, resolve=CHILD, dir_fd=parent)
        try:
            self._apply(fd, _IMPLIED)
            if opaque:
                os.setxattr(fd, _OPAQUE_XATTR, b"y")
            self._times[os.fstat(fd).st_ino] = b"/".join(above), name, _IMPLIED.mtime_ns
        finally:
            os.close(fd)

    def _clear(self, path: bytes, name: bytes) -> int:
        """Remove ``name`` of the parent ``path``, a whole tree if need be; returns the parent's descriptor,
        which may be another one after that."""
        parent = self._parents.get(path)
        found = os.lstat(name, dir_fd=parent)
        if stat.S_ISDIR(found.st_mode):
            remove_tree(parent, name)
        else:
            os.unlink(name, dir_fd=parent)
            if not stat.S_ISLNK(found.st_mode):
                return parent
        self._parents.forget()
        return self._parents.get(path)

    # trouble

    def _count(self) -> None:
        self._made += 1
        if self._made > self._limits.entries:
            self._bad(f"more than the limit of {self._limits.entries} entries and directories")

    def _bad(self, why: str) -> NoReturn:
        raise BadLayer(why, self._entry)

    def _no_target(self, operation: HardLink) -> NoReturn:
        path = operation.target_parent + b"/" + operation.target_name
        self._bad(f"a hard link to {path[:200]!r}, which is no file of this layer")

    def _failed(self, error: OSError) -> NoReturn:
        code = error.errno or 0
        if code in _ARCHIVE_ERRNOS:
            raise BadLayer(_ARCHIVE_ERRNOS[code], self._entry) from error
        raise HostError("unpack", printable(self._entry), code, _HINTS.get(code, "")) from error


_NODE_MODES: Final = {NodeKind.CHAR: stat.S_IFCHR, NodeKind.BLOCK: stat.S_IFBLK, NodeKind.FIFO: stat.S_IFIFO}


def _write(fd: int, piece: memoryview) -> None:
    while len(piece):
        piece = piece[os.write(fd, piece) :]


def _write_sparse(fd: int, regions: Regions, data: Iterator[memoryview]) -> None:
    """Put the bytes of ``data`` where ``regions`` say; together they are exactly as long."""
    places = iter(regions)
    offset = left = 0
    for piece in data:
        while len(piece):
            while not left:
                offset, left = next(places)
            written = os.pwrite(fd, piece[:left], offset)
            offset += written
            left -= written
            piece = piece[written:]
