"""What a run needs on disk before the runtime is called, and taking it away after.

::

    RUN/bundles/<id>/   rootfs (the overlay's mount point), config.json, hostname, hosts, resolv.conf, log,
                        mounts/<number> (what a volume's subpath led to)
    ROOT/containers/<id>/upper, work

The writable layer is made at the first start and stays until the container is removed; the bundle is made
for each run and goes with it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from lading.engine.oci.asked import with_settings
from lading.engine.oci.config import BundleSpec, Host, MountEntry, render
from lading.engine.oci.identity import resolve
from lading.engine.oci.privatefiles import PRIVATE_FILES, private_files
from lading.engine.oci.process import with_home, working_dir
from lading.engine.oci.runtime import Runtime, cgroup_of, file_limit
from lading.events.container import ContainerState
from lading.events.errors import HostError, ImageInvalid
from lading.events.settings import ContainerSettings
from lading.storage.linux import RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, openat2
from lading.storage.overlay import mount_overlay, mounts_below, unmount
from lading.storage.store import Paths
from lading.storage.trees import remove_tree

__all__ = ["clear_bundle", "make_bundle", "mount_root"]

_MADE = ("config.json", "log", *PRIVATE_FILES)
_USUAL = ContainerSettings()


def mount_root(paths: Paths, state: ContainerState, target: str) -> None:
    """Mount the container's root at ``target``, which exists. Its writable layer is made if there is none.

    A container that is removed at its end gets a volatile mount: nothing that it writes has to outlive the
    machine, and unmounting waits for no disk.
    """
    own = f"{paths.root}/containers/{state.id}"
    upper, work = f"{own}/upper", f"{own}/work"
    layers = [os.fspath(paths.layer(chain)) for chain in reversed(state.spec.layers)]
    layers.append(os.fspath(paths.skeleton))
    try:
        _make_directory(own)
        _make_directory(work)
        if not os.path.exists(upper):
            _make_upper(upper, layers[0])
    except OSError as error:
        raise HostError("make the writable layer in", own, error.errno or 0) from error
    if state.spec.auto_remove:
        # The kernel's note that a volatile mount was here; within one boot it has nothing to warn of.
        with contextlib.suppress(OSError):
            os.rmdir(f"{work}/work/incompat/volatile")
            os.rmdir(f"{work}/work/incompat")
    mount_overlay(target, layers, upper, work, volatile=state.spec.auto_remove)


def make_bundle(
    paths: Paths,
    state: ContainerState,
    settings: ContainerSettings,
    host: Host,
    runtime: Runtime,
    mounts: Callable[[str], tuple[MountEntry, ...]] | None = None,
    size: tuple[int, int] = (0, 0),
) -> str:
    """Mount the root and write everything the runtime reads; the bundle's directory.

    ``mounts`` gets the root's path, once it is mounted, and says what the runtime mounts in it.
    ``size``: rows and columns that its terminal has from the beginning.
    Raises ``HostError``, ``Invalid`` (a user or a group that the image doesn't have) or ``ImageInvalid``; then,
    and after a crash, ``clear_bundle`` undoes whatever was done.
    """
    bundle = f"{paths.run}/bundles/{state.id}"
    root = f"{bundle}/rootfs"
    spec = state.spec
    try:
        os.mkdir(bundle, 0o700)
        os.mkdir(root)
        mount_root(paths, state, root)
        _check_mount_points(root)
        entries = () if mounts is None else mounts(root)
        for name, content in private_files(spec, settings):
            _write(f"{bundle}/{name}", content)
    except OSError as error:
        raise HostError("make the bundle in", bundle, error.errno or 0) from error
    identity = resolve(root, spec.user)
    asked = BundleSpec(
        container_id=state.id,
        rootfs=root,
        args=spec.args,
        env=with_home(spec.env, identity.home),
        cwd=working_dir(spec.working_dir),  # checked when it was created; but a log may come from elsewhere
        cgroups_path=f"{cgroup_of(paths)}/{state.id}",
        nofile=file_limit(),
        network=spec.network,
        uid=identity.uid,
        gid=identity.gid,
        additional_gids=identity.additional_gids,
        hostname=spec.hostname,
        terminal=settings.tty,
        console_size=size,
        readonly_rootfs=spec.read_only,
        files=tuple((f"{bundle}/{name}", f"/etc/{name}") for name in PRIVATE_FILES),
        mounts=entries,
        propagation=_propagation(entries),
    )
    if settings != _USUAL:
        asked = with_settings(asked, settings, host)
    config = render(asked, host, runtime.seccomp)
    _write(f"{bundle}/config.json", config)
    return bundle


def _propagation(entries: tuple[MountEntry, ...]) -> str:
    """What the root's propagation has to be for that of ``entries`` (moby ``daemon/oci_linux.go``)."""
    said = {option for entry in entries for option in entry.options}
    return "rshared" if said & {"shared", "rshared"} else "rslave" if said & {"slave", "rslave"} else ""


def clear_bundle(paths: Paths, container: str) -> None:
    """Unmount the root and remove the bundle; what of it isn't there is no error. ``HostError`` if it stays.

    Blocks until the file system below has synced, unless the mount was volatile.
    """
    bundle = f"{paths.run}/bundles/{container}"
    root = f"{bundle}/rootfs"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{paths.run}/pids/{container}")
    unmount(root)
    try:
        for name in _MADE:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{bundle}/{name}")
        for directory in (root, bundle):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(directory)
    except OSError:
        # What a crash left, or mounts of subpaths: never to be removed with what is behind them.
        for mount in mounts_below(Path(bundle)):
            unmount(mount)
        parent = os.open(os.path.dirname(bundle), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(parent, os.fsencode(container))
        finally:
            os.close(parent)


def _make_directory(path: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)


def _make_upper(upper: str, top: str) -> None:
    """The writable layer's directory, which is the merged tree's root and has to look like the image's.

    It gets its name last, so that a crash in between leaves none that looks wrong.
    """
    look = os.stat(top)
    new = f"{upper}.new"
    with contextlib.suppress(FileExistsError):
        os.mkdir(new)
    os.chown(new, look.st_uid, look.st_gid)
    os.chmod(new, look.st_mode & 0o7777)
    os.rename(new, upper)


def _write(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def _check_mount_points(root: str) -> None:
    """Refuse a root in which /dev, /proc or /sys is anything but a directory.

    Runtimes mount over them, and some of them follow a symlink there onto the host (CVE-2026-47766).
    """
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in (b"dev", b"proc", b"sys"):
            try:
                flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
                resolve_flags = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
                os.close(openat2(name, flags, 0, resolve_flags, directory))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ImageInvalid(
                    f"/{name.decode()} in the container's root is not a directory; the runtime would mount over it"
                ) from error
    finally:
        os.close(directory)
