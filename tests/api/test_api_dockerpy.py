"""Images through the Docker SDK for Python, against a real engine and a real registry.

The SDK blocks, so every call of it is made in a thread. It turns replies into its own classes and errors, and
reads more fields than the docker client does: what it accepts is a second opinion on the shapes of our answers.
"""

from __future__ import annotations

import io
import tarfile
import time
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
from imagefiles import write_docker_archive, write_oci_archive
from images import MEDIA, Image, Index, storied
from pushing import Registry, push_image
from registry import PASSWORD, USER, LocalRegistry
from sdk import call

pytestmark = [pytest.mark.real, pytest.mark.slow]

NAME = "localhost/story:1"
ANY_MANIFEST = ", ".join(MEDIA[dialect]["manifest"] for dialect in MEDIA)
LABELS = {"kind": "story", "of": "layers"}


@pytest.fixture(scope="module")
def story(busybox_tar: Path) -> Image:
    return storied(busybox_tar, 3, "gzip", env=("PATH=/bin", "A=1"), labels=LABELS, user="1000:50")


@pytest.fixture(scope="module")
def archive(story: Image, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What ``docker load`` takes, of ``NAME``."""
    path = tmp_path_factory.mktemp("archive") / "a.tar"
    return write_docker_archive(path, {NAME: story}, form="blobs").read_bytes()


async def loaded(sdk: docker.DockerClient, archive: bytes) -> Any:
    (image,) = await call(sdk.images.load, archive)
    return image


# -- pull and push -----------------------------------------------------------------------------------------------


async def test_pull_gives_the_image(sdk: docker.DockerClient, registry: LocalRegistry, story: Image) -> None:
    digest = push_image(registry.address, "lib/story:1", story)
    name = f"{registry.address}/lib/story"
    image = await call(sdk.images.pull, name, tag="1")
    assert (image.id, image.tags, image.labels) == (story.id, [f"{name}:1"], LABELS)
    assert image.attrs["RepoDigests"] == [f"{name}@{digest}"]
    assert image.attrs["RootFS"] == {"Type": "layers", "Layers": [each.diff_id for each in story.layers]}
    again = await call(sdk.images.pull, f"{name}@{digest}")
    assert again.id == story.id
    printed = await call(sdk.containers.run, f"{name}:1", remove=True, network_mode="none")
    assert printed == b"hello from layer 2\n"


async def test_pull_of_all_tags(sdk: docker.DockerClient, registry: LocalRegistry, story: Image) -> None:
    for tag in ("1", "2", "latest"):
        push_image(registry.address, f"lib/story:{tag}", story)
    name = f"{registry.address}/lib/story"
    images = await call(sdk.images.pull, name, all_tags=True)
    assert {image.id for image in images} == {story.id}
    assert sorted((await call(sdk.images.get, name)).tags) == [f"{name}:1", f"{name}:2", f"{name}:latest"]


async def test_pull_tells_of_every_layer(sdk: docker.DockerClient, registry: LocalRegistry, story: Image) -> None:
    digest = push_image(registry.address, "lib/story:1", story)
    name = f"{registry.address}/lib/story"

    def lines() -> list[dict[str, Any]]:
        return list(sdk.api.pull(name, tag="1", stream=True, decode=True))

    first = await call(lines)
    assert (first[0]["status"], first[0]["id"]) == ("Pulling from lib/story", "1")
    ids = {each.digest[7:19] for each in story.layers}
    ended = ("Pull complete", "Already exists")  # the lowest is there already: the engine's own image has it, too
    assert {line["id"] for line in first if line["status"] in ended} == ids
    downloads = [line for line in first if line["status"] == "Downloading"]
    for detail in (line["progressDetail"] for line in downloads):
        assert 0 <= detail.get("current", 0) <= detail["total"]
    assert {"status": f"Digest: {digest}"} in first
    assert first[-1] == {"status": f"Status: Downloaded newer image for {name}:1"}
    again = await call(lines)
    assert again[-1] == {"status": f"Status: Image is up to date for {name}:1"}


async def test_pull_of_a_platform(sdk: docker.DockerClient, registry: LocalRegistry, busybox_tar: Path) -> None:
    made = {each: storied(busybox_tar, 2, architecture=each) for each in ("amd64", "arm64", "s390x")}
    push_image(registry.address, "many:1", Index(tuple(made.values())))
    name = f"{registry.address}/many"
    image = await call(sdk.images.pull, name, tag="1", platform="linux/s390x")
    assert (image.id, image.attrs["Architecture"]) == (made["s390x"].id, "s390x")
    await call(sdk.images.remove, f"{name}:1")
    with pytest.raises(docker.errors.NotFound):
        await call(sdk.images.pull, name, tag="1", platform="linux/riscv64")


async def test_pull_of_what_is_not_there(sdk: docker.DockerClient, registry: LocalRegistry) -> None:
    with pytest.raises(docker.errors.NotFound):
        await call(sdk.images.pull, f"{registry.address}/no/such", tag="1")
    with pytest.raises(docker.errors.APIError) as refused:
        await call(sdk.images.pull, "localhost:1/no/such", tag="1")
    assert refused.value.status_code == 500
    with pytest.raises(docker.errors.APIError) as refused:
        await call(sdk.images.pull, f"{registry.address}/UPPER", tag="1")
    assert refused.value.status_code == 400
    assert len(await call(sdk.images.list)) == 1


async def test_push_goes_where_it_says(
    sdk: docker.DockerClient, registry: LocalRegistry, archive: bytes, story: Image
) -> None:
    image = await loaded(sdk, archive)
    name = f"{registry.address}/mine/story"
    assert await call(image.tag, name, tag="2")
    lines = await call(lambda: list(sdk.images.push(name, tag="2", stream=True, decode=True)))
    assert [line for line in lines if "error" in line] == []
    assert lines[0] == {"status": f"The push refers to repository [{name}]"}
    (aux,) = [line["aux"] for line in lines if "aux" in line]
    assert (aux["Tag"], len([line for line in lines if line.get("status") == "Pushed"])) == ("2", 3)
    with Registry(registry.address) as asked:
        manifest = asked.get_manifest("mine/story", "2", ANY_MANIFEST)
        assert asked.get_blob("mine/story", story.id) == story.config
    assert len(manifest) == aux["Size"]
    again = await call(lambda: list(sdk.images.push(name, tag="2", stream=True, decode=True)))
    assert len([line for line in again if line.get("status") == "Layer already exists"]) == 3


async def test_push_of_what_is_not_there_says_so(sdk: docker.DockerClient, registry: LocalRegistry) -> None:
    lines = await call(lambda: list(sdk.images.push(f"{registry.address}/no", tag="1", stream=True, decode=True)))
    assert "does not exist" in lines[-1]["error"]


async def test_a_registry_that_wants_a_password(
    sdk: docker.DockerClient, archive: bytes, story: Image, tmp_path: Path
) -> None:

    directory = tmp_path / "closed"
    directory.mkdir()
    with LocalRegistry(directory, auth=True) as registry:
        image = await loaded(sdk, archive)
        name = f"{registry.address}/closed"
        await call(image.tag, name, tag="1")
        auth = {"username": USER, "password": PASSWORD}
        lines = await call(lambda: list(sdk.images.push(name, tag="1", stream=True, decode=True)))
        assert "errorDetail" in lines[-1]  # nobody is logged in
        wrong = auth | {"password": "wrong"}
        lines = await call(
            lambda: list(sdk.images.push(name, tag="1", auth_config=wrong, stream=True, decode=True))
        )
        assert "errorDetail" in lines[-1]
        lines = await call(
            lambda: list(sdk.images.push(name, tag="1", auth_config=auth, stream=True, decode=True))
        )
        assert "aux" in lines[-1]
        with pytest.raises(docker.errors.APIError):
            await call(sdk.images.pull, name, tag="1")
        assert (await call(sdk.images.pull, name, tag="1", auth_config=auth)).id == story.id


# -- archives ----------------------------------------------------------------------------------------------------


async def test_load_gives_the_images(sdk: docker.DockerClient, archive: bytes, story: Image) -> None:
    image = await loaded(sdk, archive)
    assert (image.id, image.tags) == (story.id, [NAME])
    config = image.attrs["Config"]
    assert (config["Env"], config["Cmd"]) == (["PATH=/bin", "A=1"], ["cat", "/etc/hello"])
    assert (config["User"], config["Labels"]) == ("1000:50", LABELS)
    assert image.attrs["Created"] == story.document["created"]


async def test_load_of_several_and_of_an_oci_archive(
    sdk: docker.DockerClient, story: Image, busybox_tar: Path, tmp_path: Path
) -> None:
    other = storied(busybox_tar, 2, "zstd")
    path = write_oci_archive(tmp_path / "a.tar", {NAME: story, "localhost/other:2": other})
    images = await call(sdk.images.load, path.read_bytes())
    assert {image.id: image.tags for image in images} == {story.id: [NAME], other.id: ["localhost/other:2"]}


# The SDK leaves its socket to the garbage collector when an error comes within a stream.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_load_of_what_is_no_image_is_refused(sdk: docker.DockerClient, archive: bytes) -> None:
    for content in (b"this is no archive" * 1000, archive[: len(archive) // 2]):
        with pytest.raises((docker.errors.APIError, docker.errors.ImageLoadError)):
            await call(sdk.images.load, content)
    assert len(await call(sdk.images.list)) == 1


@pytest.mark.parametrize("named", [True, False, NAME])
async def test_what_is_saved_is_loaded_again(
    named: bool | str, sdk: docker.DockerClient, archive: bytes, story: Image
) -> None:
    image = await loaded(sdk, archive)
    saved = await call(lambda: b"".join(image.save(named=named)))
    with tarfile.open(fileobj=io.BytesIO(saved)) as tar:
        assert "manifest.json" in tar.getnames()
    await call(sdk.images.remove, image.id, force=True)
    (again,) = await call(sdk.images.load, saved)
    assert (again.id, again.tags) == (story.id, [NAME] if named else [])


async def test_import_makes_an_image(sdk: docker.DockerClient, busybox_tar: Path) -> None:
    changes = ['CMD ["echo", "imported"]', "ENV B=2"]
    await call(
        sdk.api.import_image_from_data,
        busybox_tar.read_bytes(),
        repository="imported",
        tag="3",
        changes=changes,
    )
    image = await call(sdk.images.get, "imported:3")
    assert image.attrs["Config"]["Cmd"] == ["echo", "imported"]
    assert await call(sdk.containers.run, "imported:3", remove=True, network_mode="none") == b"imported\n"


# -- names, lists and what goes ----------------------------------------------------------------------------------


async def test_tags_lists_and_filters(sdk: docker.DockerClient, archive: bytes, api: Any, story: Image) -> None:
    image = await loaded(sdk, archive)
    assert await call(image.tag, "short")
    assert await call(image.tag, "registry.example:5000/a/b", tag="c")
    await call(image.reload)
    assert sorted(image.tags) == sorted([NAME, "short:latest", "registry.example:5000/a/b:c"])
    assert image.short_id == story.id[:19]

    async def ids(**options: Any) -> set[str]:
        return {each.id for each in await call(sdk.images.list, **options)}

    own = (await call(sdk.images.get, api.image)).id
    assert await ids() == await ids(all=True) == {story.id, own}
    assert await ids(name="short") == await ids(filters={"label": ["kind=story", "of"]}) == {story.id}
    assert await ids(filters={"reference": "registry.example:5000/*/*"}) == {story.id}
    assert await ids(filters={"dangling": True}) == await ids(filters={"label": "kind=other"}) == set()
    for reference in (story.id, story.id[7:19], "short", "docker.io/library/short:latest"):
        assert (await call(sdk.images.get, reference)).id == story.id
    with pytest.raises(docker.errors.APIError) as refused:
        await call(image.tag, "UPPER")
    assert refused.value.status_code == 400
    with pytest.raises(docker.errors.ImageNotFound):
        await call(sdk.api.tag, "nope", "other")


async def test_what_is_not_there_is_not_found(sdk: docker.DockerClient) -> None:
    for missing in (sdk.images.get, sdk.images.remove, sdk.api.history, sdk.api.inspect_image):
        with pytest.raises(docker.errors.ImageNotFound):
            await call(missing, "nope:1")
    with pytest.raises(docker.errors.NotFound):
        await call(lambda: list(sdk.api.get_image("nope:1")))
    with pytest.raises(docker.errors.ImageNotFound):
        await call(sdk.containers.create, "nope:1", ["true"])


async def test_history_has_every_step(sdk: docker.DockerClient, archive: bytes, story: Image) -> None:
    image = await loaded(sdk, archive)
    history = await call(image.history)
    assert [step["CreatedBy"] for step in history] == ["CMD", "step 2", "step 1", "step 0"]
    assert (history[0]["Id"], history[0]["Tags"], history[0]["Size"]) == (story.id, [NAME], 0)
    assert {step["Id"] for step in history[1:]} == {"<missing>"}
    assert sum(step["Size"] for step in history) == image.attrs["Size"]
    assert all(isinstance(step["Created"], int) for step in history)


async def test_remove_untags_first_and_refuses_what_is_used(
    sdk: docker.DockerClient, archive: bytes, story: Image
) -> None:
    image = await loaded(sdk, archive)
    await call(image.tag, "second", tag="1")
    await call(sdk.images.remove, "second:1")
    assert (await call(sdk.images.get, story.id)).tags == [NAME]
    await call(image.tag, "second", tag="1")
    with pytest.raises(docker.errors.APIError) as refused:  # several names: which?
        await call(sdk.images.remove, story.id)
    assert (refused.value.status_code, "must be forced" in str(refused.value)) == (409, True)
    container = await call(sdk.containers.create, NAME, ["true"], network_mode="none")
    await call(sdk.images.remove, "second:1")
    with pytest.raises(docker.errors.APIError) as refused:
        await call(sdk.images.remove, NAME)
    assert (refused.value.status_code, container.short_id in str(refused.value)) == (409, True)
    await call(container.remove)
    said = await call(sdk.api.remove_image, NAME)
    assert {"Untagged": NAME} in said
    assert {"Deleted": story.id} in said
    with pytest.raises(docker.errors.ImageNotFound):
        await call(sdk.images.get, story.id)


async def test_prune_takes_what_has_no_name(
    sdk: docker.DockerClient, archive: bytes, busybox_tar: Path, api: Any
) -> None:
    await call(sdk.api.import_image_from_data, busybox_tar.read_bytes()[:-1024], repository="x", tag="1")
    unnamed = (await call(sdk.images.get, "x:1")).id
    image = await loaded(sdk, archive)
    await call(image.tag, "x", tag="1")
    pruned = await call(sdk.images.prune, filters={"dangling": True})
    assert {"Deleted": unnamed} in pruned["ImagesDeleted"]
    await call(sdk.containers.create, api.image, ["true"], network_mode="none")
    pruned = await call(sdk.images.prune, filters={"dangling": False})
    assert {"Deleted": image.id} in pruned["ImagesDeleted"]
    assert pruned["SpaceReclaimed"] > 0
    assert [each.tags for each in await call(sdk.images.list)] == [[api.image]]
    assert (await call(sdk.images.prune))["ImagesDeleted"] in (None, [])


async def test_df_counts_shared_layers_once(
    sdk: docker.DockerClient, archive: bytes, story: Image, busybox_tar: Path, tmp_path: Path
) -> None:
    image = await loaded(sdk, archive)
    before = await call(sdk.df)
    other = Image(story.layers, {**story.document, "author": "somebody else"})
    await call(sdk.images.load, write_docker_archive(tmp_path / "a.tar", {"o:1": other}).read_bytes())
    after = await call(sdk.df)
    assert after["LayersSize"] == before["LayersSize"] > 0
    sizes = {each["Id"]: each for each in after["Images"]}
    assert sizes[image.id]["SharedSize"] == sizes[image.id]["Size"] == sizes[other.id]["Size"]
    assert len(after["Images"]) == 3


async def test_distribution_is_asked_of_the_registry(
    sdk: docker.DockerClient, registry: LocalRegistry, story: Image
) -> None:
    digest = push_image(registry.address, "lib/story:1", story)
    data = await call(sdk.images.get_registry_data, f"{registry.address}/lib/story:1")
    assert data.id == digest
    assert data.attrs["Descriptor"]["size"] == len(story.manifest)
    assert await call(data.has_platform, "linux/amd64")
    assert not await call(data.has_platform, "linux/s390x")
    assert (await call(data.pull)).id == story.id
    with pytest.raises(docker.errors.APIError):
        await call(sdk.images.get_registry_data, f"{registry.address}/lib/none:1")


async def test_events_tell_what_happened_to_images(
    sdk: docker.DockerClient, archive: bytes, registry: LocalRegistry
) -> None:
    image = await loaded(sdk, archive)
    name = f"{registry.address}/told"
    await call(image.tag, name, tag="1")
    await call(lambda: list(sdk.images.push(name, tag="1", stream=True)))
    await call(sdk.images.remove, f"{name}:1")
    await call(sdk.images.remove, NAME)
    told = await call(
        lambda: list(sdk.events(since=1, until=int(time.time()) + 1, decode=True, filters={"type": "image"}))
    )
    actions = [each["Action"] for each in told]
    assert [each for each in actions if each in ("load", "tag", "push", "untag", "delete")][-6:] == [
        "load",
        "tag",
        "push",
        "untag",
        "untag",
        "delete",
    ]


async def test_events_since_the_instant_0_are_all(sdk: docker.DockerClient, archive: bytes) -> None:
    await loaded(sdk, archive)
    told = await call(lambda: list(sdk.events(since=0, until=int(time.time()) + 1, decode=True)))
    assert "load" in [each["Action"] for each in told]
