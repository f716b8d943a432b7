"""Notice that a client has gone, without reading from it.

Reading to find the end of a connection would take in bytes that belong to the next request, and would take a
client that only finished *sending* (shutdown(2) with SHUT_WR, as ``nc -N`` does) for one that went away.
epoll reports the two apart: EPOLLHUP comes, asked for or not, when both directions are over, which for a Unix
socket means that the peer closed it or died (epoll_ctl(2)). trio can't wait for that alone, but an epoll
descriptor is itself readable when it has something to report: so one descriptor and one task watch all
connections.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import contextmanager

import trio

__all__ = ["Hangups", "Watch"]


class Watch:
    """What to do when one connection's client goes; ``gone`` tells whether it has."""

    def __init__(self, hangups: Hangups, fd: int) -> None:
        self.gone: bool = False
        self._hangups = hangups
        self._fd = fd
        self._scope: trio.CancelScope | None = None
        self._linger = 0.0

    def cancels(self, scope: trio.CancelScope | None, *, linger: float = 0.0) -> None:
        """From now on, cancel ``scope`` (None: nothing) ``linger`` seconds after the client is gone."""
        self._scope = scope
        self._linger = linger
        if self.gone:
            self._cancel()

    def release(self) -> None:
        """Stop watching. To be called before the descriptor is closed; its number may be another's next."""
        self._hangups._forget(self._fd, self)

    def _fire(self) -> None:
        self.gone = True
        self._cancel()

    def _cancel(self) -> None:
        if self._scope is None:
            return
        if self._linger:
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + self._linger)
        else:
            self._scope.cancel()


class Hangups:
    """The watch over all connections of a server. Needs `run` as a background task and `close` at the end."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watches: dict[int, Watch] = {}

    def close(self) -> None:
        self._epoll.close()

    @contextmanager
    def watch(self, fd: int) -> Iterator[Watch]:
        """Watch ``fd``, a connected socket that stays open within the block."""
        watch = Watch(self, fd)
        self._epoll.register(fd, 0)
        self._watches[fd] = watch
        try:
            yield watch
        finally:
            watch.release()

    def _forget(self, fd: int, watch: Watch) -> None:
        if self._watches.get(fd) is watch:
            del self._watches[fd]
            self._epoll.unregister(fd)

    async def run(self) -> None:
        """Fire watches until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for fd, _ in self._epoll.poll(0):
                # The report is level-triggered: unless it is taken out, this loop would spin on it.
                watch = self._watches[fd]
                watch.release()
                watch._fire()
