"""Every step that makes the log durable can be the last one, or fail: real system calls, killed or refused by
strace.

A scenario is run once to count its steps. Then it is run again for each step, and killed just before that one,
or has that one and all later ones fail. What was acknowledged must be there after, at most one append more, and
all of it sound.
"""

from __future__ import annotations

import collections
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from logbook import cid, made, told

from lading.events.errors import StoreBroken
from lading.events.views import CONTAINERS
from lading.storage.environment import open_log

STEPS = ("pwrite64", "pwritev", "fdatasync", "fsync", "ftruncate", "truncate", "rename", "write", "unlink")
"""The calls that change what is on disk, or make it stay there."""

BEGIN = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from logbook import *
from lading.events.errors import LadingError, StoreBroken
from lading.storage import snapshots, log as log_module, rebuild
from lading.storage.compact import archive
from lading.storage.environment import open_log
for module in (snapshots, log_module, rebuild):
    module.EVERY = 5
snapshots._SMALL = 8
said = os.open({said!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def say(word):
    os.pwritev(said, [f"{{word}}\\n".encode()], 0, os.RWF_APPEND)

log = open_log(Path({path!r}), "0" * 32)
say(log.position)
"""

SCENARIOS = {
    "appends": """
for number in range(1, 8):
    told(log, made(number), does(number, StartRequested(1)))
    say(log.position)
told(log, does(3, StartFailed(1, 127, "no")), does(3, RemoveRequested(False)), does(3, Removed("name3")))
say(log.position)
""",
    "compaction": """
for number in range(1, 7):
    told(log, made(number))
    say(log.position)
segment = archive(log.db, "0" * 32, 4, Path({path!r}).parent / "archive")
log.rebase(segment, "e" * 32, 10**6, ACTOR, "d" * 32)
say(log.position)
while log.clear():
    pass
told(log, made(9))
say(log.position)
""",
    "rebuild": """
for number in range(1, 7):
    told(log, made(number))
    say(log.position)
log.rebuild()
told(log, made(9))
say(log.position)
""",
}


def program(scenario: str, path: Path, end: str = "") -> list[str]:
    tests, said = str(Path(__file__).parent.parent), str(path.parent / "said")
    text = (BEGIN + SCENARIOS[scenario] + end).format(tests=tests, path=str(path), said=said)
    return [sys.executable, "-c", text]


def strace(path: Path, *options: str) -> list[str]:
    tool = shutil.which("strace")
    if tool is None:
        pytest.skip("strace is not installed")
    return [tool, "-f", "-qq", "-P", str(path / "data.mdb"), "-o", str(path.parent / "trace"), *options]


def steps(path: Path) -> Iterator[tuple[str, int]]:
    """Each step of the trace: which call, and the how many-th of its kind."""
    counts: collections.Counter[str] = collections.Counter()
    for line in (path.parent / "trace").read_text().splitlines():
        found = re.match(r"[0-9]+ +([a-z0-9]+)\(", line)
        if found and found[1] in STEPS:
            counts[found[1]] += 1
            yield found[1], counts[found[1]]


def acknowledged(path: Path) -> list[int]:
    said = path.parent / "said"
    return [int(word) for word in said.read_text().split()] if said.exists() else []


def check_whole(path: Path) -> None:
    """What was acknowledged is there, at most one append more, all of it sound; looking again changes nothing."""
    told = acknowledged(path)
    if not (path / "data.mdb").exists():
        assert told == []
        return
    try:
        log = open_log(path)
    except Exception:
        assert told == [], "a log from which something was acknowledged can't be opened"
        return
    head = log.head()
    assert max(told, default=0) <= head <= max(told, default=0) + 3
    assert log.verify().records == head + 1 - log.first
    while log.clear():
        pass
    log.verify()
    states = {
        view: log.at(head).scan(view) for view in __import__("lading.events.views", fromlist=["VIEWS"]).VIEWS
    }
    log.close()
    log = open_log(path)
    assert log.head() == head
    assert states == {view: log.scan(view) for view in states}
    log.close()


def fresh(path: Path) -> None:
    for left in path.parent.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


@pytest.mark.long
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_before_any_step_nothing_acknowledged_is_lost(tmp_path: Path, scenario: str) -> None:
    path = tmp_path / "try" / "log"
    path.parent.mkdir()
    subprocess.run([*strace(path, "-e", f"trace={','.join(STEPS)}"), *program(scenario, path)], check=True)
    check_whole(path)
    everything = list(steps(path))
    assert len(everything) > 20
    killed = 0
    for name, number in everything:
        fresh(path)
        inject = ("-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={number}")
        done = subprocess.run([*strace(path, *inject), *program(scenario, path)], capture_output=True, check=False)
        killed += done.returncode != 0
        check_whole(path)
    assert killed == len(everything)


FROZEN = """
say("end")
"""


@pytest.mark.long
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_when_every_step_from_some_on_fails_the_log_says_so_and_can_be_read(
    tmp_path: Path, scenario: str, error: str
) -> None:
    """One clear error, nothing half-written, no more writes, reading goes on; opened again it is whole."""
    path = tmp_path / "try" / "log"
    path.parent.mkdir()
    subprocess.run([*strace(path, "-e", f"trace={','.join(STEPS)}"), *program(scenario, path)], check=True)
    everything = [step for step in steps(path) if step[0] in ("pwrite64", "pwritev", "fdatasync")]
    ends: collections.Counter[str] = collections.Counter()
    for name, number in everything:
        fresh(path)
        inject = ("-e", f"trace={name}", "-e", f"inject={name}:error={error}:when={number}+")
        text = program(scenario, path)
        text[-1] = AROUND.format(body="\n".join("    " + line for line in text[-1].splitlines()))
        done = subprocess.run([*strace(path, *inject), *text], capture_output=True, text=True, check=False)
        assert done.stderr == ""
        ends[done.stdout.split()[0]] += 1
        check_whole(path)
    assert ends["broken"] > 20
    assert set(ends) <= {"broken", "unopened"}


AROUND = """
log = None
try:
{body}
except StoreBroken as error:
    words = str(error)
    assert "until it is opened again" in words, words
    if log is None:
        print("unopened", words)
    else:
        head = log.position
        assert len(log.read(limit=1000)) == head + 1 - log.first
        assert log.verify().records == head + 1 - log.first
        assert log.at(head).scan(CONTAINERS) == log.scan(CONTAINERS)
        try:
            told(log, made(99))
        except StoreBroken:
            print("broken", words)
else:
    print("fine")
"""


def test_a_full_disk_is_told_and_after_room_is_made_all_is_whole(small_disk: Path) -> None:
    """Really full: the append fails with a clear error, reading goes on, and after a reopen so does appending."""
    log = open_log(small_disk / "log", "id")
    told(log, made(1))
    filler = small_disk / "filler"
    filler.write_bytes(bytes((free := os.statvfs(small_disk)).f_bavail * free.f_frsize - (64 << 10)))
    broken = ""
    number = 1
    while not broken:
        number += 1
        try:
            told(log, made(number, args=("x" * 5000,)))
        except StoreBroken as error:
            broken = str(error)
    assert re.search("no space left on the disk of .*make room, then open the store again", broken)
    acknowledged = log.position
    assert acknowledged == number - 1 > 1
    for _ in range(2):
        with pytest.raises(StoreBroken):
            told(log, made(99))
        assert log.head() == log.verify().records == acknowledged
        assert [key for key, _ in log.scan(CONTAINERS)] == [cid(each) for each in range(1, number)]
    filler.unlink()
    log.close()
    log = open_log(small_disk / "log")
    assert log.verify().records == acknowledged
    told(log, made(number))
    assert log.verify().records == acknowledged + 1
    log.close()
