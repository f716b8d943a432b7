"""What followers cost: a hundred of them, live, while ten thousand events a second are appended.

Every follower checks every position, so that a gap, a duplicate or a wrong order ends the bench. One of them is
stopped after its first record and goes on when the appending is over: it must then get everything, too.

    python bench/follow.py [--followers N] [--rate N] [--seconds S]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio
import trio.testing
from _report import Report

from lading.engine.history.follow import History
from lading.engine.history.journal import Journal, open_journal
from lading.events.container import Created, KillRequested, Started, StartRequested
from lading.events.envelope import Actor, Proposed
from lading.events.ids import CommandId, ContainerId, ImageId, container_stream
from lading.events.spec import ContainerSpec, ProcessId
from lading.storage.environment import open_log

WRITERS = 20
TICK = 0.01
ACTOR = Actor(0, 0, 1, "bench")
COMMAND = CommandId("c" * 32)
SPEC = ContainerSpec(ImageId("sha256:" + "1" * 64), "app", (), ("true",))


@asynccontextmanager
async def fresh_journal() -> AsyncIterator[Journal]:
    """A journal in which ``WRITERS`` containers run, whose streams take any number of kill requests."""
    with tempfile.TemporaryDirectory(prefix="lading-bench-") as name:
        log = open_log(Path(name) / "log", "bench")
        async with open_journal(log) as journal:
            for number in range(WRITERS):
                container = ContainerId(f"{number:064x}")
                begun = (
                    Created(container, f"n{number}", SPEC),
                    StartRequested(1),
                    Started(1, ProcessId("b", 2, 3)),
                )
                events = [Proposed(container_stream(container), event) for event in begun]
                await journal.append(events, actor=ACTOR, command=COMMAND)
            yield journal
        log.close()


@attrs.define
class Seen:
    """What one follower has seen: the last position, and how late the last record of each page came."""

    position: int
    records: int = 0
    delays: list[int] = attrs.field(factory=list)


async def follow(history: History, seen: Seen, until: trio.Event | None = None) -> None:
    """One follower. With ``until``, it stops after its first record and goes on then."""
    position = seen.position
    async for record in history.follow(position):
        position += 1
        if record.position != position:
            raise AssertionError(f"position {record.position} came after {position - 1}")
        if not position % 1000:
            seen.delays.append(time.time_ns() - record.time)
        if until is not None and not seen.records:
            await until.wait()
        seen.records += 1
    seen.position = position


async def write(journal: Journal, number: int, each: int, seconds: float, pace: bool) -> int:
    """Append ``each`` events every ``TICK``, or as fast as it goes; how many they were."""
    events = [Proposed(container_stream(f"{number:064x}"), KillRequested("SIGTERM"))] * each
    begin = next_tick = trio.current_time()
    written = 0
    while trio.current_time() - begin < seconds:
        await journal.append(events, actor=ACTOR, command=COMMAND)
        written += each
        next_tick += TICK
        if pace:
            await trio.sleep_until(next_tick)
    return written


async def measure(followers: int, each: int, seconds: float, pace: bool) -> tuple[float, float, list[Seen]]:
    """Events a second, processor seconds a second, and what each follower saw."""
    written: list[int] = []
    async with fresh_journal() as journal:
        history = History(journal)
        begin = history.position
        seen = [Seen(begin) for _ in range(followers)]
        over = trio.Event()

        async def writer(number: int) -> None:
            written.append(await write(journal, number, each, seconds, pace))

        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as nursery:
                for number, one in enumerate(seen):
                    outer.start_soon(follow, history, one, over if not number else None)
                await trio.testing.wait_all_tasks_blocked()
                wall, processor = time.perf_counter(), time.process_time()
                for number in range(WRITERS):
                    nursery.start_soon(writer, number)
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            over.set()
            with trio.fail_after(60):
                while any(one.records < sum(written) for one in seen):
                    await trio.lowlevel.checkpoint()
            outer.cancel_scope.cancel()
    assert all(one.records == sum(written) for one in seen), "a follower has not had everything"
    return sum(written) / wall, processor / wall, seen


async def giving_out(report: Report, count: int) -> None:
    """Nanoseconds that a record costs its reader, when the records are in memory and when they are on disk."""
    async with fresh_journal() as journal:
        history = History(journal)
        begin = history.position
        for number in range(count // 1000):
            event = Proposed(container_stream(f"{number % WRITERS:064x}"), KillRequested("SIGTERM"))
            await journal.append([event] * 1000, actor=ACTOR, command=COMMAND)
        for metric, start in (("tail", history.position - 4000), ("disk", begin)):
            repeats = 50 if metric == "tail" else 1
            records = (history.position - start) * repeats
            at = time.perf_counter()
            for _ in range(repeats):
                left = history.position - start
                async for _record in history.follow(start):
                    left -= 1
                    if not left:
                        break
            report.add(f"async for, from {metric}", (time.perf_counter() - at) / records * 1e9, "ns", n=records)
            at = time.perf_counter()
            for _ in range(repeats):
                async for page in history.pages(start):
                    for _record in page:
                        pass
            report.add(f"pages, from {metric}", (time.perf_counter() - at) / records * 1e9, "ns", n=records)


async def main(followers: int, rate: int, seconds: float) -> None:
    report = Report("follow")
    each = round(rate * TICK / WRITERS)
    for name, pace in (("paced", True), ("flat out", False)):
        alone, processor, _ = await measure(0, each, seconds, pace)
        report.add(f"appends, {name}", alone, "events/s", n=round(alone * seconds), processor=processor)
        for number in (10, followers):
            reached, processor, seen = await measure(number, each, seconds, pace)
            delays = sorted(delay for one in seen[1:] for delay in one.delays)
            report.add(
                f"appends, {name}",
                reached,
                "events/s",
                n=round(reached * seconds),
                concurrency=number,
                ratio=reached / alone,
                deliveries=reached * number,
                processor=processor,
                median_ms=delays[len(delays) // 2] / 1e6,
                p99_ms=delays[len(delays) * 99 // 100] / 1e6,
            )
    await giving_out(report, 50_000)
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--followers", type=int, default=100)
    parser.add_argument("--rate", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    trio.run(main, options.followers, options.rate, options.seconds)
