"""`lading exec`, `lading attach` and `lading run -t`: commands and terminals in containers, on this terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator

import pytest
from cli_program import Cli, wait_until

from lading.engine.cli.terminal import DetachKeys, parse_keys
from lading.events.errors import Invalid

pytestmark = [pytest.mark.real, pytest.mark.slow]


class Terminal:
    """A program on a terminal of its own, which has this size."""

    def __init__(self, argv: list[str], environ: dict[str, str], rows: int = 33, columns: int = 44) -> None:
        self.fd, slave = pty.openpty()
        self.resize(rows, columns)
        self.modes = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            argv,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environ, "TERM": "xterm"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.slave = slave
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, data: bytes) -> None:
        os.write(self.fd, data)

    def shows(self, what: bytes) -> None:
        deadline = time.monotonic() + 15
        while what not in self.seen and time.monotonic() < deadline:
            if select.select([self.fd], [], [], 0.2)[0]:
                self.seen += os.read(self.fd, 4096)
        assert what in self.seen
        self.seen = self.seen.partition(what)[2]

    def ends(self) -> int:
        """Its exit code; its terminal is in the mode that it was in before."""
        code = self.process.wait(20)
        assert termios.tcgetattr(self.slave) == self.modes
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.fd)
        os.close(self.slave)


@pytest.fixture
def on_terminal(shared: Cli) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*words: str) -> Terminal:
        opened.append(Terminal(shared.command(*words), shared.environ))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


@pytest.fixture
def web(shared: Cli) -> Iterator[str]:
    shared("run", "-d", "--name", "web", "busybox:1", "sleep", "1000")
    yield "web"
    shared("rm", "-f", "web")


@pytest.mark.long
def test_exec_is_the_command_on_this_terminal(shared: Cli, web: str) -> None:
    done = shared("exec", web, "sh", "-c", "echo out; echo err >&2; exit 7", code=7)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    done = shared(
        "exec",
        "-e",
        "A=1",
        "-e",
        "B",
        "-w",
        "/tmp",
        "-u",
        "5:6",
        web,
        "sh",
        "-c",
        "echo $A$B $(pwd) $(id -u)",
        B="x",
    )
    assert done.stdout == "1x /tmp 5\n"
    text = "".join(f"{number}\n" for number in range(50_000))
    assert shared("exec", "-i", web, "cat", stdin=text).stdout == text
    assert shared("exec", web, "nosuch", code=127).stderr.count("executable file not found") == 1
    assert shared("exec", "-d", web, "touch", "/made").stdout == ""
    wait_until(
        lambda: shared("exec", web, "ls", "/made", code=None).returncode == 0, "the detached command's work"
    )


def test_exec_is_refused_in_one_line(shared: Cli, web: str) -> None:
    assert "No such container: nope" in shared("exec", "nope", "true", code=1).stderr
    assert "standard input is none" in shared("exec", "-it", web, "sh", stdin="", code=1).stderr
    assert "detach keys" in shared("exec", "--detach-keys", "nonsense", web, "true", code=1).stderr


def test_exec_on_a_terminal(shared: Cli, web: str, on_terminal: Callable[..., Terminal]) -> None:
    terminal = on_terminal("exec", "-it", web, "sh")
    terminal.shows(b"# ")
    terminal.type(b"stty size\r")
    terminal.shows(b"33 44")
    terminal.resize(50, 60)
    time.sleep(0.3)
    terminal.type(b"stty size\r")
    terminal.shows(b"50 60")
    terminal.type(b"sleep 1000\r")
    time.sleep(0.3)
    terminal.type(b"\x03exit 5\r")  # ctrl-c ends the sleep, and not the client
    assert terminal.ends() == 5


def test_run_and_attach_on_a_terminal(shared: Cli, on_terminal: Callable[..., Terminal]) -> None:
    terminal = on_terminal("run", "-it", "--name", "tty", "busybox:1", "sh", "-c", "stty size; exec sh")
    terminal.shows(b"33 44")
    terminal.shows(b"# ")
    terminal.type(b"\x10\x11")
    assert terminal.ends() == 0
    assert "tty" in shared("ps").stdout
    one, two = on_terminal("attach", "tty"), on_terminal("attach", "tty")
    one.shows(b"# ")
    two.shows(b"# ")
    one.type(b"echo on-both-$((20+3))\r")
    one.shows(b"on-both-23")
    two.shows(b"on-both-23")
    two.type(b"exit 6\r")
    assert (one.ends(), two.ends()) == (6, 6)
    shared("rm", "tty")


def test_a_terminal_without_input_is_only_seen(shared: Cli) -> None:
    done = shared("run", "-t", "--rm", "busybox:1", "sh", "-c", "tty; echo err >&2; exit 3", code=3)
    assert (done.stdout, done.stderr) == ("/dev/pts/0\nerr\n", "")


@pytest.mark.parametrize(
    ("text", "keys"),
    [("", b""), ("ctrl-p,ctrl-q", b"\x10\x11"), ("a", b"a"), ("ctrl-@,x", b"\0x"), ("ctrl-_", b"\x1f")],
)
def test_keys_are_read_as_docker_reads_them(text: str, keys: bytes) -> None:
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["nonsense", "ctrl-", "ctrl-1", "a,,b", "ctrl-P"])
def test_other_keys_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_keys(text)


def test_keys_are_found_wherever_they_are_cut() -> None:
    for cut in range(6):
        keys = DetachKeys(b"\x10\x11")
        typed = b"ab\x10\x11c"
        first, left = keys.feed(typed[:cut])
        if left:
            assert first == b"ab"
            continue
        second, left = keys.feed(typed[cut:])
        assert (first + second, left) == (b"ab", True)
    keys = DetachKeys(b"\x10\x11")
    assert keys.feed(b"\x10") == (b"", False)
    assert keys.feed(b"\x10") == (b"\x10", False)
    assert keys.feed(b"x") == (b"\x10x", False)
    assert DetachKeys(b"").feed(b"\x10\x11") == (b"\x10\x11", False)
