"""What a container mounts, settled when it is made: what was asked for, the image's volumes, those of others.

A mount that is asked for is a ``Mount`` with two words more. Of a volume, ``anonymous`` says that it was declared
(``--volume /path``, as by an image): it gives way to anything else that is mounted there. And its ``options`` are
for the volume that is made, if one is: ``label:KEY=VALUE`` and ``option:KEY=VALUE`` (of the driver). What is
settled has neither: each volume has a name, and ``anonymous`` is true of those that nobody named.

Source: moby ``daemon/volumes.go``, ``daemon/create_unix.go`` and ``volume/mounts/linux_parser.go`` (v27).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from lading.engine.core import Core
from lading.engine.queries import ContainerQueries
from lading.engine.volumes.volumes import new_volume
from lading.events.containerviews import VOLUMES
from lading.events.envelope import Proposed
from lading.events.errors import InUse, Invalid
from lading.events.image import ImageConfig
from lading.events.settings import ContainerSettings, Mount
from lading.events.volume import VolumeCreated, volume_stream

__all__ = ["BIND_OPTIONS", "PROPAGATIONS", "check_target", "parse_volumes_from", "settle_mounts", "tmpfs_options"]

PROPAGATIONS: Final = ("private", "rprivate", "slave", "rslave", "shared", "rshared")

BIND_OPTIONS: Final = ("create", "ro-non-recursive", "ro-force-recursive")
"""Of a bind: a source that isn't there is made, as a directory; what is mounted below it is not made read-only;
or the container does not start if it can't be."""

_MOST: Final = 1000
"""Mounts of one container: an image may declare any number."""

_PROC: Final = frozenset(
    f"/proc/{name}"
    for name in (
        *("cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev"),
        "sys/kernel/ns_last_pid",
    )
)
"""What of /proc runtimes let be mounted over (runc ``libcontainer/rootfs_linux.go``, checkProcMount)."""

_TMPFS_FLAGS: Final = frozenset(
    (
        *("defaults", "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "remount"),
        *("dirsync", "mand", "nomand", "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime"),
        *("strictatime", "nostrictatime", *PROPAGATIONS),
    )
)
_TMPFS_VALUES: Final = frozenset(("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"))


def parse_volumes_from(spec: str) -> tuple[str, bool]:
    """The container that ``spec`` (``CONTAINER[:MODE]``) names, and whether its volumes come read-only."""
    if not spec:
        raise Invalid("volumes-from", spec, "volumes-from specification cannot be an empty string")
    name, _, mode = spec.partition(":")
    words = mode.split(",") if mode else []
    if not name or any(word not in ("ro", "rw", "z", "Z") for word in words) or {"ro", "rw"} <= set(words):
        raise Invalid("volumes-from", spec, f"invalid mode: {mode}")
    return name, "ro" in words


def settle_mounts(
    core: Core, settings: ContainerSettings, image: ImageConfig, volumes_from: Sequence[str] = ()
) -> tuple[ContainerSettings, list[Proposed]]:
    """``settings`` with all that the container will mount, and the events of the volumes that are made for it.

    Their directories are to be made before the append that has those events and ``Created``; nothing may make or
    remove a volume from this look to that append. What comes first counts: what was asked for, what the containers
    of ``volumes_from`` have, what was declared. ``ContainerSettings.volumes``: the targets of what was declared.

    Raises ``Invalid`` (also for two mounts at one place), ``NotFound`` and ``Ambiguous`` for a container, and
    ``InUse`` for a volume that is being removed.
    """
    asked = [_checked(mount) for mount in settings.mounts]
    declared = [mount for mount in asked if _is_declared(mount)]
    declared += [Mount("volume", "", _declared_target(text), anonymous=True) for text in image.volumes]
    mounts: dict[str, Mount] = {}
    for mount in asked:
        if not _is_declared(mount):
            if mount.target in mounts:
                raise Invalid("mount", mount.target, f"Duplicate mount point: {mount.target}")
            mounts[mount.target] = mount
    _take_over(core, mounts, volumes_from)
    for mount in declared:
        mounts.setdefault(mount.target, mount)
    if len(mounts) > _MOST:
        raise Invalid("mounts", f"{len(mounts)} of them", f"a container may have {_MOST}")
    made: dict[str, VolumeCreated] = {}
    final = [_named(core, mount, made) if mount.kind == "volume" else mount for mount in mounts.values()]
    volumes = tuple(dict.fromkeys(mount.target for mount in declared))
    events = [Proposed(volume_stream(event.name), event) for event in made.values()]
    return attrs.evolve(settings, mounts=tuple(final), volumes=volumes), events


def _is_declared(mount: Mount) -> bool:
    return mount.kind == "volume" and mount.anonymous and not mount.source


def _take_over(core: Core, mounts: dict[str, Mount], volumes_from: Iterable[str]) -> None:
    """The binds and volumes of other containers, without what is mounted at the same place already.

    The later container counts for more than an earlier one, and what was asked for more than both, as in Docker.
    """
    queries, taken = ContainerQueries(core.log), dict[str, Mount]()
    for spec in volumes_from:
        name, read_only = parse_volumes_from(spec)
        for mount in core.settings(queries.get(name).id).mounts:
            if mount.kind != "tmpfs":
                taken[mount.target] = attrs.evolve(mount, read_only=mount.read_only or read_only, copy=False)
    for target, mount in taken.items():
        mounts.setdefault(target, mount)


def _named(core: Core, mount: Mount, made: dict[str, VolumeCreated]) -> Mount:
    """``mount`` with its volume's name; if the volume isn't there, it is put into ``made``."""
    labels = _pairs(mount.options, "label:")
    if not mount.source:
        event = new_volume(None, labels, _pairs(mount.options, "option:"))
    else:
        known = core.log.get(VOLUMES, mount.source) if len(mount.source) < 256 else None
        if known is not None:
            if known.removing:
                raise InUse("volume", known.name, ("its removal",), "it is on its way out; choose another")
            return attrs.evolve(mount, options=())
        event = made.get(mount.source) or new_volume(mount.source, labels, _pairs(mount.options, "option:"))
    made[event.name] = event
    return attrs.evolve(mount, source=event.name, options=(), anonymous=event.anonymous)


def _pairs(options: Iterable[str], kind: str) -> Mapping[str, str]:
    words = (word.removeprefix(kind).partition("=") for word in options if word.startswith(kind))
    return {key: value for key, _, value in words}


# -- checks ---------------------------------------------------------------------------------------------------


def check_target(text: str) -> str:
    """``text`` as the place of a mount: absolute, normalised, not the root. Raises ``Invalid``."""
    if not text:
        raise Invalid("mount target", text, "field Target must not be empty")
    if "\0" in text:
        raise Invalid("mount target", text, "a NUL byte in it")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise Invalid("mount target", text, "it is not Unicode text: a runtime can't be given it") from None
    if size > 4095:
        raise Invalid("mount target", text, "it is longer than a path can be")
    if not text.startswith("/"):
        raise Invalid("mount target", text, f"invalid mount path: '{text}' mount path must be absolute")
    target = _normal(text)
    if target == "/":
        raise Invalid("mount target", text, "invalid specification: destination can't be '/'")
    return target


def _normal(path: str) -> str:
    return "/" + posixpath.normpath("/" + path).lstrip("/")


def _declared_target(text: str) -> str:
    """Where an image's volume goes: whatever it wrote is taken from the container's root."""
    return _in_reach("volume", check_target("/" + text))


def _in_reach(kind: str, target: str) -> str:
    """``target``, unless mounting there would put what the image or a volume has in place of the kernel's word."""
    inside = target == "/proc" or target.startswith("/proc/")
    if inside and not (kind == "bind" and target in _PROC):
        raise Invalid("mount target", target, "it is inside /proc, which is the kernel's: choose another place")
    if kind == "volume" and (target == "/sys" or target.startswith("/sys/")):
        raise Invalid("mount target", target, "it is inside /sys, which is the kernel's: choose another place")
    return target


def _checked(mount: Mount) -> Mount:
    """``mount`` with a target that is normalised, and with nothing in it that has no meaning."""
    target = _in_reach(mount.kind, check_target(mount.target))
    if "\0" in mount.source:
        raise Invalid("mount source", mount.source, "a NUL byte in it")
    source = mount.source
    if mount.kind == "bind":
        if not source.startswith("/"):
            raise Invalid("mount source", source, f"invalid mount path: '{source}' mount path must be absolute")
        source = posixpath.normpath("/" + source.lstrip("/"))
        if mount.propagation and mount.propagation not in PROPAGATIONS:
            raise Invalid("mount", target, f"invalid propagation mode: {mount.propagation}")
        for word in mount.options:
            if word not in BIND_OPTIONS:
                raise Invalid("mount option", word, f"a bind mount has {', '.join(BIND_OPTIONS)}")
    elif mount.kind == "tmpfs":
        if source:
            raise Invalid("mount source", source, "field Source must not be specified")
        tmpfs_options(mount)
    elif mount.kind != "volume":
        raise Invalid("mount type", mount.kind, "mount type unknown")
    if mount.subpath and (mount.kind != "volume" or not source):
        raise Invalid("volume subpath", mount.subpath, "must not set Subpath when using anonymous volumes")
    parts = mount.subpath.split("/")
    if mount.subpath.startswith("/") or ".." in parts or "\0" in mount.subpath:
        raise Invalid("volume subpath", mount.subpath, "subpath must be a relative path within the volume")
    return attrs.evolve(mount, source=source, target=target)


def tmpfs_options(mount: Mount) -> tuple[str, ...]:
    """The mount options of a tmpfs: Docker's usual ones, without those that ``mount`` says otherwise about.

    Raises ``Invalid`` for an option that a tmpfs hasn't.
    """
    words = [word for word in mount.options if word]
    if mount.read_only:
        words.append("ro")
    if mount.mode:
        words.append(f"mode={mount.mode:o}")
    if mount.size:
        words.append(f"size={mount.size}")
    for word in words:
        name, equals, value = word.partition("=")
        if not (name in _TMPFS_VALUES if equals else name in _TMPFS_FLAGS) or (equals and not value):
            raise Invalid("mount option", word, f'Invalid tmpfs option "{word}"')
        if name == "mode" and (len(value) > 5 or set(value) - set("01234567")):
            raise Invalid("mount option", word, f'Invalid tmpfs option "{word[:80]}"')
        if "\0" in word or any(character.isspace() or character == "," for character in word):
            raise Invalid("mount option", word, f'Invalid tmpfs option "{word[:80]}"')
    kept = [word for word in ("noexec", "nosuid", "nodev") if word.removeprefix("no") not in words]
    last = {word.partition("=")[0]: word for word in words if word not in kept}
    if not set(last) & set(PROPAGATIONS):
        kept.append("rprivate")
    return (*kept, *last.values())
