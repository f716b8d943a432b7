"""The engine dies at each step of an image's life, and the next one has either all of the image or nothing of it.

See ``boundaries``.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import images
import pytest
from imagefiles import write_docker_archive
from pushing import push_image
from registry import LocalRegistry
from stage import Census, Stage, agree, children, empty, output_of

from lading.events.errors import NotFound
from lading.events.reach import reach
from lading.events.views import LAYERS

sys.path.insert(0, str(Path(__file__).parent))
from boundaries import PARTS, die_at_each_step

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.long]

LIFE = """
    pulled, path = {pulled!r}, {path!r}
    await engine.images.pull(pulled)
    say("pulled", pulled)
    await engine.images.load(path)
    say("loaded", "loaded:1")
    await engine.images.import_rootfs({tar!r}, "imported:1")
    say("imported", "imported:1")
    await engine.images.push({pushed!r})
    say("pushed")
    await engine.images.remove("imported:1")
    say("removed", "imported:1")
    await engine.images.tag(pulled, "named:1")
    await engine.images.remove(pulled)
    await engine.images.prune(all=True)
    say("pruned")
    say("steps", steps)
"""


class Life:
    """The scenario, and what the next engine must find after it ended somewhere."""

    def __init__(self, registry: LocalRegistry, tar: Path, directory: Path) -> None:
        self.image = images.storied(tar, 2)
        push_image(registry.address, "story:1", self.image)
        self.pulled = f"{registry.address}/story:1"
        self.path = directory / "archive.tar"
        loaded = images.image(images.layer(images.file("own", "1")), *self.image.layers, cmd=["true"])
        write_docker_archive(self.path, {"loaded:1": loaded})
        self.tar = tar
        self.scenario = LIFE.format(pulled=self.pulled, path=str(self.path), tar=str(tar), pushed=self.pulled)

    async def check(self, stage: Stage, said: list[list[str]]) -> None:
        """What was acknowledged is there, what is there is whole, and everything can be done again."""
        words = [each[0] for each in said]
        async with stage.engine(timeout=60) as engine:
            log, paths = engine.core.log, stage.paths
            reached = reach(log)
            layers = {chain for chain, _ in log.scan(LAYERS)}
            assert layers == reached.layers
            assert {f"sha256:{path.name}" for path in paths.layers.iterdir()} == layers
            assert {f"sha256:{path.name}" for path in paths.splits.iterdir()} <= layers
            assert {f"sha256:{path.name}" for path in paths.blobs.iterdir()} == reached.blobs
            assert list(paths.staging.iterdir()) == []
            if "pruned" not in words:
                for each in said:
                    if each[0] in ("pulled", "loaded"):
                        self._there(engine, each[1], "removed" in words)
            if "removed" in words:
                with pytest.raises(NotFound):
                    engine.images.resolve("imported:1")
            for state in engine.images.list():
                async with engine.images.save(state.image) as stream:
                    async for _ in stream:
                        pass
            position = engine.log.position
        async with stage.engine(timeout=60) as engine:
            leases = 2 * len(engine.images.list())
            assert engine.log.position <= position + leases
            assert (await engine.images.pull(self.pulled)).image == self.image.id
            assert await output_of(engine, self.pulled, "cat", "/etc/hello") == b"hello from layer 1\n"
            await engine.images.load(self.path)
            await engine.images.import_rootfs(self.tar, "imported:1")
            await engine.images.remove("imported:1")
            await empty(engine)

    def _there(self, engine: object, name: str, removing: bool) -> None:
        try:
            engine.images.resolve(name)  # type: ignore[attr-defined]
        except NotFound:
            assert removing, f"{name} was acknowledged and is not there"


@pytest.mark.parametrize("part", range(PARTS))
async def test_every_step_of_an_images_life_can_be_the_last(
    leakless: Census, busybox_tar: Path, registry: LocalRegistry, tmp_path: Path, part: int
) -> None:
    where = Stage(leakless.root, busybox_tar)
    life = Life(registry, busybox_tar, tmp_path)
    before = children()
    await die_at_each_step(leakless, where, life.scenario, partial(life.check, where), part=part, least=60)
    agree(lambda: {pid: words for pid, words in children().items() if pid not in before}, {})
