"""The options that limit what a container uses, of `run`, `create` and `update`, in the API's JSON.

Sources: docker/cli ``cli/command/container/opts.go``, ``update.go`` and ``opts/throttledevice.go`` (v27).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from lading.engine.cli.quantities import CPUS, SIZE, SWAP, parse_size

__all__ = ["limit_options", "limit_request", "parse_rate", "updatable_options"]

F = TypeVar("F", bound=Callable[..., Any])

_FIELDS: Final = {
    "memory": "Memory",
    "memory_reservation": "MemoryReservation",
    "memory_swap": "MemorySwap",
    "memory_swappiness": "MemorySwappiness",
    "cpus": "NanoCpus",
    "cpu_shares": "CpuShares",
    "cpu_period": "CpuPeriod",
    "cpu_quota": "CpuQuota",
    "cpuset_cpus": "CpusetCpus",
    "cpuset_mems": "CpusetMems",
    "pids_limit": "PidsLimit",
    "blkio_weight": "BlkioWeight",
    "device_read_bps": "BlkioDeviceReadBps",
    "device_write_bps": "BlkioDeviceWriteBps",
    "device_read_iops": "BlkioDeviceReadIOps",
    "device_write_iops": "BlkioDeviceWriteIOps",
    "oom_kill_disable": "OomKillDisable",
    "oom_score_adj": "OomScoreAdj",
    "shm_size": "ShmSize",
}


def parse_rate(text: str, *, bytes_: bool) -> dict[str, Any]:
    """``/dev/sda:1mb`` (with ``bytes_``) or ``/dev/sda:100`` as a member of ``BlkioDevice...``; ``ValueError``."""
    path, colon, rate = text.rpartition(":")
    if not colon or not path.startswith("/dev/"):
        raise ValueError(f"{text!r} is no rate: give a device's PATH:RATE, such as /dev/sda:1mb")
    if bytes_:
        return {"Path": path, "Rate": parse_size(rate)}
    if not (rate.isascii() and rate.isdecimal() and len(rate) < 19):
        raise ValueError(f"invalid rate for device: {text}. It is a positive number without a unit")
    return {"Path": path, "Rate": int(rate)}


def _rates(bytes_: bool) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], tuple[Any, ...]]:
    def callback(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> tuple[Any, ...]:
        try:
            return tuple(parse_rate(word, bytes_=bytes_) for word in words)
        except ValueError as error:
            raise click.BadParameter(f"{error}.") from None

    return callback


def _rate(name: str, what: str, *, bytes_: bool) -> Callable[[F], F]:
    return click.option(name, multiple=True, metavar="DEVICE:RATE", callback=_rates(bytes_), help=what)


_UPDATABLE: Final = (
    click.option("-m", "--memory", type=SIZE, metavar="SIZE", help="Limit its memory: 512m."),
    click.option("--memory-reservation", type=SIZE, metavar="SIZE", help="What it keeps when memory is short."),
    click.option("--memory-swap", type=SWAP, metavar="SIZE",
                 help="Limit memory and swap together; -1: swap without end.  [twice the memory]"),
    click.option("--cpus", type=CPUS, metavar="NUMBER", help="Limit its CPUs: 1.5."),
    click.option("-c", "--cpu-shares", type=int, metavar="WEIGHT", help="Its share of busy CPUs; usual is 1024."),
    click.option("--cpu-period", type=int, metavar="MICROSECONDS", help="The period that a quota is of."),
    click.option("--cpu-quota", type=int, metavar="MICROSECONDS", help="CPU time in each period."),
    click.option("--cpuset-cpus", metavar="LIST", help="The CPUs that it may use: 0-3,7."),
    click.option("--cpuset-mems", metavar="LIST", help="The memory nodes that it may use."),
    click.option("--pids-limit", type=int, metavar="NUMBER", help="Limit its processes; -1: no limit."),
    click.option("--blkio-weight", type=int, metavar="WEIGHT", help="Its share of busy disks, 10 to 1000."),
)  # fmt: skip
_FIXED: Final = (
    click.option("--memory-swappiness", type=int, metavar="PERCENT",
                 help="How readily it is swapped out, 0 to 100."),
    click.option("--oom-kill-disable", is_flag=True, help="Stop, not kill, it when its memory is used up."),
    click.option("--oom-score-adj", type=int, metavar="NUMBER", help="Sooner (1000) or never (-1000) killed."),
    click.option("--shm-size", type=SIZE, metavar="SIZE", help="The size of /dev/shm.  [64m]"),
    _rate("--device-read-bps", "Limit bytes a second read from a device.", bytes_=True),
    _rate("--device-write-bps", "Limit bytes a second written to a device.", bytes_=True),
    _rate("--device-read-iops", "Limit reads a second from a device.", bytes_=False),
    _rate("--device-write-iops", "Limit writes a second to a device.", bytes_=False),
)  # fmt: skip


def updatable_options(command: F) -> F:
    """Add the options for what can be changed while a container runs."""
    for option in reversed(_UPDATABLE):
        command = option(command)
    return command


def limit_options(command: F) -> F:
    """Add all of them."""
    for option in reversed((*_UPDATABLE, *_FIXED)):
        command = option(command)
    return command


def limit_request(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``HostConfig`` (or of an update) that the options' values ask for; what wasn't given is not
    there."""
    host: dict[str, Any] = {}
    for name, field in _FIELDS.items():
        value = options.get(name)
        if value is None or value is False or value == ():
            continue
        host[field] = list(value) if isinstance(value, tuple) else value
    return host
