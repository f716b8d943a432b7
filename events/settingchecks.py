"""Settings that can't be right are refused when a container is created, and not when it is started.

``check_settings`` is pure. What only this machine knows is asked in ``engine/containers/hostchecks.py``,
and what only the image knows (the names of groups) at each start. Mounts are checked where they are parsed.

Values that end up in files, in /proc or in the runtime's configuration are matched whole against what they may
be: a line feed in a host's name would be another line of /etc/hosts, a slash in a sysctl's name another file.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from typing import Final

from lading.events.errors import Invalid
from lading.events.limits import check_resources
from lading.events.privileges import capabilities_of, check_permissions, device_rule
from lading.events.seccompprofile import parse_profile
from lading.events.settings import ContainerSettings, Ulimit
from lading.events.spec import NetworkMode

__all__ = ["ULIMITS", "UNCONFINED", "check_settings", "extra_host"]

UNCONFINED: Final = "unconfined"
"""``seccomp`` that is no profile: none at all."""

_ULIMITS: Final = "core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack"
ULIMITS: Final = frozenset(_ULIMITS.split())
"""Docker's names of resource limits; the kernel's are RLIMIT_ and the same in capitals (getrlimit(2))."""

_MOST: Final = 2**63 - 1
_MOST_ITEMS: Final = 1024
_MODES: Final = {
    "pid": ("", "private", "host"),
    "ipc": ("", "private", "shareable", "none", "host"),
    "uts": ("", "private", "host"),
    "cgroupns": ("", "private", "host"),
}
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,253}[A-Za-z0-9_])?", re.ASCII)
_SEARCH: Final = re.compile(r"\.|[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?\.?", re.ASCII)
_OPTION: Final = re.compile(r"[a-z0-9-]{1,64}(:[0-9]{1,6})?", re.ASCII)
_DOMAIN: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_GROUP: Final = re.compile(r"[0-9]{1,10}|[A-Za-z0-9_][A-Za-z0-9_.@-]{0,255}\$?", re.ASCII)
_SYSCTL: Final = re.compile(r"[a-z0-9_]+(\.[A-Za-z0-9_-]+)+", re.ASCII)
_SYSCTL_VALUE: Final = re.compile(r"[A-Za-z0-9_.,: \t-]{1,1024}", re.ASCII)
_IPC: Final = "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced"
_IPC_SYSCTLS: Final = frozenset(f"kernel.{word}" for word in _IPC.split())


def check_settings(settings: ContainerSettings, network: NetworkMode) -> None:
    """Raise ``Invalid`` for settings that no container on ``network`` could have, whatever the machine."""
    check_resources(settings.resources)
    capabilities_of(settings.cap_add, settings.cap_drop)
    if settings.seccomp not in ("", UNCONFINED):
        parse_profile(settings.seccomp)
    _check_modes(settings)
    _check_sysctls(settings, network)
    _check_ulimits(settings.ulimits)
    _check_devices(settings)
    _check_names(settings)
    if type(settings.shm_size) is not int or not 0 <= settings.shm_size <= _MOST:
        raise Invalid("shm size", settings.shm_size, "bytes, from 0 (the usual size) to 2^63 - 1")
    if type(settings.oom_score) is not int or not -1000 <= settings.oom_score <= 1000:
        raise Invalid("oom score", settings.oom_score, "the range is from -1000 to 1000")
    for field, paths in (("masked path", settings.masked), ("read-only path", settings.readonly)):
        _few(field, paths or ())
        for path in paths or ():
            _absolute(field, path)


def _few(field: str, items: object) -> None:
    if isinstance(items, tuple | dict) and len(items) > _MOST_ITEMS:
        raise Invalid(field, f"{len(items)} of them", f"at most {_MOST_ITEMS}")


def _absolute(field: str, path: str) -> None:
    if not path.startswith("/") or "\0" in path or len(path) > 4095 or posixpath.normpath(path) != path:
        raise Invalid(field, path, "an absolute path, without . and .. and a slash at its end")


def _check_modes(settings: ContainerSettings) -> None:
    for name, known in _MODES.items():
        mode = getattr(settings, f"{name}_mode")
        if mode not in known:
            why = "another container's namespace can't be joined; " if mode.startswith("container:") else ""
            raise Invalid(f"{name} mode", mode, f"{why}it is one of {', '.join(word for word in known if word)}")
    if settings.domainname:
        if settings.uts_mode == "host":
            raise Invalid(
                "domain name", settings.domainname, "with the host's UTS namespace it would be the host's"
            )
        if _DOMAIN.fullmatch(settings.domainname) is None:
            raise Invalid("domain name", settings.domainname, "letters, digits, dots and dashes, at most 64")


def _check_sysctls(settings: ContainerSettings, network: NetworkMode) -> None:
    """Those of namespaces that are the container's own, as runc and Docker's client have them."""
    _few("sysctls", dict(settings.sysctls))
    for name, value in settings.sysctls.items():
        if len(name) > 255 or _SYSCTL.fullmatch(name) is None:
            raise Invalid("sysctl", name, "expected a name such as net.core.somaxconn")
        if _SYSCTL_VALUE.fullmatch(value) is None:
            raise Invalid(f"value of sysctl {name}", value, "words of letters, digits and _ . , : -")
        if name.startswith("net."):
            if network == "host":
                raise Invalid("sysctl", name, "on the host's network it would be the host's")
        elif name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
            if settings.ipc_mode == "host":
                raise Invalid("sysctl", name, "with the host's IPC namespace it would be the host's")
        else:
            raise Invalid(
                "sysctl", name, "it isn't of a namespace: net.*, fs.mqueue.*, kernel.msg*, shm*, sem are"
            )


def _check_ulimits(ulimits: tuple[Ulimit, ...]) -> None:
    seen = set()
    for limit in ulimits:
        if limit.name not in ULIMITS:
            raise Invalid("ulimit", limit.name, f"its type is one of {', '.join(sorted(ULIMITS))}")
        if limit.name in seen:
            raise Invalid("ulimit", limit.name, "it is given twice")
        seen.add(limit.name)
        for value in (limit.soft, limit.hard):
            if type(value) is not int or not -1 <= value <= _MOST:
                raise Invalid(f"ulimit {limit.name}", value, "a number, or -1 for no limit")
        if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
            raise Invalid(
                f"ulimit {limit.name}", limit.soft, f"the soft limit is above the hard one, {limit.hard}"
            )


def _check_devices(settings: ContainerSettings) -> None:
    _few("devices", settings.devices)
    _few("device cgroup rules", settings.device_rules)
    for device in settings.devices:
        _absolute("device", device.path)
        _absolute("device's path in the container", device.target)
        if device.target == "/":
            raise Invalid("device's path in the container", device.target, "it is the root directory")
        check_permissions(device.permissions, f"permissions of device {device.path}")
    for rule in settings.device_rules:
        device_rule(rule)


def _check_names(settings: ContainerSettings) -> None:
    for field in ("extra_hosts", "dns", "dns_search", "dns_options", "groups"):
        _few(field.replace("_", " "), getattr(settings, field))
    for entry in settings.extra_hosts:
        extra_host(entry)
    for address in settings.dns:
        _address("dns server", address, address)
    for domain in settings.dns_search:
        if _SEARCH.fullmatch(domain) is None:
            raise Invalid("dns search domain", domain, "expected a domain's name, or . for none")
    for option in settings.dns_options:
        if _OPTION.fullmatch(option) is None:
            raise Invalid("dns option", option, "expected a word as in resolv.conf(5), such as ndots:2")
    for group in settings.groups:
        if _GROUP.fullmatch(group) is None:
            raise Invalid("group", group, "expected a group's name in ASCII, or its number")


def extra_host(entry: str) -> tuple[str, str]:
    """The name and the address of ``NAME:IP`` (an IPv6 address may be in brackets). Raises ``Invalid``."""
    name, colon, address = entry.partition(":")
    if not colon or _HOST.fullmatch(name) is None:
        raise Invalid("extra host", entry, "expected NAME:IP")
    if address == "host-gateway":
        raise Invalid("extra host", entry, "there is no gateway to the host: give the host's address")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    return name, _address("extra host", entry, address)


def _address(field: str, value: str, address: str) -> str:
    try:
        if "%" not in address:  # what follows it names an interface, and may be anything
            return str(ipaddress.ip_address(address))
    except ValueError:
        pass
    raise Invalid(field, value, "expected an IP address")
