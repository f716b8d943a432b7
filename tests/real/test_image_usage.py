"""What images take on disk, told from the log, is what ``du`` finds; and what containers see of their layers."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import images
import pytest
from imagefiles import write_oci_archive
from stage import IMAGE, Stage, output_of, printed

import lading
from lading.events.views import LAYERS

pytestmark = [pytest.mark.real, pytest.mark.slow]


def du(*directories: Path) -> int:
    """Bytes below ``directories``, which are not counted themselves."""
    total = 0
    for directory in directories:
        entries = sorted(directory.iterdir())
        if entries:
            done = subprocess.run(
                ["du", "-s", "-B1", "-c", "--", *entries], check=True, capture_output=True, text=True
            )
            total += int(done.stdout.splitlines()[-1].split()[0])
    return total


async def load(engine: lading.Engine, path: Path, **named: images.Image) -> None:
    await engine.images.load(
        write_oci_archive(path, {f"docker.io/library/{key}:1": one for key, one in named.items()})
    )


async def test_the_sizes_that_are_told_are_those_of_du(stage: Stage, tmp_path: Path) -> None:
    base = images.storied(stage.tar, 3)
    other = images.image(*base.layers, images.layer(images.file("big", b"x" * 300_000), form="zstd"))
    plain = images.image(images.layer(images.file("alone", b"y" * 50_000)))
    async with stage.bare() as engine:
        await load(engine, tmp_path / "a.tar", base=base, other=other, plain=plain)
        await engine.images.import_rootfs(stage.tar, IMAGE)
        paths = stage.paths
        used = engine.disk_usage()
        assert used.layers == du(paths.layers)
        assert used.total == du(paths.layers, paths.splits, paths.blobs)
        sizes = {each.names[0].removeprefix("docker.io/library/"): each for each in used.images}
        assert sizes["base:1"].unique < 20_000 < sizes["base:1"].shared
        assert sizes["other:1"].shared == sizes["base:1"].shared
        assert sizes["other:1"].unique >= 300_000
        assert sizes["plain:1"].shared == 0
        assert used.reclaimable == used.total
        kept = await engine.containers.create("other:1", ["true"])
        used = engine.disk_usage()
        assert {each.names[0]: each.containers for each in used.images}["docker.io/library/other:1"] == 1
        told = await engine.images.prune(all=True, dry_run=True)
        before = du(paths.layers, paths.splits, paths.blobs)
        assert told.reclaimed == used.reclaimable
        assert await engine.images.prune(all=True) == told
        assert before - du(paths.layers, paths.splits, paths.blobs) == told.reclaimed
        assert engine.disk_usage().reclaimable == 0
        await kept.remove()


async def test_a_layer_that_hides_all_below_it(stage: Stage, tmp_path: Path) -> None:
    below = images.layer(images.file("hidden", "no"), form="gzip")
    rootfs = images.Layer(stage.tar.read_bytes(), "gzip")
    above = images.layer(images.file(".wh..wh..opq"), images.file("seen", "yes\n"), form="gzip")
    top = images.layer(images.file("top", "top\n"), form="gzip")
    async with stage.bare() as engine:
        opaque_root = images.image(below, images.Layer(_with_opaque_root(stage.tar.read_bytes()), "gzip"), top)
        await load(engine, tmp_path / "a.tar", one=opaque_root, two=images.image(rootfs, above))
        assert await output_of(
            engine, "one:1", "sh", "-c", "cat /top; ls /hidden 2>&1 | wc -l; ls / | grep hid"
        ) == (b"top\n1\n")
        made = await engine.containers.create("two:1", ["true"])
        image = engine.images.resolve("two:1")
        assert made.state.spec.layers == image.layers[1:]
        assert [state.opaque for _, state in engine.core.log.scan(LAYERS)].count(True) == 2


def _with_opaque_root(archive: bytes) -> bytes:
    """``archive`` with an entry in front that hides everything below its root."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar, tarfile.open(fileobj=io.BytesIO(archive)) as old:
        tar.addfile(tarfile.TarInfo(".wh..wh..opq"))
        for member in old:
            tar.addfile(member, old.extractfile(member) if member.isreg() else None)
    return out.getvalue()


@pytest.mark.parametrize("when", ["created", "running", "exited"])
async def test_a_container_is_exported(stage: Stage, tmp_path: Path, when: str) -> None:
    base = images.storied(stage.tar, 3)
    async with stage.bare() as engine:
        await load(engine, tmp_path / "a.tar", base=base)
        script = "echo new > /new; rm /etc/hello; rm -r /pile; mkdir /pile; echo started; exec sleep 1000"
        container = await engine.containers.create("base:1", ["sh", "-c", script])
        if when != "created":
            await container.start()
            await printed(container, b"started")
        if when == "exited":
            await container.stop(timeout=0)
        async with engine.containers.export(container.id) as stream:
            content = b"".join([piece async for piece in stream])
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            found = {member.name.removeprefix("./"): member for member in tar}
            assert found["story/2"].uid == 1000
            assert found["latest"].linkname == "/story/2"
            assert "dev" in found
            assert not any(".wh." in name or name.startswith(("dev/", "proc/")) for name in found)
            changed = {"new"} <= set(found) and "etc/hello" not in found and "pile/2" not in found
            assert changed == (when != "created")
        imported = await engine.images.import_rootfs(io.BytesIO(content), "again:1")
        assert imported.layers
        assert await output_of(engine, "again:1", "cat", "/story/2") == b"layer 2\n"
