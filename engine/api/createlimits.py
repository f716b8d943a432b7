"""What a request says about limits, as ``Resources``: checked by moby's rules, in its words.

The same fields come with a creation (in ``HostConfig``) and with an update (in the body itself).

Source: Docker Engine API v1.47, Resources; moby ``daemon/daemon_unix.go`` (verifyPlatformContainerResources),
``daemon/container/container_unix.go`` (UpdateContainer) and ``pkg/sysinfo`` (v27).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import attrs

from lading.engine.api.fields import integer, objects, only, refuse, text
from lading.engine.http.message import HttpError
from lading.events.errors import Invalid
from lading.events.limits import LEAST_MEMORY, number_list
from lading.events.settings import Resources

__all__ = ["RESOURCE_FIELDS", "Machine", "changed", "parse_resources"]

RESOURCE_FIELDS: Final = frozenset(
    {
        *("Memory", "MemoryReservation", "MemorySwap", "MemorySwappiness", "OomKillDisable", "CpuShares"),
        *("CpuPeriod", "CpuQuota", "NanoCpus", "CpusetCpus", "CpusetMems", "PidsLimit", "BlkioWeight"),
        *("BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps"),
    }
)
"""The fields that are read here."""

_RATES: Final = {
    "read_bps": "BlkioDeviceReadBps",
    "write_bps": "BlkioDeviceWriteBps",
    "read_iops": "BlkioDeviceReadIOps",
    "write_iops": "BlkioDeviceWriteIOps",
}
_NO_OOM_KILLER: Final = (
    "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running "
    "out of resources."
)


@attrs.frozen
class Machine:
    """What of this machine decides whether limits can be kept: its processors and memory nodes (numbers)."""

    cgroup_v2: bool
    cpus: frozenset[int]
    mems: frozenset[int]

    @classmethod
    def probe(cls, *, cgroup_v2: bool) -> Machine:
        """This machine, from /sys/devices/system; some microseconds."""
        cpus = _online("/sys/devices/system/cpu/online") or frozenset(range(os.cpu_count() or 1))
        return cls(cgroup_v2, cpus, _online("/sys/devices/system/node/online") or frozenset((0,)))


def _online(path: str) -> frozenset[int]:
    try:
        with open(path, encoding="ascii") as file:
            return number_list(path, file.read().strip())
    except (OSError, Invalid):
        return frozenset()


def parse_resources(
    source: Mapping[str, Any], machine: Machine, *, update: bool = False
) -> tuple[Resources, tuple[str, ...]]:
    """The limits that ``source`` asks for, and what its author should be told. Raises `HttpError` 400.

    What is asked for in an ``update`` is not whole: ``changed`` lays it over what there is.
    """
    warnings: list[str] = []
    swappiness = integer(source, "MemorySwappiness", -1)
    resources = Resources(
        memory=integer(source, "Memory"),
        memory_reservation=integer(source, "MemoryReservation"),
        memory_swap=integer(source, "MemorySwap"),
        swappiness=swappiness,
        oom_kill_disable=_oom_kill_disable(source),
        cpu_shares=integer(source, "CpuShares"),
        cpu_period=integer(source, "CpuPeriod"),
        cpu_quota=integer(source, "CpuQuota"),
        nano_cpus=integer(source, "NanoCpus"),
        cpuset_cpus=text(source, "CpusetCpus"),
        cpuset_mems=text(source, "CpusetMems"),
        pids=_pids(source, update),
        blkio_weight=integer(source, "BlkioWeight"),
        **{name: _rates(source, field) for name, field in _RATES.items()},
    )
    _check_memory(resources, update)
    _check_cpu(resources, machine)
    _check_cpusets(resources, machine)
    if resources.blkio_weight and not 10 <= resources.blkio_weight <= 1000:
        raise refuse("Range of blkio weight is from 10 to 1000")
    if resources.pids > 4194304:
        raise refuse(f"Invalid value {resources.pids}, the maximum pids limit is 4194304")
    if machine.cgroup_v2:
        resources = _without_v1(resources, warnings)
    if resources.oom_kill_disable and not resources.memory:
        warnings.append(_NO_OOM_KILLER)
    if resources.memory_swap == -1 and not resources.memory and not update:
        resources = attrs.evolve(resources, memory_swap=0)  # as if nothing was said
    if resources.memory and not resources.memory_swap and not update:
        resources = attrs.evolve(resources, memory_swap=min(resources.memory * 2, 2**63 - 1))
    return resources, tuple(warnings)


def _pids(source: Mapping[str, Any], update: bool) -> int:
    """0 for no limit; in an update that is -1, and 0 is silence."""
    value = integer(source, "PidsLimit")
    unlimited = -1 if update and source.get("PidsLimit") is not None else 0
    return value if value > 0 else unlimited


def _oom_kill_disable(source: Mapping[str, Any]) -> bool:
    value = source.get("OomKillDisable")
    if value is not None and not isinstance(value, bool):
        raise refuse("invalid OomKillDisable: it must be true or false")
    return bool(value)


def _without_v1(resources: Resources, warnings: list[str]) -> Resources:
    """Without what control groups of version 2 have no file for, as moby does it."""
    if resources.swappiness != -1:
        warnings.append(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. "
            "Memory swappiness discarded."
        )
    if resources.oom_kill_disable:
        warnings.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
    return attrs.evolve(resources, swappiness=-1, oom_kill_disable=False)


def _check_memory(resources: Resources, update: bool) -> None:
    memory, swap, reservation = resources.memory, resources.memory_swap, resources.memory_reservation
    if memory and memory < LEAST_MEMORY:
        raise refuse("Minimum memory limit allowed is 6MB")
    if memory and 0 < swap < memory:
        raise refuse("Minimum memoryswap limit should be larger than memory limit, see usage")
    if not memory and swap > 0 and not update:
        raise refuse("You should always set the Memory limit when using Memoryswap limit, see usage")
    if swap < -1:
        raise refuse(f"Invalid value: {swap}, valid memory swap is -1 for no limit, or a number of bytes")
    if not -1 <= resources.swappiness <= 100:
        raise refuse(f"Invalid value: {resources.swappiness}, valid memory swappiness range is 0-100")
    if reservation and reservation < LEAST_MEMORY:
        raise refuse("Minimum memory reservation allowed is 6MB")
    if memory and reservation > memory:
        raise refuse("Minimum memory limit can not be less than memory reservation limit, see usage")


def _check_cpu(resources: Resources, machine: Machine) -> None:
    nano, period, quota = resources.nano_cpus, resources.cpu_period, resources.cpu_quota
    if nano > 0 and period > 0:
        raise refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if nano > 0 and quota > 0:
        raise refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    count = len(machine.cpus)
    if nano and not 10_000_000 <= nano <= count * 10**9:
        raise refuse(f"Range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available")
    if resources.cpu_shares < 0:
        raise refuse(f"invalid CPU shares ({resources.cpu_shares}): value must be a positive integer")
    if resources.cpu_shares and not 2 <= resources.cpu_shares <= 262144:
        raise refuse(f"invalid CPU shares ({resources.cpu_shares}): the range is from 2 to 262144")
    if period and not 1000 <= period <= 1_000_000:
        raise refuse("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < quota < 1000:
        raise refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if not -1 <= quota <= 2**44:
        raise refuse(f"invalid CPU cfs quota ({quota}): -1 is no limit")


def _check_cpusets(resources: Resources, machine: Machine) -> None:
    for words, there, what, short in (
        (resources.cpuset_cpus, machine.cpus, "CPUs", "cpus"),
        (resources.cpuset_mems, machine.mems, "memory nodes", "mems"),
    ):
        if not words:
            continue
        try:
            asked = number_list(f"cpuset {short}", words)
        except Invalid as error:
            raise refuse(f"Invalid value {words[:80]} for cpuset {short}: {error.why}") from None
        if asked - there:
            available = ",".join(map(str, sorted(there)))
            raise refuse(f"Requested {what} are not available - requested {words[:80]}, available: {available}")


def _rates(source: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = []
    for each in objects(source, name):
        only(each, name, frozenset(("Path", "Rate")))
        path, rate = text(each, "Path"), each.get("Rate")
        if not path.startswith("/") or "\n" in path or len(path) > 4095:
            raise refuse(f"invalid {name}: {path[:80]!r} is no absolute path")
        if type(rate) is not int or not 0 <= rate < 2**63:
            raise refuse(f"invalid {name}: the rate of {path[:80]} must be a whole number")
        found.append(f"{path}:{rate}")
    return tuple(found)


def changed(known: Resources, asked: Resources) -> Resources:
    """``known`` with everything that ``asked`` says; -1 processes, as 0 is silence there, ends that limit.

    Raises `HttpError` 409 where the two can't be together.
    """
    for ours, theirs, one, other in (
        (asked.nano_cpus, known.cpu_period, "Nano CPUs", "CPU Period"),
        (asked.nano_cpus, known.cpu_quota, "Nano CPUs", "CPU Quota"),
        (asked.cpu_period, known.nano_cpus, "CPU Period", "NanoCPUs"),
        (asked.cpu_quota, known.nano_cpus, "CPU Quota", "NanoCPUs"),
    ):
        if ours > 0 and theirs > 0:
            words = f"Conflicting options: {one} cannot be updated as {other} has already been set"
            raise HttpError(409, words)
    memory, swap = asked.memory or known.memory, asked.memory_swap or known.memory_swap
    if known.memory and not asked.memory_swap and swap != -1 and asked.memory > (swap or known.memory * 2):
        raise HttpError(
            409,
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same "
            "time",
        )
    if swap > 0 and not memory:
        raise refuse("You should always set the Memory limit when using Memoryswap limit, see usage")
    if 0 < swap < memory:
        raise refuse("Minimum memoryswap limit should be larger than memory limit, see usage")
    if memory and (asked.memory_reservation or known.memory_reservation) > memory:
        raise refuse("Minimum memory limit can not be less than memory reservation limit, see usage")
    usual = Resources()
    said = {
        field.name: getattr(asked, field.name)
        for field in attrs.fields(Resources)
        if getattr(asked, field.name) != getattr(usual, field.name)
    }
    if said.get("pids", 0) < 0:
        said["pids"] = 0
    return attrs.evolve(known, **said)
