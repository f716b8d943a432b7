"""How many full lives a second: create, start /bin/true, wait, remove; every event on disk.

The yardstick is bare ``crun run`` of a prepared bundle with the very configuration that Lading gives the
runtime, on the same machine in the same run: it makes no overlay, keeps no log, no output and no exit
status. Docker, podman and ctr are measured where their engines answer.

    python bench/start_stop.py [--lives N] [--only lading,crun,...]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio
from _image import busybox_tar
from _report import Report

import lading
from lading.engine.oci import BundleSpec, Host, render
from lading.engine.runtime import file_limit

LEVELS = (1, 4, 16, 64)
IMAGE = "busybox:bench"


async def measure(life: Callable[[int], Awaitable[None]], lives: int, at_once: int) -> tuple[float, list[float]]:
    """``(lives a second, seconds of each)`` with ``at_once`` lives under way at any time."""
    seconds: list[float] = []
    numbers = iter(range(lives))

    async def worker() -> None:
        for number in numbers:
            began = time.perf_counter()
            await life(number)
            seconds.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(worker)
    return lives / (time.perf_counter() - began), seconds


def prepare_bundle(directory: Path, tar: Path) -> Path:
    """A bundle for bare crun: the same root file system, unpacked, and the same configuration."""
    bundle = directory / "bundle"
    root = bundle / "rootfs"
    root.mkdir(parents=True)
    subprocess.run(["tar", "-C", root, "-xf", tar], check=True)
    config = render(
        BundleSpec(
            container_id="bench",
            rootfs=os.fspath(root),
            args=("/bin/true",),
            env=("PATH=/bin",),
            cwd="/",
            cgroups_path="/lading-bench",
            nofile=file_limit(),
            network="host",
            hostname="bench",
        ),
        Host.probe(),
    )
    document = json.loads(config)
    del document["linux"]["cgroupsPath"]  # crun then makes one of the container's own name
    (bundle / "config.json").write_text(json.dumps(document))
    return bundle


async def command(*argv: str) -> None:
    await trio.run_process(argv, capture_stdout=True, capture_stderr=True)


async def bare_crun(bundle: Path, number: int) -> None:
    await command("crun", "run", "--bundle", os.fspath(bundle), f"bench-{os.getpid()}-{number}")


async def docker_life(client: str, number: int) -> None:
    name = f"bench-{os.getpid()}-{number}"
    await command(client, "create", "--network", "host", "--name", name, IMAGE, "/bin/true")
    await command(client, "start", name)
    await command(client, "wait", name)
    await command(client, "rm", name)


async def ctr_life(number: int) -> None:
    name = f"bench-{os.getpid()}-{number}"
    await command("ctr", "run", "--rm", "--net-host", f"docker.io/library/{IMAGE}", name, "/bin/true")


async def lading_life(engine: lading.Engine, number: int) -> None:
    container = await engine.containers.create(IMAGE, ["/bin/true"])
    await container.start()
    code = await container.wait()
    await container.remove()
    assert code == 0, code


def answers(*argv: str) -> bool:
    return (
        shutil.which(argv[0]) is not None
        and subprocess.run(argv, capture_output=True, check=False, timeout=30).returncode == 0
    )


def add(
    report: Report, peer: str, at_once: int, result: tuple[float, list[float]], yard: dict[int, float]
) -> None:
    rate, seconds = result
    base = yard.get(at_once)
    report.add("lives", rate, "1/s", n=len(seconds), concurrency=at_once, peer=peer, ratio=base and rate / base)
    if at_once == 1:
        p50 = statistics.median(seconds) * 1000
        base50 = yard.get(0)
        report.add("life p50", p50, "ms", n=len(seconds), peer=peer, ratio=base50 and p50 / base50)


async def main(lives: int, only: set[str]) -> None:
    report = Report("start_stop")
    yard: dict[int, float] = {}
    with tempfile.TemporaryDirectory(prefix="lading-bench-") as name:
        directory = Path(name)
        tar = busybox_tar(directory)
        bundle = prepare_bundle(directory, tar)
        async with lading.open_engine(directory / "root") as engine:
            await engine.images.import_rootfs(tar, IMAGE)
            await engine.containers.run(IMAGE, ["/bin/true"])
            for at_once in LEVELS:
                # Side by side, one level after the other, so that a slow minute slows both.
                bare = await measure(partial(bare_crun, bundle), lives, at_once)
                yard[at_once] = bare[0]
                if at_once == 1:
                    yard[0] = statistics.median(bare[1]) * 1000
                add(report, "bare crun", at_once, bare, yard)
                add(report, "lading", at_once, await measure(partial(lading_life, engine), lives, at_once), yard)
        for client in ("docker", "podman"):
            if client not in only:
                continue
            if not answers(client, "info"):
                report.missing(client, "its engine does not answer")
                continue
            with tar.open("rb") as file:
                subprocess.run([client, "import", "-", IMAGE], stdin=file, check=True, capture_output=True)
            for at_once in LEVELS[:3]:
                few = max(8, lives // 10)
                add(report, client, at_once, await measure(partial(docker_life, client), few, at_once), yard)
            subprocess.run([client, "rmi", IMAGE], check=False, capture_output=True)
        if "ctr" in only:
            if answers("ctr", "version"):
                for at_once in LEVELS[:3]:
                    add(report, "ctr", at_once, await measure(ctr_life, max(8, lives // 10), at_once), yard)
            else:
                report.missing("ctr", "containerd does not answer")
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lives", type=int, default=200)
    parser.add_argument("--only", default="docker,podman,ctr", help="the peers to try")
    arguments = parser.parse_args()
    trio.run(main, arguments.lives, set(arguments.only.split(",")))
