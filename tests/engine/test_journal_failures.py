"""A commit that fails is told to everybody who waited for it, and to all who come later."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from gate import (
    Gate,
    hold,
    journal_of,
    made,
    open_when_all_wait,
    tell,
)

from lading.events.container import Created
from lading.events.envelope import Proposed
from lading.events.errors import StoreBroken
from lading.events.spec import ContainerSpec
from lading.storage.environment import open_log
from lading.storage.log import Log


@pytest.mark.parametrize("error", [OSError(5, "I/O"), RuntimeError("a defect")])
async def test_a_failed_commit_breaks_the_journal_for_good(log: Log, gate: Gate, error: Exception) -> None:
    """All of its batch and all who come later are told, even if the next commit would have worked."""
    broken: list[Exception] = []

    async def ask(number: int) -> None:
        with pytest.raises(StoreBroken) as told:
            await tell(journal, made(number))
        broken.append(told.value)

    def fail() -> None:
        gate.fail = lambda: None
        raise error

    async with journal_of(log) as journal:
        await tell(journal, made(1))
        async with trio.open_nursery() as nursery:
            await hold(gate, nursery, journal, 2)
            for number in range(3, 8):
                nursery.start_soon(tell, journal, made(number))
            await open_when_all_wait(gate)
        gate.fail = fail
        await ask(8)
        await ask(9)
    assert len(broken) == 2
    assert log.head() == 7
    assert all(str(error) in str(told) for told in broken)


async def test_a_full_disk_breaks_the_journal_for_good(small_disk: Path) -> None:
    """What was acknowledged can still be read; nothing of the append that failed is there."""
    log = open_log(small_disk / "log", "id")
    large = ContainerSpec("sha256:" + "1" * 64, "app", (), ("x" * 9_000_000,))
    async with journal_of(log) as journal:
        await tell(journal, made(1))
        with pytest.raises(StoreBroken, match="no space left"):
            await tell(journal, Proposed(made(2).stream, Created("2".zfill(64), "name2", large)))
        with pytest.raises(StoreBroken, match="no space left"):
            await tell(journal, made(3))
        assert journal.position == log.head() == 1
    log.close()


async def test_each_caller_of_a_failed_commit_has_an_error_of_its_own(log: Log, gate: Gate) -> None:
    """One exception raised in several tasks would collect all their tracebacks."""
    broken: list[StoreBroken] = []

    async def ask(number: int) -> None:
        with pytest.raises(StoreBroken) as told:
            await tell(journal, made(number))
        broken.append(told.value)

    def fail() -> None:
        raise RuntimeError("a defect")

    async with journal_of(log) as journal, trio.open_nursery() as nursery:
        gate.close()
        gate.fail = fail
        for number in range(3):
            nursery.start_soon(ask, number)
        await open_when_all_wait(gate)
    assert len({id(error) for error in broken}) == 3
