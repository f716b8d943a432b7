"""Files in and out, changes, commits and forks over HTTP: by the stock docker client, docker-py, and by hand."""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
from sdk import call

from lading.engine.api.copies import go_mode
from lading.engine.http.message import HttpError

pytestmark = [pytest.mark.real, pytest.mark.slow]

QUIET = ("--network", "none")


def tar_of(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize(
    ("mode", "go"),
    [
        (0o100644, 0o644),
        (0o040755, 1 << 31 | 0o755),
        (0o120777, 1 << 27 | 0o777),
        (0o104755, 1 << 23 | 0o755),
        (0o041777, 1 << 31 | 1 << 20 | 0o777),
        (0o020666, 1 << 26 | 1 << 21 | 0o666),
        (0o060660, 1 << 26 | 0o660),
        (0o010600, 1 << 25 | 0o600),
        (0o140777, 1 << 24 | 0o777),
    ],
)
def test_modes_are_gos(mode: int, go: int) -> None:
    assert go_mode(mode) == go


@pytest.mark.long
async def test_docker_copies_in_and_out(api: Any, tmp_path: Path) -> None:
    (tmp_path / "src" / "sub").mkdir(parents=True)
    (tmp_path / "src" / "sub" / "file").write_text("deep")
    (tmp_path / "one").write_text("one")
    os.symlink("one", tmp_path / "link")
    for start in (False, True):
        name = f"c{start}"
        assert (await api.docker("create", "--name", name, *QUIET, api.image, "sleep", "1000")).code == 0
        if start:
            assert (await api.docker("start", name)).code == 0
        for source, target in (
            (f"{tmp_path}/src", f"{name}:/tmp/new"),
            (f"{tmp_path}/src", f"{name}:/tmp/new"),
            (f"{tmp_path}/src/.", f"{name}:/tmp/new/flat/.."),
            (f"{tmp_path}/one", f"{name}:/tmp/new/two"),
            (f"{tmp_path}/link", f"{name}:/tmp/new/"),
            (f"{tmp_path}/one", f"{name}:/var/run"),
        ):
            said = await api.docker("cp", source, target)
            assert said.code == 0, said
        out = tmp_path / f"out{start}"
        out.mkdir()
        assert (await api.docker("cp", f"{name}:/tmp/new", str(out))).code == 0
        assert (await api.docker("cp", f"{name}:/run/one", str(out / "renamed"))).code == 0
        found = sorted(str(path.relative_to(out)) for path in out.rglob("*"))
        assert found == [
            *(
                "new",
                "new/link",
                "new/src",
                "new/src/sub",
                "new/src/sub/file",
                "new/sub",
                "new/sub/file",
                "new/two",
            ),
            "renamed",
        ]
        assert os.readlink(out / "new" / "link") == "one"
        for source, target, words in (
            (f"{name}:/nope", str(out), "Could not find the file /nope in container"),
            (f"{tmp_path}/src", f"{name}:/etc/hello", "cannot copy directory"),
            (f"{tmp_path}/one", f"{name}:/nope/", "no such directory"),
            (f"{tmp_path}/one", f"{name}:/nope/x", "Could not find the file /nope in container"),
        ):
            said = await api.docker("cp", source, target)
            assert (said.code, words in said.err) == (1, True), said
        said = await api.docker("diff", name)
        assert said.out.splitlines() == [
            *("C /run", "A /run/one", "C /tmp", "A /tmp/new", "A /tmp/new/link", "A /tmp/new/src"),
            *("A /tmp/new/src/sub", "A /tmp/new/src/sub/file", "A /tmp/new/sub", "A /tmp/new/sub/file"),
            "A /tmp/new/two",
        ]
        said = await api.docker("rm", "-f", name)
        assert said.code == 0, said


async def test_docker_commits(api: Any) -> None:
    await api.docker("run", "--name", "web", *QUIET, api.image, "sh", "-c", "echo made > /made")
    said = await api.docker("commit", "-a", "me", "-m", "words", "-c", 'CMD ["cat", "/made"]', "web", "made:1")
    assert (said.code, said.out.startswith("sha256:")) == (0, True), said
    assert (await api.docker("run", "--rm", *QUIET, "made:1")).out == "made\n"
    shown = await api.docker("image", "inspect", "-f", "{{.Author}} {{.Comment}} {{.Config.Cmd}}", "made:1")
    assert shown.out == "me words [cat /made]\n"
    assert "words" in (await api.docker("history", "made:1")).out
    said = await api.docker("commit", "-c", "RUN true", "web")
    assert (said.code, "RUN is not a valid change command" in said.err) == (1, True)
    said = await api.docker(
        "events", "--since", "1", "--until", f"{time.time():.9f}", "--filter", "event=commit", "--format", "json"
    )
    told = json.loads(said.out)
    assert told["Type"] == "container"
    assert told["Actor"]["Attributes"]["imageRef"] == "made:1"
    said = await api.docker("save", "-o", str(api.config / "made.tar"), "made:1")
    assert said.code == 0, said
    said = await api.docker(
        "events", "--since", "1", "--until", f"{time.time():.9f}", "--filter", "event=commit", "--format", "json"
    )
    assert json.loads(said.out) == told  # nothing more, though its digests were found out


async def test_docker_py_copies_and_commits(api: Any, sdk: Any) -> None:
    made = await call(
        sdk.containers.create, api.image, ["sh", "-c", "cat /tmp/x; echo y > /y"], network_mode="none"
    )
    assert await call(made.put_archive, "/tmp", tar_of("x", b"from the sdk\n"))
    chunks, told = await call(made.get_archive, "/tmp/x")
    data = await call(b"".join, chunks)
    assert (told["name"], told["size"], told["mode"], told["linkTarget"]) == ("x", 13, 0o644, "")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["x"]
    with pytest.raises(docker.errors.NotFound, match="Could not find the file /nope"):
        await call(made.get_archive, "/nope")
    with pytest.raises(docker.errors.APIError, match="not a directory"):
        await call(made.put_archive, "/etc/hello", tar_of("x", b""))
    await call(made.start)
    await call(made.wait)
    assert await call(made.logs) == b"from the sdk\n"
    assert {"Path": "/y", "Kind": 1} in await call(made.diff)
    image = await call(
        made.commit, repository="sdk", tag="2", message="m", author="a", conf={"Cmd": ["cat", "/y"]}
    )
    assert image.tags == ["sdk:2"]
    assert await call(sdk.containers.run, "sdk:2", remove=True, network_mode="none") == b"y\n"


async def test_the_path_header_is_there_for_head_and_get(api: Any) -> None:
    made = await api.engine.containers.create(api.image, ["true"])
    where = f"/v1.47/containers/{made.id}/archive?path=/var/run"
    for method in ("HEAD", "GET"):
        async with await api.client.request(method, where) as reply:
            assert reply.status == 200
            told = json.loads(base64.b64decode(reply.headers["X-Docker-Container-Path-Stat"]))
            assert (told["name"], told["linkTarget"], told["mode"] >> 27) == ("run", "/run", 1)
            body = await reply.read()
            assert (body == b"") == (method == "HEAD")
    for where, status, words in (
        (f"/containers/{made.id}/archive", 400, "'path' cannot be empty"),
        (f"/containers/{made.id}/archive?path=%00", 400, "NUL"),
        ("/containers/nope/archive?path=/", 404, "No such container"),
        (f"/containers/{made.id}/archive?path=/nope", 404, "Could not find the file /nope"),
    ):
        async with await api.client.request("GET", where) as reply:
            with pytest.raises(HttpError, match=words) as caught:
                await reply.check()
            assert caught.value.status == status


async def test_a_container_that_changed_nothing_says_null(api: Any) -> None:
    made = await api.engine.containers.create(api.image, ["true"])
    async with await api.client.request("GET", f"/containers/{made.id}/changes") as reply:
        assert await reply.json() is None


async def test_forks_over_http(api: Any) -> None:
    made = await api.engine.containers.create(api.image, ["sh", "-c", "echo x > /x"], name="source")
    await made.start()
    await made.wait()
    body = json.dumps({"Names": ["f1", "f2"], "Start": True, "Cmd": ["cat", "/x"]}).encode()
    async with await api.client.request("POST", "/lading/containers/source/fork", body=body) as reply:
        assert reply.status == 201
        forks = (await reply.json())["Containers"]
    assert [each["Name"] for each in forks] == ["f1", "f2"]
    for each in forks:
        await api.engine.containers.get(each["Id"]).wait()
        assert (await api.docker("logs", each["Id"])).out == "x\n"
    for wrong in ({"Count": 0}, {"Count": "2"}, {"Nmes": []}, {"Names": "x"}, {"Count": 2, "Names": ["a1"]}):
        where = "/lading/containers/source/fork"
        async with await api.client.request("POST", where, body=json.dumps(wrong).encode()) as reply:
            assert reply.status == 400, wrong
