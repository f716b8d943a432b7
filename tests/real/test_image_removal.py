"""Names come and go, images with their last one, layers with their last user; and nothing else does."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import attrs
import pytest
import trio
from stage import IMAGE, Stage

import lading
from lading.engine.core import new_caller
from lading.engine.images import garbage
from lading.engine.images.prune import Pruned
from lading.engine.images.untag import Removal
from lading.events.envelope import Proposed
from lading.events.errors import ImageInUse, ImageInvalid, Invalid, NotFound
from lading.events.ids import ChainId, ImageId, image_stream, layer_stream
from lading.events.image import ImageAdded, ImageConfig, ImageState, LayerAdded, LayerRemoved
from lading.events.views import LAYERS

pytestmark = [pytest.mark.real, pytest.mark.slow]


def tar_of(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


async def add(
    engine: lading.Engine, name: str | None, *, labels: dict[str, str] | None = None, **files: bytes
) -> ImageState:
    source = io.BytesIO(tar_of(**(files or {"a": b"x"})))
    return await engine.images.import_rootfs(source, name, config=ImageConfig(cmd=("true",), labels=labels or {}))


def on_disk(stage: Stage) -> tuple[int, int, int]:
    """How many layers, splits and blobs there are."""
    paths = stage.paths
    return len(list(paths.layers.iterdir())), len(list(paths.splits.iterdir())), len(list(paths.blobs.iterdir()))


async def test_a_name_points_at_one_image_and_an_image_has_many_names(stage: Stage) -> None:
    async with stage.bare() as engine:
        one = await add(engine, "one:1")
        assert (await engine.images.tag("one:1", "registry.example:5000/team/app:v2")).image == one.image
        assert engine.images.resolve("registry.example:5000/team/app:v2").image == one.image
        two = await add(engine, "two", b=b"y")
        moved = await engine.images.tag(two.image[7:20], "one:1")
        assert moved.tags == ("docker.io/library/one:1", "docker.io/library/two:latest")
        assert engine.images.resolve(one.image).tags == ("registry.example:5000/team/app:v2",)
        position = engine.log.position
        await engine.images.tag("two", "one:1")
        assert engine.log.position == position, "it pointed there before"
        for wrong in ("One:1", "a@sha256:" + "0" * 64, "one:", ""):
            with pytest.raises(Invalid):
                await engine.images.tag("two", wrong)
        with pytest.raises(NotFound):
            await engine.images.tag("three", "four")


async def test_an_image_goes_with_its_last_name_and_takes_its_layers_along(stage: Stage) -> None:
    async with stage.bare() as engine:
        image = await add(engine, "one:1")
        await engine.images.tag("one:1", "one:2")
        before = on_disk(stage)
        assert await engine.images.remove("one:1") == [Removal("untagged", "one:1")]
        assert on_disk(stage) == before
        gone = await engine.images.remove("one:2")
        assert gone == [
            Removal("untagged", "one:2"),
            Removal("deleted", image.image),
            Removal("deleted", image.layers[0]),
        ]
        assert on_disk(stage) == (before[0] - 1, before[1] - (before[1] > 0), before[2] - 1)
        with pytest.raises(NotFound):
            await engine.images.remove("one:2")
        again = await add(engine, "one:1")
        assert engine.images.resolve("one:1").image == again.image


async def test_an_id_takes_all_names_of_one_repository(stage: Stage) -> None:
    async with stage.bare() as engine:
        image = await add(engine, "one:1")
        await engine.images.tag("one:1", "other:1")
        with pytest.raises(ImageInUse, match=r"must be forced.*referenced in multiple repositories"):
            await engine.images.remove(image.image[7:19])
        gone = await engine.images.remove(image.image[7:19], force=True)
        assert [each.name for each in gone][:3] == ["one:1", "other:1", image.image]
        alone = await add(engine, "one:1", b=b"2")
        assert (await engine.images.remove(alone.image))[0] == Removal("untagged", "one:1")


async def test_images_share_layers_and_the_last_one_takes_them(stage: Stage) -> None:
    async with stage.bare() as engine:
        one = await add(engine, "one")
        other = await add(engine, "other", labels={"a": "b"})
        assert one.layers == other.layers
        gone = await engine.images.remove("one")
        assert Removal("deleted", one.layers[0]) not in gone
        assert stage.paths.layer(one.layers[0]).is_dir()
        assert Removal("deleted", one.layers[0]) in await engine.images.remove("other")
        assert not stage.paths.layer(one.layers[0]).exists()


async def test_what_containers_use_is_refused_and_named(stage: Stage) -> None:
    async with stage.bare() as engine:
        image = await engine.images.import_rootfs(stage.tar, IMAGE)
        stopped = await engine.containers.create(IMAGE, ["true"])
        with pytest.raises(ImageInUse, match=f"must force.*container {stopped.id[:12]} is using"):
            await engine.images.remove(IMAGE)
        with pytest.raises(ImageInUse, match=f"must be forced.*by stopped container {stopped.id[:12]}"):
            await engine.images.remove(image.image)
        running = await engine.containers.create(IMAGE, ["sleep", "100"])
        await running.start()
        for force in (False, True):
            with pytest.raises(
                ImageInUse, match=f"cannot be forced.*by running container {running.id[:12]}"
            ) as caught:
                await engine.images.remove(image.image, force=force)
            assert not caught.value.forcible
        assert [each.kind for each in await engine.images.remove(IMAGE, force=True)] == ["untagged"]
        assert engine.images.resolve(image.image).tags == ()
        await running.remove(force=True)
        gone = await engine.images.remove(image.image, force=True)
        assert gone == [Removal("deleted", image.image)], "the stopped container keeps the layers"
        await stopped.start()
        assert await stopped.wait() == 0
        await stopped.remove()
        with trio.fail_after(5):
            async for record in engine.log.follow(0):
                if record.event == LayerRemoved(image.layers[0]):
                    break
        assert not stage.paths.layer(image.layers[0]).exists()


async def test_prune_takes_what_nobody_uses(stage: Stage) -> None:
    async with stage.bare() as engine:
        kept = await add(engine, "kept:1", a=b"1")
        dangling = await add(engine, None, b=b"2" * 100_000)
        labelled = await add(engine, None, labels={"keep": "yes"}, c=b"3")
        used = await add(engine, None, d=b"4")
        await engine.containers.create(used.image, ["true"])
        position = engine.log.position
        would = await engine.images.prune(not_labels=["keep"], dry_run=True)
        assert engine.log.position == position
        assert [each.name for each in would.removals] == [dangling.image, dangling.layers[0]]
        assert would.reclaimed >= 100_000
        assert await engine.images.prune(not_labels=["keep"]) == would
        assert await engine.images.prune(until=1) == Pruned([], 0)
        left = {image.image for image in engine.images.list()}
        assert left == {kept.image, labelled.image, used.image}
        gone = await engine.images.prune(all=True)
        assert {each.name for each in gone.removals if each.kind == "untagged"} == {"kept:1"}
        assert [image.image for image in engine.images.list()] == [used.image]


async def test_what_a_crash_left_is_finished_at_the_next_opening(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage.bare() as engine:
        image = await add(engine, "one")

    def killed(*_: object) -> None:
        raise RuntimeError("the power went")

    async with stage.bare() as engine:
        with monkeypatch.context() as patch:
            patch.setattr(garbage, "_to_trash", killed)
            with pytest.raises(RuntimeError, match="power"):
                await engine.images.remove("one")
    assert stage.paths.layer(image.layers[0]).exists()
    (stage.paths.blobs / ("0" * 64)).write_bytes(b"an orphan")
    async with stage.bare() as engine:
        assert not stage.paths.layer(image.layers[0]).exists()
        assert list(Path(stage.paths.blobs).iterdir()) == []
        position = engine.log.position
    async with stage.bare() as engine:
        assert engine.log.position == position, "the second time there is nothing to do"


async def test_a_prune_of_everything_tells_before_what_will_go(stage: Stage) -> None:
    async with stage.bare() as engine:
        image = await engine.images.import_rootfs(stage.tar, IMAGE)
        running = await engine.containers.create(IMAGE, ["sleep", "100"])
        await running.start()
        kept = await add(engine, "kept:1", a=b"1" * 10_000)
        stopped = await engine.containers.create("kept:1", ["true"])
        would = await engine.prune(all=True, dry_run=True)
        assert would.containers == [stopped.id]
        assert [each.name for each in would.images.removals] == ["kept:1", kept.image, kept.layers[0]]
        assert (await engine.images.prune(all=True, dry_run=True)).removals == []
        assert await engine.prune(all=True) == would
        assert [state.id for state in engine.containers.list()] == [running.id]
        assert [each.image for each in engine.images.list()] == [image.image]
        assert would.reclaimed >= 10_000
        await running.remove(force=True)


async def test_an_image_tells_how_it_was_made(stage: Stage) -> None:
    async with stage.bare() as engine:
        image = await add(engine, "made:1")
        [step] = engine.images.history("made:1")
        assert (step.layer, step.size) == (image.layers[0], image.size)
        document = engine.images.document("made:1")
        assert hashlib.sha256(document).hexdigest() == image.image.removeprefix("sha256:")


async def test_a_layer_of_an_earlier_release_that_kept_no_archive_says_so(stage: Stage) -> None:
    async with stage.bare() as engine:
        image = await add(engine, "new:1")
        old = attrs.evolve(next(iter(layer for _, layer in engine.core.log.scan(LAYERS))), parent=image.layers[0])
        chain = ChainId("sha256:" + "1" * 64)
        added = LayerAdded(**{**attrs.asdict(old), "chain": chain})
        again = ImageAdded(
            ImageId("sha256:" + "2" * 64),
            (*image.layers, chain),
            (),
            image.config,
            "",
            "amd64",
            "linux",
            "import",
            "",
        )
        caller = new_caller()
        await engine.core.journal.append(
            [Proposed(layer_stream(chain), added), Proposed(image_stream(again.image), again)],
            actor=caller.actor,
            command=caller.command,
        )
        with pytest.raises(ImageInvalid, match="was not kept when it came"):
            async with engine.images.save(again.image):
                pass
        await engine.images.remove(again.image)
