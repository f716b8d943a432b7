"""The commands for containers that exist, each with what it prints and how it fails."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest
from cli_program import Cli, wait_until

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture
def web(shared: Cli) -> Iterator[str]:
    """The id of a running container called web, that leaves at the first SIGTERM."""
    script = "trap 'echo bye; exit 3' TERM; echo hello; echo oops >&2; while :; do sleep 0.05; done"
    identifier = shared("run", "-d", "--name", "web", "busybox:1", "sh", "-c", script).stdout.strip()
    wait_until(lambda: "hello" in shared("logs", "web").stdout, "its first word")
    yield identifier
    shared("rm", "-f", identifier, code=None)


def test_a_life_from_run_to_rm(shared: Cli, web: str) -> None:
    assert web[:12] in shared("ps").stdout
    assert shared("rename", "web", "shop").stdout == ""
    assert shared("stop", "shop").stdout == "shop\n"
    assert shared("ps", "-q").stdout == ""
    assert shared("wait", "shop").stdout == "3\n"
    assert shared("start", web[:12]).stdout == f"{web[:12]}\n"
    assert shared("kill", "shop").stdout == "shop\n"
    assert shared("wait", "shop").stdout == "137\n"
    assert shared("rm", "shop").stdout == "shop\n"
    assert shared("inspect", "shop", code=1).stdout == "[]\n"
    history = [
        json.loads(line)["type"].partition(".")[2] for line in shared("log", "--json", web).stdout.splitlines()
    ]
    assert history == [
        *("created", "start-requested", "started", "renamed", "stop-requested", "exited"),
        *("start-requested", "started", "kill-requested", "exited", "remove-requested", "removed"),
    ]
    asked = {json.loads(line)["actor"]["client"] for line in shared("log", "--json", web).stdout.splitlines()}
    assert asked == {"lading-cli"}


@pytest.mark.long
def test_ps_lists_in_every_form(shared: Cli, web: str) -> None:
    shared("run", "--name", "over", "busybox:1", "sh", "-c", "exit 4", code=4)
    lines = shared("ps", "-a").stdout.splitlines()
    assert re.split(" {3,}", lines[0]) == ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"]
    assert "Exited (4)" in lines[1]
    assert lines[2].startswith(web[:12])
    assert "…" in lines[2]
    assert len(shared("ps").stdout.splitlines()) == 2
    assert shared("ps", "-q").stdout == f"{web[:12]}\n"
    assert shared("ps", "-q", "--no-trunc").stdout == f"{web}\n"
    whole = shared("ps", "--no-trunc").stdout
    assert web in whole
    assert "sleep 0.05; done" in whole
    rows = [json.loads(line) for line in shared("ps", "-a", "--format", "json").stdout.splitlines()]
    assert [row["Names"] for row in rows] == ["over", "web"]
    assert [row["State"] for row in rows] == ["exited", "running"]
    shared("rm", "over")


@pytest.mark.long
def test_logs_are_what_was_printed_on_the_stream_it_was_printed_on(shared: Cli, web: str) -> None:
    done = shared("logs", "web")
    assert (done.stdout, done.stderr) == ("hello\n", "oops\n")
    stamped = shared("logs", "-t", "web").stdout
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z hello\n", stamped)
    assert shared("logs", "--until", stamped.split(".")[0] + "Z", "web").stdout == ""
    assert shared("logs", "--since", "1h", "web").stdout == "hello\n"
    assert shared("logs", "--since", "0.0001s", "web").stdout == ""
    following = shared.start("logs", "-f", "-n", "0", "web")
    time.sleep(1)
    shared("stop", "web")
    assert following.communicate(timeout=30) == ("bye\n", "")
    assert following.returncode == 0
    assert shared("logs", "-n", "1", "web").stdout == "bye\n"


@pytest.mark.long
def test_wait_waits(shared: Cli, web: str) -> None:
    waiting = shared.start("wait", "web")
    time.sleep(0.8)
    assert waiting.poll() is None
    shared("stop", "web")
    assert waiting.communicate(timeout=30) == ("3\n", "")


def test_a_start_of_what_runs_is_one_error(shared: Cli, web: str) -> None:
    done = shared("start", "web", code=1)
    assert done.stdout == ""
    assert done.stderr == "lading: cannot start container web: it is already running\n"


def test_a_signal_is_sent_as_asked(shared: Cli, web: str) -> None:
    shared("kill", "-s", "TERM", "web")
    assert shared("wait", "web").stdout == "3\n"


@pytest.mark.long
def test_a_container_that_does_not_leave_is_killed_after_the_timeout(shared: Cli) -> None:
    shared("run", "-d", "--name", "deaf", "busybox:1", "sleep", "1000")
    begin = time.monotonic()
    shared("stop", "-t", "1", "deaf")
    assert time.monotonic() - begin < 8
    assert shared("wait", "deaf").stdout == "137\n"
    shared("rm", "deaf")


@pytest.mark.long
def test_several_are_stopped_together(shared: Cli) -> None:
    names = [f"deaf{number}" for number in range(4)]
    for name in names:
        shared("run", "-d", "--name", name, "busybox:1", "sleep", "1000")
    begin = time.monotonic()
    assert shared("stop", "-t", "2", *names).stdout.split() == names
    assert time.monotonic() - begin < 7
    assert shared("rm", *names).stdout.split() == names


def test_one_failure_of_several_does_not_keep_the_rest_from_being_done(shared: Cli, web: str) -> None:
    done = shared("rm", "-f", "nosuch", "web", "neither", code=1)
    assert done.stdout == "web\n"
    assert done.stderr == "lading: No such container: nosuch\nlading: No such container: neither\n"


@pytest.mark.parametrize(
    "words",
    [
        ("start", "nosuch"),
        ("stop", "nosuch"),
        ("kill", "nosuch"),
        ("kill", "-s", "NOSUCH", "web"),
        ("rm", "web"),
        ("rm", ""),
        ("logs", "nosuch"),
        ("wait", "nosuch"),
        ("rename", "nosuch", "x1"),
        ("rename", "web", "web"),
        ("rename", "web", "bad name"),
        ("inspect", "nosuch"),
        ("inspect", "--type", "image", "web"),
        ("rm", "../../images/json"),
    ],
)
def test_a_refusal_is_one_line_and_exit_code_1(shared: Cli, web: str, words: tuple[str, ...]) -> None:
    done = shared(*words, code=1)
    assert done.stderr.startswith("lading: ")
    assert done.stderr.count("\n") == 1
    assert shared("ps", "-q").stdout == f"{web[:12]}\n"


@pytest.mark.long
def test_inspect_finds_containers_and_images(shared: Cli, web: str) -> None:
    found = json.loads(shared("inspect", "web", "busybox:1").stdout)
    assert [found[0]["Id"], found[1]["RepoTags"]] == [web, ["busybox:1"]]
    done = shared("inspect", "nosuch", "web", code=1)
    assert [each["Id"] for each in json.loads(done.stdout)] == [web]
    assert done.stderr == "lading: no such container or image: nosuch\n"
