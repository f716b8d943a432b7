"""The journal: answers in order, and no append half done, whoever is cancelled or closed."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
from gate import (
    ACTOR,
    COMMAND,
    Gate,
    hold,
    journal_of,
    made,
    open_when_all_wait,
    outer_nursery,
    started,
    tell,
)
from trio.testing import wait_all_tasks_blocked

from lading.engine.history.journal import Journal, open_journal
from lading.events.container import StartRequested
from lading.events.envelope import Proposed
from lading.events.errors import AlreadyExists, Conflict, EngineClosed, Invalid, WrongPhase
from lading.events.views import CONTAINERS
from lading.storage.environment import open_log
from lading.storage.log import Log


async def test_append_gives_the_records_that_are_on_disk(log: Log) -> None:
    async with journal_of(log, new_id=lambda: "f" * 32) as journal:
        records = await journal.append([made(1), started(1)], actor=ACTOR, command=COMMAND, cause=9)
        assert log.read() == list(records)
        assert journal.position == log.head() == 2
    assert [(record.position, record.version, record.time) for record in records] == [(1, 1, 777), (2, 2, 777)]
    assert (records[0].event_id, records[0].actor, records[0].command, records[0].cause) == (
        "f" * 32,
        ACTOR,
        COMMAND,
        9,
    )


async def test_by_default_times_are_the_clocks_and_ids_are_unique(log: Log) -> None:
    async with open_journal(log) as journal:
        records = await tell(journal, made(1), made(2))
    assert len({record.event_id for record in records}) == 2
    assert all(len(record.event_id) == 32 and int(record.event_id, 16) for record in records)
    assert 1_600_000_000 < records[0].time / 1e9 < 1e11


async def test_positions_follow_the_order_of_the_calls(log: Log) -> None:
    """``new_id`` is drawn when append is called, so ids that ascend show the order."""
    ids = itertools.count(1)
    async with journal_of(log, new_id=lambda: f"{next(ids):032x}") as journal, trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(tell, journal, made(number), started(number))
    assert [int(record.event_id, 16) for record in log.read()] == list(range(1, 201))
    assert [record.position for record in log.read()] == list(range(1, 201))


async def test_a_refused_append_is_refused_alone(log: Log, gate: Gate) -> None:
    """Each of a batch gets its own answer: records, or its own refusal."""
    answers: dict[str, Any] = {}

    async def ask(what: str, *events: Proposed) -> None:
        try:
            answers[what] = await tell(journal, *events)
        except Exception as error:
            answers[what] = error

    async with journal_of(log) as journal, trio.open_nursery() as nursery:
        await hold(gate, nursery, journal, 0)
        asked = {
            "fine": [made(1)],
            "name": [made(2, "name0")],
            "version": [made(3), made(0)],
            "phase": [started(4)],
            "too": [made(5)],
        }
        for what, events in asked.items():
            nursery.start_soon(ask, what, *events)
        await open_when_all_wait(gate)
    assert gate.batches == [1, 5]
    kinds = {what: type(answer) for what, answer in answers.items()}
    assert kinds == {"fine": tuple, "name": AlreadyExists, "version": Conflict, "phase": WrongPhase, "too": tuple}
    assert {key for key, _ in log.scan(CONTAINERS)} == {f"{number:064x}" for number in (0, 1, 5)}


async def test_what_cannot_be_stored_fails_for_its_own_caller_only(log: Log, gate: Gate) -> None:
    """Text that is no text comes from a client; who happened to append at the same moment is not harmed."""
    fine: list[int] = []

    async def ask() -> None:
        (record,) = await tell(journal, made(1))
        fine.append(record.position)

    async def ask_nonsense() -> None:
        with pytest.raises(Invalid):
            await tell(journal, made(2), Proposed("container/\udcff", StartRequested(1)))

    async with journal_of(log) as journal, trio.open_nursery() as nursery:
        await hold(gate, nursery, journal, 0)
        nursery.start_soon(ask)
        nursery.start_soon(ask_nonsense)
        await open_when_all_wait(gate)
    assert fine == [log.head()] == [2]


async def test_cancelled_before_it_has_begun_appends_nothing(log: Log, gate: Gate) -> None:
    async with journal_of(log) as journal:
        with trio.CancelScope() as scope:
            scope.cancel()
            await tell(journal, made(1))
        assert scope.cancelled_caught
        await tell(journal, made(2))
    assert [record.stream for record in log.read()] == [made(2).stream]


async def test_cancelled_after_it_has_begun_is_carried_out_and_answered(log: Log, gate: Gate) -> None:
    """The caller gets its records, and the cancel at its next checkpoint."""
    seen: list[Any] = []
    scope = trio.CancelScope()

    async def ask() -> None:
        with scope:
            seen.append(await tell(journal, made(1)))
            seen.append("no checkpoint yet")
            await trio.lowlevel.checkpoint()
            seen.append("not reached")

    async with journal_of(log) as journal, trio.open_nursery() as nursery:
        await hold(gate, nursery, journal, 0)
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert seen == []
        gate.opened.set()
    assert scope.cancelled_caught
    assert seen == [(log.read()[1],), "no checkpoint yet"]


async def test_a_cancelled_append_is_in_the_log_whole_or_not_at_all(log: Log) -> None:
    """Cancelled at every step from before it starts to after it ended: who got records has them, in pairs."""
    answered: set[int] = set()

    async def ask(number: int, steps: int) -> None:
        async with trio.open_nursery() as nursery:

            async def go() -> None:
                await tell(journal, made(number), started(number))
                answered.add(number)

            nursery.start_soon(go)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    async with journal_of(log) as journal, trio.open_nursery() as nursery:
        for number in range(120):
            nursery.start_soon(ask, number, number % 12)
    streams = [record.stream for record in log.read()]
    assert streams[::2] == streams[1::2]
    assert len(set(streams)) == len(streams) / 2
    assert {made(number).stream for number in answered} == set(streams)
    assert 0 < len(answered) < 120
    log.verify()


async def test_closing_answers_every_append_that_was_accepted(log: Log, gate: Gate) -> None:
    positions: list[int] = []

    async def ask(journal: Journal, number: int) -> None:
        (record,) = await tell(journal, made(number))
        positions.append(record.position)

    async with outer_nursery() as nursery:
        async with journal_of(log) as journal:
            await hold(gate, nursery, journal, 0)
            for number in range(1, 11):
                nursery.start_soon(ask, journal, number)
            await wait_all_tasks_blocked()
            nursery.start_soon(open_when_all_wait, gate)
        assert log.head() == 11
    assert sorted(positions) == list(range(2, 12))


async def test_closing_is_complete_even_when_cancelled(log: Log, gate: Gate) -> None:
    async with outer_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with journal_of(log) as journal:
                await hold(gate, nursery, journal, 0)
                nursery.start_soon(tell, journal, made(1))
                await wait_all_tasks_blocked()
                nursery.start_soon(open_when_all_wait, gate)
                scope.cancel()
                await trio.sleep_forever()
        assert log.head() == 2


async def test_a_closed_journal_refuses(log: Log) -> None:
    async with journal_of(log) as journal:
        await tell(journal, made(1))
    for _ in range(2):
        with pytest.raises(EngineClosed):
            await tell(journal, made(2))
    with pytest.raises(EngineClosed):
        await journal.wait_past(1)
    await journal.wait_past(0)
    assert log.head() == 1


async def test_wait_past_returns_when_the_log_has_grown(log: Log) -> None:
    woken: list[int] = []

    async def wait(position: int) -> None:
        await journal.wait_past(position)
        assert journal.position > position
        assert log.head() > position
        woken.append(position)

    async with journal_of(log) as journal, trio.open_nursery() as nursery:
        for position in (0, 0, 1, 2):
            nursery.start_soon(wait, position)
        await wait_all_tasks_blocked()
        assert woken == []
        await tell(journal, made(1))
        await wait_all_tasks_blocked()
        assert woken == [0, 0]
        await tell(journal, made(2), made(3))
        await wait_all_tasks_blocked()
        assert sorted(woken) == [0, 0, 1, 2]
        await journal.wait_past(2)


async def test_wait_past_can_be_cancelled_and_ends_with_the_journal(log: Log) -> None:
    closed: list[int] = []

    async def wait(journal: Journal) -> None:
        with pytest.raises(EngineClosed):
            await journal.wait_past(5)
        closed.append(1)

    async with trio.open_nursery() as nursery, journal_of(log) as journal:
        nursery.start_soon(wait, journal)
        with trio.CancelScope() as scope:
            scope.cancel()
            await journal.wait_past(5)
        assert scope.cancelled_caught
        await tell(journal, made(1))
        with trio.CancelScope() as scope:
            scope.cancel()
            await journal.wait_past(0)
        assert scope.cancelled_caught
        await wait_all_tasks_blocked()
        assert closed == []
    assert closed == [1]


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """Threads, descriptors: as many after ten journals as before."""
    await trio.to_thread.run_sync(lambda: None)
    before = len(os.listdir("/proc/self/fd")), {thread.name for thread in threading.enumerate()}
    for number in range(10):
        log = open_log(tmp_path / str(number), "id")
        with trio.CancelScope() as scope:
            async with journal_of(log) as journal:
                await tell(journal, made(number))
                if number % 2:
                    scope.cancel()
                    await trio.sleep_forever()
        log.close()
    assert (len(os.listdir("/proc/self/fd")), {thread.name for thread in threading.enumerate()}) == before
