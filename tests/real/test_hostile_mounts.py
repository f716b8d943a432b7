"""Images and containers that would have mounts or copies reach the host: nothing outside of theirs is touched."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import images
import pytest
import trio
from mounted import bind, load_image, mounting, run, sh, tmpfs, volume
from stage import IMAGE, Stage

import lading
from lading.events.errors import CannotStart, Invalid
from lading.storage.linux import rename_exchange
from lading.storage.volumes import data_of

pytestmark = [pytest.mark.real, pytest.mark.slow]

RUNTIMES = pytest.mark.parametrize("runtime", ["crun", "runc"])


def makes_empty_directories(runtime: str) -> bool:
    """Whether this runtime can be raced into making an empty directory on the host (CVE-2024-45310)."""
    if runtime != "runc":
        return False
    said = subprocess.run(["runc", "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(int(number) for number in re.findall(r"\d+", said.split()[2])[:3])
    return version < (1, 1, 14)


class Victim:
    """A directory of the host that nothing may change or show.

    ``runtime`` may have a hole by which empty directories come into being there; then these are all that may.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.runtime = ""
        (top / "sub").mkdir(parents=True)
        (top / "secret").write_text("the host's secret\n")
        self._before = self._look()

    def _look(self) -> str:
        listed = subprocess.run(
            ["find", self.top, "-printf", "%P %y %m %U %G %s %T@ %C@\\n"],
            check=True,
            capture_output=True,
            text=True,
        )
        with open("/proc/self/mountinfo") as mounts:
            here = [line.split()[4] for line in mounts if line.split()[4].startswith(str(self.top))]
        return "\n".join([*sorted(listed.stdout.splitlines()), *here])

    def check(self) -> None:
        if makes_empty_directories(self.runtime):
            for made in self.top.iterdir():
                if made.is_dir() and made.name != "sub":
                    made.rmdir()  # fails if there is anything in it
            assert [line.split(" ")[:6] for line in self._look().splitlines()] == [
                line.split(" ")[:6] for line in self._before.splitlines()
            ]
        else:
            assert self._look() == self._before


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    found = Victim(tmp_path / "victim")
    yield found
    found.check()


async def own_volume(engine: lading.Engine, image: str, line: str, **options: object) -> tuple[Path, str]:
    """Run ``line`` in a container of ``image``, which declares one volume: its directory, and what was said."""
    made = await engine.containers.create(image, ["sh", "-c", line], network="none", **options)
    [mount] = engine.core.settings(made.id).mounts
    await made.start()
    assert await made.wait() == 0
    with made.logs() as reader:
        said = b"".join([piece.data async for piece in reader])
    return data_of(engine.core.paths, mount.source), said.decode()


@pytest.mark.parametrize("declared", ["/../../etc", "etc", "/l", "/up", "/./x/..//etc"])
async def test_a_volume_brings_only_what_the_image_has(
    stage: Stage, tmp_path: Path, victim: Victim, declared: str
) -> None:
    members = [images.symlink("l", "/etc"), images.symlink("up", "../../../../etc"), images.directory("x")]
    async with stage.emptied() as engine:
        image = await load_image(engine, tmp_path, stage.tar, *members, volumes=(declared,))
        data, said = await own_volume(engine, image, "cat /etc/hello")
        assert said == "hello from the image\n"
        assert sorted(path.name for path in data.iterdir() if path.stat().st_size) == ["group", "hello", "passwd"]


async def test_a_symlink_to_the_host_leads_nowhere(stage: Stage, tmp_path: Path, victim: Victim) -> None:
    members = [
        images.symlink("direct", str(victim.top)),
        images.directory("data"),
        images.symlink("data/abs", str(victim.top / "secret")),
        images.symlink("data/rel", "../" * 20 + str(victim.top)),
        images.directory("data/dir"),
        images.Member("data/pipe", kind=b"6", mode=0o600),
    ]
    async with stage.emptied() as engine:
        image = await load_image(engine, tmp_path, stage.tar, *members, volumes=("/direct",))
        data, said = await own_volume(engine, image, f"ls -A /direct {victim.top}; touch /direct/x")
        assert "secret" not in said
        assert os.listdir(data) == ["x"]
    async with stage.emptied() as engine:
        with trio.fail_after(20):
            assert await sh(engine, "ls /data", volume("box", "/data"), image=image) == "abs\ndir\npipe\nrel\n"
        assert os.readlink(data_of(stage.paths, "box") / "abs") == str(victim.top / "secret")


@pytest.mark.parametrize("declared", ["/proc", "/proc/sys", "/../proc", "/sys/fs", "/", "/.", "/x/..", ""])
async def test_a_volume_of_the_kernel_s_is_refused(stage: Stage, tmp_path: Path, declared: str) -> None:
    async with stage.emptied() as engine:
        image = await load_image(engine, tmp_path, stage.tar, volumes=(declared,))
        with pytest.raises(Invalid):
            await engine.containers.create(image, ["true"])
        assert (engine.containers.list(), engine.volumes.list()) == ([], [])


@RUNTIMES
@pytest.mark.parametrize("target", ["/p", "/p/sys/kernel", "/s/kernel", "/d", "/r"])
async def test_a_symlink_to_the_kernel_s_is_refused(
    stage: Stage, tmp_path: Path, target: str, runtime: str
) -> None:
    members = [
        images.symlink(name, to) for name, to in (("p", "/proc"), ("s", "/sys"), ("d", "dev"), ("r", "../.."))
    ]
    async with stage.emptied(runtime=runtime) as engine:
        image = await load_image(engine, tmp_path, stage.tar, *members)
        for mount in (volume("box", target), tmpfs(target), bind(tmp_path, target)):
            with pytest.raises(CannotStart, match="nothing can be mounted"):
                await sh(engine, "true", mount, image=image)


async def test_a_volume_on_a_file_is_refused(stage: Stage, tmp_path: Path) -> None:
    async with stage.emptied() as engine:
        image = await load_image(engine, tmp_path, stage.tar, volumes=("/etc/passwd/x", "/etc/hello"))
        with pytest.raises(CannotStart, match="onto a file"):
            await engine.containers.run(image, ["true"])
        many = await load_image(
            engine, tmp_path, stage.tar, volumes=tuple(f"/v{number}" for number in range(2000))
        )
        with pytest.raises(Invalid, match="1000"):
            await engine.containers.run(many, ["true"])
        assert engine.volumes.list() == []


@RUNTIMES
async def test_mount_points_are_made_within_the_root(
    stage: Stage, tmp_path: Path, victim: Victim, runtime: str
) -> None:
    members = [
        images.symlink("l", str(victim.top)),
        images.symlink("rel", "../" * 30 + str(victim.top).lstrip("/")),
        images.symlink("dangling", str(victim.top / "made")),
        images.symlink("file", str(victim.top / "secret")),
        images.symlink("etc/loop", "loop"),
        images.symlink("etc/resolv.conf", "../run/made/resolv.conf"),
        images.symlink("etc/far", "../../../run/made/far"),
    ]
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").write_text("mine\n")
    async with stage.emptied(runtime=runtime) as engine:
        image = await load_image(engine, tmp_path, stage.tar, *members)
        for target in ("/l/x", "/l", "/rel/x", "/dangling", "/dangling/y"):
            assert await sh(engine, f"cat {target}/f", bind(source, target), image=image) == "mine\n"
            await sh(engine, f"touch {target}/z", tmpfs(target), image=image)
        assert await sh(engine, "cat /l/f1", bind(source / "f", "/l/f1"), image=image) == "mine\n"
        line = "cat /etc/resolv.conf /run/made/resolv.conf"
        assert await sh(engine, line, bind(source / "f", "/etc/resolv.conf"), image=image) == "mine\nmine\n"
        assert await sh(engine, "cat /run/made/far", bind(source / "f", "/etc/far"), image=image) == "mine\n"
        for mount in (bind(source, "/etc/loop"), bind(source, "/etc/loop/x")):
            with pytest.raises(CannotStart):
                await sh(engine, "true", mount, image=image)
        line = f"cat /dangling {victim.top}/made; cat /file"
        done = await run(engine, line, bind(source / "f", "/dangling"), image=image)
        assert (done.stdout, b"No such file" in done.stderr) == (b"mine\nmine\n", True)


class Swapping:
    """Somebody who keeps exchanging a directory and a symlink in a volume, as fast as it goes."""

    def __init__(self, top: Path, link: str) -> None:
        (top / "a").mkdir()
        (top / "b").symlink_to(link)
        self._top = os.open(top, os.O_PATH)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count = 0

    def _run(self) -> None:
        while not self._stop.is_set():
            rename_exchange(b"a", b"b", source_fd=self._top, target_fd=self._top)
            self.count += 1
            if not self.count % 50:
                self._stop.wait(0.0005)

    def __enter__(self) -> Swapping:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._top)


@RUNTIMES
@pytest.mark.parametrize("link", ["absolute", "relative"])
async def test_nobody_can_exchange_a_mount_point_meanwhile(
    stage: Stage, tmp_path: Path, victim: Victim, runtime: str, link: str
) -> None:
    victim.runtime = runtime
    source = tmp_path / "source"
    source.mkdir()
    where = str(victim.top) if link == "absolute" else "../" * 30 + str(victim.top).lstrip("/")
    async with stage.emptied(runtime=runtime, timeout=80) as engine:
        await engine.volumes.create("shared")
        with Swapping(data_of(stage.paths, "shared"), where) as swapping:
            ran = 0
            for number in range(15):
                mounts = (volume("shared", "/v"), bind(source, f"/v/a/{number}"), tmpfs("/v/a/t"))
                with contextlib.suppress(CannotStart):  # where it leads to nothing, or to what isn't a directory
                    done = await run(engine, "cat /v/a/secret /v/b/secret; true", *mounts)
                    ran += 1
                    assert b"the host's secret" not in done.stdout
                victim.check()
        assert swapping.count > 100


async def test_nobody_can_exchange_a_subpath_meanwhile(stage: Stage, tmp_path: Path, victim: Victim) -> None:
    async with stage.emptied(timeout=80) as engine:
        await engine.volumes.create("shared")
        data = data_of(stage.paths, "shared")
        with Swapping(data, str(victim.top)):
            ran = refused = 0
            for _ in range(30):
                try:
                    done = await run(engine, "ls -A /d", volume("shared", "/d", subpath="a"))
                except CannotStart:
                    refused += 1
                else:
                    ran += 1
                    assert done.stdout == b""
        assert ran + refused == 30
        assert ran


async def test_a_volume_is_never_removed_with_what_is_mounted_from_it(stage: Stage) -> None:
    async with stage.emptied() as engine:
        await sh(engine, "mkdir /v/sub; touch /v/sub/kept", volume("box", "/v"))
        made = await engine.containers.create(
            IMAGE, ["sleep", "1000"], settings=mounting(volume("box", "/d", subpath="sub"), volume("", "/own"))
        )
        await made.start()
        await made.remove(force=True, volumes=True)
        assert (data_of(stage.paths, "box") / "sub/kept").exists()
        assert [state.name for state in engine.volumes.list()] == ["box"]
