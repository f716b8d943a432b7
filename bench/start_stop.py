"""How many full lives a second: create, start /bin/true, wait, remove; every event on disk.

Two yardsticks, on the same machine in the same run; neither makes an overlay, keeps a log, output or an exit
status. ``bare crun``: ``crun run`` of a prepared bundle with the very configuration that Lading gives the runtime.
``bare crun, plain``: with the configuration that ``crun spec`` writes, which has no seccomp profile, in the host's
network. ``ratio`` is to the first, ``ratio_plain`` to the second. Docker, podman and ctr are measured where
their engines answer, with their default isolation and the host's network.

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

import attrs
import trio
from _image import busybox_tar
from _report import Report

import lading
from lading.engine.oci.config import BundleSpec, Host, render
from lading.engine.oci.runtime import file_limit

LEVELS = (1, 4, 16, 64)
IMAGE = "busybox:bench"


async def measure(life: Callable[[int], Awaitable[None]], lives: int, at_once: int) -> Measured:
    """``lives`` of them, with ``at_once`` under way at any time."""
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
    return Measured(lives / (time.perf_counter() - began), seconds)


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


def prepare_plain(directory: Path, bundle: Path) -> Path:
    """A bundle for bare crun as ``crun spec`` writes it, less the terminal and the network namespace."""
    plain = directory / "plain"
    plain.mkdir()
    subprocess.run(["crun", "spec"], cwd=plain, check=True)
    document = json.loads((plain / "config.json").read_text())
    document["process"] |= {"terminal": False, "args": ["/bin/true"]}
    document["root"] = {"path": os.fspath(bundle / "rootfs")}
    linux = document["linux"]
    linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] != "network"]
    (plain / "config.json").write_text(json.dumps(document))
    return plain


async def command(*argv: str) -> None:
    await trio.run_process(argv, capture_stdout=True, capture_stderr=True)


async def bare_crun(bundle: Path, number: int) -> None:
    await command("crun", "run", "--bundle", os.fspath(bundle), f"bench-{os.getpid()}-{number}")


async def docker_life(client: str, number: int) -> None:
    name = f"bench-{os.getpid()}-{number}"
    # podman asks for more open files than a host without CAP_SYS_RESOURCE may give.
    limits = ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1024:4096"] if client == "podman" else []
    await command(client, "create", *limits, "--network", "host", "--name", name, IMAGE, "/bin/true")
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


@attrs.frozen
class Measured:
    """Lives a second, and the seconds that each took."""

    rate: float
    seconds: list[float]

    @property
    def p50(self) -> float:
        """Milliseconds of the median life."""
        return statistics.median(self.seconds) * 1000


def add(report: Report, peer: str, at_once: int, result: Measured, yard: Yard) -> None:
    """Report ``result`` and how it compares."""
    bare, plain = yard[at_once]
    ratios = {"ratio": result.rate / bare.rate, "ratio_plain": result.rate / plain.rate}
    report.add("lives", result.rate, "1/s", n=len(result.seconds), concurrency=at_once, peer=peer, **ratios)
    if at_once == 1:
        ratios = {"ratio": result.p50 / bare.p50, "ratio_plain": result.p50 / plain.p50}
        report.add("life p50", result.p50, "ms", n=len(result.seconds), peer=peer, **ratios)


Yard = dict[int, tuple[Measured, Measured]]


async def main(lives: int, only: set[str]) -> None:
    report = Report("start_stop")
    yard: Yard = {}
    with tempfile.TemporaryDirectory(prefix="lading-bench-") as name:
        directory = Path(name)
        tar = busybox_tar(directory)
        bundle = prepare_bundle(directory, tar)
        plain = prepare_plain(directory, bundle)
        async with lading.open_engine(directory / "root") as engine:
            await engine.images.import_rootfs(tar, IMAGE)
            await engine.containers.run(IMAGE, ["/bin/true"])
            for at_once in LEVELS:
                # Side by side, one level after the other, so that a slow minute slows all of them.
                yard[at_once] = (
                    await measure(partial(bare_crun, bundle), lives, at_once),
                    await measure(partial(bare_crun, plain), lives, at_once),
                )
                add(report, "bare crun", at_once, yard[at_once][0], yard)
                add(report, "bare crun, plain", at_once, yard[at_once][1], yard)
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
            if client == "docker" and "ctr" in only and answers("ctr", "version"):
                saved = subprocess.run([client, "save", IMAGE], check=True, capture_output=True).stdout
                subprocess.run(["ctr", "image", "import", "-"], input=saved, check=True, capture_output=True)
            subprocess.run([client, "rmi", IMAGE], check=False, capture_output=True)
        if "ctr" in only:
            if answers("ctr", "version") and IMAGE in subprocess.getoutput("ctr image ls -q"):
                for at_once in LEVELS[:3]:
                    add(report, "ctr", at_once, await measure(ctr_life, max(8, lives // 10), at_once), yard)
            else:
                report.missing("ctr", "containerd does not answer, or docker is not there to give it the image")
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lives", type=int, default=200)
    parser.add_argument("--only", default="docker,podman,ctr", help="the peers to try")
    arguments = parser.parse_args()
    trio.run(main, arguments.lives, set(arguments.only.split(",")))
