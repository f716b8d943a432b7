"""Device nodes of the host, looked up for a container (moby's ``oci.DevicesFromPath``; containerd's)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from lading.engine.oci.linux import HostDevice, Throttle
from lading.events.errors import HostError, Invalid
from lading.events.limits import RATES, rate_of
from lading.events.privileges import DeviceRule
from lading.events.settings import Device, Resources

__all__ = ["every_device", "find_devices", "find_throttles"]

# Of a container's own: other instances of these are mounted, or linked, by the runtime.
_NOT_DEVICES: Final = frozenset(("pts", "shm", "fd", "mqueue", "console", "ptmx", ".udev", ".lxc", ".lxd-mounts"))
_MOST: Final = 4096
_DEPTH: Final = 8


def find_devices(devices: tuple[Device, ...]) -> tuple[tuple[HostDevice, ...], tuple[DeviceRule, ...]]:
    """The nodes that ``devices`` ask for, and the rules that let them be used.

    A directory gives every device below it, at the same places below ``target``. Raises ``HostError`` for what
    isn't there, and ``Invalid`` for what is no device, or a directory without one.
    """
    nodes: list[HostDevice] = []
    rules: list[DeviceRule] = []
    for device in devices:
        found = list(_find(device))
        if not found:
            raise Invalid("device", device.path, "it is neither a device nor a directory with devices in it")
        nodes += found
        rules += (DeviceRule(node.type, node.major, node.minor, device.permissions) for node in found)
        if len(nodes) > _MOST:
            raise Invalid("device", device.path, f"with it there are more than {_MOST} devices")
    return tuple(nodes), tuple(rules)


def every_device() -> tuple[HostDevice, ...]:
    """Every device of the host's /dev, for a privileged container. Takes a few milliseconds."""
    return tuple(_below(os.path.realpath("/dev"), "/dev", 0))


def _find(device: Device) -> Iterator[HostDevice]:
    try:
        path = os.path.realpath(device.path, strict=True)
        look = os.stat(path)
    except OSError as error:
        hint = "give a device that this machine has (ls /dev)"
        raise HostError("find the device", device.path, error.errno or 0, hint) from error
    node = _node(look, device.target)
    if node is not None:
        yield node
    elif stat.S_ISDIR(look.st_mode):
        yield from _below(path, device.target, 0)


def _below(directory: str, target: str, depth: int) -> Iterator[HostDevice]:
    """The devices in ``directory``, links left out; what goes away meanwhile, or can't be read, is passed over."""
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        place = f"{target}/{entry.name}"
        if directory == "/dev" and entry.name in _NOT_DEVICES:
            continue
        try:
            if entry.is_dir(follow_symlinks=False):
                if depth < _DEPTH:
                    yield from _below(entry.path, place, depth + 1)
                continue
            node = _node(entry.stat(follow_symlinks=False), place)
        except OSError:
            continue
        if node is not None and _is_text(place):
            yield node


def _node(look: os.stat_result, place: str) -> HostDevice | None:
    kinds = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
    kind = kinds.get(stat.S_IFMT(look.st_mode))
    if kind is None:
        return None
    major, minor = os.major(look.st_rdev), os.minor(look.st_rdev)
    return HostDevice(place, kind, major, minor, stat.S_IMODE(look.st_mode), look.st_uid, look.st_gid)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def find_throttles(resources: Resources) -> tuple[Throttle, ...]:
    """The rates of ``resources`` with their devices' numbers. Raises ``HostError`` or ``Invalid``."""
    found = []
    for field in RATES:
        for text in getattr(resources, field):
            path, rate = rate_of(field, text)
            try:
                look = os.stat(path)
            except OSError as error:
                raise HostError("find the block device", path, error.errno or errno.EIO, "see lsblk") from error
            if not stat.S_ISBLK(look.st_mode):
                raise Invalid(field.replace("_", " "), text, f"{path} is no block device; see lsblk")
            found.append(Throttle(field, os.major(look.st_rdev), os.minor(look.st_rdev), rate))
    return tuple(found)
