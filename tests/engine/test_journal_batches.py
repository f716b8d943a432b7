"""Appends that come together are committed together, and none is forgotten."""

from __future__ import annotations

import os
import random

import pytest
import trio
from gate import (
    Gate,
    hold,
    journal_of,
    made,
    open_when_all_wait,
    outer_nursery,
    tell,
)

from lading.storage.log import Log


async def test_appends_that_wait_together_are_committed_together(log: Log, gate: Gate) -> None:
    """Two hundred while the first is being synced: one more commit, not two hundred."""
    async with journal_of(log) as journal, trio.open_nursery() as nursery:
        await hold(gate, nursery, journal, 0)
        for number in range(1, 201):
            nursery.start_soon(tell, journal, made(number))
        await open_when_all_wait(gate)
    assert gate.batches == [1, 200]
    assert log.verify().records == 201


@pytest.mark.slow
async def test_one_commit_takes_no_more_than_its_bound(log: Log, gate: Gate) -> None:
    async with journal_of(log) as journal, trio.open_nursery() as nursery:
        await hold(gate, nursery, journal, 0)
        for number in range(1, 1501):
            nursery.start_soon(tell, journal, made(number))
        await open_when_all_wait(gate)
    assert gate.batches == [1, 1024, 476]
    assert log.head() == 1501


async def test_what_is_asked_for_together_again_and_again_is_committed_together(log: Log, gate: Gate) -> None:
    """Who is answered at once asks for more at once: none of them is committed alone before the others."""

    async def appender(number: int) -> None:
        for step in range(10):
            await tell(journal, made(100 * number + step))

    async with journal_of(log) as journal, outer_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(appender, number)
    assert sum(gate.batches) == 200
    assert gate.batches.count(20) >= 8
    assert len(gate.batches) <= 13


async def test_appends_calls_and_cancels_in_any_order_are_all_answered(log: Log) -> None:
    """Nothing that was accepted waits for ever, whoever else asks, is cancelled or writes meanwhile."""
    chance = random.Random(os.urandom(8))
    answered = 0

    async def ask(number: int) -> None:
        nonlocal answered
        with trio.move_on_after(chance.random() * 0.01 if chance.random() < 0.3 else 60):
            for step in range(3):
                if chance.random() < 0.2:
                    await journal.call(lambda: None)
                await tell(journal, made(10 * number + step))
                if chance.random() < 0.3:
                    await trio.sleep(chance.random() * 0.003)
        answered += 1

    async with journal_of(log) as journal, outer_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(ask, number)
            if chance.random() < 0.1:
                await trio.sleep(chance.random() * 0.002)
    assert answered == 200
    log.verify()
