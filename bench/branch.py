"""What it takes to branch off a container that wrote a gigabyte: a commit, ten forks; and to copy that in and out.

``commit, stopped`` and ``fork of 10`` copy nothing; ``commit, running`` does, with the container held still.
``first archive`` is a save of the stopped one's commit, for which the digest of what it wrote has to be found out:
what the commit saved is paid then, by who needs it. Docker is measured, with the same words, where its engine
answers: it copies at each commit, and its forks are a commit and ten creates. ``ratio`` is to Lading.

    python bench/branch.py [--megabytes N] [--rounds N] [--files N]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import trio
from _image import busybox_tar
from _report import Report

import lading

IMAGE = "busybox:bench"


def script(megabytes: int, files: int) -> str:
    """Writes so much, in so many files."""
    each = max(1, (megabytes << 20) // files)
    return f"mkdir -p /data; for i in $(seq {files}); do head -c {each} /dev/zero > /data/$i; done"


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    await work()
    return (time.perf_counter() - began) * 1000


async def drained(chunks: AsyncIterator[bytes]) -> None:
    async for _ in chunks:
        pass


Found = dict[str, list[float]]


async def measure_lading(directory: Path, tar: Path, text: str, rounds: int) -> Found:
    found: Found = {}
    async with lading.open_engine(directory / "root") as engine:
        await engine.images.import_rootfs(tar, IMAGE)
        for number in range(rounds):
            await one_round(engine, text, f"branch:{number}", found)
            for state in engine.containers.list():
                await engine.containers.get(state.id).remove(force=True)
            await engine.images.remove(f"branch:{number}", force=True)
    return found


async def one_round(engine: lading.Engine, text: str, name: str, found: Found) -> None:
    async def note(metric: str, work: Callable[[], Awaitable[object]]) -> None:
        found.setdefault(metric, []).append(await timed(work))

    async def over() -> lading.Container:
        made = await engine.containers.create(IMAGE, ["sh", "-c", text])
        await made.start()
        await made.wait()
        if (supervisor := engine.core.live.get(made.id)) is not None:
            await supervisor.done.wait()  # its unmount writes to the disk what is not there yet
        return made

    async def save() -> None:
        async with engine.images.save(name) as chunks:
            await drained(chunks)

    async def copy_out() -> None:
        async with two.get_archive("/data") as archive:
            await drained(archive.chunks)

    async def copy_in() -> None:
        other = await engine.containers.create(IMAGE, ["true"])
        async with two.get_archive("/data") as archive:
            await other.put_archive("/tmp", archive.chunks)

    one, two = await over(), await over()
    await note("commit, stopped", lambda: one.commit(name))
    await note("fork of 10", lambda: two.fork(10))
    await note("first archive", save)
    await note("archive after that", save)
    await note("cp out", copy_out)
    await note("cp out and in", copy_in)
    running = await engine.containers.create(IMAGE, ["sh", "-c", f"{text}; echo ready; sleep 1000"])
    await running.start()
    with running.logs(follow=True) as reader:
        async for piece in reader:
            if b"ready" in piece.data:
                break
    await note("commit, running", running.commit)


async def docker(*words: str) -> str:
    done = await trio.run_process(["docker", *words], capture_stdout=True, capture_stderr=True)
    return done.stdout.decode().strip()


async def measure_docker(tar: Path, text: str, rounds: int) -> Found:
    found: Found = {}
    await docker("import", str(tar), IMAGE)
    for number in range(rounds):
        await docker_round(text, f"branch-{number}", f"branch:{number}", found)
    return found


async def docker_round(text: str, name: str, image: str, found: Found) -> None:
    async def fork() -> None:
        await docker("commit", name, f"{image}-fork")
        for _ in range(10):
            await docker("create", "--network", "none", f"{image}-fork", "true")

    await docker("run", "--network", "none", "--name", name, IMAGE, "sh", "-c", text)
    found.setdefault("commit, stopped", []).append(await timed(lambda: docker("commit", name, image)))
    found.setdefault("fork of 10", []).append(await timed(fork))


async def main(megabytes: int, rounds: int, files: int) -> None:
    report = Report("branch")
    text = script(megabytes, files)
    with tempfile.TemporaryDirectory(prefix="lading-bench-") as name:
        directory = Path(name)
        tar = busybox_tar(directory)
        ours = await measure_lading(directory, tar, text, rounds)
        for metric, values in ours.items():
            report.add(metric, statistics.median(values), "ms", n=len(values), worst=max(values))
        docker = shutil.which("docker")
        if docker and subprocess.run([docker, "info"], capture_output=True, check=False).returncode == 0:
            for metric, values in (await measure_docker(tar, text, rounds)).items():
                median = statistics.median(values)
                ratio = median / statistics.median(ours[metric])
                report.add(metric, median, "ms", n=len(values), peer="docker", ratio=ratio, worst=max(values))
        else:
            report.missing("docker", "its engine does not answer")
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=16)
    arguments = parser.parse_args()
    trio.run(main, arguments.megabytes, arguments.rounds, arguments.files)
