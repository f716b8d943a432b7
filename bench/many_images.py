"""What a large library costs: listing a thousand images and what they take, and the thousandth container of one.

Lading's images are written into its history as events, for what is asked is answered from there; Docker's come
out of one archive. Asked over the API by the Docker SDK for Python on one connection, the same for both, and of
Lading also in its own process. ``ratio`` is to docker.

    python bench/many_images.py [--images N] [--containers N] [--only docker,library,api]
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import docker
import trio
from _contest import Served
from _image import busybox_tar
from _report import Report

import lading
from lading.engine.core import new_caller
from lading.events.envelope import Proposed
from lading.events.ids import ChainId, Digest, ImageId, image_stream, layer_stream, tag_stream
from lading.events.image import ImageAdded, ImageConfig, LayerAdded, Tagged

IMAGE = "busybox:bench"
ROUNDS = 20
NONE = {"network_mode": "none"}


def digest(*words: object) -> str:
    return f"sha256:{hashlib.sha256(repr(words).encode()).hexdigest()}"


def history(count: int) -> list[list[Proposed]]:
    """The appends that make ``count`` images of five layers: three that all share, two of each one's own."""
    appends: list[list[Proposed]] = []
    known: set[str] = set()
    for number in range(count):
        owners = ["base"] * 3 + [str(number)] * 2
        chains = tuple(ChainId(digest("chain", owner, at)) for at, owner in enumerate(owners))
        diffs = tuple(Digest(digest("diff", owner, at)) for at, owner in enumerate(owners))
        events: list[Proposed] = []
        for at, chain in enumerate(chains):
            if chain not in known:
                known.add(chain)
                parent = chains[at - 1] if at else ""
                added = LayerAdded(chain, diffs[at], parent, 10_000_000, 12_000_000, 500, False)
                events.append(Proposed(layer_stream(chain), added, 0))
        image = ImageId(digest("image", number))
        config = ImageConfig(cmd=("/bin/sh",), env=("PATH=/bin", "VERSION=1"), labels={"number": str(number)})
        made = ImageAdded(image, chains, diffs, config, "2024-01-02T03:04:05Z", "amd64", "linux", "pull", "")
        events.append(Proposed(image_stream(image), made, 0))
        name = f"docker.io/library/many:{number}"
        events.append(Proposed(tag_stream(name), Tagged(name, image, "")))
        appends.append(events)
    return appends


async def fill(engine: lading.Engine, count: int) -> None:
    """Give ``engine`` so many images that are nothing but history."""
    caller = new_caller()
    append = partial(engine.core.journal.append, actor=caller.actor, command=caller.command)
    async with trio.open_nursery() as nursery:
        for events in history(count):
            nursery.start_soon(append, events)


def median_ms(ask: Callable[[], Any]) -> float:
    """Milliseconds of the median of ``ROUNDS``, after one that warms up."""
    seconds = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:]) * 1000


Found = dict[str, tuple[float, str]]


def creations(seconds: list[float]) -> Found:
    """How long the first took, those after it, and the last."""
    micro = [each * 1e6 for each in seconds]
    return {
        "container 1": (micro[0], "µs"),
        f"containers 2 to {ROUNDS + 1}": (statistics.median(micro[1 : ROUNDS + 1]), "µs"),
        f"containers {len(micro) - ROUNDS + 1} to {len(micro)}": (statistics.median(micro[-ROUNDS:]), "µs"),
    }


async def in_process(directory: Path, images: int, containers: int) -> Found:
    """Lading as a library; leaves its store for ``over_api``, without the containers."""
    async with lading.open_engine(directory / "store") as engine:
        await engine.images.import_rootfs(busybox_tar(directory), IMAGE)
        await fill(engine, images)
        found = {
            "images": (median_ms(engine.images.list), "ms"),
            "df": (median_ms(engine.disk_usage), "ms"),
        }
        seconds, made = [], []
        for _ in range(containers):
            began = time.perf_counter()
            made.append(await engine.containers.create(IMAGE, ["/bin/true"]))
            seconds.append(time.perf_counter() - began)
        for container in made:
            await container.remove()
    return found | creations(seconds)


def over_api(client: docker.APIClient, images: int, containers: int) -> Found:
    """Any engine that speaks Docker's API and has the images."""
    assert len(client.images()) == images + 1
    found = {
        "images": (median_ms(client.images), "ms"),
        "df": (median_ms(client.df), "ms"),
    }
    config = client.create_host_config(**NONE)
    seconds = []
    for _ in range(containers):
        began = time.perf_counter()
        client.create_container(IMAGE, ["/bin/true"], host_config=config)
        seconds.append(time.perf_counter() - began)
    return found | creations(seconds)


def with_docker(directory: Path, images: int, containers: int) -> Found:
    """dockerd, with as many images of one layer."""
    import imagefiles
    import peers
    from images import Layer, image

    base = Layer(busybox_tar(directory).read_bytes())
    many = {f"many:{number}": image(base, labels={"number": str(number)}) for number in range(images)}
    archive = imagefiles.write_docker_archive(directory / "many.tar", {**many, IMAGE: image(base)})
    with peers.Docker(directory / "docker") as engine:
        engine.run("load", "--quiet", "--input", archive)
        client = docker.APIClient(base_url=f"unix://{engine.socket}", version="auto", timeout=600)
        try:
            return over_api(client, images, containers)
        finally:
            client.close()


def served(directory: Path, images: int, containers: int) -> Found:
    """``lading serve`` on the store of ``in_process``."""
    with Served(directory) as engine:
        client = docker.APIClient(base_url=engine.environment["DOCKER_HOST"], version="auto", timeout=600)
        try:
            return over_api(client, images, containers)
        finally:
            client.close()


def main(images: int, containers: int, only: set[str]) -> None:
    report = Report("many_images")
    results: dict[str, Found] = {}
    with tempfile.TemporaryDirectory(prefix="lading-bench-", dir="/var/tmp") as name:
        directory = Path(name)
        if "docker" in only:
            import peers

            if absent := peers.missing("docker", "dockerd", "containerd"):
                report.missing("docker", f"not installed: {', '.join(absent)}")
            else:
                results["docker"] = with_docker(directory, images, containers)
        if "library" in only or "api" in only:
            results["lading, library"] = trio.run(in_process, directory, images, containers)
        if "api" in only:
            results["lading, API"] = served(directory, images, containers)
    for peer, found in results.items():
        for metric, (value, unit) in found.items():
            docker_value = results.get("docker", {}).get(metric)
            ratio = None if docker_value is None else value / docker_value[0]
            n = 1 if metric == "container 1" else ROUNDS
            report.add(metric, value, unit, n=n, peer=peer, ratio=ratio)
    report.finish()
    report.compare()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--containers", type=int, default=1000)
    parser.add_argument("--only", default="docker,library,api")
    arguments = parser.parse_args()
    main(arguments.images, arguments.containers, set(arguments.only.split(",")))
