"""A thousand containers alive at once: how long they take to come and to go, and what they cost while they stay.

All of them are started at the same time (the engine bounds what is under way) from one image, each with a process
that sleeps. Then nothing is asked for ten seconds, so that what the engine and its keeper use is what the
containers cost by being there. ``memory`` counts the two processes' proportional share (Pss) after the start;
``per container`` is what one more container adds to it, and, separately, what its own runtime process holds.

    python bench/thousand.py [--containers N] [--at-once N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import trio
from _image import busybox_tar
from _report import Report

import lading

IMAGE = "busybox:bench"
IDLE = 10.0
LISTINGS = 30


def share(pid: int) -> int:
    """The bytes of memory that ``pid`` accounts for: its own, and its part of what is shared."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def processor(pid: int) -> float:
    """The seconds of processor time that ``pid`` has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def parents_of(pids: list[int]) -> list[int]:
    """The runtime processes that wait for these containers."""
    found = []
    for pid in pids:
        with suppress(OSError):
            found.append(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]))
    return found


async def all_at_once(work: Callable[[int], Awaitable[None]], count: int, at_once: int) -> float:
    """The seconds that ``count`` of them take, ``at_once`` of them under way at any time."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await work(number)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(worker)
    return time.perf_counter() - began


async def main(count: int, at_once: int) -> None:
    report = Report("thousand")
    with tempfile.TemporaryDirectory(prefix="lading-bench-") as name:
        directory = Path(name)
        async with lading.open_engine(directory / "root") as engine:
            await engine.images.import_rootfs(busybox_tar(directory), IMAGE)
            await engine.containers.run(IMAGE, ["/bin/true"])
            keeper, mine = engine.core.link.keeper_pid, os.getpid()
            before = {pid: share(pid) for pid in (keeper, mine)}
            containers: list[lading.Container] = []

            async def start(number: int) -> None:
                container = await engine.containers.create(IMAGE, ["sleep", "100000"], name=f"c{number}")
                containers.append(container)
                await container.start()

            async def end(number: int) -> None:
                await containers[number].stop(timeout=0)
                await containers[number].remove()

            took = await all_at_once(start, count, at_once)
            assert len(engine.containers.list(all=False)) == count
            report.add("all up", took, "s", n=count, concurrency=at_once)

            after = {pid: share(pid) for pid in (keeper, mine)}
            report.add("memory of engine and keeper", sum(after.values()) / 1e6, "MB", n=count)
            grown = (sum(after.values()) - sum(before.values())) / count
            report.add("of it per container", grown / 1024, "KiB", n=count)
            runtimes = [share(pid) for pid in parents_of([container.pid for container in containers[:20]])]
            report.add("runtime process", statistics.mean(runtimes) / 1024, "KiB", n=len(runtimes))

            used = processor(mine), processor(keeper)
            await trio.sleep(IDLE)
            report.add("engine, idle", (processor(mine) - used[0]) / IDLE * 100, "% of a core", n=1)
            report.add("keeper, idle", (processor(keeper) - used[1]) / IDLE * 100, "% of a core", n=1)

            times = []
            for _ in range(LISTINGS):
                began = time.perf_counter()
                assert len(engine.containers.list()) == count
                times.append(time.perf_counter() - began)
            report.add("list", statistics.median(times) * 1000, "ms", n=LISTINGS)

            report.add("all gone", await all_at_once(end, count, at_once), "s", n=count, concurrency=at_once)
            assert engine.containers.list() == []
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--containers", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=64)
    arguments = parser.parse_args()
    trio.run(main, arguments.containers, arguments.at_once)
