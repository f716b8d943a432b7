"""The engine as a daemon: one store, one socket, until it is told to end or nobody needs it any more."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable

import trio

from lading.engine.api.server import serve_listener
from lading.engine.engine import Engine, open_engine
from lading.engine.http import server as http_server
from lading.engine.http.unix_socket import listen_unix
from lading.engine.nursery import open_bare_nursery
from lading.storage.plan import DEFAULT_LIMITS, Limits

__all__ = ["serve"]

_LOOK = 1.0
"""Seconds between two looks at whether anybody is there, at most."""


async def serve(
    root: str | os.PathLike[str],
    socket: str | os.PathLike[str],
    idle: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> None:
    """Own the store at ``root`` and serve its API at ``socket``, until SIGTERM or SIGINT.

    The socket is there once recovery is done: who can connect sees the truth. Ending leaves the containers
    running, for the next one to adopt. With ``idle``, it also ends by itself when for so many seconds no
    container was running or being changed and no connection was open. ``progress`` and ``limits`` are those of
    ``open_engine``.

    Raises what ``open_engine`` raises, and ``InUse``, ``Invalid`` or ``HostError`` when there can be no socket.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_bare_nursery() as nursery:
            ending = _Ending(nursery.cancel_scope)
            nursery.start_soon(ending.watch, signals)
            async with open_engine(root, progress=progress, limits=limits) as engine:
                # From here on a signal only ends the serving, so that the engine closes as after a day's work.
                with ending.scope_of_work():
                    door = _Door(listen_unix(socket, mode=0o600))
                    async with open_bare_nursery() as serving:
                        await serving.start(serve_listener, engine, door)
                        await _wait_idle(engine, door, idle)
                        serving.cancel_scope.cancel()
            nursery.cancel_scope.cancel()


class _Ending:
    """What a signal cancels: everything, or, once that is there, the work."""

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope

    async def watch(self, signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            self._scope.cancel()

    def scope_of_work(self) -> trio.CancelScope:
        self._scope = trio.CancelScope()
        return self._scope


class _Door(trio.abc.Listener[trio.SocketStream]):
    """A listener that knows which of its connections are still open."""

    def __init__(self, listener: http_server.Listener) -> None:
        self._listener = listener
        self._inside: set[trio.SocketStream] = set()
        self._came = False

    async def accept(self) -> trio.SocketStream:
        stream = await self._listener.accept()
        self._inside = {other for other in self._inside if other.socket.fileno() >= 0}
        self._inside.add(stream)
        self._came = True
        return stream

    async def aclose(self) -> None:
        await self._listener.aclose()

    def was_used(self) -> bool:
        """Whether a connection is open, or was since this was last asked."""
        came, self._came = self._came, False
        return came or any(stream.socket.fileno() >= 0 for stream in self._inside)


async def _wait_idle(engine: Engine, door: _Door, idle: float | None) -> None:
    """Return when for ``idle`` seconds nothing was going on; never, if that is None."""
    if idle is None:
        await trio.sleep_forever()
    since = trio.current_time()
    while trio.current_time() - since < idle:
        await trio.sleep(min(_LOOK, max(idle / 4, 0.01)))
        if engine.core.live or door.was_used():
            since = trio.current_time()
