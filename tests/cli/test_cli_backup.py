"""A backup and its restoration, as their user sees them: one line each, and notes of what may surprise."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cli_program import Cli
from pasts import STORE, make_store, some_past

from lading.storage.store import read_log

pytestmark = pytest.mark.slow
PAST = some_past()


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    make_store(tmp_path / "store", PAST)
    return Cli(tmp_path / "store")


def test_there_and_back(cli: Cli, tmp_path: Path) -> None:
    backup, other = os.fspath(tmp_path / "b"), Cli(tmp_path / "other")
    done = cli("backup", "--log-only", backup)
    assert done.stdout == f"{backup}: store {STORE} up to position {len(PAST)}, without files\n"
    assert done.stderr == ""
    assert stat.S_IMODE(os.stat(backup).st_mode) == 0o700
    done = other("restore", backup)
    assert done.stdout == f"{other.root}: store {STORE} up to position {len(PAST)}, without files\n"
    log = read_log(other.root)
    assert log.verify().records == len(PAST)
    log.close()
    assert not cli.engines()
    assert not other.engines()


def test_a_removed_container_is_told_at_both_ends(cli: Cli, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a backup of files needs root")
    layer = cli.root / "layers" / ("1" * 64)
    layer.mkdir(parents=True)
    for name in "ab":
        (layer / name).touch()
    backup = os.fspath(tmp_path / "b")
    done = cli("backup", backup)
    assert done.stdout.endswith("with 1 layer\n")
    assert done.stderr.count("was removed meanwhile") == 2
    assert Cli(tmp_path / "other")("restore", backup).stderr.count("it was removed while it was copied") == 2


def test_what_can_not_be_done_is_one_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    other = Cli(tmp_path / "other")
    for lading, words, said in (
        (cli, ["backup", os.fspath(tmp_path / "full")], "it has something in it"),
        (cli, ["backup", "/no/such/place/b"], "No such file"),
        (other, ["backup", os.fspath(tmp_path / "b")], "no store is there"),
        (cli, ["restore", os.fspath(tmp_path / "full")], "no backup.json: it was cut short, or is no backup"),
        (other, ["restore", os.fspath(tmp_path / "full")], "no backup.json: it was cut short, or is no backup"),
        (other, ["restore", "/no/such/place"], "it is not there"),
    ):
        done = lading(*words, code=1)
        assert said in done.stderr
        assert done.stderr.startswith("lading: ")
        assert done.stderr.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["full", "store"]
