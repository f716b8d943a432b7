"""How much memory the processes of an engine held at the most, with their descendants as they come and go."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

PERIOD = 0.01
"""Seconds between two looks. Who lives shorter is missed; who lives longer is known by its high-water mark."""


def _status(pid: int, field: str) -> int:
    """A number of ``/proc/PID/status``, or 0."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
    return 0


def _family(pids: Collection[int]) -> set[int]:
    """``pids`` and all that descend from them."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            parents.setdefault(_status(int(entry), "PPid"), []).append(int(entry))
    found, left = set(), list(pids)
    while left:
        pid = left.pop()
        if pid not in found:
            found.add(pid)
            left += parents.get(pid, [])
    return found


class Peak:
    """A context manager. ``bytes``: the largest sum of the high-water marks of processes that lived at one time.

    ``roots`` is asked again at each look. Marks of those that are there before are set back first
    (proc_pid_clear_refs(5)).
    """

    def __init__(self, roots: Callable[[], Collection[int]]) -> None:
        self._roots = roots
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.bytes = 0

    def __enter__(self) -> Peak:
        for pid in _family(self._roots()):
            with suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(PERIOD):
            self.bytes = max(self.bytes, sum(_status(pid, "VmHWM") for pid in _family(self._roots())) * 1024)
