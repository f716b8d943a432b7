"""Following the history: no gap, no duplicate, in order, whoever is slow, stopped or cancelled."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
from growing import ACTOR, COMMAND, STREAM, grow, growing, tell
from logbook import put
from trio.testing import wait_all_tasks_blocked

from lading.engine.history.follow import CaughtUp, FellBehind, History
from lading.engine.history.journal import Journal, open_journal
from lading.events.container import KillRequested
from lading.events.envelope import Proposed, Record
from lading.events.errors import EngineClosed, Invalid, NotInHistory, StoreCorrupt
from lading.storage.log import Append, Log


async def test_the_past_comes_first_and_then_the_present(history: History, journal: Journal) -> None:
    seen: list[Record] = []

    async def watch() -> None:
        async for record in history.follow(1):
            seen.append(record)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        assert [record.position for record in seen] == [2, 3]
        for count in range(1, 4):
            await grow(journal, 1)
            await wait_all_tasks_blocked()
            assert len(seen) == 2 + count
        nursery.cancel_scope.cancel()
    assert seen == history.read(1)


async def test_from_now_on_is_what_comes_after_the_call(history: History, journal: Journal) -> None:
    """Whenever the first record is asked for, and even if others were appended meanwhile."""
    follower = history.follow()
    await grow(journal, 2)
    assert [(await anext(follower)).position for _ in range(2)] == [4, 5]


async def test_a_position_that_the_log_has_not_reached_is_waited_for(history: History, journal: Journal) -> None:
    follower = history.follow(10, notices=True)
    assert await anext(follower) == CaughtUp(10)
    await grow(journal, 7)
    with trio.move_on_after(0.01):
        await anext(follower)
        raise AssertionError("the log is at 10 now, and nothing is past that")
    await grow(journal, 1)
    record = await anext(follower)
    assert isinstance(record, Record)
    assert record.position == 11


async def test_followers_of_the_present_share_the_records_and_read_no_disk(
    history: History, journal: Journal, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    followers = [history.follow() for _ in range(3)]
    monkeypatch.setattr(log, "read_raw", None)
    (record,) = await tell(journal, Proposed(STREAM, KillRequested("SIGTERM")))
    for follower in followers:
        assert await anext(follower) is record


async def test_notices_stand_where_the_past_ends(history: History, journal: Journal) -> None:
    follower = history.follow(0, notices=True)
    seen = [await anext(follower) for _ in range(4)]
    assert [getattr(item, "position", None) for item in seen] == [1, 2, 3, 3]
    assert seen[3] == CaughtUp(3)
    await grow(journal, 2)
    assert [type(await anext(follower)) for _ in range(2)] == [Record, Record]


async def test_an_empty_log_is_caught_up_with_at_once(log: Log) -> None:
    async with open_journal(log) as journal:
        assert await anext(History(journal).follow(0, notices=True)) == CaughtUp(0)


@pytest.mark.usefixtures("small")
async def test_a_stopped_reader_is_told_that_it_fell_behind_and_loses_nothing(
    history: History, journal: Journal
) -> None:
    follower = history.follow(3, notices=True)
    assert await anext(follower) == CaughtUp(3)
    await grow(journal, 2)
    seen: list[Any] = [await anext(follower)]
    await grow(journal, 200, 10)
    while not seen or seen[-1] != CaughtUp(205):
        seen.append(await anext(follower))
    assert [item.position for item in seen if isinstance(item, Record)] == list(range(4, 206))
    assert [item for item in seen if not isinstance(item, Record)] == [FellBehind(5), CaughtUp(205)]
    assert seen.index(FellBehind(5)) == 2
    await grow(journal, 1)
    assert (await anext(follower)).position == 206


@pytest.mark.usefixtures("small")
async def test_a_reader_that_is_late_but_not_too_late_is_still_live(history: History, journal: Journal) -> None:
    follower = history.follow(3, notices=True)
    assert await anext(follower) == CaughtUp(3)
    await grow(journal, 20)
    assert [(await anext(follower)).position for _ in range(20)] == list(range(4, 24))


@pytest.mark.usefixtures("small")
async def test_the_tail_is_bounded_and_followers_hold_a_page(history: History, journal: Journal) -> None:
    followers = [history.follow(number, notices=True) for number in range(3)]
    for follower in followers:
        await anext(follower)
    await grow(journal, 1000, 50)
    assert len(journal.tail._records) <= 25
    assert max(len(list(follower._page)) for follower in followers) < 8


async def test_who_waits_is_woken_once_for_a_commit(history: History, journal: Journal) -> None:
    """However many records and appends it has: an append of a hundred is one page."""
    pages = history.select(after=3)
    got: list[list[Record]] = []

    async def watch() -> None:
        async for page in pages:
            got.append(page)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        await grow(journal, 100, 100)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [len(page) for page in got] == [100]


async def test_a_cancel_loses_nothing(history: History, journal: Journal) -> None:
    """Cancelled while it waits, while it reads from disk, and when it is cancelled already."""
    follower = history.follow(0)
    seen: list[int] = []

    async def take(count: int) -> None:
        for _ in range(count):
            seen.append((await anext(follower)).position)

    with trio.CancelScope() as scope:
        scope.cancel()
        await take(1)
    assert scope.cancelled_caught
    await take(3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, 1)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await grow(journal, 5)
    with trio.CancelScope() as scope:
        scope.cancel()
        await take(1)
    assert scope.cancelled_caught
    await take(5)
    assert seen == list(range(1, 9))


async def test_each_page_is_a_checkpoint(history: History, journal: Journal) -> None:
    """A follower that always finds something lets others run, and can be cancelled."""
    await grow(journal, 2000, 1000)
    async with trio.open_nursery() as nursery:
        ran = 0

        async def other() -> None:
            nonlocal ran
            while True:
                ran += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(other)
        count = 0
        async for _ in history.follow(0):
            count += 1
            if count == 2000:
                nursery.cancel_scope.cancel()
                break
    assert ran >= 2000 // 256


async def test_it_ends_when_the_journal_closes_and_not_before_everything_was_given(log: Log) -> None:
    seen: dict[str, list[int]] = {"live": [], "late": []}

    async def watch(which: str, follower: AsyncIterator[Record], begin: trio.Event) -> None:
        await begin.wait()
        async for record in follower:
            seen[which].append(record.position)

    async with trio.open_nursery() as nursery:
        now, later = trio.Event(), trio.Event()
        async with growing(log) as journal:
            history = History(journal)
            nursery.start_soon(watch, "live", history.follow(0), now)
            nursery.start_soon(watch, "late", history.follow(0), later)
            now.set()
            await wait_all_tasks_blocked()
            await grow(journal, 3)
        later.set()
    assert seen == {"live": [1, 2, 3, 4, 5, 6], "late": [1, 2, 3, 4, 5, 6]}


async def test_it_ends_when_the_log_is_closed_under_it(log: Log) -> None:
    async with growing(log) as journal:
        history = History(journal)
        await grow(journal, 6000, 1000)
        follower = history.follow(0)
        await anext(follower)
        pages = history.pages(0)
    log.close()
    assert len([record async for record in follower]) == 255
    assert [page async for page in pages] == []
    with pytest.raises(EngineClosed):
        history.read()


async def test_what_was_compacted_away_is_not_left_out_in_silence(
    history: History, journal: Journal, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    await grow(journal, 9000, 1000)
    slow = history.follow(0)
    await anext(slow)
    monkeypatch.setattr(Log, "first", 400)
    read_raw = Log.read_raw
    monkeypatch.setattr(Log, "read_raw", lambda self, after=0, limit=1000: read_raw(self, max(after, 399), limit))
    for after in (0, 398):
        with pytest.raises(NotInHistory, match="compacted up to 399") as refused:
            history.follow(after)
        assert (refused.value.position, refused.value.first) == (after + 1, 400)
    assert (await anext(history.follow(399))).position == 400
    assert [(await anext(slow)).position for _ in range(255)] == list(range(2, 257))
    with pytest.raises(NotInHistory) as refused:
        await anext(slow)
    assert refused.value.position == 257


async def test_words_that_nothing_could_fit_are_refused_when_it_is_called(history: History) -> None:
    with pytest.raises(Invalid):
        history.follow(types=["container.begun"])
    with pytest.raises(Invalid):
        history.pages(command="zz")


async def test_pages_end_at_what_was_the_last(history: History, journal: Journal) -> None:
    pages = history.pages(1)
    await grow(journal, 5)
    assert [[record.position for record in page] async for page in pages] == [[2, 3]]
    assert [page async for page in history.pages(8)] == []
    assert [page async for page in history.pages(5, until=4)] == []
    bounded = history.pages(0, until=5)
    assert [record.position async for page in bounded for record in page] == [1, 2, 3, 4, 5]
    assert bounded.position == 5


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", range(4))
async def test_no_gap_and_no_duplicate_whatever_meets(history: History, journal: Journal, seed: int) -> None:
    """Followers that begin anywhere and any time, slow and fast, cancelled and resumed, beside four writers.

    With a tail of twenty records the way from disk to memory and back is gone hundreds of times.
    """
    chance = random.Random(seed)
    sizes = [[chance.randrange(1, 5) for _ in range(200)] for _ in range(4)]
    end = history.position + sum(map(sum, sizes))
    turns = 0

    async def watch(number: int) -> None:
        nonlocal turns
        await journal.wait_past(chance.randrange(end // 2))
        last = after = chance.randrange(history.position + 3)
        follower: Any = history.follow(after, notices=number % 2 == 0)
        live = False
        while last < end:
            with trio.CancelScope() as scope:
                if chance.random() < 0.02:
                    scope.cancel()
                item = await anext(follower)  # a cancelled one may come all the same, from the page that is there
            if scope.cancelled_caught:
                continue
            if isinstance(item, Record):
                assert item.position == last + 1
                last += 1
            else:
                assert item.position == last
                assert isinstance(item, FellBehind if live else CaughtUp), "they take turns"
                live = not live
                turns += 1
            if chance.random() < 0.005:
                await journal.wait_past(min(history.position + chance.randrange(60), end - 1))

    async def write(own_sizes: list[int]) -> None:
        for size in own_sizes:
            await grow(journal, size, size)
            for _ in range(chance.randrange(3)):
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(watch, number)
        for own_sizes in sizes:
            nursery.start_soon(write, own_sizes)
    assert turns > 20, "hardly anybody ever fell behind: this tested nothing"


@pytest.mark.long
async def test_a_follower_may_sleep_while_the_log_grows_by_a_hundred_thousand(
    history: History, journal: Journal
) -> None:
    """It costs the writer nothing, holds no reader of LMDB's, and then has every record."""
    follower = history.follow(3, notices=True)
    assert await anext(follower) == CaughtUp(3)
    await grow(journal, 1)
    first = await anext(follower)
    await grow(journal, 100_000, 1000)
    environment = journal.log.db._env
    assert environment is not None
    assert all(line.split()[2] == "-" for line in environment.readers().splitlines()[1:]), "a reader is open"
    position = first.position
    fell = False
    async for item in follower:
        if isinstance(item, Record):
            position += 1
            assert item.position == position
        elif isinstance(item, FellBehind):
            fell = True
        else:
            break
    assert fell
    assert position == history.position == 100_004


async def test_a_record_that_was_there_before_is_not_told_again(journal: Journal, log: Log) -> None:
    """An append may answer with records that an earlier one made: the tail takes in what is new."""
    old = log.read()
    journal.tail.add(old)
    assert journal.tail.position == 3
    assert journal.tail.after(3, 10) == []
    assert journal.tail.after(0, 10) == old
    assert journal.tail.after(1, 1) == old[1:2]
    later = attrs.evolve(old[-1], position=9)
    journal.tail.add([later])
    assert journal.tail.after(8, 10) == [later]
    for position in range(8):
        assert journal.tail.after(position, 10) is None, "what lies between is on disk"


async def test_what_another_hand_than_an_append_writes_is_told_at_once(
    history: History, journal: Journal, log: Log
) -> None:
    """As compacting does, in the writer's thread and between two commits: it answers no append."""
    follower = history.follow(0, notices=True)
    assert [(await anext(follower)).position for _ in range(4)] == [1, 2, 3, 3]
    append = Append((Proposed(STREAM, KillRequested("SIGTERM")),), ("e" * 32,), 5, ACTOR, COMMAND)
    async with trio.open_nursery() as nursery:
        seen: list[Any] = []

        async def watch() -> None:
            seen.extend([await anext(follower) for _ in range(3)])

        nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        await journal.call(lambda: log.append([append]))
    assert seen == [FellBehind(3), *log.read(3), CaughtUp(4)]
    await grow(journal, 1)
    assert [await anext(follower)] == log.read(4)


@pytest.mark.usefixtures("small")
async def test_what_has_left_the_tail_is_not_there(history: History, journal: Journal) -> None:
    await grow(journal, 96)
    tail = journal.tail
    kept = [position for position in range(100) if tail.after(position, 1) is not None]
    assert kept == list(range(kept[0], 100))
    assert 20 <= 99 - kept[0] <= 25
    for position in kept[:-1]:
        [record] = tail.after(position, 1) or []
        assert record.position == position + 1


@pytest.mark.usefixtures("small")
async def test_a_selection_that_leaves_nothing_out_leaves_nothing_out(history: History, journal: Journal) -> None:
    """Pages are full long before so many records are looked at as are when most don't fit."""
    await grow(journal, 300, 10)
    for words in ({"types": ["container."]}, {"actors": ["test"]}, {"images": ["1"]}):
        pages = history.pages(0, **words)  # type: ignore[arg-type]  # each is right by itself
        assert [record.position async for page in pages for record in page] == list(range(1, 304))


async def test_a_follower_is_given_nothing_that_was_altered(log: Log) -> None:
    """What is before the altered record comes; then that is told by its position."""
    async with growing(log):
        pass
    [(position, stored)] = log.read_raw(1, 1)
    put(log, "log", position.to_bytes(8, "big"), stored[:20] + bytes([stored[20] ^ 1]) + stored[21:])
    seen: list[int] = []

    async def read(history: History) -> None:
        async for record in history.follow(0):
            seen.append(record.position)

    async with open_journal(log) as journal:  # one that has nothing in memory
        with trio.fail_after(10), pytest.raises(StoreCorrupt) as found:
            await read(History(journal))
    assert (seen, found.value.position) == ([1], 2)
