"""`lading events` shows what happens as it happens, over restarts; `lading log` picks, pages and colours."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_program import Cli, end_engines, wait_until
from stage import Census

from lading.engine.cli.main import group

pytestmark = [pytest.mark.real, pytest.mark.slow]

QUIET = ("--network", "none")


def make(cli: Cli, archive: Path) -> Cli:
    """An image, a container that ended well, one that did not, and one that is gone, with nonsense in it."""
    cli("import", os.fspath(archive), "busybox:1")
    cli("run", "--name", "well", "-l", "team=a", *QUIET, "busybox:1", "true")
    cli("run", "--name", "badly", *QUIET, "busybox:1", "sh", "-c", "exit 3", code=3)
    cli("run", "--rm", "--name", "gone", *QUIET, "busybox:1", "echo", "\x1b[31mred\u202e")
    return cli


@pytest.fixture
def own(fresh: Cli, busybox_tar: Path) -> Cli:
    """A store of the test's own, see ``make``."""
    return make(fresh, busybox_tar)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, busybox_tar: Path) -> Iterator[Cli]:
    """A store that the tests only read, see ``make``."""
    if os.geteuid() != 0:
        pytest.skip("containers need root")
    cli = Cli(tmp_path_factory.mktemp("events") / "store")
    census = Census(cli.root)
    try:
        yield make(cli, busybox_tar)
        end_engines(cli)
        census.check()
    finally:
        end_engines(cli)
        census.clean()


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    """The next ``count`` lines; fails if they don't come."""
    assert process.stdout is not None
    found: list[str] = []
    deadline = time.monotonic() + 20
    while len(found) < count:
        assert time.monotonic() < deadline, found
        found.append(process.stdout.readline())
    return found


@pytest.fixture
def following(fresh: Cli) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ended at the end."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def records(cli: Cli, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cli("log", "--json", *words).stdout.splitlines()]


@pytest.mark.long
def test_events_shows_what_happens_and_ends_quietly(own: Cli, following: list[subprocess.Popen[str]]) -> None:
    """From now on, one line for each record, until Ctrl-C, which is 130 and no word."""
    process = own.start("events")
    following.append(process)
    wait_until(lambda: own("log", "-n", "0").returncode == 0 and bool(own.engines()), "an engine")
    own("run", "--name", "late", *QUIET, "busybox:1", "true")
    found: list[str] = []
    while not found or "container.exited" not in found[-1]:
        found += lines_of(process, 1)
    shown = [re.split(" {3,}", line) for line in found if "container." in line]
    kinds = ["container.created", "container.start-requested", "container.started", "container.exited"]
    assert [words[4] for words in shown] == kinds
    assert [words[3] for words in shown] == ["late"] * 4
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, "")


@pytest.mark.long
def test_events_of_the_past_end_and_are_those_of_the_log(made: Cli) -> None:
    every = records(made)
    for options in (
        ("--since", "1h"),
        ("--after", "0"),
        ("--until", "now"),
        ("--since", "2001-01-01", "--until", "now"),
    ):
        assert [json.loads(line) for line in made("events", "--json", *options).stdout.splitlines()] == every
    assert made("events", "--json", "--until", "2001-01-01").stdout == ""
    shown = made("events", "--since", "1h", "--type", "container.exited").stdout.splitlines()
    assert [re.split(" {3,}", line)[3] for line in shown] == ["STREAM", "well", "badly", "gone"]
    only = made("events", "--json", "--since", "1h", "badly").stdout.splitlines()
    assert [json.loads(line) for line in only] == records(made, "badly")
    assert "\x1b" not in made("events", "--since", "1h").stdout


@pytest.mark.long
def test_events_goes_on_over_a_restart_without_a_gap(own: Cli, following: list[subprocess.Popen[str]]) -> None:
    head = records(own)[-1]["position"]
    process = own.start("events", "--json", "--follow", "--after", str(head - 1))
    following.append(process)
    seen = [json.loads(line)["position"] for line in lines_of(process, 1)]
    own("run", "--name", "before", *QUIET, "busybox:1", "true")
    end_engines(own)
    own("run", "--name", "between", *QUIET, "busybox:1", "true")
    last = records(own)[-1]["position"]
    while seen[-1] < last:
        seen += [json.loads(line)["position"] for line in lines_of(process, 1)]
    assert seen == list(range(head, last + 1))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "go on after position" in said
    assert said.count("\n") == 1


def test_log_picks_by_every_option(made: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process, for there are many; what the words mean is tested where they are defined."""
    every = records(made)

    def positions(*options: str) -> list[int]:
        capsys.readouterr()
        assert group.main(["--root", os.fspath(made.root), "log", "--json", *options], standalone_mode=False) == 0
        return [json.loads(line)["position"] for line in capsys.readouterr().out.splitlines()]

    def picks(*options: str) -> list[int]:
        found = positions(*options)
        assert positions("--reverse", *options) == found[::-1]
        assert positions("-n", "2", *options) == found[-2:]
        assert positions("-n", "2", "--reverse", *options) == found[::-1][:2]
        return found

    def those(true: Any) -> list[int]:
        return [record["position"] for record in every if true(record)]

    assert picks() == those(lambda record: True)
    assert picks("--type", "container.exited") == those(lambda record: record["type"] == "container.exited")
    assert picks("--type", "image.", "--type", "tag.set") == those(
        lambda record: record["type"][:3] in ("ima", "tag")
    )
    assert picks("--stream", "engine") == [1]
    assert picks("--filter", "stream=layer/") == those(lambda record: record["stream"].startswith("layer/"))
    well = those(
        lambda record: record["stream"] == next(r["stream"] for r in every if r["data"].get("name") == "well")
    )
    assert picks("well") == well
    assert picks("--label", "team=a") == well
    assert picks("--label", "team", "--type", "container.created") == well[:1]
    containers = those(lambda record: record["stream"].startswith("container/"))
    assert picks("--image", "busybox", "--stream", "container/") == containers
    assert picks("--actor", "root") == those(lambda record: record["actor"]["uid"] == 0)
    assert picks("--actor", "lading-cli") == those(lambda record: record["actor"]["client"] == "lading-cli")
    command = every[well[0]]["command"]
    assert picks("--command", command) == those(lambda record: record["command"] == command)
    assert picks("--command", command[:16]) == picks("--command", command)
    assert command[:16] in made("log", "--commands").stdout
    at = every[5]["time"]
    instant = f"{at // 10**9}.{at % 10**9:09}"
    assert picks("--since", instant)[0] <= 6
    assert picks("--until", instant)[-1] >= 6
    assert picks("--since", "@3", "--until", "@6") == [4, 5, 6]
    assert picks("--since", "3", "--after", "4", "--until", "6") == [5, 6]
    assert picks("--since", "1h ago", "--until", "now") == those(lambda record: True)
    assert picks("--until", "yesterday") == []


WRONG = [
    (("--since", "soon"), "give a position"),
    (("--until", "2026-13-01"), "give a position"),
    (("--type", "container"), "give one of store.created"),
    (("--command", "xyz"), "32 hexadecimal digits"),
    (("--image", "UP PER"), "invalid image"),
    (("--filter", "nope=1"), "is no filter"),
    (("--filter", "type"), "is no filter"),
    (("--label", "=x"), "key or key=value"),
    (("--label", "\udcff"), "no text"),
    (("--stream", ""), "it is empty"),
]


@pytest.mark.long
@pytest.mark.parametrize("command", ["log", "events"])
def test_wrong_words_are_one_line_and_start_no_engine(tmp_path: Path, command: str) -> None:
    cli = Cli(tmp_path / "none")
    for options, why in WRONG:
        done = cli(command, *options, code=2)
        assert (done.stdout, done.stderr.count("\n"), why in done.stderr) == ("", 1, True), done.stderr
    assert not (tmp_path / "none").exists()


def on_a_terminal(cli: Cli, *words: str, type_in: bytes = b"", **environ: str) -> tuple[bytes, int]:
    """What the command writes on a terminal of its own, and its exit code."""
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in cli.environ.items() if name not in ("NO_COLOR", "PAGER", "LESS")}
    environ = kept | {"TERM": "xterm", "LC_ALL": "C.UTF-8", "LESSSECURE": "1"} | environ
    process = subprocess.Popen(cli.command(*words), stdin=theirs, stdout=theirs, stderr=theirs, env=environ)
    os.close(theirs)
    if type_in:
        os.write(ours, type_in)
    got = b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                more = os.read(ours, 1 << 16)
            except OSError:
                break
            if not more:
                break
            got += more
        elif process.poll() is not None:
            break
    os.close(ours)
    return got.replace(b"\r\n", b"\n"), process.wait(20)


def test_a_terminal_gets_colours_and_failures_are_red(made: Cli) -> None:
    shown, code = on_a_terminal(made, "log", "--no-pager")
    assert code == 0
    [badly] = [line for line in shown.splitlines() if b"exit code 3" in line]
    assert b"\x1b[31mcontainer.exited" in badly
    assert b"\x1b[36mcontainer.created" in shown
    assert b"\x1b[2mroot[" in shown
    assert b"\x1b[31mred" not in shown, "what a container was asked to run can not write on the terminal"
    plain = made("log").stdout.splitlines()
    assert len(shown.splitlines()) == len(plain)
    for environ in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert b"\x1b" not in on_a_terminal(made, "log", "--no-pager", **environ)[0]
    as_json, _ = on_a_terminal(made, "log", "--json", "gone")
    assert as_json.isascii()
    assert b"\x1b" not in as_json


def test_a_terminal_gets_a_pager_of_ones_choice(made: Cli, tmp_path: Path) -> None:
    plain = made("log", "--utc").stdout
    out = tmp_path / "paged"
    for environ in ({"LADING_PAGER": f"cat > {out}", "PAGER": "false"}, {"PAGER": f"cat > {out}"}):
        shown, code = on_a_terminal(made, "log", "--utc", NO_COLOR="1", **environ)
        assert (shown, code) == (b"", 0)
        assert out.read_text() == plain
        out.unlink()
    options = tmp_path / "options"
    on_a_terminal(made, "log", PAGER=f"echo $LESS $LV > {options}; cat > /dev/null")
    assert options.read_text() == "FRX -c\n"
    for nothing in ("cat", ""):
        shown, code = on_a_terminal(made, "log", "--utc", NO_COLOR="1", PAGER=nothing)
        assert (shown.decode(), code) == (plain, 0)
    assert on_a_terminal(made, "log", PAGER="true") == (b"", 0), "who leaves the pager at once hears nothing"


@pytest.mark.long
def test_nothing_that_is_in_a_name_makes_it_fail(made: Cli) -> None:
    """Whatever the output's encoding is, and whatever bytes are asked for."""
    for environ in ({"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C"}):
        for words in (
            ("log",),
            ("log", "--json"),
            ("events", "--since", "1h"),
            ("events", "--since", "1h", "--json"),
        ):
            done = made(*words, **environ)
            if "--json" in words:
                told = [json.loads(line) for line in done.stdout.splitlines()]
                asked = [record["data"]["spec"]["args"] for record in told if "spec" in record["data"]]
                assert asked[-1] == ["echo", "\x1b[31mred\u202e"]
            else:
                assert "\\x1b[31mred\\u202e" in done.stdout
    for reference in ("\udcff", "\u202e", "\x1b[31m", "a" * 5000, "%00", "../x"):
        for command in ("log", "events"):
            options = ("--since", "1h") if command == "events" else ()
            done = made(command, *options, "--", reference, code=1)
            assert done.stderr.startswith("lading: ")
            assert "\x1b" not in done.stderr
            assert done.stderr.count("\n") == 1
