"""Files into and out of containers, as tar streams: what ``docker cp`` is made of.

Source: Docker Engine API v1.47, ContainerArchive, ContainerArchiveInfo, PutContainerArchive; moby
``daemon/archive.go`` for what is followed, and what entries are called.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import attrs
import trio

from lading.engine.core import Core
from lading.engine.files.roots import Root, mount_point, reading_root, writing_root
from lading.engine.images.unpacking import Source
from lading.engine.oci.identity import resolve
from lading.engine.stream import chunks
from lading.events.container import ContainerState
from lading.events.errors import HostError, Invalid, NotFound
from lading.storage.inroot import Asked, Located, located, parse_path, real_target
from lading.storage.pack import pack, pack_one
from lading.storage.trees import printable

__all__ = ["Archive", "PathStat", "get_archive", "put_archive", "stat_path"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@attrs.frozen
class PathStat:
    """What is at a path in a container. ``mode``: type and permissions as in ``st_mode``. ``mtime``: nanoseconds
    UTC. ``link_target``: where a symlink leads in the end, absolute within the container; else empty."""

    name: str
    size: int
    mode: int
    mtime: int
    link_target: str


@attrs.frozen
class Archive:
    """The tar of what is at a path, made while it is read, and what that is."""

    stat: PathStat
    chunks: AsyncGenerator[bytes, None]


async def stat_path(core: Core, container: str, path: str) -> PathStat:
    """What is at ``path``; a symlink there is not followed unless ``path`` ends in a slash.

    Raises ``NotFound``, ``WrongPhase`` and ``HostError``.
    """
    asked = parse_path(os.fsencode(path))
    async with reading_root(core, core.state(container)) as root:
        return await trio.to_thread.run_sync(_stat, root, asked, path)


@asynccontextmanager
async def get_archive(core: Core, container: str, path: str) -> AsyncIterator[Archive]:
    """The archive of what is at ``path``, which is looked up once: what somebody puts there later is not in it.

    Entries are called by the last name of ``path``, or ``.`` if it ends so. No symlink is followed, nothing but
    files is opened, the kernel's own file systems are left out; the container's volumes and binds are in it. Flat
    memory. Entering raises as ``stat_path``, reading ``HostError``.
    """
    asked = parse_path(os.fsencode(path))
    async with reading_root(core, core.state(container)) as root:
        told, parent, fd = await trio.to_thread.run_sync(_open, root, asked, path)
        try:
            if stat.S_ISDIR(told.mode):
                top = b"/" if asked.base == b"/" else asked.base + b"/"
                pieces = pack(fd, whiteouts=False, live=True, top=top, enter=root.enters)
            else:
                name = asked.path.rpartition(b"/")[2]
                pieces = pack_one(parent, name, name)
            async with aclosing(chunks(pieces)) as stream:
                yield Archive(told, stream)
        finally:
            os.close(parent)
            os.close(fd)


async def put_archive(
    core: Core,
    container: str,
    path: str,
    source: Source,
    *,
    no_overwrite_dir_non_dir: bool = False,
    copy_uid_gid: bool = False,
) -> None:
    """Extract the tar ``source`` (plain, gzip or zstd) into the directory ``path``, following symlinks to it.

    It is taken apart by a confined process that can write in this container's root only. See ``extract`` for the
    rules. ``copy_uid_gid``: everything is the container's user's, as Docker has it. Raises ``NotFound``,
    ``Invalid`` for what is no directory or read-only, ``ImageInvalid`` for a bad archive, ``HostError``,
    ``WrongPhase``, and what ``source`` raises. After an error, a cancel or a crash part of it is there.
    """
    asked = attrs.evolve(parse_path(os.fsencode(path)), directory=True)
    async with writing_root(core, container) as root:
        state = core.state(container)
        into, real, owner = await trio.to_thread.run_sync(_destination, root, asked, path, state, copy_uid_gid)
        try:
            arguments = {
                "limits": attrs.asdict(core.limits),
                "path": real,
                "keep_kinds": no_overwrite_dir_non_dir,
                "owner": owner,
            }
            await core.unpackers.job("extract", arguments, source, (into, root.fd), alone=True)
        finally:
            os.close(into)


def _stat(root: Root, asked: Asked, path: str) -> PathStat:
    try:
        with located(root.fd, asked) as found:
            return _told(root, asked, found)
    except OSError as error:
        raise _failure(error, path) from error


def _open(root: Root, asked: Asked, path: str) -> tuple[PathStat, int, int]:
    """What is there, the descriptor of the directory it is in, and its own: to read from for a directory."""
    try:
        with located(root.fd, asked) as found:
            told = _told(root, asked, found)
            parent = os.dup(found.parent)
            try:
                if stat.S_ISDIR(found.status.st_mode):
                    return (
                        told,
                        parent,
                        os.open(b".", _DIRECTORY, dir_fd=found.fd),
                    )
                return told, parent, os.dup(found.fd)
            except BaseException:
                os.close(parent)
                raise
    except OSError as error:
        raise _failure(error, path) from error


def _told(root: Root, asked: Asked, found: Located) -> PathStat:
    status = found.status
    target = real_target(root.fd, asked.path) if stat.S_ISLNK(status.st_mode) else b""
    name = asked.base.decode("utf-8", "surrogateescape")
    return PathStat(
        name, status.st_size, status.st_mode, status.st_mtime_ns, target.decode("utf-8", "surrogateescape")
    )


def _destination(
    root: Root, asked: Asked, path: str, state: ContainerState, as_user: bool
) -> tuple[int, bytes, tuple[int, int] | None]:
    """The open directory, where it really is in the root, and whose everything in it shall be."""
    try:
        with located(root.fd, attrs.evolve(asked, directory=False)) as plain:
            real = asked.path
            if stat.S_ISLNK(plain.status.st_mode):
                real = real_target(root.fd, asked.path).strip(b"/")
            elif not stat.S_ISDIR(plain.status.st_mode):
                raise Invalid("path", path, "extraction point is not a directory")
        with located(root.fd, asked) as found:
            mount = mount_point(root.mounts, real)
            if mount is not None and mount.read_only:
                raise Invalid("path", path, "mounted volume is marked read-only")
            if mount is None and state.spec.read_only:
                raise Invalid("path", path, "container rootfs is marked read-only")
            owner = None
            if as_user and state.spec.user:
                identity = resolve(f"/proc/self/fd/{root.fd}", state.spec.user)
                owner = identity.uid, identity.gid
            return os.dup(found.fd), real, owner
    except NotADirectoryError as error:
        raise Invalid("path", path, "extraction point is not a directory") from error
    except OSError as error:
        raise _failure(error, path) from error


def _failure(error: OSError, path: str) -> NotFound | HostError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound("path", path)
    return HostError("open in the container", printable(os.fsencode(path)), error.errno or 0)
