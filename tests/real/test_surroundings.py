"""What a container's command finds around it, and what it can't reach."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from stage import IMAGE, Stage

import lading
from lading.events.errors import CannotStart, Invalid
from lading.events.settings import ContainerSettings
from lading.storage import overlay
from lading.storage.cgroups import cgroup_mounts
from lading.storage.overlay import mount_overlay, mounts_below, unmount

pytestmark = [pytest.mark.real, pytest.mark.slow]


async def says(engine: lading.Engine, script: str, **options: Any) -> list[str]:
    """The lines that ``script`` prints in a container; it has to succeed."""
    done = await engine.containers.run(IMAGE, ["sh", "-c", script], **options)
    assert (done.exit_code, done.stderr) == (0, b"")
    return done.stdout.decode().splitlines()


async def test_network_none_has_only_its_own_loopback(stage: Stage) -> None:
    async with stage.engine() as engine:
        assert await says(engine, "ls /sys/class/net", network="none") == ["lo"]
        mine = os.readlink("/proc/self/ns/net")
        assert await says(engine, "readlink /proc/self/ns/net", network="none") != [mine]
        assert await says(engine, "cat /etc/hosts", network="none") == [
            *("127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"),
        ]


async def test_network_host_is_the_hosts(stage: Stage) -> None:
    async with stage.engine() as engine:
        mine = os.readlink("/proc/self/ns/net")
        assert await says(engine, "readlink /proc/self/ns/net", network="host") == [mine]
        assert await says(engine, "cat /etc/hosts") == Path("/etc/hosts").read_text().splitlines()
        assert await says(engine, "cat /etc/resolv.conf") == Path("/etc/resolv.conf").read_text().splitlines()
        assert await says(engine, "hostname") == [os.uname().nodename]
        with pytest.raises(Invalid):
            await says(engine, "true", network="bridge")


async def test_hostname_env_and_directory_are_as_asked(stage: Stage) -> None:
    async with stage.engine() as engine:
        assert await says(engine, "hostname; cat /etc/hostname; echo $HOSTNAME", hostname="box") == ["box"] * 3
        assert os.uname().nodename != "box"
        assert await says(engine, 'echo "$A-$B"; pwd', env={"A": "1 2", "B": "x=y"}, working_dir="/etc") == [
            *("1 2-x=y", "/etc"),
        ]
        names = {line.partition("=")[0] for line in await says(engine, "env", env=["A=1"])}
        assert names <= {"PATH", "HOSTNAME", "HOME", "A", "PWD", "SHLVL"}  # nothing of ours leaks in


@pytest.mark.parametrize(
    ("user", "ids", "home"),
    [
        ("", "0 0 0", "/root"),
        ("root", "0 0 0", "/root"),
        ("app", "1000 1000 1000 29 50", "/home/app"),
        ("1000", "1000 1000 1000 29 50", "/home/app"),
        ("app:staff", "1000 50 50", "/home/app"),
        ("1234", "1234 0 0", "/"),
        ("1234:5678", "1234 5678 5678", "/"),
    ],
)
async def test_a_user_has_docker_s_ids_groups_and_home(stage: Stage, user: str, ids: str, home: str) -> None:
    async with stage.engine() as engine:
        [line, where] = await says(engine, 'echo $(id -u) $(id -g) $(id -G); echo "$HOME"', user=user)
        uid, gid, *groups = line.split()
        expected = ids.split()
        assert ([uid, gid], sorted(groups), where) == (expected[:2], sorted(expected[2:]), home)


@pytest.mark.parametrize("runtime", ["crun", "runc"])
async def test_a_terminal_has_its_size_from_the_beginning(stage: Stage, runtime: str) -> None:
    """However quick the command is, and however busy whoever could give it a size later."""
    said = []
    async with stage.engine(runtime=runtime) as engine:

        async def life() -> None:
            settings = ContainerSettings(tty=True)
            made = await engine.containers.create(IMAGE, ["stty", "size"], settings=settings)
            engine.core.console_sizes[made.id] = (33, 44)
            await made.start()
            await made.wait()
            said.append(b"".join([line.data async for line in made.logs()]))
            await made.remove()

        async with trio.open_nursery() as nursery:
            for _ in range(24):
                nursery.start_soon(life)
    assert said == [b"33 44\r\n"] * 24


async def test_a_missing_working_directory_is_made(stage: Stage) -> None:
    async with stage.engine() as engine:
        assert await says(engine, "pwd; touch here", working_dir="/not/there/yet") == ["/not/there/yet"]


async def test_read_only_is(stage: Stage) -> None:
    async with stage.engine() as engine:
        done = await engine.containers.run(IMAGE, ["touch", "/file"], read_only=True)
        assert (done.exit_code, b"Read-only file system" in done.stderr) == (1, True)
        await says(engine, "touch /dev/shm/file", read_only=True)


async def test_privileges_are_the_default_ones(stage: Stage) -> None:
    """Seccomp filters, no capability beyond the fourteen, none for a user, none inherited."""
    async with stage.engine() as engine:
        status = dict(
            line.split(":\t", 1) for line in await says(engine, "grep -E '^(Cap|Sec|NoNew)' /proc/self/status")
        )
        assert status["Seccomp"].strip() == "2"
        fourteen = sum(1 << bit for bit in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))
        for field, value in (("Prm", fourteen), ("Eff", fourteen), ("Bnd", fourteen), ("Inh", 0), ("Amb", 0)):
            assert int(status[f"Cap{field}"], 16) == value, field
        lines = await says(engine, "grep ^Cap /proc/self/status", user="app")
        assert {line[3:6]: int(line.split()[1], 16) for line in lines} == {
            "Inh": 0,
            "Prm": 0,
            "Eff": 0,
            "Amb": 0,
            "Bnd": fourteen,
        }
        for forbidden in (
            "mount -t tmpfs none /tmp",
            "unshare -m true",
            "dmesg -c",
            "chroot / mknod /x b 8 0 && cat /x",
        ):
            assert (await engine.containers.run(IMAGE, ["sh", "-c", forbidden])).exit_code != 0


async def test_nothing_of_the_host_can_be_seen_or_written(stage: Stage) -> None:
    async with stage.engine() as engine:
        [seen] = await says(engine, "ls /proc | grep -c '^[0-9]'")
        assert int(seen) <= 4  # sh, ls and grep, of which some may not be there yet
        done = await engine.containers.run(IMAGE, ["sh", "-c", "ls /proc/self/fd"])
        assert done.stdout.split() == [b"0", b"1", b"2", b"3"]  # 3 is ls's own
        assert await says(engine, "for f in kcore keys; do cat /proc/$f 2>&- | wc -c; done") == ["0", "0"]
        for path in ("/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/kernel/profiling"):
            done = await engine.containers.run(IMAGE, ["sh", "-c", f"echo 1 > {path}"])
            assert done.exit_code != 0
        script = "for f in /dev/*; do [ -b $f ] && echo $f; done; true"
        assert await says(engine, script) == []


async def test_each_container_is_in_a_cgroup_of_its_own(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["sleep", "1000"])
        await made.start()
        expected = f"/lading/{stage.paths.run.name}/{made.id}"
        lines = Path(f"/proc/{made.pid}/cgroup").read_text().split()
        controllers = [line for line in lines if not line.startswith("0::")] or lines
        assert {line.split(":", 2)[2] for line in controllers} == {expected}
        await made.stop(timeout=0)
        assert not any((mount / expected[1:]).exists() for mount in cgroup_mounts())


async def test_closing_leaves_other_stores_cgroups_alone(stage: Stage) -> None:
    others = [mount / "lading" / "another-store" / "a-container" for mount in cgroup_mounts()]
    for other in others:
        other.mkdir(parents=True, exist_ok=True)
    try:
        async with stage.engine() as engine:
            await engine.containers.run(IMAGE, ["true"])
        assert [other for other in others if not other.exists()] == []
    finally:
        for other in others:
            for directory in (other, other.parent, other.parent.parent):
                with contextlib.suppress(OSError):  # the same hierarchy is mounted twice; another store is in use
                    directory.rmdir()


@pytest.mark.parametrize("runtime", ["crun", "runc"])
@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
async def test_a_mount_point_that_is_a_symlink_is_refused(
    stage: Stage, tmp_path: Path, name: str, runtime: str
) -> None:
    """Or else the runtime makes devices, or mounts, in the host directory that it points at."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "ptmx").write_text("precious")
    out = io.BytesIO()
    with tarfile.open(stage.tar) as source, tarfile.open(fileobj=out, mode="w") as tar:
        for member in source:
            if member.name != f"./{name}":
                tar.addfile(member, source.extractfile(member) if member.isreg() else None)
        link = tarfile.TarInfo(f"./{name}")
        link.type, link.linkname = tarfile.SYMTYPE, str(victim)
        tar.addfile(link)
    out.seek(0)
    with trio.fail_after(30):
        async with lading.open_engine(stage.root, runtime=runtime) as engine:
            await engine.images.import_rootfs(out, "evil:1")
            with pytest.raises(CannotStart, match=f"/{name} in the container's root is not a directory"):
                await engine.containers.run("evil:1", ["true"])
            assert engine.containers.list() == []
    assert os.listdir(victim) == ["ptmx"]
    assert (victim / "ptmx").read_text() == "precious"


@pytest.mark.parametrize("path", ["/proc/self/fd/9", "/sys", "/dev/shm", "relative", "/a/../proc/self"])
async def test_a_working_directory_that_leads_out_is_refused(stage: Stage, path: str) -> None:
    async with stage.engine() as engine:
        with pytest.raises(Invalid):
            await engine.containers.create(IMAGE, ["true"], working_dir=path)


@pytest.fixture(params=["each", "at once"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways to mount: layer by layer, and with one string of options."""
    monkeypatch.setattr(overlay, "_one_by_one", request.param == "each", raising=True)
    yield request.param
    assert request.param == "at once" or overlay._one_by_one


@pytest.mark.parametrize("count", [1, 2, 128])
def test_many_layers_can_be_mounted_either_way(tmp_path: Path, count: int, way: str) -> None:
    """128 layers' paths are more than a page of options, which the older interface has no room for."""
    lower = []
    for number in range(count):
        layer = tmp_path / "layers" / f"{number:064x}"
        layer.mkdir(parents=True)
        (layer / f"from{number}").touch()
        (layer / "all").write_text(str(number))
        lower.append(layer)
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    merged = tmp_path / "merged"
    assert count < 128 or sum(len(str(path)) for path in lower) > 4096
    fds = os.listdir("/proc/self/fd")
    mount_overlay(merged, lower, tmp_path / "upper", tmp_path / "work")
    try:
        assert len(os.listdir(merged)) == count + 1
        assert (merged / "all").read_text() == "0"  # the first is on top
        (merged / "all").write_text("mine")
        assert [path.name for path in (tmp_path / "upper").iterdir()] == ["all"]
        assert os.listdir("/proc/self/fd") == fds
    finally:
        assert unmount(merged)
    assert not unmount(merged)
    assert mounts_below(tmp_path) == []


@pytest.mark.parametrize("name", ["with space", "com,ma", "co:lon", "back\\slash", "ünï", "new\nline"])
def test_odd_paths_can_be_mounted_either_way(tmp_path: Path, name: str, way: str) -> None:
    odd = tmp_path / name
    lower = [odd / "lower1", odd / "lower2"]
    for directory in (*lower, odd / "upper", odd / "work", odd / "merged"):
        directory.mkdir(parents=True)
    (lower[1] / "file").write_text("here")
    mount_overlay(odd / "merged", lower, odd / "upper", odd / "work")
    try:
        assert (odd / "merged/file").read_text() == "here"
        assert mounts_below(tmp_path) == [odd / "merged"]
        assert stat.S_ISDIR((odd / "merged").stat().st_mode)
    finally:
        unmount(odd / "merged")
