"""Images and containers made of containers: what is in them, what it costs, and what is left when they go."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from pathlib import Path

import pytest
import trio
from registry import LocalRegistry
from stage import IMAGE, Stage, output, output_of, printed, story

import lading
from lading.engine.agreement import differences_from_host
from lading.engine.core import new_caller
from lading.engine.files import sealing
from lading.engine.images.garbage import collect
from lading.engine.images.resolving import is_provisional
from lading.engine.images.usage import disk_usage
from lading.events.containerviews import SETTINGS
from lading.events.errors import AlreadyExists, Invalid, NotFound
from lading.events.imageconfig import parse_config
from lading.events.imageviews import SEALED
from lading.events.reach import reach
from lading.events.views import LAYERS
from lading.storage.backup import make_backup
from lading.storage.restoring import restore_backup
from lading.storage.sealing import UPPER_OF
from lading.storage.trees import measure

pytestmark = [pytest.mark.real, pytest.mark.slow]

WRITES = "mkdir /new; echo one > /new/file; rm /etc/hello; rm -r /home; mkdir /home; touch /home/mine"


async def over(engine: lading.Engine, script: str = WRITES, **options: object) -> lading.Container:
    """A container that ran ``script`` to its end."""
    made = await engine.containers.create(IMAGE, ["sh", "-c", script], **options)
    await made.start()
    assert await made.wait() == 0
    return made


async def running(engine: lading.Engine, script: str = WRITES) -> lading.Container:
    made = await engine.containers.create(IMAGE, ["sh", "-c", f"{script}; echo ready; sleep 1000"])
    await made.start()
    await printed(made, b"ready")
    return made


async def saved(engine: lading.Engine, name: str, path: Path) -> None:
    with path.open("wb") as file:
        async with engine.images.save(name) as stream:
            async for chunk in stream:
                file.write(chunk)


async def changed(container: lading.Container) -> list[str]:
    async with container.changes() as pages:
        return [f"{'CAD'[each.kind.value]} {each.path.decode()}" async for page in pages for each in page]


CHANGES = ["C /etc", "D /etc/hello", "C /home", "D /home/app", "A /home/mine", "A /new", "A /new/file"]


async def whole(stage: Stage, engine: lading.Engine) -> None:
    """What is on disk is what the log has, and all of it is used."""
    log = engine.core.log
    reached = reach(log)
    layers = {chain for chain, _ in log.scan(LAYERS)}
    assert layers == reached.layers
    assert {f"sha256:{path.name}" for path in stage.paths.layers.iterdir()} == layers
    assert {f"sha256:{path.name}" for path in stage.paths.blobs.iterdir()} == reached.blobs
    assert list(stage.paths.staging.iterdir()) == []
    assert await trio.to_thread.run_sync(differences_from_host, stage.paths, log) == []


@pytest.mark.parametrize("runs", [False, True])
async def test_a_commit_is_what_the_container_was(stage: Stage, runs: bool) -> None:
    async with stage.emptied() as engine:
        made = await (running if runs else over)(engine)
        assert await changed(made) == CHANGES
        image = await made.commit(
            "team/app:2",
            author="me",
            message="with a file",
            changes=["ENV A=1 B=two", 'CMD ["cat", "/new/file"]', "LABEL x=y", "EXPOSE 80", "USER app"],
        )
        assert (image.tags, image.origin, image.comment) == (("docker.io/team/app:2",), "commit", "with a file")
        assert is_provisional(engine.core, image) != runs
        assert await output_of(engine, "team/app:2") == b"one\n"
        shown = await output_of(engine, image.image, "sh", "-c", "ls /home; ls /etc/hello; echo $A $B; id -u")
        assert shown == b"mine\n1 two\n1000\n"
        parsed = parse_config(engine.images.document("team/app:2"))
        assert (parsed.author, parsed.config.labels) == ("me", {"x": "y"})
        assert parsed.config.exposed_ports == ("80/tcp",)
        assert parsed.config.env == ("A=1", "B=two")
        assert (len(parsed.history), parsed.history[-1].comment) == (2, "with a file")
        assert parsed.history[-1].created_by.startswith("sh -c mkdir /new")
        assert await changed(made) == CHANGES  # of its own image, as before
        if runs:
            assert made.status == "running"
            assert "Rebased" not in story(engine, made.id)
        else:
            await made.start()
            assert await made.wait() == 0
        await whole(stage, engine)


async def test_nothing_is_copied_of_one_that_does_not_run(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await over(engine, "head -c 300000000 /dev/zero > /big")
        upper = stage.paths.container(made.id) / "upper"
        inode = (upper / "big").stat().st_ino
        began = time.perf_counter()
        image = await made.commit("big:1")
        took = time.perf_counter() - began
        assert (stage.paths.layer(image.layers[-1]) / "big").stat().st_ino == inode
        assert not upper.exists()
        assert took < 0.5  # a tenth of that, on a machine that does nothing else
        began = time.perf_counter()
        forks = await made.fork(10)
        assert time.perf_counter() - began < 0.5
        assert {len(fork.state.spec.layers) for fork in forks} == {2}
        await whole(stage, engine)


async def test_a_container_that_wrote_nothing_gives_no_layer(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["echo", "hi"])
        base = engine.images.resolve(IMAGE)
        image = await made.commit("same:1", changes=["ENV A=b"])
        assert image.layers == base.layers
        history = parse_config(engine.images.document("same:1")).history
        assert (len(history), history[-1].empty_layer) == (2, True)
        assert await output_of(engine, "same:1", "sh", "-c", "echo $A") == b"b\n"
        [fork] = await made.fork()
        assert fork.state.spec.layers == made.state.spec.layers
        await whole(stage, engine)


async def test_commits_on_commits_and_what_is_left_when_they_go(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await over(engine, "echo x >> /data")
        images = [await made.commit("one:1")]
        for name in ("two:1", "three:1"):
            await made.start()
            await made.wait()
            images.append(await made.commit(name))
        assert [len(image.layers) for image in images] == [2, 3, 4]
        for number, name in enumerate(("one:1", "two:1", "three:1"), 1):
            assert await output_of(engine, name, "cat", "/data") == b"x\n" * number
            parsed = parse_config(engine.images.document(name))
            assert sum(not step.empty_layer for step in parsed.history) == 1 + number
        assert await changed(made) == ["A /data"]
        await engine.images.remove("three:1")
        await whole(stage, engine)
        await made.remove()
        await engine.images.remove("two:1")
        await engine.images.remove("one:1")
        assert len(list(stage.paths.layers.iterdir())) == 1
        assert engine.core.log.scan(SEALED) == []
        await whole(stage, engine)


async def test_an_archive_of_a_commit_has_real_digests(stage: Stage, tmp_path: Path) -> None:
    async with stage.emptied() as engine:
        made = await over(engine)
        before = await made.commit("app:1")
        await engine.images.tag("app:1", "app:also")
        await saved(engine, "app:1", tmp_path / "app.tar")
        after = engine.images.resolve("app:1")
        assert after.image != before.image
        assert set(after.tags) == {"docker.io/library/app:1", "docker.io/library/app:also"}
        assert not is_provisional(engine.core, after)
        with pytest.raises(NotFound):
            engine.images.resolve(before.image)
        inspect = ["skopeo", "inspect", "--config", f"docker-archive:{tmp_path}/app.tar"]
        told = json.loads((await trio.run_process(inspect, capture_stdout=True)).stdout)
        assert tuple(told["rootfs"]["diff_ids"]) == after.diff_ids
        with tarfile.open(tmp_path / "app.tar") as tar:
            layer = tar.extractfile(f"blobs/sha256/{after.diff_ids[-1][7:]}")
            assert layer is not None
            with tarfile.open(fileobj=io.BytesIO(layer.read())) as inner:
                assert {"etc/.wh.hello", "home/.wh..wh..opq", "new/file"} <= set(inner.getnames())
        assert await output_of(engine, "app:1", "sh", "-c", "cat /new/file; ls /home") == b"one\nmine\n"
        await saved(engine, "app:1", tmp_path / "again.tar")
        assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "app.tar").read_bytes()
        await whole(stage, engine)
        await made.remove()
        await engine.images.remove("app:1", force=True)
        await engine.images.remove("app:also", force=True)
        [loaded] = await engine.images.load(tmp_path / "app.tar")
        assert loaded.image == after.image


async def test_an_image_without_a_name_keeps_its_id(stage: Stage, tmp_path: Path) -> None:
    async with stage.emptied() as engine:
        made = await over(engine)
        image = await made.commit()
        await saved(engine, image.image, tmp_path / "x.tar")
        assert engine.images.resolve(image.image).image == image.image
        assert await output_of(engine, image.image, "cat", "/new/file") == b"one\n"
        await whole(stage, engine)


async def test_a_provisional_image_stays_while_a_container_has_it(stage: Stage, tmp_path: Path) -> None:
    async with stage.emptied() as engine:
        made = await over(engine)
        image = await made.commit("app:1")
        user = await engine.containers.create("app:1", ["cat", "/new/file"])
        await saved(engine, "app:1", tmp_path / "x.tar")
        assert engine.images.resolve(image.image).tags == ()
        await user.start()
        await user.wait()
        assert await output(user) == b"one\n"
        onto = await user.commit("onto:1")  # on the provisional one, with nothing of its own
        assert onto.layers == image.layers
        await saved(engine, "onto:1", tmp_path / "y.tar")
        assert engine.images.resolve("onto:1").diff_ids == engine.images.resolve("app:1").diff_ids
        await whole(stage, engine)


async def test_a_push_has_real_digests(stage: Stage, local_registry: LocalRegistry) -> None:
    async with stage.emptied() as engine:
        made = await over(engine)
        name = f"{local_registry.address}/committed:1"
        await made.commit(name)
        pushed = await engine.images.push(name)
        image = engine.images.resolve(name)
        inspect = ["skopeo", "inspect", "--config", "--tls-verify=false", f"docker://{name}"]
        told = json.loads((await trio.run_process(inspect, capture_stdout=True)).stdout)
        assert tuple(told["rootfs"]["diff_ids"]) == image.diff_ids
        assert pushed.digest.startswith("sha256:")
        await engine.images.remove(name, force=True)
        assert (await engine.images.pull(name)).image == image.image
        assert await output_of(engine, name, "cat", "/new/file") == b"one\n"


@pytest.mark.parametrize("runs", [False, True])
async def test_forks_go_on_each_by_itself(stage: Stage, runs: bool) -> None:
    async with stage.emptied() as engine:
        made = await (running if runs else over)(engine, "echo x >> /data")
        command = ["sh", "-c", "cat /data; hostname > /own"]
        forks = await made.fork(3, names=["a1", "a2", "a3"], start=True, command=command)
        for fork in forks:
            await fork.wait()
            assert await output(fork) == b"x\n"
            assert await changed(fork) == ["A /data", "A /own"]
            settings = engine.core.log.get(SETTINGS, fork.id)
            assert settings is not None
            assert settings.forked_from == made.id
        assert [fork.name for fork in forks] == ["a1", "a2", "a3"]
        if not runs:
            await made.start()
            await made.wait()
        assert await changed(made) == ["A /data"]
        [again] = await forks[0].fork()
        assert len(again.state.spec.layers) == 3
        await again.start()
        await again.wait()
        assert await output(again) == b"x\n"
        for state in engine.containers.list():
            await engine.containers.get(state.id).remove(force=True)
        await engine.images.prune()
        await collect(engine.core, new_caller())
        assert len(list(stage.paths.layers.iterdir())) == 1
        await whole(stage, engine)


async def test_a_refused_append_leaves_everything_as_it_was(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage.emptied() as engine:
        made = await over(engine, "echo x >> /data", name="mine")
        await engine.containers.create(IMAGE, ["true"], name="taken")
        with pytest.raises(AlreadyExists):
            await made.fork(2, names=["free", "taken"])
        with pytest.raises(Invalid):
            await made.fork(2, names=["one"])
        with pytest.raises(Invalid):
            await made.commit("UPPER CASE")
        with pytest.raises(Invalid):
            await made.commit(changes=["RUN true"])
        await whole(stage, engine)
        await made.start()  # while it is sealed, too: then it is sealed, or copied, after
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.commit, "during:1")
            nursery.start_soon(made.fork)
            nursery.start_soon(made.commit, "during:2")
        await made.wait()
        assert await output_of(engine, "during:1", "head", "-n1", "/data") == b"x\n"
        real, raced = sealing.seal, []

        def racing(*args: object, **options: object) -> object:
            done = real(*args, **options)  # type: ignore[arg-type]
            if not raced:
                raced.append(trio.from_thread.run(made.rename, "other"))
            return done

        monkeypatch.setattr(sealing, "seal", racing)
        await made.start()
        await made.wait()
        image = await made.commit("raced:1")
        assert raced
        assert await output_of(engine, image.image, "cat", "/data") == await output_of(
            engine, "raced:1", "cat", "/data"
        )
        await whole(stage, engine)


async def test_a_start_waits_for_a_seal(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage.emptied() as engine:
        made = await over(engine, "echo x >> /data")
        real = sealing.seal

        begun: list[bool] = []

        def slow(*args: object, **options: object) -> object:
            done = real(*args, **options)  # type: ignore[arg-type]
            if not begun:
                begun.append(True)
                trio.from_thread.run_sync(engine.core.nursery.start_soon, made.start)
            time.sleep(0.2)
            return done

        monkeypatch.setattr(sealing, "seal", slow)
        await made.commit("slow:1")
        await made.wait()
        assert await output_of(engine, "slow:1", "cat", "/data") in (b"x\n", b"x\nx\n")
        async with made.get_archive("/data") as found:
            assert found.stat.size == 4
        await whole(stage, engine)


async def test_what_a_crash_left_renamed_is_put_back(stage: Stage) -> None:
    async with stage.engine() as engine:
        made = await over(engine, "echo x >> /data")
        stray = stage.paths.layers / ("f" * 64)
        (stage.paths.container(made.id) / "upper").rename(stray)
        os.setxattr(stray, UPPER_OF, made.id.encode())
        foreign = stage.paths.layers / ("e" * 64)
        foreign.mkdir()
        os.setxattr(foreign, UPPER_OF, b"0" * 64)
    async with stage.emptied() as engine:
        assert await changed(engine.containers.get(made.id)) == ["A /data"]
        await whole(stage, engine)


async def test_sealed_layers_are_backed_up_and_restored(stage: Stage, tmp_path: Path) -> None:
    async with stage.engine() as engine:
        made = await over(engine, "echo x >> /data")
        image = await made.commit("kept:1")
        await made.start()
        await made.wait()
    await trio.to_thread.run_sync(make_backup, stage.root, tmp_path / "backup", time.time_ns())
    async with stage.engine() as engine:
        await engine.containers.get(made.id).remove()
        await engine.images.remove("kept:1")
    await trio.to_thread.run_sync(restore_backup, tmp_path / "backup", tmp_path / "again")
    restored = Stage(tmp_path / "again", stage.tar)
    async with restored.emptied() as engine:
        assert engine.images.resolve("kept:1").image == image.image
        assert await output_of(engine, "kept:1", "cat", "/data") == b"x\n"
        [fork] = await engine.containers.get(made.id).fork(command=["cat", "/data"], start=True)
        await fork.wait()
        assert await output(fork) == b"x\nx\n"
        await saved(engine, "kept:1", tmp_path / "x.tar")
        await whole(restored, engine)


async def test_a_commit_needs_the_containers_image(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await over(engine)
        await engine.images.remove(IMAGE, force=True)
        with pytest.raises(NotFound):
            await made.commit("x:1")
        assert await changed(made) == CHANGES
        await engine.images.import_rootfs(stage.tar, IMAGE)


async def test_a_layer_that_nobody_counted_is_counted_when_somebody_asks(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lading.storage.sealing._BUDGET", 0.0)
    monkeypatch.setattr("lading.storage.sealing.measure_soon.__defaults__", (0.0,))
    async with stage.emptied() as engine:
        made = await over(engine, "mkdir -p /a/b/c; head -c 1000000 /dev/zero > /a/b/c/d")
        image = await made.commit("many:1")
        layer = engine.core.log.get(LAYERS, image.layers[-1])
        assert layer is not None
        assert layer.inodes == 0
        usage = disk_usage(engine.core.log, stage.paths)
        assert usage.layers == sum(measure(path).disk_bytes for path in stage.paths.layers.iterdir())


async def test_what_cannot_be_in_a_layer_is_told_when_an_archive_is_made(stage: Stage, tmp_path: Path) -> None:
    async with stage.emptied() as engine:
        made = await over(engine, "touch /.wh.name")
        await made.commit("odd:1")
        assert await output_of(engine, "odd:1", "ls", "/.wh.name") == b"/.wh.name\n"
        with pytest.raises(lading.errors.ImageInvalid, match="rename it"):
            await saved(engine, "odd:1", tmp_path / "x.tar")
        await whole(stage, engine)
