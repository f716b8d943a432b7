"""The commands for images that need no registry: names, removal, history, prune, and how progress is shown."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_program import Cli, wait_until
from click.testing import CliRunner

from lading.engine.cli.layers import showing_layers
from lading.engine.cli.main import group

real = [pytest.mark.real, pytest.mark.slow]

LAYERS = ("aaaaaaaaaaaa", "bbbbbbbbbbbb")


def layer(number: int, status: str, current: int = 0) -> dict[str, Any]:
    detail = {"current": current, "total": 2000} if current else {}
    return {"status": status, "progressDetail": detail, "id": LAYERS[number]}


LINES: list[dict[str, Any]] = [
    {"status": "Pulling from library/x", "id": "latest"},
    layer(0, "Pulling fs layer"),
    layer(1, "Pulling fs layer"),
    layer(0, "Downloading", 1),
    layer(0, "Downloading", 900),
    layer(1, "Already exists"),
    layer(0, "Pull complete"),
    {"progressDetail": {}, "aux": {"Tag": "1"}},
    {"status": "Status: Downloaded newer image for x:\x1b[31mlatest"},
]


class Terminal(io.StringIO):
    """What was written to a terminal."""

    def isatty(self) -> bool:
        return True


def archive(path: Path, content: bytes) -> str:
    with tarfile.open(path, mode="w") as tar:
        entry = tarfile.TarInfo("file")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return os.fspath(path)


@pytest.fixture
def imported(shared: Cli, tmp_path: Path) -> Callable[..., str]:
    """Imports a file as an image; its id."""

    def make(*words: str, content: bytes = b"x" * 5000) -> str:
        return shared("import", archive(tmp_path / "tar", content), *words).stdout.strip()

    return make


def test_where_there_is_no_terminal_each_status_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with showing_layers("auto") as show:
        for line in LINES:
            show(line)
    assert capsys.readouterr().out.splitlines() == [
        "latest: Pulling from library/x",
        "aaaaaaaaaaaa: Pulling fs layer",
        "bbbbbbbbbbbb: Pulling fs layer",
        "aaaaaaaaaaaa: Downloading",
        "bbbbbbbbbbbb: Already exists",
        "aaaaaaaaaaaa: Pull complete",
        "Status: Downloaded newer image for x:\\x1b[31mlatest",
    ]


def test_progress_as_json_is_what_came(capsys: pytest.CaptureFixture[str]) -> None:
    with showing_layers("json") as show:
        for line in LINES:
            show(line)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == LINES


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with showing_layers("quiet") as show:
        for line in LINES:
            show(line)
    assert capsys.readouterr().out == ""


def test_a_terminal_has_a_bar_for_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal, threads = Terminal(), threading.active_count()
    with showing_layers("auto", terminal) as show:
        for line in LINES:
            show(line)
    wait_until(lambda: threading.active_count() == threads, "the end of the bars' thread")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "latest: Pulling from library/x" in shown
    last = shown.splitlines()[-4:]
    assert any(line.startswith("aaaaaaaaaaaa Pull complete") and "2kB/2kB" in line for line in last), shown
    assert any(line.startswith("bbbbbbbbbbbb Already exists") for line in last), shown
    assert "x:\\x1b[31mlatest" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("login", "-u", "ann", "--password-stdin"), "must not be empty"),
        (("login", "--password-stdin"), "say who it is"),
        (("login", "x.example"), "no terminal"),
        (("prune",), "no terminal to be asked on"),
        (("image", "prune", "-a"), "no terminal to be asked on"),
        (("prune", "--filter", "name=x"), "'name=x' is no filter"),
        (("export", "web", "--gzip"), "about the history, not about a container"),
        (("pull", "--progress", "loud", "x"), "'loud' is not one of"),
        (("run", "--pull", "sometimes", "x"), "'sometimes' is not one of"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_done(words: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(group, ["--root", "/nowhere", *words], input="")
    assert (done.exit_code, said in " ".join(done.output.split())) == (2, True), done.output


def test_every_command_of_the_group_is_one_of_the_others() -> None:
    inner = group.commands["image"]
    assert isinstance(inner, type(group).__mro__[1])
    others = {"ls": "images", "rm": "rmi"}
    for name, command in inner.commands.items():  # type: ignore[attr-defined]
        if name not in ("inspect", "prune"):
            assert command is group.commands[others.get(name, name)]


class TestReal:
    pytestmark = real

    @pytest.mark.long
    def test_names_come_and_go(self, shared: Cli, imported: Callable[..., str]) -> None:
        image = imported("mine:1")
        shared("tag", "mine:1", "localhost:5000/team/mine")
        assert shared("image", "tag", "mine:1", "mine:2").stdout == ""
        listed = shared("images", "--format", "json").stdout.splitlines()
        names = {f"{row['Repository']}:{row['Tag']}" for row in map(json.loads, listed)}
        assert names == {"busybox:1", "mine:1", "mine:2", "localhost:5000/team/mine:latest"}
        assert shared("rmi", "mine:1", "nope", code=1).stdout == "Untagged: mine:1\n"
        assert shared("rmi", "nope", code=1).stderr == "lading: No such image: nope:latest\n"
        assert shared("rmi", "-f", "nope").stderr == "lading: No such image: nope:latest\n"
        refused = shared("rmi", image[7:19], code=1).stderr
        assert refused == (
            f"lading: conflict: unable to delete {image[7:19]} (must be forced) - image is referenced in "
            "multiple repositories\n"
        )
        gone = shared("image", "rm", "-f", image[7:19]).stdout.splitlines()
        assert gone[:2] == ["Untagged: mine:2", "Untagged: localhost:5000/team/mine:latest"]
        assert gone[2] == f"Deleted: {image}"
        assert gone[3].startswith("Deleted: sha256:")
        shared("tag", "busybox:1", "x@sha256:" + "0" * 64, code=1)
        assert [each["Id"] for each in json.loads(shared("image", "inspect", "busybox:1").stdout)]
        assert shared("image", "inspect", "nope", code=1).stdout == "[]\n"

    @pytest.mark.long
    def test_prune_asks_shows_and_removes(self, shared: Cli, imported: Callable[..., str]) -> None:
        image = imported()
        ended = shared("run", "-d", "busybox:1", "true").stdout.strip()
        shared("wait", ended)
        planned = shared("prune", "--dry-run").stdout
        assert planned.startswith(f"Would delete Containers:\n{ended}\n\nWould delete Images:\ndeleted: {image}\n")
        assert planned.splitlines()[-1].startswith("Would reclaim ")
        assert ended in shared("ps", "-aq", "--no-trunc").stdout
        assert shared("prune", "-f", "--filter", "until=1h").stdout == "Total reclaimed space: 0B\n"
        assert shared("image", "prune", "-f", "--filter", "label=nope").stdout == "Total reclaimed space: 0B\n"
        done = shared("prune", "-f").stdout
        assert done.startswith(f"Deleted Containers:\n{ended}\n\nDeleted Images:\ndeleted: {image}\n")
        assert shared("prune", "-f").stdout == "Total reclaimed space: 0B\n"
        assert shared("images", "-q").stdout.count("\n") == 1

    def test_a_run_that_may_not_pull_says_that_there_is_no_image(self, shared: Cli) -> None:
        done = shared("run", "--pull", "never", "nope", "true", code=125)
        assert done.stderr == "lading: No such image: nope:latest\n"

    def test_names_are_completed(self, shared: Cli, imported: Callable[..., str]) -> None:
        imported("fill:in")
        for words in (("rmi",), ("tag",), ("save",), ("push",), ("history",), ("image", "rm")):
            line = ("lading", "--root", os.fspath(shared.root), *words, "fi")
            asked = {"COMP_WORDS": " ".join(line), "COMP_CWORD": str(len(line) - 1)}
            done = shared(**asked, _LADING_COMPLETE="bash_complete")
            assert done.stdout == "plain,fill:in\n", words
        shared("rmi", "fill:in")

    @pytest.mark.long
    def test_a_list_is_of_what_is_asked_for(self, shared: Cli, imported: Callable[..., str]) -> None:
        imported("team/one:1", "-c", "LABEL team=a")
        imported("team/two:2", content=b"y" * 5000)

        def names(*words: str) -> list[str]:
            rows = map(json.loads, shared("images", "--format", "json", *words).stdout.splitlines())
            return sorted(f"{row['Repository']}:{row['Tag']}" for row in rows)

        assert names("team/*") == ["team/one:1", "team/two:2"]
        assert names("team/*:2") == names("--filter", "reference=team/two") == ["team/two:2"]
        assert names("--filter", "label=team=a") == ["team/one:1"]
        assert names("--filter", "before=team/two:2", "team/*") == ["team/one:1"]
        assert names("--filter", "dangling=true") == []
        assert "DIGEST" in shared("image", "ls", "--digests").stdout.splitlines()[0]
        assert "invalid filter" in shared("images", "--filter", "x=y", code=1).stderr
        assert "is no filter" in shared("images", "--filter", "x", code=2).stderr
        shared("rmi", "team/one:1", "team/two:2")
