"""A nursery inside a context manager, unseen by its users."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

__all__ = ["open_bare_nursery", "open_service_nursery", "together"]


async def together(*functions: Callable[[], Awaitable[None]]) -> None:
    """Run ``functions`` at once, to the end of all of them.

    The first error ends the others, and comes out alone, as it was raised: what the others had to say by then is
    mostly the same.
    """
    failure: Exception | None = None

    async def run(function: Callable[[], Awaitable[None]]) -> None:
        nonlocal failure
        try:
            await function()
        except Exception as error:
            failure = failure or error
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for function in functions:
            nursery.start_soon(run, function)
    if failure is not None:
        raise failure


@asynccontextmanager
async def open_bare_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery whose only error comes out as it was raised, not wrapped in a group.

    That the block around a ``yield`` is run by a nursery is our affair: whoever writes ``except NotFound``
    around it should not need to know. Several errors at once still come as a group. A cancel from outside that
    comes at the same time as an error is not one of them: it would be taken out on its way, and leave the error
    in a group after all.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        error: BaseException = group.split(trio.Cancelled)[1] or group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if error is group:
            raise
        raise error from error.__cause__


@asynccontextmanager
async def open_service_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery for tasks that the block relies on until its very end.

    A cancel from outside reaches the block and not these tasks, so that what the block does on its way out,
    shielded, still finds them at work. They are cancelled when the block is left. Their errors end the block.
    """
    async with open_bare_nursery() as around:
        services: trio.Nursery = await around.start(_hold)
        try:
            yield services
        finally:
            services.cancel_scope.cancel()


async def _hold(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    async with trio.open_nursery() as services:
        services.cancel_scope.shield = True
        task_status.started(services)
        await trio.sleep_forever()
