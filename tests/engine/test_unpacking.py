"""Layers unpacked by worker processes: what comes back, what goes wrong, and that nobody is left over."""

from __future__ import annotations

import gzip
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
import zstandard

from lading.engine.images.unpacking import Unpackers, open_unpackers
from lading.events.errors import BadLayer, EngineClosed, HostError
from lading.storage.confinement import landlock_version
from lading.storage.plan import Limits

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root")


def archive(size: int = 3000, count: int = 3) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(count):
            info = tarfile.TarInfo(f"d/f{number}")
            info.size = size
            tar.addfile(info, io.BytesIO(bytes([65 + number % 26]) * size))
    return out.getvalue()


def children() -> set[int]:
    """Of every thread: whichever it was that forked."""
    return {int(pid) for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()}


async def _until(true: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not true():  # noqa: ASYNC110  # another process does it
            await trio.sleep(0.01)


@pytest.fixture
async def unpackers(tmp_path: Path) -> AsyncIterator[Unpackers]:
    before = children()
    async with open_unpackers(2, within=tmp_path) as opened:
        yield opened
    assert children() <= before


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    path = tmp_path / "staging"
    path.mkdir()
    return path


async def pieces(data: bytes, step: int = 1000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), step):
        await trio.lowlevel.checkpoint()
        yield data[at : at + step]


@pytest.mark.parametrize("way", ["file", "descriptor", "memory", "stream"])
@pytest.mark.parametrize("packed", [False, True])
async def test_every_kind_of_source(
    unpackers: Unpackers, staging: Path, tmp_path: Path, way: str, packed: bool
) -> None:
    plain = archive()
    data = gzip.compress(plain) if packed else plain
    (tmp_path / "layer").write_bytes(b"before" + data)
    seen: list[int] = []
    with open(tmp_path / "layer", "rb") as file:
        file.read(6)
        match way:
            case "file":
                made = await unpackers.unpack(file, staging, split=False, progress=seen.append)
            case "descriptor":
                os.lseek(file.fileno(), 6, os.SEEK_SET)
                made = await unpackers.unpack(file.fileno(), staging, split=False, progress=seen.append)
            case "memory":
                made = await unpackers.unpack(io.BytesIO(data), staging, split=False, progress=seen.append)
            case _:
                made = await unpackers.unpack(pieces(data), staging, split=False, progress=seen.append)
    assert (made.tree / "d/f2").read_bytes() == b"C" * 3000
    assert (made.unpacked.size, made.unpacked.compressed_size) == (len(plain), len(data))
    assert made.unpacked.implied == (b"d",)
    assert seen
    assert seen == sorted(seen)
    if packed:
        assert made.raw is not None
        assert made.raw.read_bytes() == data
        assert made.unpacked.compression == "gzip"
    else:
        assert made.raw is None
        assert not (staging / "raw").exists()
    assert made.split is None


async def test_a_worker_is_used_again_and_ends_when_idle(tmp_path: Path) -> None:
    before = children()
    async with open_unpackers(2, idle=0.2) as unpackers:
        for number in range(3):
            (tmp_path / str(number)).mkdir()
            await unpackers.unpack(io.BytesIO(archive()), tmp_path / str(number), split=False)
        assert len(children() - before) == 1
        await _until(lambda: children() == before)


async def test_the_archives_faults_come_back_with_their_facts(unpackers: Unpackers, staging: Path) -> None:
    bad = io.BytesIO()
    with tarfile.open(fileobj=bad, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../x"))
    with pytest.raises(BadLayer, match=r"'\.\.'") as caught:
        await unpackers.unpack(io.BytesIO(bad.getvalue()), staging, split=False)
    assert caught.value.entry == b"../x"


async def test_limits_arrive(unpackers: Unpackers, staging: Path) -> None:
    with pytest.raises(BadLayer, match="limit of 2 entries"):
        await unpackers.unpack(io.BytesIO(archive()), staging, split=False, limits=Limits(entries=2))


async def test_what_a_source_raises_is_what_is_raised(unpackers: Unpackers, staging: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield archive(1 << 20)[:1_000_000]
        raise KeyError("the network")

    with pytest.raises(KeyError, match="the network"):
        await unpackers.unpack(broken(), staging, split=False)


async def test_a_cancel_kills_the_worker(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield archive()[:600]
        await trio.sleep_forever()

    before = children()
    async with open_unpackers() as unpackers:
        (tmp_path / "s").mkdir()
        with trio.move_on_after(0.5) as scope:
            await unpackers.unpack(endless(), tmp_path / "s", split=False)
        assert scope.cancelled_caught
        assert children() == before


async def test_a_worker_that_is_killed_is_a_host_error(unpackers: Unpackers, staging: Path) -> None:
    before = children()

    async def murderous() -> AsyncIterator[bytes]:
        yield archive()[:600]
        [worker] = children() - before
        os.kill(worker, signal.SIGKILL)
        await trio.sleep_forever()

    with pytest.raises(HostError, match=r"SIGKILL.*memory"):
        await unpackers.unpack(murderous(), staging, split=False)


async def test_closing_ends_what_is_at_work(staging: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield archive()[:600]
        await unpackers.aclose()
        await trio.sleep_forever()

    unpackers = Unpackers()
    with pytest.raises(EngineClosed):
        await unpackers.unpack(endless(), staging, split=False)
    with pytest.raises(EngineClosed):
        await unpackers.unpack(endless(), staging / "tree", split=False)


async def test_a_full_disk_is_told(unpackers: Unpackers, small_disk: Path) -> None:
    (small_disk / "staging").mkdir()
    with pytest.raises(HostError, match="free some space"):
        await unpackers.unpack(pieces(archive(1 << 20, 20), 1 << 16), small_disk / "staging", split=False)
    packed = gzip.compress(os.urandom(10 << 20), 1)
    (small_disk / "again").mkdir()
    with pytest.raises(HostError, match="free some space"):
        await unpackers.unpack(io.BytesIO(packed), small_disk / "again", split=False)


async def test_a_worker_has_nothing_of_the_engines(unpackers: Unpackers, staging: Path) -> None:
    before = children()
    seen: dict[str, object] = {}
    at_work = trio.Event()
    held = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(held, True)

    async def curious() -> AsyncIterator[bytes]:
        data = archive()
        yield data[:600]
        [worker] = children() - before
        proc = Path(f"/proc/{worker}")
        await at_work.wait()
        seen["environment"] = (proc / "environ").read_bytes()
        seen["network"] = (proc / "ns/net").readlink() != Path("/proc/self/ns/net").readlink()
        seen["files"] = [os.readlink(fd) for fd in (proc / "fd").iterdir()]
        seen["limits"] = (proc / "limits").read_text()
        seen["status"] = (proc / "status").read_text()
        yield data[600:]

    try:
        await unpackers.unpack(curious(), staging, split=False, progress=lambda read: at_work.set())
    finally:
        os.close(held)
    assert seen["environment"] == b""
    assert seen["network"] is True
    assert "/etc/hostname" not in str(seen["files"])
    assert "NoNewPrivs:\t1" in str(seen["status"])
    assert "CapEff:\t000000008820001f" in str(seen["status"])
    assert "Max core file size        0" in str(seen["limits"])


@pytest.mark.parametrize(
    "said", [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\1\x05", b"\0\0\0\6\x81\xa4done\x80"]
)
async def test_a_worker_that_was_taken_over_is_not_believed(
    unpackers: Unpackers, staging: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    def command(requests: int, lifeline: int, within: str) -> list[str]:
        code = f"import os,time; os.write({requests}, {said!r}); time.sleep(100)"
        return [sys.executable, "-I", "-S", "-c", code]

    monkeypatch.setattr("lading.engine.images.unpacking.command", command)
    with trio.fail_after(10), pytest.raises(HostError, match="sense"):
        await unpackers.unpack(io.BytesIO(archive()), staging, split=False)


async def test_what_a_worker_says_of_its_end_is_told(
    unpackers: Unpackers, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lading.engine.images.unpacking.command",
        lambda *arguments: [sys.executable, "-I", "-S", "-c", "raise SystemExit('no such thing')"],
    )
    with pytest.raises(HostError, match=r"ended with code 1: no such thing"):
        await unpackers.unpack(io.BytesIO(archive()), staging, split=False)


async def test_an_idle_worker_that_died_is_replaced(unpackers: Unpackers, tmp_path: Path) -> None:
    before = children()
    await unpackers.warm()
    [worker] = children() - before
    os.kill(worker, signal.SIGKILL)
    await _until(lambda: not _alive(Path("/proc") / str(worker)))
    (tmp_path / "s").mkdir()
    await unpackers.unpack(io.BytesIO(archive()), tmp_path / "s", split=False)
    assert worker not in children()


async def test_a_stopped_worker_can_be_cancelled(staging: Path) -> None:
    before = children()
    async with open_unpackers() as unpackers:
        await unpackers.warm()
        [worker] = children() - before
        os.kill(worker, signal.SIGSTOP)
        with trio.move_on_after(0.2) as scope:
            await unpackers.unpack(io.BytesIO(archive()), staging, split=False)
        assert scope.cancelled_caught
        assert children() == before


async def test_memory_that_a_layer_asks_for_is_refused_it(unpackers: Unpackers, staging: Path) -> None:
    """The limits would allow it, the worker's own limit does not."""
    huge = b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3]) + b"\x01\x00\x00"
    with pytest.raises(HostError, match=r"Cannot allocate memory; its worker may use 1024 MiB"):
        await unpackers.unpack(io.BytesIO(huge), staging, split=False, limits=Limits(zstd_window=1 << 31))


@pytest.mark.slow
@pytest.mark.parametrize("pack", [None, gzip.compress, zstandard.compress])
async def test_a_worker_stays_small(
    unpackers: Unpackers, staging: Path, pack: Callable[[bytes], bytes] | None
) -> None:
    before = children()
    await unpackers.warm()
    [worker] = children() - before
    data = archive(1 << 20, 150)
    await unpackers.unpack(io.BytesIO(pack(data) if pack else data), staging, split=True)
    [most] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker}/status").read_text())
    assert int(most) < 60_000


@pytest.mark.slow
@pytest.mark.parametrize("pack", [None, gzip.compress])
async def test_a_worker_does_not_grow_with_its_jobs(
    unpackers: Unpackers, staging: Path, pack: Callable[[bytes], bytes] | None
) -> None:
    before = children()
    await unpackers.warm()
    [worker] = children() - before
    data = archive(100, 2000)
    sizes: list[int] = []
    for number in range(14):
        (staging / str(number)).mkdir()
        source = io.BytesIO(pack(data) if pack else data)
        await unpackers.unpack(source, staging / str(number), split=True)
        [size] = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{worker}/status").read_text())
        sizes.append(int(size))
    assert children() - before == {worker}
    assert min(sizes[-4:]) < max(sizes[:4]) + 8_000, sizes


@pytest.mark.skipif(landlock_version() < 2, reason="the kernel has no Landlock")
async def test_a_worker_cannot_write_elsewhere(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Not even if it wanted to: here it is told to."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "s").mkdir()
    async with open_unpackers(within=tmp_path) as unpackers:
        await unpackers.warm()
        with pytest.raises(HostError, match="Permission denied"):
            await unpackers.unpack(io.BytesIO(archive()), elsewhere / "s", split=False)
    assert not os.listdir(elsewhere / "s/tree")
    async with open_unpackers() as unpackers:
        (elsewhere / "t").mkdir()
        await unpackers.unpack(io.BytesIO(archive()), elsewhere / "t", split=False)


async def test_many_layers_share_a_few_workers(tmp_path: Path) -> None:
    before = children()
    most = 0
    made: list[int] = []

    async def one(number: int) -> None:
        nonlocal most
        (tmp_path / str(number)).mkdir()
        staged = await unpackers.unpack(pieces(archive(), 200), tmp_path / str(number), split=False)
        most = max(most, len(children() - before))
        made.append(staged.unpacked.entries)

    async with open_unpackers(2) as unpackers, trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(one, number)
    assert made == [3] * 12
    assert most == 2
    assert children() == before


@pytest.mark.slow
def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """However it ends, and wherever they are: between jobs, and reading what never comes."""
    code = f"""
import os, trio
from pathlib import Path
from lading.engine.images.unpacking import open_unpackers
async def main():
    async with open_unpackers() as unpackers, trio.open_nursery() as nursery:
        await unpackers.warm(2)
        read, write = os.pipe()
        Path({str(tmp_path / "s")!r}).mkdir()
        nursery.start_soon(lambda: unpackers.unpack(read, Path({str(tmp_path / "s")!r}), split=False))
        await trio.sleep(0.3)
        print(" ".join(str(w.process.pid) for w in [*unpackers._idle, *unpackers._busy]), flush=True)
        await trio.sleep_forever()
trio.run(main)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [Path("/proc") / pid for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(workers) == 2
    deadline = time.monotonic() + 5
    while any(_alive(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _alive(process: Path) -> bool:
    try:
        return "\nState:\tZ" not in (process / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
