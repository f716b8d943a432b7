"""The engine dies at each step of an image's life, and the next one has either all of the image or nothing of it.

As in ``test_boundaries``: a first child counts the steps, then one child for each step dies there.
"""

from __future__ import annotations

import sys
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
from child import child_engine
from test_boundaries import PRELUDE, told

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


@pytest.mark.parametrize("part", range(4))
async def test_every_step_of_an_images_life_can_be_the_last(
    leakless: Census, busybox_tar: Path, registry: LocalRegistry, tmp_path: Path, part: int
) -> None:
    where = Stage(leakless.root, busybox_tar)
    life = Life(registry, busybox_tar, tmp_path)
    before = children()
    async with child_engine(where, life.scenario, prelude=PRELUDE.format(last=0), stay=False) as child:
        said = await told(child)
    [count] = [int(words[1]) for words in said if words[0] == "steps"]
    assert count > 60, said
    await life.check(where, said)
    wrong: list[Exception] = []
    for last in range(1 + part, count + 1, 4):
        leakless.clean()
        async with child_engine(where, life.scenario, prelude=PRELUDE.format(last=last), stay=False) as child:
            said = await told(child)
        async with child_engine(where, "", prelude=PRELUDE.format(last=1 + last % 5), stay=False) as child:
            await told(child)  # the recovery dies, too, at one of its first steps, if it has that many
        try:
            await life.check(where, said)
        except Exception as error:
            error.add_note(f"after the crash at step {last} of {count}: {said[-4:]}")
            wrong.append(error)
    agree(lambda: {pid: words for pid, words in children().items() if pid not in before}, {})
    if wrong:
        raise ExceptionGroup(f"{len(wrong)} of the crashes were not made good", wrong)
