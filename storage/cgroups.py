"""Control groups of containers, found and removed on v1, hybrid and v2 hosts (cgroups(7))."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from pathlib import Path

__all__ = [
    "cgroup_mode",
    "cgroup_mounts",
    "controller_mounts",
    "in_cgroup",
    "kill_all",
    "missing_limits",
    "oom_kills",
    "processes_in",
    "remove_cgroup",
    "thaw_process",
]

# Where v1 has the limit (by its field in ``events.settings.Resources``): controller, files of which one is enough.
_V1_FILES = {
    "memory": ("memory", "memory.limit_in_bytes"),
    "memory_reservation": ("memory", "memory.soft_limit_in_bytes"),
    "memory_swap": ("memory", "memory.memsw.limit_in_bytes"),
    "swappiness": ("memory", "memory.swappiness"),
    "oom_kill_disable": ("memory", "memory.oom_control"),
    "cpu_shares": ("cpu", "cpu.shares"),
    "cpu_period": ("cpu", "cpu.cfs_period_us"),
    "cpu_quota": ("cpu", "cpu.cfs_quota_us"),
    "nano_cpus": ("cpu", "cpu.cfs_quota_us"),
    "cpuset_cpus": ("cpuset", "cpuset.cpus"),
    "cpuset_mems": ("cpuset", "cpuset.mems"),
    "pids": ("pids", "cgroup.procs"),
    "blkio_weight": ("blkio", "blkio.weight", "blkio.bfq.weight"),
    "read_bps": ("blkio", "blkio.throttle.read_bps_device"),
    "write_bps": ("blkio", "blkio.throttle.write_bps_device"),
    "read_iops": ("blkio", "blkio.throttle.read_iops_device"),
    "write_iops": ("blkio", "blkio.throttle.write_iops_device"),
}
# v2 has no swappiness of a cgroup, and its OOM killer can't be turned off. blkio is called io there.
_V1_ONLY = frozenset(("swappiness", "oom_kill_disable"))
_CONTROLLERS = frozenset(
    ("cpu", "cpuacct", "cpuset", "memory", "blkio", "pids", "freezer", "devices", "hugetlb"),
)


@functools.cache
def cgroup_mounts() -> tuple[Path, ...]:
    """Where each hierarchy is mounted."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            if right.split(" ", 1)[0] in ("cgroup", "cgroup2"):
                found.append(Path(left.split()[4]))
    return tuple(found)


@functools.cache
def controller_mounts() -> dict[str, Path]:
    """Where each v1 controller's hierarchy is mounted, and as ``unified`` the v2 tree."""
    found: dict[str, Path] = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            kind, _, options = right.rstrip("\n").split(" ", 2)
            if kind == "cgroup2":
                found.setdefault("unified", Path(left.split()[4]))
            elif kind == "cgroup":
                for word in _CONTROLLERS.intersection(options.split(",")):
                    found.setdefault(word, Path(left.split()[4]))
    return found


def missing_limits() -> frozenset[str]:
    """The limits, by their fields in ``events.settings.Resources``, that this kernel doesn't have."""
    mounts = controller_mounts()
    unified = mounts.get("unified")
    controllers = (unified / "cgroup.controllers").read_text().split() if unified is not None else []
    if cgroup_mode() == "v2":
        names = {name: "io" if entry[0] == "blkio" else entry[0] for name, entry in _V1_FILES.items()}
        return _V1_ONLY | {name for name, controller in names.items() if controller not in controllers}
    missing = set()
    for name, (controller, *files) in _V1_FILES.items():
        place = mounts.get(controller)
        if place is None or not any((place / file).exists() for file in files):
            missing.add(name)
    return frozenset(missing)


def cgroup_mode() -> str:
    """``v2`` (unified), ``hybrid`` (v1 with a v2 tree beside it), ``v1`` or ``none``."""
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return "v2"
    mounts = cgroup_mounts()
    if not mounts:
        return "none"
    return "hybrid" if any((mount / "cgroup.controllers").exists() for mount in mounts) else "v1"


def in_cgroup(pid: int, cgroup: str) -> bool:
    """Whether process ``pid`` is in ``cgroup``, or below it, in any hierarchy. False if it is gone."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            return any(f"{cgroup}/" in line.rstrip("\n").split(":", 2)[2] + "/" for line in file)
    except OSError:
        return False


def processes_in(cgroup: str) -> set[int]:
    """The processes in ``cgroup`` (absolute, from each hierarchy's root) of any hierarchy."""
    found: set[int] = set()
    for mount in cgroup_mounts():
        with contextlib.suppress(OSError):
            found.update(int(line) for line in (mount / cgroup.lstrip("/") / "cgroup.procs").read_text().split())
    return found


def kill_all(cgroup: str) -> set[int]:
    """Send SIGKILL to every process in ``cgroup``; which they were. The root is nobody's to kill."""
    if not cgroup.strip("/"):
        raise ValueError(f"{cgroup!r} is no container's cgroup")
    found = processes_in(cgroup)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def thaw_process(pid: int) -> None:
    """Let the cgroup that ``pid`` is in go on, if it is frozen: a frozen process heeds no signal."""
    mounts = controller_mounts()
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            _, controllers, path = line.split(":", 2)
            v1 = "freezer" in controllers.split(",")
            mount = mounts.get("freezer" if v1 else "unified") if v1 or not controllers else None
            if mount is not None and path.strip("/"):
                file = mount / path.lstrip("/") / ("freezer.state" if v1 else "cgroup.freeze")
                with contextlib.suppress(OSError):
                    file.write_text("THAWED" if v1 else "0")


def oom_kills(cgroup: str) -> int:
    """How many processes of ``cgroup``, or below it, the kernel has killed for want of memory; 0 if it is gone.

    v1's memory.oom_control (memory.rst, since Linux 4.13), v2's memory.events (cgroup-v2.rst).
    """
    mounts = controller_mounts()
    unified = "memory" not in mounts
    top = mounts.get("unified" if unified else "memory", Path("/")) / cgroup.lstrip("/")
    name = "memory.events" if unified else "memory.oom_control"
    count = 0
    for directory in [os.fspath(top)] if unified else [place for place, _, _ in os.walk(top)]:
        with contextlib.suppress(OSError), open(f"{directory}/{name}", encoding="ascii") as file:
            count += sum(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
    return count


def remove_cgroup(cgroup: str, *, below: bool = True) -> None:
    """Remove ``cgroup`` and what is ``below`` it from every hierarchy. One that is still used stays."""
    for mount in cgroup_mounts():
        top = mount / cgroup.lstrip("/")
        if top.is_dir():
            for directory in [place for place, _, _ in os.walk(top, topdown=False)] if below else [top]:
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
