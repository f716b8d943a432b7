"""A log that can grow without an engine: a container runs, and is asked to be killed any number of times."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from lading.engine.history.journal import Journal, open_journal
from lading.events.container import Created, KillRequested, Started, StartRequested
from lading.events.envelope import Actor, Proposed, Record
from lading.events.ids import CommandId, container_stream
from lading.events.spec import ContainerSpec, ProcessId
from lading.storage.log import Log

SPEC = ContainerSpec("sha256:" + "1" * 64, "app", (), ("true",), labels={"team": "a"})  # type: ignore[arg-type]
ACTOR = Actor(1000, 1000, 4, "test")
COMMAND = CommandId("c" * 32)
STREAM = container_stream("0" * 64)


@asynccontextmanager
async def growing(log: Log) -> AsyncIterator[Journal]:
    """A journal on ``log`` whose first three records are a container's, up to its running."""
    with trio.fail_after(60):
        async with open_journal(log) as journal:
            container = STREAM.removeprefix("container/")
            begun: Any = (Created(container, "web", SPEC), StartRequested(1), Started(1, ProcessId("b", 2, 3)))  # type: ignore[arg-type]
            await tell(journal, *(Proposed(STREAM, event) for event in begun))
            yield journal


async def tell(journal: Journal, *events: Proposed) -> tuple[Record, ...]:
    return await journal.append(events, actor=ACTOR, command=COMMAND)


async def grow(journal: Journal, count: int, at_once: int = 1) -> None:
    """``count`` records more, in appends of ``at_once``."""
    for _ in range(count // at_once):
        await tell(journal, *[Proposed(STREAM, KillRequested("SIGTERM"))] * at_once)
