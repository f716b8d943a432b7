"""The command line explains itself, starts fast, and says wrong usage in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lading.engine.cli.main import group

SOURCE = Path(__file__).parents[2] / "src" / "lading"

COMMANDS = [
    *("attach", "backup", "commit", "compact", "completion", "container", "cp", "create", "df", "diff"),
    *("doctor", "events", "exec", "export", "fork", "history", "image", "images", "import", "import-log"),
    *("inspect", "keygen", "kill", "load", "log", "login", "logout", "logs", "pause", "prune", "ps"),
    *("pull", "push", "rename", "restart", "restore", "rm", "rmi", "run", "save", "seal", "serve"),
    *("start", "stats", "stop", "tag", "timeline", "top", "unpause", "update", "verify", "version"),
    *("volume", "wait"),
]

_IMPORTED = """
import json, sys, types
package = types.ModuleType("lading")
package.__path__ = [sys.argv.pop(1)]  # the modules themselves, without the package's public names
sys.modules["lading"] = package
from lading.engine.cli.main import main
try:
    main()
except SystemExit as end:
    heavy = ("trio", "lmdb", "h11", "rich", "attrs", "msgpack", "cryptography")
    print(json.dumps([end.code, [name for name in heavy if name in sys.modules]]), file=sys.stderr)
"""


def commands(command: click.Command, path: str = "lading") -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from commands(each, f"{path} {name}")


def test_the_commands_are_these() -> None:
    assert sorted(group.commands) == COMMANDS


@pytest.mark.parametrize(("path", "command"), list(commands(group)), ids=[path for path, _ in commands(group)])
def test_every_help_has_one_line_of_what_and_an_example(path: str, command: click.Command) -> None:
    short = command.get_short_help_str(limit=200)
    assert short.endswith(".")
    assert len(short) <= 65, "it must fit beside the command's name"
    text = command.get_help(click.Context(command, info_name=path))
    assert "\n  Example" in text
    examples = text.split("Example")[1].splitlines()[1:]
    assert any(line.strip().startswith(("lading", "docker")) or "| lading" in line for line in examples)
    assert all(len(line) <= 100 for line in text.splitlines())
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts}"


def modules_after(*words: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED, os.fspath(SOURCE), *words], capture_output=True, text=True, check=False
    )
    code, modules = json.loads(done.stderr.splitlines()[-1])
    return code, modules


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("--help",), ("--version",), ("version",), ("ps", "--help"), ("completion", "zsh")]
)
def test_nothing_heavy_is_imported_to_say_a_few_words(words: tuple[str, ...]) -> None:
    assert modules_after(*words) == (0, [])


@pytest.mark.slow
def test_the_history_is_read_without_trio(tmp_path: Path) -> None:
    code, modules = modules_after("--root", os.fspath(tmp_path), "log")
    assert code == 1
    assert "lmdb" in modules
    assert not {"trio", "h11", "rich"} & set(modules)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bogus",), "No such command 'bogus'"),
        (("ps", "--bogus"), "No such option '--bogus'"),
        (("start",), "Missing argument 'CONTAINER...'"),
        (("run", "--network", "bridge", "x"), "'bridge' is not one of"),
        (("run", "--bogus", "x"), "No such option '--bogus'"),
        (("run", "-e", "=1", "x"), "'=1' has no name"),
        (("run", "-m", "much", "x"), "'much' is no size"),
        (("create", "--cpus", "0.0000000001", "x"), "is too precise"),
        (("run", "--health-interval", "5", "x"), "'5' is no duration"),
        (("run", "--rm", "--restart", "always", "x"), "--restart and --rm conflict"),
        (("run", "--no-healthcheck", "--health-retries", "1", "x"), "--no-healthcheck conflicts"),
        (("run", "--env-file", "/no/such/file", "x"), "No such file or directory: /no/such/file"),
        (("run", "--device", "sda", "x"), "'sda' is not an absolute path"),
        (("update", "x"), "there is nothing to change"),
        (("update", "x", "--memory-swappiness", "1"), "No such option '--memory-swappiness'"),
        (("ps", "--filter", "healthy"), "'healthy' is no filter"),
        (("logs", "--since", "yesterday", "x"), "'yesterday' is no time"),
        (("logs", "-n", "some", "x"), "neither a number nor 'all'"),
        (("completion", "cmd"), "'cmd' is not one of"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(words: tuple[str, ...], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lading.engine.cli.main", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("lading: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert "--help`" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_one_that_its_shell_understands(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lading.engine.cli.main", "completion", shell],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_LADING_COMPLETE" in done.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
