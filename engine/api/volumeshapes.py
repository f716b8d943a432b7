"""Volumes and mounts in the shapes that Docker's clients read.

Source: Docker Engine API v1.47: Volume, MountPoint, and what HostConfig says of mounts.
"""

from __future__ import annotations

from typing import Any

from lading.engine.api.words import instant
from lading.events.settings import ContainerSettings, Mount
from lading.events.volume import VolumeState
from lading.storage.store import Paths
from lading.storage.volumes import data_of

__all__ = ["host_config_mounts", "mount_points", "volume_shape"]

Json = dict[str, Any]


def volume_shape(volume: VolumeState, paths: Paths, usage: tuple[int, int] | None = None) -> Json:
    """A volume; ``usage``: its size in bytes (-1: not known), and how many containers mount it."""
    shape: Json = {
        "CreatedAt": instant(volume.created_at),
        "Driver": "local",
        "Labels": dict(volume.labels) or None,
        "Mountpoint": str(data_of(paths, volume.name)),
        "Name": volume.name,
        "Options": dict(volume.options) or None,
        "Scope": "local",
    }
    if usage is not None:
        shape["UsageData"] = {"Size": usage[0], "RefCount": usage[1]}
    return shape


def mount_points(settings: ContainerSettings, paths: Paths) -> list[Json]:
    """``Mounts`` of a container, in the list and in what inspect shows.

    Without what is in ``HostConfig.Tmpfs`` alone, Docker's has every mount; here each tmpfs is among them.
    """
    return [_point(mount, paths) for mount in settings.mounts]


def _point(mount: Mount, paths: Paths) -> Json:
    point: Json = {"Type": mount.kind}
    if mount.kind == "volume":
        point |= {"Name": mount.source, "Source": str(data_of(paths, mount.source)), "Driver": "local"}
    else:
        point["Source"] = mount.source
    propagation = (mount.propagation or "rprivate") if mount.kind == "bind" else mount.propagation
    return point | {
        "Destination": mount.target,
        "Mode": "",
        "RW": not mount.read_only,
        "Propagation": propagation,
    }


def host_config_mounts(settings: ContainerSettings) -> Json:
    """``Binds``, ``Mounts`` and ``Tmpfs`` of ``HostConfig``: what would make such a container again.

    However it was asked for: what ``Binds`` can say is there, and the rest is in ``Mounts``. Volumes that nobody
    named are in neither.
    """
    binds, mounts, tmpfs = [], [], {}
    for mount in settings.mounts:
        if mount.anonymous:
            continue
        if mount.kind == "tmpfs":
            words = [*mount.options, *(["ro"] if mount.read_only else [])]
            words += [f"mode={mount.mode:o}"] if mount.mode else []
            words += [f"size={mount.size}"] if mount.size else []
            tmpfs[mount.target] = ",".join(words)
        elif mount.subpath or not mount.recursive or (mount.kind == "bind" and "create" not in mount.options):
            mounts.append(_mount(mount))
        else:
            binds.append(_bind(mount))
    return {
        "Binds": binds or None,
        **({"Mounts": mounts} if mounts else {}),
        **({"Tmpfs": tmpfs} if tmpfs else {}),
    }


def _bind(mount: Mount) -> str:
    words = []
    if mount.read_only:
        words.append(next((word for word in mount.options if word.startswith("ro-")), "ro"))
    if mount.propagation:
        words.append(mount.propagation)
    if mount.kind == "volume" and not mount.copy:
        words.append("nocopy")
    return ":".join((mount.source, mount.target, *([",".join(words)] if words else [])))


def _mount(mount: Mount) -> Json:
    shape: Json = {"Type": mount.kind, "Source": mount.source, "Target": mount.target}
    if mount.read_only:
        shape["ReadOnly"] = True
    if mount.kind == "volume":
        shape["VolumeOptions"] = {
            **({"Subpath": mount.subpath} if mount.subpath else {}),
            **({} if mount.copy else {"NoCopy": True}),
        }
        return shape
    options = {
        "Propagation": mount.propagation,
        "NonRecursive": not mount.recursive,
        "CreateMountpoint": "create" in mount.options,
        "ReadOnlyNonRecursive": "ro-non-recursive" in mount.options,
        "ReadOnlyForceRecursive": "ro-force-recursive" in mount.options,
    }
    said = {name: value for name, value in options.items() if value}
    return shape | ({"BindOptions": said} if said else {})
