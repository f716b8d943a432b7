"""A container's life in bare HTTP, with a real runtime: statuses, words, shapes, lists, waiting."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import trio
from stage import happens, printed

from lading.events.container import Exited

pytestmark = [pytest.mark.real, pytest.mark.slow]

FOREVER = ("sleep", "1000")
V = "/v1.47"


async def test_start_stop_and_kill_answer_as_docker_does(api: Any) -> None:
    container = await api.create("sh", "-c", "trap 'exit 3' TERM; echo ready; sleep 1000 & wait", name="web")
    path = f"{V}/containers/web"
    assert await api.ask("POST", f"{path}/stop") == (304, b"")
    status, said = await api.ask("POST", f"{path}/kill")
    assert (status, said["message"]) == (409, f"cannot kill container: web: container {container} is not running")
    assert await api.ask("POST", f"{path}/start") == (204, b"")
    assert await api.ask("POST", f"{path}/start") == (304, b"")
    status, said = await api.ask("DELETE", path)
    words = (
        'cannot remove container "/web": container is running: stop the container before removing or force remove'
    )
    assert (status, said["message"]) == (409, words)
    await printed(api.engine.containers.get(container), b"ready")
    assert await api.ask("POST", f"{path}/stop", t="5") == (204, b"")
    assert await api.ask("POST", f"{path}/wait") == (200, {"StatusCode": 3})
    assert await api.ask("POST", f"{path}/kill", signal="HUP")
    assert (await api.ask("POST", f"{path}/kill", signal="NOPE"))[0] in (400, 409)
    assert await api.ask("DELETE", path) == (204, b"")
    assert await api.ask("DELETE", path) == (404, {"message": "No such container: web"})


async def test_names_are_held_by_one(api: Any) -> None:
    first = await api.create(*FOREVER, name="web")
    other = await api.create(*FOREVER)
    taken = (
        f'Conflict. The container name "/web" is already in use by container "{first}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )
    body = {"Image": api.image, "Cmd": ["true"]}
    assert await api.ask("POST", f"{V}/containers/create", body, name="/web") == (409, {"message": taken})
    assert await api.ask("POST", f"{V}/containers/{other}/rename", name="web") == (409, {"message": taken})
    assert await api.ask("POST", f"{V}/containers/{other}/rename", name="db") == (204, b"")
    assert (await api.ask("POST", f"{V}/containers/db/rename", name="db"))[0] == 400
    assert (await api.ask("POST", f"{V}/containers/db/rename"))[0] == 400
    assert (await api.ask("POST", f"{V}/containers/db/rename", name="a b"))[0] == 400
    status, shown = await api.ask("GET", f"{V}/containers/{other}/json")
    assert (status, shown["Name"]) == (200, "/db")


async def test_a_command_that_cant_start_says_why(api: Any) -> None:
    for command, code, words in (
        ("nope", 127, "executable file not found in $PATH"),
        ("/nope", 127, "executable file not found in $PATH"),
        ("/etc", 126, "permission denied"),
        ("/etc/passwd", 126, "permission denied"),
    ):
        container = await api.create(command)
        answer, said = await api.ask("POST", f"{V}/containers/{container}/start")
        assert (answer, words in said["message"]) == (400, True), said
        _, shown = await api.ask("GET", f"{V}/containers/{container}/json")
        state = shown["State"]
        assert (state["Status"], state["ExitCode"], words in state["Error"]) == ("created", code, True)
        assert await api.ask("POST", f"{V}/containers/{container}/wait") == (200, {"StatusCode": code})


async def test_one_that_cant_start_and_was_to_be_removed_is(api: Any) -> None:
    container = await api.create("nope", host={"AutoRemove": True})
    async with await api.client.request("POST", f"{V}/containers/{container}/wait?condition=removed") as waiting:
        assert waiting.status == 200
        assert (await api.ask("POST", f"{V}/containers/{container}/start"))[0] == 400
        assert await waiting.json() == {"StatusCode": 127}
    assert (await api.ask("GET", f"{V}/containers/{container}/json"))[0] == 404


async def test_inspect_tells_everything(api: Any) -> None:
    config = {"WorkingDir": "/tmp", "User": "1000", "Labels": {"k": "v"}, "OpenStdin": True, "StopTimeout": 3}
    more = {"Env": ["A=b"], "StopSignal": "INT", "Entrypoint": ["/bin/env"], "host": {"ReadonlyRootfs": True}}
    container = await api.create("sleep", "1000", name="web", **config, **more)
    _, made = await api.ask("GET", f"{V}/containers/web/json")
    assert made["State"] == {
        "Status": "created", "Running": False, "Paused": False, "Restarting": False, "OOMKilled": False,
        "Dead": False, "Pid": 0, "ExitCode": 0, "Error": "", "StartedAt": "0001-01-01T00:00:00Z",
        "FinishedAt": "0001-01-01T00:00:00Z",
    }  # fmt: skip
    assert await api.ask("POST", f"{V}/containers/web/start") == (204, b"")
    _, shown = await api.ask("GET", f"{V}/containers/web/json", size="1")
    assert (shown["Id"], shown["Name"], shown["Path"]) == (container, "/web", "/bin/env")
    assert shown["Args"] == ["sleep", "1000"]
    assert (shown["State"]["Status"], shown["State"]["Running"]) == ("running", True)
    assert os.path.exists(f"/proc/{shown['State']['Pid']}")
    assert "A=b" in shown["Config"]["Env"]
    config = {**config, "StopSignal": "SIGINT", "Tty": False, "Entrypoint": ["/bin/env"]}
    assert {key: shown["Config"][key] for key in config} == config
    assert (shown["HostConfig"]["NetworkMode"], shown["HostConfig"]["ReadonlyRootfs"]) == ("none", True)
    assert os.path.isdir(shown["GraphDriver"]["Data"]["UpperDir"])
    assert os.path.isdir(os.path.dirname(shown["LogPath"]))
    assert shown["SizeRw"] == 0
    assert shown["SizeRootFs"] > 1 << 20
    assert shown["Mounts"] == []


async def test_the_list_is_filtered_and_limited(api: Any) -> None:
    one = await api.create("true", name="one", Labels={"tier": "web", "x": "1"})
    two = await api.start(*FOREVER, name="two", Labels={"tier": "db"})
    three = await api.start("sh", "-c", "exit 9", name="three")
    assert await api.ask("POST", f"{V}/containers/three/wait") == (200, {"StatusCode": 9})

    async def ids(filters: dict[str, Any] | None = None, **query: str) -> list[str]:
        if filters is not None:
            query["filters"] = json.dumps(filters)
        status, shown = await api.ask("GET", f"{V}/containers/json", **query)
        assert status == 200
        return [each["Id"] for each in shown]

    assert await ids() == [two]
    assert await ids(all="1") == [three, two, one]
    assert await ids(limit="2") == [three, two]
    assert await ids({"status": {"exited": True}}) == [three]
    assert await ids({"status": ["exited", "created"]}) == [three, one]
    assert await ids({"exited": ["9"]}, all="1") == [three]
    assert await ids({"exited": ["0"]}, all="1") == []
    assert await ids({"name": ["^/one$", "wo"]}, all="1") == [two, one]
    assert await ids({"id": [one[:12]]}, all="1") == [one]
    assert await ids({"label": ["tier"]}, all="1") == [two, one]
    assert await ids({"label": ["tier=web", "x"]}, all="1") == [one]
    assert await ids({"ancestor": [api.image]}, all="1") == [three, two, one]
    assert await ids({"ancestor": ["nope"]}, all="1") == []
    assert await ids({"before": ["three"]}) == [two, one]
    assert await ids({"since": ["one"]}, all="1") == [three, two]
    assert (await api.ask("GET", f"{V}/containers/json", since="nope"))[0] == 404

    _, [shown] = await api.ask("GET", f"{V}/containers/json", filters=json.dumps({"name": ["two"]}), size="1")
    assert (shown["Names"], shown["State"], shown["Command"]) == (["/two"], "running", "sleep 1000")
    assert shown["Status"].startswith("Up ")
    assert (shown["Image"], shown["SizeRw"]) == (api.image, 0)


async def test_a_container_that_is_stuck_blocks_no_list(api: Any) -> None:
    """One that ignores its signal while somebody waits for its stop."""
    container = await api.start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    await printed(api.engine.containers.get(container), b"ready")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(api.ask, "POST", f"{V}/containers/{container}/stop?t=1000")
        await trio.sleep(0.1)
        for path in (
            "/containers/json",
            f"/containers/{container}/json",
            "/_ping",
            f"/containers/{container}/logs?stdout=1",
        ):
            before = trio.current_time()
            assert (await api.ask("GET", V + path))[0] == 200
            assert trio.current_time() - before < 1
        assert (await api.ask("POST", f"{V}/containers/{container}/kill"))[0] == 204


@pytest.mark.parametrize("condition", ["next-exit", "removed"])
async def test_a_wait_that_comes_before_the_start_misses_no_short_run(api: Any, condition: str) -> None:
    container = await api.create("sh", "-c", "exit 5", host={"AutoRemove": condition == "removed"})
    target = f"{V}/containers/{container}/wait?condition={condition}"
    async with await api.client.request("POST", target) as waiting:
        assert waiting.status == 200  # the header is there before anything happened
        await api.ask("POST", f"{V}/containers/{container}/start")
        with trio.fail_after(10):
            assert await waiting.json() == {"StatusCode": 5}


async def test_waiting_conditions_differ(api: Any) -> None:
    container = await api.create("sh", "-c", "exit 6")
    path = f"{V}/containers/{container}/wait"
    assert await api.ask("POST", path) == (200, {"StatusCode": 0})
    assert (await api.ask("POST", path, condition="nope"))[0] == 400
    await api.ask("POST", f"{V}/containers/{container}/start")
    await happens(api.engine, container, Exited)
    assert await api.ask("POST", path, condition="not-running") == (200, {"StatusCode": 6})
    async with await api.client.request("POST", f"{path}?condition=next-exit") as waiting:
        with trio.move_on_after(0.1) as scope:
            await waiting.read()
        assert scope.cancelled_caught
    async with await api.client.request("POST", f"{path}?condition=removed") as waiting:
        assert await api.ask("DELETE", f"{V}/containers/{container}") == (204, b"")
        assert await waiting.json() == {"StatusCode": 6}


async def test_a_wait_for_a_removal_that_fails_says_so(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(5, "Input/output error")

    container = await api.create("true")
    path = f"{V}/containers/{container}"
    async with await api.client.request("POST", f"{path}/wait?condition=removed") as waiting:
        with monkeypatch.context() as patch:
            patch.setattr(type(api.engine.core.paths), "discard", refuse)
            assert (await api.ask("DELETE", path))[0] == 500
        with trio.fail_after(10):
            said = await waiting.json()
    assert "could not be removed" in said["Error"]["Message"]
    assert (await api.ask("GET", f"{path}/json"))[1]["State"]["Dead"] is True
    assert await api.ask("DELETE", path) == (204, b"")
