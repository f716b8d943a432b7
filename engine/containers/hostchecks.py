"""Whether this machine can do what a container's settings ask for, before the container is there.

``check_host`` looks at what may be wrong from the start: processors and memory nodes that aren't there, devices
that are missing, no init program. ``unsupported`` tells in Docker's words of limits that this kernel doesn't
have; they are left out, as Docker does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import attrs

from lading.engine.oci.devices import find_devices, find_throttles
from lading.engine.oci.initprogram import find_init
from lading.engine.oci.linux import Host
from lading.events.errors import Invalid
from lading.events.limits import number_list, without
from lading.events.privileges import capabilities_of
from lading.events.settings import ContainerSettings, Resources

__all__ = ["check_host", "check_host_resources", "unsupported"]

_WARNINGS: Final = {
    "memory": "Your kernel does not support memory limit capabilities or the cgroup is not mounted. "
    "Limitation discarded.",
    "memory_reservation": "Your kernel does not support memory soft limit capabilities or the cgroup is not "
    "mounted. Limitation discarded.",
    "memory_swap": "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory "
    "limited without swap.",
    "swappiness": "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. "
    "Memory swappiness discarded.",
    "oom_kill_disable": "Your kernel does not support OomKillDisable. OomKillDisable discarded.",
    "cpu_shares": "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.",
    "cpu_period": "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.",
    "cpu_quota": "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.",
    "nano_cpus": "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.",
    "cpuset_cpus": "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.",
    "cpuset_mems": "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.",
    "pids": "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit "
    "discarded.",
    "blkio_weight": "Your kernel does not support Block I/O weight or the cgroup is not mounted. "
    "Weight discarded.",
    "read_bps": "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O "
    "BPS read limit discarded.",
    "write_bps": "Your kernel does not support BPS Block I/O write limit or the cgroup is not mounted. Block I/O "
    "BPS write limit discarded.",
    "read_iops": "Your kernel does not support IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS "
    "read limit discarded.",
    "write_iops": "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. Block I/O "
    "IOPS write limit discarded.",
}


def check_host(settings: ContainerSettings, host: Host) -> None:
    """Raise ``Invalid`` or ``HostError`` for what this machine can't do. Blocks for a look at /sys and /dev.

    ``settings`` have passed ``check_settings``.
    """
    check_host_resources(settings.resources)
    for word in settings.cap_add:
        if word.upper() != "ALL" and not capabilities_of((word,), ("ALL",)) <= host.capabilities:
            raise Invalid(
                "capability to add", word, "the kernel doesn't support it, or the engine itself lacks it"
            )
    if settings.devices:
        find_devices(settings.devices)
    if settings.init and settings.pid_mode != "host":
        find_init()


def check_host_resources(resources: Resources) -> None:
    """The same for limits alone, as an update has them."""
    if resources.nano_cpus:
        count = os.cpu_count() or 1
        if resources.nano_cpus > count * 10**9:
            why = f"range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available"
            raise Invalid("cpus", resources.nano_cpus / 1e9, why)
    for field, text, place in (
        ("cpuset cpus", resources.cpuset_cpus, "/sys/devices/system/cpu/online"),
        ("cpuset mems", resources.cpuset_mems, "/sys/devices/system/node/online"),
    ):
        if text:
            there = _online(place)
            if not number_list(field, text) <= number_list(field, there):
                raise Invalid(field, text, f"not all of them are available: {there} are")
    find_throttles(resources)


def _online(place: str) -> str:
    try:
        return Path(place).read_text().strip()
    except OSError:
        return "0"  # a kernel without NUMA has one node


def unsupported(settings: ContainerSettings, host: Host) -> tuple[str, ...]:
    """A warning for each limit that is asked for and left out, since the kernel of ``host`` doesn't have it."""
    asked = settings.resources
    kept = without(asked, host.missing)
    names = (field.name for field in attrs.fields(Resources))
    lost = [_WARNINGS[name] for name in names if getattr(asked, name) != getattr(kept, name)]
    if "memory_swap" in host.missing and asked.memory and asked.memory_swap == 0:
        lost.append(_WARNINGS["memory_swap"])
    return tuple(dict.fromkeys(lost))
