"""The page of `lading timeline --html` as a file: how it is written, and that its data is only ever data."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import past
import pytest
from cli_program import Cli

from lading.engine.cli.page import data as page_data
from lading.engine.cli.page.document import embedded, page, write_page
from lading.engine.cli.window import open_window
from lading.events.errors import HostError, Invalid
from lading.storage.store import read_log

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    cli = Cli(tmp_path_factory.mktemp("evening") / "store")
    past.write_store(cli.root, past.evening())
    return cli


def test_its_policy_lets_nothing_in_and_it_names_no_other_place(evening: Cli) -> None:
    document = evening("timeline", "--html", "-").stdout
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', document)
    assert policy.startswith(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    )
    assert not re.search(r"https?:|@import|url\(|\bsrc=|fetch\(|innerHTML|eval\(|document\.write", document)
    assert document.count("</script") == 2


@pytest.mark.parametrize("value", [past.HOSTILE, {"<!--": "]]>&\u2029"}, "\ud800", [2**53, None, True]])
def test_embedded_data_is_ascii_without_markup_and_comes_out_as_it_went_in(value: Any) -> None:
    out = embedded(value)
    assert out.isascii()
    assert not set("<>&") & set(out)
    assert json.loads(out) == value


def test_data_that_looks_like_the_template_is_data(evening: Cli) -> None:
    log = read_log(evening.root)
    try:
        made = page_data.page_data(open_window(log), root="@@script@@ @@data@@")
    finally:
        log.close()
    assert page(made).count('"root":"@@script@@ @@data@@"') == 1


def test_the_file_is_replaced_whole_and_readable_less_the_umask(evening: Cli, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text("before")
    link = tmp_path / "link.html"
    link.symlink_to(file)
    before = os.umask(0o027)
    try:
        evening("timeline", "--html", os.fspath(link))
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert file.read_bytes().startswith(b"<!doctype html>")
    assert sorted(os.listdir(tmp_path)) == ["link.html", "page.html"]


def test_a_dash_is_standard_output(evening: Cli) -> None:
    done = evening("timeline", "--html", "-")
    assert done.stdout.startswith("<!doctype html>")
    assert done.stdout.endswith("</html>\n")


def test_what_is_no_file_is_refused_and_left_alone(evening: Cli, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, said in (
        (tmp_path, "name a file in it"),
        (fifo, "no regular file"),
        (tmp_path / "no" / "x", "No such"),
    ):
        done = evening("timeline", "--html", os.fspath(path), code=1)
        assert done.stderr.startswith(f"lading: cannot write the page {path}")
        assert said in done.stderr
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert os.listdir(tmp_path) == ["fifo"]


def test_a_failed_write_leaves_what_was_there(
    evening: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk says no at the last moment."""
    file = tmp_path / "page.html"
    file.write_text("before")

    def refuse(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    log = read_log(evening.root)
    try:
        with pytest.raises(HostError, match="No space left"):
            write_page(os.fspath(file), open_window(log))
    finally:
        log.close()
    assert (os.listdir(tmp_path), file.read_text()) == (["page.html"], "before")


def test_more_events_than_a_page_can_hold_are_refused_with_a_way_out(
    evening: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_data, "MOST", 35)
    log = read_log(evening.root)
    try:
        with pytest.raises(Invalid, match="narrow it with --since"):
            write_page(os.fspath(tmp_path / "page.html"), open_window(log))
        write_page(os.fspath(tmp_path / "page.html"), open_window(log), [])
    finally:
        log.close()


@pytest.mark.long
def test_a_wheel_contains_the_page(tmp_path: Path) -> None:
    copy = tmp_path / "source"
    copy.mkdir()
    top = Path(__file__).parents[2]
    for name in ("pyproject.toml", "README.md", "LICENSE", "src", "engine", "events", "storage"):
        subprocess.run(["cp", "-a", top / name, copy], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", tmp_path, copy]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    parts = {"page.html", "page.css", "model.js", "chart.js", "panels.js", "page.js"}
    assert {f"lading/engine/cli/page/{part}" for part in parts} <= set(names)
