"""Images from a real registry and back to it: whole, verified, shared, and the same when they come back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import images
import pytest
import trio
from imagefiles import write_docker_archive
from pushing import push_image
from registry import LocalRegistry
from stage import IMAGE, Stage, output_of

import lading
from lading.engine.images.progress import Progress
from lading.engine.images.pushes import PushResult
from lading.events.errors import DigestMismatch, ImageInvalid, LadingError, NotFound, RegistryError
from lading.events.image import LayerPacked, Pushed
from lading.events.transfer import LeaseReleased, PullFailed, PullFinished, PullProgressed, PullRequested
from lading.events.views import ARCHIVES, PULLS

pytestmark = [pytest.mark.real, pytest.mark.slow]


async def facts(engine: lading.Engine, *kinds: type) -> list[Any]:
    """What the log has of ``kinds``, in order."""
    found = []
    async for item in engine.log.follow(0, notices=True):
        if not hasattr(item, "event"):
            if item.position >= engine.log.position:
                break
        elif isinstance(item.event, kinds):
            found.append(item.event)
    return found


@pytest.mark.parametrize("form", ["gzip", "zstd", "plain"])
@pytest.mark.parametrize("count", [1, 5])
async def test_a_pulled_image_runs(stage: Stage, registry: LocalRegistry, form: str, count: int) -> None:
    image = images.storied(stage.tar, count, form)
    digest = push_image(registry.address, "team/story:1", image)
    name = f"{registry.address}/team/story:1"
    heard: list[Progress] = []
    async with stage.bare() as engine:
        pulled = await engine.images.pull(name, progress=heard.append)
        assert (pulled.image, pulled.origin) == (image.id, "pull")
        assert set(pulled.tags) == {name, f"{registry.address}/team/story@{digest}"}
        said = await output_of(engine, name, "cat", "/etc/hello")
        if count > 1:
            assert said == b"hello from layer 4\n"
            assert await output_of(engine, name, "ls", "/story", "/pile") == b"/pile:\n4\n4-again\n\n/story:\n4\n"
        assert engine.images.resolve(f"{registry.address}/team/story@{digest}") == pulled
        [requested] = await facts(engine, PullRequested)
        assert requested.reference == name
        size = sum(len(layer.blob) for layer in image.layers)
        assert await facts(engine, PullFinished) == [PullFinished(image.id, digest, size)]
        assert (await facts(engine, PullProgressed))[0] == PullProgressed(count, 0, size, 0)
    words = [each.status for each in heard]
    assert words[0] == "Pulling from team/story"
    assert words.count("Pulling fs layer") == words.count("Pull complete") == count
    assert words[-2:] == [f"Digest: {digest}", f"Status: Downloaded newer image for {name}"]


async def test_a_second_pull_fetches_nothing(stage: Stage, registry: LocalRegistry) -> None:
    image = images.storied(stage.tar, 3)
    digest = push_image(registry.address, "story:1", image)
    push_image(registry.address, "other:1", image)
    async with stage.bare() as engine:
        await engine.images.pull(f"{registry.address}/story:1")
        heard: list[Progress] = []
        await engine.images.pull(f"{registry.address}/story:1", progress=heard.append)
        assert heard[-1].status == f"Status: Image is up to date for {registry.address}/story:1"
        assert [each.status for each in heard].count("Already exists") == 3
        other = await engine.images.pull(f"{registry.address}/other@{digest}")
        assert f"{registry.address}/other@{digest}" in other.tags
        assert [end.fetched for end in await facts(engine, PullFinished)][1:] == [0, 0]


async def test_the_platform_is_chosen_from_an_index(stage: Stage, registry: LocalRegistry) -> None:
    here, there = (
        images.storied(stage.tar, 1),
        images.image(images.layer(images.file("arm")), architecture="arm64"),
    )
    digest = push_image(registry.address, "multi:1", images.Index((there, here)))
    name = f"{registry.address}/multi:1"
    async with stage.bare() as engine:
        assert (await engine.images.pull(name)).image == here.id
        assert (await engine.images.pull(name, platform="linux/arm64")).image == there.id
        assert f"{registry.address}/multi@{digest}" in engine.images.resolve(there.id).tags
        with pytest.raises(NotFound, match="s390x"):
            await engine.images.pull(name, platform="linux/s390x")
        push_image(registry.address, "arm:1", there)
        assert (await engine.images.pull(f"{registry.address}/arm:1")).image == there.id
        with pytest.raises(NotFound, match="amd64"):
            await engine.images.pull(f"{registry.address}/arm:1", platform="linux/amd64")


async def test_fifty_pulls_of_one_image_fetch_each_layer_once(stage: Stage, registry: LocalRegistry) -> None:
    image = images.storied(stage.tar, 4)
    push_image(registry.address, "story:1", image)
    async with stage.bare(timeout=120) as engine, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(engine.images.pull, f"{registry.address}/story:1")
    log = registry.directory / "registry.log"
    gets = [line for line in log.read_text().splitlines() if '"GET' in line and "/blobs/" in line]
    layers = {layer.digest for layer in image.layers}
    asked = [digest for digest in layers for line in gets if digest in line]
    assert sorted(asked) == sorted(layers)


async def test_what_is_pushed_comes_back_the_same(stage: Stage, registry: LocalRegistry) -> None:
    image = images.storied(stage.tar, 3, "zstd")
    digest = push_image(registry.address, "story:1", image)
    async with stage.bare() as engine:
        await engine.images.pull(f"{registry.address}/story:1")
        copy = f"{registry.address}/elsewhere/copy:2"
        await engine.images.tag(f"{registry.address}/story:1", copy)
        heard: list[Progress] = []
        pushed = await engine.images.push(copy, progress=heard.append)
        assert pushed == PushResult(copy, digest, len(image.manifest))
        assert [each.status for each in heard].count("Mounted from story") == 3
        assert f"{registry.address}/elsewhere/copy@{digest}" in engine.images.resolve(copy).tags
        heard.clear()
        assert await engine.images.push(copy, progress=heard.append) == pushed
        assert [each.status for each in heard].count("Layer already exists") == 3
        assert [event.name for event in await facts(engine, Pushed)] == [copy, copy]


async def test_an_imported_image_is_pushed_compressed_and_pulled_again(
    stage: Stage, registry: LocalRegistry
) -> None:
    name = f"{registry.address}/box:1"
    async with stage.bare() as engine:
        made = await engine.images.import_rootfs(stage.tar, name)
        first = await engine.images.push(name)
        [packed] = await facts(engine, LayerPacked)
        heard: list[Progress] = []
        assert await engine.images.push(name, progress=heard.append) == first
        assert "Layer already exists" in [each.status for each in heard]
        await engine.images.remove(made.image)
        again = await engine.images.pull(name)
        assert (again.image, again.layers) == (made.image, made.layers)
        kept = engine.core.log.get(ARCHIVES, made.layers[0])
        assert kept is not None
        assert (kept.form, kept.blob) == ("blob", packed.digest)
        assert await output_of(engine, name, "cat", "/etc/hello")


@pytest.mark.parametrize("broken", ["config", "layer", "lower layer", "manifest", "diff id"])
async def test_a_wrong_byte_leaves_nothing_but_a_failure(
    stage: Stage, registry: LocalRegistry, broken: str
) -> None:
    good = images.storied(stage.tar, 3)
    name = f"{registry.address}/story:1"
    if broken == "diff id":
        document = json.loads(good.config)
        document["rootfs"]["diff_ids"][1] = document["rootfs"]["diff_ids"][0]
        push_image(registry.address, "story:1", images.Image(good.layers, document, good.dialect))
    else:
        digest = push_image(registry.address, "story:1", good)
        wrong = {
            "config": good.id,
            "layer": good.layers[2].digest,
            "lower layer": good.layers[0].digest,
            "manifest": digest,
        }[broken]
        flip(registry, wrong)
    async with stage.bare() as engine:
        before = engine.images.list()
        with pytest.raises((DigestMismatch, ImageInvalid, RegistryError)) as caught:
            await engine.images.pull(name)
        if broken in ("config", "layer", "lower layer", "diff id"):
            assert isinstance(caught.value, DigestMismatch), caught.value
            if broken != "diff id":
                assert wrong in str(caught.value)
        assert engine.images.list() == before
        for directory in (stage.paths.layers, stage.paths.blobs, stage.paths.splits, stage.paths.staging):
            assert list(directory.iterdir()) == []
        [failed] = await facts(engine, PullFailed)
        assert failed.why == str(caught.value)
        shutil.rmtree(registry.storage)
        push_image(registry.address, "story:1", good)
        assert (await engine.images.pull(name)).image == good.id


def flip(registry: LocalRegistry, digest: str) -> None:
    """Change one byte of a blob behind the registry's back."""
    bare = digest.removeprefix("sha256:")
    [path] = registry.storage.glob(f"**/blobs/sha256/{bare[:2]}/{bare}/data")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


async def test_a_cancelled_pull_leaves_nothing(stage: Stage, registry: LocalRegistry) -> None:
    image = images.storied(stage.tar, 3)
    push_image(registry.address, "story:1", image)
    async with stage.bare() as engine:
        for words in ("Pulling from", "Pulling fs layer", "Downloading", "Extracting", "Pull complete"):
            with trio.CancelScope() as scope:

                def tell(progress: Progress, words: str = words, scope: trio.CancelScope = scope) -> None:
                    if progress.status.startswith(words):
                        scope.cancel()

                await engine.images.pull(f"{registry.address}/story:1", progress=tell)
            if not scope.cancelled_caught:  # its last words came too late
                continue
            assert engine.images.list() == []
            assert list(stage.paths.staging.iterdir()) == []
            assert engine.core.log.scan(PULLS) == []
        assert {event.why for event in await facts(engine, PullFailed)} == {"it was cancelled"}
        assert (await engine.images.pull(f"{registry.address}/story:1")).image == image.id
        assert len(await facts(engine, LeaseReleased))


@pytest.mark.parametrize("form", ["gzip", "plain"])
async def test_a_layer_means_what_it_means_on_those_below(
    stage: Stage, registry: LocalRegistry, tmp_path: Path, form: str
) -> None:
    """A parent directory without an entry is the one below, also if that is a link; a link may lead below."""
    below = images.layer(
        images.directory("home", mode=0o700, uid=7),
        images.symlink("var/run", "/run"),
        images.file("run/kept", "kept\n"),
        images.file("opt/data", "data\n"),
        form=form,
    )
    above = images.layer(
        images.file("home/own", "own\n"),
        images.file("var/run/made", "made\n"),
        images.link("opt/again", "opt/data"),
        form=form,
    )
    image = images.image(images.Layer(stage.tar.read_bytes(), form), below, above)
    digest = push_image(registry.address, "links:1", image)
    name = f"{registry.address}/links:1"

    async def check(engine: lading.Engine) -> None:
        script = "cat /run/made /var/run/kept /opt/again; stat -c %a:%u /home; test -L /var/run && echo link"
        said = await output_of(engine, name, "sh", "-c", script)
        assert said == b"made\nkept\ndata\n700:7\nlink\n"

    async with stage.bare() as engine:
        await engine.images.pull(name)
        await check(engine)
        async with engine.images.save(name) as stream:
            (tmp_path / "saved").write_bytes(b"".join([piece async for piece in stream]))
        await engine.images.prune(all=True)
        for container in engine.containers.list():
            await engine.containers.get(container.id).remove()
        await engine.images.prune(all=True)
        assert [each.image for each in await engine.images.load(tmp_path / "saved")] == [image.id]
        await check(engine)
        async with engine.images.save(name) as stream:
            assert b"".join([piece async for piece in stream]) == (tmp_path / "saved").read_bytes()
        assert (await engine.images.push(name)).digest
        assert digest


@pytest.mark.long
async def test_what_is_saved_loads_as_the_same(stage: Stage, registry: LocalRegistry, tmp_path: Path) -> None:
    story = images.storied(stage.tar, 3)
    digest = push_image(registry.address, "story:1", story)
    name = f"{registry.address}/story:1"
    async with stage.bare() as engine:
        await engine.images.pull(name)
        made = await engine.images.import_rootfs(stage.tar, IMAGE)
        contents = {}
        for form in ("docker", "oci"):
            async with engine.images.save([name, IMAGE], form=form) as stream:
                contents[form] = b"".join([piece async for piece in stream])
            async with engine.images.save([name, IMAGE], form=form) as stream:
                assert b"".join([piece async for piece in stream]) == contents[form]
    for form, content in contents.items():
        shutil.rmtree(stage.root)
        stage.root.mkdir()
        (tmp_path / form).write_bytes(content)
        async with stage.bare() as engine:
            loaded = await engine.images.load(tmp_path / form)
            assert [(each.image, each.names) for each in loaded] == [
                (story.id, (name,)),
                (made.image, (f"docker.io/library/{IMAGE}",)),
            ]
            assert await output_of(engine, name, "cat", "/etc/hello") == b"hello from layer 2\n"
            pushed = await engine.images.push(name)
            assert (pushed.digest == digest) == (form == "oci")
            assert await engine.images.load(tmp_path / form) == loaded


@pytest.mark.long
async def test_nothing_fails_because_of_a_prune_in_a_loop(stage: Stage, registry: LocalRegistry) -> None:
    base = images.storied(stage.tar, 3)
    for number in range(10):
        top = images.layer(images.file(f"own/{number}", f"{number}\n"))
        image = images.image(*base.layers, top, cmd=["cat", f"/own/{number}"])
        push_image(registry.address, f"image{number}:1", image)
    async with stage.bare(timeout=300) as engine:

        async def come_and_go(which: int) -> None:
            name = f"{registry.address}/image{which % 10}:1"
            for _ in range(2):
                try:
                    await engine.images.pull(name)
                    result = await engine.containers.run(name)
                except NotFound:  # pruned between the two, as it may be
                    continue
                assert result.stdout == f"{which % 10}\n".encode()

        async def prune(stopped: trio.Event) -> None:
            while not stopped.is_set():
                await engine.images.prune(all=True)
                await trio.sleep(0.01)

        stopped = trio.Event()
        async with trio.open_nursery() as outer:
            outer.start_soon(prune, stopped)
            async with trio.open_nursery() as nursery:
                for which in range(50):
                    nursery.start_soon(come_and_go, which)
            stopped.set()
        assert await facts(engine, PullFailed) == []
        await engine.images.prune(all=True)
        assert list(stage.paths.layers.iterdir()) == []
        assert list(stage.paths.blobs.iterdir()) == []


async def test_an_error_of_the_registry_is_told(stage: Stage, registry: LocalRegistry) -> None:
    async with stage.bare() as engine:
        with pytest.raises(NotFound):
            await engine.images.pull(f"{registry.address}/nothing:1")
        registry.stop()
        with pytest.raises(LadingError, match=registry.address):
            await engine.images.pull(f"{registry.address}/nothing:1")


async def test_a_push_names_what_the_registry_has_of_an_image_whose_layers_came_otherwise(
    stage: Stage, registry: LocalRegistry, tmp_path: Path
) -> None:
    """Its layers were here, plain, when it was pulled; the manifest it came by still fits the registry's blobs."""
    packed = images.storied(stage.tar, 3)
    plain = images.Image(tuple(images.Layer(layer.tar, "plain") for layer in packed.layers), packed.document)
    digest = push_image(registry.address, "story:1", packed)
    name = f"{registry.address}/story:1"
    async with stage.bare() as engine:
        await engine.images.load(
            write_docker_archive(tmp_path / "plain.tar", {"docker.io/library/plain:1": plain})
        )
        assert (await engine.images.pull(name)).image == packed.id
        assert (await engine.images.push(name)).digest == digest
        await engine.images.tag(name, f"{registry.address}/other:1")
        assert (await engine.images.push(f"{registry.address}/other:1")).digest == digest
        shutil.rmtree(registry.storage)
        registry.stop()
        registry.start()
        pushed = await engine.images.push(name)
        assert pushed.digest != digest
        await engine.images.remove(packed.id, force=True)
        assert (await engine.images.pull(name)).image == packed.id
