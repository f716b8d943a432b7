"""``linux`` of the runtime's configuration: namespaces, limits, devices, paths, filter (config-linux.md).

Almost every container has the usual part, which depends on little and is made once. ``LinuxSpec`` is what one may
ask for besides; what it says is rendered for that container alone.
"""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import Final

import attrs

from lading.engine.oci import seccomp
from lading.events.errors import Invalid
from lading.events.limits import cpu_bandwidth, swap_total, without
from lading.events.privileges import CAPABILITIES, DeviceRule
from lading.events.seccompprofile import parse_profile
from lading.events.settings import Resources
from lading.storage.cgroups import missing_limits

__all__ = ["USUAL", "Host", "HostDevice", "LinuxSpec", "Throttle", "encode", "linux_part"]

_MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)

_READONLY_PATHS: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# Everything is denied, then: zero, null, urandom, random, tty, console; and never fuse.
_DEVICE_RULES: Final = (
    {"allow": False, "access": "rwm"},
    *(
        {"allow": allow, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        for allow, major, minor in (
            (True, 1, 5),
            (True, 1, 3),
            (True, 1, 9),
            (True, 1, 8),
            (True, 5, 0),
            (True, 5, 1),
            (False, 10, 229),
        )
    ),
)

# Unprivileged ping and low ports are safe in a network namespace of the container's own.
_NETWORK_SYSCTLS: Final = (
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
)


@attrs.frozen(cache_hash=True)
class Host:
    """What the document depends on besides the container; the same for the life of the engine.

    ``machine`` is ``uname -m`` and ``kernel`` its ``(major, minor)``. ``cgroup_v2`` says that cgroup v2 is
    the only hierarchy. ``masked_paths`` are those to mask on this machine besides the fixed ones, and
    ``sysctls`` those of a new network namespace that this kernel has. ``missing``: the fields of ``Resources``
    that this kernel has no limits for. ``capabilities``: those that the engine has, and so can give.
    """

    machine: str
    kernel: tuple[int, int]
    cgroup_v2: bool
    masked_paths: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = _NETWORK_SYSCTLS
    missing: frozenset[str] = frozenset()
    capabilities: frozenset[str] = frozenset(CAPABILITIES)

    @classmethod
    def probe(cls) -> Host:
        """The facts of this machine, from uname(2), /sys and /proc. About a millisecond; call it once."""
        system = os.uname()
        release = re.match(r"(\d+)\.(\d+)", system.release, re.ASCII)
        if release is None:
            raise Invalid("kernel release", system.release, "it should start with major.minor")
        # The counters of thermal throttling are a side channel between containers.
        cpus = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle")
        return cls(
            machine=system.machine,
            kernel=(int(release[1]), int(release[2])),
            cgroup_v2=os.path.exists("/sys/fs/cgroup/cgroup.controllers"),
            masked_paths=tuple(sorted(str(path) for path in cpus)),
            sysctls=tuple(
                (name, value)
                for name, value in _NETWORK_SYSCTLS
                if os.path.exists("/proc/sys/" + name.replace(".", "/"))
            ),
            missing=missing_limits(),
            capabilities=_held_capabilities(),
        )


def _held_capabilities() -> frozenset[str]:
    """The bounding set of this process (proc(5)); of a kernel that knows fewer, the others are not in it."""
    with open("/proc/self/status", "rb") as file:
        mask = next(int(line.split()[1], 16) for line in file if line.startswith(b"CapBnd:"))
    return frozenset(name for number, name in enumerate(CAPABILITIES) if mask >> number & 1)


@attrs.frozen
class HostDevice:
    """A device node to make in the container: ``type`` c or b, ``mode`` its permission bits."""

    path: str
    type: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


@attrs.frozen
class Throttle:
    """A rate for one block device; ``field`` as in ``Resources`` (``read_bps``, ...)."""

    field: str
    major: int
    minor: int
    rate: int


@attrs.frozen
class LinuxSpec:
    """What a container has that others have not.

    ``throttles``: the rates of ``resources`` with their devices looked up. ``devices`` are made in it;
    ``rules`` allow more than the usual devices, ``every_device`` all. ``sysctls`` come over the usual ones.
    ``shared``: the host's namespaces that it is in, by the specification's names; ``cgroup``, if not among them,
    is its own where that is usual, and with ``own_cgroup`` anywhere. ``masked``, ``readonly``: None for the
    usual paths. ``profile``: a seccomp profile in Docker's format, instead of the default one.
    """

    resources: Resources = attrs.field(factory=Resources)
    throttles: tuple[Throttle, ...] = ()
    devices: tuple[HostDevice, ...] = ()
    rules: tuple[DeviceRule, ...] = ()
    every_device: bool = False
    sysctls: tuple[tuple[str, str], ...] = ()
    shared: frozenset[str] = frozenset()
    own_cgroup: bool = False
    masked: tuple[str, ...] | None = None
    readonly: tuple[str, ...] | None = None
    profile: str = ""


USUAL: Final = LinuxSpec()

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def encode(value: object) -> bytes:
    """``value`` as compact JSON in UTF-8."""
    return _encode(value).encode()


def linux_part(
    host: Host, network: str, capabilities: frozenset[str], confined: bool, spec: LinuxSpec = USUAL
) -> bytes:
    """Everything of ``linux`` that follows ``cgroupsPath``, up to the end of the document.

    Raises ``Invalid`` for a seccomp profile that isn't one.
    """
    if spec is USUAL:
        return _usual(host, network, capabilities, confined)
    return _render(host, network, capabilities, confined, spec)


@functools.lru_cache(maxsize=64)
def _usual(host: Host, network: str, capabilities: frozenset[str], confined: bool) -> bytes:
    return _render(host, network, capabilities, confined, USUAL)


def _render(host: Host, network: str, capabilities: frozenset[str], confined: bool, spec: LinuxSpec) -> bytes:
    linux: dict[str, object] = {
        "namespaces": [{"type": namespace} for namespace in _namespaces(host, network, spec)],
        "resources": {"devices": _device_rules(spec), **_limits(spec, host)},
        "maskedPaths": [*_MASKED_PATHS, *host.masked_paths] if spec.masked is None else spec.masked,
        "readonlyPaths": _READONLY_PATHS if spec.readonly is None else spec.readonly,
    }
    sysctls = {**dict(host.sysctls if network != "host" else ()), **dict(spec.sysctls)}
    if sysctls:
        linux["sysctl"] = sysctls
    if spec.devices:
        linux["devices"] = [_device(device) for device in spec.devices]
    if confined and spec.profile:
        linux["seccomp"] = parse_profile(spec.profile).resolve(capabilities, host.machine, host.kernel)
    elif confined:
        linux["seccomp"] = seccomp.resolve(capabilities, host.machine, host.kernel)
    return b"," + encode(linux)[1:] + b"}"


def _namespaces(host: Host, network: str, spec: LinuxSpec) -> list[str]:
    namespaces = [name for name in ("pid", "ipc", "uts") if name not in spec.shared]
    namespaces.append("mount")
    if network != "host":
        namespaces.append("network")
    # With cgroup v1 Docker shares the host's: a private one would hide the container's path from nothing.
    if "cgroup" not in spec.shared and (host.cgroup_v2 or spec.own_cgroup):
        namespaces.append("cgroup")
    return namespaces


def _device(device: HostDevice) -> dict[str, object]:
    numbers = {"path": device.path, "type": device.type, "major": device.major, "minor": device.minor}
    return {**numbers, "fileMode": device.mode, "uid": device.uid, "gid": device.gid}


def _device_rules(spec: LinuxSpec) -> list[dict[str, object]]:
    if spec.every_device:
        return [{"allow": True, "access": "rwm"}]
    return [*_DEVICE_RULES, *(_device_rule(rule) for rule in spec.rules)]


def _device_rule(rule: DeviceRule) -> dict[str, object]:
    """As Docker gives it, except that numbers are left out where any fits, which all runtimes take."""
    given: dict[str, object] = {"allow": True, "type": rule.type}
    if rule.major >= 0:
        given["major"] = rule.major
    if rule.minor >= 0:
        given["minor"] = rule.minor
    return {**given, "access": rule.access}


def _limits(spec: LinuxSpec, host: Host) -> dict[str, object]:
    """``resources`` besides devices. What isn't asked for is left out, and so is what the kernel doesn't have."""
    asked = without(spec.resources, host.missing)
    swap = 0 if "memory_swap" in host.missing else swap_total(asked)
    quota, period = cpu_bandwidth(asked)
    limits: dict[str, dict[str, object]] = {
        "memory": {
            "limit": asked.memory,
            "reservation": asked.memory_reservation,
            "swap": swap if swap > 0 else 0,
        },
        "cpu": {
            "shares": asked.cpu_shares,
            "quota": quota,
            "period": period,
            "cpus": asked.cpuset_cpus,
            "mems": asked.cpuset_mems,
        },
        "pids": {"limit": max(asked.pids, 0)},
        "blockIO": {"weight": asked.blkio_weight},
    }
    given = {name: {key: value for key, value in limit.items() if value} for name, limit in limits.items()}
    if asked.swappiness >= 0:
        given["memory"]["swappiness"] = asked.swappiness
    if asked.oom_kill_disable:
        given["memory"]["disableOOMKiller"] = True
    for throttle in spec.throttles:
        if throttle.field not in host.missing and throttle.rate:
            rates = given["blockIO"].setdefault(_THROTTLES[throttle.field], [])
            assert isinstance(rates, list)
            rates.append({"major": throttle.major, "minor": throttle.minor, "rate": throttle.rate})
    return {name: limit for name, limit in given.items() if limit}


_THROTTLES: Final = {
    "read_bps": "throttleReadBpsDevice",
    "write_bps": "throttleWriteBpsDevice",
    "read_iops": "throttleReadIOPSDevice",
    "write_iops": "throttleWriteIOPSDevice",
}
