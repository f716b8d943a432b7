"""Control groups of containers, found and removed on v1, hybrid and v2 hosts (cgroups(7))."""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path

__all__ = ["cgroup_mode", "cgroup_mounts", "in_cgroup", "processes_in", "remove_cgroup"]


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


def remove_cgroup(cgroup: str, *, below: bool = True) -> None:
    """Remove ``cgroup`` and what is ``below`` it from every hierarchy. One that is still used stays."""
    for mount in cgroup_mounts():
        top = mount / cgroup.lstrip("/")
        if top.is_dir():
            for directory in [place for place, _, _ in os.walk(top, topdown=False)] if below else [top]:
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
