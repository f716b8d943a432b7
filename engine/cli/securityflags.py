"""The options of `run` and `create` for privileges, devices, namespaces and names, in the API's JSON.

The words are checked by the engine; here is only what it can't see (a seccomp profile's file), and the grammar of
options that the API takes apart.

Sources: docker/cli ``cli/command/container/opts.go``, ``opts/hosts.go``, ``opts/ulimit.go`` (v27).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

__all__ = ["parse_device", "parse_extra_host", "parse_ulimit", "security_options", "security_request"]

F = TypeVar("F", bound=Callable[..., Any])

_LISTS: Final = {
    "cap_add": "CapAdd",
    "cap_drop": "CapDrop",
    "device": "Devices",
    "device_cgroup_rule": "DeviceCgroupRules",
    "group_add": "GroupAdd",
    "ulimit": "Ulimits",
    "add_host": "ExtraHosts",
    "dns": "Dns",
    "dns_search": "DnsSearch",
    "dns_option": "DnsOptions",
}
_WORDS: Final = {"pid": "PidMode", "ipc": "IpcMode", "uts": "UTSMode", "cgroupns": "CgroupnsMode"}
_LIMIT: Final = re.compile(r"-?[0-9]{1,19}")
_PROFILE_LIMIT: Final = 1 << 20


def parse_device(text: str) -> dict[str, str]:
    """``PATH[:PATH IN THE CONTAINER][:rwm]`` as a member of ``Devices``; ``ValueError`` for what is none."""
    path, *rest = text.split(":")
    target = permissions = ""
    if len(rest) == 1 and _is_mode(rest[0]):
        permissions = rest[0]
    elif rest:
        target, *modes = rest
        permissions = modes[0] if modes else ""
        if len(modes) > 1 or (modes and not _is_mode(permissions)):
            raise ValueError(f"bad mode or format in {text!r}: give PATH[:PATH][:rwm]")
    if not path.startswith("/") or (target and not target.startswith("/")):
        raise ValueError(f"{text!r} is not an absolute path")
    return {"PathOnHost": path, "PathInContainer": target or path, "CgroupPermissions": permissions or "rwm"}


def _is_mode(text: str) -> bool:
    return bool(text) and not set(text) - set("rwm") and len(set(text)) == len(text)


def parse_ulimit(text: str) -> dict[str, Any]:
    """``NAME=SOFT[:HARD]`` as a member of ``Ulimits``; -1: unlimited. ``ValueError`` for what is none."""
    name, equals, limits = text.partition("=")
    soft, colon, hard = limits.partition(":")
    if not equals or not name:
        raise ValueError(f"invalid ulimit argument: {text}")
    if _LIMIT.fullmatch(soft) is None or (colon and _LIMIT.fullmatch(hard) is None):
        raise ValueError(f"invalid ulimit argument: {text}: a limit is a number, or -1 for none")
    return {"Name": name, "Soft": int(soft), "Hard": int(hard) if colon else int(soft)}


def parse_extra_host(text: str) -> str:
    """``NAME=IP`` or ``NAME:IP``, an IPv6 address in brackets or not, as the API takes it; ``ValueError``."""
    name, separator, address = text.partition("=") if "=" in text else text.partition(":")
    if not separator or not name or ":" in name:
        raise ValueError(f"bad format for add-host: {text!r}")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    return f"{name}:{address}"


def _security_option(text: str) -> str:
    """With the content of a seccomp profile in the place of its file's name."""
    key, _, value = text.partition("=") if "=" in text else text.partition(":")
    if key != "seccomp" or value in ("builtin", "unconfined"):
        return text
    try:
        with open(value, "rb") as file:
            profile = json.loads(file.read(_PROFILE_LIMIT))
    except OSError as error:
        raise ValueError(f"opening seccomp profile ({value}) failed: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"the seccomp profile {value} is no JSON") from None
    return f"seccomp={json.dumps(profile, separators=(',', ':'))}"


def _sysctl(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"sysctl {text!r} is not NAME=VALUE")
    return name, value


def _read_by(parse: Callable[[str], Any]) -> Callable[..., tuple[Any, ...]]:
    def callback(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> tuple[Any, ...]:
        try:
            return tuple(parse(word) for word in words)
        except ValueError as error:
            raise click.BadParameter(f"{error}.") from None

    return callback


def _many(name: str, metavar: str, what: str, parse: Callable[[str], Any] | None = None) -> Callable[[F], F]:
    return click.option(
        name, multiple=True, metavar=metavar, help=what, callback=_read_by(parse) if parse is not None else None
    )


_OPTIONS: Final = (
    click.option("--privileged", is_flag=True, help="Let it do on this machine whatever root can."),
    _many("--cap-add", "CAPABILITY", "Give it a capability, or ALL."),
    _many("--cap-drop", "CAPABILITY", "Take a capability from it, or ALL."),
    _many("--security-opt", "OPTION", "no-new-privileges, seccomp=FILE or unconfined, ...", _security_option),
    _many("--device", "PATH[:PATH][:rwm]", "Let it have a device of the host.", parse_device),
    _many("--device-cgroup-rule", "RULE", "Let it use devices: 'c 1:3 rwm'."),
    _many("--group-add", "GROUP", "Another group that it is in."),
    _many("--ulimit", "NAME=SOFT[:HARD]", "Limit a resource of its processes.", parse_ulimit),
    _many("--sysctl", "NAME=VALUE", "Set a kernel parameter of its own namespaces.", _sysctl),
    _many("--add-host", "NAME:IP", "Another line in its /etc/hosts.", parse_extra_host),
    _many("--dns", "IP", "A DNS server."),
    _many("--dns-search", "DOMAIN", "A domain to search names in; . for none."),
    _many("--dns-option", "OPTION", "An option of the resolver: ndots:2."),
    click.option("--domainname", metavar="NAME", help="Its NIS domain name."),
    click.option("--pid", metavar="MODE", help="host: see the processes of this machine."),
    click.option("--ipc", metavar="MODE", help="host, private, shareable or none.  [private]"),
    click.option("--uts", metavar="MODE", help="host: share this machine's names."),
    click.option("--cgroupns", metavar="MODE", help="host or private."),
)  # fmt: skip


def security_options(command: F) -> F:
    """Add the options. Their values make ``security_request``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def security_request(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What belongs into the body of ``POST /containers/create``, and what into its ``HostConfig``.

    ``systempaths=unconfined`` is said by empty lists, as docker's client does it.
    """
    body = {"Domainname": options["domainname"]} if options.get("domainname") else {}
    host: dict[str, Any] = {field: list(options[name]) for name, field in _LISTS.items() if options.get(name)}
    host |= {field: options[name] for name, field in _WORDS.items() if options.get(name)}
    if options.get("privileged"):
        host["Privileged"] = True
    if options.get("sysctl"):
        host["Sysctls"] = dict(options["sysctl"])
    said = list(options.get("security_opt") or ())
    if "systempaths=unconfined" in said:
        host |= {"MaskedPaths": [], "ReadonlyPaths": []}
    if left := [option for option in said if option != "systempaths=unconfined"]:
        host["SecurityOpt"] = left
    return body, host
