"""The history leaves a store as a file and becomes a store again, as its user does it."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pty
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from cli_program import Cli, wait_until
from pasts import STORE, make_store, some_past

from lading.storage.store import read_log

pytestmark = pytest.mark.slow
PAST = some_past()


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    make_store(tmp_path / "store", PAST)
    return Cli(tmp_path / "store")


def records(root: Path) -> list[tuple[int, bytes]]:
    log = read_log(root)
    try:
        log.verify()
        return log.read_raw()
    finally:
        log.close()


def test_out_of_one_store_and_into_another(cli: Cli, tmp_path: Path) -> None:
    """To a file and through a pipe, compressed and not: the same history, and files for their owner alone."""
    file, packed = os.fspath(tmp_path / "h"), os.fspath(tmp_path / "h.gz")
    assert f"{len(PAST)} records up to position {len(PAST)}" in cli("export", "-o", file).stdout
    cli("export", "-o", packed, "--gzip")
    assert gzip.decompress(Path(packed).read_bytes()) == Path(file).read_bytes()
    assert cli("export").stdout.encode() == Path(file).read_bytes()
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["h", "h.gz", "store"]
    for at, words in enumerate((["import-log", file], ["import-log", packed], ["import-log", "-"])):
        other = Cli(tmp_path / f"other{at}")
        done = other(*words, stdin=Path(file).read_text() if words[-1] == "-" else None)
        assert done.stdout == f"imported {len(PAST)} records of store {STORE}\n"
        assert records(other.root) == PAST
        assert not other.engines()


def test_in_parts_and_together_again(cli: Cli, tmp_path: Path) -> None:
    files = [os.fspath(tmp_path / name) for name in "abc"]
    cli("export", "-o", files[0], "--until", "3")
    cli("export", "-o", files[1], "--after", "3", "--until", "7", "--gzip")
    cli("export", "-o", files[2], "--after", "7")
    other = Cli(tmp_path / "other")
    wrong = other("import-log", files[0], files[2], code=1)
    assert wrong.stderr.startswith(
        f"lading: the export {files[2]} is wrong at line 1 (position 8): it goes on after"
    )
    assert not other.root.exists()
    other("import-log", *files)
    assert records(other.root) == PAST
    assert [record["position"] for record in map(json.loads, other("log", "--json").stdout.splitlines())][-1] == 10


def test_a_changed_character_is_told_by_line_and_position(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "h"
    cli("export", "-o", os.fspath(file))
    file.write_bytes(file.read_bytes().replace(b'"pid":7', b'"pid":8', 1))
    other = Cli(tmp_path / "other")
    done = other("import-log", os.fspath(file), code=1)
    assert "is wrong at line 6 (position 5): the record was changed" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not other.root.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "--after", "11"], "past the last position"),
        (["export", "--after", "5", "--until", "4"], "past the last position"),
        (["export", "--until", "11"], "ends at position 10"),
        (["export", "-o", "/no/such/place"], "No such file"),
        (["import-log", "/no/such/file"], "No such file"),
        (["import-log", "/dev/null"], "a store is there already"),
    ],
)
def test_what_can_not_be_done_is_one_line(cli: Cli, words: list[str], said: str) -> None:
    done = cli(*words, code=1)
    assert said in done.stderr
    assert done.stderr.startswith("lading: ")
    assert done.stderr.count("\n") == 1


def test_an_interrupted_import_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C while it waits for the rest of its input."""
    cli = Cli(tmp_path / "store")
    process = cli.start("import-log", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write('{"format":')
    process.stdin.flush()
    wait_until(lambda: (cli.root / "staging").exists(), "its beginning")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert not cli.root.exists()
    for stream in (process.stdin, process.stdout, process.stderr):
        assert stream is not None
        with contextlib.suppress(BrokenPipeError):
            stream.close()


def test_an_export_that_fails_leaves_the_old_file(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "h"
    file.write_text("old")
    cli("export", "-o", os.fspath(file), "--after", "99", code=1)
    assert file.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["h", "store"]


def test_a_reader_that_leaves_early_ends_it_quietly(tmp_path: Path) -> None:
    make_store(tmp_path / "big", some_past(500))
    process = Cli(tmp_path / "big").start("export")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(30) == 141
    process.stderr.close()


def test_on_a_terminal_there_is_a_bar_and_in_the_file_only_the_export(cli: Cli, tmp_path: Path) -> None:
    leader, terminal = pty.openpty()
    try:
        done = subprocess.run(
            cli.command("export"), stdout=subprocess.PIPE, stderr=terminal, env=cli.environ, check=True, timeout=60
        )
        assert b"exporting" in os.read(leader, 1 << 16)
        assert json.loads(done.stdout.splitlines()[-1])["records"] == len(PAST)
    finally:
        os.close(leader)
        os.close(terminal)
