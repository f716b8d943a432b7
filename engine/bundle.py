"""What a run needs on disk before the runtime is called, and taking it away after.

::

    RUN/bundles/<id>/   rootfs (the overlay's mount point), config.json, hostname, hosts, resolv.conf, log
    ROOT/containers/<id>/upper, work

The writable layer is made at the first start and stays until the container is removed; the bundle is made
for each run and goes with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

from lading.engine.identity import resolve
from lading.engine.oci import BundleSpec, Host, render
from lading.engine.process import with_home
from lading.engine.runtime import cgroup_of, file_limit
from lading.events.container import ContainerState
from lading.events.errors import HostError, ImageInvalid
from lading.events.spec import ContainerSpec
from lading.storage.linux import RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, openat2
from lading.storage.overlay import mount_overlay, unmount
from lading.storage.store import Paths

__all__ = ["clear_bundle", "make_bundle", "mount_root"]

_FILES = ("hostname", "hosts", "resolv.conf")
_MADE = ("config.json", "log", *_FILES)


def mount_root(paths: Paths, state: ContainerState, target: Path) -> None:
    """Mount the container's root at ``target``, which exists. Its writable layer is made if there is none."""
    own = paths.container(state.id)
    upper, work = own / "upper", own / "work"
    layers = [paths.layer(chain) for chain in reversed(state.spec.layers)]
    try:
        if not upper.exists():
            own.mkdir(mode=0o700, exist_ok=True)
            work.mkdir(mode=0o700, exist_ok=True)
            # The root directory of the merged tree is the writable layer's: it has to look like the image's.
            # It gets its name last, so that a crash in between leaves none that looks wrong.
            new, top = own / "upper.new", layers[0].stat()
            new.mkdir(exist_ok=True)
            os.chown(new, top.st_uid, top.st_gid)
            new.chmod(top.st_mode & 0o7777)
            new.rename(upper)
    except OSError as error:
        raise HostError("make the writable layer in", os.fspath(own), error.errno or 0) from error
    mount_overlay(target, layers, upper, work)


def make_bundle(paths: Paths, state: ContainerState, host: Host) -> Path:
    """Mount the root and write everything the runtime reads; the bundle's directory.

    Raises ``HostError``, ``Invalid`` (a user that the image doesn't have) or ``ImageInvalid``; then, and after
    a crash, ``clear_bundle`` undoes whatever was done.
    """
    bundle = paths.bundle(state.id)
    spec = state.spec
    root = bundle / "rootfs"
    try:
        root.mkdir(parents=True)
        mount_root(paths, state, root)
        _check_mount_points(root)
        for name, content in _private_files(spec):
            (bundle / name).write_text(content)
    except OSError as error:
        raise HostError("make the bundle in", os.fspath(bundle), error.errno or 0) from error
    identity = resolve(os.fspath(root), spec.user)
    config = render(
        BundleSpec(
            container_id=state.id,
            rootfs=os.fspath(root),
            args=spec.args,
            env=with_home(spec.env, identity.home),
            cwd=spec.working_dir,
            cgroups_path=f"{cgroup_of(paths)}/{state.id}",
            nofile=file_limit(),
            network=spec.network,
            uid=identity.uid,
            gid=identity.gid,
            additional_gids=identity.additional_gids,
            hostname=spec.hostname,
            readonly_rootfs=spec.read_only,
            files=tuple((os.fspath(bundle / name), f"/etc/{name}") for name in _FILES),
        ),
        host,
    )
    (bundle / "config.json").write_bytes(config)
    return bundle


def clear_bundle(paths: Paths, container: str) -> None:
    """Unmount the root and remove the bundle; what of it isn't there is no error. ``HostError`` if it stays."""
    bundle = paths.bundle(container)
    root = bundle / "rootfs"
    with contextlib.suppress(FileNotFoundError):
        (paths.run / "pids" / container).unlink()
    if not bundle.exists():
        return
    unmount(root)
    try:
        for name in _MADE:
            with contextlib.suppress(FileNotFoundError):
                (bundle / name).unlink()
        root.rmdir()
        bundle.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise HostError("remove the bundle", os.fspath(bundle), error.errno or 0) from error
        while unmount(root):
            pass
        shutil.rmtree(bundle, ignore_errors=True)


def _check_mount_points(root: Path) -> None:
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


def _private_files(spec: ContainerSpec) -> list[tuple[str, str]]:
    if spec.network == "host":
        hosts = _read("/etc/hosts")
        resolv = _read("/etc/resolv.conf")
    else:
        hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
        resolv = ""
    return [("hostname", f"{spec.hostname}\n"), ("hosts", hosts), ("resolv.conf", resolv)]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except FileNotFoundError:
        return ""
