"""What a request to make a container says about mounts, as ``Mount`` values: Docker's grammar and its words.

There are four ways to say it: ``HostConfig.Binds`` (``SOURCE:TARGET[:MODE]``), ``HostConfig.Mounts`` (objects),
``HostConfig.Tmpfs`` (options by target) and ``Config.Volumes`` (targets of volumes without a name). What is asked
for twice is found when all of it is settled (``engine/mounts``).

Source: Docker Engine API v1.47, ContainerCreate; moby ``volume/mounts/linux_parser.go`` and ``validate.go`` (v27).
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, cast

from lading.engine.api.request import not_supported
from lading.engine.http.message import HttpError
from lading.engine.volumes.mounts import PROPAGATIONS, parse_volumes_from, tmpfs_options
from lading.events.errors import Invalid
from lading.events.settings import Mount, MountKind
from lading.events.volume import check_volume_name

__all__ = ["parse_mounts", "parse_spec", "volume_name_words"]

_ACCESS: Final = ("rw", "ro", "ro-non-recursive", "ro-force-recursive", "rro")
_MODES: Final[Sequence[Sequence[str]]] = (
    _ACCESS,
    ("z", "Z"),
    PROPAGATIONS,
    ("copy", "nocopy"),
    ("consistent", "cached", "delegated"),
)
"""Of each kind a mode may have one word."""

_MOST: Final = 1000

_KNOWN: Final[Mapping[str, Collection[str]]] = {
    "": ("Type", "Source", "Target", "ReadOnly", "Consistency", "BindOptions", "VolumeOptions", "TmpfsOptions"),
    "BindOptions": (
        *("Propagation", "NonRecursive", "CreateMountpoint", "ReadOnlyNonRecursive", "ReadOnlyForceRecursive"),
    ),
    "VolumeOptions": ("NoCopy", "Labels", "DriverConfig", "Subpath"),
    "TmpfsOptions": ("SizeBytes", "Mode", "Options"),
}
"""What an object may have, and the objects in it."""


def parse_mounts(body: Mapping[str, Any]) -> tuple[tuple[Mount, ...], tuple[str, ...]]:
    """The mounts that ``body`` (of ``POST /containers/create``) asks for, and whose volumes it wants.

    As ``ContainerSettings.mounts`` and ``Recipe.volumes_from`` are when they are not settled yet. Raises
    `HttpError` 400, and 501 for what Docker has and this release hasn't. That a
    source of ``Mounts`` is there is seen now, as in Docker; later it may be gone.
    """
    host = _object(body, "HostConfig")
    if host.get("VolumeDriver") not in (None, "", "local"):
        raise HttpError(400, f"volume driver {str(host['VolumeDriver'])[:80]!r} does not exist: there is 'local'")
    mounts = [parse_spec(spec) for spec in _texts(host, "Binds")]
    mounts += [_from_object(each, check=True) for each in _objects(host, "Mounts")]
    for target, options in _object(host, "Tmpfs").items():
        if not isinstance(options, str):
            raise HttpError(400, "invalid Tmpfs: its values must be strings")
        mounts.append(_tmpfs(target, tuple(word for word in options.split(",") if word)))
    mounts += [Mount("volume", "", target, anonymous=True) for target in _object(body, "Volumes")]
    wanted = tuple(_texts(host, "VolumesFrom"))
    for spec in wanted:
        try:
            parse_volumes_from(spec)
        except Invalid as error:
            raise HttpError(400, error.why) from None
    return tuple(mounts), wanted


def parse_spec(spec: str) -> Mount:
    """A member of ``Binds``: ``TARGET``, ``SOURCE:TARGET`` or ``SOURCE:TARGET:MODE``; a source that is no absolute
    path is the name of a volume. Raises `HttpError` 400."""
    words = f"invalid volume specification: '{spec[:300]}'"
    parts = spec.split(":")
    if not parts[0] or len(parts) > 3 or (len(parts) == 2 and _is_mode(parts[1])):
        raise HttpError(400, words)
    source, target = parts[:2] if len(parts) > 1 else ("", parts[0])
    mode = parts[2] if len(parts) == 3 else ""
    if not _is_mode(mode):
        raise HttpError(400, f"invalid mode: {mode[:80]}")
    said = mode.split(",")
    access = next((word for word in said if word in _ACCESS), "rw")
    asked: dict[str, Any] = {"Source": source, "Target": target, "ReadOnly": access != "rw"}
    asked["Type"] = "bind" if source.startswith("/") else "volume"
    binding: dict[str, Any] = {}
    if propagation := next((word for word in said if word in PROPAGATIONS), ""):
        binding["Propagation"] = propagation
    if access in ("ro-force-recursive", "rro"):
        binding["ReadOnlyForceRecursive"] = True
    elif access == "ro-non-recursive":
        binding["ReadOnlyNonRecursive"] = True
    if asked["Type"] == "bind":
        binding["CreateMountpoint"] = True
    if binding:
        asked["BindOptions"] = binding
    if "nocopy" in said or "copy" in said:
        asked["VolumeOptions"] = {"NoCopy": "nocopy" in said}
    try:
        return _from_object(asked, check=False)
    except HttpError as error:
        raise HttpError(400, f"{words}: {error.message}") from None


def _is_mode(mode: str) -> bool:
    """Whether ``mode`` is one; the empty one is, too."""
    words = mode.split(",") if mode else []
    known = all(any(word in kind for kind in _MODES) for word in words)
    return known and all(sum(word in kind for word in words) <= 1 for kind in _MODES)


def _from_object(asked: Mapping[str, Any], *, check: bool) -> Mount:
    """A member of ``Mounts``. ``check``: a bind's source must be there, unless it is to be made."""
    kind = _text(asked, "Type")

    def refused(why: str) -> HttpError:
        return HttpError(400, f'invalid mount config for type "{kind[:80]}": {why}')

    for name, known in _KNOWN.items():
        _refuse_unknown(_object(asked, name) if name else asked, known)
    source, target = _text(asked, "Source"), _text(asked, "Target")
    if not target:
        raise refused("field Target must not be empty")
    if posixpath.normpath("/" + target.lstrip("/")) == "/":
        raise refused("invalid specification: destination can't be '/'")
    if not target.startswith("/"):
        raise refused(f"invalid mount path: '{target[:300]}' mount path must be absolute")
    for name, of in (("BindOptions", "bind"), ("VolumeOptions", "volume"), ("TmpfsOptions", "tmpfs")):
        if asked.get(name) and kind in ("bind", "volume", "tmpfs") and kind != of:
            raise refused(f"field {name} must not be specified")
    mount = Mount(cast("MountKind", kind), source, target, _flag(asked, "ReadOnly"))
    match kind:
        case "bind":
            return _bind(mount, _object(asked, "BindOptions"), refused, check)
        case "volume":
            return _volume(mount, _object(asked, "VolumeOptions"), refused)
        case "tmpfs":
            if source:
                raise refused("field Source must not be specified")
            return _tmpfs_object(mount, _object(asked, "TmpfsOptions"), refused)
        case _:
            raise refused("mount type unknown")


def _refuse_unknown(asked: Mapping[str, Any], known: Collection[str]) -> None:
    """Nothing that is asked for is silently left out: see ``api/create``."""
    for name, value in asked.items():
        if name not in known and value:
            raise not_supported(f"Mounts: {name[:80]}")


def _bind(mount: Mount, options: Mapping[str, Any], refused: Any, check: bool) -> Mount:
    source, propagation = mount.source, _text(options, "Propagation")
    if not source:
        raise refused("field Source must not be empty")
    if propagation and propagation not in PROPAGATIONS:
        raise refused(f"invalid propagation mode: {propagation[:80]}")
    if not source.startswith("/"):
        raise refused(f"invalid mount path: '{source[:300]}' mount path must be absolute")
    words = []
    if _flag(options, "CreateMountpoint"):
        words.append("create")
    elif check and not _exists(source):
        raise refused(f"bind source path does not exist: {source[:300]}")
    for name, word in (
        ("ReadOnlyNonRecursive", "ro-non-recursive"),
        ("ReadOnlyForceRecursive", "ro-force-recursive"),
    ):
        if _flag(options, name):
            if not mount.read_only:
                raise refused(f"mount must be read-only when {name} is set")
            words.append(word)
    if len(words) > 1 and "ro-non-recursive" in words and "ro-force-recursive" in words:
        raise refused("ReadOnlyNonRecursive and ReadOnlyForceRecursive exclude each other")
    return Mount(
        "bind",
        source,
        mount.target,
        mount.read_only,
        propagation=propagation,
        recursive=not _flag(options, "NonRecursive"),
        options=tuple(words),
    )


def _exists(source: str) -> bool:
    try:
        return os.path.exists(source)
    except ValueError:  # a NUL byte
        return False


def _volume(mount: Mount, options: Mapping[str, Any], refused: Any) -> Mount:
    driver, subpath = _object(options, "DriverConfig"), _text(options, "Subpath")
    if _text(driver, "Name") not in ("", "local"):
        raise refused(f"volume driver {_text(driver, 'Name')[:80]!r} does not exist: there is 'local'")
    if mount.source:
        try:
            check_volume_name(mount.source)
        except Invalid as error:
            raise refused(volume_name_words(error)) from None
    elif subpath:
        raise refused("must not set Subpath when using anonymous volumes")
    elif mount.read_only:
        raise refused("must not set ReadOnly mode when using anonymous volumes")
    if subpath.startswith("/") or ".." in subpath.split("/"):
        raise refused("subpath must be a relative path within the volume")
    words = [f"label:{key}={value}" for key, value in _text_values(options, "Labels").items()]
    words += [f"option:{key}={value}" for key, value in _text_values(driver, "Options").items()]
    return Mount(
        "volume",
        mount.source,
        mount.target,
        mount.read_only,
        copy=not _flag(options, "NoCopy"),
        subpath=subpath,
        options=tuple(words),
    )


def volume_name_words(error: Invalid) -> str:
    """Docker's words for a name that is none."""
    name = str(error.value)
    if len(name) == 1:
        return "volume name is too short, names should be at least two alphanumeric characters"
    return (
        f'"{name[:300]}" includes invalid characters for a local volume name, only '
        '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
    )


def _tmpfs_object(mount: Mount, options: Mapping[str, Any], refused: Any) -> Mount:
    words = []
    for each in options.get("Options") or ():
        if (
            not isinstance(each, list)
            or not 1 <= len(each) <= 2
            or not all(isinstance(word, str) for word in each)
        ):
            raise refused("invalid option array length")
        if each[0] not in ("exec", "noexec"):
            raise refused(f"invalid option: {each[0][:80]}")
        words.append("=".join(each))
    size, mode = _number(options, "SizeBytes"), _number(options, "Mode")
    made = Mount("tmpfs", "", mount.target, mount.read_only, size=size, mode=mode, options=tuple(words))
    try:
        tmpfs_options(made)
    except Invalid as error:
        raise refused(error.why) from None
    return made


def _tmpfs(target: str, options: tuple[str, ...]) -> Mount:
    mount = Mount("tmpfs", "", target, "ro" in options, options=tuple(word for word in options if word != "ro"))
    try:
        tmpfs_options(mount)
    except Invalid as error:
        raise HttpError(400, error.why) from None
    return mount


# -- fields -------------------------------------------------------------------------------------------------


def _object(source: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = source.get(name)
    if value is not None and not isinstance(value, dict):
        raise HttpError(400, f"invalid {name}: it must be an object")
    if value is not None and len(value) > _MOST:
        raise HttpError(400, f"invalid {name}: it has more than {_MOST} members")
    return value or {}


def _list(source: Mapping[str, Any], name: str, kind: type, words: str) -> list[Any]:
    value = source.get(name)
    if value is not None and not (isinstance(value, list) and all(type(each) is kind for each in value)):
        raise HttpError(400, f"invalid {name}: it must be a list of {words}")
    if value is not None and len(value) > _MOST:
        raise HttpError(400, f"invalid {name}: it has more than {_MOST} members")
    return value or []


def _texts(source: Mapping[str, Any], name: str) -> list[str]:
    return _list(source, name, str, "strings")


def _objects(source: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return _list(source, name, dict, "objects")


def _text(source: Mapping[str, Any], name: str) -> str:
    value = source.get(name)
    if value is not None and not isinstance(value, str):
        raise HttpError(400, f"invalid {name}: it must be a string")
    return value or ""


def _flag(source: Mapping[str, Any], name: str) -> bool:
    value = source.get(name)
    if value is not None and not isinstance(value, bool):
        raise HttpError(400, f"invalid {name}: it must be true or false")
    return bool(value)


def _number(source: Mapping[str, Any], name: str) -> int:
    value = source.get(name)
    if value is not None and not (type(value) is int and 0 <= value < 1 << 63):
        raise HttpError(400, f"invalid {name}: it must be a whole number, and not negative")
    return value or 0


def _text_values(source: Mapping[str, Any], name: str) -> Mapping[str, str]:
    value = _object(source, name)
    if not all(isinstance(each, str) for each in value.values()):
        raise HttpError(400, f"invalid {name}: its values must be strings")
    return value
