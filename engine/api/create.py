"""What ``POST /containers/create`` asks for, as a recipe; and the refusal of what this release can't give.

Nothing that is asked for is silently left out. A client sends some seventy fields, most of them empty: a field
that is not understood is accepted while its value says nothing (null, false, zero, empty) or says what is the
case anyway, and refused otherwise, whatever its name. So a field that Docker adds tomorrow, or one in the wrong
case, can't be mistaken for one that was carried out.

Source: Docker Engine API v1.47, ContainerCreate; the values that stand for nothing are those that the docker
client sends when no flag is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from lading.engine.api.mountspecs import parse_mounts
from lading.engine.api.request import not_supported
from lading.engine.http.message import HttpError
from lading.engine.recipe import Recipe
from lading.events.settings import ContainerSettings
from lading.events.spec import NetworkMode

__all__ = ["CreateRequest", "console_size", "parse_create"]

DEFAULT_NETWORK_WARNING: Final = (
    "There is no bridge network in this release: the default network is the host's. "
    'Choose "host" or "none" to hear no more of it.'
)


@attrs.frozen
class CreateRequest:
    """A recipe, and what its author should be told. ``size``: rows and columns of the author's terminal."""

    recipe: Recipe
    warnings: tuple[str, ...]
    size: tuple[int, int] | None = None


_CONFIG: Final = frozenset(
    {
        *("Image", "Cmd", "Entrypoint", "Env", "WorkingDir", "User", "Hostname", "Labels", "Tty", "OpenStdin"),
        *("StdinOnce", "AttachStdin", "AttachStdout", "AttachStderr", "StopSignal", "StopTimeout"),
        *("HostConfig", "NetworkingConfig", "ArgsEscaped", "Volumes"),
    }
)
_HOST: Final = frozenset(
    {
        *("NetworkMode", "AutoRemove", "ReadonlyRootfs", "RestartPolicy", "LogConfig", "CgroupnsMode"),
        *("Binds", "Mounts", "Tmpfs", "VolumesFrom", "VolumeDriver"),
    }
)

_SAYS_NOTHING: Final[Mapping[str, tuple[object, ...]]] = {
    "MemorySwappiness": (-1,),
    "MemorySwap": (-1,),
    "PidsLimit": (-1,),
    "IpcMode": ("private",),
    "UsernsMode": ("host",),
    "Isolation": ("default",),
    "ShmSize": (64 << 20,),
}
"""Values of HostConfig besides the empty ones that ask for what a container gets anyway."""

_CLIENT_SIDE: Final = frozenset({"ContainerIDFile", "ConsoleSize"})
"""Of HostConfig: a file that the client writes, and the size of a terminal that there isn't."""

_NULL_ONLY: Final = frozenset({"MaskedPaths", "ReadonlyPaths"})
"""Of HostConfig: an empty list asks for no protection, null for the usual one."""

_FLAGS: Final[Mapping[str, str]] = {
    "PortBindings": "publishing ports (--publish)",
    "PublishAllPorts": "publishing ports (--publish-all)",
    "ExposedPorts": "exposing ports (--expose)",
    "RestartPolicy": "restarting (--restart)",
    "Privileged": "a privileged container (--privileged)",
    "CapAdd": "adding capabilities (--cap-add)",
    "CapDrop": "dropping capabilities (--cap-drop)",
    "Memory": "limiting memory (--memory)",
    "NanoCpus": "limiting CPUs (--cpus)",
    "PidsLimit": "limiting processes (--pids-limit)",
    "Ulimits": "setting ulimits (--ulimit)",
    "Devices": "adding devices (--device)",
    "DeviceRequests": "adding devices (--gpus)",
    "SecurityOpt": "setting security options (--security-opt)",
    "Dns": "setting DNS servers (--dns)",
    "ExtraHosts": "adding hosts (--add-host)",
    "Init": "an init process (--init)",
    "Runtime": "choosing a runtime (--runtime)",
    "Healthcheck": "checking health (--health-cmd)",
    "LogConfig": "choosing a logging driver (--log-driver)",
}


def parse_create(body: Mapping[str, Any], *, cgroup_v2: bool) -> CreateRequest:
    """``body`` as a recipe.

    Raises `HttpError` 400 for what is malformed or a network that there isn't, and 501 for what Docker has and
    this release hasn't. Values are checked when the recipe is carried out.
    """
    host = _object(body, "HostConfig")
    cgroup_namespace = "private" if cgroup_v2 else "host"
    if host.get("CgroupnsMode") not in (None, "", cgroup_namespace):
        raise not_supported(f"cgroup namespace mode {host['CgroupnsMode']!r} (--cgroupns)")
    for name, value in host.items():
        if name not in _HOST and name not in _CLIENT_SIDE:
            _refuse_if_asked("HostConfig", name, value)
    _check_restart(_object(host, "RestartPolicy"))
    _check_logging(_object(host, "LogConfig"))
    for name, value in body.items():
        if name not in _CONFIG and not (name == "Healthcheck" and _no_health(value)):
            _refuse_if_asked("Config", name, value)
    mode, warnings = _network(host, _object(body, "NetworkingConfig"))
    image = _text(body, "Image")
    if not image:
        raise HttpError(400, "no image was given: Image must name one")
    mounts, volumes_from = parse_mounts(body)
    recipe = Recipe(
        image=image,
        command=_words(body, "Cmd") or (),
        entrypoint=_words(body, "Entrypoint"),
        env=_words(body, "Env", plain=False) or (),
        working_dir=_text(body, "WorkingDir") or None,
        user=_text(body, "User") or None,
        hostname=_text(body, "Hostname") or None,
        labels=_labels(body),
        network=mode,
        open_stdin=_flag(body, "OpenStdin"),
        stdin_once=_flag(body, "StdinOnce"),
        auto_remove=_flag(host, "AutoRemove"),
        stop_signal=_text(body, "StopSignal") or None,
        stop_timeout=_number(body, "StopTimeout"),
        read_only=_flag(host, "ReadonlyRootfs"),
        settings=ContainerSettings(tty=_flag(body, "Tty"), mounts=mounts),
        volumes_from=volumes_from,
    )
    size = console_size(host) if recipe.settings.tty else None
    return CreateRequest(recipe, tuple(warnings), size)


def console_size(source: Mapping[str, Any]) -> tuple[int, int] | None:
    """``ConsoleSize``: rows and columns; None if it isn't there, or 0 by 0. Raises `HttpError` 400."""
    value = _get(source, "ConsoleSize", "two numbers from 0 to 65535, rows and columns", _is_size)
    return (value[0], value[1]) if value and any(value) else None


def _is_size(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(each) is int and 0 <= each < 1 << 16 for each in value)
    )


def _refuse_if_asked(where: str, name: str, value: object) -> None:
    if value is None or (name not in _NULL_ONLY and (not value or value in _SAYS_NOTHING.get(name, ()))):
        return
    raise not_supported(_FLAGS.get(name, f"{where}.{name[:80]}"))


def _no_health(value: object) -> bool:
    return isinstance(value, dict) and value.get("Test") == ["NONE"]


def _check_restart(policy: Mapping[str, Any]) -> None:
    if policy.get("Name") not in (None, "", "no") or policy.get("MaximumRetryCount"):
        raise not_supported(_FLAGS["RestartPolicy"])


def _check_logging(config: Mapping[str, Any]) -> None:
    if config.get("Type") not in (None, "", "json-file") or config.get("Config"):
        raise not_supported(_FLAGS["LogConfig"])


def _network(host: Mapping[str, Any], networking: Mapping[str, Any]) -> tuple[NetworkMode, list[str]]:
    mode = _text(host, "NetworkMode")
    endpoints = _object(networking, "EndpointsConfig")
    for name in endpoints:
        if name not in ("default", mode) or any(_object(endpoints, name).values()):
            raise not_supported("joining a network with settings of its own")
    if mode in ("", "default"):
        return "host", [DEFAULT_NETWORK_WARNING]
    if mode == "host":
        return "host", []
    if mode == "none":
        return "none", []
    raise HttpError(400, f"network {mode[:80]!r} does not exist: this release has 'host' and 'none'")


# -- fields -------------------------------------------------------------------------------------------------


def _get(source: Mapping[str, Any], name: str, what: str, fits: Callable[[Any], bool]) -> Any:
    value = source.get(name)
    if value is not None and not fits(value):
        raise HttpError(400, f"invalid {name}: it must be {what}")
    return value


def _object(source: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value: Mapping[str, Any] | None = _get(source, name, "an object", lambda value: isinstance(value, dict))
    return value or {}


def _text(source: Mapping[str, Any], name: str) -> str:
    return _get(source, name, "a string", lambda value: isinstance(value, str)) or ""


def _flag(source: Mapping[str, Any], name: str) -> bool:
    return _get(source, name, "true or false", lambda value: isinstance(value, bool)) or False


def _number(source: Mapping[str, Any], name: str) -> int | None:
    number: int | None = _get(
        source, name, "a whole number of seconds", lambda value: type(value) is int and abs(value) < 1 << 31
    )
    return number


def _words(source: Mapping[str, Any], name: str, *, plain: bool = True) -> tuple[str, ...] | None:
    """A list of strings; with ``plain``, one string is a list of one, as Docker reads it."""
    value = source.get(name)
    if plain and isinstance(value, str):
        return (value,)
    _get(source, name, "a list of strings", _is_words)
    return None if value is None else tuple(value)


def _labels(source: Mapping[str, Any]) -> Mapping[str, str]:
    value = _object(source, "Labels")
    if not _is_words(list(value.values())):
        raise HttpError(400, "invalid Labels: their values must be strings")
    return value


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)
