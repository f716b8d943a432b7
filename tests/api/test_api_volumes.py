"""Volumes and mounts through the API, the stock docker client, and the Docker SDK for Python."""

from __future__ import annotations

import functools
import json
import os
import time
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.types
import pytest
from mounted import load_image
from sdk import call

pytestmark = [pytest.mark.real, pytest.mark.slow]

V = "/v1.47"
QUIET = ("--network", "none")


async def test_a_volume_from_create_to_delete(api: Any) -> None:
    made = {"Name": "box", "Labels": {"a": "b"}, "DriverOpts": {}, "Driver": "local"}
    status, shown = await api.ask("POST", f"{V}/volumes/create", made)
    assert status == 201
    where = str(api.engine.root / "volumes/box/_data")
    expected = {"Driver": "local", "Labels": {"a": "b"}, "Mountpoint": where, "Name": "box", "Options": None}
    assert {key: shown[key] for key in expected} == expected
    assert shown["CreatedAt"].startswith("20")
    assert await api.ask("POST", f"{V}/volumes/create", made) == (201, shown)
    assert await api.ask("GET", f"{V}/volumes/box") == (200, shown)
    assert await api.ask("GET", f"{V}/volumes") == (200, {"Volumes": [shown], "Warnings": None})
    used = await api.create("true", host={"Binds": ["box:/data"]})
    words = f"remove box: volume is in use - [{used}]"
    assert await api.ask("DELETE", f"{V}/volumes/box") == (409, {"message": words})
    await api.ask("DELETE", f"{V}/containers/{used}?v=1")
    assert await api.ask("DELETE", f"{V}/volumes/box") == (204, b"")
    missing = (404, {"message": "get box: no such volume"})
    assert await api.ask("DELETE", f"{V}/volumes/box") == missing
    assert await api.ask("GET", f"{V}/volumes/box") == missing
    assert await api.ask("DELETE", f"{V}/volumes/box", force="1") == (204, b"")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"Name": "../x"}, 400, 'create ../x: "../x" includes invalid characters for a local volume name'),
        ({"Name": "x"}, 400, "volume name is too short"),
        ({"Name": 5}, 400, "invalid Name"),
        ({"Labels": {"a": 1}}, 400, "invalid Labels"),
        ({"Driver": "flocker"}, 404, "flocker"),
        ({"DriverOpts": {"what": "x"}}, 400, 'invalid option: "what"'),
        ({"DriverOpts": {"type": "tmpfs"}}, 400, 'missing required option: "device"'),
        ({"DriverOpts": {"type": "nfs", "o": "addr=x", "device": ":/x"}}, 400, "mount a network file system"),
        ({"DriverOpts": {"type": "none", "o": "bind", "device": "rel"}}, 400, "absolute path"),
        ({"DriverOpts": {"size": "1g"}}, 400, "no quota support"),
        ({"ClusterVolumeSpec": {"Group": "x"}}, 501, "cluster"),
    ],
)
async def test_a_volume_that_can_t_be(api: Any, body: dict[str, Any], status: int, words: str) -> None:
    got, answer = await api.ask("POST", f"{V}/volumes/create", body)
    assert (got, words in answer["message"]) == (status, True), answer
    assert (await api.ask("GET", f"{V}/volumes"))[1]["Volumes"] == []


async def test_a_retry_of_a_create_makes_no_second_volume(api: Any) -> None:
    headers = {"Lading-Command": "a" * 32}
    first = await api.ask("POST", f"{V}/volumes/create", {}, headers=headers)
    assert await api.ask("POST", f"{V}/volumes/create", {}, headers=headers) == first
    assert len((await api.ask("GET", f"{V}/volumes"))[1]["Volumes"]) == 1


async def test_lists_are_filtered(api: Any) -> None:
    for name, labels in (("one", {"a": "1"}), ("two", {"a": "2"}), ("three", {})):
        await api.ask("POST", f"{V}/volumes/create", {"Name": name, "Labels": labels})
    await api.create("true", host={"Binds": ["one:/data"]})

    async def listed(**filters: Any) -> list[str]:
        status, said = await api.ask("GET", f"{V}/volumes", filters=json.dumps(filters))
        assert status == 200, said
        return [volume["Name"] for volume in said["Volumes"]]

    assert await listed() == ["one", "three", "two"]
    assert await listed(name=["t"]) == ["three", "two"]
    assert await listed(label=["a"]) == ["one", "two"]
    assert await listed(label=["a=2"]) == ["two"]
    assert await listed(dangling=["true"]) == ["three", "two"]
    assert await listed(dangling={"false": True}) == ["one"]
    assert await listed(driver=["nope"]) == []
    status, _ = await api.ask("GET", f"{V}/volumes", filters='{"what":["x"]}')
    assert status == 400


async def test_what_a_container_mounts_is_shown(api: Any, tmp_path: Path) -> None:
    host = {
        "Binds": ["box:/data:ro", f"{tmp_path}:/host"],
        "Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20}}],
    }
    made = await api.create("true", host=host, Volumes={"/own": {}})
    _, shown = await api.ask("GET", f"{V}/containers/{made}/json")
    points = {point["Destination"]: point for point in shown["Mounts"]}
    assert points["/data"] | {"Source": ""} == {
        "Type": "volume",
        "Name": "box",
        "Source": "",
        "Destination": "/data",
        "Driver": "local",
        "Mode": "",
        "RW": False,
        "Propagation": "",
    }
    assert (points["/host"]["Type"], points["/host"]["Source"]) == ("bind", str(tmp_path))
    assert points["/host"]["Propagation"] == "rprivate"
    assert points["/t"]["Type"] == "tmpfs"
    assert len(points["/own"]["Name"]) == 64
    assert shown["HostConfig"]["Binds"] == host["Binds"]
    assert shown["Config"]["Volumes"] == {"/own": {}}
    _, listed = await api.ask("GET", f"{V}/containers/json", all="1")
    assert listed[0]["Mounts"] == shown["Mounts"]
    for wrong, words in (
        ({"Binds": ["box:/a", "more:/a"]}, "Duplicate mount point: /a"),
        ({"Binds": ["box:/a"], "Tmpfs": {"/a/": ""}}, "Duplicate mount point: /a"),
        ({"Mounts": [{"Type": "bind", "Source": "/no/such", "Target": "/a"}]}, "bind source path does not exist"),
        ({"Mounts": [{"Type": "volume", "Target": "/proc/x"}]}, "inside /proc"),
    ):
        body = {"Image": api.image, "Cmd": ["true"], "HostConfig": wrong}
        status, said = await api.ask("POST", f"{V}/containers/create", body)
        assert (status, words in said["message"]) == (400, True), said
    assert [state.name for state in api.engine.volumes.list() if not state.anonymous] == ["box"]


async def test_docker_volume_commands(api: Any) -> None:
    assert (await api.docker("volume", "create", "--label", "a=b", "box")).out == "box\n"
    anonymous = (await api.docker("volume", "create")).out.strip()
    assert len(anonymous) == 64
    assert (await api.docker("volume", "ls", "-q")).out.split() == sorted([anonymous, "box"])
    shown = await api.docker("volume", "inspect", "--format", "{{.Driver}} {{.Scope}} {{.Labels.a}}", "box")
    assert shown.out == "local local b\n"
    assert (await api.docker("volume", "rm", "box")).out == "box\n"
    said = await api.docker("volume", "rm", "box")
    assert (said.code, "no such volume" in said.err) == (1, True)
    assert (await api.docker("volume", "rm", "-f", "box")).code == 0
    await api.docker("volume", "create", "kept")
    said = await api.docker("volume", "prune", "-f")
    assert said.out == f"Deleted Volumes:\n{anonymous}\n\nTotal reclaimed space: 4.096kB\n"
    said = await api.docker("volume", "prune", "-af")
    assert "kept" in said.out
    assert (await api.docker("volume", "create", "../x")).code == 1


async def test_docker_run_with_mounts(api: Any, tmp_path: Path) -> None:
    async def run(*options: str, line: str, code: int = 0) -> str:
        said = await api.docker("run", "--rm", *QUIET, *options, api.image, "sh", "-c", line)
        assert said.code == code, said
        return str(said.out)

    await run("-v", "box:/data", line="echo kept > /data/x")
    assert (
        await run("-v", "box:/data:ro", line="cat /data/x; touch /data/y 2>/dev/null || echo no") == "kept\nno\n"
    )
    assert await run("--mount", "type=volume,src=box,dst=/d,readonly", line="cat /d/x") == "kept\n"
    await run("-v", f"{tmp_path}/new/dir:/data", line="touch /data/made")
    assert (tmp_path / "new/dir/made").exists()
    assert await run("--mount", f"type=bind,src={tmp_path},dst=/h", line="ls /h/new") == "dir\n"
    said = await api.docker("run", *QUIET, "--mount", "type=bind,src=/no/such,dst=/h", api.image, "true")
    assert (said.code, 'invalid mount config for type "bind": bind source path' in said.err) == (125, True)
    await run("--tmpfs", "/t:size=64k,mode=700", line="test $(stat -c %a /t) = 700; touch /t/x")
    seen = await run("--mount", "type=tmpfs,dst=/t,tmpfs-size=65536", line="grep ' /t ' /proc/mounts")
    assert {"size=64k", "nosuid", "nodev", "noexec"} <= set(seen.split()[3].split(","))
    assert await run("-v", "/own", line="touch /own/x; ls /own") == "x\n"
    assert [state.name for state in api.engine.volumes.list()] == ["box"]  # --rm took the anonymous one
    said = await api.docker("create", "--name", "first", "-v", "/a", "-v", "box:/b", api.image, "true")
    assert said.code == 0
    assert await run("--volumes-from", "first", line="ls -d /a; cat /b/x") == "/a\nkept\n"
    assert await run("--volumes-from", "first:ro", line="touch /b/y 2>/dev/null || echo no") == "no\n"
    assert len(api.engine.volumes.list()) == 2
    assert (await api.docker("rm", "-v", "first")).code == 0
    assert [state.name for state in api.engine.volumes.list()] == ["box"]
    said = await api.docker("run", *QUIET, "-v", "x:/a:rw,ro", api.image, "true")
    assert (said.code, "invalid mode" in said.err) == (125, True), said
    option = "type=volume,dst=/d,volume-opt=type=tmpfs,volume-opt=device=tmpfs,volume-opt=o=size=1m,src=mem"
    assert "size=1024k" in await run("--mount", option, line="grep ' /d ' /proc/mounts")


async def test_an_image_s_volumes_and_their_content(api: Any, tmp_path: Path, busybox_tar: Path) -> None:
    image = await load_image(api.engine, tmp_path, busybox_tar, volumes=("/etc",))
    said = await api.docker("run", "--name", "it", *QUIET, image, "cat", "/etc/hello")
    assert (said.code, said.out, said.err) == (0, "hello from the image\n", "")
    [volume] = api.engine.volumes.list()
    shown = await api.docker("inspect", "--format", "{{json .Config.Volumes}} {{(index .Mounts 0).Name}}", "it")
    assert shown.out == f'{{"/etc":{{}}}} {volume.name}\n'
    assert (await api.docker("rm", "it")).code == 0
    assert len(api.engine.volumes.list()) == 1
    said = await api.docker("system", "prune", "--volumes", "-f")
    assert volume.name in said.out


async def test_events_tell_of_volumes(api: Any) -> None:
    await api.docker("volume", "create", "box")
    await api.docker("run", "--rm", *QUIET, "-v", "box:/data:ro", api.image, "true")
    await api.docker("volume", "rm", "box")

    async def told(*options: str) -> list[str]:
        until = f"{time.time():.9f}"
        said = await api.docker("events", "--since", "1", "--until", until, *options)
        assert said.code == 0, said
        return list(said.out.splitlines())

    events = [json.loads(line) for line in await told("--filter", "type=volume", "--format", "json")]
    assert [event["Action"] for event in events] == ["create", "mount", "unmount", "destroy"]
    assert {event["Actor"]["ID"] for event in events} == {"box"}
    mounted = events[1]["Actor"]["Attributes"]
    assert (mounted["destination"], mounted["read/write"], len(mounted["container"])) == ("/data", "false", 64)
    lines = await told("--format", "{{.Type}} {{.Action}}")
    assert [line for line in lines if not line.startswith("image")] == [
        *("volume create", "container create", "volume mount", "container start", "container die"),
        *("volume unmount", "container destroy", "volume destroy"),
    ]
    assert await told("--filter", "volume=other") == []
    assert len(await told("--filter", "volume=box")) == 4


async def test_what_volumes_take(api: Any) -> None:
    await api.docker(
        "run", *QUIET, "-v", "box:/d", api.image, "dd", "if=/dev/zero", "of=/d/x", "bs=1024", "count=64"
    )
    _, said = await api.ask("GET", f"{V}/system/df", type="volume")
    [volume] = said["Volumes"]
    assert volume["UsageData"]["RefCount"] == 1
    assert 64 * 1024 <= volume["UsageData"]["Size"] <= 80 * 1024
    shown = await api.docker("system", "df", "--format", "{{.Type}}|{{.TotalCount}}|{{.Active}}")
    assert "Local Volumes|1|1" in shown.out.splitlines()


async def test_a_dry_run_changes_nothing(api: Any) -> None:
    made = await api.create("true", Volumes={"/own": {}})
    _, said = await api.ask("POST", f"{V}/volumes/prune", dry_run="1")
    assert said["VolumesDeleted"] is None
    _, said = await api.ask("POST", f"{V}/volumes/prune", dry_run="1", stopped="1")
    [name] = said["VolumesDeleted"]
    assert len(api.engine.volumes.list()) == 1
    await api.ask("DELETE", f"{V}/containers/{made}")
    assert await api.ask("POST", f"{V}/volumes/prune") == (200, {"VolumesDeleted": [name], "SpaceReclaimed": 4096})
    await api.ask("POST", f"{V}/volumes/create", {"Name": "named"})
    assert (await api.ask("POST", f"{V}/volumes/prune"))[1]["VolumesDeleted"] is None
    assert (await api.ask("POST", "/v1.41/volumes/prune"))[1]["VolumesDeleted"] == ["named"]


async def test_the_sdk(api: Any, sdk: docker.DockerClient, tmp_path: Path) -> None:
    volume = await call(sdk.volumes.create, "box", labels={"a": "b"})
    assert (volume.name, volume.attrs["Labels"]) == ("box", {"a": "b"})
    run = functools.partial(call, sdk.containers.run, api.image, remove=True, network_mode="none")
    await run(["sh", "-c", "echo kept > /d/x"], volumes={"box": {"bind": "/d", "mode": "rw"}})
    mount = docker.types.Mount("/d", "box", read_only=True)
    assert await run(["cat", "/d/x"], mounts=[mount]) == b"kept\n"
    assert await run(["ls", "/h"], volumes=[f"{tmp_path}:/h"], tmpfs={"/t": "size=1m"}) != b""
    assert [each.name for each in await call(sdk.volumes.list, filters={"label": "a"})] == ["box"]
    with pytest.raises(docker.errors.NotFound):
        await call(sdk.volumes.get, "nope")
    kept = await call(sdk.containers.create, api.image, "true", volumes=["box:/d"], network_mode="none")
    with pytest.raises(docker.errors.APIError, match="in use"):
        await call(volume.remove)
    await call(kept.remove, v=True)
    await call(volume.remove)
    assert (await call(sdk.volumes.prune))["SpaceReclaimed"] == 0
    assert os.listdir(api.engine.root / "volumes") == []
