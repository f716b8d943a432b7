"""Containers that mount something: how tests ask for them, and images that bring something to be mounted over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import images
from imagefiles import write_docker_archive
from stage import IMAGE

import lading
from lading.events.settings import ContainerSettings, Mount


def mounting(*mounts: Mount) -> ContainerSettings:
    return ContainerSettings(mounts=mounts)


def volume(source: str, target: str, **more: Any) -> Mount:
    return Mount("volume", source, target, **more)


def bind(source: Path | str, target: str, **more: Any) -> Mount:
    return Mount("bind", str(source), target, **more)


def tmpfs(target: str, **more: Any) -> Mount:
    return Mount("tmpfs", "", target, **more)


async def run(
    engine: lading.Engine, line: str, *mounts: Mount, image: str = IMAGE, **options: Any
) -> lading.Completed:
    """``line`` in a new container that mounts ``mounts``, to its end."""
    settings = mounting(*mounts)
    return await engine.containers.run(image, ["sh", "-c", line], settings=settings, network="none", **options)


async def sh(engine: lading.Engine, line: str, *mounts: Mount, image: str = IMAGE, **options: Any) -> str:
    """What that prints; it has to end well."""
    done = await run(engine, line, *mounts, image=image, **options)
    assert (done.exit_code, done.stderr) == (0, b""), done
    return done.stdout.decode()


async def load_image(
    engine: lading.Engine, directory: Path, base: Path, *members: images.Member, volumes: tuple[str, ...] = ()
) -> str:
    """The name of an image of ``base`` (a root file system's archive) with ``members`` over it."""
    name = "docker.io/library/made:1"
    layers = [images.Layer(base.read_bytes(), "plain")]
    if members:
        layers.append(images.layer(*members))
    archive = write_docker_archive(directory / "made.tar", {name: images.image(*layers, volumes=volumes)})
    await engine.images.load(archive)
    return "made:1"
