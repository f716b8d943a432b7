"""The stock docker client and the SDK for Python: settings of containers, and how containers go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import docker
import docker.errors
import docker.types
import pytest
import trio
from imagefiles import write_docker_archive
from images import storied
from sdk import call
from stage import printed

pytestmark = [pytest.mark.real, pytest.mark.slow]

QUIET = ("--network", "none")
READY = ("sh", "-c", "trap 'exit 3' TERM; echo ready; sleep 1000 & wait")
MIB = 1 << 20
SECOND = 10**9

FLAGS: list[tuple[list[str], dict[str, Any]]] = [
    (["-m", "64m"], {"Memory": 64 * MIB, "MemorySwap": 128 * MIB}),
    (["-m", "64m", "--memory-swap", "-1", "--memory-reservation", "32m"],
     {"MemorySwap": -1, "MemoryReservation": 32 * MIB}),
    (["--cpus", "0.5"], {"NanoCpus": 500_000_000}),
    (["--cpu-period", "50000", "--cpu-quota", "25000", "-c", "512"],
     {"CpuPeriod": 50_000, "CpuQuota": 25_000, "CpuShares": 512}),
    (["--cpuset-cpus", "0", "--cpuset-mems", "0"], {"CpusetCpus": "0", "CpusetMems": "0"}),
    (["--pids-limit", "50"], {"PidsLimit": 50}),
    (["--blkio-weight", "100"], {"BlkioWeight": 100}),
    (["--ulimit", "nofile=100:200"], {"Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}]}),
    (["--sysctl", "kernel.msgmax=8192"], {"Sysctls": {"kernel.msgmax": "8192"}}),
    (["--shm-size", "8m", "--oom-score-adj", "10"], {"ShmSize": 8 * MIB, "OomScoreAdj": 10}),
    (["--cap-add", "NET_ADMIN", "--cap-drop", "ALL"], {"CapAdd": ["CAP_NET_ADMIN"], "CapDrop": ["ALL"]}),
    (["--privileged"], {"Privileged": True}),
    (["--security-opt", "no-new-privileges"], {"SecurityOpt": ["no-new-privileges"]}),
    (["--security-opt", "seccomp=unconfined"], {"SecurityOpt": ["seccomp=unconfined"]}),
    (["--security-opt", "systempaths=unconfined"], {"MaskedPaths": [], "ReadonlyPaths": []}),
    (["--security-opt", "label=disable", "--security-opt", "apparmor=unconfined"], {"SecurityOpt": None}),
    (["--device", "/dev/null:/dev/x:rw"],
     {"Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "rw"}]}),
    (["--device-cgroup-rule", "c 1:3 rwm"], {"DeviceCgroupRules": ["c 1:3 rwm"]}),
    (["--group-add", "1000"], {"GroupAdd": ["1000"]}),
    (["--add-host", "db:10.0.0.1"], {"ExtraHosts": ["db:10.0.0.1"]}),
    (["--dns", "10.0.0.2", "--dns-search", "a.example", "--dns-option", "ndots:2"],
     {"Dns": ["10.0.0.2"], "DnsSearch": ["a.example"], "DnsOptions": ["ndots:2"]}),
    (["--restart", "on-failure:3"], {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}}),
    (["--log-driver", "local"],
     {"LogConfig": {"Type": "json-file", "Config": {"max-size": "20m", "max-file": "5"}}}),
    (["--log-opt", "max-size=1m"], {"LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}}}),
    (["--pid", "host", "--ipc", "host", "--uts", "host"],
     {"PidMode": "host", "IpcMode": "host", "UTSMode": "host"}),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "host"), FLAGS, ids=[" ".join(flags) for flags, _ in FLAGS])
async def test_flags_are_taken_and_shown(api: Any, flags: list[str], host: dict[str, Any]) -> None:
    made = await api.docker("create", *QUIET, *flags, api.image, "true")
    assert made.code == 0, made
    shown = await api.docker("inspect", "--format", "{{json .HostConfig}}", made.out.strip())
    found = json.loads(shown.out)
    said = {name: found[name] for name in host}
    if "CapAdd" in said:  # clients differ in whether they write the prefix
        said["CapAdd"] = [f"CAP_{word.removeprefix('CAP_')}" for word in said["CapAdd"]]
    assert said == host


async def test_health_flags(api: Any) -> None:
    flags = ["--health-cmd", "true", "--health-interval", "1h", "--health-retries", "2", "--health-timeout", "2s"]
    made = await api.docker("create", *QUIET, *flags, api.image, "true")
    assert made.code == 0, made
    shown = await api.docker("inspect", "--format", "{{json .Config.Healthcheck}}", made.out.strip())
    check = json.loads(shown.out)
    assert check["Test"] == ["CMD-SHELL", "true"]
    assert (check["Interval"], check["Timeout"], check["Retries"]) == (3600 * SECOND, 2 * SECOND, 2)
    refused = await api.docker(
        "create", *QUIET, "--health-cmd", "x", "--health-interval", "1us", api.image, "true"
    )
    assert (refused.code, "Interval in Healthcheck cannot be less than 1ms" in refused.err) == (1, True)


async def test_an_image_brings_its_health_check(api: Any, busybox_tar: Path, tmp_path: Path) -> None:
    plain = storied(busybox_tar, 1)
    check = {"Test": ["CMD", "true"], "Interval": 3600 * SECOND, "Retries": 7}
    config = plain.document["config"] | {"Healthcheck": check}
    image = attrs.evolve(plain, document={**plain.document, "config": config})
    write_docker_archive(tmp_path / "a.tar", {"localhost/checked:1": image}, form="blobs")
    assert (await api.docker("load", "-i", str(tmp_path / "a.tar"))).code == 0

    async def made(*flags: str) -> Any:
        created = await api.docker("create", *QUIET, *flags, "localhost/checked:1", "true")
        assert created.code == 0, created
        shown = await api.docker("inspect", "--format", "{{json .Config.Healthcheck}}", created.out.strip())
        return json.loads(shown.out)

    found = await made()
    assert {name: found[name] for name in check} == check
    found = await made("--health-retries", "2")
    assert {name: found[name] for name in check} == check | {"Retries": 2}
    assert await made("--no-healthcheck") is None


async def test_values_that_can_not_be_are_refused_in_dockers_words(api: Any) -> None:
    for flags, words in (
        (["-m", "1m"], "Minimum memory limit allowed is 6MB"),
        (["-m", "64m", "--memory-swap", "32m"], "Minimum memoryswap limit should be larger than memory limit"),
        (["--cpus", "1000"], "Range of CPUs is from 0.01 to "),
        (["--cpus", "1", "--cpu-quota", "1000"], "Nano CPUs and CPU Quota cannot both be set"),
        (["--cpuset-cpus", "0-999999999"], "Invalid value 0-999999999 for cpuset cpus"),
        (["--cap-add", "NOPE"], "CAP_NOPE"),
        (["--restart", "sometimes"], "unknown policy 'sometimes'"),
        (["--log-driver", "syslog"], "no log driver named 'syslog' is registered"),
        (["--log-opt", "nope=1"], "unknown log opt 'nope' for json-file log driver"),
        (["--oom-score-adj", "2000"], "range for oom score adj is [-1000, 1000]"),
        (["--runtime", "nope"], "unknown or invalid runtime name: nope"),
        (["--uts", "host", "--hostname", "x"], "conflicting options: hostname and the UTS mode"),
    ):
        said = await api.docker("run", *QUIET, *flags, api.image, "true")
        assert (said.code, words in said.err, flags) == (125, True, flags), said
    assert api.engine.containers.list() == []


async def test_pause_restart_and_update(api: Any) -> None:
    made = await api.docker("run", "-d", "--name", "web", *QUIET, api.image, *READY)
    container = made.out.strip()
    await printed(api.engine.containers.get(container), b"ready")
    assert (await api.docker("pause", "web")).out == "web\n"
    listed = await api.docker("ps", "--format", "{{.State}} {{.Status}}")
    assert (listed.out.startswith("paused Up "), listed.out.endswith("(Paused)\n")) == (True, True)
    assert "is already paused" in (await api.docker("pause", "web")).err
    assert (await api.docker("ps", "-q", "--filter", "status=paused")).out.strip() == container[:12]
    assert (await api.docker("unpause", "web")).out == "web\n"
    assert "is not paused" in (await api.docker("unpause", "web")).err
    assert (await api.docker("restart", "-t", "5", "web")).out == "web\n"
    assert (await api.docker("update", "--restart", "unless-stopped", "web")).out == "web\n"
    policy = await api.docker("inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", "web")
    assert policy.out == "unless-stopped\n"
    assert (await api.docker("stop", "-t", "5", "web")).code == 0
    assert (await api.docker("update", "-m", "64m", "--pids-limit", "10", "web")).code == 0
    limits = await api.docker("inspect", "--format", "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}", "web")
    assert limits.out == f"{64 * MIB} 10\n"
    assert (await api.docker("container", "prune", "-f")).out.startswith(f"Deleted Containers:\n{container}\n")


async def test_health_is_in_the_list(api: Any) -> None:
    check = ["--health-cmd", "test -e /ok", "--health-interval", "100ms"]
    await api.docker("run", "-d", "--name", "web", *QUIET, *check, api.image, "sh", "-c", "touch /ok; sleep 1000")
    with trio.fail_after(20):
        while True:
            listed = await api.docker("ps", "--filter", "health=healthy", "--format", "{{.Status}}")
            if listed.out:
                break
            await trio.sleep(0.1)
    assert listed.out.endswith("(healthy)\n")
    assert (await api.docker("inspect", "--format", "{{.State.Health.Status}}", "web")).out == "healthy\n"


@pytest.mark.long
async def test_top_and_stats(api: Any, sdk: docker.DockerClient) -> None:
    made = await api.docker("run", "-d", "--name", "web", "-m", "64m", *QUIET, api.image, *READY)
    await printed(api.engine.containers.get(made.out.strip()), b"ready")
    shown = await api.docker("top", "web")
    assert (shown.code, "sleep 1000" in shown.out) == (0, True), shown
    shown = await api.docker("top", "web", "-o", "pid,comm")
    assert shown.out.split()[:2] == ["PID", "COMMAND"]
    form = "{{.Name}} {{.MemUsage}} {{.PIDs}}"
    shown = await api.docker("stats", "--no-stream", "--format", form)
    name, *usage, pids = shown.out.split()
    assert (name, usage[-1], int(pids) >= 2) == ("web", "64MiB", True), shown
    container = await call(sdk.containers.get, "web")
    assert "PID" in (await call(container.top))["Titles"]
    sample = await call(container.stats, stream=False)
    assert (sample["name"], sample["memory_stats"]["limit"]) == ("/web", 64 * MIB)
    assert sample["cpu_stats"]["system_cpu_usage"] > sample["precpu_stats"]["system_cpu_usage"]
    await call(container.kill)
    refused = await api.docker("top", "web")
    assert (refused.code, "is not running" in refused.err) == (1, True)


# -- the SDK ------------------------------------------------------------------------------------------------------


async def test_the_sdk_creates_with_everything(api: Any, sdk: docker.DockerClient) -> None:
    container = await call(
        sdk.containers.create, api.image, ["true"], name="web", network_mode="none",
        mem_limit="64m", memswap_limit="128m", mem_reservation="32m", nano_cpus=500_000_000, cpu_shares=512,
        cpuset_cpus="0", pids_limit=50, cap_add=["NET_ADMIN"], cap_drop=["ALL"], privileged=False,
        security_opt=["no-new-privileges"], devices=["/dev/null:/dev/x:rw"], device_cgroup_rules=["c 1:3 rw"],
        group_add=["1000"], extra_hosts={"db": "10.0.0.1"}, dns=["10.0.0.2"], dns_search=["a.example"],
        dns_opt=["ndots:2"], domainname="a.example", shm_size="8m", oom_score_adj=10, tty=True,
        ulimits=[docker.types.Ulimit(name="nofile", soft=100, hard=200)], sysctls={"kernel.msgmax": "8192"},
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 3}, stop_signal="INT",
        log_config=docker.types.LogConfig(type="json-file", config={"max-size": "1m", "max-file": "2"}),
        healthcheck={"test": ["CMD", "true"], "interval": SECOND, "retries": 2}, init=False,
    )  # fmt: skip
    host, config = container.attrs["HostConfig"], container.attrs["Config"]
    assert (host["Memory"], host["MemorySwap"], host["MemoryReservation"]) == (64 * MIB, 128 * MIB, 32 * MIB)
    assert (host["NanoCpus"], host["CpuShares"], host["CpusetCpus"], host["PidsLimit"]) == (
        500_000_000,
        512,
        "0",
        50,
    )
    assert (host["CapAdd"], host["CapDrop"], host["SecurityOpt"]) == (
        ["NET_ADMIN"],
        ["ALL"],
        ["no-new-privileges"],
    )
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 100, "Hard": 200}]
    assert (host["ExtraHosts"], host["Dns"], host["ShmSize"]) == (["db:10.0.0.1"], ["10.0.0.2"], 8 * MIB)
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}
    assert (config["Tty"], config["Domainname"], config["StopSignal"]) == (True, "a.example", "SIGINT")
    assert (config["Healthcheck"]["Test"], config["Healthcheck"]["Retries"]) == (["CMD", "true"], 2)
    with pytest.raises(docker.errors.APIError) as refused:
        await call(sdk.containers.create, api.image, ["true"], network_mode="none", mem_limit="1m")
    assert (refused.value.status_code, "Minimum memory limit" in refused.value.explanation) == (400, True)


async def test_the_sdk_pauses_restarts_and_updates(api: Any, sdk: docker.DockerClient) -> None:
    options = {"network_mode": "none", "detach": True, "name": "web", "remove": False}
    container = await call(sdk.containers.run, api.image, list(READY), **options)
    await printed(api.engine.containers.get(container.id), b"ready")
    await call(container.pause)
    await call(container.reload)
    assert container.status == "paused"
    with pytest.raises(docker.errors.APIError) as refused:
        await call(container.pause)
    assert refused.value.status_code == 409
    await call(container.unpause)
    await call(container.restart, timeout=5)
    await call(container.reload)
    assert container.status == "running"
    answer = await call(container.update, restart_policy={"Name": "always"})
    assert answer == {"Warnings": None}
    assert [one.id for one in await call(sdk.containers.list, filters={"status": "running"})] == [container.id]
    await call(container.stop, timeout=5)
    await call(container.update, mem_limit="64m", cpu_shares=256)
    await call(container.reload)
    assert container.attrs["HostConfig"]["Memory"] == 64 * MIB
    assert container.attrs["HostConfig"]["RestartPolicy"]["Name"] == "always"
    pruned = await call(sdk.containers.prune)
    assert pruned["ContainersDeleted"] == [container.id]
