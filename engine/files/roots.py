"""A container's root directory as a descriptor, whether it runs or not, for whoever copies into or out of it.

Of one that runs it is the root that its first process has, with everything that is mounted there; of any other it
is mounted, with the container's volumes and binds, for as long as it is needed, in a place of its own beneath the
run directory, which nobody else sees. What a crash leaves mounted, the next opening unmounts.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from lading.engine.core import Core
from lading.engine.oci.bundle import mount_root
from lading.events.container import LIVE, ContainerState, Phase
from lading.events.containerviews import SETTINGS
from lading.events.errors import HostError, WrongPhase
from lading.events.settings import ContainerSettings, Mount
from lading.storage.beneath import PATH_DIRECTORY
from lading.storage.inroot import WITHIN, is_interface
from lading.storage.linux import mount_readonly, move_mount_onto, open_tree, openat2
from lading.storage.overlay import mount_view, mounts_below, unmount
from lading.storage.procfs import is_alive
from lading.storage.store import Paths
from lading.storage.volumes import data_of

__all__ = ["Root", "mount_point", "read_view", "reading_root", "take_away", "writing_root"]

_USUAL = ContainerSettings()


@attrs.frozen
class Root:
    """``fd``: the container's root. ``mounted``: device and inode of what its settings have mounted there."""

    fd: int
    mounted: frozenset[tuple[int, int]]
    mounts: tuple[Mount, ...]

    def enters(self, fd: int) -> bool:
        """Whether ``fd`` is one of those directories, so that it is a part of what ``docker cp`` copies."""
        found = os.fstat(fd)
        return (found.st_dev, found.st_ino) in self.mounted and not is_interface(fd)


def mount_point(mounts: tuple[Mount, ...], path: bytes) -> Mount | None:
    """The one of ``mounts`` that the real ``path`` (relative to the root) is in, if it is in any."""
    inside = [
        mount
        for mount in mounts
        if path == (target := os.fsencode(mount.target).strip(b"/")) or path.startswith(target + b"/")
    ]
    return max(inside, key=lambda mount: len(mount.target), default=None)


@asynccontextmanager
async def reading_root(core: Core, state: ContainerState) -> AsyncIterator[Root]:
    """The root of the container to read from. Raises ``HostError``, and ``WrongPhase`` for one that goes."""
    async with contextlib.AsyncExitStack() as stack:
        while True:
            try:
                root = await stack.enter_async_context(_root(core, state, _view))
                break
            except HostError:
                before, state = state, core.state(state.id)
                if state == before:  # else what it wrote became a layer just now, or it started
                    raise
        yield root


@asynccontextmanager
async def writing_root(core: Core, container: str) -> AsyncIterator[Root]:
    """The root of the container to write to, which nobody changes hands of meanwhile; otherwise as above.

    The block that is left has everything on disk that it wrote to a container that doesn't run, but for one that
    is to be removed at its end anyway.
    """
    async with _Hold(core, container) as state, _root(core, state, _writable) as root:
        yield root


class _Hold:
    """A hold on a container, shared with others while it runs, else alone, and its state then."""

    def __init__(self, core: Core, container: str) -> None:
        self._core, self._container = core, container
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> ContainerState:
        core, container = self._core, self._container
        while True:
            running = await settled(core, container)
            holds = core.holds.shared(container) if running else core.holds.alone(container)
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(holds)
                state = core.state(container)
                if (state.process is not None and container in core.live) == running and (
                    running or is_still(core, container)
                ):
                    self._stack = stack.pop_all()
                    return state

    async def __aexit__(self, *args: object) -> None:
        await self._stack.aclose()


async def settled(core: Core, container: str) -> bool:
    """Wait until ``container`` runs (True), or nothing of a run is left or under way (False)."""
    while True:
        core.check_open()
        state = core.state(container)
        supervisor = core.live.get(container)
        if supervisor is None:
            if state.phase not in LIVE:
                return False
            await trio.lowlevel.checkpoint()  # its start is in the log, and the task for it is about to run
        elif supervisor.ended.is_set():
            await supervisor.done.wait()
            await trio.lowlevel.checkpoint()
        elif supervisor.begun.is_set():
            return True
        else:
            await supervisor.begun.wait()


def is_still(core: Core, container: str) -> bool:
    """Whether ``container`` has no run, nor anything left of one, and none was asked for."""
    return container not in core.live and core.state(container).phase not in LIVE


@asynccontextmanager
async def _root(
    core: Core, state: ContainerState, mount: Callable[[Paths, ContainerState, ContainerSettings], Path]
) -> AsyncIterator[Root]:
    if state.phase in (Phase.REMOVING, Phase.DEAD):
        raise WrongPhase(state.id, str(state.phase), "copy into or out of")
    settings = core.log.get(SETTINGS, state.id) or _USUAL
    made: Path | None = None
    stack = contextlib.ExitStack()
    fd = _running_root(core.paths, state)
    try:
        if fd is None:
            with trio.CancelScope(shield=True):
                place = made = await trio.to_thread.run_sync(mount, core.paths, state, settings)
            fd = _opened(place / "rootfs")
        else:
            stack.enter_context(core.holds.reading(state.id))
        yield Root(fd, _identities(fd, settings), settings.mounts)
    finally:
        if fd is not None:
            os.close(fd)
        stack.close()
        if made is not None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(take_away, made)


def _running_root(paths: Paths, state: ContainerState) -> int | None:
    """The root of the container's first process; None if it has none any more.

    A process may change its root to a directory within it: then it is the mounted overlay itself.
    """
    process = state.process
    if process is None:
        return None
    mounted = paths.bundle(state.id) / "rootfs"
    try:
        fd = os.open(f"/proc/{process.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        fd = -1
    try:
        there = os.stat(mounted)
        if fd >= 0 and is_alive(process):  # looked at after it was opened, so it was this process's
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) == (there.st_dev, there.st_ino):
                return fd
    except OSError:
        pass
    if fd >= 0:
        os.close(fd)
    return _opened(mounted) if mounted in mounts_below(mounted.parent) else None


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError("open the container's root", os.fspath(path), error.errno or 0) from error


def _identities(root: int, settings: ContainerSettings) -> frozenset[tuple[int, int]]:
    found = set()
    for mount in settings.mounts:
        if mount.kind == "tmpfs":
            continue
        with contextlib.suppress(OSError):
            fd = openat2(os.fsencode(mount.target), os.O_PATH, resolve=WITHIN, dir_fd=root)
            status = os.fstat(fd)
            os.close(fd)
            found.add((status.st_dev, status.st_ino))
    return frozenset(found)


# -- of one that doesn't run --------------------------------------------------------------------------------


def read_view(paths: Paths, state: ContainerState, prefix: str = "export") -> Path:
    """Mount what the container would see, to be read only, at ``rootfs`` in the directory that is returned."""
    place = paths.bundle(f"{prefix}-{secrets.token_hex(8)}")
    (place / "rootfs").mkdir(parents=True, mode=0o700)
    upper = paths.container(state.id) / "upper"
    layers = [paths.layer(chain) for chain in reversed(state.spec.layers)]
    try:
        mount_view(place / "rootfs", [*([upper] if upper.is_dir() else []), *layers, paths.skeleton])
    except BaseException:
        take_away(place)
        raise
    return place


def take_away(place: Path) -> None:
    """Unmount what is mounted in ``place``, and remove it. Syncs what was written there."""
    for mount in mounts_below(place):
        unmount(mount)
    for directory in (place / "rootfs", place):
        with contextlib.suppress(FileNotFoundError):
            directory.rmdir()


def _view(paths: Paths, state: ContainerState, settings: ContainerSettings) -> Path:
    place = read_view(paths, state, "copy")
    return _with_mounts(paths, settings, place, make=False)


def _writable(paths: Paths, state: ContainerState, settings: ContainerSettings) -> Path:
    place = paths.bundle(f"copy-{secrets.token_hex(8)}")
    (place / "rootfs").mkdir(parents=True, mode=0o700)
    try:
        mount_root(paths, state, os.fspath(place / "rootfs"))
    except BaseException:
        take_away(place)
        raise
    return _with_mounts(paths, settings, place, make=not state.spec.read_only)


def _with_mounts(paths: Paths, settings: ContainerSettings, place: Path, *, make: bool) -> Path:
    """Bind the volumes and directories of the host that the container would have, each at its own mount point."""
    try:
        if settings.mounts:
            root = _opened(place / "rootfs")
            try:
                for mount in sorted(settings.mounts, key=lambda mount: mount.target.count("/")):
                    _bind(paths, root, mount, make)
            finally:
                os.close(root)
    except OSError as error:
        take_away(place)
        raise HostError("mount the volumes in", os.fspath(place), error.errno or 0) from error
    except BaseException:
        take_away(place)
        raise
    return place


def _bind(paths: Paths, root: int, mount: Mount, make: bool) -> None:
    source = _source(paths, mount)
    if source is None:
        return
    with contextlib.ExitStack() as stack:
        try:
            what = os.open(source, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        stack.callback(os.close, what)
        if mount.subpath:
            what = openat2(os.fsencode(mount.subpath), os.O_PATH, resolve=WITHIN, dir_fd=what)
            stack.callback(os.close, what)
        target = _target(root, os.fsencode(mount.target), make)
        if target is None:
            return
        stack.callback(os.close, target)
        tree = open_tree(what)
        stack.callback(os.close, tree)
        if mount.read_only:
            mount_readonly(tree)
        move_mount_onto(tree, target)


def _source(paths: Paths, mount: Mount) -> Path | None:
    match mount.kind:
        case "bind":
            return Path(mount.source)
        case "volume":
            return data_of(paths, mount.source)
        case _:
            return None  # a tmpfs is empty where nothing runs


def _target(root: int, path: bytes, make: bool) -> int | None:
    """The mount point; None if it isn't there and can't be made."""
    try:
        return openat2(path, os.O_PATH, resolve=WITHIN, dir_fd=root)
    except FileNotFoundError:
        if not make:
            return None
    at = os.dup(root)
    for name in path.split(b"/"):
        if not name:
            continue
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=at)
            below = openat2(name, PATH_DIRECTORY, resolve=WITHIN, dir_fd=at)
        finally:
            os.close(at)
        at = below
    return at
