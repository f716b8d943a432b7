"""Pulls and loads that can't succeed: a clear error, nothing left of them, and the engine as good as before."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import images
import pytest
import trio
from faultserver import FaultServer, Reply, fault_server, ranged
from imagefiles import write_docker_archive, write_oci_archive
from pushing import push_image
from registries import QUICK
from registry import LocalRegistry
from stage import IMAGE, Stage, output_of

import lading
from lading.engine.registry import RegistrySettings
from lading.events.errors import BadLayer, DigestMismatch, HostError, ImageInvalid, LadingError, RegistryError
from lading.storage.plan import Limits

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def large(form: str) -> images.Image:
    """An image of 100 MiB that hardly compresses."""
    return images.image(*(images.layer(images.file(f"f{n}", os.urandom(25 << 20)), form=form) for n in range(4)))


def nothing_of_it(engine: lading.Engine) -> None:
    paths = engine.store.paths
    assert engine.images.list() == []
    for directory in (paths.layers, paths.blobs, paths.splits, paths.staging):
        assert list(directory.iterdir()) == [], directory


@pytest.mark.long
@pytest.mark.parametrize("form", ["plain", "zstd"])
async def test_a_disk_that_gets_full_is_told_and_given_back(
    disk: Path, busybox_tar: Path, tmp_path: Path, form: str
) -> None:
    archive = write_oci_archive(tmp_path / "large.tar", {"docker.io/library/large:1": large(form)})
    with LocalRegistry(tmp_path / "registry") as registry, trio.fail_after(120):
        push_image(registry.address, "large:1", large(form))
        async with lading.open_engine(disk / "store") as engine:
            before = os.statvfs(disk).f_bavail
            ways = (
                partial(engine.images.load, archive),
                partial(engine.images.pull, f"{registry.address}/large:1"),
            )
            for way in (*ways, *ways):
                with pytest.raises(HostError) as caught:
                    await way()
                assert caught.value.errno == errno.ENOSPC
                assert "free some space" in str(caught.value)
                nothing_of_it(engine)
            with trio.fail_after(10):
                while os.statvfs(disk).f_bavail < before - 256:  # the trash is emptied behind it
                    await trio.lowlevel.checkpoint()
            await engine.images.import_rootfs(busybox_tar, IMAGE)
            assert await output_of(engine, IMAGE, "echo", "works") == b"works\n"


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (Limits(stream_bytes=1 << 20), "limit of"),
        (Limits(file_bytes=1 << 20), "limit of"),
        (Limits(entries=5), "limit of"),
        (Limits(path_depth=2), "deep"),
        (Limits(expansion=10, expansion_free=1 << 20), "times"),
    ],
)
async def test_limits_are_the_engines(stage: Stage, tmp_path: Path, limits: Limits, why: str) -> None:
    wide = [images.file(f"many/{number}") for number in range(10)]
    deep = images.file("a/b/c/d/e/f", "x")
    layer = images.layer(*wide, deep, images.file("zeros", bytes(8 << 20)), form="gzip")
    image = images.image(layer)
    docker = write_docker_archive(tmp_path / "docker.tar", {"docker.io/library/much:1": image})
    with LocalRegistry(tmp_path / "registry") as registry:
        push_image(registry.address, "much:1", image)
        async with stage.bare(limits=limits) as engine:
            with pytest.raises(BadLayer, match=why):
                await engine.images.pull(f"{registry.address}/much:1")
            with pytest.raises(ImageInvalid):
                await engine.images.load(docker)
            nothing_of_it(engine)
        async with stage.bare() as engine:
            assert (await engine.images.pull(f"{registry.address}/much:1")).image == image.id


def hold(server: FaultServer, image: images.Image) -> None:
    server.on("GET /v2/", Reply(200, {}, b"{}"))
    server.on("GET /v2/a/manifests/1", Reply(200, {"Content-Type": image.media_type}, image.manifest))
    for digest, content in image.blobs.items():
        server.on(f"GET /v2/a/blobs/{digest}", ranged(content))


async def test_a_layer_that_is_cut_again_and_again_comes_all_the_same(stage: Stage) -> None:
    image = images.storied(stage.tar, 2)
    async with fault_server() as server, stage.bare(registries=QUICK) as engine:
        hold(server, image)
        base = image.layers[0]
        server.answers[f"GET /v2/a/blobs/{base.digest}"] = [
            Reply(200, {}, base.blob, cut=len(base.blob) // 3),
            ranged(base.blob),
        ]
        pulled = await engine.images.pull(f"{server.address}/a:1")
        assert pulled.image == image.id
        asked = [seen for seen in server.seen if seen.path.endswith(base.digest)]
        assert asked[1].headers["range"].startswith(f"bytes={len(base.blob) // 3}-")
        assert await output_of(engine, f"{server.address}/a:1", "cat", "/etc/hello") == b"hello from layer 1\n"


FAULTS = {
    "500 for ever": Reply(500, {}, b"oops"),
    "403": Reply(403, {}, b""),
    "404": Reply(404, {}, b""),
    "429": Reply(429, {"Retry-After": "0"}, b""),
    "too short": Reply(200, {}, b"short"),
    "endless": Reply(200, {}, b"x" * 65536, endless=True, length=-1),
    "stalls": Reply(200, {}, b"x" * 1000, length=100_000, stall=500),
    "silent": Reply(silent=True),
    "not http": Reply(raw=b"SSH-2.0-OpenSSH\r\n"),
    "other bytes": Reply(200, {}, b"\x1f\x8b\x08" + b"x" * 100),
}


@pytest.mark.parametrize("what", ["manifest", "config", "layer"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_registry_that_misbehaves_leaves_nothing(stage: Stage, what: str, fault: str) -> None:
    image = images.storied(stage.tar, 2)
    where = {
        "manifest": "GET /v2/a/manifests/1",
        "config": f"GET /v2/a/blobs/{image.id}",
        "layer": f"GET /v2/a/blobs/{image.layers[1].digest}",
    }[what]
    async with fault_server() as server, stage.bare(timeout=30, registries=QUICK) as engine:
        hold(server, image)
        good, server.answers[where] = server.answers[where], [FAULTS[fault]]
        with pytest.raises(LadingError) as caught:
            await engine.images.pull(f"{server.address}/a:1")
        assert isinstance(caught.value, RegistryError | ImageInvalid | DigestMismatch | lading.errors.NotFound)
        nothing_of_it(engine)
        server.answers[where] = good
        assert (await engine.images.pull(f"{server.address}/a:1")).image == image.id


async def test_credentials_stay_with_their_registry(stage: Stage, tmp_path: Path) -> None:
    image = images.storied(stage.tar, 1)
    settings = RegistrySettings(insecure=("127.0.0.0/8",), stall_timeout=2.0)
    async with fault_server() as elsewhere, fault_server() as server, stage.bare(registries=settings) as engine:
        hold(server, image)
        layer = image.layers[0]
        elsewhere.on(f"GET /blob/{layer.digest}", ranged(layer.blob))
        asked = f"GET /v2/a/blobs/{layer.digest}"
        server.answers[asked] = [Reply(307, {"Location": f"{elsewhere.url}/blob/{layer.digest}"})]
        manifest = server.answers["GET /v2/a/manifests/1"]
        challenge = {"WWW-Authenticate": 'Basic realm="here"'}
        server.answers["GET /v2/a/manifests/1"] = [Reply(401, challenge, b""), *manifest]
        auth = lading.Credentials("somebody", "s3cret")
        assert (await engine.images.pull(f"{server.address}/a:1", auth=auth)).image == image.id
        assert any("authorization" in seen.headers for seen in server.seen)
        assert [seen for seen in elsewhere.seen if seen.path == f"/blob/{layer.digest}"]
        assert not any("authorization" in seen.headers for seen in elsewhere.seen)
        words = " ".join(str(record.event) for record in engine.log.read(limit=1000))
        assert "s3cret" not in words
