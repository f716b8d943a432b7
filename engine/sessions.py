"""Sessions of processes (credentials(7)): everything that a command has started, as far as it stayed with it."""

from __future__ import annotations

import os
import signal

from lading.events.spec import ProcessId
from lading.storage.cgroups import processes_in
from lading.storage.procfs import boot_id, send_signal, start_ticks

__all__ = ["kill_session", "session_of"]


def session_of(pid: int) -> int:
    """The session of ``pid``; 0 if it is gone, or 0."""
    try:
        return os.getsid(pid) if pid else 0
    except ProcessLookupError:
        return 0


def kill_session(session: int, cgroup: str) -> None:
    """Kill what is in ``session`` and in the container's ``cgroup``, until nothing is: it may have forked."""
    for _ in range(10):
        found = [pid for pid in processes_in(cgroup) if session_of(pid) == session]
        for pid in found:
            ticks = start_ticks(pid)
            if session_of(pid) == session:  # still: so the time that was read is this process's
                send_signal(ProcessId(boot_id(), pid, ticks), signal.SIGKILL)
        if not found:
            return
