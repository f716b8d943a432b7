"""The commands that move images: from and to a real registry, and as files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import images
import pytest
from cli_program import Cli, wait_until
from pushing import push_image
from registry import PASSWORD, USER, LocalRegistry

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    with LocalRegistry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    with LocalRegistry(tmp_path_factory.mktemp("guarded"), auth=True) as registry:
        yield registry


@pytest.fixture(scope="module")
def story(registry: LocalRegistry, busybox_tar: Path, tmp_path_factory: pytest.TempPathFactory) -> images.Image:
    """An image of three layers that is ``story:1`` in the registry."""
    copy = tmp_path_factory.mktemp("base") / "base.tar"
    shutil.copy(busybox_tar, copy)
    with tarfile.open(copy, "a") as tar:
        tar.addfile(tarfile.TarInfo("another"))
    image = images.storied(copy, 3)
    push_image(registry.address, "story:1", image)
    push_image(registry.address, "story:latest", image)
    return image


@pytest.fixture(autouse=True)
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Credentials of the test alone."""
    monkeypatch.setenv("DOCKER_CONFIG", os.fspath(tmp_path / "docker"))
    return tmp_path / "docker" / "config.json"


@pytest.mark.long
def test_pull_tells_and_ends_with_the_name(shared: Cli, registry: LocalRegistry, story: images.Image) -> None:
    name = f"{registry.address}/story"
    said = shared("pull", f"{name}:1").stdout.splitlines()
    assert said[0] == "1: Pulling from story"
    assert said[-3:] == [f"Digest: {story.digest}", f"Status: Downloaded newer image for {name}:1", f"{name}:1"]
    ids = [layer.digest[7:19] for layer in story.layers]
    assert sorted(line for line in said if line.endswith("Pulling fs layer")) == sorted(
        f"{layer}: Pulling fs layer" for layer in ids
    )
    said = shared("pull", name).stdout.splitlines()
    assert (said[0], said[-1]) == ("Using default tag: latest", f"{name}:latest")
    assert shared("pull", "-q", f"{name}@{story.digest}").stdout == f"{name}@{story.digest}\n"
    told = [json.loads(line) for line in shared("image", "pull", "--json", f"{name}:1").stdout.splitlines()]
    assert told[-1] == {"status": f"Status: Image is up to date for {name}:1"}
    missing = f"lading: manifest for {name}:nope not found: manifest unknown\n"
    assert shared("pull", f"{name}:nope", code=1).stderr == missing
    steps = [json.loads(line) for line in shared("history", "--format", "json", f"{name}:1").stdout.splitlines()]
    assert [step["CreatedBy"] for step in steps] == ["CMD", "step 2", "step 1", "step 0"]
    assert [step["ID"] for step in steps] == [story.id[7:19], *["<missing>"] * 3]
    table = shared("history", "--no-trunc", f"{name}:1").stdout.splitlines()
    assert table[0].split() == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert table[1].startswith(story.id)
    shown = json.loads(shared("inspect", "--type", "image", f"{name}:1").stdout)
    assert shown[0]["RepoDigests"] == [f"{name}@{story.digest}"]


def test_run_pulls_what_is_not_there(shared: Cli, registry: LocalRegistry, story: images.Image) -> None:
    push_image(registry.address, "wanted:1", story)
    name = f"{registry.address}/wanted:1"
    assert shared("run", "--rm", "--pull", "never", name, code=125).stderr == f"lading: No such image: {name}\n"
    done = shared("run", "--rm", name)
    assert done.stdout == "hello from layer 2\n"
    assert done.stderr.startswith(f"lading: Unable to find image '{name}' locally\n1: Pulling from wanted\n")
    again = shared("run", "--rm", name)
    assert (again.stdout, again.stderr) == ("hello from layer 2\n", "")
    always = shared("run", "--rm", "--pull", "always", name)
    assert (always.stdout, "Image is up to date" in always.stderr) == ("hello from layer 2\n", True)
    absent = f"{registry.address}/absent:1"
    failed = shared("run", absent, "true", code=125)
    assert failed.stderr.splitlines()[-1] == f"lading: manifest for {absent} not found: manifest unknown"


@pytest.mark.long
def test_login_push_pull_and_logout(shared: Cli, guarded: LocalRegistry, docker_config: Path) -> None:
    name = f"{guarded.address}/team/busybox:1"
    shared("tag", "busybox:1", name)
    assert f"run `lading login {guarded.address}`" in shared("push", name, code=1).stderr
    wrong = shared("login", "-u", USER, "--password-stdin", guarded.address, stdin="nope\n", code=1)
    assert ("refuses" in wrong.stderr, "nope" in wrong.stderr, docker_config.exists()) == (True, False, False)
    done = shared("login", "-u", USER, "--password-stdin", f"http://{guarded.address}/", stdin=f"{PASSWORD}\n")
    assert (done.stdout, str(docker_config) in done.stderr) == ("Login Succeeded\n", True)
    assert list(json.loads(docker_config.read_text())["auths"]) == [guarded.address]
    pushed = shared("push", name).stdout.splitlines()
    assert pushed[0] == f"The push refers to repository [{guarded.address}/team/busybox]"
    assert pushed[-1].startswith("1: digest: sha256:")
    shared("tag", "busybox:1", f"{guarded.address}/team/busybox:2")
    quiet = shared("push", "-q", "-a", f"{guarded.address}/team/busybox").stdout.splitlines()
    assert quiet == [name, f"{guarded.address}/team/busybox:2"]
    shared("rmi", name, f"{guarded.address}/team/busybox:2")
    assert shared("pull", "-q", name).stdout == f"{name}\n"
    assert shared("logout", guarded.address).stdout == f"Removing login credentials for {guarded.address}\n"
    assert shared("logout", guarded.address).stdout == f"Not logged in to {guarded.address}\n"
    assert "pull access denied" in shared("pull", name, code=1).stderr
    assert PASSWORD not in shared("log").stdout


def test_an_interrupted_pull_leaves_nothing(shared: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        name = f"127.0.0.1:{listener.getsockname()[1]}/slow:1"
        pulling = shared.start("pull", name)
        wait_until(lambda: f"{name} for linux/" in shared("log", "--type", "pull.requested").stdout, "the request")
        pulling.send_signal(signal.SIGINT)
        assert pulling.wait(10) == 130
        pulling.communicate()
        wait_until(lambda: "it was cancelled" in shared("log", "--type", "pull.failed").stdout, "the failure")
    assert "pull.requested" in shared("log", "--image", name).stdout


@pytest.mark.long
def test_what_is_saved_is_loaded_again(shared: Cli, tmp_path: Path) -> None:
    archive = tmp_path / "some.tar"
    shared("tag", "busybox:1", "kept:1")
    image = json.loads(shared("image", "inspect", "kept:1").stdout)[0]["Id"]
    assert shared("save", "-o", os.fspath(archive), "kept:1").stdout == ""
    assert archive.stat().st_mode & 0o777 == 0o600
    shared("rmi", "kept:1")
    assert shared("load", "-i", os.fspath(archive)).stdout == "Loaded image: kept:1\n"
    assert json.loads(shared("image", "inspect", "kept:1").stdout)[0]["Id"] == image
    with tarfile.open(archive) as tar:
        assert "manifest.json" in tar.getnames()
    shared("image", "save", "--format", "oci", "-o", os.fspath(archive), "kept:1")
    with tarfile.open(archive) as tar:
        assert "manifest.json" not in tar.getnames()
    before = archive.read_bytes()
    assert (
        shared("save", "-o", os.fspath(archive), "nope", code=1).stderr == "lading: No such image: nope:latest\n"
    )
    assert archive.read_bytes() == before, "what was there is not touched"
    assert [path.name for path in tmp_path.iterdir()] == ["some.tar"]
    assert shared("load", "-i", os.fspath(tmp_path), code=1).stderr.startswith("lading: ")
    assert "No such file" in shared("load", "-i", "/no/such/file", code=1).stderr
    bad = tmp_path / "bad.tar"
    bad.write_bytes(b"this is no archive" * 100)
    assert shared("load", "-i", os.fspath(bad), code=1).stderr.count("\n") == 1
    shared("rmi", "kept:1")


def test_df_tells_what_images_share(shared: Cli, registry: LocalRegistry) -> None:
    below = images.layer(images.file("below", b"x" * 500_000), form="gzip")
    for name in ("one", "two"):
        top = images.layer(images.file(name, b"y" * 100_000), form="gzip")
        push_image(registry.address, f"{name}:1", images.image(below, top))
        shared("pull", "-q", f"{registry.address}/{name}:1")
    found = json.loads(shared("df", "--json").stdout)["images"]
    each: dict[str, Any] = {image["names"][0]: image for image in found["each"] if image["names"]}
    one, two = (each[f"{registry.address}/{name}:1"] for name in ("one", "two"))
    assert one["shared"] == two["shared"] > 500_000
    assert one["size"] - one["shared"] == one["unique"] > 100_000
    assert found["size"] == found["layers"] + found["archives"] + found["documents"]
    assert 0 < found["reclaimable"] <= found["size"]
    row = next(line.split() for line in shared("df", "-v").stdout.splitlines() if "/one " in line)
    assert (row[1], row[-1]) == ("1", "0")


@pytest.mark.long
def test_an_export_is_a_containers_file_system(shared: Cli, tmp_path: Path) -> None:
    shared("run", "--name", "writer", "busybox:1", "sh", "-c", "echo written > /new; rm /etc/hello")
    archive = tmp_path / "root.tar"
    shared("export", "-o", os.fspath(archive), "writer")
    with tarfile.open(archive) as tar:
        names = {name.removeprefix("./") for name in tar.getnames()}
        file = tar.extractfile(next(member for member in tar if member.name.endswith("new")))
        assert file is not None
        assert file.read() == b"written\n"
    assert "bin/busybox" in names
    assert not [name for name in names if ".wh." in name or name == "etc/hello"]
    shared("import", os.fspath(archive), "again:1")
    assert shared("run", "--rm", "again:1", "cat", "/new").stdout == "written\n"
    assert shared("export", "nope", code=1).stderr == "lading: No such container: nope\n"
