"""Processes as /proc tells of them (proc(5)), and a pid that can't be mistaken for another process."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from lading.events.spec import ProcessId

__all__ = [
    "boot_id",
    "has_executed",
    "is_alive",
    "processes_naming",
    "send_signal",
    "set_child_subreaper",
    "start_ticks",
]


@functools.cache
def boot_id() -> str:
    """The identity of this boot (random(4), ``/proc/sys/kernel/random/boot_id``)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int:
    """When ``pid`` started, in clock ticks since boot; 0 if it is gone or already a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command name may hold spaces and parentheses: count fields after its last one.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def is_alive(process: ProcessId) -> bool:
    """Whether exactly this process still runs, in this boot."""
    return (
        process.start_ticks != 0 and process.boot == boot_id() and start_ticks(process.pid) == process.start_ticks
    )


def send_signal(process: ProcessId, number: int) -> bool:
    """Send signal ``number`` to exactly this process; False if it is gone. Never reaches a stranger.

    The pidfd is opened first and the start time read after: if they agree, the descriptor is this process.
    """
    with contextlib.suppress(ProcessLookupError):
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):  # a thread has the number now
                return False
            raise
        try:
            if is_alive(process):
                signal.pidfd_send_signal(pidfd, number)
                return True
        finally:
            os.close(pidfd)
    return False


def has_executed(pid: int, runtime: int, argv: Sequence[str] = ()) -> bool | None:
    """Whether ``pid``, made by the OCI runtime process ``runtime``, runs the container's command yet.

    Until then it still executes the runtime's own binary (crun), or is called ``runc:[2:INIT]``. None when it
    is gone or a zombie, which tells nothing. ``argv``: the runtime's command line, for one that may have left
    before what it made is executed.
    """
    try:
        mine = os.stat(f"/proc/{pid}/exe")
        with open(f"/proc/{pid}/comm", "rb") as file:
            if file.read().startswith(b"runc:["):
                return False
    except (FileNotFoundError, ProcessLookupError):
        return None  # a process that is ending has no executable any more, before it is a zombie
    try:
        theirs = os.stat(f"/proc/{runtime}/exe")
    except (FileNotFoundError, ProcessLookupError):
        return not argv or _command_line(pid) != argv  # the runtime is gone, and what it made lives on
    return (mine.st_dev, mine.st_ino) != (theirs.st_dev, theirs.st_ino)


def _command_line(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    except (FileNotFoundError, ProcessLookupError):
        return []


def processes_naming(argument: str) -> list[int]:
    """The processes that have ``argument`` as one whole word of their command line."""
    word = os.fsencode(argument)
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/cmdline", "rb") as file:
                if word in file.read().split(b"\0"):
                    found.append(int(entry))
    return found


def set_child_subreaper() -> None:
    """Become the parent of orphaned descendants (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(36, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
