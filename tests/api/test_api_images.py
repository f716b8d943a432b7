"""Images in bare HTTP: import, list, inspect, and what an image may not do."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import pytest
import trio

pytestmark = [pytest.mark.real, pytest.mark.slow]

FOREVER = ("sleep", "1000")
V = "/v1.47"


def archive(**files: bytes) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return raw.getvalue()


async def test_an_import_is_listed_and_inspected(api: Any) -> None:
    query = {"fromSrc": "-", "repo": "localhost:5000/a/b", "tag": "v1", "message": "mine", "changes": "LABEL k=v"}
    status, said = await api.ask("POST", f"{V}/images/create", archive(hello=b"x" * 5000), **query)
    assert (status, said["status"].startswith("sha256:")) == (200, True)
    _, shown = await api.ask("GET", f"{V}/images/localhost:5000/a/b:v1/json")
    assert (shown["Id"], shown["RepoTags"], shown["Comment"]) == (
        said["status"],
        ["localhost:5000/a/b:v1"],
        "mine",
    )
    assert (shown["Config"]["Labels"], shown["Os"], len(shown["RootFS"]["Layers"])) == ({"k": "v"}, "linux", 1)
    assert (await api.ask("GET", f"{V}/images/{said['status'][7:19]}/json"))[1]["Id"] == said["status"]

    async def tags(**filters: list[str]) -> list[list[str]]:
        _, images = await api.ask("GET", f"{V}/images/json", filters=json.dumps(filters))
        return sorted(image["RepoTags"] for image in images)

    await api.ask("POST", f"{V}/images/create", archive(other=b"y"), fromSrc="-")
    assert await tags() == [[], [api.image], ["localhost:5000/a/b:v1"]]
    assert await tags(dangling=["true"]) == [[]]
    assert await tags(dangling=["false"]) == [[api.image], ["localhost:5000/a/b:v1"]]
    assert await tags(label=["k=v"]) == [["localhost:5000/a/b:v1"]]
    assert await tags(reference=["busybox"]) == [[api.image]]
    assert await tags(reference=["busybox:*"]) == [[api.image]]
    assert await tags(reference=["*/*/b"]) == [["localhost:5000/a/b:v1"]]
    assert await tags(reference=["*"]) == [[api.image]]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"fromSrc": "http://x/y.tar"}, 501),
        ({}, 501),
        ({"fromSrc": "-", "repo": "UPPER"}, 400),
        ({"fromSrc": "-", "repo": "x", "tag": "a b"}, 400),
        ({"fromSrc": "-", "changes": "RUN x"}, 400),
        ({"fromSrc": "-", "platform": "windows"}, 501),
        ({"fromSrc": "-", "repo": "x", "cut": "1"}, 400),
    ],
    ids=str,
)
async def test_an_import_that_cant_be_is_refused(api: Any, query: dict[str, str], status: int) -> None:
    body = archive(hello=b"x" * 5000)[: 2000 if query.pop("cut", "") else None]
    answer, said = await api.ask("POST", f"{V}/images/create", body, **query)
    assert (answer, list(said)) == (status, ["message"])
    assert len(api.engine.images.list()) == 1


async def test_an_image_that_is_not_there_is_a_404(api: Any) -> None:
    assert await api.ask("GET", f"{V}/images/nope/json") == (404, {"message": "No such image: nope:latest"})
    body = {"Image": "nope:x", "Cmd": ["true"]}
    assert await api.ask("POST", f"{V}/containers/create", body) == (404, {"message": "No such image: nope:x"})
    status, said = await api.ask("POST", f"{V}/containers/create", {"Image": api.image}, platform="linux/s390x")
    assert (status, "does not provide the specified platform" in said["message"]) == (404, True)


async def test_image_labels_are_data(api: Any) -> None:
    """What an image says reaches the container as labels, and the runtime not at all."""
    victim = api.config / "victim"
    changes = f"LABEL run.oci.hooks.stdout={victim} run.oci.handler=krun"
    tar = await trio.to_thread.run_sync(lambda: archive(hello=b"x"))
    await api.ask("POST", f"{V}/images/create", tar, fromSrc="-", repo="evil", changes=changes)
    body = {"Image": "evil", "Cmd": ["/nope"], "HostConfig": {"NetworkMode": "none"}}
    _, made = await api.ask("POST", f"{V}/containers/create", body)
    await api.ask("POST", f"{V}/containers/{made['Id']}/start")
    assert not victim.exists()
