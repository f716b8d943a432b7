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


def kill_session(session: int, cgroup: str) -> bool:
    """Kill what is in ``session`` and in the container's ``cgroup``; False if nothing was.

    Not everything need be gone then, and it may have forked: to be called again until nothing is there.
    """
    found = False
    for pid in processes_in(cgroup):
        ticks = start_ticks(pid)
        if ticks and session_of(pid) == session:  # in this order: the time that was read is this process's
            found = True
            send_signal(ProcessId(boot_id(), pid, ticks), signal.SIGKILL)
    return found
