"""Images to and from other engines, as archives and through a registry: the same ids, digests and trees.

The others are skopeo, podman and a private dockerd (``peers.py``). The image has four layers with everything that
layers do to one another (``images.storied``).
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import peers
import pytest
from imagefiles import write_docker_archive, write_oci_archive, write_oci_layout
from images import MEDIA, Image, Index, flatten, sha256, storied
from peers import skopeo, skopeo_copy
from pushing import Registry, push_image
from registry import LocalRegistry
from stage import Stage

import lading

pytestmark = [pytest.mark.real, pytest.mark.long]

NAME = "localhost/story:1"
COUNT = 4
ANY_MANIFEST = ", ".join(MEDIA[dialect]["manifest"] for dialect in MEDIA)
Tree = dict[str, tuple[str, int, int, int, bytes]]

# -- the others --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.Docker]:
    """A dockerd of our own for the whole run. Take the fixture ``docker``, which forgets images."""
    peers.require("docker", "dockerd", "containerd")
    if os.geteuid() != 0:
        pytest.skip("dockerd needs root")
    with peers.Docker(tmp_path_factory.mktemp("d")) as docker:
        yield docker


@pytest.fixture
def docker(dockerd: peers.Docker) -> Iterator[peers.Docker]:
    yield dockerd
    dockerd.run("image", "prune", "--all", "--force")


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[peers.Podman]:
    peers.require("podman", "conmon", "skopeo")
    podman = peers.Podman(tmp_path / "p")
    yield podman
    podman.close()


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory, busybox_tar: Path) -> Mapping[str, Image]:
    """The image by its layers' form; ``docker`` is gzip in Docker's dialect. The stage's has none of them."""
    base = tmp_path_factory.mktemp("base") / "base.tar"
    shutil.copy(busybox_tar, base)
    with tarfile.open(base, "a") as tar:
        tar.addfile(tarfile.TarInfo("./etc/story"))
    made = {form: storied(base, COUNT, form) for form in ("plain", "gzip", "zstd")}
    return made | {"docker": storied(base, COUNT, "gzip", dialect="docker")}


# -- trees -------------------------------------------------------------------------------------------------------


def tree(root: Path) -> Tree:
    """What is below ``root``, as ``flatten`` says it."""
    found: Tree = {}
    for top, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(top, name)
            status = path.lstat()
            owned = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
            where = str(path.relative_to(root))
            if stat.S_ISLNK(status.st_mode):
                found[where] = ("symlink", *owned, os.fsencode(os.readlink(path)))
            elif stat.S_ISDIR(status.st_mode):
                found[where] = ("directory", *owned, b"")
            else:
                found[where] = ("file", *owned, path.read_bytes())
    return found


def agrees(found: Tree, image: Image) -> None:
    """``found`` is what ``image`` says; directories that no layer names may be as they like."""
    expected = flatten(image)
    assert {path: found.get(path) for path in expected} == expected
    assert {path for path in found.keys() - expected.keys() if found[path][0] != "directory"} == set()


@contextmanager
def mounted(stage: Stage, image: Any) -> Iterator[Path]:
    """The layers of Lading's ``image`` as overlayfs shows them."""
    target = stage.root.parent / "merged"
    target.mkdir()
    lower = ":".join(str(stage.paths.layers / chain.partition(":")[2]) for chain in reversed(image.layers))
    subprocess.run(["mount", "-t", "overlay", "-o", f"ro,lowerdir={lower}", "overlay", target], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)
        target.rmdir()


# -- Lading's side -----------------------------------------------------------------------------------------------


@attrs.frozen
class Side:
    """Lading, with the checks that every way of taking an image in must pass."""

    stage: Stage
    engine: lading.Engine

    async def load(self, archive: Path, image: Image, name: str) -> None:
        loaded = await self.engine.images.load(archive)
        assert [(each.names, each.image) for each in loaded] == [((name,), image.id)]
        self.whole(image)

    def whole(self, image: Image) -> None:
        """It is there with its config, and its tree is what it should be."""
        state = self.engine.images.resolve(image.id)
        assert state.diff_ids == tuple(each.diff_id for each in image.layers)
        assert (self.stage.paths.blobs / state.image.removeprefix("sha256:")).read_bytes() == image.config
        with mounted(self.stage, state) as merged:
            agrees(tree(merged), image)

    async def save(self, reference: str, archive: Path, form: str) -> Path:
        with archive.open("wb") as out:
            async with self.engine.images.save([reference], form=form) as pieces:
                async for piece in pieces:
                    out.write(piece)
        return archive


def config_digest(source: str) -> str:
    """The image id of an image anywhere that skopeo can look."""
    digest: str = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", source))["config"]["digest"]
    return digest


def layout(path: Path, image: Image | Index) -> str:
    """``image`` as an OCI layout for skopeo."""
    return f"oci:{write_oci_layout(path, {'story': image})}:story"


# -- archives: theirs to ours ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["flat", "legacy", "blobs"])
@pytest.mark.parametrize("kept", ["plain", "gzip"])
async def test_what_docker_and_podman_load_of_ours_is_what_it_says(
    form: str, kept: str, tmp_path: Path, podman: peers.Podman, docker: peers.Docker, stories: Mapping[str, Image]
) -> None:
    """The test images themselves are right, as others see it."""
    image = stories[kept]
    archive = write_docker_archive(tmp_path / "a.tar", {NAME: image}, form=form)
    podman.run("load", "--input", archive)
    docker.run("load", "--input", archive)
    assert podman.run("images", "--no-trunc", "--quiet") == image.id
    assert docker.run("images", "--no-trunc", "--quiet") == image.id
    with_podman = Path(podman.run("image", "mount", NAME))
    agrees(tree(with_podman), image)


@pytest.mark.parametrize("kept", ["plain", "gzip", "zstd"])
@pytest.mark.parametrize("form", ["flat", "legacy", "blobs", "oci"])
async def test_archives_made_by_hand_are_loaded(
    kept: str, form: str, stage: Stage, stories: Mapping[str, Image], tmp_path: Path
) -> None:
    image = stories[kept]
    archive = tmp_path / "a.tar"
    if form == "oci":
        write_oci_archive(archive, {NAME: image})
    else:
        write_docker_archive(archive, {NAME: image}, form=form)
    async with stage.engine() as engine:
        await Side(stage, engine).load(archive, image, NAME)


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
async def test_what_skopeo_writes_is_loaded(
    transport: str, stage: Stage, stories: Mapping[str, Image], tmp_path: Path
) -> None:
    peers.require("skopeo")
    image = stories["gzip"]
    archive = tmp_path / "a.tar"
    skopeo_copy(layout(tmp_path / "layout", image), f"{transport}:{archive}:{NAME}")
    async with stage.engine() as engine:
        await Side(stage, engine).load(archive, image, NAME)


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
async def test_what_podman_saves_is_loaded(
    form: str, stage: Stage, podman: peers.Podman, stories: Mapping[str, Image], tmp_path: Path
) -> None:
    image = stories["gzip"]
    podman.run("load", "--input", write_oci_archive(tmp_path / "a.tar", {NAME: image}))
    podman.run("save", "--format", form, "--output", tmp_path / "b.tar", NAME)
    async with stage.engine() as engine:
        await Side(stage, engine).load(tmp_path / "b.tar", image, NAME)


async def test_what_docker_saves_is_loaded(
    stage: Stage, docker: peers.Docker, stories: Mapping[str, Image], tmp_path: Path
) -> None:
    """Two images that share their layers, in one archive."""
    images = {NAME: stories["plain"], "localhost/other:2": storied_again(stories["plain"])}
    docker.run("load", "--input", write_docker_archive(tmp_path / "a.tar", images))
    docker.run("save", "--output", tmp_path / "b.tar", *images)
    async with stage.engine() as engine:
        loaded = await engine.images.load(tmp_path / "b.tar")
        assert {each.names: each.image for each in loaded} == {(name,): each.id for name, each in images.items()}
        for image in images.values():
            Side(stage, engine).whole(image)


def storied_again(image: Image) -> Image:
    """The same layers with another config."""
    return Image(image.layers, {**image.document, "author": "somebody else"}, image.dialect)


# -- archives: ours to theirs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("came", ["plain", "gzip"])
@pytest.mark.parametrize("form", ["docker", "oci"])
async def test_what_we_save_others_load(
    came: str, form: str, stage: Stage, podman: peers.Podman, stories: Mapping[str, Image], tmp_path: Path
) -> None:
    image = stories[came]
    async with stage.engine() as engine:
        await engine.images.load(write_docker_archive(tmp_path / "a.tar", {NAME: image}, form="blobs"))
        saved = await Side(stage, engine).save(NAME, tmp_path / "b.tar", form)
    podman.run("load", "--input", saved)
    assert podman.run("images", "--no-trunc", "--quiet", NAME) == image.id
    agrees(tree(Path(podman.run("image", "mount", NAME))), image)
    source = f"docker-archive:{saved}:{NAME}" if form == "docker" else f"oci-archive:{saved}"
    skopeo_copy(source, f"dir:{tmp_path}/copied")
    assert config_digest(f"dir:{tmp_path}/copied") == image.id


@pytest.mark.parametrize("came", ["plain", "gzip"])
async def test_what_we_save_docker_loads_and_saves_for_us(
    came: str, stage: Stage, docker: peers.Docker, stories: Mapping[str, Image], tmp_path: Path
) -> None:
    image = stories[came]
    source = write_docker_archive(tmp_path / "a.tar", {NAME: image}, form="blobs")
    async with stage.engine() as engine:
        await engine.images.load(source)
        saved = await Side(stage, engine).save(NAME, tmp_path / "b.tar", "docker")
        docker.run("load", "--input", saved)
        assert docker.run("images", "--no-trunc", "--quiet", NAME) == image.id
        docker.run("save", "--output", tmp_path / "c.tar", NAME)
        await engine.images.remove(NAME)
        await Side(stage, engine).load(tmp_path / "c.tar", image, NAME)


# -- registries --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", ["gzip", "zstd", "docker"])
async def test_what_was_pushed_by_others_is_pulled(
    kept: str, stage: Stage, registry: LocalRegistry, stories: Mapping[str, Image], tmp_path: Path
) -> None:
    image = stories[kept]
    name = f"{registry.address}/by/skopeo:1"
    if kept == "docker":
        push_image(registry.address, "by/skopeo:1", image)
    else:
        skopeo_copy(layout(tmp_path / "layout", image), f"docker://{name}", "--preserve-digests")
    async with stage.engine() as engine:
        pulled = await engine.images.pull(name)
        names = {name, f"{registry.address}/by/skopeo@{image.digest}"}
        assert (pulled.image, set(pulled.tags)) == (image.id, names)
        Side(stage, engine).whole(image)
        by_digest = await engine.images.pull(f"{registry.address}/by/skopeo@{image.digest}")
        assert by_digest.image == image.id


@pytest.mark.parametrize("client", ["docker", "podman"])
async def test_what_docker_and_podman_push_is_pulled(
    client: str,
    stage: Stage,
    registry: LocalRegistry,
    stories: Mapping[str, Image],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    image = stories["plain"]
    name = f"{registry.address}/by/{client}:1"
    peer = request.getfixturevalue(client)
    peer.run("load", "--input", write_docker_archive(tmp_path / "a.tar", {NAME: image}))
    peer.run("tag", NAME, name)
    peer.run("push", *(["--tls-verify=false"] if client == "podman" else []), name)
    async with stage.engine() as engine:
        assert (await engine.images.pull(name)).image == image.id
        Side(stage, engine).whole(image)


@pytest.mark.parametrize(("platform", "architecture"), [(None, "amd64"), ("linux/arm64/v8", "arm64")])
@pytest.mark.parametrize("dialect", ["oci", "docker"])
async def test_an_index_gives_the_platform_that_is_asked_for(
    platform: str | None,
    architecture: str,
    dialect: str,
    stage: Stage,
    registry: LocalRegistry,
    busybox_tar: Path,
) -> None:
    if platform is None and os.uname().machine != "x86_64":
        architecture = "arm64"
    variants = {"amd64": "", "arm64": "v8"}
    made = {
        each: storied(busybox_tar, 2, "gzip", dialect=dialect, architecture=each, variant=variant)
        for each, variant in variants.items()
    }
    push_image(registry.address, "many:1", Index(tuple(made.values()), dialect))
    async with stage.engine() as engine:
        pulled = await engine.images.pull(f"{registry.address}/many:1", platform=platform)
        assert (pulled.image, pulled.architecture) == (made[architecture].id, architecture)
        with mounted(stage, pulled) as merged:
            agrees(tree(merged), made[architecture])


@pytest.mark.parametrize("came", ["plain", "gzip", "zstd"])
async def test_what_we_push_others_pull(
    came: str,
    stage: Stage,
    registry: LocalRegistry,
    podman: peers.Podman,
    stories: Mapping[str, Image],
    tmp_path: Path,
) -> None:
    """What came compressed goes on as it came, byte for byte."""
    image = stories[came]
    name = f"{registry.address}/by/us:1"
    source = write_oci_archive(tmp_path / "a.tar", {NAME: image})
    async with stage.engine() as engine:
        await engine.images.load(source)
        await engine.images.tag(NAME, name)
        pushed = await engine.images.push(name)
    with Registry(registry.address) as asked:
        manifest = asked.get_manifest("by/us", "1", ANY_MANIFEST)
        assert (pushed.digest, pushed.size) == (sha256(manifest), len(manifest))
        assert asked.get_blob("by/us", image.id) == image.config
        layers = [each["digest"] for each in json.loads(manifest)["layers"]]
        for digest in layers:
            assert sha256(asked.get_blob("by/us", digest)) == digest
    if came != "plain":
        assert layers == [each.digest for each in image.layers]
    assert config_digest(f"docker://{name}") == image.id
    assert json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{name}"))["Digest"] == pushed.digest
    podman.run("pull", "--tls-verify=false", name)
    assert podman.run("images", "--no-trunc", "--quiet", name) == image.id
    agrees(tree(Path(podman.run("image", "mount", name))), image)


async def test_docker_pulls_what_we_push(
    stage: Stage, registry: LocalRegistry, docker: peers.Docker, stories: Mapping[str, Image], tmp_path: Path
) -> None:
    image = stories["plain"]
    name = f"{registry.address}/by/us:1"
    async with stage.engine() as engine:
        await engine.images.load(write_docker_archive(tmp_path / "a.tar", {name: image}))
        await engine.images.push(name)
    docker.run("pull", name)
    assert docker.run("images", "--no-trunc", "--quiet", name) == image.id


async def test_an_image_goes_from_registry_to_registry_unchanged(
    stage: Stage, registry: LocalRegistry, stories: Mapping[str, Image]
) -> None:
    image = stories["docker"]
    push_image(registry.address, "first:1", image)
    async with stage.engine() as engine:
        await engine.images.pull(f"{registry.address}/first:1")
        shutil.rmtree(registry.storage)  # nothing to mount from, and nothing to be skipped
        await engine.images.tag(f"{registry.address}/first:1", f"{registry.address}/second:1")
        await engine.images.push(f"{registry.address}/second:1")
    with Registry(registry.address) as asked:
        manifest = json.loads(asked.get_manifest("second", "1", ANY_MANIFEST))
    assert [each["digest"] for each in manifest["layers"]] == [each.digest for each in image.layers]
    assert manifest["config"]["digest"] == image.id
