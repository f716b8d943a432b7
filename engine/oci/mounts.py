"""``mounts`` of the runtime's configuration: the usual ones, a container's own, private files (config.md)."""

from __future__ import annotations

import functools
from typing import Final

import attrs

from lading.engine.oci.linux import encode

__all__ = ["MountEntry", "mounts_part"]

_MOUNTS: Final = (
    ("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    ("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
    ("/sys/fs/cgroup", "cgroup", "cgroup", ("ro", "nosuid", "noexec", "nodev")),
    ("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
)

_SHM_OPTIONS: Final = ("nosuid", "noexec", "nodev", "mode=1777")


@attrs.frozen
class MountEntry:
    """One mount beside the usual ones, as the runtime spec has it (config.md, Mounts)."""

    destination: str
    type: str
    source: str
    options: tuple[str, ...]


def mounts_part(
    shm_size: int,
    files: tuple[tuple[str, str], ...],
    readonly: bool,
    own: tuple[MountEntry, ...] = (),
    writable: bool = False,
    hidden: frozenset[str] = frozenset(),
) -> bytes:
    """``"mounts":[...`` without its closing bracket.

    ``files``: (host path, path in the container), bind mounts, read-only with ``readonly``. ``own``: the
    container's own; one at the place of a usual mount or of a file is there instead of it, and one of all of /dev
    instead of every usual one in there. Less deep ones come first. ``writable``: /sys and the cgroups are.
    ``hidden``: places of usual mounts that are not made.
    """
    if own or writable or hidden:
        return _every(shm_size, files, readonly, own, writable, hidden)
    if not files:
        return _usual(shm_size)
    options = _private_options(readonly)
    mounts = [
        {"destination": place, "type": "bind", "source": source, "options": options} for source, place in files
    ]
    return _usual(shm_size) + b"," + encode(mounts)[1:-1]


@functools.lru_cache(maxsize=64)
def _usual(shm_size: int) -> bytes:
    return b'"mounts":' + encode([_mount(entry) for entry in _defaults(shm_size)])[:-1]


def _every(
    shm_size: int,
    files: tuple[tuple[str, str], ...],
    readonly: bool,
    own: tuple[MountEntry, ...],
    writable: bool,
    hidden: frozenset[str],
) -> bytes:
    taken = {entry.destination for entry in own}
    kept = []
    for entry in _defaults(shm_size):
        place = entry.destination
        if place not in taken and place not in hidden and not ("/dev" in taken and place.startswith("/dev/")):
            if writable and place in ("/sys", "/sys/fs/cgroup"):
                entry = attrs.evolve(entry, options=tuple(word for word in entry.options if word != "ro"))
            kept.append(entry)
    others = [*own, *(entry for entry in _private(files, readonly) if entry.destination not in taken)]
    others.sort(key=lambda entry: entry.destination.count("/"))
    return b'"mounts":' + encode([_mount(entry) for entry in (*kept, *others)])[:-1]


def _defaults(shm_size: int) -> list[MountEntry]:
    shm = MountEntry("/dev/shm", "tmpfs", "shm", (*_SHM_OPTIONS, f"size={shm_size}"))
    return [*(MountEntry(*mount) for mount in _MOUNTS), shm]


def _private_options(readonly: bool) -> tuple[str, ...]:
    return ("rbind", "ro", "rprivate") if readonly else ("rbind", "rprivate")


def _private(files: tuple[tuple[str, str], ...], readonly: bool) -> list[MountEntry]:
    options = _private_options(readonly)
    return [MountEntry(place, "bind", source, options) for source, place in files]


def _mount(entry: MountEntry) -> dict[str, object]:
    return {
        "destination": entry.destination,
        "type": entry.type,
        "source": entry.source,
        "options": entry.options,
    }
