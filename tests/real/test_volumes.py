"""Volumes with real containers: they outlive them, are filled once, and go with them only where that is wanted."""

from __future__ import annotations

import os
from pathlib import Path

import images
import pytest
import trio
from mounted import load_image, mounting, run, sh, volume
from stage import IMAGE, Stage, records

from lading.engine.core import Caller, new_caller
from lading.engine.volumes.volumes import ANONYMOUS_LABEL, volume_usage
from lading.events.envelope import Actor
from lading.events.errors import AlreadyExists, CannotStart, InUse, Invalid, NotFound
from lading.events.ids import CommandId
from lading.events.volume import volume_stream
from lading.storage.volumes import data_of

pytestmark = [pytest.mark.real, pytest.mark.slow]


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


async def test_creating_again_gives_the_same_and_other_options_are_refused(stage: Stage) -> None:
    async with stage.emptied() as engine:
        first = await engine.volumes.create("box", labels={"a": "1"})
        assert await engine.volumes.create("box", labels={"b": "2"}) == first
        with pytest.raises(AlreadyExists):
            await engine.volumes.create("box", options={"type": "tmpfs", "device": "tmpfs"})
        for options in (
            {"size": "1g"},
            {"what": "x"},
            {"type": "nfs", "device": ":/x", "o": "addr=h"},
            {"o": "ro"},
        ):
            with pytest.raises(Invalid):
                await engine.volumes.create("other", options=options)
        for name in ("../x", "a/b", "x\n", "x", "a" * 300, ".", "-x", "é"):
            with pytest.raises(Invalid):
                await engine.volumes.create(name)
            with pytest.raises(Invalid):
                await sh(engine, "true", volume(name, "/data"))
        with pytest.raises(NotFound):
            await engine.volumes.create("x1", driver="flocker")
        anonymous = await engine.volumes.create()
        assert (len(anonymous.name), anonymous.anonymous, anonymous.labels) == (64, True, {ANONYMOUS_LABEL: ""})
        assert [state.name for state in engine.volumes.list(labels=["a=1"])] == ["box"]
        assert sorted(os.listdir(stage.paths.volumes)) == sorted(["box", anonymous.name])


async def test_a_retry_gets_the_first_answer(stage: Stage) -> None:
    async with stage.emptied() as engine:
        once = Caller(Actor(), CommandId("0" * 31 + "1"), once=True)
        first = await engine.volumes.create(caller=once)
        assert await engine.volumes.create(caller=once) == first
        assert len(engine.volumes.list()) == 1
        gone = Caller(Actor(), CommandId("0" * 31 + "2"), once=True)
        await engine.volumes.remove(first.name, caller=gone)
        await engine.volumes.remove(first.name, caller=gone)
        assert await engine.volumes.create(caller=once) == first  # what it was then
        assert engine.volumes.list() == []


async def test_a_volume_that_is_mounted_stays(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["true"], settings=mounting(volume("box", "/data")))
        assert os.listdir(data_of(stage.paths, "box")) == []  # it is there before it was ever started
        for force in (False, True):
            with pytest.raises(InUse) as refused:
                await engine.volumes.remove("box", force=force)
            assert refused.value.users == (made.id,)
        assert engine.volumes.list(dangling=True) == []
        assert (await engine.volumes.prune(all=True)).names == []
        await made.remove(volumes=True)
        assert [state.name for state in engine.volumes.list(dangling=True)] == ["box"]  # it has a name


async def test_a_create_that_is_refused_leaves_no_volume(stage: Stage) -> None:
    async with stage.emptied() as engine:
        await engine.containers.create(IMAGE, ["true"], name="taken")
        with pytest.raises(AlreadyExists):
            await engine.containers.create(
                IMAGE, ["true"], name="taken", settings=mounting(volume("box", "/a"), volume("", "/b"))
            )
        with pytest.raises(Invalid, match="Duplicate mount point: /a"):
            await engine.containers.create(
                IMAGE, ["true"], settings=mounting(volume("box", "/a"), volume("more", "/x/../a/"))
            )
        for target in ("/", "/.", "a", "", "/proc", "/proc/x", "/sys/x", "/a\0b"):
            with pytest.raises(Invalid):
                await engine.containers.create(IMAGE, ["true"], settings=mounting(volume("box", target)))
        assert engine.volumes.list() == []
        assert os.listdir(stage.paths.volumes) == []


async def test_the_image_s_content_comes_with_the_first_use(stage: Stage, tmp_path: Path) -> None:
    members = [
        images.directory("data", 0o2750, uid=1000, gid=50),
        images.file("data/file", "from the image", 0o640, uid=7, gid=8, xattrs={"user.note": "x"}),
        images.link("data/again", "data/file"),
        images.symlink("data/link", "/etc/passwd"),
        images.directory("data/deep/er", 0o700),
        images.Member("data/fifo", kind=b"6", mode=0o600),
        images.Member("data/deep/er/empty"),
    ]
    async with stage.emptied() as engine:
        image = await load_image(engine, tmp_path, stage.tar, *members, volumes=("/data",))
        made = await engine.containers.create(image, ["sh", "-c", "cat /data/file; rm /data/file"])
        [mount] = engine.core.settings(made.id).mounts
        assert (mount.target, mount.anonymous, len(mount.source)) == ("/data", True, 64)
        await made.start()
        await made.wait()
        data = data_of(stage.paths, mount.source)
        found = os.stat(data)
        assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o2750, 1000, 50)
        assert os.readlink(data / "link") == "/etc/passwd"
        kept = os.stat(data / "again")
        assert (kept.st_mode & 0o7777, kept.st_uid, kept.st_gid, kept.st_mtime) == (0o640, 7, 8, images.MTIME)
        assert os.getxattr(data / "again", "user.note") == b"x"
        assert (kept.st_nlink, (data / "fifo").is_fifo(), (data / "deep/er/empty").stat().st_size) == (1, True, 0)
        await made.start()  # its second run sees what the first one left: it is filled once
        await made.wait()
        assert not (data / "file").exists()
        names = [type(record.event).__name__ for record in engine.log.read_stream(volume_stream(mount.source))]
        assert names == ["VolumeCreated", "VolumeFilled"]
        # A named volume is filled in the same way, unless that isn't wanted, or something is in it.
        assert (
            await sh(engine, "ls /data", volume("box", "/data"), image=image) == "again\ndeep\nfifo\nfile\nlink\n"
        )
        assert await sh(engine, "ls /data", volume("bare", "/data", copy=False), image=image) == ""
        await sh(engine, "touch /x/mine", volume("own", "/x"))
        assert await sh(engine, "ls /data", volume("own", "/data"), image=image) == "mine\n"
        await sh(engine, "rm -r /data/*", volume("box", "/data"), image=image)
        assert await sh(engine, "ls /data", volume("box", "/data"), image=image) == ""
        await made.remove(volumes=True)
        assert {state.name for state in engine.volumes.list()} == {"box", "bare", "own"}


async def test_of_two_that_start_at_once_one_fills(stage: Stage, tmp_path: Path) -> None:
    async with stage.emptied() as engine:
        image = await load_image(
            engine, tmp_path, stage.tar, *(images.file(f"data/{number}", "x" * 1000) for number in range(300))
        )
        seen: list[str] = []

        async def one() -> None:
            seen.append(await sh(engine, "ls /data | wc -l", volume("box", "/data"), image=image))

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(one)
        assert seen == ["300\n"] * 6
        stream = engine.log.read_stream(volume_stream("box"))
        assert [type(record.event).__name__ for record in stream] == ["VolumeCreated", "VolumeFilled"]
        assert engine.core.filling == {}


async def test_anonymous_volumes_go_with_rm_and_otherwise_stay(stage: Stage) -> None:
    async with stage.emptied() as engine:
        assert await sh(engine, "touch /a/x; ls /a", volume("", "/a"), remove=True) == "x\n"
        assert engine.volumes.list() == []
        kept = await engine.containers.create(IMAGE, ["true"], settings=mounting(volume("", "/a")))
        await kept.start()
        await kept.wait()
        await kept.remove()
        [left] = engine.volumes.list()
        assert left.anonymous
        told = await engine.volumes.prune(dry_run=True)
        assert told.names == [left.name]
        assert engine.volumes.list() == [left]
        assert (await engine.volumes.prune(not_labels=[ANONYMOUS_LABEL])).names == []
        assert await engine.volumes.prune() == told
        await engine.volumes.create("named")
        assert (await engine.volumes.prune()).names == []
        assert (await engine.volumes.prune(all=True)).names == ["named"]


async def test_volumes_from_another_container(stage: Stage) -> None:
    async with stage.emptied() as engine:
        first = await engine.containers.create(
            IMAGE,
            ["sh", "-c", "echo one > /a/x"],
            name="first",
            settings=mounting(volume("", "/a"), volume("b2", "/b")),
        )
        await first.start()
        await first.wait()
        assert await sh(engine, "cat /a/x; touch /b/y", volumes_from=("first",)) == "one\n"
        refused = await run(engine, "touch /b/z", volumes_from=("first:ro",))
        assert (refused.exit_code, b"Read-only" in refused.stderr) == (1, True)
        assert await sh(engine, "ls /a /b", volume("c3", "/a"), volumes_from=("first",)) == "/a:\n\n/b:\ny\n"
        second = await engine.containers.create(IMAGE, ["true"], volumes_from=("first",))
        own = engine.core.settings(first.id).mounts[0].source
        await first.remove(volumes=True)  # the other one still mounts it
        assert engine.volumes.get(own).anonymous
        await second.remove(volumes=True)
        with pytest.raises(NotFound):
            engine.volumes.get(own)
        with pytest.raises(NotFound):
            await engine.containers.create(IMAGE, ["true"], volumes_from=("first",))
        with pytest.raises(Invalid):
            await engine.containers.create(IMAGE, ["true"], volumes_from=("second:rshared",))


async def test_a_part_of_a_volume_can_be_mounted(stage: Stage, tmp_path: Path) -> None:
    async with stage.emptied() as engine:
        line = "mkdir -p /v/a/b; echo deep > /v/a/b/f; ln -s a/b /v/in; ln -s /etc /v/out; ln -s ../../../.. /v/up"
        await sh(engine, line, volume("box", "/v"))
        assert await sh(engine, "cat /d/f; echo more > /d/g", volume("box", "/d", subpath="a/b")) == "deep\n"
        assert await sh(engine, "cat /d/g", volume("box", "/d", subpath="in")) == "more\n"
        assert await sh(engine, "cat /one", volume("box", "/one", subpath="a/b/f", read_only=True)) == "deep\n"
        for wrong in ("nope", "out", "up", "a/b/f/x"):
            with pytest.raises(CannotStart, match="subpath"):
                await sh(engine, "true", volume("box", "/d", subpath=wrong))
        for wrong in ("../x", "/a", "a/../../b"):
            with pytest.raises(Invalid, match="subpath"):
                await sh(engine, "true", volume("box", "/d", subpath=wrong))
        assert (data_of(stage.paths, "box") / "a/b/f").read_text() == "deep\n"  # clearing away left it alone


async def test_a_volume_of_the_local_driver_with_options(stage: Stage, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").write_text("the host's\n")
    async with stage.emptied() as engine:
        await engine.volumes.create("here", options={"type": "none", "o": "bind", "device": str(shared)})
        assert await sh(engine, "cat /d/file; echo new > /d/made", volume("here", "/d")) == "the host's\n"
        assert (shared / "made").read_text() == "new\n"
        await engine.volumes.remove("here")
        assert (shared / "file").exists()
        await engine.volumes.create("gone", options={"type": "none", "o": "bind,ro", "device": "/no/such"})
        with pytest.raises(CannotStart, match="/no/such"):
            await sh(engine, "true", volume("gone", "/d"))
        memory = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=1700"}
        await engine.volumes.create("memory", options=memory)
        keeps = await engine.containers.create(
            IMAGE, ["sleep", "100"], network="none", settings=mounting(volume("memory", "/d"))
        )
        await keeps.start()
        assert await sh(engine, "touch /d/x; stat -c %a /d", volume("memory", "/d")) == "1700\n"
        assert await sh(engine, "ls /d; grep -c ' /d tmpfs' /proc/mounts", volume("memory", "/d")) == "x\n1\n"
        await keeps.stop(timeout=0)
        for _ in range(1000):
            if os.path.exists(f"{stage.paths.run}/volumes/memory"):
                await trio.sleep(0.01)
        assert await sh(engine, "ls /d", volume("memory", "/d")) == ""


async def test_what_volumes_take_is_measured(stage: Stage) -> None:
    async with stage.emptied() as engine:
        await sh(engine, "dd if=/dev/zero of=/d/x bs=1024 count=100 2>/dev/null", volume("box", "/d"))
        kept = await engine.containers.create(IMAGE, ["true"], settings=mounting(volume("box", "/d")))
        [usage] = await volume_usage(engine.core, engine.core.log)
        assert (usage.volume.name, usage.users) == ("box", (kept.id,))
        assert 100 * 1024 <= usage.size <= 120 * 1024
        pruned = await engine.prune(volumes=True, dry_run=True)
        assert (pruned.containers, pruned.volumes) == ([kept.id], [])


async def test_a_plain_container_has_no_record_of_settings(stage: Stage) -> None:
    async with stage.emptied() as engine:
        plain = await engine.containers.create(IMAGE, ["true"])
        assert [type(record.event).__name__ for record in records(engine, plain.id)] == ["Created"]
        await engine.containers.create(IMAGE, ["true"], caller=new_caller(), settings=mounting())
        assert engine.core.log.position == engine.log.position
