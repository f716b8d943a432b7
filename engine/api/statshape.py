"""A sample of what a container uses, in the shape that Docker's clients read.

Source: Docker Engine API v1.47, ContainerStats; moby ``api/types/container/stats.go`` (v27). Clients compute the
share of the processors from this sample and the one before it.
"""

from __future__ import annotations

from typing import Any

from lading.engine.api.words import instant
from lading.engine.stats import NetworkUse, Stats

__all__ = ["docker_stats"]

Json = dict[str, Any]


def docker_stats(now: Stats, before: Stats | None, name: str, container: str) -> Json:
    """``now`` of the container ``name`` (with its slash), with the sample ``before`` it if there was one."""
    shown: Json = {
        "name": name,
        "id": container,
        "read": instant(now.time),
        "preread": instant(before.time if before else 0),
        "num_procs": 0,
        "pids_stats": {"current": now.pids} | ({"limit": now.pids_limit} if now.pids_limit else {}),
        "blkio_stats": _devices(now),
        "storage_stats": {},
        "cpu_stats": _processor(now),
        "precpu_stats": _processor(before) if before else _NONE,
        "memory_stats": _memory(now),
    }
    if now.network:
        shown["networks"] = {interface: _network(use) for interface, use in now.network.items()}
    return shown


_NONE: Json = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}


def _processor(sample: Stats) -> Json:
    usage: Json = {
        "total_usage": sample.cpu_time,
        "usage_in_kernelmode": sample.cpu_system,
        "usage_in_usermode": sample.cpu_user,
    }
    if sample.cpus:
        usage["percpu_usage"] = list(sample.cpus)
    return {
        "cpu_usage": usage,
        "system_cpu_usage": sample.system_time,
        "online_cpus": sample.online,
        "throttling_data": {
            "periods": sample.periods,
            "throttled_periods": sample.throttled_periods,
            "throttled_time": sample.throttled_time,
        },
    }


def _memory(sample: Stats) -> Json:
    shown: Json = {"usage": sample.memory_used, "stats": dict(sample.memory), "limit": sample.memory_limit}
    if not sample.cgroup_v2:
        shown |= {"max_usage": sample.memory_most, "failcnt": sample.memory_failures}
    return shown


def _devices(sample: Stats) -> Json:
    def entries(read: str, write: str) -> list[Json]:
        return [
            {"major": use.major, "minor": use.minor, "op": word, "value": getattr(use, field)}
            for use in sample.devices
            for word, field in (("read", read), ("write", write))
        ]

    rest = ("io_queue_recursive", "io_service_time_recursive", "io_wait_time_recursive", "io_merged_recursive")
    return {
        "io_service_bytes_recursive": entries("read_bytes", "written_bytes"),
        "io_serviced_recursive": entries("reads", "writes"),
        **dict.fromkeys((*rest, "io_time_recursive", "sectors_recursive")),
    }


def _network(use: NetworkUse) -> Json:
    return {
        "rx_bytes": use.received_bytes,
        "rx_packets": use.received_packets,
        "rx_errors": use.received_errors,
        "rx_dropped": use.received_dropped,
        "tx_bytes": use.sent_bytes,
        "tx_packets": use.sent_packets,
        "tx_errors": use.sent_errors,
        "tx_dropped": use.sent_dropped,
    }
