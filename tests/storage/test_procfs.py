"""Processes by what /proc tells: an identity never fits another process, and a signal never reaches one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from lading.events.spec import ProcessId
from lading.storage.procfs import (
    boot_id,
    has_executed,
    is_alive,
    processes_naming,
    send_signal,
    start_ticks,
)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def identity(pid: int) -> ProcessId:
    return ProcessId(boot_id(), pid, start_ticks(pid))


def called(pid: int, name: str) -> bool:
    """Whether ``pid`` gets that command name: exec sets it just after it closes what tells Popen."""
    deadline = time.monotonic() + 10
    while (found := Path(f"/proc/{pid}/comm").read_text() == name + "\n") is False and time.monotonic() < deadline:
        time.sleep(0.001)
    return found


def zombie() -> subprocess.Popen[bytes]:
    """A child that has ended and is not reaped."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process


def test_boot_id_is_this_boots() -> None:
    assert boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert len(boot_id()) == 36


def test_start_ticks_tell_when(sleeper: subprocess.Popen[bytes]) -> None:
    """Field 22 of stat: not before our own start, and the same each time."""
    assert start_ticks(sleeper.pid) == start_ticks(sleeper.pid) >= start_ticks(os.getpid()) > 0
    now = float(Path("/proc/uptime").read_text().split()[0]) * os.sysconf("SC_CLK_TCK")
    assert -2 < now - start_ticks(sleeper.pid) < 60 * os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("name", ["a) S 1 2 (b", "x y", ") Z 0 ("])
def test_a_command_name_cannot_forge_the_fields_after_it(tmp_path: Path, name: str) -> None:
    """A program may be called anything, parentheses and spaces included."""
    program = tmp_path / name
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as process:
        try:
            assert called(process.pid, name)
            assert start_ticks(process.pid) >= start_ticks(os.getpid())
            assert is_alive(identity(process.pid))
        finally:
            process.kill()


def test_who_is_gone_or_a_zombie_has_no_start() -> None:
    ended = zombie()
    assert start_ticks(ended.pid) == 0
    ended.wait()
    assert start_ticks(ended.pid) == 0
    assert start_ticks(2**22 + 1) == 0


def test_an_identity_is_pid_start_and_boot(sleeper: subprocess.Popen[bytes]) -> None:
    mine = identity(sleeper.pid)
    assert is_alive(mine)
    assert not is_alive(attrs.evolve(mine, boot="another boot"))
    assert not is_alive(attrs.evolve(mine, start_ticks=mine.start_ticks - 1))
    assert not is_alive(attrs.evolve(mine, start_ticks=0))
    assert not is_alive(attrs.evolve(mine, pid=os.getpid()))
    sleeper.kill()
    sleeper.wait()
    assert not is_alive(mine)


def test_a_zombie_is_not_alive_even_for_an_unread_start() -> None:
    """Start ticks of 0 stand for unknown: two unknowns are not the same process."""
    ended = zombie()
    assert not is_alive(ProcessId(boot_id(), ended.pid, 0))
    assert not send_signal(ProcessId(boot_id(), ended.pid, 0), signal.SIGKILL)
    ended.wait()


def test_a_signal_reaches_the_process(sleeper: subprocess.Popen[bytes]) -> None:
    assert send_signal(identity(sleeper.pid), signal.SIGUSR1)
    assert sleeper.wait(timeout=10) == -signal.SIGUSR1


def test_a_signal_never_reaches_a_stranger(sleeper: subprocess.Popen[bytes]) -> None:
    """Who has the pid now, or had it in another boot, is left alone; so is nobody told of success."""
    mine = identity(sleeper.pid)
    for other in (
        attrs.evolve(mine, start_ticks=mine.start_ticks + 1),
        attrs.evolve(mine, boot="another boot"),
        attrs.evolve(mine, start_ticks=0),
    ):
        assert send_signal(other, signal.SIGKILL) is False
    assert send_signal(mine, 0) is True
    assert sleeper.poll() is None
    sleeper.kill()
    sleeper.wait()
    assert send_signal(mine, signal.SIGKILL) is False


def test_a_pid_that_is_a_thread_now_is_gone() -> None:
    """Threads take their numbers from the same pool: such a one was reused, and is no process."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        reused = ProcessId(boot_id(), thread.native_id, 1)
        assert not is_alive(reused)
        assert send_signal(reused, signal.SIGKILL) is False
    finally:
        stop.set()
        thread.join()


def test_descriptors_are_given_back(sleeper: subprocess.Popen[bytes]) -> None:
    mine = identity(sleeper.pid)
    before = len(os.listdir("/proc/self/fd"))
    for process in (mine, attrs.evolve(mine, start_ticks=1), attrs.evolve(mine, pid=2**22 + 1)):
        send_signal(process, 0)
        is_alive(process)
    assert len(os.listdir("/proc/self/fd")) == before


def test_has_executed_compares_with_the_runtimes_binary(sleeper: subprocess.Popen[bytes]) -> None:
    """Not as long as it runs what the runtime runs; yes once it runs anything else."""
    assert has_executed(os.getpid(), sleeper.pid) is True
    assert has_executed(sleeper.pid, os.getpid()) is True
    with subprocess.Popen(["sleep", "60"]) as other:
        assert has_executed(other.pid, sleeper.pid) is False
        other.kill()
    ended = zombie()
    assert has_executed(ended.pid, sleeper.pid) is None
    assert has_executed(sleeper.pid, ended.pid) is True
    ended.wait()
    assert has_executed(ended.pid, sleeper.pid) is None


def test_runcs_init_has_not_executed(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """runc's first stage runs from a copy of its binary: its name gives it away."""
    program = tmp_path / "runc:[2:INIT]"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as init:
        assert called(init.pid, program.name)
        assert has_executed(init.pid, sleeper.pid) is False
        init.kill()


def test_processes_are_found_by_one_whole_word() -> None:
    """The first word, the last, any between; never a part of one."""
    word = f"lading-{uuid.uuid4().hex}"
    script = "import sys; print(flush=True); sys.stdin.read()"
    started = [
        subprocess.Popen(arguments, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for arguments in (
            ["python", "-c", script, word],
            ["python", "-c", script, word, "more"],
            [word, "-c", script],
            ["python", "-c", script, word + "x", "x" + word, f"--id={word}"],
        )
    ]
    try:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        assert sorted(processes_naming(word)) == sorted(process.pid for process in started[:3])
    finally:
        for process in started:
            process.communicate()
    assert processes_naming(word) == []


@pytest.mark.slow
def test_a_subreaper_adopts_orphans() -> None:
    script = (
        "import os, subprocess, sys\n"
        "from lading.storage.procfs import set_child_subreaper\n"
        "set_child_subreaper()\n"
        "orphan = int(subprocess.check_output(['sh', '-c', 'sleep 60 >/dev/null & echo $!']))\n"
        "print(int(open(f'/proc/{orphan}/stat').read().rpartition(')')[2].split()[1]) == os.getpid())\n"
        "os.kill(orphan, 9); os.waitpid(orphan, 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")
