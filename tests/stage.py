"""A place to run real engines in, and the proof that they left nothing behind on the host."""

from __future__ import annotations

import collections
import gc
import os
import shutil
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import trio

import lading
from lading.events.containerviews import VOLUMES
from lading.events.envelope import Record
from lading.events.ids import container_stream
from lading.events.reach import reach
from lading.events.views import CONTAINERS, EXECS, GOING, LEASES, PULLS
from lading.storage.cgroups import cgroup_mounts, remove_cgroup
from lading.storage.overlay import mounts_below, unmount
from lading.storage.store import Paths, locate, read_log

IMAGE = "busybox:test"
PATIENCE = 5.0
"""Seconds that something which ends by itself is given to be gone: the kernel is not done when waitpid is."""


def descriptors() -> collections.Counter[str]:
    """What this process has open, by what it is."""
    found: collections.Counter[str] = collections.Counter()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{fd}")
            if target != f"/proc/{os.getpid()}/fd":
                found[target.partition(":[")[0] if ":[" in target else target] += 1
    return found


def name(digest: str) -> str:
    """What a layer's directory or a blob is called."""
    return digest.removeprefix("sha256:")


def threads() -> list[str]:
    """The threads that somebody should have ended: all but those that trio keeps for later."""
    return sorted(thread.name for thread in threading.enumerate() if not thread.name.startswith("Trio thread"))


def network_namespaces() -> set[str]:
    """The network namespaces that are bound to a file; those of processes are found with the processes."""
    return set(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else set()


def cgroups(run: Path) -> list[Path]:
    """The cgroups of the store whose run directory this is, in every hierarchy."""
    return [found for mount in cgroup_mounts() if (found := mount / "lading" / run.name).exists()]


def processes(run: Path) -> dict[int, str]:
    """The processes of the store whose run directory this is, keeper and containers, with a word on each."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != os.getpid():
            with suppress(OSError):
                words = Path(f"/proc/{entry}/cmdline").read_bytes()
                if not words:  # a zombie, or a thread of the kernel
                    continue
                groups = Path(f"/proc/{entry}/cgroup").read_bytes()
                if os.fsencode(run) in words or b"/lading/" + os.fsencode(run.name) in groups:
                    found[int(entry)] = words.replace(b"\0", b" ").decode("utf-8", "replace")[:120]
    return found


def children() -> dict[int, str]:
    """This process's own children, the zombies among them."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(OSError):
                name, _, rest = Path(f"/proc/{entry}/stat").read_text().rpartition(")")
                if int(rest.split()[1]) == os.getpid():
                    found[int(entry)] = name + rest[:2]
    return found


@attrs.define
class Census:
    """What there was before a test; ``check`` compares, and reads the log that the engines left."""

    root: Path
    fds: collections.Counter[str] = attrs.field(factory=descriptors)
    threads: list[str] = attrs.field(factory=threads)
    netns: set[str] = attrs.field(factory=network_namespaces)
    children: dict[int, str] = attrs.field(factory=children)

    def check(self) -> None:
        """Nothing of the store at ``root`` is left but its files, and its views are what its log gives."""
        if not self.root.exists():
            return
        paths = locate(self.root)
        agree(lambda: processes(paths.run), {})
        agree(lambda: {k: v for k, v in children().items() if k not in self.children}, {})
        agree(lambda: mounts_below(self.root) + mounts_below(paths.run), [])
        agree(lambda: paths.run in mounts_below(paths.run.parent), False)
        agree(lambda: cgroups(paths.run), [])
        assert network_namespaces() - self.netns == set()
        assert collections.Counter(threads()) - collections.Counter(self.threads) == collections.Counter()
        gc.collect()
        assert descriptors() - self.fds == collections.Counter()
        for directory in (paths.run / name for name in ("bundles", "pids", "execs", "crun", "runc")):
            assert not directory.exists() or os.listdir(directory) == [], directory
        assert os.listdir(paths.staging) == []
        assert [name for own in paths.containers.iterdir() for name in os.listdir(own) if "exit" in name] == []
        if (self.root / "store.json").exists():
            log = read_log(self.root)
            try:
                verified = log.verify()
                assert verified.first + verified.records == log.head() + 1
                reached = reach(log)
                assert set(os.listdir(paths.layers)) <= {name(chain) for chain in reached.layers}
                assert set(os.listdir(paths.splits)) <= set(os.listdir(paths.layers))
                assert set(os.listdir(paths.blobs)) <= {name(digest) for digest in reached.blobs}
                volumes = dict(log.scan(VOLUMES))
                assert set(os.listdir(paths.volumes) if paths.volumes.exists() else ()) == set(volumes)
                assert [key for key, volume in volumes.items() if volume.removing] == []
                assert [log.scan(view) for view in (PULLS, LEASES, GOING)] == [[], [], []]
                running = {key for key, state in log.scan(CONTAINERS) if state.process is not None}
                assert {execution.container for _, execution in log.scan(EXECS)} <= running
            finally:
                log.close()

    def clean(self) -> None:
        """Take away by force what a failed test left, so that the next one starts clean."""
        if not self.root.exists():
            return
        run = locate(self.root).run
        for _ in range(20):
            left = processes(run)
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                break
            time.sleep(0.05)
        for mount in (*mounts_below(run), run, *mounts_below(self.root)):
            with suppress(lading.errors.HostError):
                unmount(mount)
        remove_cgroup(f"/lading/{run.name}")
        shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(self.root, ignore_errors=True)


def stop_hanging(seconds: int) -> Callable[[], None]:
    """Break this process out of whatever it does after ``seconds``, even if that is shielded; call to disarm."""

    def raise_it(number: int, frame: object) -> None:
        raise TimeoutError(f"the test hung for {seconds} s")

    before = signal.signal(signal.SIGALRM, raise_it)
    signal.alarm(seconds)

    def disarm() -> None:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

    return disarm


def agree(look: Callable[[], Any], expected: Any) -> None:
    """``look()`` gives ``expected``, at the latest in a moment."""
    deadline = time.monotonic() + PATIENCE
    while (seen := look()) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    assert seen == expected


@attrs.define
class Stage:
    """A store's root, and an archive to make its first image of."""

    root: Path
    tar: Path

    @property
    def paths(self) -> Paths:
        return locate(self.root)

    @asynccontextmanager
    async def engine(self, timeout: float = 60, **options: Any) -> AsyncIterator[lading.Engine]:
        """An open engine that has the image ``IMAGE``; everything within ``timeout`` seconds."""
        with trio.fail_after(timeout):
            async with lading.open_engine(self.root, **options) as engine:
                if not engine.images.list():
                    await engine.images.import_rootfs(self.tar, IMAGE)
                yield engine

    @asynccontextmanager
    async def bare(self, timeout: float = 60, **options: Any) -> AsyncIterator[lading.Engine]:
        """An open engine without an image; its containers are removed by force at the end."""
        with trio.fail_after(timeout):
            async with lading.open_engine(self.root, **options) as engine:
                try:
                    yield engine
                finally:
                    with trio.move_on_after(20, shield=True):
                        await empty(engine)

    @asynccontextmanager
    async def emptied(self, **options: Any) -> AsyncIterator[lading.Engine]:
        """An open engine whose containers are removed by force at the end."""
        async with self.engine(**options) as engine:
            try:
                yield engine
            finally:
                with trio.move_on_after(20, shield=True):
                    await empty(engine)


async def empty(engine: lading.Engine) -> None:
    """Remove every container by force."""
    async with trio.open_nursery() as nursery:
        for state in engine.containers.list():
            nursery.start_soon(remove, engine, state.id)


async def remove(engine: lading.Engine, container: str) -> None:
    with suppress(lading.errors.Refused):
        await engine.containers.get(container).remove(force=True)


def story(engine: lading.Engine, container: str) -> list[str]:
    """The names of the events of ``container``'s whole life."""
    return [type(record.event).__name__ for record in records(engine, container)]


def records(engine: lading.Engine, container: str) -> list[Record]:
    return engine.log.read_stream(container_stream(container))


def event(engine: lading.Engine, container: str, kind: type) -> Any:
    """The last event of type ``kind`` in ``container``'s life."""
    return [record.event for record in records(engine, container) if isinstance(record.event, kind)][-1]


async def happens(engine: lading.Engine, container: str, kind: type, after: int = 0) -> Any:
    """Wait for the first event of type ``kind`` in ``container``'s life past position ``after``."""
    with trio.fail_after(20):
        async for record in engine.log.follow(after):
            if record.stream == container_stream(container) and isinstance(record.event, kind):
                return record.event
    raise AssertionError(f"the engine closed before {kind.__name__}")


async def until(engine: lading.Engine, holds: Callable[[], bool]) -> None:
    """Return when something was recorded after which it ``holds``."""
    with trio.fail_after(20):
        # The writer may append between a look and what follows it: the position is that of before the look.
        position = engine.core.journal.position
        while not holds():
            await engine.core.journal.wait_past(position)
            position = engine.core.journal.position


async def printed(container: lading.Container, line: bytes) -> None:
    """Wait until ``container`` printed ``line``."""
    with trio.fail_after(20), container.logs(follow=True) as reader:
        async for piece in reader:
            if piece.data.strip() == line:
                return
    raise AssertionError(f"it ended before it printed {line!r}")


async def output(container: lading.Container, **options: Any) -> bytes:
    """Everything that ``container`` printed."""
    with trio.fail_after(20), container.logs(**options) as reader:
        return b"".join([piece.data async for piece in reader])


async def output_of(engine: lading.Engine, image: str, *command: str) -> bytes:
    """What ``command`` prints in a new container of ``image``."""
    return (await engine.containers.run(image, command)).stdout
