"""How far something has come is told on standard error, and an engine that is at it is waited for."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest
from cli_program import Cli

from lading.engine.cli.progress import is_progress, showing_progress

OLD = Path(__file__).parents[1] / "golden" / "format-1.tar.gz"


def test_lines_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """Every five per cent, and at the end; nothing before it begins."""
    with showing_progress("making the views again", lines=True) as told:
        assert capsys.readouterr().err == ""
        for at in range(1, 1001):
            told(at, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "making the views again: 0 %"
    assert lines[-1] == "making the views again: 100 %"
    assert len(lines) == 21
    assert all(map(is_progress, lines))
    assert not is_progress("lading: the store is corrupt at position 5: 100 %!")


def test_nothing_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with showing_progress("copying") as told:
        told(1, 2)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with showing_progress("verifying") as told:
        for at in range(1, 51):
            told(at, 50)
    said = capfd.readouterr().err
    assert "verifying" in said
    assert "50/50" in said


@pytest.mark.real
@pytest.mark.slow
def test_a_store_of_an_earlier_release_is_brought_up_to_date_by_the_first_command(fresh: Cli) -> None:
    """The engine that the command starts does it, and says so in its log."""
    with tarfile.open(OLD) as tar:
        tar.extractall(fresh.root.parent, filter="tar")
    assert fresh("ps", "-aq").stdout.split() == ["b" * 12, "a" * 12]
    assert "making the views again: 100 %" in (fresh.root / "serve.log").read_text()
    records = [json.loads(line) for line in fresh("log", "--json").stdout.splitlines()]
    assert records[0]["data"]["release"] == ""
    assert len(records) == 19
    assert os.path.exists(fresh.root / "log" / "data.mdb")
