"""Freezing every process of a container at once, and letting it go on (cgroups(7); freezer-subsystem.rst)."""

from __future__ import annotations

import errno
import time
from pathlib import Path

from lading.engine.oci.runtime import cgroup_of
from lading.events.errors import HostError
from lading.storage.cgroups import cgroup_mounts
from lading.storage.store import Paths

__all__ = ["freeze", "is_frozen", "thaw"]

_PATIENCE = 5.0


def freeze(paths: Paths, container: str) -> None:
    """Return when every process of ``container`` is frozen. Blocks for a moment, at most some seconds.

    Raises ``HostError`` if it has no cgroup, or a process in the middle of something would not be frozen; then
    none of them is.
    """
    _set(paths, container, frozen=True)


def thaw(paths: Paths, container: str) -> None:
    """Let every process of ``container`` go on; no error if it isn't frozen, or is gone."""
    try:
        _set(paths, container, frozen=False)
    except HostError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def is_frozen(paths: Paths, container: str) -> bool:
    """Whether ``container`` is frozen, or about to be."""
    place = _place(paths, container)
    if place is None:
        return False
    try:
        return place.read_bytes().strip() in (b"FROZEN", b"FREEZING", b"1")
    except OSError:
        return False


def _place(paths: Paths, container: str) -> Path | None:
    """The file that freezes ``container``'s cgroup."""
    below = f"{cgroup_of(paths)}/{container}".lstrip("/")
    for mount in cgroup_mounts():
        for name in ("freezer.state", "cgroup.freeze"):
            if (mount / below / name).exists():
                return mount / below / name
    return None


def _set(paths: Paths, container: str, *, frozen: bool) -> None:
    place = _place(paths, container)
    if place is None:
        raise HostError("freeze" if frozen else "thaw", container, errno.ENOENT, "it has no cgroup with a freezer")
    first = place.name == "freezer.state"
    wanted = (b"FROZEN" if frozen else b"THAWED") if first else (b"1" if frozen else b"0")
    deadline = time.monotonic() + _PATIENCE
    try:
        place.write_bytes(wanted)
        while not _is(place, wanted, frozen):
            if time.monotonic() > deadline:
                place.write_bytes(b"THAWED" if first else b"0")
                raise HostError("freeze", container, errno.EBUSY, "a process of it can't be frozen now; try again")
            time.sleep(0.001)
            if first:
                place.write_bytes(wanted)  # v1 gives up on a process that was forking, and has to be asked again
    except OSError as error:
        raise HostError("freeze" if frozen else "thaw", container, error.errno or 0) from error


def _is(place: Path, wanted: bytes, frozen: bool) -> bool:
    if place.name == "freezer.state":
        return place.read_bytes().strip() == wanted
    return f"frozen {int(frozen)}".encode() in (place.parent / "cgroup.events").read_bytes()
