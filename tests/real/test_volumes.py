"""Volumes with real containers: they outlive them, are filled once, and go with them only where that is wanted."""

from __future__ import annotations

import pytest
from stage import IMAGE, Stage

import lading
from lading.events.errors import NotFound
from lading.events.settings import ContainerSettings, Mount

pytestmark = [pytest.mark.real, pytest.mark.slow]


def mounting(*mounts: Mount) -> ContainerSettings:
    return ContainerSettings(mounts=mounts)


def volume(source: str, target: str, **more: object) -> Mount:
    return Mount("volume", source, target, **more)  # type: ignore[arg-type]


async def sh(engine: lading.Engine, line: str, *mounts: Mount, image: str = IMAGE, **options: object) -> str:
    """What ``line`` prints in a new container that mounts ``mounts``; it has to end well."""
    done = await engine.containers.run(
        image, ["sh", "-c", line], settings=mounting(*mounts), network="none", **options
    )
    assert done.exit_code == 0, done
    return done.stdout.decode()


async def test_what_one_container_writes_another_reads(stage: Stage) -> None:
    async with stage.emptied() as engine:
        await sh(engine, "echo kept > /data/file", volume("box", "/data"))
        assert await sh(engine, "cat /other/place/file", volume("box", "/other/place")) == "kept\n"
        assert [state.name for state in engine.volumes.list()] == ["box"]
    async with stage.emptied() as engine:
        assert await sh(engine, "cat /data/file", volume("box", "/data")) == "kept\n"
        await engine.volumes.remove("box")
        assert engine.volumes.list() == []
        with pytest.raises(NotFound):
            await engine.volumes.remove("box")
        await engine.volumes.remove("box", force=True)
    assert list(stage.paths.volumes.iterdir()) == []
