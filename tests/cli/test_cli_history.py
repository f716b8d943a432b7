"""The history on the command line: any moment, what changed, what it costs, and moving old records away."""

from __future__ import annotations

import json
import re

import pytest
from cli_program import Cli

pytestmark = [pytest.mark.real, pytest.mark.slow]


def last(shared: Cli) -> int:
    position: int = json.loads(shared("log", "--json", "-n", "1").stdout)["position"]
    return position


@pytest.mark.long
def test_ps_images_and_inspect_at_a_moment(shared: Cli) -> None:
    """On standard error, which moment it is; times are told as of then."""
    before = last(shared)
    identifier = shared("run", "-d", "--name", "then", "busybox:1", "sleep", "100").stdout.strip()
    running = last(shared)
    shared("rm", "-f", "then")
    assert identifier[:12] not in shared("ps", "-a").stdout
    shown = shared("ps", "--at", str(running))
    assert re.search(rf"{identifier[:12]} .*Up Less than a second +then", shown.stdout)
    assert re.fullmatch(rf"as of position {running}, 20.* UTC\n", shown.stderr)
    assert identifier[:12] not in shared("ps", "-a", "--at", str(before)).stdout
    [state] = json.loads(shared("inspect", "then", "--at", f"@{running}").stdout)
    assert (state["Id"], state["State"]["Running"]) == (identifier, True)
    assert shared("inspect", "then", "--at", str(before), code=1).stdout == "[]\n"
    assert "busybox" in shared("images", "--at", str(running)).stdout
    assert "busybox" not in shared("images", "--at", "1").stdout
    assert "before the first record" in shared("images", "--at", "3000 days ago").stderr
    assert "invalid time 'soon'" in shared("ps", "--at", "soon", code=1).stderr
    assert "not in the log yet" in shared("ps", "--at", "99999", code=1).stderr


@pytest.mark.long
def test_diff_shows_what_is_left_of_the_changes(shared: Cli) -> None:
    before = last(shared)
    shared("run", "--rm", "busybox:1", "true")
    identifier = shared("run", "-d", "--name", "one", "busybox:1", "sleep", "100").stdout.strip()
    middle = last(shared)
    shared("rename", "one", "two")
    shared("stop", "-t", "0", "two")
    lines = shared("diff", str(before), str(middle)).stdout.splitlines()
    assert re.fullmatch(rf" +KIND +NAME +FROM {before} TO {middle}", lines[0])
    assert [line.split() for line in lines[1:]] == [
        ["+", "container", "one", f"{identifier[:12]},", "running,", "from", "busybox:1"]
    ]
    [change] = [json.loads(line) for line in shared("diff", "--json", str(middle)).stdout.splitlines()]
    assert (change["what"], change["kind"], change["name"]) == ("changed", "container", "two")
    assert change["fields"]["name"] == ["one", "two"]
    assert change["fields"]["phase"] == ["running", "stopped"]
    words = shared("diff", str(middle), "now").stdout
    assert "phase running -> stopped" in words
    assert "exit code none -> 137" in words
    shared("rm", "two")
    assert shared("diff", str(middle)).stdout.splitlines()[1].split()[:3] == ["-", "container", "one"]
    assert len(shared("diff", str(before)).stdout.splitlines()) == 1
    assert "invalid time" in shared("diff", "never", "now", code=1).stderr
    assert "No such container: never" in shared("diff", "never", code=1).stderr


def test_df_tells_what_history_costs(shared: Cli) -> None:
    found = json.loads(shared("df", "--json").stdout)
    assert found["history"]["parts"]["records"]["entries"] == last(shared)
    assert found["history"]["size"] > found["history"]["parts"]["records"]["size"] > 0
    assert found["images"]["size"] > 1_000_000
    rows = [re.split(" {2,}", line.strip()) for line in shared("df").stdout.splitlines()]
    assert [row[0] for row in rows] == [
        *("TYPE", "Images", "layers", "their archives", "documents", "Containers", "Volumes"),
        *("History", "records", "indexes", "views", "snapshots", "Archives"),
    ]


@pytest.mark.long
def test_compact_moves_old_records_into_a_file(fresh: Cli, busybox_tar: object) -> None:
    fresh("import", str(busybox_tar), "busybox:1")
    for _ in range(2):
        fresh("run", "--rm", "busybox:1", "true")
    head = last(fresh)
    said = fresh("compact", "--before", "now").stdout.splitlines()
    assert said[0] == f"{head} records, 1 to {head}, are in"
    assert said[1].startswith(f"{fresh.root}/archive/")
    with open(said[1], "rb") as archive:
        assert archive.read(2) == b"\x1f\x8b"
    assert "busybox" in fresh("images").stdout
    assert len(fresh("log").stdout.splitlines()) == 2
    assert "no longer in the log" in fresh("ps", "--at", "3", code=1).stderr
    assert json.loads(fresh("df", "--json").stdout)["history"]["archives"] == 1
    assert "Missing option '--before'" in fresh("compact", code=2).stderr
    fresh("run", "--rm", "busybox:1", "true")
