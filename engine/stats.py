"""What a container uses, read straight from the kernel's files: cgroup v1, cgroup v2, and /proc for its network.

Sources: cgroup-v1 documentation (cpuacct, memory, blkio, pids), cgroup-v2.rst, proc(5). One sample is a dozen
small files, half a millisecond.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from lading.engine.core import Core
from lading.engine.runtime import cgroup_of
from lading.events.errors import HostError
from lading.storage.cgroups import controller_mounts

__all__ = ["DeviceUse", "NetworkUse", "Stats", "read_stats"]

_NO_LIMIT: Final = 2**62
_TICK: Final = 10**9 // os.sysconf("SC_CLK_TCK")


@attrs.frozen
class DeviceUse:
    """What went to and came from the block device ``major``:``minor``: bytes and operations."""

    major: int
    minor: int
    read_bytes: int = 0
    written_bytes: int = 0
    reads: int = 0
    writes: int = 0


@attrs.frozen
class NetworkUse:
    """What one interface of the container received and sent."""

    received_bytes: int
    received_packets: int
    received_errors: int
    received_dropped: int
    sent_bytes: int
    sent_packets: int
    sent_errors: int
    sent_dropped: int


@attrs.frozen
class Stats:
    """One sample, at ``time`` (nanoseconds UTC). Times are nanoseconds, sizes bytes.

    ``system_time``: of all processors of the host together. ``memory_limit``: the host's memory where the
    container has no limit. ``memory``: the kernel's own words (memory.stat). ``cpus``: v1 alone has the time on
    each. ``network``: empty where it is the host's. ``pids_limit``: 0 for none.
    """

    time: int
    cgroup_v2: bool
    cpu_time: int
    cpu_user: int
    cpu_system: int
    system_time: int
    online: int
    cpus: tuple[int, ...]
    periods: int
    throttled_periods: int
    throttled_time: int
    memory_used: int
    memory_most: int
    memory_limit: int
    memory_failures: int
    memory: Mapping[str, int]
    pids: int
    pids_limit: int
    devices: tuple[DeviceUse, ...]
    network: Mapping[str, NetworkUse]


def read_stats(core: Core, container: str) -> Stats:
    """A sample of ``container``. Raises ``HostError`` if it has no control group: it doesn't run."""
    mounts = controller_mounts()
    below = f"{cgroup_of(core.paths)}/{container}".lstrip("/")
    v2 = core.host.cgroup_v2
    places = {name: mount / below for name, mount in mounts.items()}
    first = places.get("unified" if v2 else "memory") or places.get("pids")
    if first is None or not first.is_dir():
        raise HostError("read the use of", container, 2, "it has no control group: it doesn't run")
    state = core.state(container)
    pid = state.process.pid if state.process is not None and state.spec.network != "host" else 0
    sample = _v2(first) if v2 else _v1(places)
    return Stats(
        time=time.time_ns(),
        cgroup_v2=v2,
        system_time=_system_time(),
        online=os.cpu_count() or 1,
        network=_network(pid) if pid else {},
        **sample,
    )


def _v1(places: Mapping[str, Path]) -> dict[str, Any]:
    memory, cpuacct = places.get("memory"), places.get("cpuacct")
    pids, blkio, cpu = places.get("pids"), places.get("blkio"), places.get("cpu")
    ticks = _pairs(cpuacct, "cpuacct.stat")
    throttled = _pairs(cpu, "cpu.stat")
    limit = _number(memory, "memory.limit_in_bytes")
    return {
        "cpu_time": _number(cpuacct, "cpuacct.usage"),
        "cpu_user": ticks.get("user", 0) * _TICK,
        "cpu_system": ticks.get("system", 0) * _TICK,
        "cpus": tuple(int(word) for word in _read(cpuacct, "cpuacct.usage_percpu").split()),
        "periods": throttled.get("nr_periods", 0),
        "throttled_periods": throttled.get("nr_throttled", 0),
        "throttled_time": throttled.get("throttled_time", 0),
        "memory_used": _number(memory, "memory.usage_in_bytes"),
        "memory_most": _number(memory, "memory.max_usage_in_bytes"),
        "memory_limit": limit if 0 < limit < _NO_LIMIT else _host_memory(),
        "memory_failures": _number(memory, "memory.failcnt"),
        "memory": _pairs(memory, "memory.stat"),
        "pids": _number(pids, "pids.current"),
        "pids_limit": _number(pids, "pids.max"),
        "devices": _v1_devices(blkio),
    }


def _v2(place: Path) -> dict[str, Any]:
    cpu = _pairs(place, "cpu.stat")
    limit = _number(place, "memory.max")
    return {
        "cpu_time": cpu.get("usage_usec", 0) * 1000,
        "cpu_user": cpu.get("user_usec", 0) * 1000,
        "cpu_system": cpu.get("system_usec", 0) * 1000,
        "cpus": (),
        "periods": cpu.get("nr_periods", 0),
        "throttled_periods": cpu.get("nr_throttled", 0),
        "throttled_time": cpu.get("throttled_usec", 0) * 1000,
        "memory_used": _number(place, "memory.current"),
        "memory_most": _number(place, "memory.peak"),
        "memory_limit": limit if 0 < limit < _NO_LIMIT else _host_memory(),
        "memory_failures": _pairs(place, "memory.events").get("max", 0),
        "memory": _pairs(place, "memory.stat"),
        "pids": _number(place, "pids.current"),
        "pids_limit": _number(place, "pids.max"),
        "devices": _v2_devices(place),
    }


def _v1_devices(place: Path | None) -> tuple[DeviceUse, ...]:
    found: dict[tuple[int, int], dict[str, int]] = {}
    for name, fields in (
        ("blkio.throttle.io_service_bytes", {"Read": "read_bytes", "Write": "written_bytes"}),
        ("blkio.throttle.io_serviced", {"Read": "reads", "Write": "writes"}),
    ):
        for line in _read(place, name).splitlines():
            words = line.split()
            if len(words) == 3 and words[1] in fields:
                major, _, minor = words[0].partition(":")
                found.setdefault((int(major), int(minor)), {})[fields[words[1]]] = int(words[2])
    return tuple(DeviceUse(*device, **use) for device, use in sorted(found.items()))


def _v2_devices(place: Path) -> tuple[DeviceUse, ...]:
    names = {"rbytes": "read_bytes", "wbytes": "written_bytes", "rios": "reads", "wios": "writes"}
    found = []
    for line in _read(place, "io.stat").splitlines():
        device, *words = line.split()
        major, _, minor = device.partition(":")
        pairs = (word.partition("=") for word in words)
        found.append(
            DeviceUse(
                int(major), int(minor), **{names[key]: int(value) for key, _, value in pairs if key in names}
            )
        )
    return tuple(found)


def _network(pid: int) -> dict[str, NetworkUse]:
    """The interfaces of the network namespace that ``pid`` is in (proc_pid_net(5))."""
    found = {}
    for line in _read(Path(f"/proc/{pid}/net"), "dev").splitlines()[2:]:
        name, _, numbers = line.partition(":")
        values = [int(word) for word in numbers.split()]
        if name.strip() != "lo" and len(values) >= 12:
            found[name.strip()] = NetworkUse(*values[:4], *values[8:12])
    return found


def _system_time() -> int:
    """Processor time of the whole host, as Docker's clients compare with: user to steal (proc_stat(5))."""
    words = _read(Path("/proc"), "stat").split("\n", 1)[0].split()
    return sum(int(word) for word in words[1:8]) * _TICK


def _host_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _read(place: Path | None, name: str) -> str:
    """What a file says; nothing if there is none: a controller may be missing, or the container just gone."""
    with contextlib.suppress(OSError):
        if place is not None:
            return (place / name).read_text(encoding="ascii", errors="replace")
    return ""


def _number(place: Path | None, name: str) -> int:
    word = _read(place, name).strip()
    return int(word) if word.isdecimal() else 0


def _pairs(place: Path | None, name: str) -> dict[str, int]:
    lines = (line.split() for line in _read(place, name).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdecimal()}
