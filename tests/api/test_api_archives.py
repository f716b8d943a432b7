"""Images as archives, over HTTP and with the stock client: save and load, and what is no archive."""

from __future__ import annotations

import io
import json
import tarfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import images
import pytest
import trio
from imagefiles import write_docker_archive
from stage import printed

from lading.events.image import LayerRemoved

pytestmark = [pytest.mark.real, pytest.mark.slow]

V = "/v1.47"
QUIET = ("--network", "none")


def members(raw: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        files = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
        return {name: file.read() for name, file in files.items() if file is not None}


async def test_what_is_saved_is_loaded_again(api: Any) -> None:
    image = api.engine.images.resolve(api.image).image
    status, raw = await api.ask("GET", f"{V}/images/{api.image}/get")
    assert status == 200
    [entry] = json.loads(members(raw)["manifest.json"])
    assert (entry["RepoTags"], len(entry["Layers"])) == ([api.image], 1)
    assert (await api.ask("DELETE", f"{V}/images/{api.image}"))[0] == 200
    assert api.engine.images.list() == []
    status, told = await api.stream(f"{V}/images/load", raw)
    assert (status, told) == (200, [{"stream": f"Loaded image: {api.image}\n"}])
    assert api.engine.images.resolve(api.image).image == image
    status, again = await api.ask("GET", f"{V}/images/get", names=api.image)
    assert (status, again == raw) == (200, True)


async def test_the_stock_client_saves_and_loads(api: Any, tmp_path: Path) -> None:
    await api.docker("tag", api.image, "second:2")
    await api.ask("POST", f"{V}/images/create", tarred(b"x" * 5000), fromSrc="-", repo="third")
    archive = tmp_path / "some.tar"
    said = await api.docker("save", "-o", str(archive), api.image, "second:2", "third")
    assert said.code == 0, said.err
    with archive.open("rb") as file:
        entries = json.loads(members(file.read())["manifest.json"])
    assert [entry["RepoTags"] for entry in entries] == [[api.image, "second:2"], ["third:latest"]]
    await api.docker("rmi", "-f", api.image, "second:2", "third")
    said = await api.docker("load", "-i", str(archive))
    assert said.code == 0, said.err
    loaded = [f"Loaded image: {name}" for name in (api.image, "second:2", "third:latest")]
    assert sorted(said.out.splitlines()) == sorted(loaded)
    assert (await api.docker("run", "--rm", *QUIET, "second:2", "echo", "hi")).out == "hi\n"
    piped = await api.docker("load", stdin=archive.read_bytes())
    assert sorted(piped.out.splitlines()) == sorted(loaded)
    assert (await api.docker("save", "nope")).code == 1
    assert "No such image: nope:latest" in (await api.docker("save", "nope")).err


def tarred(content: bytes) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        entry = tarfile.TarInfo("file")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return raw.getvalue()


async def test_an_image_without_a_name_is_loaded_by_its_id(api: Any, tmp_path: Path) -> None:
    image = images.image(images.layer(images.file("a", "a")))
    path = write_docker_archive(tmp_path / "x.tar", {"": image})
    status, told = await api.stream(f"{V}/images/load", path.read_bytes(), quiet="0")
    assert status == 200
    assert told[-1] == {"stream": f"Loaded image ID: {image.id}\n"}
    assert api.engine.images.resolve(image.id).origin == "load"


async def test_what_is_no_archive_is_an_error_in_the_stream_and_leaves_nothing(api: Any, tmp_path: Path) -> None:
    image = images.image(images.layer(images.file("a", b"a" * 50_000)))
    whole = write_docker_archive(tmp_path / "x.tar", {"x:1": image}).read_bytes()
    for body in (b"this is no archive" * 100, whole[: len(whole) // 2], b""):
        status, [told] = await api.stream(f"{V}/images/load", body)
        assert (status, set(told)) == (200, {"errorDetail", "error"})
        assert told["errorDetail"] == {"message": told["error"]}
    said = await api.docker("load", stdin=b"this is no archive" * 100)
    assert said.code == 1
    assert len(api.engine.images.list()) == 1


async def test_an_oci_layout_is_what_is_asked_for(api: Any) -> None:
    status, raw = await api.ask("GET", f"{V}/images/get", names=api.image, format="oci")
    found = members(raw)
    assert status == 200
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    assert "manifest.json" not in found
    [entry] = json.loads(found["index.json"])["manifests"]
    assert images.sha256(found["blobs/sha256/" + entry["digest"][7:]]) == entry["digest"]
    assert (await api.ask("GET", f"{V}/images/get", names=api.image, format="zip"))[0] == 400
    assert (await api.ask("GET", f"{V}/images/get"))[0] == 400
    absent = (404, {"message": "No such image: nope:latest"})
    assert await api.ask("GET", f"{V}/images/get?names={api.image}&names=nope") == absent


async def test_what_is_saved_is_still_saved_when_its_name_goes(api: Any) -> None:
    """The layers that a save reads stay until it is read."""
    image = api.engine.images.resolve(api.image)
    target = f"{V}/images/{api.image}/get"
    async with await api.client.request("GET", target) as reply:
        stream = reply.stream()
        some = await anext(stream)
        assert (await api.ask("DELETE", f"{V}/images/{api.image}"))[0] == 200
        whole = some + b"".join([chunk async for chunk in stream])
    [entry] = json.loads(members(whole)["manifest.json"])
    assert images.sha256(members(whole)[entry["Layers"][0]]) == image.diff_ids[0]
    with trio.fail_after(5):
        async for record in api.engine.log.follow(0):
            if isinstance(record.event, LayerRemoved):
                break
    assert not api.engine.core.paths.layer(image.layers[0]).exists()


async def test_what_is_loaded_is_an_event(api: Any, tmp_path: Path) -> None:
    image = images.image(images.layer(images.file("a", "a")), labels={"k": "v"})
    path = write_docker_archive(tmp_path / "x.tar", {"x:1": image})
    await api.stream(f"{V}/images/load", path.read_bytes())
    query = {"since": "1", "until": f"{time.time():.9f}", "filters": json.dumps({"image": [image.id]})}
    async with await api.client.request("GET", f"{V}/events?{urlencode(query)}") as reply:
        events = [json.loads(line) for line in (await reply.read()).splitlines()]
    assert [(event["Action"], event["Actor"]["Attributes"]) for event in events] == [
        ("load", {"k": "v", "name": image.id})
    ]


async def test_a_container_is_exported_whether_it_runs_or_not(api: Any, tmp_path: Path) -> None:
    script = "echo new > /made; rm /etc/hello; echo ready; sleep 1000"
    running = await api.start("sh", "-c", script, name="it")
    await printed(api.engine.containers.get(running), b"ready")
    for _ in range(2):
        status, raw = await api.ask("GET", f"{V}/containers/it/export")
        found = {name.removeprefix("./"): content for name, content in members(raw).items()}
        assert (status, found["made"], "etc/hello" in found) == (200, b"new\n", False)
        await api.ask("POST", f"/containers/{running}/kill")
        await api.ask("POST", f"/containers/{running}/wait")
    archive = tmp_path / "it.tar"
    assert (await api.docker("export", "-o", str(archive), "it")).code == 0
    said = await api.docker("import", str(archive), "again:1")
    assert said.code == 0, said.err
    assert (await api.docker("run", "--rm", *QUIET, "again:1", "cat", "/made")).out == "new\n"
    created = await api.create("true")
    status, raw = await api.ask("GET", f"{V}/containers/{created}/export")
    assert (status, members(raw)["etc/hello"]) == (200, b"hello from the image\n")
    assert await api.ask("GET", f"{V}/containers/nope/export") == (404, {"message": "No such container: nope"})
