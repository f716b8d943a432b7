"""Binds and tmpfs in real containers, with each runtime; and what a read-only root leaves writable."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from mounted import bind, mounting, run, sh, tmpfs, volume
from stage import IMAGE, Stage

from lading.events.errors import CannotStart, Invalid

pytestmark = [pytest.mark.real, pytest.mark.slow]

RUNTIMES = pytest.mark.parametrize("runtime", ["crun", "runc"])


@pytest.fixture
def below(tmp_path: Path) -> Iterator[Path]:
    """A directory with a tmpfs mounted in it, at ``sub``."""
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    (top / "file").write_text("the host's\n")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", top / "sub"], check=True)
    (top / "sub" / "deep").write_text("deeper\n")
    try:
        yield top
    finally:
        subprocess.run(["umount", "-l", top / "sub"], check=True)


@RUNTIMES
async def test_a_directory_of_the_host(stage: Stage, below: Path, runtime: str) -> None:
    async with stage.emptied(runtime=runtime) as engine:
        line = "cat /d/file /d/sub/deep; touch /d/new /d/sub/new"
        assert await sh(engine, line, bind(below, "/d")) == "the host's\ndeeper\n"
        assert ((below / "new").exists(), (below / "sub" / "new").exists()) == (True, True)
        assert await sh(engine, "ls /d/sub", bind(below, "/d", recursive=False)) == ""
        line = "touch /d/x; touch /d/sub/x; true"
        done = await run(engine, line, bind(below, "/d", read_only=True))
        assert done.stderr.count(b"Read-only file system") == 2
        done = await run(engine, line, bind(below, "/d", read_only=True, options=("ro-non-recursive",)))
        assert done.stderr.count(b"Read-only file system") == 1
        (below / "sub" / "x").unlink()


@RUNTIMES
async def test_a_file_of_the_host_and_a_socket(stage: Stage, below: Path, runtime: str) -> None:
    async with stage.emptied(runtime=runtime) as engine:
        mounts = (bind(below / "file", "/etc/hello"), bind(below / "file", "/new/place/it", read_only=True))
        assert await sh(engine, "cat /etc/hello /new/place/it", *mounts) == "the host's\n" * 2
        done = await run(engine, "echo x > /new/place/it", *mounts)
        assert b"Read-only file system" in done.stderr
        # What the image has at the place of a mount must be of its kind.
        for source, target in ((below, "/etc/passwd"), (below / "file", "/etc")):
            with pytest.raises(CannotStart, match="onto a file"):
                await sh(engine, "true", bind(source, target))


async def test_a_source_that_is_not_there(stage: Stage, tmp_path: Path) -> None:
    async with stage.emptied() as engine:
        with pytest.raises(CannotStart, match="bind source path does not exist"):
            await sh(engine, "true", bind(tmp_path / "no", "/d"))
        assert not (tmp_path / "no").exists()
        await sh(engine, "touch /d/x", bind(tmp_path / "no/such", "/d", options=("create",)))
        assert (tmp_path / "no/such/x").exists()
        for wrong in (
            bind("relative", "/d"),
            bind("/tmp", "/d", propagation="no"),
            bind("/tmp", "/d", options=("x",)),
        ):
            with pytest.raises(Invalid):
                await sh(engine, "true", wrong)


@RUNTIMES
async def test_mounts_of_the_host_reach_a_slave(stage: Stage, tmp_path: Path, runtime: str) -> None:
    shared = tmp_path / "shared"
    (shared / "later").mkdir(parents=True)
    await trio.run_process(["mount", "--bind", shared, shared])
    try:
        await trio.run_process(["mount", "--make-shared", shared])
        async with stage.emptied(runtime=runtime) as engine:
            line = "echo ready; read go; ls /slave/later /private/later"
            made = await engine.containers.create(
                IMAGE,
                ["sh", "-c", line],
                open_stdin=True,
                network="none",
                settings=mounting(bind(shared, "/slave", propagation="rslave"), bind(shared, "/private")),
            )
            await made.start()
            await trio.run_process(["mount", "-t", "tmpfs", "tmpfs", shared / "later"])
            try:
                (shared / "later" / "seen").touch()
                async with await engine.core.link.open_stdin(made.id) as stream:
                    await stream.send_all(b"go\n")
                    await stream.end()
                    await made.wait()
            finally:
                await trio.run_process(["umount", "-l", shared / "later"])
            with made.logs() as reader:
                said = b"".join([piece.data async for piece in reader])
            assert said == b"ready\n/private/later:\n\n/slave/later:\nseen\n"
    finally:
        await trio.run_process(["umount", "-l", shared])


@RUNTIMES
async def test_memory_as_a_directory(stage: Stage, runtime: str) -> None:
    async with stage.emptied(runtime=runtime) as engine:
        assert await sh(engine, "stat -c %a /root", tmpfs("/root")) == "700\n"  # as it was
        seen = await sh(engine, "grep ' /t ' /proc/mounts; stat -c %a /t", tmpfs("/t"))
        options = seen.split()[3].split(",")
        assert {"nosuid", "nodev", "noexec"} <= set(options)
        assert seen.split()[-1] == "1777"
        mount = tmpfs("/t", size=1 << 20, mode=0o700, options=("exec", "uid=1000"))
        seen = await sh(engine, "grep ' /t ' /proc/mounts; stat -c '%a %u' /t", mount)
        assert {"nosuid", "nodev", "size=1024k"} <= set(seen.split()[3].split(","))
        assert "noexec" not in seen
        assert seen.splitlines()[-1] == "700 1000"
        done = await run(engine, "dd if=/dev/zero of=/t/x bs=1024 count=2000", mount)
        assert b"No space left" in done.stderr
        done = await run(engine, "touch /t/x", tmpfs("/t", read_only=True))
        assert b"Read-only file system" in done.stderr
        assert await sh(
            engine, "df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d' ' -f2", tmpfs("/dev/shm", size=1 << 20)
        ) == ("1024\n")
        for wrong in (tmpfs("/t", options=("size=1m,evil",)), tmpfs("/t", options=("huge=x",)), tmpfs("/")):
            with pytest.raises(Invalid):
                await sh(engine, "true", wrong)


@RUNTIMES
async def test_mounts_below_a_read_only_root_are_writable(stage: Stage, tmp_path: Path, runtime: str) -> None:
    async with stage.emptied(runtime=runtime) as engine:
        mounts = (volume("box", "/new/volume"), tmpfs("/new/memory"), bind(tmp_path, "/new/host"))
        await sh(engine, "touch /new/volume/x /new/memory/x /new/host/x", *mounts, read_only=True)
        assert (tmp_path / "x").exists()
        done = await run(engine, "touch /new/x", *mounts, read_only=True)
        assert b"Read-only file system" in done.stderr


@RUNTIMES
async def test_mounts_in_mounts_and_over_what_is_there_anyway(stage: Stage, tmp_path: Path, runtime: str) -> None:
    async with stage.emptied(runtime=runtime) as engine:
        mounts = (bind(tmp_path, "/a/b/c"), volume("outer", "/a"), tmpfs("/a/b"))
        line = "touch /a/b/c/file; ls /a /a/b; cat /etc/hosts"
        (tmp_path / "hosts").write_text("mine\n")
        said = await sh(engine, line, *mounts, bind(tmp_path / "hosts", "/etc/hosts"))
        assert said == "/a:\nb\n\n/a/b:\nc\nmine\n"
        assert sorted(os.listdir(tmp_path / "store/volumes/outer/_data")) == ["b"]
        assert (tmp_path / "file").exists()
        # Where the image has a symlink on the way, the mount is where that leads.
        said = await sh(engine, "ls -d /run/x/y; cat /run/x/y/file", bind(tmp_path, "/var/run/x/y"))
        assert said == "/run/x/y\n"


async def test_runs_begin_and_end_again_with_their_mounts(stage: Stage, tmp_path: Path) -> None:
    async with stage.emptied() as engine:
        await sh(engine, "mkdir /v/sub", volume("box", "/v"))
        mounts = (volume("box", "/v", subpath="sub"), bind(tmp_path, "/d"), tmpfs("/t"))
        line = "echo x >> /v/runs; echo x >> /d/runs; echo x >> /t/runs; cat /v/runs /d/runs /t/runs | wc -l"
        made = await engine.containers.create(IMAGE, ["sh", "-c", line], settings=mounting(*mounts))
        for _ in range(3):
            await made.start()
            assert await made.wait() == 0
        with made.logs() as reader:
            said = b"".join([piece.data async for piece in reader])
        assert said.split() == [b"3", b"5", b"7"]
