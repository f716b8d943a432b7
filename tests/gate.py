"""A journal to append to by hand, whose writer can be held back."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from lading.engine.history.journal import Journal, open_journal
from lading.events.container import Created, StartRequested
from lading.events.envelope import Actor, Proposed, Record
from lading.events.ids import CommandId, container_stream
from lading.events.spec import ContainerSpec
from lading.storage.log import Append, Log

SPEC = ContainerSpec("sha256:" + "1" * 64, "app", (), ("true",))
ACTOR = Actor(1000, 1000, 4, "test")
COMMAND = CommandId("c" * 32)


def made(number: int, name: str = "") -> Proposed:
    container = f"{number:064x}"
    return Proposed(container_stream(container), Created(container, name or f"name{number}", SPEC), 0)


def started(number: int) -> Proposed:
    return Proposed(container_stream(f"{number:064x}"), StartRequested(1))


class Gate:
    """Stands before ``log.append``: counts the batches, and can hold the writer thread back."""

    def __init__(self, log: Log) -> None:
        self.batches: list[int] = []
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.opened.set()
        self.fail: Callable[[], None] = lambda: None
        self._append = log.append
        log.append = self.append  # type: ignore[method-assign]

    def append(self, batch: Sequence[Append]) -> Any:
        self.batches.append(len(batch))
        self.entered.set()
        assert self.opened.wait(30)
        self.fail()
        return self._append(batch)

    def close(self) -> None:
        self.entered.clear()
        self.opened.clear()


@asynccontextmanager
async def journal_of(log: Log, **kw: Any) -> AsyncIterator[Journal]:
    with trio.fail_after(60):
        async with open_journal(log, **{"clock": lambda: 777, **kw}) as journal:
            yield journal


@asynccontextmanager
async def outer_nursery() -> AsyncIterator[trio.Nursery]:
    """For tasks that outlive the journal; one that is never answered fails the test instead of hanging it."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            yield nursery


async def tell(journal: Journal, *events: Proposed) -> tuple[Record, ...]:
    return await journal.append(events, actor=ACTOR, command=COMMAND)


async def hold(gate: Gate, nursery: trio.Nursery, journal: Journal, number: int) -> None:
    """Have the writer thread stand still within a commit of container ``number``."""
    gate.close()
    nursery.start_soon(tell, journal, made(number))
    await trio.to_thread.run_sync(gate.entered.wait)


async def open_when_all_wait(gate: Gate) -> None:
    await wait_all_tasks_blocked()
    gate.opened.set()
