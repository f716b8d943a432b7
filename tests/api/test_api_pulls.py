"""Pull, push, login and what a registry says, over HTTP and with the stock client, from and to a real registry."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import images
import pytest
import trio
from pushing import push_image
from registry import PASSWORD, USER, LocalRegistry

pytestmark = [pytest.mark.real, pytest.mark.slow]

V = "/v1.47"
QUIET = ("--network", "none")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[LocalRegistry]:
    with LocalRegistry(tmp_path / "registry") as registry:
        yield registry


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[LocalRegistry]:
    """A registry that wants to know who asks."""
    with LocalRegistry(tmp_path / "guarded", auth=True) as registry:
        yield registry


@pytest.fixture
def base(busybox_tar: Path, tmp_path: Path) -> Path:
    """A root file system that is not the one which the engine's first image has."""
    copy = tmp_path / "base.tar"
    shutil.copy(busybox_tar, copy)
    with tarfile.open(copy, "a") as tar:
        tar.addfile(tarfile.TarInfo("another"))
    return copy


def header(user: str = USER, password: str = PASSWORD) -> dict[str, str]:
    said = json.dumps({"username": user, "password": password})
    return {"X-Registry-Auth": base64.urlsafe_b64encode(said.encode()).decode()}


async def test_a_pull_tells_how_far_it_is(api: Any, registry: LocalRegistry, base: Path) -> None:
    image = images.storied(base, 3)
    digest = push_image(registry.address, "team/story:1", image)
    name = f"{registry.address}/team/story"
    status, told = await api.stream(f"{V}/images/create", fromImage=name, tag="1")
    assert status == 200
    assert told[0] == {"status": "Pulling from team/story", "id": "1"}
    assert told[-2:] == [
        {"status": f"Digest: {digest}"},
        {"status": f"Status: Downloaded newer image for {name}:1"},
    ]
    for layer in image.layers:
        of_it = [line for line in told if line.get("id") == layer.digest[7:19]]
        words = [line["status"] for line in of_it]
        assert (words[0], words[-1]) == ("Pulling fs layer", "Pull complete")
        assert of_it[0]["progressDetail"] == {}
        assert {"Downloading", "Download complete", "Extracting"} >= set(words[1:-1])
        sized = [line for line in of_it if line["progressDetail"]]
        assert all(line["progressDetail"]["total"] == len(layer.blob) for line in sized)
        assert all(line["progress"].startswith("[") for line in sized)
    _, again = await api.stream(f"{V}/images/create", fromImage=f"{name}:1")
    assert again[-1] == {"status": f"Status: Image is up to date for {name}:1"}
    _, shown = await api.ask("GET", f"{V}/images/{name}:1/json")
    assert (shown["Id"], shown["RepoTags"], shown["RepoDigests"]) == (
        image.id,
        [f"{name}:1"],
        [f"{name}@{digest}"],
    )
    assert (await api.ask("GET", f"{V}/images/{name}@{digest}/json"))[1]["Id"] == image.id


async def test_the_stock_client_pulls_runs_tags_pushes_and_removes(
    api: Any, registry: LocalRegistry, base: Path
) -> None:
    image = images.storied(base, 3)
    digest = push_image(registry.address, "team/story:1", image)
    name = f"{registry.address}/team/story"
    said = await api.docker("pull", f"{name}:1")
    assert said.code == 0, said.err
    assert f"Digest: {digest}\nStatus: Downloaded newer image for {name}:1\n{name}:1\n" in said.out
    assert (await api.docker("run", "--rm", *QUIET, f"{name}:1")).out == "hello from layer 2\n"
    said = await api.docker("images", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}", name)
    assert said.out == f"{name} 1 {digest}\n"
    await api.docker("tag", f"{name}:1", f"{registry.address}/mine:2")
    said = await api.docker("push", f"{registry.address}/mine:2")
    assert said.code == 0, said.err
    assert f"The push refers to repository [{registry.address}/mine]" in said.out
    assert f"2: digest: {digest} size: {len(image.manifest)}" in said.out, "it is the manifest that came"
    said = await api.docker("rmi", "-f", image.id)
    assert said.code == 0, said.err
    assert f"Deleted: {image.id}" in said.out
    said = await api.docker("run", "--rm", *QUIET, f"{registry.address}/mine:2")
    assert (said.code, said.out) == (0, "hello from layer 2\n"), said.err
    assert "Unable to find image" in said.err
    assert (await api.docker("pull", "-q", f"{name}@{digest}")).out == f"{name}@{digest}\n"
    refused = await api.docker("pull", f"{name}:nope")
    assert refused.code == 1
    assert refused.err == (f"Error response from daemon: manifest for {name}:nope not found: manifest unknown\n")


async def test_no_tag_is_every_tag(api: Any, registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pages the registry's list has."""
    monkeypatch.setattr("lading.engine.registry.client._TAGS_PAGE", 2)
    image = images.image(images.layer(images.file("a", "a"), form="gzip"))
    name = f"{registry.address}/many"
    for number in range(5):
        push_image(registry.address, f"many:{number}", image)
    status, told = await api.stream(f"{V}/images/create", fromImage=name)
    assert status == 200
    assert [line["id"] for line in told if line["status"].startswith("Pulling from")] == [*"01234"]
    _, shown = await api.ask("GET", f"{V}/images/{name}:1/json")
    assert shown["RepoTags"] == [f"{name}:{number}" for number in range(5)]
    assert (await api.docker("pull", "-aq", name)).code == 0
    absent = f"{registry.address}/nope"
    missing = f"manifest for {absent} not found: manifest unknown"
    assert await api.stream(f"{V}/images/create", fromImage=absent) == (404, [{"message": missing}])


async def test_a_push_of_what_was_made_here_ends_with_its_digest(api: Any, registry: LocalRegistry) -> None:
    name = f"{registry.address}/made"
    for tag in ("1", "2"):
        await api.ask("POST", f"{V}/images/{api.image}/tag", repo=name, tag=tag)
    status, told = await api.stream(f"{V}/images/{name}/push", tag="1")
    assert (status, told[0]) == (200, {"status": f"The push refers to repository [{name}]"})
    aux = told[-1]["aux"]
    assert told[-1]["progressDetail"] == {}
    assert (aux["Tag"], told[-2]["status"]) == ("1", f"1: digest: {aux['Digest']} size: {aux['Size']}")
    assert [line["status"] for line in told if "id" in line][-1] == "Pushed"
    _, raw = await api.stream(f"{V}/images/{name}/push", headers={"X-Registry-Auth": "e30="})
    assert [line["aux"]["Tag"] for line in raw if "aux" in line] == ["1", "2"]
    _, shown = await api.ask("GET", f"{V}/images/{name}:1/json")
    assert shown["RepoDigests"] == [f"{name}@{aux['Digest']}"]
    absent = f"An image does not exist locally with the tag: {name}"
    refers = {"status": f"The push refers to repository [{name}]"}
    assert await api.stream(f"{V}/images/{name}/push", tag="3") == (
        200,
        [refers, {"errorDetail": {"message": absent}, "error": absent}],
    )
    _, found = await api.ask("GET", f"{V}/distribution/{name}:1/json")
    assert found["Descriptor"]["digest"] == aux["Digest"]
    assert found["Descriptor"]["size"] == aux["Size"]
    assert [each["os"] for each in found["Platforms"]] == ["linux"]


async def test_a_registrys_refusal_is_a_status_before_the_first_line_and_a_line_after_it(
    api: Any, registry: LocalRegistry, guarded: LocalRegistry
) -> None:
    nope = f"{registry.address}/nope"
    missing = f"manifest for {nope}:latest not found: manifest unknown"
    assert await api.stream(f"{V}/images/create", fromImage=nope, tag="latest") == (404, [{"message": missing}])
    hidden = f"{guarded.address}/team/hidden"
    status, [said] = await api.stream(f"{V}/images/create", fromImage=hidden, tag="latest")
    denied = f"pull access denied for {hidden}, repository does not exist or may require 'docker login': "
    assert (status, said["message"].startswith(denied)) == (404, True), said
    await api.ask("POST", f"{V}/images/{api.image}/tag", repo=hidden)
    _, said = await api.stream(f"{V}/images/{hidden}/push", tag="latest", headers=header(password="wrong"))
    assert "it refuses this to the user" in said[-1]["error"]
    assert said[-1]["errorDetail"] == {"message": said[-1]["error"]}
    assert "wrong" not in json.dumps(said)
    _, said = await api.stream(f"{V}/images/{hidden}/push", tag="latest", headers=header())
    assert "aux" in said[-1], said
    _, said = await api.stream(f"{V}/images/create", fromImage=hidden, tag="latest", headers=header())
    assert said[-1]["status"].startswith("Status: Image is up to date")
    for bad in ("x/UPPER", "a b", "x" * 500):
        assert (await api.stream(f"{V}/images/create", fromImage=bad, tag="x"))[0] == 400
    assert (await api.stream(f"{V}/images/create", fromImage="x", tag="a b"))[0] == 400
    assert (await api.stream(f"{V}/images/create", fromImage="x:1", platform="linux/not/a/platform"))[0] == 400


async def test_login_is_checked_by_the_registry(api: Any, guarded: LocalRegistry, registry: LocalRegistry) -> None:
    body = {"username": USER, "password": PASSWORD, "serveraddress": guarded.address}
    assert await api.ask("POST", f"{V}/auth", body) == (200, {"Status": "Login Succeeded", "IdentityToken": ""})
    status, said = await api.ask("POST", f"{V}/auth", {**body, "password": "wrong"})
    assert (status, "refuses" in said["message"], "wrong" in said["message"]) == (401, True, False)
    assert (await api.ask("POST", f"{V}/auth", {"username": ["x"]}))[0] == 400
    refused = await api.docker("login", "-u", USER, "--password-stdin", guarded.address, stdin=b"nope")
    assert (refused.code, "Error response from daemon" in refused.err) == (1, True)
    said = await api.docker("login", "-u", USER, "--password-stdin", guarded.address, stdin=PASSWORD.encode())
    assert (said.code, "Login Succeeded" in said.out) == (0, True), said
    name = f"{guarded.address}/team/hidden"
    await api.docker("tag", api.image, name)
    assert (await api.docker("push", "-q", name)).out == f"{name}:latest\n"
    await api.docker("logout", guarded.address)
    denied = await api.docker("pull", name)
    assert (denied.code, "pull access denied" in denied.err) == (1, True)


async def test_a_platform_is_chosen_and_another_is_refused(api: Any, registry: LocalRegistry) -> None:
    both = images.Index(
        tuple(
            images.image(images.layer(images.file("which", arch), form="gzip"), architecture=arch)
            for arch in ("amd64", "arm64")
        )
    )
    push_image(registry.address, "both:1", both)
    name = f"{registry.address}/both:1"
    _, raw = await api.stream(f"{V}/images/create", fromImage=name, platform="linux/arm64")
    assert raw[-1]["status"].startswith("Status: Downloaded")
    _, shown = await api.ask("GET", f"{V}/images/{name}/json")
    assert (shown["Architecture"], shown["Id"]) == ("arm64", both.images[1].id)
    _, raw = await api.stream(f"{V}/images/create", fromImage=name, platform="linux/s390x")
    assert raw[-1]["message"].startswith("no matching manifest for linux/s390x in the manifest list entries")
    _, found = await api.ask("GET", f"{V}/distribution/{name}/json")
    assert (found["Descriptor"]["digest"], found["Descriptor"]["mediaType"]) == (both.digest, both.media_type)
    assert [each["architecture"] for each in found["Platforms"]] == ["amd64", "arm64"]
    status, said = await api.ask("GET", f"{V}/distribution/{registry.address}/nope/json")
    assert (status, "nope" in said["message"]) == (404, True)


async def test_inspect_and_history_tell_all_that_the_image_says(api: Any, registry: LocalRegistry) -> None:
    check = {"Test": ["CMD", "true"], "Interval": 5_000_000_000}
    image = images.image(
        images.layer(images.file("a", b"a" * 5000), form="gzip"),
        images.layer(images.file("b", "b"), form="gzip"),
        cmd=["sh"],
        ports=["80/tcp"],
        volumes=["/data"],
        labels={"k": "v"},
        variant="v3",
        author="somebody",
        docker_version="1.2.3",
        comment="said",
    )
    document = dict(image.document)
    document["config"] = {**document["config"], "Healthcheck": check, "Shell": ["/bin/ash"], "OnBuild": ["RUN x"]}
    image = images.Image(image.layers, document)
    push_image(registry.address, "all:1", image)
    name = f"{registry.address}/all:1"
    await api.stream(f"{V}/images/create", fromImage=name)
    _, shown = await api.ask("GET", f"{V}/images/{name}/json")
    config = shown["Config"]
    assert (config["Healthcheck"], config["Shell"], config["OnBuild"]) == (check, ["/bin/ash"], ["RUN x"])
    assert (config["Cmd"], config["Entrypoint"], config["Volumes"]) == (["sh"], None, {"/data": {}})
    assert (config["ExposedPorts"], config["Labels"], config["Hostname"]) == ({"80/tcp": {}}, {"k": "v"}, "")
    assert (shown["Author"], shown["DockerVersion"], shown["Comment"]) == ("somebody", "1.2.3", "said")
    assert (shown["Variant"], shown["Os"], shown["Created"]) == ("v3", "linux", images.CREATED)
    assert shown["RootFS"] == {"Type": "layers", "Layers": [layer.diff_id for layer in image.layers]}
    assert len(shown["GraphDriver"]["Data"]["LowerDir"].split(":")) == 1
    assert not {"VirtualSize", "Container", "ContainerConfig"} & shown.keys()
    _, old = await api.ask("GET", f"/v1.43/images/{name}/json")
    assert (old["VirtualSize"], old["Container"], old["ContainerConfig"]["Cmd"]) == (shown["Size"], "", None)
    _, steps = await api.ask("GET", f"{V}/images/{name}/history")
    assert [(step["Id"], step["CreatedBy"], step["Tags"]) for step in steps] == [
        (image.id, "CMD", [name]),
        ("<missing>", "step 1", None),
        ("<missing>", "step 0", None),
    ]
    assert steps[0]["Size"] == 0
    assert steps[2]["Size"] > steps[1]["Size"] > 0
    assert sum(step["Size"] for step in steps) == shown["Size"]
    said = await api.docker("history", "--no-trunc", "--format", "{{.ID}} {{.CreatedBy}}", name)
    assert said.out.splitlines()[0] == f"{image.id} CMD"


async def test_a_client_that_hangs_up_cancels_its_pull(api: Any, tmp_path: Path) -> None:
    """The registry takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with trio.move_on_after(1) as scope:
            await api.stream(f"{V}/images/create", fromImage=f"127.0.0.1:{port}/slow:1")
        assert scope.cancelled_caught
        with trio.fail_after(5):
            while True:
                found = [json.loads(line) for line in await history(api)]
                if any(each["type"] == "pull.failed" for each in found):
                    break
                await trio.sleep(0.05)
    [failed] = [each for each in found if each["type"] == "pull.failed"]
    assert failed["data"]["why"] == "it was cancelled"


async def history(api: Any) -> list[bytes]:
    _, raw = await api.ask("GET", "/lading/history?types=pull.")
    return [line for line in raw.splitlines() if line] if isinstance(raw, bytes) else [json.dumps(raw).encode()]


@pytest.mark.long
async def test_what_moves_an_image_is_an_event(api: Any, registry: LocalRegistry, base: Path) -> None:
    image = images.storied(base, 1, labels={"team": "a"})
    push_image(registry.address, "story:1", image)
    name = f"{registry.address}/story"
    await api.docker("pull", f"{name}:1")
    await api.docker("tag", f"{name}:1", f"{name}:2")
    await api.docker("push", f"{name}:2")
    await trio.sleep(1.05)  # the client's instants are whole seconds
    style = ("--format", "{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}} {{.Actor.Attributes.team}}")
    said = await api.docker("events", "--since", "1h", "--until", "0s", "--filter", f"image={name}", *style)
    assert said.out.splitlines() == [
        f"pull {name}:1 {name} a",
        f"tag {image.id} {name}:2 a",
        f"push {name}:2 {name} a",
    ]
