"""Mounts at a container's start: what the runtime is told to mount, and what has to be there before it does.

A runtime that makes a missing mount point walks through whatever the image has there. So the mount points in the
root are made here, beneath the root as the kernel resolves it (``storage/beneath``), and the runtime is given the
path that they really have, on which it meets no symlink of the image. A mount point inside another mount is the
runtime's: what is mounted there isn't yet.

Sources are directories of ours, a path of the host's owner, or a place in the bundle at which what a volume's
subpath led to is mounted already (``storage/volumes``): nothing that a container could exchange meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from functools import partial

import trio

from lading.engine.core import Caller, Core
from lading.engine.oci.bundle import make_bundle
from lading.engine.oci.config import MountEntry
from lading.engine.oci.runtime import Runtime
from lading.engine.volumes.mounts import tmpfs_options
from lading.events.container import ContainerState
from lading.events.containerviews import VOLUMES
from lading.events.envelope import Proposed
from lading.events.errors import HostError, ImageInvalid, Invalid, NotFound
from lading.events.settings import ContainerSettings, Mount
from lading.events.volume import VolumeFilled, VolumeState, volume_stream
from lading.storage import linux
from lading.storage.beneath import IN_ROOT, PATH_DIRECTORY, Parents
from lading.storage.linux import openat2
from lading.storage.overlay import unmount
from lading.storage.store import Paths
from lading.storage.volumes import data_of, fill_volume, pin, pin_subpath

__all__ = ["mounted_bundle", "mounts_of", "release_volumes"]

_MAX_SYMLINKS = 40
_RUNTIMES = ("/dev", "/proc", "/sys")
"""What the runtime mounts over: mount points below are its own."""


async def mounted_bundle(
    core: Core,
    state: ContainerState,
    settings: ContainerSettings,
    runtime: Runtime,
    caller: Caller,
    size: tuple[int, int] = (0, 0),
) -> str:
    """``make_bundle`` in a thread, for a container that mounts something; its new volumes are filled first.

    Of several containers that start with the same new volume, one fills it, and the others wait for that. Raises
    as ``make_bundle`` does, and ``NotFound`` for a volume that is gone. A cancel ends the copying, and the
    next start begins it again.
    """
    names = sorted({mount.source for mount in settings.mounts if mount.kind == "volume"})
    held: list[trio.Lock] = []
    try:
        for name in names:
            if not _volume(core, name).filled:
                lock = core.filling.setdefault(name, trio.Lock())
                await lock.acquire()
                held.append(lock)
        volumes = {name: _volume(core, name) for name in names}
        filled: list[str] = []
        entries = partial(mounts_of, core.paths, state, settings, volumes=volumes, filled=filled)
        async with core.volume_lock if any(v.options for v in volumes.values()) else _Free():
            bundle = await trio.to_thread.run_sync(
                make_bundle, core.paths, state, settings, core.host, runtime, entries, size
            )
        if filled:
            events = [Proposed(volume_stream(name), VolumeFilled(state.id)) for name in filled]
            await core.journal.append(events, actor=caller.actor, command=caller.command)
    finally:
        for lock in held:
            lock.release()
        for name in names:
            lock_of = core.filling.get(name)
            if lock_of is not None and not lock_of.locked():
                del core.filling[name]
    return bundle


class _Free:
    """A lock that nobody needs."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *args: object) -> None:
        pass


def _volume(core: Core, name: str) -> VolumeState:
    volume = core.log.get(VOLUMES, name)
    if volume is None or volume.removing:
        raise NotFound("volume", name)
    return volume


async def release_volumes(core: Core, container: str) -> None:
    """Unmount the tmpfs volumes of ``container``, whose run is over, that no other running container has."""
    names = {mount.source for mount in core.settings(container).mounts if mount.kind == "volume"}
    shared = [name for name in names if os.path.ismount(_tmpfs(core.paths, name))]
    if not shared:
        return
    async with core.volume_lock:
        used = {mount.source for other in core.live if other != container for mount in core.settings(other).mounts}
        for name in shared:
            if name not in used:
                unmount(_tmpfs(core.paths, name))
                os.rmdir(_tmpfs(core.paths, name))


def _tmpfs(paths: Paths, name: str) -> str:
    return f"{paths.run}/volumes/{name}"


# -- what the runtime is told -----------------------------------------------------------------------------------


def mounts_of(
    paths: Paths,
    state: ContainerState,
    settings: ContainerSettings,
    root: str,
    *,
    volumes: Mapping[str, VolumeState],
    filled: list[str],
) -> tuple[MountEntry, ...]:
    """The mounts of ``settings``, for a container whose root is mounted at ``root``, in the order to mount them.

    Mount points, subpaths and tmpfs volumes are made ready; volumes that are empty and were never filled are
    filled, and their names added to ``filled``. To be called in a thread of trio's: a cancel ends it. Raises
    ``HostError``, ``Invalid`` and ``ImageInvalid``; ``clear_bundle`` takes everything away again.
    """
    top = os.open(root, PATH_DIRECTORY)
    parents = Parents(top, _make_directory)
    try:
        found: list[MountEntry] = []
        for number, mount in enumerate(sorted(settings.mounts, key=lambda mount: mount.target.count("/"))):
            source, options = _source(paths, state, mount, volumes, number)
            directory = mount.kind == "tmpfs" or _is_directory(source, mount)
            if directory and _is_read_only_below(mount):
                options = (*options, "rro")
            inside = _is_inside(mount.target, [entry.destination for entry in found])
            target = mount.target
            if not inside:
                before = _mode(top, mount.target) if mount.kind == "tmpfs" else None
                target = _mount_point(top, parents, mount.target, directory)
                if mount.kind == "tmpfs":
                    options = _with_mode(top, target, options, before)
            inside = inside or _is_inside(target, [entry.destination for entry in found])
            if mount.kind == "volume" and mount.copy and not mount.subpath and not inside:
                volume = volumes[mount.source]
                if not volume.filled and not volume.options and mount.source not in filled:
                    _fill(top, target, paths, mount.source, filled)
            kind = "tmpfs" if mount.kind == "tmpfs" else "bind"
            found.append(MountEntry(target, kind, source, options))
        return tuple(sorted(found, key=lambda entry: entry.destination.count("/")))
    finally:
        parents.forget()
        os.close(top)


def _source(
    paths: Paths, state: ContainerState, mount: Mount, volumes: Mapping[str, VolumeState], number: int
) -> tuple[str, tuple[str, ...]]:
    if mount.kind == "tmpfs":
        return "tmpfs", tmpfs_options(mount)
    if mount.kind == "bind":
        if "create" in mount.options and not os.path.lexists(mount.source):
            try:
                os.makedirs(mount.source, 0o755, exist_ok=True)
            except OSError as error:
                raise HostError("make the directory", mount.source, error.errno or 0) from error
        if mount.recursive:
            return mount.source, _bind_options(mount)
        return _pinned(paths, state, mount, number), _bind_options(mount)
    volume = volumes[mount.source]
    if volume.options:
        return _with_options(paths, volume, mount)
    if mount.subpath:
        return _pinned(paths, state, mount, number), _bind_options(mount)
    return os.fspath(data_of(paths, volume.name)), _bind_options(mount)


def _pinned(paths: Paths, state: ContainerState, mount: Mount, number: int) -> str:
    """A place in the bundle at which a volume's subpath is mounted, or a bind without what is mounted below it.

    (Some runtimes mount that, too, whatever they are told: crun 1.8.)
    """
    place = f"{paths.run}/bundles/{state.id}/mounts"
    try:
        os.makedirs(place, 0o700, exist_ok=True)
        if mount.kind == "volume":
            pin_subpath(paths, mount.source, mount.subpath, f"{place}/{number}")
        else:
            _is_directory(mount.source, mount)  # for its words if it isn't there
            pin(os.open(mount.source, os.O_PATH | os.O_CLOEXEC), f"{place}/{number}")
    except OSError as error:
        raise HostError("mount", mount.subpath or mount.source, error.errno or 0) from error
    return f"{place}/{number}"


def _bind_options(mount: Mount) -> tuple[str, ...]:
    access = ("ro",) if mount.read_only else ()
    return ("rbind" if mount.recursive else "bind", *access, mount.propagation or "rprivate")


def _is_read_only_below(mount: Mount) -> bool:
    """Whether what is mounted below a read-only bind is read-only, too, as Docker has it from version 25 on."""
    return mount.kind == "bind" and mount.read_only and mount.recursive and "ro-non-recursive" not in mount.options


def _with_options(paths: Paths, volume: VolumeState, mount: Mount) -> tuple[str, tuple[str, ...]]:
    """The source of a volume of the host's, or of one that is a tmpfs, which is mounted if it isn't yet."""
    if mount.subpath:
        raise Invalid(
            "volume subpath", mount.subpath, f"volume {volume.name} has options of its own: mount all of it"
        )
    words = volume.options.get("o", "").split(",")
    if volume.options["type"] != "tmpfs":
        source = volume.options["device"]
        try:
            if not stat.S_ISDIR(os.stat(source).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), source)
        except OSError as error:
            raise HostError(f"mount volume {volume.name}:", source, error.errno or 0) from error
        options = _bind_options(mount)
        return source, (*options, "ro") if "ro" in words and "ro" not in options else options
    place = _tmpfs(paths, volume.name)
    if not os.path.ismount(place):
        try:
            os.makedirs(place, 0o700, exist_ok=True)
            flags, data = linux.MS_NODEV, ",".join(word for word in words if word).encode()
            linux.mount(os.fsencode(volume.options["device"]), os.fsencode(place), b"tmpfs", flags, data)
            linux.mount(b"none", os.fsencode(place), b"none", linux.MS_PRIVATE)
        except OSError as error:
            hint = "look at its option 'o'"
            raise HostError(f"mount volume {volume.name} at", place, error.errno or 0, hint) from error
    return place, _bind_options(mount)


def _is_directory(source: str, mount: Mount) -> bool:
    try:
        return stat.S_ISDIR(os.stat(source).st_mode)
    except OSError as error:
        if mount.kind == "bind" and error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise Invalid(
                "mount source", mount.source, f"bind source path does not exist: {mount.source}"
            ) from None
        hint = "restore it from a backup, or remove the volume" if mount.kind == "volume" else ""
        raise HostError("mount", source, error.errno or 0, hint) from error


# -- mount points -----------------------------------------------------------------------------------------------


def _is_inside(target: str, others: Sequence[str]) -> bool:
    """Whether ``target`` is below what somebody else mounts."""
    return any(target.startswith(f"{other}/") for other in (*others, *_RUNTIMES)) or target in _RUNTIMES


def _mount_point(top: int, parents: Parents, target: str, directory: bool) -> str:
    """Have a mount point at ``target`` in the root ``top``, and the path by which no symlink leads to it."""
    path = os.fsencode(target.lstrip("/"))
    try:
        real = parents.real(path) if directory else _real_file(top, parents, path)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.EISDIR):
            words = (
                "not a directory: are you trying to mount a directory onto a file (or vice-versa)? "
                "Check whether the source is what the container expects there"
            )
            raise Invalid("mount target", target, words) from error
        raise ImageInvalid(f"nothing can be mounted at {target}: {os.strerror(error.errno or 0)}") from error
    found = os.path.normpath("/" + os.fsdecode(real))  # no symlink is in it, so .. is what it seems
    if found == "/" or _is_inside(found, ()):
        raise ImageInvalid(f"nothing can be mounted at {target}: in this image it leads to {found}")
    return found


def _mode(top: int, target: str) -> int | None:
    """The mode of the directory that the image has at ``target``, if it has one."""
    try:
        fd = openat2(os.fsencode(target.lstrip("/")), PATH_DIRECTORY, resolve=IN_ROOT, dir_fd=top)
    except OSError:
        return None
    try:
        return stat.S_IMODE(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def _with_mode(top: int, target: str, options: tuple[str, ...], before: int | None) -> tuple[str, ...]:
    """``options`` of a tmpfs with its mode: as asked, as the image has it there (``before``), or for everybody.

    Some runtimes give it the mode of its mount point in the end (runc 1.1): one that was made here gets that, too.
    """
    asked = [int(word.removeprefix("mode="), 8) for word in options if word.startswith("mode=")]
    mode = asked[-1] if asked else 0o1777 if before is None else before
    if before is None:
        fd = openat2(os.fsencode(target.lstrip("/")), os.O_RDONLY | os.O_DIRECTORY, resolve=IN_ROOT, dir_fd=top)
        try:
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
    return options if asked else (*options, f"mode={mode:o}")


def _real_file(top: int, parents: Parents, path: bytes, links: int = 0) -> bytes:
    """As ``Parents.real``, for a file; an empty one is made where nothing is, or a dangling symlink leads."""
    try:
        fd = openat2(path, os.O_PATH, resolve=IN_ROOT, dir_fd=top)
    except FileNotFoundError:
        parent, _, name = path.rpartition(b"/")
        real = parents.real(parent)
        own = real + b"/" + name if real else name
        directory = parents.get(real)
        try:
            text = os.readlink(name, dir_fd=directory)
        except FileNotFoundError:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o755, dir_fd=directory))
            return own
        if links == _MAX_SYMLINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
        while text.startswith(b"../"):  # above the root is the root
            real, text = real.rpartition(b"/")[0], text[3:].lstrip(b"/")
        target = text if text.startswith(b"/") else real + b"/" + text
        return _real_file(top, parents, target.lstrip(b"/"), links + 1)
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        above = os.readlink(b"/proc/self/fd/%d" % top)
        found = os.readlink(b"/proc/self/fd/%d" % fd)
        if not found.startswith(above + b"/"):
            raise OSError(errno.ESTALE, "the root was moved while a mount point was looked for")
        return found[len(above) + 1 :]
    finally:
        os.close(fd)


def _make_directory(parent: int, _path: list[bytes], name: bytes, _opaque: bool) -> None:
    os.mkdir(name, 0o755, dir_fd=parent)


def _fill(top: int, target: str, paths: Paths, name: str, filled: list[str]) -> None:
    """Copy what the image has at ``target`` (a path without symlinks) into the volume ``name``."""
    try:
        source = openat2(
            os.fsencode(target.lstrip("/")), os.O_RDONLY | os.O_DIRECTORY, resolve=IN_ROOT, dir_fd=top
        )
        try:
            if fill_volume(source, paths.volume(name), trio.from_thread.check_cancelled):
                filled.append(name)
        finally:
            os.close(source)
    except OSError as error:
        raise HostError(f"fill volume {name} with what the image has at", target, error.errno or 0) from error
