"""Names of images, in bare HTTP and with the stock client: tag, remove, what stands in the way, and prune."""

from __future__ import annotations

import io
import json
import tarfile
import time
from typing import Any

import pytest
import trio

pytestmark = [pytest.mark.real, pytest.mark.slow]

V = "/v1.47"
QUIET = ("--network", "none")


def archive(content: bytes) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        entry = tarfile.TarInfo("file")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return raw.getvalue()


async def imported(api: Any, name: str, content: bytes, **query: str) -> str:
    body = archive(content)
    status, said = await api.ask("POST", f"{V}/images/create", body, fromSrc="-", repo=name, **query)
    assert status == 200, said
    identifier: str = said["status"]
    return identifier


async def test_a_tag_is_one_more_name(api: Any) -> None:
    assert await api.ask("POST", f"{V}/images/{api.image}/tag", repo="localhost:5000/a/b", tag="v1") == (201, b"")
    assert await api.ask("POST", f"{V}/images/localhost:5000/a/b:v1/tag", repo="other") == (201, b"")
    _, shown = await api.ask("GET", f"{V}/images/other/json")
    assert shown["RepoTags"] == [api.image, "other:latest", "localhost:5000/a/b:v1"]
    assert shown["RepoDigests"] == []
    assert shown["Metadata"]["LastTagTime"] > "2025"
    said = await api.docker("tag", "other", "third:3")
    assert (said.code, said.out, said.err) == (0, "", "")
    assert (await api.docker("images", "-q", "third:3")).out.strip() == shown["Id"][7:19]


@pytest.mark.parametrize(
    ("name", "query", "status", "words"),
    [
        ("nope", {"repo": "x"}, 404, "No such image: nope:latest"),
        ("busybox:test", {}, 400, "invalid reference format"),
        ("busybox:test", {"repo": "UPPER"}, 400, "invalid image reference"),
        ("busybox:test", {"repo": "a", "tag": "b c"}, 400, "invalid image reference"),
        (
            "busybox:test",
            {"repo": "sha256"},
            400,
            "refusing to create an ambiguous tag using digest",
        ),
        ("busybox:test", {"repo": f"a@sha256:{'0' * 64}"}, 400, "digest"),
    ],
)
async def test_a_tag_that_cant_be_is_refused(
    api: Any, name: str, query: dict[str, str], status: int, words: str
) -> None:
    answer, said = await api.ask("POST", f"{V}/images/{name}/tag", **query)
    assert (answer, words in said["message"]) == (status, True), said


async def test_the_last_name_takes_the_image_and_its_layers_along(api: Any) -> None:
    image = await imported(api, "mine:1", b"x" * 5000)
    await api.ask("POST", f"{V}/images/mine:1/tag", repo="mine", tag="2")
    layer = api.engine.images.resolve(image).layers[0]
    assert await api.ask("DELETE", f"{V}/images/mine:1") == (200, [{"Untagged": "mine:1"}])
    said = await api.docker("rmi", "mine:2")
    assert (said.code, said.out) == (0, f"Untagged: mine:2\nDeleted: {image}\nDeleted: {layer}\n")
    assert (await api.docker("rmi", "mine:2")).err == "Error response from daemon: No such image: mine:2\n"
    assert await api.ask("DELETE", f"{V}/images/%20") == (400, {"message": "image name cannot be blank"})
    assert len(api.engine.images.list()) == 1


async def test_what_stands_in_the_way_is_said_in_dockers_words(api: Any) -> None:
    image = api.engine.images.resolve(api.image).image
    short = image[7:19]
    running = await api.start("sleep", "1000", name="it")

    async def refused(reference: str, **query: str) -> str:
        status, said = await api.ask("DELETE", f"{V}/images/{reference}", **query)
        assert status == 409
        message: str = said["message"]
        return message

    using = f"container {running[:12]} is using its referenced image {short}"
    assert await refused(api.image) == (
        f'conflict: unable to remove repository reference "{api.image}" (must force) - {using}'
    )
    cannot = f"conflict: unable to delete {short} (cannot be forced) - image is being used by running container"
    assert await refused(short) == f"{cannot} {running[:12]}"
    assert await refused(image, force="1") == f"{cannot} {running[:12]}"
    await api.ask("POST", f"/containers/{running}/kill")
    await api.ask("POST", f"/containers/{running}/wait")
    must = f"conflict: unable to delete {short} (must be forced) - image is"
    assert await refused(short) == f"{must} being used by stopped container {running[:12]}"
    await api.ask("POST", f"{V}/images/{api.image}/tag", repo="other")
    assert await refused(short) == f"{must} referenced in multiple repositories"
    assert (
        await api.docker("rmi", short)
    ).err == f"Error response from daemon: {must} referenced in multiple repositories\n"
    assert await api.ask("DELETE", f"{V}/images/other") == (200, [{"Untagged": "other:latest"}])
    said = await api.docker("rmi", "-f", short)
    assert (said.code, said.out) == (0, f"Untagged: {api.image}\nDeleted: {image}\n"), (
        "its container has its layers"
    )
    assert (await api.docker("ps", "-a", "--format", "{{.Names}} {{.Image}}")).out == f"it {short}\n"
    assert (await api.docker("start", "it")).code == 0


async def test_only_what_nothing_uses_is_pruned(api: Any) -> None:
    one = await imported(api, "", b"one" * 5000, changes="LABEL keep=1")
    two = await imported(api, "", b"two" * 5000)
    named = await imported(api, "named", b"three" * 5000)
    layer = {image: api.engine.images.resolve(image).layers[0] for image in (one, two, named)}

    async def prune(**query: Any) -> tuple[set[str], int]:
        filters = {name: json.dumps(value) for name, value in query.items() if name == "filters"}
        status, said = await api.ask("POST", f"{V}/images/prune", **{**query, **filters})
        assert status == 200, said
        return {each["Deleted"] for each in said["ImagesDeleted"] or () if "Deleted" in each}, said[
            "SpaceReclaimed"
        ]

    both = {one, two, layer[one], layer[two]}
    gone, size = await prune(dry_run="1")
    assert gone == both
    assert size > 20_000
    assert len(api.engine.images.list()) == 4, "it was not for real"
    assert await prune(filters={"until": ["1h"]}) == (set(), 0)
    assert (await prune(filters={"label!": ["keep"]}))[0] == {two, layer[two]}
    assert (await prune(filters={"label": ["other"]}))[0] == set()
    assert (await prune(filters={"dangling": ["true"], "until": ["0s"]}))[0] == {one, layer[one]}
    assert await prune() == (set(), 0)
    await api.create("true")
    assert (await prune(filters={"dangling": ["false"]}))[0] == {named, layer[named]}
    assert [image.tags for image in api.engine.images.list()] == [("docker.io/library/busybox:test",)]


@pytest.mark.parametrize(
    ("path", "filters", "words"),
    [
        ("images", {"nope": ["1"]}, "invalid filter"),
        ("images", {"dangling": ["maybe"]}, "invalid filter 'dangling=maybe'"),
        ("images", {"until": ["1h", "2h"]}, "more than one until filter specified"),
        ("images", {"until": ["soon"]}, "invalid until"),
        ("containers", {"until": ["soon"]}, "invalid until"),
        ("containers", {"dangling": ["true"]}, "invalid filter"),
        ("networks", {"nope": ["1"]}, "invalid filter"),
    ],
)
async def test_a_prune_that_cant_be_understood_removes_nothing(
    api: Any, path: str, filters: dict[str, list[str]], words: str
) -> None:
    await imported(api, "", b"x")
    status, said = await api.ask("POST", f"{V}/{path}/prune", filters=json.dumps(filters))
    assert (status, words in said["message"]) == (400, True), said
    assert len(api.engine.images.list()) == 2


async def test_stopped_containers_are_pruned(api: Any) -> None:
    running = await api.start("sleep", "1000", name="running")
    old = await api.start("sh", "-c", "dd if=/dev/zero of=/x bs=1k count=64", name="old", Labels={"team": "a"})
    await api.ask("POST", f"/containers/{old}/wait")
    created = await api.create("true", name="created")

    async def prune(**query: Any) -> tuple[set[str], int]:
        status, said = await api.ask("POST", f"{V}/containers/prune", **query)
        assert status == 200, said
        return set(said["ContainersDeleted"] or ()), said["SpaceReclaimed"]

    gone, size = await prune(dry_run="1")
    assert (gone, size >= 65536) == ({old, created}, True)
    assert await prune(filters=json.dumps({"until": ["10m"]})) == (set(), 0)
    assert await prune(filters=json.dumps({"label": ["team=a"]})) == ({old}, size)
    assert (await prune(filters=json.dumps({"label!": ["team"]})))[0] == {created}
    assert [state.id for state in api.engine.containers.list()] == [running]


async def test_the_stock_clients_system_prune_and_df(api: Any) -> None:
    image = await imported(api, "", b"x" * 5000)
    ended = await api.start("sh", "-c", "dd if=/dev/zero of=/x bs=1k count=64")
    await api.ask("POST", f"/containers/{ended}/wait")
    layer = api.engine.images.resolve(image).layers[0]
    rows = (await api.docker("system", "df", "--format", "{{.Type}}|{{.TotalCount}}|{{.Active}}|{{.Size}}")).out
    lines = [line.split("|") for line in rows.splitlines()]
    assert [line[:3] for line in lines] == [
        ["Images", "2", "1"],
        ["Containers", "1", "0"],
        ["Local Volumes", "0", "0"],
        ["Build Cache", "0", "0"],
    ]
    assert lines[1][3] == "65.54kB"
    verbose = await api.docker("system", "df", "-v")
    assert (verbose.code, "busybox" in verbose.out) == (0, True)
    plans = [await api.ask("POST", f"{V}/{kind}/prune", dry_run="1") for kind in ("containers", "images")]
    size = sum(plan["SpaceReclaimed"] for _, plan in plans)
    said = await api.docker("system", "prune", "-f", "--volumes")
    assert said.code == 0, said.err
    assert "Deleted Containers:\n" + ended in said.out
    assert f"deleted: {image}\ndeleted: {layer}\n" in said.out
    assert said.out.splitlines()[-1] == f"Total reclaimed space: {size / 1000:.4g}kB"
    again = await api.docker("system", "prune", "-f")
    assert (again.code, again.out) == (0, "Total reclaimed space: 0B\n")
    said = await api.docker("image", "prune", "-af")
    assert (said.code, f"untagged: {api.image}" in said.out) == (0, True)


async def test_disk_usage_by_type(api: Any) -> None:
    await api.create("true")
    await api.ask("POST", f"{V}/images/{api.image}/tag", repo="other")
    status, said = await api.ask("GET", f"{V}/system/df")
    [image], [container] = said["Images"], said["Containers"]
    assert (status, said["Volumes"], said["BuildCache"]) == (200, [], [])
    assert (image["Containers"], image["SharedSize"], image["Size"]) == (1, 0, said["LayersSize"])
    assert (container["SizeRw"], container["SizeRootFs"]) == (0, image["Size"])
    assert (await api.ask("GET", f"{V}/system/df?type=volume"))[1] == {
        "LayersSize": 0,
        "Images": None,
        "Containers": None,
        "Volumes": [],
        "BuildCache": None,
    }
    _, two = await api.ask("GET", f"{V}/system/df?type=image&type=container")
    assert (len(two["Images"]), len(two["Containers"]), two["Volumes"]) == (1, 1, None)
    assert await api.ask("GET", f"{V}/system/df?type=x") == (400, {"message": "unknown object type: x"})
    _, old = await api.ask("GET", "/v1.41/system/df?type=volume")
    assert (old["Images"][0]["VirtualSize"], len(old["Containers"])) == (image["Size"], 1)


async def test_shared_sizes_are_those_of_layers_that_others_have(api: Any) -> None:
    await imported(api, "a", b"same" * 5000, changes="ENV A=1")
    await imported(api, "b", b"same" * 5000, changes="ENV A=2")
    _, images = await api.ask("GET", f"{V}/images/json", **{"shared-size": "1"})
    sizes = {image["RepoTags"][0]: (image["SharedSize"], image["Size"]) for image in images}
    assert sizes[api.image][0] == 0
    assert sizes["a:latest"][0] == sizes["a:latest"][1] == sizes["b:latest"][0]
    assert sizes["a:latest"][0] >= 20_000


async def test_names_that_come_and_go_are_events(api: Any) -> None:
    image = await imported(api, "mine:1", b"x" * 5000)
    await api.ask("POST", f"{V}/images/mine:1/tag", repo="mine", tag="2")
    await api.ask("DELETE", f"{V}/images/{image}", force="1")
    style = ("--format", "{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}}")
    await trio.sleep(1.05 - time.time() % 1)  # the client's instants are whole seconds
    said = await api.docker("events", "--since", "1h", "--until", "0s", "--filter", f"image={image}", *style)
    assert said.out.splitlines() == [
        f"import {image} {image}",
        f"tag {image} mine:1",
        f"tag {image} mine:2",
        f"untag {image} mine:1",
        f"untag {image} mine:2",
        f"delete {image} {image}",
    ]


async def test_searching_is_refused(api: Any) -> None:
    said = await api.docker("search", "busybox")
    assert (said.code, "searching registries is not supported in this release" in said.err) == (1, True)
