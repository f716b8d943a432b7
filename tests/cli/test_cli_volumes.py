"""`lading volume`, and the mounts of `lading run`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_program import Cli

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.mark.long
def test_a_volume_from_create_to_rm(shared: Cli, tmp_path: Path) -> None:
    assert shared("volume", "create", "-l", "a=b", "box").stdout == "box\n"
    assert shared("run", "--rm", "-v", "box:/d", "busybox:1", "sh", "-c", "echo kept > /d/x").stdout == ""
    assert shared("run", "--rm", "--mount", "src=box,dst=/e,ro", "busybox:1", "cat", "/e/x").stdout == "kept\n"
    assert shared("volume", "ls").stdout.split() == ["DRIVER", "VOLUME", "NAME", "local", "box"]
    assert shared("volume", "ls", "-q", "--filter", "name=nope").stdout == ""
    [listed] = shared("volume", "ls", "--format", "json").stdout.splitlines()
    assert (json.loads(listed)["Name"], json.loads(listed)["Labels"]) == ("box", "a=b")
    [shown] = json.loads(shared("volume", "inspect", "box").stdout)
    assert (shown["Name"], shown["Mountpoint"]) == ("box", str(shared.root / "volumes/box/_data"))
    made = shared("run", "-d", "-v", "box:/d", "-v", "/own", "busybox:1", "true").stdout.strip()
    shared("wait", made)
    refused = shared("volume", "rm", "box", "nope", code=1)
    assert refused.stderr == (
        f"lading: remove box: volume is in use - [{made}]\nlading: get nope: no such volume\n"
    )
    usage = json.loads(shared("df", "--json").stdout)["volumes"]
    assert (usage["total"], usage["active"]) == (2, 2)
    assert "Volumes" in shared("df").stdout
    assert "box" in shared("df", "-v").stdout
    shared("rm", "-v", made)
    assert shared("volume", "ls", "-q").stdout == "box\n"
    assert shared("volume", "prune", "-a", "--dry-run").stdout.startswith("Would delete Volumes:\nbox\n")
    assert shared("volume", "prune", "-f").stdout == "Total reclaimed space: 0B\n"
    assert shared("volume", "rm", "box").stdout == "box\n"
    assert shared("volume", "ls", "-q", "--at", "1s ago", code=None).returncode == 0


@pytest.mark.long
def test_the_other_mounts_of_run(shared: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("the host's\n")
    assert shared("run", "--rm", "-v", f"{tmp_path}:/h", "busybox:1", "cat", "/h/file").stdout == "the host's\n"
    assert shared("run", "--rm", "--tmpfs", "/t:mode=700", "busybox:1", "stat", "-c", "%a", "/t").stdout == "700\n"
    made = shared("run", "-d", "-v", "/own", "busybox:1", "touch", "/own/x").stdout.strip()
    shared("wait", made)
    assert shared("run", "--rm", "--volumes-from", made, "busybox:1", "ls", "/own").stdout == "x\n"
    shared("rm", made)
    assert len(shared("volume", "ls", "-q").stdout.split()) == 1
    assert "Deleted Volumes:" in shared("prune", "-f", "--volumes").stdout
    assert shared("volume", "ls", "-q").stdout == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--mount", "type=bind,what=x,dst=/d", "busybox:1"), "unexpected key 'what'"),
        (("volume", "ls", "--filter", "what=x"), "'what=x' is no filter"),
        (("volume", "prune"), "no terminal to be asked on"),
        (("volume", "prune", "--filter", "until=1h"), "'until=1h' is no filter"),
        (("prune", "--volumes", "-f", "--filter", "until=1h"), "not supported"),
        (("volume", "create", "../x"), "includes invalid characters"),
    ],
)
def test_what_can_t_be_done_is_said(shared: Cli, words: tuple[str, ...], said: str) -> None:
    done = shared(*words, code=None)
    assert done.returncode != 0
    assert said in done.stderr
