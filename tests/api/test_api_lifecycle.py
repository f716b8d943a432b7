"""Settings of containers over HTTP: given, shown back, and changed; pause, restart and update in moby's words."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from stage import happens, printed, until

from lading.events.container import Exited, Paused

pytestmark = [pytest.mark.real, pytest.mark.slow]

V = "/v1.47"
MIB = 1 << 20
SECOND = 10**9
FOREVER = ("sleep", "1000")
READY = ("sh", "-c", "trap 'exit 3' TERM; echo ready; sleep 1000 & wait")

HOST: dict[str, Any] = {
    "Memory": 64 * MIB, "MemoryReservation": 32 * MIB, "MemorySwap": -1, "NanoCpus": 500_000_000,
    "CpuShares": 512, "PidsLimit": 50, "CapAdd": ["NET_ADMIN"], "CapDrop": ["CHOWN"],
    "SecurityOpt": ["no-new-privileges", "seccomp=unconfined"], "MaskedPaths": [], "ReadonlyPaths": ["/proc/bus"],
    "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/nothing", "CgroupPermissions": "rw"}],
    "DeviceCgroupRules": ["c 1:3 rw"], "GroupAdd": ["1000"], "Sysctls": {"kernel.msgmax": "8192"},
    "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}], "OomScoreAdj": 100, "ShmSize": 8 * MIB,
    "ExtraHosts": ["db:10.0.0.1"], "Dns": ["10.0.0.2"], "DnsSearch": ["a.example"], "DnsOptions": ["ndots:2"],
    "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "IpcMode": "shareable",
    "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
    "LadingDeadline": 3600 * SECOND, "LadingRestartUnhealthy": True,
}  # fmt: skip
HEALTH = {
    "Test": ["CMD-SHELL", "true"],
    "Interval": 3600 * SECOND,
    "Timeout": SECOND,
    "StartPeriod": 2 * SECOND,
    "StartInterval": 3600 * SECOND,
    "Retries": 5,
}


async def becomes(test: Callable[[], Awaitable[bool]]) -> None:
    """Return once ``test`` is true, which nobody tells of."""
    with trio.fail_after(20):
        while True:
            if await test():
                return
            await trio.sleep(0.02)


async def test_everything_that_is_given_is_shown_back(api: Any) -> None:
    container = await api.create(*FOREVER, host=HOST, Healthcheck=HEALTH, Tty=True, Domainname="a.example")
    status, shown = await api.ask("GET", f"{V}/containers/{container}/json")
    assert status == 200
    assert {name: shown["HostConfig"][name] for name in HOST} == HOST
    config = {"Healthcheck": HEALTH, "Tty": True, "Domainname": "a.example"}
    assert {name: shown["Config"][name] for name in config} == config
    assert ("Health" in shown["State"], shown["RestartCount"]) == (False, 0)


async def test_what_is_shown_makes_such_a_container_again(api: Any) -> None:
    first = await api.create(*FOREVER, host=HOST, Healthcheck=HEALTH)
    _, shown = await api.ask("GET", f"{V}/containers/{first}/json")
    host = {name: value for name, value in shown["HostConfig"].items() if name != "CgroupnsMode"}
    status, made = await api.ask("POST", f"{V}/containers/create", {**shown["Config"], "HostConfig": host})
    assert status == 201, made
    _, again = await api.ask("GET", f"{V}/containers/{made['Id']}/json")
    assert again["HostConfig"] == shown["HostConfig"]
    assert again["Config"] == shown["Config"]


async def test_a_plain_container_shows_what_it_gets_anyway(api: Any) -> None:
    container = await api.create(*FOREVER)
    _, shown = await api.ask("GET", f"{V}/containers/{container}/json")
    host = shown["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"], host["ShmSize"]) == (0, 0, None, 64 * MIB)
    assert (host["RestartPolicy"], host["IpcMode"]) == ({"Name": "no", "MaximumRetryCount": 0}, "private")
    assert host["CgroupnsMode"] == ("private" if api.engine.core.host.cgroup_v2 else "host")
    assert "Healthcheck" not in shown["Config"]
    named = await api.create(*FOREVER, host={"Memory": 64 * MIB})
    _, shown = await api.ask("GET", f"{V}/containers/{named}/json")
    assert shown["HostConfig"]["MemorySwap"] == 128 * MIB


async def test_a_runtime_may_be_named_if_it_is_the_one_there_is(api: Any) -> None:
    runtime = (await api.engine.core.runtime()).name
    await api.create(*FOREVER, host={"Runtime": runtime})
    body = {"Image": api.image, "HostConfig": {"NetworkMode": "none", "Runtime": "nope"}}
    status, said = await api.ask("POST", f"{V}/containers/create", body)
    assert (status, said["message"]) == (400, "unknown or invalid runtime name: nope")


async def test_values_that_the_machine_or_the_kernel_refuses_are_400(api: Any) -> None:
    for host, status, words in (
        ({"Sysctls": {"kernel.core_pattern": "1"}}, 400, "invalid sysctl"),
        ({"Devices": [{"PathOnHost": "/dev/no-such-device"}]}, 500, "/dev/no-such-device"),
        ({"CpusetCpus": "8000"}, 400, "Requested CPUs are not available"),
        ({"LadingRestartUnhealthy": True}, 400, "give it a health check"),
        ({"GroupAdd": ["a b"]}, 400, "invalid group"),
    ):
        body = {"Image": api.image, "Cmd": ["true"], "HostConfig": {"NetworkMode": "none", **host}}
        answer, said = await api.ask("POST", f"{V}/containers/create", body)
        assert (answer, words in said["message"]) == (status, True), (host, said)
    assert api.engine.containers.list() == []


async def test_pause_and_unpause(api: Any) -> None:
    container = await api.create(*FOREVER, name="web")
    path = f"{V}/containers/web"
    status, said = await api.ask("POST", f"{path}/pause")
    assert (status, said["message"]) == (409, f"container {container} is not running")
    status, said = await api.ask("POST", f"{path}/unpause")
    assert (status, said["message"]) == (500, f"Container {container} is not paused")
    await api.ask("POST", f"{path}/start")
    assert await api.ask("POST", f"{path}/pause") == (204, b"")
    status, said = await api.ask("POST", f"{path}/pause")
    assert (status, said["message"]) == (409, f"container {container} is already paused")
    _, shown = await api.ask("GET", f"{path}/json")
    state = shown["State"]
    assert (state["Status"], state["Running"], state["Paused"]) == ("paused", True, True)
    _, [listed] = await api.ask("GET", f"{V}/containers/json", filters=json.dumps({"status": ["paused"]}))
    assert (listed["State"], listed["Status"].endswith(" (Paused)")) == ("paused", True)
    _, up = await api.ask("GET", f"{V}/containers/json")
    assert [one["Id"] for one in up] == [container]
    status, said = await api.ask("POST", f"{path}/start")
    assert (status, said["message"]) == (409, "cannot start a paused container, try unpause instead")
    status, said = await api.ask("DELETE", path)
    words = 'cannot remove container "/web": container is paused and must be unpaused first'
    assert (status, said["message"]) == (409, words)
    _, info = await api.ask("GET", f"{V}/info")
    assert (info["ContainersRunning"], info["ContainersPaused"], info["ContainersStopped"]) == (0, 1, 0)
    assert await api.ask("POST", f"{path}/unpause") == (204, b"")
    _, shown = await api.ask("GET", f"{path}/json")
    assert shown["State"]["Status"] == "running"
    assert (await api.ask("POST", f"{V}/containers/nope/pause"))[0] == 404
    await happens(api.engine, container, Paused)


async def test_a_retried_pause_does_nothing_twice(api: Any) -> None:
    container = await api.start(*FOREVER)
    header = {"Lading-Command": "0" * 31 + "1"}
    path = f"{V}/containers/{container}"
    assert (await api.ask("POST", f"{path}/pause", headers=header))[0] == 204
    assert (await api.ask("POST", f"{path}/unpause"))[0] == 204
    assert (await api.ask("POST", f"{path}/pause", headers=header))[0] == 204
    assert api.engine.containers.get(container).status == "running"


async def test_restart(api: Any) -> None:
    container = await api.start(*READY)
    path = f"{V}/containers/{container}"
    await printed(api.engine.containers.get(container), b"ready")
    _, before = await api.ask("GET", f"{path}/json")
    assert await api.ask("POST", f"{path}/restart", t="5") == (204, b"")
    _, after = await api.ask("GET", f"{path}/json")
    assert after["State"]["Running"] is True
    assert after["State"]["Pid"] != before["State"]["Pid"]
    assert api.engine.core.state(container).exit_code is None
    stopped = await api.create(*FOREVER)
    assert await api.ask("POST", f"{V}/containers/{stopped}/restart", t="0", signal="KILL") == (204, b"")
    assert api.engine.containers.get(stopped).status == "running"
    assert (await api.ask("POST", f"{path}/restart", t="x"))[0] == 400
    status, said = await api.ask("POST", f"{path}/restart", signal="NOPE")
    assert status == 400, said
    assert (await api.ask("POST", f"{V}/containers/nope/restart"))[0] == 404


async def test_update_of_a_stopped_container(api: Any) -> None:
    container = await api.create(*FOREVER, host={"Memory": 64 * MIB, "PidsLimit": 10})
    path = f"{V}/containers/{container}"
    body = {"CpuShares": 256, "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}}
    assert await api.ask("POST", f"{path}/update", body) == (200, {"Warnings": None})
    assert await api.ask("POST", f"{path}/update", {"Memory": 100 * MIB, "PidsLimit": -1}) == (
        200,
        {"Warnings": None},
    )
    _, shown = await api.ask("GET", f"{path}/json")
    host = shown["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["CpuShares"]) == (100 * MIB, 128 * MIB, 256)
    assert (host["PidsLimit"], host["RestartPolicy"]) == (None, body["RestartPolicy"])
    for wrong, status, words in (
        ({"Memory": 129 * MIB}, 409, "Memory limit should be smaller than already set memoryswap limit"),
        ({"Memory": 1}, 400, "Minimum memory limit allowed is 6MB"),
        ({"Privileged": True}, 501, "not supported in this release"),
        ({"RestartPolicy": {"Name": "nope"}}, 400, "unknown policy 'nope'"),
        ({"RestartPolicy": []}, 400, "invalid RestartPolicy"),
    ):
        answer, said = await api.ask("POST", f"{path}/update", wrong)
        assert (answer, words in said["message"]) == (status, True), (wrong, said)
    removed = await api.create(*FOREVER, host={"AutoRemove": True})
    answer, said = await api.ask("POST", f"{V}/containers/{removed}/update", {"RestartPolicy": {"Name": "always"}})
    assert (answer, "because AutoRemove is enabled for the container" in said["message"]) == (409, True)
    assert (await api.ask("POST", f"{V}/containers/nope/update", {"CpuShares": 5}))[0] == 404


async def test_update_of_a_running_container(api: Any) -> None:
    container = await api.start(*FOREVER, host={"Memory": 64 * MIB})
    path = f"{V}/containers/{container}"
    status, said = await api.ask("POST", f"{path}/update", {"Memory": 32 * MIB})
    assert status == 200, said
    _, shown = await api.ask("GET", f"{path}/json")
    assert (shown["HostConfig"]["Memory"], shown["State"]["Running"]) == (32 * MIB, True)
    assert (await api.ask("POST", f"{path}/update", {"RestartPolicy": {"Name": "always"}}))[0] == 200
    assert api.engine.core.settings(container).restart.name == "always"


async def test_a_restart_policy_is_seen_at_work(api: Any) -> None:
    policy = {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}}
    container = await api.start("sh", "-c", "exit 7", host=policy, name="web")
    core = api.engine.core
    await until(
        api.engine,
        lambda: core.supervision(container).restarts >= 2 and core.state(container).process is None,
    )
    await happens(api.engine, container, Exited)

    async def is_down() -> bool:
        _, shown = await api.ask("GET", f"{V}/containers/web/json")
        return bool(shown["State"]["Status"] == "exited")

    await becomes(is_down)
    _, shown = await api.ask("GET", f"{V}/containers/web/json")
    assert (shown["RestartCount"], shown["State"]["ExitCode"]) == (2, 7)


async def test_a_container_that_waits_for_its_restart_is_up_and_restarting(api: Any) -> None:
    container = await api.start("sh", "-c", "exit 7", host={"RestartPolicy": {"Name": "always"}}, name="web")
    found: list[Any] = []

    async def is_restarting() -> bool:
        asked = json.dumps({"status": ["restarting"]})
        found[:] = (await api.ask("GET", f"{V}/containers/json", filters=asked))[1]
        return bool(found)

    await becomes(is_restarting)
    assert (found[0]["Id"], found[0]["State"]) == (container, "restarting")
    assert found[0]["Status"].startswith("Restarting (7) ")
    assert await api.ask("POST", f"{V}/containers/web/stop") == (204, b"")
    _, shown = await api.ask("GET", f"{V}/containers/web/json")
    assert (shown["State"]["Status"], shown["State"]["Restarting"]) == ("exited", False)


async def test_health_is_shown_and_filtered_by(api: Any) -> None:
    check = {"Test": ["CMD-SHELL", "echo looked; test -e /ok"], "Interval": 10**8, "Retries": 2}
    container = await api.start("sh", "-c", "touch /ok; sleep 1000", Healthcheck=check, name="web")
    plain = await api.start(*FOREVER)

    async def with_health(word: str) -> list[str]:
        status, found = await api.ask("GET", f"{V}/containers/json", filters=json.dumps({"health": [word]}))
        assert status == 200, found
        return [one["Id"] for one in found]

    assert await with_health("none") == [plain]

    async def is_healthy() -> bool:
        return await with_health("healthy") == [container]

    await becomes(is_healthy)
    _, shown = await api.ask("GET", f"{V}/containers/web/json")
    health = shown["State"]["Health"]
    assert (health["Status"], health["FailingStreak"]) == ("healthy", 0)
    assert (health["Log"][-1]["ExitCode"], health["Log"][-1]["Output"]) == (0, "looked\n")
    _, [listed] = await api.ask("GET", f"{V}/containers/json", filters=json.dumps({"name": ["web"]}))
    assert listed["Status"].endswith("(healthy)")
    assert (await api.ask("GET", f"{V}/containers/json", filters=json.dumps({"health": ["well"]})))[0] == 400


async def test_containers_are_found_by_what_they_mount(api: Any) -> None:
    one = await api.create(*FOREVER, host={"Binds": ["data:/data", "/tmp:/host"]})
    await api.create(*FOREVER)
    for value in ("data", "/data", "/host", "/tmp"):
        _, found = await api.ask("GET", f"{V}/containers/json", all="1", filters=json.dumps({"volume": [value]}))
        assert [each["Id"] for each in found] == [one], value
    assert {mount["Destination"] for mount in found[0]["Mounts"]} == {"/data", "/host"}
    _, found = await api.ask("GET", f"{V}/containers/json", all="1", filters=json.dumps({"volume": ["nope"]}))
    assert found == []


async def test_prune_leaves_what_is_paused_or_waits_for_a_restart(api: Any) -> None:
    paused = await api.start(*FOREVER)
    await api.ask("POST", f"{V}/containers/{paused}/pause")
    waiting = await api.start("sh", "-c", "exit 7", host={"RestartPolicy": {"Name": "always"}})
    gone = await api.create(*FOREVER, Labels={"k": "v"})
    kept = await api.create(*FOREVER)
    status, said = await api.ask("POST", f"{V}/containers/prune", filters=json.dumps({"label": ["k=v"]}))
    assert (status, said["ContainersDeleted"]) == (200, [gone])
    _, said = await api.ask("POST", f"{V}/containers/prune")
    assert said["ContainersDeleted"] == [kept]
    assert {state.id for state in api.engine.containers.list()} == {paused, waiting}
    await api.ask("POST", f"{V}/containers/{waiting}/stop")
