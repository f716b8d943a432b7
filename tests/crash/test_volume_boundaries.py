"""The engine dies at each step of a volume's life, and the next one makes it whole.

See ``boundaries``.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import images
import pytest
from imagefiles import write_docker_archive
from mounted import mounting, volume
from stage import Census, Stage, empty

from lading.events.container import Phase
from lading.events.containerviews import SETTINGS, VOLUMES
from lading.events.errors import NotFound
from lading.storage.volumes import data_of

sys.path.insert(0, str(Path(__file__).parent))
from boundaries import PARTS, PRELUDE, die_at_each_step

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.long]

NAMES = {f"file{number}" for number in range(5)} | {"deep"}

MORE = """
import lading.storage.linux, lading.storage.volumes
from mounted import mounting, volume
crashing(lading.storage.volumes, "sync_directory")
crashing(lading.storage.volumes, "copy_tree")
crashing(lading.storage.volumes, "syncfs")
crashing(lading.storage.linux, "rename_noreplace")
crashing(os, "mkdir", after=False)
"""

LIFE = """
    await engine.images.load({archive!r})
    say("loaded")
    await engine.volumes.create("own")
    say("made", "own")
    settings = mounting(volume("named", "/data"), volume("", "/more"), volume("own", "/own"))
    line = ["sh", "-c", "echo kept > /own/kept"]
    first = await containers.create("made:1", line, settings=settings, name="first")
    say("made", "named")
    say("container")
    await first.start()
    await first.wait()
    say("ran")
    say("going")
    await first.remove(volumes=True)
    say("gone")
    await containers.run("made:1", ["true"])
    await engine.volumes.remove("own")
    say("removed", "own")
    await engine.volumes.prune(all=True)
    say("pruned")
    say("steps", steps)
"""


async def holds(stage: Stage, archive: Path, said: list[list[str]]) -> None:
    """What was acknowledged is there, nothing else is, and everything can be done again."""
    words = {each[0] for each in said}
    async with stage.engine(timeout=40) as engine:
        log, paths = engine.core.log, stage.paths
        for state in engine.containers.list():
            if state.phase is Phase.REMOVING or (state.phase is Phase.STOPPED and state.spec.auto_remove):
                await engine.core.wait_removed(state.id)
            elif supervisor := engine.core.live.get(state.id):
                await supervisor.ended.wait()
                await supervisor.done.wait()
                if state.spec.auto_remove:
                    await engine.core.wait_removed(state.id)
        volumes = dict(log.scan(VOLUMES))
        assert set(os.listdir(paths.volumes)) == set(volumes)
        assert not any(volume.removing for volume in volumes.values())
        if not words & {"removed", "pruned", "gone"}:
            assert {each[1] for each in said if each[0] == "made"} <= set(volumes)
        for _, settings in log.scan(SETTINGS):
            assert {mount.source for mount in settings.mounts} <= set(volumes)
        anonymous = {name for name, volume in volumes.items() if volume.anonymous}
        used = {mount.source for _, settings in log.scan(SETTINGS) for mount in settings.mounts}
        assert anonymous <= used, "a volume was forgotten"
        if "gone" in words:
            assert anonymous == set()
        if "ran" in words and "own" in volumes and "removed" not in words:
            assert (data_of(paths, "own") / "kept").read_text() == "kept\n"
        await again(engine, stage, archive)
        await empty(engine)
        position = engine.log.position
    async with stage.engine(timeout=40) as engine:
        assert engine.log.position == position


async def again(engine: object, stage: Stage, archive: Path) -> None:
    """Whatever came of it, a container that mounts the volumes finds all that the image has there."""
    containers, paths = engine.containers, stage.paths  # type: ignore[attr-defined]
    await engine.images.load(archive)  # type: ignore[attr-defined]
    try:
        first = containers.get("first")
    except NotFound:
        settings = mounting(volume("named", "/data"), volume("", "/more"), volume("own", "/own"))
        first = await containers.create("made:1", ["true"], settings=settings, name="first")
    await first.start()
    assert await first.wait() == 0
    for mount in engine.core.settings(first.id).mounts:  # type: ignore[attr-defined]
        assert os.listdir(paths.volume(mount.source)) == ["_data"]
        if mount.target != "/own":
            data = data_of(paths, mount.source)
            assert {path.name for path in data.iterdir()} == NAMES
            assert (data / "deep/er/file").read_text() == "x" * 5000
    await first.remove(volumes=True)
    for name in ("named", "own"):
        await engine.volumes.remove(name)  # type: ignore[attr-defined]
    assert engine.volumes.list() == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("part", range(PARTS))
async def test_every_step_of_a_volume_s_life_can_be_the_last(
    leakless: Census, busybox_tar: Path, tmp_path: Path, part: int
) -> None:
    members = [
        images.file(f"{top}/{name}", "x" * 5000)
        for top in ("data", "more")
        for name in (*NAMES - {"deep"}, "deep/er/file")
    ]
    base = images.Layer(busybox_tar.read_bytes(), "plain")
    image = images.image(base, images.layer(*members), volumes=("/more",))
    archive = write_docker_archive(tmp_path / "made.tar", {"docker.io/library/made:1": image})
    where = Stage(leakless.root, busybox_tar)
    await die_at_each_step(
        leakless,
        where,
        LIFE.format(archive=str(archive)),
        partial(holds, where, archive),
        prelude=PRELUDE + MORE,
        part=part,
        least=80,
        begun="loaded",  # images have a test of their own
    )
