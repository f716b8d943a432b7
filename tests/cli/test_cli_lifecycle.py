"""Containers with settings, and how they go on, from the command line: create, pause, restart, update, prune."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_program import Cli, wait_until

pytestmark = [pytest.mark.real, pytest.mark.slow]

MIB = 1 << 20
READY = ("busybox:1", "sh", "-c", "trap 'exit 3' TERM; sleep 1000 & wait")


@pytest.mark.long
def test_create_makes_a_container_and_does_not_start_it(shared: Cli, tmp_path: Path) -> None:
    path = tmp_path / "id"
    flags = [
        "--name",
        "made",
        "-m",
        "64m",
        "--cpus",
        "0.5",
        "--restart",
        "on-failure:2",
        "-h",
        "box",
        "--timeout",
        "1h",
    ]
    done = shared("create", *flags, "--cidfile", str(path), "--network", "none", "busybox:1", "hostname")
    identifier = done.stdout.strip()
    assert path.read_text() == identifier
    [found] = json.loads(shared("inspect", "made").stdout)
    host = found["HostConfig"]
    assert (found["Id"], found["State"]["Status"]) == (identifier, "created")
    assert (host["Memory"], host["NanoCpus"], host["LadingDeadline"]) == (64 * MIB, 500_000_000, 3600 * 10**9)
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
    again = shared("create", "--cidfile", str(path), "busybox:1", code=1)
    assert "container ID file found" in again.stderr
    refused = shared("create", "-m", "1m", "busybox:1", code=1)
    assert refused.stderr == "lading: Minimum memory limit allowed is 6MB\n"
    shared("start", "made")
    shared("wait", "made")
    assert shared("logs", "made").stdout == "box\n"
    shared("rm", "made")


@pytest.mark.long
def test_pause_restart_and_update(shared: Cli) -> None:
    shared("run", "-d", "--name", "web", *READY)
    assert shared("pause", "web").stdout == "web\n"
    assert "(Paused)" in shared("ps").stdout
    assert "is already paused" in shared("pause", "web", code=1).stderr
    assert shared("ps", "-q", "--filter", "status=paused").stdout != ""
    assert shared("unpause", "web").stdout == "web\n"
    assert "is not paused" in shared("unpause", "web", code=1).stderr
    assert shared("restart", "-t", "5", "web").stdout == "web\n"
    assert shared("update", "--restart", "unless-stopped", "web").stdout == "web\n"
    [found] = json.loads(shared("inspect", "web").stdout)
    assert (found["State"]["Running"], found["HostConfig"]["RestartPolicy"]["Name"]) == (True, "unless-stopped")
    shared("stop", "-t", "5", "web")
    assert shared("update", "-m", "64m", "--pids-limit", "5", "web").stdout == "web\n"
    [found] = json.loads(shared("inspect", "web").stdout)
    assert (found["HostConfig"]["Memory"], found["HostConfig"]["PidsLimit"]) == (64 * MIB, 5)
    assert "Would delete Containers:" in shared("container", "prune", "--dry-run").stdout
    assert found["Id"] in shared("container", "prune", "-f").stdout
    assert shared("container", "ls", "-aq").stdout == ""


@pytest.mark.long
def test_health_is_in_the_list(shared: Cli) -> None:
    check = ["--health-cmd", "test -e /ok", "--health-interval", "100ms", "--health-retries", "1"]
    shared("run", "-d", "--name", "well", *check, "busybox:1", "sh", "-c", "touch /ok; sleep 1000")
    shared("run", "-d", "--name", "ill", *check, "busybox:1", "sleep", "1000")
    for name, word in (("well", "healthy"), ("ill", "unhealthy")):
        wait_until(lambda word=word: shared("ps", "-q", "--filter", f"health={word}").stdout != "", word)
        row = json.loads(shared("ps", "--filter", f"health={word}", "--format", "json").stdout)
        assert (row["Names"], row["Status"].endswith(f"({word})")) == (name, True)
    shared("rm", "-f", "well", "ill")


def test_a_run_is_stopped_at_its_deadline(shared: Cli) -> None:
    done = shared("run", "--rm", "--timeout", "300ms", "--stop-timeout", "1", *READY, code=None)
    assert done.returncode == 3


@pytest.mark.long
def test_top_and_stats(shared: Cli) -> None:
    shared("run", "-d", "--name", "web", "-m", "64m", "--network", "none", *READY)
    shown = shared("top", "web").stdout.splitlines()
    assert shown[0].split()[:2] == ["UID", "PID"]
    assert any("sleep 1000" in line for line in shown[1:])
    assert shared("top", "web", "-o", "pid,comm").stdout.split()[:2] == ["PID", "COMMAND"]
    row = json.loads(shared("stats", "--no-stream", "--format", "json", "web").stdout)
    assert (row["Name"], row["MemUsage"].endswith(" / 64MiB"), row["CPUPerc"][-1]) == ("web", True, "%")
    assert int(row["PIDs"]) >= 2
    table = shared("stats", "--no-stream").stdout.splitlines()
    heading = ["CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"]
    assert all(column in table[0] for column in heading)
    assert [line.split()[1] for line in table[1:]] == ["web"]
    assert "No such container" in shared("stats", "--no-stream", "nope", code=1).stderr
    shared("rm", "-f", "web")
    assert "No such container" in shared("top", "web", code=1).stderr


@pytest.mark.long
def test_stats_go_on_until_the_container_is_gone(shared: Cli) -> None:
    shared("run", "-d", "--name", "web", *READY)
    process = shared.start("stats", "--format", "json", "web")
    assert process.stdout is not None
    assert process.stderr is not None
    seen = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert {row["Name"] for row in seen} == {"web"}
    shared("rm", "-f", "web")
    assert process.wait(30) == 0
    assert process.stderr.read() == ""
    process.stdout.close()
    process.stderr.close()
