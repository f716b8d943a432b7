"""What a container uses: one sample, read straight from its cgroup and /proc.

v1: cpuacct.rst, memory.rst, blkio-controller.rst, pids.rst; v2: cgroup-v2.rst. A dozen small files, each opened,
read and closed: some 0.3 ms. Nothing is kept open between two samples.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Mapping
from typing import Final

import attrs

from lading.engine.oci.runtime import cgroup_of
from lading.events.spec import ProcessId
from lading.storage.cgroups import cgroup_mode, controller_mounts
from lading.storage.procfs import is_alive
from lading.storage.store import Paths

__all__ = ["Interface", "IoEntry", "Stats", "read_stats"]

_SIZE: Final = 1 << 16
_TICK: Final = 10**9 // os.sysconf("SC_CLK_TCK")


@attrs.frozen
class IoEntry:
    """What device ``major:minor`` was asked for: ``op`` is ``Read`` ... (v1) or ``read``, ``write``."""

    major: int
    minor: int
    op: str
    bytes: int
    count: int


@attrs.frozen
class Interface:
    """One network interface's counters since it is there (proc(5), /proc/net/dev)."""

    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


@attrs.frozen(kw_only=True)
class Stats:
    """One sample. Times are nanoseconds, sizes bytes, counters since the container started.

    ``time``: when, UTC. ``unified``: read from cgroup v2, whose ``memory_stat`` has other names and which has no
    ``per_cpu`` (empty). ``system_cpu``: of the whole machine, idle or not. ``throttling``: periods, throttled
    periods, time throttled. ``memory_limit`` is never above the machine's memory; ``memory_failures``: how often
    usage met the limit (v1), or the OOM killer was called (v2). ``pids_limit`` 0: none. ``network``: by name,
    without loopback; empty on the host's network. What a hierarchy that is not there would tell is 0 or empty.
    """

    time: int
    unified: bool
    cpu_total: int = 0
    cpu_user: int = 0
    cpu_system: int = 0
    per_cpu: tuple[int, ...] = ()
    throttling: tuple[int, int, int] = (0, 0, 0)
    online_cpus: int = 0
    system_cpu: int = 0
    memory_usage: int = 0
    memory_limit: int = 0
    memory_max: int = 0
    memory_failures: int = 0
    memory_stat: Mapping[str, int] = attrs.field(factory=dict)
    pids: int = 0
    pids_limit: int = 0
    io: tuple[IoEntry, ...] = ()
    network: Mapping[str, Interface] = attrs.field(factory=dict)


def read_stats(paths: Paths, container: str, process: ProcessId | None, *, own_network: bool) -> Stats | None:
    """A sample of ``container``, whose first process is ``process``; None if it doesn't run.

    ``own_network``: it has a network namespace of its own to tell of. Blocks for less than a millisecond; the
    kernel adds up the memory of a container with many processes a little longer.
    """
    if process is None or not is_alive(process):
        return None
    below = f"{cgroup_of(paths)}/{container}".lstrip("/")
    mounts = controller_mounts()
    unified = cgroup_mode() == "v2"
    now = time.time_ns()
    if unified:
        place = f"{mounts['unified']}/{below}"
        if not os.path.isdir(place):
            return None
        found = _v2(place)
    else:
        places = {name: f"{mount}/{below}" for name, mount in mounts.items()}
        if not any(os.path.isdir(places[name]) for name in ("memory", "cpuacct", "pids") if name in places):
            return None
        found = _v1(places)
    system, online = _machine()
    limit = found.memory_limit
    return attrs.evolve(
        found,
        time=now,
        memory_limit=min(limit, _machine_memory()) if limit else _machine_memory(),
        system_cpu=system,
        online_cpus=online,
        network=_network(process.pid) if own_network else {},
    )


def _v1(places: Mapping[str, str]) -> Stats:
    cpu, memory = places.get("cpuacct", ""), places.get("memory", "")
    pids, blkio = places.get("pids", ""), places.get("blkio", "")
    throttling = _pairs(_read(f"{places.get('cpu', '')}/cpu.stat"))
    return Stats(
        time=0,
        unified=False,
        cpu_total=_number(f"{cpu}/cpuacct.usage"),
        cpu_user=_number(f"{cpu}/cpuacct.usage_user"),
        cpu_system=_number(f"{cpu}/cpuacct.usage_sys"),
        per_cpu=tuple(int(word) for word in _read(f"{cpu}/cpuacct.usage_percpu").split()),
        throttling=tuple(throttling.get(name, 0) for name in ("nr_periods", "nr_throttled", "throttled_time")),  # type: ignore[arg-type]
        memory_usage=_number(f"{memory}/memory.usage_in_bytes"),
        memory_limit=_number(f"{memory}/memory.limit_in_bytes"),
        memory_max=_number(f"{memory}/memory.max_usage_in_bytes"),
        memory_failures=_number(f"{memory}/memory.failcnt"),
        memory_stat=_pairs(_read(f"{memory}/memory.stat")),
        pids=_number(f"{pids}/pids.current"),
        pids_limit=_number(f"{pids}/pids.max"),
        io=_v1_io(blkio),
    )


def _v1_io(place: str) -> tuple[IoEntry, ...]:
    """Lines of ``MAJ:MIN OP VALUE``, of bytes in one file and of requests in another; a total without a device."""
    count = {
        tuple(words[:2]): int(words[2])
        for line in _read(f"{place}/blkio.throttle.io_serviced_recursive").split("\n")
        if len(words := line.split()) == 3
    }
    found = []
    for line in _read(f"{place}/blkio.throttle.io_service_bytes_recursive").split("\n"):
        if len(words := line.split()) == 3:
            major, _, minor = words[0].partition(":")
            entry = IoEntry(int(major), int(minor), words[1], int(words[2]), count.get((words[0], words[1]), 0))
            found.append(entry)
    return tuple(found)


def _v2(place: str) -> Stats:
    cpu = _pairs(_read(f"{place}/cpu.stat"))
    events = _pairs(_read(f"{place}/memory.events"))
    return Stats(
        time=0,
        unified=True,
        cpu_total=cpu.get("usage_usec", 0) * 1000,
        cpu_user=cpu.get("user_usec", 0) * 1000,
        cpu_system=cpu.get("system_usec", 0) * 1000,
        throttling=(cpu.get("nr_periods", 0), cpu.get("nr_throttled", 0), cpu.get("throttled_usec", 0) * 1000),
        memory_usage=_number(f"{place}/memory.current"),
        memory_limit=_number(f"{place}/memory.max"),
        memory_max=_number(f"{place}/memory.peak"),
        memory_failures=events.get("oom", 0),
        memory_stat=_pairs(_read(f"{place}/memory.stat")),
        pids=_number(f"{place}/pids.current"),
        pids_limit=_number(f"{place}/pids.max"),
        io=_v2_io(_read(f"{place}/io.stat")),
    )


def _v2_io(text: str) -> tuple[IoEntry, ...]:
    """Lines of ``MAJ:MIN rbytes=N wbytes=N rios=N wios=N ...``."""
    found = []
    for line in text.split("\n"):
        device, *words = line.split() or [""]
        major, colon, minor = device.partition(":")
        if colon:
            values = {
                key: int(value) for key, _, value in (word.partition("=") for word in words) if value.isdigit()
            }
            for op, size, count in (("read", "rbytes", "rios"), ("write", "wbytes", "wios")):
                found.append(IoEntry(int(major), int(minor), op, values.get(size, 0), values.get(count, 0)))
    return tuple(found)


def _machine() -> tuple[int, int]:
    """The machine's CPU time, of all kinds together, and how many CPUs are online (proc(5), /proc/stat)."""
    total = online = 0
    for line in _read("/proc/stat").split("\n"):
        if not line.startswith("cpu"):
            break
        if line[3] == " ":
            total = sum(int(word) for word in line.split()[1:8]) * _TICK
        else:
            online += 1
    return total, online


@functools.cache
def _machine_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _network(pid: int) -> dict[str, Interface]:
    found = {}
    for line in _read(f"/proc/{pid}/net/dev").split("\n"):
        name, colon, rest = line.partition(":")
        words = rest.split()
        if colon and name.strip() != "lo" and len(words) >= 12:
            values = [int(words[index]) for index in (0, 1, 2, 3, 8, 9, 10, 11)]
            found[name.strip()] = Interface(*values)
    return found


def _read(path: str) -> str:
    """The beginning of a file that the kernel makes up, all of it in one read; empty if it isn't there."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, _SIZE).decode("ascii", "replace")
        finally:
            os.close(fd)
    return ""


def _number(path: str) -> int:
    """The number in a file; 0 for ``max`` and for none."""
    word = _read(path).strip()
    return int(word) if word.isdigit() else 0


def _pairs(text: str) -> dict[str, int]:
    found = {}
    for line in text.split("\n"):
        name, _, value = line.partition(" ")
        if value.isdigit():
            found[name] = int(value)
    return found
