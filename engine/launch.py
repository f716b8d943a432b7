"""Executing the OCI runtime from the keeper, and waiting for what it made when it is gone itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import trio

from lading.storage.procfs import start_ticks

__all__ = ["launch", "open_pipes", "wait_orphan", "wait_runtime"]

_ENVIRON = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def launch(argv: list[str], stdio: Sequence[int]) -> tuple[int, int]:
    """Execute ``argv`` with the three descriptors ``stdio`` and no other, in a session of its own.

    ``stdio`` stays the caller's. Returns its pid and a pidfd. ``OSError`` leaves nothing running.
    """
    pid = os.posix_spawn(
        argv[0],
        argv,
        _ENVIRON,
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio)],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT],  # what Python or main has changed
    )
    try:
        return pid, os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def open_pipes(with_stdin: bool) -> tuple[list[int], list[int]]:
    """Our and their ends of standard input (-1 and /dev/null: none), output, error. ``OSError``: none is open."""
    ours: list[int] = []
    theirs: list[int] = []
    try:
        if with_stdin:
            read, write = os.pipe2(os.O_CLOEXEC)
        else:
            read, write = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), -1
        theirs.append(read)
        ours.append(write)
        for _ in range(2):
            read, write = os.pipe2(os.O_CLOEXEC)
            ours.append(read)
            theirs.append(write)
    except OSError:
        for fd in (*ours, *theirs):
            if fd >= 0:
                os.close(fd)
        raise
    return ours, theirs


async def wait_runtime(pid: int, pidfd: int) -> int:
    """The exit code of our child ``pid``; negative: it was killed by that signal. Closes nothing."""
    await trio.lowlevel.wait_readable(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222  # a zombie by now


async def wait_orphan(pid: int, ticks: int) -> int | None:
    """The exit code (128 + n for signal n) of a process that is our child because its parent is gone.

    ``ticks``: when it started, as its identity; 0 if it was a zombie by then. None: it is not there, or was not
    ours to reap.
    """
    # A zombie tells no start time any more; that it is our child, waitpid tells.
    if pid == 0 or start_ticks(pid) not in (0, ticks):
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222  # a zombie by now
    except ChildProcessError:
        return None
    return status if status >= 0 else 128 - status
