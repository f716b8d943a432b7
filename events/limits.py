"""The limits of a container's control group: what can't be right is refused, and what is said twice agrees.

Pure: what only this machine knows (its processors, its devices, what its kernel has) is asked in
``engine/containers/hostchecks.py``. The rules are those of moby's ``verifyPlatformContainerResources``.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from lading.events.errors import Invalid
from lading.events.settings import Resources

__all__ = [
    "LEAST_MEMORY",
    "RATES",
    "check_resources",
    "cpu_bandwidth",
    "number_list",
    "rate_of",
    "swap_total",
    "weight_from_shares",
    "without",
]

LEAST_MEMORY: Final = 6 << 20
"""Bytes; with less no runtime starts anything."""

RATES: Final = ("read_bps", "write_bps", "read_iops", "write_iops")
"""The fields of ``Resources`` that are ``PATH:RATE``."""

_MOST: Final = 2**63 - 1
_PERIOD: Final = 100_000
_NUMBERS: Final = re.compile(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*", re.ASCII)
_MOST_NUMBER: Final = 8191
_RATE: Final = re.compile(r"(/[^\0\n]{0,4094}):(\d{1,20})", re.ASCII)
_MOST_RATES: Final = 256


def check_resources(resources: Resources) -> None:
    """Raise ``Invalid`` for limits that no machine could keep."""
    for name in ("memory", "memory_reservation", "cpu_shares", "cpu_period", "nano_cpus", "blkio_weight"):
        _range(name, getattr(resources, name), 0, _MOST, "it can't be negative")
    _check_memory(resources)
    _check_cpu(resources)
    _range("pids limit", resources.pids, -1, 4194304, "-1 or 0 is no limit, and the kernel has at most 4194304")
    if resources.blkio_weight:
        _range("blkio weight", resources.blkio_weight, 10, 1000, "the range is from 10 to 1000")
    for name in RATES:
        rates = getattr(resources, name)
        if len(rates) > _MOST_RATES:
            raise Invalid(name, f"{len(rates)} rates", f"at most {_MOST_RATES}")
        for rate in rates:
            rate_of(name, rate)


def _check_memory(resources: Resources) -> None:
    memory, reservation, swap = resources.memory, resources.memory_reservation, resources.memory_swap
    if memory:
        _range("memory", memory, LEAST_MEMORY, _MOST, "the minimum memory limit is 6 MB")
    if reservation:
        _range("memory reservation", reservation, LEAST_MEMORY, _MOST, "the minimum is 6 MB")
    if memory and reservation > memory:
        raise Invalid("memory reservation", reservation, f"it can't be more than the memory limit, {memory}")
    _range("memory swap", swap, -1, _MOST, "-1 is no limit, 0 is twice the memory")
    if swap > 0 and not memory:
        raise Invalid("memory swap", swap, "always set the memory limit when limiting memory and swap together")
    if 0 < swap < memory:
        raise Invalid("memory swap", swap, f"it counts the memory, too, so it is at least that limit, {memory}")
    _range("memory swappiness", resources.swappiness, -1, 100, "the range is 0 to 100, and -1 leaves it alone")


def _check_cpu(resources: Resources) -> None:
    shares, period, quota = resources.cpu_shares, resources.cpu_period, resources.cpu_quota
    if shares:
        _range("cpu shares", shares, 2, 262144, "the range is 2 to 262144")
    if resources.nano_cpus and (period or quota):
        raise Invalid("cpus", resources.nano_cpus, "either cpus, or a cpu quota and period: not both")
    if resources.nano_cpus:
        _range("cpus", resources.nano_cpus, 10_000_000, 8192 * 10**9, "the least is 0.01")
    if period:
        _range("cpu period", period, 1000, 1_000_000, "from 1 ms (1000) to 1 s (1000000)")
    _range("cpu quota", quota, -1, 2**44, "-1 is no limit")
    if quota > 0:
        _range("cpu quota", quota, 1000, 2**44, "not less than 1 ms (1000)")
    for field, text in (("cpuset cpus", resources.cpuset_cpus), ("cpuset mems", resources.cpuset_mems)):
        number_list(field, text)


def _range(field: str, value: int, least: int, most: int, why: str) -> None:
    if type(value) is not int or not least <= value <= most:
        raise Invalid(field, value, why)


def number_list(field: str, text: str) -> frozenset[int]:
    """The numbers of a list as cpuset(7) has it, such as ``0-2,7``; empty for "". Raises ``Invalid``."""
    if not text:
        return frozenset()
    if len(text) > 4096 or _NUMBERS.fullmatch(text) is None:
        raise Invalid(field, text, "expected numbers and ranges, such as 0-2,7")
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if low > high or high > _MOST_NUMBER:  # before the range is made: it may be a large one
            raise Invalid(field, text, f"a range goes up, and no number is above {_MOST_NUMBER}")
        found.update(range(low, high + 1))
    return frozenset(found)


def rate_of(field: str, text: str) -> tuple[str, int]:
    """The path and the rate of ``PATH:RATE``; a rate of 0 is no limit. Raises ``Invalid``."""
    match = _RATE.fullmatch(text)
    if match is None or int(match[2]) > _MOST:
        raise Invalid(field.replace("_", " "), text, "expected an absolute PATH:RATE of a block device")
    return match[1], int(match[2])


def cpu_bandwidth(resources: Resources) -> tuple[int, int]:
    """(quota, period) in microseconds, 0 for what isn't asked. ``nano_cpus`` is a quota of 100 ms periods."""
    if resources.nano_cpus:
        return resources.nano_cpus * _PERIOD // 10**9, _PERIOD
    return resources.cpu_quota, resources.cpu_period


def swap_total(resources: Resources) -> int:
    """The limit of memory and swap together; -1: none; 0: not asked. Docker's default is twice the memory."""
    if resources.memory_swap:
        return resources.memory_swap
    return min(resources.memory * 2, _MOST) if resources.memory else 0


def weight_from_shares(shares: int) -> int:
    """cgroup v2's cpu.weight (1 to 10000) for v1's cpu.shares (2 to 262144), as the runtimes convert it."""
    return 1 + (shares - 2) * 9999 // 262142


def without(resources: Resources, missing: frozenset[str]) -> Resources:
    """``resources`` with the fields in ``missing`` not asked for: this kernel doesn't have them."""
    usual = Resources()
    asked = {name: getattr(usual, name) for name in missing if getattr(resources, name) != getattr(usual, name)}
    return attrs.evolve(resources, **asked) if asked else resources
