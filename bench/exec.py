"""How many commands a second run in a container that is running (exec), each with two appends on disk.

The yardstick is ``crun exec`` of the same command in the same container, with the very process.json that Lading
gives it: started, waited for and nothing else, no output, no record. ``ratio`` is to that. ``output`` reads a
stream of an exec to its end.

    python bench/exec.py [--execs N] [--runtime crun]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import attrs
import trio
from _image import busybox_tar
from _report import Report

import lading
from lading.engine.execs.spec import read_run_config, render_process
from lading.engine.keeper.launch import launch, wait_runtime
from lading.events.execs import ExecSpec

LEVELS = (1, 8, 32)
IMAGE = "busybox:bench"
COMMAND = ("/bin/true",)
ROUNDS = 3


@attrs.frozen
class Measured:
    """Execs a second, and the seconds that each took."""

    rate: float
    seconds: list[float]

    @property
    def p50(self) -> float:
        """Milliseconds of the median."""
        return statistics.median(self.seconds) * 1000


async def measure(one: Callable[[], Awaitable[None]], count: int, at_once: int) -> Measured:
    """``count`` of them, with ``at_once`` under way at any time."""
    seconds: list[float] = []
    numbers = iter(range(count))

    async def worker() -> None:
        for _ in numbers:
            began = time.perf_counter()
            await one()
            seconds.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(worker)
    return Measured(count / (time.perf_counter() - began), seconds)


async def lading_exec(container: lading.Container) -> None:
    done = await container.exec(COMMAND)
    assert done.exit_code == 0, done


async def bare_exec(argv: list[str], devnull: int) -> None:
    pid, pidfd = launch(argv, (devnull, devnull, devnull))
    try:
        assert await wait_runtime(pid, pidfd) == 0
    finally:
        os.close(pidfd)


async def throughput(container: lading.Container, size: int) -> float:
    """Mebibytes a second of one exec's output."""
    began = time.perf_counter()
    got = 0
    async with container.exec_stream(["head", "-c", str(size), "/dev/zero"], stdin=False) as process:
        async for data in process.stdout:
            got += len(data)
    assert got == size
    return size / (1 << 20) / (time.perf_counter() - began)


async def main(execs: int, runtime: str | None) -> None:
    report = Report("exec")
    with tempfile.TemporaryDirectory(prefix="lading-bench-") as name:
        directory = Path(name)
        tar = busybox_tar(directory)
        async with lading.open_engine(directory / "root", runtime=runtime) as engine:
            await engine.images.import_rootfs(tar, IMAGE)
            container = await engine.containers.create(IMAGE, ["sleep", "100000"])
            await container.start()
            core = engine.core
            config = read_run_config(core.paths, container.state)
            process = directory / "process.json"
            process.write_bytes(
                render_process(core.paths, container.state, core.settings(container.id), config, ExecSpec(COMMAND))
            )
            found = await core.runtime()
            argv = found.exec(container.id, os.fspath(process), os.fspath(directory / "pid"), os.devnull)
            devnull = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            await lading_exec(container)
            for at_once in LEVELS:
                # Side by side, in turn, so that a slow minute slows both; the best round of each.
                pairs = [
                    (
                        await measure(partial(bare_exec, argv, devnull), execs, at_once),
                        await measure(partial(lading_exec, container), execs, at_once),
                    )
                    for _ in range(ROUNDS)
                ]
                bare = max((pair[0] for pair in pairs), key=lambda measured: measured.rate)
                ours = max((pair[1] for pair in pairs), key=lambda measured: measured.rate)
                for peer, result in ((f"bare {found.name} exec", bare), ("lading", ours)):
                    ratio = result.rate / bare.rate
                    report.add("execs", result.rate, "1/s", n=execs, concurrency=at_once, peer=peer, ratio=ratio)
                    if at_once == 1:
                        ratio = result.p50 / bare.p50
                        report.add("exec p50", result.p50, "ms", n=execs, peer=peer, ratio=ratio)
            report.add("output", await throughput(container, 1 << 30), "MiB/s", n=1, peer="lading")
            os.close(devnull)
            await container.remove(force=True)
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--execs", type=int, default=200)
    parser.add_argument("--runtime", default=None)
    arguments = parser.parse_args()
    trio.run(main, arguments.execs, arguments.runtime)
