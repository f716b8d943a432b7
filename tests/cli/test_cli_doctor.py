"""`lading doctor` looks at everything, says what to do, and leaves nothing behind."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest
import trio
from cli_program import Cli

import lading
from lading.engine.cli import checks as cli_checks
from lading.engine.cli.checks import State, examine
from lading.engine.cli.client import Place

NAMES = [
    *("user", "kernel", "root", "overlayfs", "mount API", "cgroups", "crun", "runc"),
    *("seccomp", "store", "socket", "keeper"),
]

RUN = Path("/run/lading")

pytestmark = [pytest.mark.real, pytest.mark.slow]


def place_of(root: Path) -> Place:
    return Place(os.fspath(root), os.fspath(root / "lading.sock"))


def test_it_looks_at_everything_and_leaves_nothing_behind(tmp_path: Path) -> None:
    before = set(RUN.iterdir()) if RUN.exists() else set()
    done = Cli(tmp_path / "store")("doctor", "--json")
    found = json.loads(done.stdout)
    assert found["ok"] is True
    assert [check["name"] for check in found["checks"]] == NAMES
    for check in found["checks"]:
        assert set(check) == {"name", "state", "found", "todo"}
        assert check["state"] in ("ok", "note")
        assert check["found"]
    assert list(tmp_path.iterdir()) == []
    ours = {path for path in (set(RUN.iterdir()) - before) if not any((path / "bundles").glob("*"))}
    assert not any((path / "crun").exists() and not (path / "keeper.lock").exists() for path in ours)


def test_the_table_has_a_line_for_each(tmp_path: Path) -> None:
    lines = Cli(tmp_path / "store")("doctor").stdout.splitlines()
    assert [line.split("   ")[0].strip() for line in lines[1 : len(NAMES) + 1]] == NAMES


def test_what_is_wrong_is_an_exit_code_of_1_and_one_line_of_what_to_do(tmp_path: Path) -> None:
    done = Cli(tmp_path / "no" / "such" / "store")("doctor", code=1)
    assert f"root: mkdir -p {tmp_path / 'no' / 'such'}" in done.stdout.splitlines()


def test_a_store_is_told_with_its_owner_and_records(fresh: Cli) -> None:
    root = fresh.root
    checks = {}

    async def live() -> None:
        async with lading.open_engine(root):
            done = await trio.to_thread.run_sync(lambda: fresh("doctor", "--json"))
            checks.update({check["name"]: check for check in json.loads(done.stdout)["checks"]})

    trio.run(live)
    assert checks["store"]["found"] == f"format 2, 1 records, owned by process {os.getpid()}"
    after = {check.name: check for check in examine(place_of(root))}
    assert after["store"].found == "format 2, 1 records, owned by nobody now"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not json", "can't be read"),
        (b'{"store": "x", "format": 99}', "install a newer lading"),
        (b'{"store": "x", "format": 1}', "has no log"),
    ],
)
def test_a_store_that_is_wrong_is_told(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "store.json").write_bytes(content)
    [check] = [check for check in examine(place_of(tmp_path)) if check.name == "store"]
    assert check.state is State.WRONG
    assert said in check.found
    assert check.todo


def test_a_dead_socket_is_a_note(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.fspath(tmp_path / "lading.sock"))
    [check] = [check for check in examine(place_of(tmp_path)) if check.name == "socket"]
    assert check.state is State.NOTE
    assert "dead" in check.found


def test_the_holder_of_a_lock_is_found_without_touching_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert cli_checks._holder(path) == 0
    with path.open("w") as file:
        assert cli_checks._holder(path) == 0
        fcntl.flock(file, fcntl.LOCK_EX)
        assert cli_checks._holder(path) == os.getpid()


def test_one_runtime_is_enough_and_the_other_s_reason_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_checks, "_RUNTIMES", ("no-such-runtime", "runc"))
    found = {check.name: check for check in examine(place_of(tmp_path / "store"))}
    assert found["no-such-runtime"].state is State.NOTE
    assert found["no-such-runtime"].found == "refused: not installed"
    assert found["runc"].state is State.OK


def test_no_runtime_is_wrong_and_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_checks, "_RUNTIMES", ("no-such-runtime",))
    [check] = [check for check in examine(place_of(tmp_path / "store")) if check.name == "no-such-runtime"]
    assert check.state is State.WRONG
    assert "apt-get install" in check.todo
