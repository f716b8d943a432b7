"""Executing the OCI runtime from the keeper, and waiting for what it made when it is gone itself."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import attrs
import trio

from lading.storage.procfs import start_ticks

__all__ = [
    "check_room",
    "launch",
    "open_pipes",
    "reap_strays",
    "wait_gone",
    "wait_orphan",
    "wait_runtime",
    "with_room",
]

_T = TypeVar("_T")

_ENVIRON = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


_SPARE = 64
"""Descriptors that are left to what this process opens for a moment, and for those that it has already."""
_AGAIN = 0.05
"""Seconds after which what found no descriptor left is tried again."""


def check_room(fds: Sequence[int]) -> None:
    """Raise ``OSError`` (EMFILE) if ``fds``, just opened for another run, are among the last that may be.

    A new descriptor has the lowest number that is free (open(2)), so its number tells how many are taken. Who
    keeps runs must never be out of descriptors itself: it has to read, reap and tell.
    """
    if max(fds) >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def with_room(attempt: Callable[[], _T]) -> _T:
    """What ``attempt`` returns, tried again for as long as no descriptor is left for it."""
    while True:
        try:
            return attempt()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            await trio.sleep(_AGAIN)


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
        pidfd = os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    _runtimes.add(pid)
    _orphans.pop(pid, None)
    return pid, pidfd


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
        check_room(ours)
    except OSError:
        for fd in (*ours, *theirs):
            if fd >= 0:
                os.close(fd)
        raise
    return ours, theirs


async def wait_runtime(pid: int, pidfd: int) -> int:
    """The exit code of our child ``pid``; negative: it was killed by that signal. Closes nothing."""
    try:
        await trio.lowlevel.wait_readable(pidfd)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222  # a zombie by now
    finally:
        _runtimes.discard(pid)


async def wait_orphan(pid: int, ticks: int) -> int | None:
    """The exit code (128 + n for signal n) of a process that is our child because its parent is gone.

    ``ticks``: when it started, as its identity; 0 if it was a zombie by then. None: it is not there, or was not
    ours to reap.
    """
    orphan = _orphans.get(pid)
    if orphan is None or (orphan.gone.is_set() and start_ticks(pid)):  # reused since: another one
        # A zombie tells no start time any more; that it is our child, waitpid tells.
        if pid == 0 or start_ticks(pid) not in (0, ticks):
            return None
        orphan = _orphans[pid] = _Orphan()
        await _reap(pid, orphan)
    else:
        await orphan.gone.wait()
    _orphans.pop(pid, None)
    return orphan.code


async def reap_strays() -> None:
    """Reap the children that somebody who is gone has left to us, and that nobody else waits for.

    A runtime that fails in the middle leaves such a child, and it may be in the container's pid namespace: until
    it is reaped the namespace, and with it the container, can't end (pid_namespaces(7)).
    """
    strays = [pid for pid in await with_room(_children) if pid not in _runtimes and not _is_awaited(pid)]
    async with trio.open_nursery() as nursery:
        for pid in strays:
            orphan = _orphans[pid] = _Orphan()
            nursery.start_soon(_reap, pid, orphan)
    for pid in strays:
        if len(_orphans) > _REMEMBERED:
            _orphans.pop(pid, None)


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
        return [int(word) for word in file.read().split()]


@attrs.define(eq=False)
class _Orphan:
    """A child that was another's. ``code`` is there once it is ``gone``."""

    gone: trio.Event = attrs.field(factory=trio.Event)
    code: int | None = None


def _is_awaited(pid: int) -> bool:
    orphan = _orphans.get(pid)
    return orphan is not None and not orphan.gone.is_set()


_runtimes: set[int] = set()
"""The children that were launched and are waited for."""
_orphans: dict[int, _Orphan] = {}
"""The children that are waited for otherwise, and some that were: somebody may still want to know of them."""
_REMEMBERED = 1000


async def wait_gone(pid: int) -> None:
    """Return when ``pid`` is a zombie, or is not there. One that is not our child may be another by then."""
    try:
        pidfd = await with_room(partial(os.pidfd_open, pid))
    except OSError:
        return
    try:
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)


async def _reap(pid: int, orphan: _Orphan) -> None:
    try:
        await wait_gone(pid)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222  # a zombie by now
        orphan.code = status if status >= 0 else 128 - status
    except OSError:
        pass
    finally:
        orphan.gone.set()
