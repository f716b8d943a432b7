"""`lading run` is the container on this terminal: its output, its input, its signals, its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from cli_program import Cli, wait_until

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.mark.long
def test_output_and_errors_stay_apart_and_the_exit_code_is_the_container_s(shared: Cli) -> None:
    done = shared("run", "--rm", "busybox:1", "sh", "-c", "echo out; echo err >&2; exit 7", code=7)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert shared("ps", "-aq").stdout == ""


@pytest.mark.parametrize("count", [0, 1, 200_000])
def test_nothing_of_what_is_printed_is_lost(shared: Cli, count: int) -> None:
    """Least of all where the container is over before anybody could attach."""
    done = shared("run", "--rm", "busybox:1", "sh", "-c", f"yes 0123456 | head -n {count}")
    assert done.stdout == "0123456\n" * count


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("nosuch",), 127, "executable file not found"),
        (("/no/such",), 127, "no such file or directory"),
        (("/etc",), 126, "permission denied"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--rm",), ("-d",), ("-d", "--rm")])
def test_a_command_that_can_not_be_executed_has_docker_s_exit_codes(
    shared: Cli, command: tuple[str, ...], code: int, said: str, options: tuple[str, ...]
) -> None:
    done = shared("run", *options, "busybox:1", *command, code=code)
    assert said in done.stderr.lower()
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    left = shared("ps", "-aq").stdout.split()
    assert bool(left) == ("--rm" not in options)
    if left:
        shared("rm", *left)


@pytest.mark.parametrize(
    "words",
    [
        ("--pull", "never", "nosuch:1"),
        ("UPPER:1",),
        ("--name", "bad name", "busybox:1"),
        ("-w", "relative", "busybox:1"),
        ("--stop-signal", "NOSUCH", "busybox:1"),
    ],
)
def test_what_the_engine_refuses_is_125_and_one_line(shared: Cli, words: tuple[str, ...]) -> None:
    done = shared("run", "--rm", *words, code=125)
    assert done.stderr.startswith("lading: ")
    assert done.stderr.count("\n") == 1
    assert shared("ps", "-aq").stdout == ""


def test_standard_input_reaches_the_container_whole_and_ends(shared: Cli) -> None:
    text = "".join(f"{number}\n" for number in range(100_000))
    assert shared("run", "--rm", "-i", "busybox:1", "cat", stdin=text).stdout == text
    assert shared("run", "--rm", "-i", "busybox:1", "wc", "-c", stdin="").stdout == "0\n"


def test_a_container_that_does_not_read_its_input_ends_all_the_same(shared: Cli) -> None:
    process = shared.start("run", "--rm", "-i", "busybox:1", "echo", "done", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.read() == "done\n"
    assert process.wait(30) == 0, "though its standard input is still open"
    _close(process)


def test_without_i_standard_input_is_not_touched(shared: Cli) -> None:
    line = f"{' '.join(shared.command('run', '--rm', 'busybox:1', 'cat'))}; cat"
    done = subprocess.run(
        ["sh", "-c", line], input="for the next\n", capture_output=True, text=True, check=True, env=shared.environ
    )
    assert done.stdout == "for the next\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_go_to_the_container(shared: Cli, number: signal.Signals) -> None:
    script = "trap 'echo got; exit 9' INT TERM USR1; echo ready; while :; do sleep 0.05; done"
    process = shared.start("run", "--rm", "busybox:1", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.stdout.read() == "got\n"
    assert process.wait(30) == 9
    _close(process)


def test_a_container_killed_by_a_signal_is_128_and_its_number(shared: Cli) -> None:
    process = shared.start("run", "--rm", "--name", "victim", "busybox:1", "sleep", "1000")
    wait_until(lambda: "victim" in shared("ps").stdout, "its start")
    shared("kill", "victim")
    assert process.wait(30) == 137
    _close(process)


def test_options_reach_the_container(shared: Cli) -> None:
    script = "echo $A-$B-$(pwd)-$(id -u):$(id -g)-$(hostname); touch /x 2>&1; ls /sys/class/net"
    options = ["-e", "A=1", "-e", "B", "-w", "/tmp", "-u", "5:6", "--hostname", "here", "--read-only"]
    options += ["--network", "none"]
    done = shared("run", "--rm", *options, "busybox:1", "sh", "-c", script, B="two")
    assert done.stdout.splitlines()[0] == "1-two-/tmp-5:6-here"
    assert "Read-only file system" in done.stdout
    assert done.stdout.splitlines()[2:] == ["lo"]
    assert shared("run", "--rm", "--entrypoint", "echo", "busybox:1", "-n", "-d").stdout == "-d"


def test_detached_prints_the_id_and_goes_on(shared: Cli) -> None:
    identifier = shared(
        "run", "-d", "--name", "quiet", "-l", "app=shop", "busybox:1", "sleep", "1000"
    ).stdout.strip()
    assert len(identifier) == 64
    [found] = json.loads(shared("inspect", identifier[:12]).stdout)
    assert found["State"]["Running"] is True
    assert found["Name"] == "/quiet"
    assert found["Config"]["Labels"] == {"app": "shop"}
    shared("rm", "-f", "quiet")


def test_a_reader_that_leaves_ends_the_client_and_not_the_container(shared: Cli) -> None:
    process = shared.start(
        "run", "--name", "chatty", "busybox:1", "sh", "-c", "while :; do echo x; sleep 0.01; done"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "x\n"
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert shared("ps", "-q").stdout != ""
    shared("rm", "-f", "chatty")
    _close(process)


def test_an_engine_that_is_killed_is_one_line_and_125_and_its_container_goes_on(shared: Cli) -> None:
    process = shared.start("run", "--name", "survivor", "busybox:1", "sh", "-c", "echo up; sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    for pid in shared.engines():
        os.kill(pid, signal.SIGKILL)
    assert process.wait(30) == 125
    assert process.stderr is not None
    said = process.stderr.read()
    assert said.startswith("lading: cannot talk to the engine")
    assert said.count("\n") == 1
    assert "survivor" in shared("ps").stdout, "an engine is started again, and adopts it"
    shared("rm", "-f", "survivor")
    _close(process)


def test_an_archive_from_standard_input_is_an_image(shared: Cli, busybox_tar: Path) -> None:
    with busybox_tar.open("rb") as archive:
        done = subprocess.run(
            shared.command("import", "-", "piped:2", "-c", 'ENTRYPOINT ["echo"]', "-c", "CMD hello", "-m", "x"),
            stdin=archive,
            capture_output=True,
            text=True,
            check=True,
            env=shared.environ,
        )
    identifier = done.stdout.strip()
    assert identifier.startswith("sha256:")
    assert shared("run", "--rm", "piped:2", "bye").stdout == "bye\n"
    [found] = json.loads(shared("inspect", "--type", "image", "piped:2").stdout)
    assert found["Id"] == identifier
    rows = [json.loads(line) for line in shared("images", "--format", "json", "--no-trunc").stdout.splitlines()]
    assert {(row["Repository"], row["Tag"]) for row in rows} == {("busybox", "1"), ("piped", "2")}
    assert identifier in {row["ID"] for row in rows}
    assert len(shared("images").stdout.splitlines()) == 3
    assert identifier[7:19] in shared("images", "-q").stdout.split()


@pytest.mark.parametrize(
    ("content", "words", "said"),
    [
        (b"no archive at all" * 100, ("x:1",), ""),
        (b"", ("UPPER:1",), "reference"),
        (None, ("x:1",), "No such file"),
    ],
)
def test_what_is_no_image_is_one_line(
    shared: Cli, tmp_path: Path, content: bytes | None, words: tuple[str, ...], said: str
) -> None:
    if content is not None:
        (tmp_path / "archive").write_bytes(content)
    done = shared("import", os.fspath(tmp_path / "archive"), *words, code=1)
    assert done.stderr.startswith("lading: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert "x" not in shared("images", "--format", "json").stdout.split('"')


@pytest.mark.long
def test_a_run_that_is_interrupted_before_it_starts_hands_the_signal_on(shared: Cli) -> None:
    """Whenever the signal comes: not before the program is up, and never lost after."""
    for delay in (0.3, 0.35, 0.4, 0.45):
        process = shared.start("run", "--rm", "--stop-timeout", "1", "busybox:1", "sleep", "1000")
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
        # Before our program is up it is Python's default, and the first process of a container ignores what it
        # has no handler for: then it needs to be stopped.
        while process.poll() is None:
            if running := shared("ps", "-q").stdout.split():
                shared("stop", *running, code=None)
        assert process.wait(30) in (137, 143, 130, -signal.SIGTERM)
        _close(process)
        assert shared("ps", "-aq").stdout == ""


def _close(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
