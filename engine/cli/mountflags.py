"""What ``--volume``, ``--mount``, ``--tmpfs`` and ``--volumes-from`` say, in the API's JSON.

The words are checked by the engine; here is only what it can't see: this directory, and the flags' own grammar.

Source: docker/cli ``opts/mount.go`` and ``cli/command/container/opts.go`` (v27).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["mount_options", "mount_request", "parse_mount"]

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}
_NAMES = {
    "src": "source",
    "dst": "target",
    "destination": "target",
    "ro": "readonly",
}
_FLAGS = {
    "readonly": ("", "ReadOnly"),
    "bind-nonrecursive": ("BindOptions", "NonRecursive"),
    "volume-nocopy": ("VolumeOptions", "NoCopy"),
}
_OPTIONS = {"bind": "BindOptions", "volume": "VolumeOptions", "tmpfs": "TmpfsOptions"}


def mount_options(command: F) -> F:
    """Add the options, whose values ``mount_request`` takes."""
    options = (
        click.option("-v", "--volume", multiple=True, metavar="[SOURCE:]TARGET[:MODE]",
                     help="Mount a volume, or a directory of the host (an absolute path)."),
        click.option("--mount", multiple=True, metavar="KEY=VALUE,...", callback=_mounts,
                     help="The same in words: type=bind|volume|tmpfs,source=,target=,readonly, ..."),
        click.option("--tmpfs", multiple=True, metavar="TARGET[:OPTIONS]", help="Mount an empty tmpfs."),
        click.option("--volumes-from", multiple=True, metavar="CONTAINER[:ro]", help="What another mounts."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def mount_request(
    *,
    volume: tuple[str, ...] = (),
    mount: tuple[dict[str, Any], ...] = (),
    tmpfs: tuple[str, ...] = (),
    volumes_from: tuple[str, ...] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What belongs into the body of ``POST /containers/create``, and what into its ``HostConfig``."""
    body: dict[str, Any] = {}
    host: dict[str, Any] = {}
    binds = [_absolute(spec) for spec in volume if ":" in spec]
    targets = [spec for spec in volume if ":" not in spec]
    if targets:
        body["Volumes"] = {target: {} for target in targets}
    if binds:
        host["Binds"] = binds
    if mount:
        host["Mounts"] = list(mount)
    if tmpfs:
        host["Tmpfs"] = {target: options for target, _, options in (word.partition(":") for word in tmpfs)}
    if volumes_from:
        host["VolumesFrom"] = list(volumes_from)
    return body, host


def _absolute(spec: str) -> str:
    """``.``, ``./x`` and ``../x`` as a source are of the directory of who asks."""
    source, _, rest = spec.partition(":")
    if source in (".", "..") or source.startswith(("./", "../")):
        return f"{os.path.abspath(source)}:{rest}"
    return spec


def _mounts(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> tuple[Any, ...]:
    try:
        return tuple(parse_mount(word) for word in words)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


def parse_mount(text: str) -> dict[str, Any]:
    """``type=bind,source=/x,target=/y,readonly`` as a member of ``HostConfig.Mounts``; ``ValueError`` in Docker's
    words for what is none."""
    mount: dict[str, Any] = {"Type": "volume"}
    try:
        [fields] = csv.reader([text], strict=True)
    except (csv.Error, ValueError):
        raise ValueError(f"invalid mount {text!r}: fields are separated by commas") from None
    for field in fields:
        key, equals, value = field.partition("=")
        key = _NAMES.get(key.lower(), key.lower())
        if not equals and key not in _FLAGS:
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        if key in _FLAGS:
            where, name = _FLAGS[key]
            (mount.setdefault(where, {}) if where else mount)[name] = _boolean(key, value) if equals else True
        elif not _set(mount, key, value):
            raise ValueError(f"unexpected key '{key}' in '{field}'")
    if not mount["Type"]:
        raise ValueError("type is required")
    if not mount.get("Target"):
        raise ValueError("target is required")
    for kind, name in _OPTIONS.items():
        if name in mount and mount["Type"] != kind:
            raise ValueError(f"cannot mix '{kind}-*' options with mount type '{mount['Type']}'")
    return mount


def _set(mount: dict[str, Any], key: str, value: str) -> bool:
    """Take over one field; whether there is such a one."""
    match key:
        case "type":
            mount["Type"] = value.lower()
        case "source":
            relative = value in (".", "..") or value.startswith(("./", "../"))
            mount["Source"] = os.path.abspath(value) if relative else value
        case "target":
            mount["Target"] = value
        case "consistency":
            mount["Consistency"] = value.lower()
        case "bind-propagation":
            mount.setdefault("BindOptions", {})["Propagation"] = value.lower()
        case "bind-create-src":
            mount.setdefault("BindOptions", {})["CreateMountpoint"] = _boolean(key, value)
        case "bind-recursive":
            _recursive(mount, value)
        case "volume-subpath":
            mount.setdefault("VolumeOptions", {})["Subpath"] = value
        case "volume-driver":
            mount.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})["Name"] = value
        case "volume-opt" | "volume-label":
            options = mount.setdefault("VolumeOptions", {})
            if key == "volume-opt":
                options = options.setdefault("DriverConfig", {}).setdefault("Options", {})
            else:
                options = options.setdefault("Labels", {})
            name, _, said = value.partition("=")
            if name:
                options[name] = said
        case "tmpfs-size":
            mount.setdefault("TmpfsOptions", {})["SizeBytes"] = _size(key, value)
        case "tmpfs-mode":
            if not value or set(value) - set("01234567") or len(value) > 10:
                raise ValueError(f"invalid value for {key}: {value}")
            mount.setdefault("TmpfsOptions", {})["Mode"] = int(value, 8)
        case _:
            return False
    return True


def _recursive(mount: dict[str, Any], value: str) -> None:
    options = mount.setdefault("BindOptions", {})
    match value:
        case "enabled":
            pass
        case "disabled":
            options["NonRecursive"] = True
        case "writable":
            options["ReadOnlyNonRecursive"] = True
        case "readonly":
            options["ReadOnlyForceRecursive"] = True
        case _:
            raise ValueError(
                f"invalid value for bind-recursive: {value} "
                "(must be 'enabled', 'disabled', 'writable', or 'readonly')"
            )


def _boolean(key: str, value: str) -> bool:
    if value not in _BOOLEANS:
        raise ValueError(f"invalid value for {key}: {value}")
    return _BOOLEANS[value]


def _size(key: str, value: str) -> int:
    """Bytes, or a number with a unit as ``64m`` and ``1.5GiB`` (powers of 1024)."""
    text = value.strip().lower()
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text[len(number) :].strip()
    unit = unit.removesuffix("ib") if unit.endswith("ib") else unit.removesuffix("b") if len(unit) > 1 else unit
    try:
        if not number.replace(".", "", 1).isdecimal() or not number.isascii() or len(number) > 20:
            raise ValueError
        return int(float(number) * _UNITS[unit])
    except (KeyError, ValueError):
        raise ValueError(f"invalid value for {key}: {value}") from None
