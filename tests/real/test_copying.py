"""Files into and out of real containers, by path and against everything that a container can do about it."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import attrs
import pytest
import trio
from stage import IMAGE, Stage, output, printed

import lading
from lading.engine.core import new_caller
from lading.events.envelope import Proposed
from lading.events.errors import BadLayer, HostError, ImageInvalid, Invalid, NotFound
from lading.events.ids import container_stream
from lading.events.settings import ContainerSettings, Mount
from lading.events.upkeep import Configured
from lading.storage.overlay import mounts_below

pytestmark = [pytest.mark.real, pytest.mark.slow]


class Entry(tarfile.TarInfo):
    """A member with what is in it."""

    content = b""


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: object) -> Entry:
    info = Entry(name)
    info.type = kind
    info.size = len(content)
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    info.content = content
    return info


def archive(*entries: Entry) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info in entries:
            tar.addfile(info, io.BytesIO(info.content))
    return out.getvalue()


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def put(container: lading.Container, path: str, *entries: Entry, **options: bool) -> None:
    await container.put_archive(path, once(archive(*entries)), **options)


async def get(container: lading.Container, path: str) -> dict[str, tarfile.TarInfo]:
    return {info.name: info for info in (await taken(container, path)).getmembers()}


async def taken(container: lading.Container, path: str) -> tarfile.TarFile:
    async with container.get_archive(path) as found:
        data = b"".join([chunk async for chunk in found.chunks])
    return tarfile.open(fileobj=io.BytesIO(data))


async def read(container: lading.Container, path: str) -> bytes:
    tar = await taken(container, path)
    file = tar.extractfile(tar.getmembers()[0])
    assert file is not None
    return file.read()


async def running(
    engine: lading.Engine, script: str = "echo ready; sleep 1000", **options: object
) -> lading.Container:
    made = await engine.containers.create(IMAGE, ["sh", "-c", script], **options)
    await made.start()
    await printed(made, b"ready")
    return made


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory of the host that no container may reach."""
    place = tmp_path / "victim"
    place.mkdir()
    (place / "secret").write_bytes(b"of the host")
    return place


def look(place: Path) -> list[tuple[str, bytes, int, int]]:
    """All that is to be seen of ``place``."""
    return [
        (path.name, path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
        for path in sorted(place.iterdir())
    ] + [(".", b"", place.stat().st_mode, place.stat().st_mtime_ns)]


# -- what it does ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["created", "running", "exited"])
async def test_files_go_in_and_come_out_in_every_phase(stage: Stage, phase: str) -> None:
    async with stage.emptied() as engine:
        if phase == "created":
            made = await engine.containers.create(IMAGE, ["cat", "/srv/d/file"])
        else:
            made = await running(engine)
            if phase == "exited":
                await made.stop(timeout=0)
        when = 1_500_000_000
        await put(
            made,
            "/home",
            entry("d", kind=tarfile.DIRTYPE, mode=0o750, uid=7, gid=8, mtime=when),
            entry("d/file", b"content", mode=0o4755, uid=1000, gid=50, mtime=when),
            entry("d/link", kind=tarfile.SYMTYPE, linkname="/etc/passwd"),
            entry("d/hard", kind=tarfile.LNKTYPE, linkname="d/file"),
            entry("d/fifo", kind=tarfile.FIFOTYPE, mode=0o600),
            entry("d/null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
            entry("implied/below", b"x"),
        )
        found = await get(made, "/home/d")
        assert list(found) == ["d", "d/fifo", "d/file", "d/hard", "d/link", "d/null"]
        top, file = found["d"], found["d/file"]
        assert (top.mode, top.uid, top.gid, top.mtime) == (0o750, 7, 8, when)
        assert (file.mode, file.uid, file.gid, file.mtime) == (0o4755, 1000, 50, when)
        assert (found["d/hard"].type, found["d/hard"].linkname) == (tarfile.LNKTYPE, "d/file")
        assert (found["d/link"].type, found["d/link"].linkname) == (tarfile.SYMTYPE, "/etc/passwd")
        assert found["d/fifo"].type == tarfile.FIFOTYPE
        assert (found["d/null"].devmajor, found["d/null"].devminor) == (1, 3)
        assert list(await get(made, "/home/d/.")) == [".", "./fifo", "./file", "./hard", "./link", "./null"]
        assert list(await get(made, "/home/d/link")) == ["link"]
        assert await read(made, "/home/d/file") == b"content"
        assert list(await get(made, "/home/app")) == ["app"]
        told = await made.stat_path("/home/d/link")
        assert (told.name, told.link_target, stat.S_ISLNK(told.mode)) == ("link", "/etc/passwd", True)
        assert (await made.stat_path("/var/run/")).link_target == ""
        with pytest.raises(NotFound):
            await made.stat_path("/home/nope")
        assert mounts_below(stage.paths.run / "bundles") == [
            point for point in mounts_below(stage.paths.run / "bundles") if made.id in str(point)
        ]


async def test_what_was_copied_in_is_there_at_the_next_start_and_after_reopening(stage: Stage) -> None:
    async with stage.engine() as engine:
        made = await engine.containers.create(IMAGE, ["cat", "/tmp/before", "/tmp/after"], name="later")
        await put(made, "/tmp", entry("before", b"1"))
    async with stage.emptied() as engine:
        made = engine.containers.get("later")
        await put(made, "/tmp", entry("after", b"2"))
        await made.start()
        await made.wait()
        assert await output(made) == b"12"


async def test_directories_merge_and_anything_else_is_replaced(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["true"])
        await put(made, "/tmp", entry("d/one", b"1"), entry("file", b"old"), entry("whole/d/x", b"x"))
        await put(made, "/tmp", entry("d/two", b"2"), entry("file", b"new"))
        assert list(await get(made, "/tmp/d")) == ["d", "d/one", "d/two"]
        assert await read(made, "/tmp/file") == b"new"
        with pytest.raises(BadLayer, match="cannot overwrite directory 'whole' with non-directory"):
            await put(made, "/tmp", entry("whole", b"file"), no_overwrite_dir_non_dir=True)
        with pytest.raises(BadLayer, match="cannot overwrite non-directory 'file' with directory"):
            await put(made, "/tmp", entry("file", kind=tarfile.DIRTYPE), no_overwrite_dir_non_dir=True)
        await put(made, "/tmp", entry("whole", b"file"), entry("file", kind=tarfile.DIRTYPE))
        assert await read(made, "/tmp/whole") == b"file"
        assert stat.S_ISDIR((await made.stat_path("/tmp/file")).mode)
        await put(made, "/tmp", entry(".wh.x", b"a name like others"))
        assert await read(made, "/tmp/.wh.x") == b"a name like others"


async def test_the_containers_user_owns_everything_if_asked(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["true"], user="app")
        await put(made, "/tmp", entry("mine/file", b"x", uid=5), copy_uid_gid=True)
        found = await get(made, "/tmp/mine")
        assert {(info.uid, info.gid) for info in found.values()} == {(1000, 1000)}


async def test_a_read_only_root_is_refused_and_read(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["sleep", "1000"], read_only=True)
        for start in (False, True):
            if start:
                await made.start()
            with pytest.raises(Invalid, match="container rootfs is marked read-only"):
                await put(made, "/tmp", entry("x"))
            assert await read(made, "/etc/hello") == b"hello from the image\n"


async def test_what_is_no_directory_or_not_there_is_refused(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["true"])
        with pytest.raises(Invalid, match="not a directory"):
            await put(made, "/etc/hello", entry("x"))
        with pytest.raises(NotFound):
            await put(made, "/nope", entry("x"))
        for path in ("/nope", "/etc/hello/x"):
            with pytest.raises(NotFound):
                await made.stat_path(path)
        await put(made, "/var/run", entry("through", b"the link"))
        assert await read(made, "/run/through") == b"the link"


@pytest.mark.parametrize("runs", [False, True])
async def test_binds_are_part_of_it_whether_it_runs_or_not(stage: Stage, tmp_path: Path, runs: bool) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "fixed").mkdir()
    (tmp_path / "fixed" / "file").write_bytes(b"fixed")
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["sleep", "1000"])
        mounts = (
            Mount("bind", str(tmp_path / "shared"), "/tmp/shared"),
            Mount("bind", str(tmp_path / "fixed"), "/tmp/fixed", read_only=True),
        )
        settings = Configured(ContainerSettings(mounts=mounts))
        caller = new_caller()
        await engine.core.journal.append(
            [Proposed(container_stream(made.id), settings)], actor=caller.actor, command=caller.command
        )
        if runs:
            pytest.importorskip("lading.engine.volumes.mounting")  # the runtime is told of them there
            await made.start()
        await put(made, "/tmp", entry("shared/in", b"1"), entry("beside", b"2"))
        assert (tmp_path / "shared" / "in").read_bytes() == b"1"
        with pytest.raises(Invalid, match="mounted volume is marked read-only"):
            await put(made, "/tmp/fixed", entry("x"))
        with pytest.raises(HostError, match="read-only"):
            await put(made, "/tmp", entry("fixed/x"))
        assert sorted(await get(made, "/tmp")) == [
            *("tmp", "tmp/beside", "tmp/fixed", "tmp/fixed/file", "tmp/shared", "tmp/shared/in"),
        ]
        assert [path.name for path in (tmp_path / "fixed").iterdir()] == ["file"]


async def test_a_start_waits_for_a_copy_and_a_cancelled_copy_leaves_no_mount(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["cat", "/tmp/slow"])
        go_on, began = trio.Event(), trio.Event()
        data = archive(entry("slow", b"whole" * 1000))

        async def slowly() -> AsyncIterator[bytes]:
            yield data[:700]
            began.set()
            await go_on.wait()
            yield data[700:]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.put_archive, "/tmp", slowly())
            await began.wait()
            nursery.start_soon(made.start)
            await trio.sleep(0.1)
            assert made.state.process is None
            go_on.set()
        await made.wait()
        assert await output(made) == b"whole" * 1000
        go_on, began = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.put_archive, "/tmp", slowly())
            await began.wait()
            assert [point for point in mounts_below(stage.paths.run / "bundles") if "copy-" in str(point)]
            nursery.cancel_scope.cancel()
        assert mounts_below(stage.paths.run / "bundles") == []
        await made.start()
        await made.wait()


# -- what it must not do -----------------------------------------------------------------------------------------


async def test_the_kernels_own_files_are_not_there(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await running(engine)
        for path in (
            "/proc",
            "/proc/1/environ",
            "/proc/1/root",
            "/proc/self/root/etc",
            "/proc/kcore",
            "/sys/kernel",
        ):
            with pytest.raises(NotFound):
                await made.stat_path(path)
            with pytest.raises(NotFound):
                await put(made, path, entry("x"))
        with pytest.raises(NotFound):
            await put(made, "/proc", entry("sysrq-trigger", b"b"))
        for name in ("proc/sysrq-trigger", "proc/sys/kernel/core_pattern", "sys/x", "dev/pts/x"):
            with pytest.raises((HostError, ImageInvalid)):
                await put(made, "/", entry(name, b"x"))
        assert "proc/1" not in await get(made, "/.")
        assert await read(made, "/etc/hostname")


async def test_fifos_and_devices_are_never_opened(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await running(
            engine, "mkfifo /tmp/f; mknod /tmp/t c 5 0; ln -s /tmp/f /tmp/l; echo ready; sleep 1000"
        )
        with trio.fail_after(10):
            found = await get(made, "/tmp")
            assert found["tmp/f"].type == tarfile.FIFOTYPE
            assert (found["tmp/t"].type, found["tmp/t"].devmajor) == (tarfile.CHRTYPE, 5)
            assert list(await get(made, "/tmp/f")) == ["f"]
            await put(made, "/tmp", entry("f", b"a file now"))
            assert await read(made, "/tmp/f") == b"a file now"
            with pytest.raises(Invalid, match="not a directory"):
                await put(made, "/tmp/t", entry("x"))


@pytest.mark.parametrize("runs", [False, True])
async def test_symlinks_to_the_host_lead_into_the_container(stage: Stage, victim: Path, runs: bool) -> None:
    before = look(victim)
    async with stage.emptied() as engine:
        if runs:
            up = "/".join([".."] * 30)
            made = await running(
                engine, f"ln -s {victim} /abs; ln -s {up}{victim} /rel; ln -s / /root-link; echo ready; sleep 1000"
            )
        else:
            made = await engine.containers.create(IMAGE, ["true"])
            up = "/".join([".."] * 30)
            await put(
                made,
                "/",
                entry("abs", kind=tarfile.SYMTYPE, linkname=str(victim)),
                entry("rel", kind=tarfile.SYMTYPE, linkname=f"{up}{victim}"),
                entry("root-link", kind=tarfile.SYMTYPE, linkname="/"),
            )
        for path in ("/abs/secret", "/rel/secret", "/abs/", "/rel/.", f"/root-link{victim}/secret"):
            with pytest.raises(NotFound):
                await made.stat_path(path)
            with pytest.raises(NotFound):
                await put(made, path, entry("x"))
        assert list(await get(made, "/abs")) == ["abs"]
        for name in ("abs/in", "rel/in"):
            with pytest.raises((HostError, ImageInvalid)):
                await put(made, "/", entry(name, b"x"))
    assert look(victim) == before


ATTACKS: dict[str, Callable[[str], tuple[Entry, ...]]] = {
    "dot-dot": lambda place: (entry("../pwned", b"x"),),
    "far up": lambda place: (entry("../" * 20 + place[1:] + "/pwned", b"x"),),
    "in the middle": lambda place: (entry("a/../../pwned", b"x"),),
    "absolute": lambda place: (entry(f"{place}/pwned", b"x"),),
    "symlink, then through it": lambda place: (
        entry("l", kind=tarfile.SYMTYPE, linkname=place),
        entry("l/pwned", b"x"),
    ),
    "relative symlink, then through it": lambda place: (
        entry("l", kind=tarfile.SYMTYPE, linkname="../" * 20 + place[1:]),
        entry("l/pwned", b"x"),
    ),
    "symlinks in steps": lambda place: (
        entry("up", kind=tarfile.SYMTYPE, linkname=".."),
        entry("up/esc", kind=tarfile.SYMTYPE, linkname=f"..{place}"),
        entry("esc/pwned", b"x"),
    ),
    "symlink, then a file of its name": lambda place: (
        entry("x", kind=tarfile.SYMTYPE, linkname=f"{place}/secret"),
        entry("x", b"overwritten"),
    ),
    "symlink, then a directory of its name": lambda place: (
        entry("d", kind=tarfile.SYMTYPE, linkname=place),
        entry("d", kind=tarfile.DIRTYPE, mode=0o777),
    ),
    "hard link": lambda place: (entry("h", kind=tarfile.LNKTYPE, linkname=f"{place}/secret"),),
    "hard link through a symlink": lambda place: (
        entry("d", kind=tarfile.SYMTYPE, linkname=place),
        entry("h", kind=tarfile.LNKTYPE, linkname="d/secret"),
        entry("h", b"overwritten"),
    ),
    "the root as a symlink": lambda place: (
        entry(".", kind=tarfile.SYMTYPE, linkname=place),
        entry("pwned", b"x"),
    ),
    "a link to the kernel's": lambda place: (
        entry("p", kind=tarfile.SYMTYPE, linkname="/proc/self/root"),
        entry(f"p{place}/pwned", b"x"),
    ),
}


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("path", ["/", "/tmp"])
async def test_no_archive_reaches_the_host(stage: Stage, victim: Path, path: str, runs: bool) -> None:
    before = look(victim)
    async with stage.emptied() as engine:
        made = await running(engine) if runs else await engine.containers.create(IMAGE, ["true"])
        for name, attack in ATTACKS.items():
            with suppress(ImageInvalid, HostError):
                await put(made, path, *attack(str(victim)))
            assert look(victim) == before, name
        for name in ("pwned", "etc/pwned"):
            assert not (victim.parent / name).exists()


async def test_broken_and_foreign_archives_are_refused_and_nothing_is_executed(stage: Stage, victim: Path) -> None:
    async with stage.emptied() as engine:
        made = await running(engine)
        fake = b"#!/bin/sh\ntouch /tmp/executed\n"
        await put(made, "/usr/bin", *(entry(name, fake, mode=0o755) for name in ("xz", "unxz", "gzip", "bzip2")))
        whole = archive(entry("a", b"x" * 5000))
        for data in (b"\xfd7zXZ\x00" + bytes(600), b"BZh91AY" + bytes(600), b"no archive" * 100, whole[:2000]):
            with pytest.raises(ImageInvalid):
                await made.put_archive("/tmp", once(data))
        with pytest.raises(NotFound):
            await made.stat_path("/tmp/executed")


@attrs.define
class Swap:
    """``real``, a directory, and ``link``, a symlink out of the container, change places all the time."""

    upper: Path
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def run(self) -> None:
        from lading.storage.linux import rename_exchange

        real, link = (os.fsencode(self.upper / name) for name in ("real", "link"))

        def swap() -> None:
            for _ in range(200):
                rename_exchange(real, link)

        with self.scope:
            while True:
                await trio.to_thread.run_sync(swap)


@pytest.mark.long
async def test_no_race_of_names_reaches_the_host(stage: Stage, victim: Path) -> None:
    """The container's root is swapped under our hands, by its own mount, while files go in and out."""
    before = look(victim)
    contained = wins = 0
    async with stage.emptied() as engine:
        made = await running(
            engine, f"mkdir -p /w/real; echo mine > /w/real/secret; ln -s {victim} /w/link; echo ready; sleep 1000"
        )
        swap = Swap(stage.paths.bundle(made.id) / "rootfs" / "w")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swap.run)
            with trio.move_on_after(12):
                while True:
                    for path in ("/w/real/secret", "/w/real/"):
                        try:
                            tar = await taken(made, path)
                        except (NotFound, HostError):
                            continue
                        for info in tar.getmembers():
                            file = tar.extractfile(info)
                            assert file is None or file.read() != b"of the host"
                            contained += 1
                    with suppress(NotFound, HostError, ImageInvalid, Invalid):
                        await put(made, "/w/real", entry("pwned", b"x"), entry("secret", b"overwritten"))
                        wins += 1
                    with suppress(NotFound, HostError, ImageInvalid, Invalid):
                        await put(made, "/w", entry("real/pwned", b"x"))
                    assert look(victim) == before
            swap.scope.cancel()
    assert look(victim) == before
    assert contained > 5
    assert wins > 2
