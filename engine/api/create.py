"""What ``POST /containers/create`` asks for, as a recipe; and the refusal of what this release can't give.

Nothing that is asked for is silently left out. A client sends some seventy fields, most of them empty: a field
that is not understood is accepted while its value says nothing (null, false, zero, empty) or says what is the
case anyway, and refused otherwise, whatever its name. So a field that Docker adds tomorrow, or one in the wrong
case, can't be mistaken for one that was carried out.

Limits are in ``createlimits``, privileges and namespaces in ``createsecurity``, the rest of the settings in
``createsettings``, mounts in ``mountspecs``. ``LadingDeadline`` (nanoseconds) and ``LadingRestartUnhealthy`` (true
or false) in ``HostConfig`` are not Docker's: how long a run may take, and a restart of what is unhealthy.

Source: Docker Engine API v1.47, ContainerCreate; the values that stand for nothing are those that the docker
client sends when no flag is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from lading.engine.api.createlimits import RESOURCE_FIELDS, Machine, parse_resources
from lading.engine.api.createsecurity import MODE_FIELDS, SECURITY_FIELDS, parse_modes, parse_security
from lading.engine.api.createsettings import SETTING_FIELDS, parse_health, parse_settings
from lading.engine.api.fields import flag, integer, mapping, object_of, refuse, text, words
from lading.engine.api.mountspecs import parse_mounts
from lading.engine.api.request import not_supported
from lading.engine.containers.recipe import Recipe
from lading.events.settings import ContainerSettings
from lading.events.spec import NetworkMode

__all__ = ["CreateRequest", "console_size", "parse_create", "refuse_unknown"]

DEFAULT_NETWORK_WARNING: Final = (
    "There is no bridge network in this release: the default network is the host's. "
    'Choose "host" or "none" to hear no more of it.'
)


@attrs.frozen
class CreateRequest:
    """A recipe, and what its author should be told.

    ``runtime``: the one that was asked for, or empty. ``size``: rows and columns of the author's terminal, if the
    container has one.
    """

    recipe: Recipe
    warnings: tuple[str, ...]
    runtime: str = ""
    size: tuple[int, int] | None = None


_CONFIG: Final = frozenset(
    {
        *("Image", "Cmd", "Entrypoint", "Env", "WorkingDir", "User", "Hostname", "Labels", "Tty", "OpenStdin"),
        *("StdinOnce", "AttachStdin", "AttachStdout", "AttachStderr", "StopSignal", "StopTimeout"),
        *("HostConfig", "NetworkingConfig", "ArgsEscaped", "Volumes", "Domainname", "Healthcheck"),
    }
)
_HOST: Final = frozenset(
    {
        *("NetworkMode", "AutoRemove", "ReadonlyRootfs", "Runtime"),
        *("Binds", "Mounts", "Tmpfs", "VolumesFrom", "VolumeDriver"),
        *(RESOURCE_FIELDS | SECURITY_FIELDS | MODE_FIELDS | SETTING_FIELDS),
    }
)

_SAYS_NOTHING: Final[Mapping[str, tuple[object, ...]]] = {"Isolation": ("default",)}
"""Values of HostConfig besides the empty ones that ask for what a container gets anyway."""

_CLIENT_SIDE: Final = frozenset({"ContainerIDFile", "ConsoleSize"})
"""Of HostConfig: a file that the client writes, and the size of its terminal."""

_FLAGS: Final[Mapping[str, str]] = {
    "PortBindings": "publishing ports (--publish)",
    "PublishAllPorts": "publishing ports (--publish-all)",
    "ExposedPorts": "exposing ports (--expose)",
    "DeviceRequests": "adding devices (--gpus)",
    "CgroupParent": "choosing a parent for the control group (--cgroup-parent)",
    "BlkioWeightDevice": "a weight of its own for a device (--blkio-weight-device)",
    "CpuRealtimePeriod": "real-time scheduling (--cpu-rt-period)",
    "CpuRealtimeRuntime": "real-time scheduling (--cpu-rt-runtime)",
    "Links": "links between containers (--link)",
    "StorageOpt": "options of the storage driver (--storage-opt)",
    "Annotations": "annotations for the runtime (--annotation)",
}


def parse_create(body: Mapping[str, Any], machine: Machine) -> CreateRequest:
    """``body`` as a recipe for a container on ``machine``.

    Raises `HttpError` 400 for what is malformed or a network that there isn't, and 501 for what Docker has and
    this release hasn't. Values that have no words of moby's are checked when the recipe is carried out
    (``events.settingchecks``), with what only the image or the host can tell.
    """
    host = object_of(body, "HostConfig")
    refuse_unknown(host, _HOST | _CLIENT_SIDE, "HostConfig")
    refuse_unknown(body, _CONFIG, "Config")
    mode, warnings = _network(host, object_of(body, "NetworkingConfig"))
    image = text(body, "Image")
    if not image:
        raise refuse("no image was given: Image must name one")
    resources, about_limits = parse_resources(host, machine)
    mounts, volumes_from = parse_mounts(body)
    settings = ContainerSettings(
        resources=resources,
        mounts=mounts,
        **parse_security(host),
        **parse_modes(host, cgroup_v2=machine.cgroup_v2),
        **parse_settings(body, host),
        health=parse_health(body),
    )
    recipe = Recipe(
        image=image,
        command=words(body, "Cmd", plain=True) or (),
        entrypoint=words(body, "Entrypoint", plain=True),
        env=words(body, "Env") or (),
        working_dir=text(body, "WorkingDir") or None,
        user=text(body, "User") or None,
        hostname=_hostname(body, settings),
        labels=mapping(body, "Labels"),
        network=mode,
        open_stdin=flag(body, "OpenStdin"),
        stdin_once=flag(body, "StdinOnce"),
        auto_remove=flag(host, "AutoRemove"),
        stop_signal=text(body, "StopSignal") or None,
        stop_timeout=_stop_timeout(body),
        read_only=flag(host, "ReadonlyRootfs"),
        settings=settings,
        volumes_from=volumes_from,
    )
    size = console_size(host) if settings.tty else None
    return CreateRequest(recipe, (*warnings, *about_limits), text(host, "Runtime"), size)


def refuse_unknown(source: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    """Raise `HttpError` 501 for a field of ``source`` outside of ``known`` whose value says something."""
    for name, value in source.items():
        if name in known or value is None or not value or value in _SAYS_NOTHING.get(name, ()):
            continue
        raise not_supported(_FLAGS.get(name, f"{where}.{name[:80]}"))


def _hostname(body: Mapping[str, Any], settings: ContainerSettings) -> str | None:
    name = text(body, "Hostname")
    if name and settings.uts_mode == "host":
        raise refuse("conflicting options: hostname and the UTS mode")
    if len(name.encode("utf-8", "surrogatepass")) > 64:
        raise refuse(f'hostname "{name[:80]}" is too long (maximum 64 bytes)')
    return name or None


def _stop_timeout(body: Mapping[str, Any]) -> int | None:
    if body.get("StopTimeout") is None:
        return None
    return integer(body, "StopTimeout", bits=32, what="a whole number of seconds")


def console_size(source: Mapping[str, Any]) -> tuple[int, int] | None:
    """``ConsoleSize``: rows and columns; None if it isn't there, or 0 by 0. Raises `HttpError` 400."""
    value = source.get("ConsoleSize")
    if value is not None and not _is_size(value):
        raise refuse("invalid ConsoleSize: it must be two numbers from 0 to 65535, rows and columns")
    return (value[0], value[1]) if value and any(value) else None


def _is_size(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(each) is int and 0 <= each < 1 << 16 for each in value)
    )


def _network(host: Mapping[str, Any], networking: Mapping[str, Any]) -> tuple[NetworkMode, list[str]]:
    mode = text(host, "NetworkMode")
    endpoints = object_of(networking, "EndpointsConfig")
    for name in endpoints:
        if name not in ("default", mode) or any(object_of(endpoints, name).values()):
            raise not_supported("joining a network with settings of its own")
    if mode in ("", "default"):
        return "host", [DEFAULT_NETWORK_WARNING]
    if mode == "host":
        return "host", []
    if mode == "none":
        return "none", []
    raise refuse(f"network {mode[:80]!r} does not exist: this release has 'host' and 'none'")
