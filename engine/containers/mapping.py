"""Many runs, a bounded number of them at once, and their results as they come."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from types import TracebackType

import attrs
import trio

from lading.engine.containers.running import Completed, Running
from lading.engine.nursery import open_bare_nursery
from lading.events.errors import LadingError

__all__ = ["Mapped", "Results"]

Command = Sequence[str]


@attrs.frozen
class Mapped:
    """What became of one command: ``completed``, or ``error`` if it could not be run. ``index``: from 0."""

    index: int
    command: tuple[str, ...]
    completed: Completed | None
    error: LadingError | None = None


class Results:
    """What ``Containers.map`` gives: ``async with`` it, and iterate over the results, in the order they come.

    No command is taken from ``commands`` before there is room for it, and no more than ``limit`` results wait to
    be taken: who is slow holds back the runs, and memory is bounded by ``limit`` however many commands there are.
    Leaving the block early, or a cancel, stops what runs and removes it. A command that can't be run is a
    ``Mapped`` with its error; what ``commands`` itself raises ends the block.
    """

    def __init__(
        self, begin: Callable[[Command], Running], commands: Iterable[Command] | AsyncIterable[Command], limit: int
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        self._begin = begin
        self._commands = commands
        self._limit = limit
        self._nursery = open_bare_nursery()

    async def __aenter__(self) -> AsyncIterator[Mapped]:
        send, receive = trio.open_memory_channel[Mapped](0)
        self._receive = receive
        nursery = await self._nursery.__aenter__()
        self._scope = nursery.cancel_scope
        nursery.start_soon(self._run_all, send)
        return receive

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._scope.cancel()
        self._receive.close()
        return await self._nursery.__aexit__(kind, error, trace)

    async def _run_all(self, send: trio.MemorySendChannel[Mapped]) -> None:
        room = trio.Semaphore(self._limit)
        index = 0

        async def begin(command: Command) -> None:
            nonlocal index
            await room.acquire()
            nursery.start_soon(self._run_one, index, tuple(command), send.clone(), room)
            index += 1

        async with send, open_bare_nursery() as nursery:
            if isinstance(self._commands, AsyncIterable):
                async for command in self._commands:
                    await begin(command)
            else:
                for command in self._commands:
                    await begin(command)

    async def _run_one(
        self, index: int, command: tuple[str, ...], send: trio.MemorySendChannel[Mapped], room: trio.Semaphore
    ) -> None:
        async with send:
            try:
                result = Mapped(index, command, await self._begin(command))
            except LadingError as error:
                result = Mapped(index, command, None, error)
            await send.send(result)
        room.release()
