"""Changing the limits of a container that runs, in the files of its cgroup (cgroup-v1/*.rst; cgroup-v2.rst).

The runtime is not asked: it reads and writes the same files, in an order that does not always fit.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from lading.engine.oci.devices import find_throttles
from lading.engine.oci.runtime import cgroup_of
from lading.events.errors import HostError
from lading.events.limits import RATES, cpu_bandwidth, swap_total, weight_from_shares, without
from lading.events.settings import Resources
from lading.storage.cgroups import cgroup_mode, controller_mounts, missing_limits
from lading.storage.store import Paths

__all__ = ["apply_resources"]

_USUAL: Final = Resources()
_V1_RATES: Final = {field: f"blkio.throttle.{field}_device" for field in RATES}
_V2_RATES: Final = dict(zip(RATES, ("rbps", "wbps", "riops", "wiops"), strict=True))


@attrs.frozen
class _Write:
    """One value for one file. ``undo``: the value to go back to; None: what the file has now."""

    file: Path
    value: str
    undo: str | None = None


def apply_resources(paths: Paths, container: str, resources: Resources, before: Resources = _USUAL) -> None:
    """Give the running ``container`` the limits ``resources``; those of ``before`` that aren't in it are lifted.

    All or nothing: if the kernel refuses one, those that were changed are changed back. Raises ``HostError`` that
    says which file and why, ``Invalid`` for a rate of what is no block device. Blocks for a few writes; lowering
    the memory may take the kernel a moment.
    """
    missing = missing_limits()
    asked, before = without(resources, missing), without(before, missing)
    below = f"{cgroup_of(paths)}/{container}".lstrip("/")
    mounts = controller_mounts()
    unified = cgroup_mode() == "v2"
    plan = _v2(mounts["unified"] / below, asked, before) if unified else _v1(mounts, below, asked, before)
    done: list[_Write] = []
    for write in plan:
        try:
            undo = write.undo if write.undo is not None else write.file.read_text().strip()
            write.file.write_text(write.value)
        except OSError as error:
            for earlier in reversed(done):
                _undo(earlier)
            what = f"{write.value!r} in {write.file}"
            raise HostError("set a limit:", what, error.errno or 0, _hint(error)) from error
        done.append(_Write(write.file, undo))


def _undo(write: _Write) -> None:
    try:
        write.file.write_text(write.value)
    except OSError:
        return  # it was in force a moment ago; if the kernel doesn't want it any more, nobody can have it


def _hint(error: OSError) -> str:
    match error.errno:
        case errno.EBUSY:
            return "the container uses more than that now, and the kernel can't take it back"
        case errno.ENOENT | errno.ENODEV:
            return "the container has ended, or its cgroup doesn't have this limit"
        case errno.EINVAL | errno.ERANGE | errno.ENOSPC:
            return "the kernel doesn't take this value"
    return ""


def _v1(mounts: dict[str, Path], below: str, asked: Resources, before: Resources) -> Iterator[_Write]:
    if asked.memory or before.memory or asked.memory_swap or before.memory_swap:
        yield from _v1_memory(mounts["memory"] / below, asked)
    for controller, file, value, old, usual in (
        ("memory", "memory.soft_limit_in_bytes", asked.memory_reservation, before.memory_reservation, -1),
        ("cpu", "cpu.shares", asked.cpu_shares, before.cpu_shares, 1024),
        ("pids", "pids.max", max(asked.pids, 0), max(before.pids, 0), "max"),
        ("blkio", "blkio.weight", asked.blkio_weight, before.blkio_weight, 500),
    ):
        if value or old:
            yield _Write(mounts[controller] / below / file, str(value or usual))
    if asked.swappiness >= 0:
        yield _Write(mounts["memory"] / below / "memory.swappiness", str(asked.swappiness))
    if asked.oom_kill_disable != before.oom_kill_disable:
        undo = str(int(before.oom_kill_disable))
        yield _Write(mounts["memory"] / below / "memory.oom_control", str(int(asked.oom_kill_disable)), undo)
    quota, period = cpu_bandwidth(asked)
    old_quota, old_period = cpu_bandwidth(before)
    if quota or period or old_quota or old_period:
        cpu = mounts["cpu"] / below
        # No order fits all: less of one with as much of the other may be more than the kernel lets anybody have.
        yield _Write(cpu / "cpu.cfs_quota_us", "-1")
        yield _Write(cpu / "cpu.cfs_period_us", str(period or 100_000))
        yield _Write(cpu / "cpu.cfs_quota_us", str(quota or -1))
    for file, text, old_text in (
        ("cpuset.mems", asked.cpuset_mems, before.cpuset_mems),
        ("cpuset.cpus", asked.cpuset_cpus, before.cpuset_cpus),
    ):
        if text or old_text:
            place = mounts["cpuset"] / below
            yield _Write(place / file, text or (place.parent / file).read_text().strip())
    for field, device, rate, old_rate in _rates(asked, before):
        yield _Write(mounts["blkio"] / below / _V1_RATES[field], f"{device} {rate}", f"{device} {old_rate}")


def _v1_memory(place: Path, asked: Resources) -> Iterator[_Write]:
    """Memory alone may never be above memory and swap together, not even between two writes."""
    memory, both = asked.memory or -1, swap_total(asked) or -1
    alone, together = place / "memory.limit_in_bytes", place / "memory.memsw.limit_in_bytes"
    writes = [_Write(alone, str(memory))]
    if together.exists():
        now = int(together.read_text())
        writes.insert(1 if 0 < memory <= now else 0, _Write(together, str(both)))
    yield from writes


def _v2(place: Path, asked: Resources, before: Resources) -> Iterator[_Write]:
    if asked.memory or before.memory or asked.memory_swap or before.memory_swap:
        both = swap_total(asked)
        yield _Write(place / "memory.max", str(asked.memory or "max"))
        if (place / "memory.swap.max").exists():
            yield _Write(place / "memory.swap.max", str(both - asked.memory) if both > 0 else "max")
    if asked.memory_reservation or before.memory_reservation:
        yield _Write(place / "memory.low", str(asked.memory_reservation))
    if asked.cpu_shares or before.cpu_shares:
        yield _Write(place / "cpu.weight", str(weight_from_shares(asked.cpu_shares) if asked.cpu_shares else 100))
    quota, period = cpu_bandwidth(asked)
    if quota or period or any(cpu_bandwidth(before)):
        yield _Write(place / "cpu.max", f"{quota if quota > 0 else 'max'} {period or 100_000}")
    for file, text, old_text in (
        ("cpuset.mems", asked.cpuset_mems, before.cpuset_mems),
        ("cpuset.cpus", asked.cpuset_cpus, before.cpuset_cpus),
    ):
        if text or old_text:
            yield _Write(place / file, text or "\n")
    if asked.pids > 0 or before.pids > 0:
        yield _Write(place / "pids.max", str(asked.pids) if asked.pids > 0 else "max")
    if asked.blkio_weight or before.blkio_weight:
        weight, bfq = asked.blkio_weight, place / "io.bfq.weight"
        if bfq.exists():
            yield _Write(bfq, str(weight or 100))
        else:  # as the runtimes convert it; 100 is its default
            scaled = 1 + (weight - 10) * 9999 // 990 if weight else 100
            yield _Write(place / "io.weight", f"default {scaled}")
    for field, device, rate, old_rate in _rates(asked, before):
        key = _V2_RATES[field]
        yield _Write(place / "io.max", f"{device} {key}={rate or 'max'}", f"{device} {key}={old_rate or 'max'}")


def _rates(asked: Resources, before: Resources) -> Iterator[tuple[str, str, int, int]]:
    """Field, device, rate, and the rate until now, of each that changes; 0 is none."""
    now, until_now = (
        {(each.field, each.major, each.minor): each.rate for each in find_throttles(resources)}
        for resources in (asked, before)
    )
    for field, major, minor in dict.fromkeys((*now, *until_now)):
        rate, old_rate = (rates.get((field, major, minor), 0) for rates in (now, until_now))
        if rate != old_rate:
            yield field, f"{major}:{minor}", rate, old_rate
