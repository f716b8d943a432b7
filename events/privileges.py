"""Capabilities and device rules by Docker's words, as the kernel counts them (capabilities(7); devices.rst)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import attrs

from lading.events.errors import Invalid

__all__ = [
    "CAPABILITIES",
    "DEFAULT_CAPABILITIES",
    "DeviceRule",
    "capabilities_of",
    "check_permissions",
    "device_rule",
]

_ALL: Final = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
_DEFAULT: Final = """
AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID
SYS_CHROOT
"""

CAPABILITIES: Final = tuple(f"CAP_{word}" for word in _ALL.split())
"""Every capability's full name; its place is its number."""

DEFAULT_CAPABILITIES: Final = frozenset(f"CAP_{word}" for word in _DEFAULT.split())
"""Docker's fourteen."""

_KNOWN: Final = frozenset(CAPABILITIES)
_RULE: Final = re.compile(r"([acb]) (\d{1,10}|\*):(\d{1,10}|\*) ([rwm]{1,3})", re.ASCII)
_LARGEST_NUMBER: Final = 2**32 - 1


def capabilities_of(add: Iterable[str], drop: Iterable[str], *, privileged: bool = False) -> frozenset[str]:
    """The bounding set of a container that asked for these, in full names (``CAP_CHOWN``).

    As moby's ``caps.TweakCapabilities``: names with or without ``CAP_``, in any case; ``ALL`` in ``add`` gives
    every one but those in ``drop``; ``ALL`` in ``drop`` leaves those in ``add``. Privileged: all, whatever else.
    Raises ``Invalid`` for an unknown one.
    """
    added, dropped = _names(add, "capability to add"), _names(drop, "capability to drop")
    if privileged:
        return _KNOWN
    if "ALL" in added:
        return _KNOWN - dropped
    if "ALL" in dropped:
        return added
    return (DEFAULT_CAPABILITIES - dropped) | added


def _names(words: Iterable[str], field: str) -> frozenset[str]:
    found = set()
    for word in words:
        name = word.upper() if word.isascii() else ""
        if name != "ALL":
            name = name if name.startswith("CAP_") else f"CAP_{name}"
            if name not in _KNOWN:
                raise Invalid(field, word, "unknown capability; see capabilities(7), or ALL")
        found.add(name)
    return frozenset(found)


@attrs.frozen
class DeviceRule:
    """What may be done with the devices of ``type`` (``a``: every device) and numbers (-1: any); ``rwm``."""

    type: str
    major: int
    minor: int
    access: str


def device_rule(text: str) -> DeviceRule:
    """The rule that ``text`` is, in the kernel's notation: ``c 10:200 rwm``, ``b *:* r``, ``a *:* rwm``.

    Raises ``Invalid``. For the kernel, ``a`` is every device, whatever numbers and letters come after it: only
    that is taken which says what it does.
    """
    field = "device cgroup rule"
    match = _RULE.fullmatch(text)
    if match is None:
        raise Invalid(field, text, "expected TYPE MAJOR:MINOR ACCESS, such as 'c 10:200 rwm'")
    major, minor = (-1 if word == "*" else int(word) for word in match.group(2, 3))
    if max(major, minor) > _LARGEST_NUMBER:
        raise Invalid(field, text, f"a device number is at most {_LARGEST_NUMBER}")
    rule = DeviceRule(match[1], major, minor, check_permissions(match[4], field))
    if rule.type == "a" and (rule.major, rule.minor, sorted(rule.access)) != (-1, -1, sorted("rwm")):
        raise Invalid(field, text, "type 'a' is every device with every access: write 'a *:* rwm', or use b or c")
    return rule


def check_permissions(letters: str, field: str) -> str:
    """``letters``, which are some of ``rwm``, each once. Raises ``Invalid`` for anything else."""
    if not letters or not set(letters) <= set("rwm") or len(set(letters)) != len(letters):
        raise Invalid(field, letters, "permissions are r (read), w (write), m (make), each at most once")
    return letters
