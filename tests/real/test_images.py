"""Importing root file systems: what comes in is whole and shared, what is wrong leaves nothing."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import trio
from stage import Stage

import lading
from lading.events.errors import Ambiguous, EngineClosed, HostError, ImageInvalid, Invalid, NotFound
from lading.events.image import ImageConfig

pytestmark = [pytest.mark.real, pytest.mark.slow]

ECHO = ["cat", "/etc/hello"]
HELLO = b"hello from the image\n"


async def pieces(content: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for at in range(0, len(content), size):
        yield content[at : at + size]


def archive(*members: tuple[str, Callable[[tarfile.TarInfo], None]]) -> bytes:
    """A tar of ``members``: names, and what makes each what it is."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, shape in members:
            info = tarfile.TarInfo(name)
            shape(info)
            tar.addfile(info, io.BytesIO(b"x" * info.size))
    return out.getvalue()


def file(info: tarfile.TarInfo) -> None:
    info.size = 3


def link(kind: bytes, target: str) -> Callable[[tarfile.TarInfo], None]:
    def shape(info: tarfile.TarInfo) -> None:
        info.type, info.linkname = kind, target

    return shape


def unchanged(stage: Stage, engine: lading.Engine, position: int) -> None:
    assert engine.log.position == position
    assert engine.images.list() == []
    for directory in (stage.paths.staging, stage.paths.layers, stage.paths.blobs):
        assert list(directory.iterdir()) == []


@pytest.mark.parametrize("how", ["path", "text", "file", "stream", "gzip path", "gzip file", "gzip stream"])
async def test_every_kind_of_source_gives_the_same_layer(stage: Stage, tmp_path: Path, how: str) -> None:
    content = stage.tar.read_bytes()
    if "gzip" in how:
        content = gzip.compress(content, 1)
    path = tmp_path / "archive"
    path.write_bytes(content)
    with trio.fail_after(30):
        async with lading.open_engine(stage.root) as engine:
            if "file" in how:
                with path.open("rb") as source:
                    image = await engine.images.import_rootfs(source, "some:tag")
            elif "stream" in how:
                image = await engine.images.import_rootfs(pieces(content), "some:tag")
            else:
                image = await engine.images.import_rootfs(path if "path" in how else str(path), "some:tag")
            plain = await engine.images.import_rootfs(stage.tar)
            assert image.layers == plain.layers == image.diff_ids
            assert len(list(stage.paths.layers.iterdir())) == 1
            assert (await engine.containers.run("some:tag", ECHO)).stdout == HELLO
            assert list(stage.paths.staging.iterdir()) == []


async def test_owners_modes_and_links_come_through(stage: Stage) -> None:
    async with stage.engine() as engine:
        script = "stat -c '%n %a %u %g' /tmp /root /bin/su-like /home/app; readlink /var/run"
        done = await engine.containers.run("busybox:test", ["sh", "-c", script])
        assert done.stdout.decode().splitlines() == [
            *("/tmp 1777 0 0", "/root 700 0 0", "/bin/su-like 4755 0 0", "/home/app 755 1000 1000"),
            "/run",
        ]


def to(kind: bytes, path: str = "") -> Callable[[str], Callable[[tarfile.TarInfo], None]]:
    return lambda victim: link(kind, victim + path)


SYM, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
HOSTILE: dict[str, list[tuple[str, Any, bool]]] = {
    "dot-dot": [("../pwned", file, False)],
    "deep dot-dot": [("a/../../pwned", file, False)],
    "absolute": [("/../../pwned", file, False)],
    "write through a link": [("l", to(SYM), True), ("l/pwned", file, False)],
    "replace what a link names": [("l", to(SYM, "/file"), True), ("l", file, False)],
    "relative link": [("l", link(SYM, "../../.."), False), ("l/pwned", file, False)],
    "hard link out": [("h", to(HARD, "/file"), True), ("h", file, False)],
    "hard link through": [("d", to(SYM), True), ("h", link(HARD, "d/file"), False), ("h", file, False)],
    "whiteout of the parent": [(".wh...", file, False)],
    "whiteout through a link": [("l", to(SYM), True), ("l/.wh.file", file, False)],
    "root as a link": [(".", to(SYM), True), ("pwned", file, False)],
}


@pytest.mark.parametrize("attack", HOSTILE)
async def test_a_hostile_archive_touches_nothing_outside(stage: Stage, tmp_path: Path, attack: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    before = (victim / "file").stat()
    content = archive(
        *((name, shape(str(victim)) if target else shape) for name, shape, target in HOSTILE[attack])
    )
    with trio.fail_after(30):
        async with lading.open_engine(stage.root) as engine:
            position = engine.log.position
            try:
                await engine.images.import_rootfs(io.BytesIO(content))
            except ImageInvalid:
                unchanged(stage, engine, position)
            assert sorted(os.listdir(victim)) == ["file"]
            after = (victim / "file").stat()
            assert (after.st_nlink, after.st_mtime_ns, after.st_mode) == (1, before.st_mtime_ns, before.st_mode)
            assert all(stage.paths.layers in path.parents for path in tmp_path.rglob("pwned"))
            await engine.images.import_rootfs(stage.tar, "after:it")
            assert (await engine.containers.run("after:it", ECHO)).stdout == HELLO


def broken(content: bytes) -> dict[str, bytes]:
    compressed = gzip.compress(content, 1)
    flipped = bytearray(content)
    flipped[len(content) // 2 // 512 * 512 :] = b"\xaa" * (len(content) - len(content) // 2 // 512 * 512)
    header = bytearray(content)
    header[150] ^= 0xFF  # in the first header's checksum
    crc = bytearray(compressed)
    crc[-6] ^= 1
    return {
        "not an archive": b"hello, this is not an archive" * 100,
        "cut off in a file": content[: content.find(b"\x7fELF") + 1000],
        "cut off in a header": content[:700],
        "bad checksum": bytes(header),
        "garbage after half": bytes(flipped),
        "truncated gzip": compressed[: len(compressed) // 2],
        "bad gzip crc": bytes(crc),
    }


@pytest.mark.parametrize("how", list(broken(bytes(2048))))
async def test_a_corrupt_archive_leaves_nothing_and_can_be_retried(stage: Stage, how: str) -> None:
    content = broken(stage.tar.read_bytes())[how]
    with trio.fail_after(30):
        async with lading.open_engine(stage.root) as engine:
            for source in (io.BytesIO(content), pieces(content)):
                position = engine.log.position
                with pytest.raises(ImageInvalid):
                    await engine.images.import_rootfs(source, "some:tag")
                unchanged(stage, engine, position)
            image = await engine.images.import_rootfs(stage.tar, "some:tag")
            assert image.tags == ("docker.io/library/some:tag",)


async def test_what_is_no_source_or_name_is_refused_before_anything_is_read(stage: Stage, tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with lading.open_engine(stage.root) as engine:
            position = engine.log.position
            with pytest.raises(HostError):
                await engine.images.import_rootfs(tmp_path / "nothing-here")
            with pytest.raises(HostError):
                await engine.images.import_rootfs(tmp_path)
            for name in ("UPPER", "a b", "a:b:c", "a@sha256:" + "0" * 64, "", "x:" + "t" * 200):
                with pytest.raises(Invalid):
                    await engine.images.import_rootfs(stage.tar, name)
            unchanged(stage, engine, position)


async def test_a_tag_moves_to_the_image_that_took_it_last(stage: Stage) -> None:
    with trio.fail_after(30):
        async with lading.open_engine(stage.root) as engine:
            first = await engine.images.import_rootfs(stage.tar, "web:1")
            made = await engine.containers.create("web:1", ["true"])
            second = await engine.images.import_rootfs(stage.tar, "web:1", comment="another")
            assert first.image != second.image
            assert engine.images.resolve("web:1").image == second.image
            assert engine.images.resolve(first.image).tags == ()
            assert made.state.spec.image == first.image
            assert [state.image for state in engine.images.list()] == [second.image, first.image]
            await made.remove()


async def test_imports_of_one_archive_at_once_share_its_layer(stage: Stage) -> None:
    async with stage.engine() as engine, trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(engine.images.import_rootfs, stage.tar, f"some:tag{number}")
    async with stage.engine() as engine:
        assert len(engine.images.list()) == 7
        assert len(list(stage.paths.layers.iterdir())) == 1
        for number in range(6):
            assert (await engine.containers.run(f"some:tag{number}", ECHO)).stdout == HELLO


async def test_an_image_is_found_by_name_id_and_unique_prefix(stage: Stage) -> None:
    async with stage.engine() as engine:
        resolve = engine.images.resolve
        [image] = engine.images.list()
        bare = image.image.removeprefix("sha256:")
        for reference in (image.image, bare, bare[:12], "sha256:" + bare[:7]):
            assert resolve(reference).image == image.image
        for reference in ("busybox:test", "library/busybox:test", "docker.io/library/busybox:test"):
            assert resolve(reference).image == image.image
        for unknown in ("busybox", "other:test", "0" * 64, "sha256:" + "0" * 64):
            with pytest.raises(NotFound):
                resolve(unknown)
        for wrong in ("", "a b", "UPPER", "../x", "x\n"):
            with pytest.raises((Invalid, NotFound)):
                resolve(wrong)
        for number in range(17):  # of 18 ids, two begin with the same digit
            await engine.images.import_rootfs(stage.tar, f"many:{number}")
        digits = [state.image[7] for state in engine.images.list()]
        shared = next(digit for digit in digits if digits.count(digit) > 1)
        with pytest.raises(Ambiguous):
            resolve(f"sha256:{shared}")


async def test_an_imports_config_is_what_its_containers_get(stage: Stage) -> None:
    config = ImageConfig(
        entrypoint=("/bin/sh", "-c"),
        cmd=("echo $GREETING; pwd; id -u; exit 4",),
        env=("GREETING=hi",),
        working_dir="/tmp",
        user="app",
        labels={"from": "image"},
        stop_signal="SIGUSR1",
    )
    with trio.fail_after(30):
        async with lading.open_engine(stage.root) as engine:
            await engine.images.import_rootfs(stage.tar, "some:tag", config=config)
            done = await engine.containers.run("some:tag", remove=False, labels={"own": "too"})
            assert (done.exit_code, done.stdout) == (4, b"hi\n/tmp\n1000\n")
            made = engine.containers.get(done.container)
            assert made.state.spec.labels == {"from": "image", "own": "too"}
            assert made.state.spec.stop_signal == "SIGUSR1"
            await made.remove()


@pytest.mark.parametrize("how", ["between pieces", "in the worker"])
async def test_an_import_that_is_cancelled_leaves_nothing(stage: Stage, how: str) -> None:
    content = stage.tar.read_bytes()
    async with stage.engine() as engine:
        before = engine.log.position, len(engine.images.list())
        with trio.CancelScope() as scope:

            async def source() -> AsyncIterator[bytes]:
                async for piece in pieces(content[: len(content) // 2]):
                    yield piece
                scope.cancel()
                if how == "between pieces":
                    await trio.sleep_forever()
                async with aclosing(pieces(content[len(content) // 2 :])) as rest:
                    async for piece in rest:
                        yield piece

            await engine.images.import_rootfs(source(), "never:seen")
        assert scope.cancelled_caught
        assert (engine.log.position, len(engine.images.list())) == before
        assert list(stage.paths.staging.iterdir()) == []
        await engine.images.import_rootfs(pieces(content), "then:seen")


async def test_a_source_that_fails_leaves_nothing(stage: Stage) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield stage.tar.read_bytes()[:100_000]
        raise ConnectionResetError("the peer went away")

    with trio.fail_after(30):
        async with lading.open_engine(stage.root) as engine:
            position = engine.log.position
            with pytest.raises(ConnectionResetError):
                await engine.images.import_rootfs(source(), "never:seen")
            unchanged(stage, engine, position)


async def test_a_closed_engine_imports_nothing(stage: Stage) -> None:
    async with stage.engine() as engine:
        pass
    with pytest.raises(EngineClosed):
        await engine.images.import_rootfs(stage.tar)
