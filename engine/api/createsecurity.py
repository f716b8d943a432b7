"""What a request says about privileges, devices and namespaces: parsed by Docker's grammar, with moby's words.

Nothing here is passed over: an option that isn't understood is refused, since it may have been meant to confine.
What only matters on hosts with SELinux or AppArmor is accepted where it asks for what is the case without them.

Source: Docker Engine API v1.47, HostConfig; moby ``daemon/daemon_unix.go`` (parseSecurityOpt),
``daemon/pkg/oci/caps`` and ``api/types/container/hostconfig.go`` (v27).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from lading.engine.api.fields import flag, integer, mapping, objects, only, refuse, text, words
from lading.engine.api.request import not_supported
from lading.engine.http.message import HttpError
from lading.events.privileges import CAPABILITIES
from lading.events.settingchecks import ULIMITS
from lading.events.settings import Device, Ulimit

__all__ = [
    "MODE_FIELDS",
    "SECURITY_FIELDS",
    "parse_modes",
    "parse_security",
]

SECURITY_FIELDS: Final = frozenset(
    {
        *("Privileged", "CapAdd", "CapDrop", "SecurityOpt", "MaskedPaths", "ReadonlyPaths", "Devices"),
        *("DeviceCgroupRules", "GroupAdd", "Ulimits", "Sysctls"),
    }
)
MODE_FIELDS: Final = frozenset({"PidMode", "IpcMode", "UTSMode", "CgroupnsMode", "UsernsMode"})
"""The fields that are read by ``parse_security`` and ``parse_modes``."""

_BOOLEANS: Final = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


def parse_security(host: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of ``ContainerSettings`` that ``host``, a ``HostConfig``, asks for. Raises `HttpError` 400, 501.

    Values that have no words of moby's are checked with all settings (``events.settingchecks``).
    """
    masked, readonly = words(host, "MaskedPaths"), words(host, "ReadonlyPaths")
    options = _options(words(host, "SecurityOpt") or ())
    if options.pop("systempaths", False):
        masked, readonly = (), ()
    return {
        "privileged": flag(host, "Privileged"),
        "cap_add": _capabilities(host, "CapAdd"),
        "cap_drop": _capabilities(host, "CapDrop"),
        **options,
        "masked": masked,
        "readonly": readonly,
        "devices": tuple(_device(each) for each in objects(host, "Devices")),
        "device_rules": words(host, "DeviceCgroupRules") or (),
        "groups": words(host, "GroupAdd") or (),
        "ulimits": _ulimits(host),
        "sysctls": mapping(host, "Sysctls"),
    }


def _capabilities(host: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """As they were said; a name that there isn't is refused."""
    found = words(host, name) or ()
    for word in found:
        bare = word.upper().removeprefix("CAP_")
        if word.upper() != "ALL" and f"CAP_{bare}" not in CAPABILITIES:
            raise refuse(f'invalid {name}: unknown capability: "CAP_{bare[:80]}"')
    return found


def _options(said: tuple[str, ...]) -> dict[str, Any]:
    """``SecurityOpt``: ``no-new-privileges[=BOOL]``, ``seccomp=``, ``systempaths=unconfined``, and what is nothing
    here: ``label=``, ``apparmor=unconfined``."""
    found: dict[str, Any] = {}
    for option in said:
        key, separator, value = option.partition("=") if "=" in option else option.partition(":")
        match key:
            case "no-new-privileges" if not separator:
                found["no_new_privileges"] = True
            case "no-new-privileges" if value in _BOOLEANS:
                found["no_new_privileges"] = _BOOLEANS[value]
            case "writable-cgroups" if _BOOLEANS.get(value) is False:
                pass
            case "writable-cgroups" if not separator or value in _BOOLEANS:
                raise not_supported("a writable cgroup file system (--security-opt writable-cgroups)")
            case "seccomp" if value:
                found["seccomp"] = _seccomp(value)
            case "systempaths" if value == "unconfined":
                found["systempaths"] = True
            case "label" if value:
                pass  # SELinux labels: nothing where it is off, as in Docker
            case "disable" if not separator:
                pass
            case "apparmor" if value == "unconfined":
                pass
            case "apparmor" if value:
                raise not_supported(f"the AppArmor profile {value[:80]!r} (--security-opt apparmor)")
            case _:
                raise refuse(f"invalid --security-opt: {json.dumps(option[:120])}")
    return found


def _seccomp(value: str) -> str:
    """Empty for the built-in profile. Of another one only that it is an object is seen here."""
    if value in ("unconfined", "builtin"):
        return "" if value == "builtin" else value
    try:
        profile = json.loads(value)
    except (ValueError, RecursionError):
        profile = None
    if not isinstance(profile, dict) or len(value) > 1 << 20:
        raise refuse("Decoding seccomp profile failed: it is no JSON object of at most 1 MiB")
    return value


def _device(asked: Mapping[str, Any]) -> Device:
    only(asked, "Devices", frozenset(("PathOnHost", "PathInContainer", "CgroupPermissions")))
    path = text(asked, "PathOnHost")
    target = text(asked, "PathInContainer") or path
    return Device(path, target, text(asked, "CgroupPermissions") or "rwm")


def _ulimits(host: Mapping[str, Any]) -> tuple[Ulimit, ...]:
    """The last of those with the same name."""
    found: dict[str, Ulimit] = {}
    for each in objects(host, "Ulimits"):
        only(each, "Ulimits", frozenset(("Name", "Soft", "Hard")))
        name, soft, hard = text(each, "Name"), integer(each, "Soft"), integer(each, "Hard")
        if name not in ULIMITS:
            raise refuse(f"invalid ulimit type: {name[:80]}")
        if hard != -1 and (soft == -1 or soft > hard):
            raise refuse(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
        found[name] = Ulimit(name, soft, hard)
    return tuple(found.values())


# -- namespaces ---------------------------------------------------------------------------------------------


def parse_modes(host: Mapping[str, Any], *, cgroup_v2: bool) -> dict[str, Any]:
    """Fields of ``ContainerSettings`` that choose namespaces. What a container gets anyway is empty.

    Raises `HttpError` 400 for a mode that there isn't, 501 for another container's namespace.
    """
    usual = "private" if cgroup_v2 else "host"
    if text(host, "UsernsMode") not in ("", "host"):
        raise refuse(f"invalid user namespace mode: {text(host, 'UsernsMode')[:80]}")
    cgroup = _mode(host, "CgroupnsMode", "cgroup namespace", ("private", "host"))
    return {
        "pid_mode": _mode(host, "PidMode", "PID", ("host",)),
        "ipc_mode": _mode(host, "IpcMode", "IPC", ("private", "host", "shareable", "none")).replace("private", ""),
        "uts_mode": _mode(host, "UTSMode", "UTS", ("host",)),
        "cgroupns_mode": "" if cgroup == usual else cgroup,
    }


def _mode(host: Mapping[str, Any], name: str, what: str, known: tuple[str, ...]) -> str:
    mode = text(host, name)
    if mode.startswith("container:") and name in ("PidMode", "IpcMode"):
        raise _joining(name, mode)
    if mode and mode not in known:
        raise refuse(f"invalid {what} mode: {mode[:80]}")
    return mode


def _joining(name: str, mode: str) -> HttpError:
    flags = {"PidMode": "--pid", "IpcMode": "--ipc"}
    return not_supported(f"joining the namespace of another container ({flags[name]} {mode[:80]})")
