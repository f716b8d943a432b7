"""A request that is made again with the same command id: what the first one led to, instead of doing it twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from lading.engine.core import Caller, Core
from lading.events.container import Exited, StartFailed
from lading.events.envelope import Record
from lading.events.errors import CannotStart, CommandReused
from lading.events.ids import ContainerId, container_stream

__all__ = ["deciding", "end_of_run", "first_result", "start_error"]


@asynccontextmanager
async def deciding(core: Core, caller: Caller) -> AsyncIterator[None]:
    """Around the look for a first result and the append that is done if there is none: retries come one by one."""
    if not caller.once:
        yield
        return
    lock = core.retries.setdefault(caller.command, trio.Lock())
    try:
        async with lock:
            yield
    finally:
        statistics = lock.statistics()
        if not statistics.locked and not statistics.tasks_waiting:
            core.retries.pop(caller.command, None)


def first_result(core: Core, caller: Caller, *kinds: type[Any]) -> Record | None:
    """The record of one of ``kinds`` that ``caller``'s request led to, if this is a retry (``Caller.once``) of it.

    None if it is no retry, or the first try left no trace: then it is to be done. Raises ``CommandReused`` if
    that id was another kind of request's.
    """
    if not caller.once:
        return None
    first = core.log.first_append(caller.command)
    if first is None:
        return None
    for record in first:
        if isinstance(record.event, kinds):
            return record
    raise CommandReused(caller.command, first[0].position)


def end_of_run(core: Core, container: ContainerId, run: int | None = None) -> Exited | StartFailed | None:
    """How run number ``run``, or else the last one, ended; None: not yet, or not known.

    From the container's stream, which outlives it.
    """
    version = 0
    last: Exited | StartFailed | None = None
    while page := core.log.read_stream(container_stream(container), version):
        for record in page:
            if isinstance(record.event, Exited | StartFailed) and run in (None, record.event.run):
                last = record.event
        version = page[-1].version
    return last


def start_error(core: Core, container: ContainerId, run: int) -> CannotStart | None:
    """Why run number ``run`` did not start, if it didn't."""
    end = end_of_run(core, container, run)
    return CannotStart(container, end.exit_code, end.why) if isinstance(end, StartFailed) else None
