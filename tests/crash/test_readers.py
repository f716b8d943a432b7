"""Readers in other processes: killed or stopped in mid-read, they don't make the file grow for ever."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from logbook import does, made, told

from lading.events.container import Renamed
from lading.events.views import CONTAINERS
from lading.storage import database
from lading.storage.environment import open_log
from lading.storage.log import Log

HELD = 25
"""Pages that one commit sets free here: those of a state of 100 kB."""
ALONE = 100
"""More pages than sixty commits take when nobody holds any back."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


READER = """
import sys, time
from pathlib import Path
from lading.storage.environment import open_log
log = open_log(Path(sys.argv[1]), readonly=True)
with log.db.read() as txn:
    txn.get(b"x", db=log.db.tables["log"])
    print("reading", flush=True)
    time.sleep(600)
"""


@contextmanager
def reader(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of a read transaction."""
    with subprocess.Popen([sys.executable, "-c", READER, path], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "reading\n"
            yield process
        finally:
            process.kill()


def churn(log: Log, times: int) -> int:
    """Change one container's state again and again; the number of the last page in use."""
    [(_, state)] = log.scan(CONTAINERS)
    old = state.name
    for number in range(times):
        new = f"{state.name}{number}"
        told(log, does(1, Renamed(old, new)))
        old = new
    told(log, does(1, Renamed(old, "name1")))
    return log.db.last_page()


@pytest.mark.slow
def test_a_killed_reader_holds_no_page_back_for_long(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its slot is cleared while the log is open, after some commits, and whenever the log is opened."""
    monkeypatch.setattr(database, "_CLEAR_EVERY", 20)
    log = open_log(path, "id")
    told(log, made(1, args=("x" * 100_000,)))
    steady = churn(log, 60)
    assert churn(log, 60) - steady < ALONE
    with reader(path) as process:
        process.kill()
        process.wait()
        before = log.db.last_page()
        after = churn(log, 100)
        assert after - before < 22 * HELD + 2 * ALONE  # until the next look, at most 20 commits later
        assert churn(log, 60) - after < ALONE
    with reader(path) as process:
        process.kill()
        process.wait()
        log.close()
        log = open_log(path)
        assert log.db.clear_readers() == 0  # opening has done it
    log.verify()
    log.close()


@pytest.mark.slow
def test_a_stopped_reader_costs_pages_only_until_it_is_gone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LMDB can't take a living reader's snapshot away; what it held back is used again as soon as it ends."""
    monkeypatch.setattr(database, "_CLEAR_EVERY", 20)
    log = open_log(path, "id")
    told(log, made(1, args=("x" * 100_000,)))
    churn(log, 30)
    with reader(path) as process:
        process.send_signal(signal.SIGSTOP)
        before = log.db.last_page()
        assert churn(log, 60) - before > 50 * HELD
        process.kill()
        process.wait()
        held = churn(log, 20)
        assert churn(log, 60) - held < ALONE
    log.verify()
    log.close()
