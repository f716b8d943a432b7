"""What it costs to keep and to read what containers print.

``fast``: one container prints as fast as it can. ``fifty``: fifty print a megabyte a second each; the share of a
core and the memory of whatever stands between them and the disk: the keeper, or dockerd, containerd and its shims.
``tail`` and ``lines``: reading the large one back, its last ten lines and all of them, as Python values and as API
frames. Docker (json-file) is measured beside it where a dockerd is, with its own client for ``tail``.

    python bench/output.py [--megabytes N] [--seconds S] [--containers N] [--only lading,docker]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import _debian  # noqa: F401 - it makes the tests' helpers importable
import peers
import trio
from _image import busybox_tar
from _report import Report

import lading
from lading.engine.http.stdcopy import frame_lines

IMAGE = "busybox:bench"
LINE = "0123456789012345678901234567890123456789012345678901234567890123456789012"
PART = 16
FAST = f"yes {LINE} | head -c {PART}000000 > /tmp/f; i=0; while [ $i -lt %d ]; do cat /tmp/f; i=$((i+1)); done"
STEADY = f"yes {LINE} | head -c 50000 > /tmp/f; while :; do cat /tmp/f; usleep 48000; done"


class Contestant(ABC):
    """One of those who keep output."""

    name: str

    @abstractmethod
    async def finish(self, script: str) -> str:
        """Run ``script`` to its end; what to call the container."""

    @abstractmethod
    async def start(self, script: str) -> None:
        """Begin to run ``script``, which has no end."""

    @abstractmethod
    def pids(self) -> Collection[int]:
        """The processes that handle output."""

    @abstractmethod
    def files(self) -> Collection[Path]:
        """Where output is kept."""

    @abstractmethod
    async def tail(self, container: str) -> int:
        """Read the last ten lines; how many there were."""

    @abstractmethod
    async def clear(self) -> None:
        """Remove every container."""

    def used(self) -> dict[int, float]:
        """Seconds of CPU that each of the processes has used."""
        found = {}
        for pid in self.pids():
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                found[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return found

    def memory(self) -> int:
        """Bytes that the processes hold."""
        total = 0
        for pid in self.pids():
            with suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return total


class Lading(Contestant):
    """An engine in this process, whose keeper handles output."""

    name = "lading"

    def __init__(self, engine: lading.Engine) -> None:
        self.engine = engine

    async def _made(self, script: str) -> lading.Container:
        made = await self.engine.containers.create(IMAGE, ["sh", "-c", script])
        await made.start()
        return made

    async def finish(self, script: str) -> str:
        made = await self._made(script)
        await made.wait()
        return made.id

    async def start(self, script: str) -> None:
        await self._made(script)

    def pids(self) -> Collection[int]:
        return [self.engine.core.link.keeper_pid]

    def files(self) -> Collection[Path]:
        return list(self.engine.store.paths.containers.glob("*/output*"))

    async def tail(self, container: str) -> int:
        with self.engine.containers.get(container).logs(tail=10) as reader:
            return len([piece async for piece in reader])

    async def clear(self) -> None:
        for state in self.engine.containers.list():
            await self.engine.containers.get(state.id).remove(force=True)


class Docker(Contestant):
    """A private dockerd, by its client."""

    name = "docker"

    def __init__(self, engine: peers.Docker, directory: Path) -> None:
        self._engine = engine
        self._directory = directory

    async def _ask(self, *words: str) -> str:
        done = await trio.run_process(
            self._engine.command(*words), env=self._engine.environment, capture_stdout=True, capture_stderr=True
        )
        return done.stdout.decode().strip()

    async def finish(self, script: str) -> str:
        name = await self._ask("run", "--detach", "--network", "none", IMAGE, "sh", "-c", script)
        await self._ask("wait", name)
        return name

    async def start(self, script: str) -> None:
        await self._ask("run", "--detach", "--network", "none", IMAGE, "sh", "-c", script)

    def pids(self) -> Collection[int]:
        found = []
        for entry in filter(str.isdecimal, os.listdir("/proc")):
            with suppress(OSError):
                words = Path(f"/proc/{entry}/cmdline").read_bytes()
                program = os.path.basename(words.partition(b"\0")[0])
                if os.fsencode(self._directory) in words and program.startswith((b"dockerd", b"containerd")):
                    found.append(int(entry))
        return found

    def files(self) -> Collection[Path]:
        return list(self._directory.glob("data/containers/*/*-json.log"))

    async def tail(self, container: str) -> int:
        return len((await self._ask("logs", "--tail", "10", container)).splitlines())

    async def clear(self) -> None:
        names = (await self._ask("ps", "--all", "--quiet")).split()
        await self._ask("rm", "--force", *names)


async def measure(one: Contestant, report: Report, megabytes: int, seconds: float, containers: int) -> None:
    """All of it, of ``one``."""

    def add(metric: str, value: float, unit: str, n: int, **more: float) -> None:
        report.add(metric, value, unit, n=n, peer=one.name, **more)

    await one.finish("true")
    before, began = sum(one.used().values()), time.perf_counter()
    large = await one.finish(FAST % (megabytes // PART))
    took, cost = time.perf_counter() - began, sum(one.used().values()) - before
    total = megabytes // PART * PART
    add("fast", total / took, "MB/s", total, cpu_seconds_per_gb=cost / total * 1000)
    began = time.perf_counter()
    assert await one.tail(large) == 10
    add("tail", (time.perf_counter() - began) * 1000, "ms", 10)
    if isinstance(one, Lading):
        await measure_reading(one.engine.containers.get(large), add)
    await one.clear()
    for _ in range(containers):
        await one.start(STEADY)
    await trio.sleep(1)
    size, used, began = written(one), one.used(), time.perf_counter()
    await trio.sleep(seconds)
    took, now = time.perf_counter() - began, one.used()
    share = sum(each - used.get(pid, 0) for pid, each in now.items()) / took * 100
    rate = (written(one) - size) / took / 1e6
    add("fifty", share, "% of a core", containers, megabytes_per_second=rate, memory_mb=one.memory() / 1e6)
    await one.clear()


async def measure_reading(made: lading.Container, add: Callable[..., None]) -> None:
    """Lines a second, of at most four million."""
    for metric in ("lines", "frames"):
        lines, began = 0, time.perf_counter()
        with made.logs(tail=4_000_000) as reader:
            if metric == "lines":
                async for _ in reader:
                    lines += 1
            else:
                async for chunk in reader.chunks():
                    frame_lines(chunk.stream, chunk.data)
                    lines += chunk.data.count(b"\n")
        add(metric, lines / (time.perf_counter() - began), "1/s", lines)


def written(one: Contestant) -> int:
    """Bytes on disk."""
    return sum(path.stat().st_size for path in one.files())


async def main(megabytes: int, seconds: float, containers: int, only: set[str]) -> None:
    report = Report("output")
    with tempfile.TemporaryDirectory(prefix="lading-bench-") as name:
        directory = Path(name)
        tar = busybox_tar(directory)
        if "lading" in only:
            async with lading.open_engine(directory / "root") as engine:
                await engine.images.import_rootfs(tar, IMAGE)
                await measure(Lading(engine), report, megabytes, seconds, containers)
        if "docker" in only and (gone := peers.missing("docker", "dockerd", "containerd")):
            report.missing("docker", f"there is no {gone}")
        elif "docker" in only:
            with peers.Docker(directory / "docker") as docker:
                environment, command = docker.environment, docker.command("import", tar, IMAGE)
                subprocess.run(command, check=True, capture_output=True, env=environment)
                await measure(Docker(docker, directory / "docker"), report, megabytes, seconds, containers)
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1008)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--containers", type=int, default=50)
    parser.add_argument("--only", default="lading,docker")
    options = parser.parse_args()
    trio.run(main, options.megabytes, options.seconds, options.containers, set(options.only.split(",")))
