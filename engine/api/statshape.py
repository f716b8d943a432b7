"""A sample of what a container uses, in the shape of Docker's API v1.47 (ContainerStats; moby's StatsResponse).

The shape's two flavours are those of cgroup v1 and v2. What is zero is left out where Docker leaves it out.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from lading.engine.containers.stats import IoEntry, Stats

__all__ = ["docker_stats", "empty_stats"]

_NEVER: Final = "0001-01-01T00:00:00Z"
_V1_STAT: Final = """
cache rss rss_huge mapped_file dirty writeback pgpgin pgpgout pgfault pgmajfault inactive_anon active_anon
inactive_file active_file unevictable
"""
_V1: Final = (
    *_V1_STAT.split(),
    "hierarchical_memory_limit",
    "hierarchical_memsw_limit",
    *(f"total_{name}" for name in _V1_STAT.split()),
)
_V2_STAT: Final = """
anon file kernel_stack slab sock shmem file_mapped file_dirty file_writeback anon_thp inactive_anon active_anon
inactive_file active_file unevictable slab_reclaimable slab_unreclaimable pgfault pgmajfault workingset_refault
workingset_activate workingset_nodereclaim pgrefill pgscan pgsteal pgactivate pgdeactivate pglazyfree pglazyfreed
thp_fault_alloc thp_collapse_alloc
"""
_V2: Final = tuple(_V2_STAT.split())
_BLKIO: Final = (
    "io_service_bytes_recursive",
    "io_serviced_recursive",
    "io_queue_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "io_time_recursive",
    "sectors_recursive",
)


def docker_stats(stats: Stats | None, previous: Stats | None, name: str, container: str) -> dict[str, object]:
    """The JSON object for a sample and the one before it (None: there is none) of ``container`` called ``name``.

    Without ``stats``, that is, if the container doesn't run: Docker's empty one.
    """
    if stats is None:
        return empty_stats(name, container)
    shape: dict[str, object] = {
        "read": _moment(stats.time),
        "preread": _NEVER if previous is None else _moment(previous.time),
        "pids_stats": _filled({"current": stats.pids, "limit": stats.pids_limit}),
        "blkio_stats": _blkio(stats),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(stats),
        "precpu_stats": _cpu(previous),
        "memory_stats": _memory(stats),
        "name": f"/{name}",
        "id": container,
    }
    if stats.network:
        shape["networks"] = {
            interface: {
                "rx_bytes": counts.rx_bytes,
                "rx_packets": counts.rx_packets,
                "rx_errors": counts.rx_errors,
                "rx_dropped": counts.rx_dropped,
                "tx_bytes": counts.tx_bytes,
                "tx_packets": counts.tx_packets,
                "tx_errors": counts.tx_errors,
                "tx_dropped": counts.tx_dropped,
            }
            for interface, counts in stats.network.items()
        }
    return shape


def empty_stats(name: str, container: str) -> dict[str, object]:
    """What Docker says of a container that doesn't run."""
    return {
        "read": _NEVER,
        "preread": _NEVER,
        "pids_stats": {},
        "blkio_stats": dict.fromkeys(_BLKIO),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(None),
        "precpu_stats": _cpu(None),
        "memory_stats": {},
        "name": f"/{name}",
        "id": container,
    }


def _cpu(stats: Stats | None) -> dict[str, object]:
    if stats is None:
        usage: dict[str, object] = {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0}
        return {"cpu_usage": usage, "throttling_data": _throttling((0, 0, 0))}
    usage = {"total_usage": stats.cpu_total}
    if stats.per_cpu:
        usage["percpu_usage"] = list(stats.per_cpu)
    usage |= {"usage_in_kernelmode": stats.cpu_system, "usage_in_usermode": stats.cpu_user}
    machine = _filled({"system_cpu_usage": stats.system_cpu, "online_cpus": stats.online_cpus})
    return {"cpu_usage": usage, **machine, "throttling_data": _throttling(stats.throttling)}


def _throttling(numbers: tuple[int, int, int]) -> dict[str, int]:
    return dict(zip(("periods", "throttled_periods", "throttled_time"), numbers, strict=True))


def _memory(stats: Stats) -> dict[str, object]:
    shape: dict[str, object] = {"usage": stats.memory_usage}
    if not stats.unified:
        shape["max_usage"] = stats.memory_max
    shape["stats"] = {name: stats.memory_stat.get(name, 0) for name in (_V2 if stats.unified else _V1)}
    shape |= {"failcnt": stats.memory_failures, "limit": stats.memory_limit}
    return _filled(shape)


def _blkio(stats: Stats) -> dict[str, object]:
    shape: dict[str, object] = dict.fromkeys(_BLKIO)
    sizes = [_entry(each, each.bytes) for each in stats.io]
    if stats.unified:
        shape["io_service_bytes_recursive"] = sizes or None
        return shape
    shape = {name: [] for name in _BLKIO}
    shape["io_service_bytes_recursive"] = sizes
    shape["io_serviced_recursive"] = [_entry(each, each.count) for each in stats.io]
    return shape


def _entry(each: IoEntry, value: int) -> dict[str, object]:
    return {"major": each.major, "minor": each.minor, "op": each.op, "value": value}


def _filled(shape: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in shape.items() if value}


def _moment(time: int) -> str:
    """RFC 3339 in UTC, with nanoseconds as far as they aren't zero, as Go writes them."""
    seconds, rest = divmod(time, 10**9)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return f"{text}{fraction}Z"
