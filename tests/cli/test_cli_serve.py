"""An engine is there when a command needs it, once, and gone when nobody does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from cli_program import Cli, end_engines, wait_until
from stage import Census

import lading

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.mark.long
def test_a_command_starts_an_engine_that_leaves_when_it_is_idle(fresh: Cli) -> None:
    assert fresh("ps", "-q").stdout == ""
    assert len(fresh.engines()) == 1
    fresh("ps", "-q")
    assert len(fresh.engines()) == 1
    wait_until(lambda: not fresh.engines(), "the idle engine's leaving")
    assert not (fresh.root / "lading.sock").exists()
    assert fresh("ps", "-q").stdout == "", "and the next command starts another"


def test_commands_at_the_same_moment_get_one_engine(fresh: Cli) -> None:
    together = [fresh.start("ps", "-q") for _ in range(6)]
    outcomes = [(process.communicate(timeout=60), process.returncode) for process in together]
    assert outcomes == [(("", ""), 0)] * 6
    assert len(fresh.engines()) == 1
    assert (fresh.root / "serve.log").read_text().count("serving") == 1


@pytest.mark.long
def test_a_command_finds_its_way_while_the_engine_leaves(fresh: Cli) -> None:
    for _ in range(4):
        fresh("ps", "-q")
        for pid in fresh.engines():
            os.kill(pid, signal.SIGTERM)
    fresh("ps", "-q")


@pytest.mark.long
def test_the_socket_of_a_killed_engine_is_no_obstacle(fresh: Cli) -> None:
    fresh("ps", "-q")
    for pid in fresh.engines():
        os.kill(pid, signal.SIGKILL)
    assert (fresh.root / "lading.sock").exists()
    assert fresh("ps", "-q").stdout == ""


@pytest.mark.long
def test_an_engine_in_the_foreground_leaves_at_sigterm_and_its_containers_go_on(
    fresh: Cli, busybox_tar: Path
) -> None:
    served = fresh.start("serve")
    assert served.stdout is not None
    assert served.stdout.readline() == f"serving {fresh.root} at {fresh.root / 'lading.sock'}\n"
    fresh("import", os.fspath(busybox_tar), "busybox:1")
    fresh("run", "-d", "--name", "on", "busybox:1", "sleep", "1000")
    second = fresh("serve", code=75)
    assert "in use" in second.stderr
    assert second.stderr.count("\n") == 1
    served.send_signal(signal.SIGTERM)
    assert served.communicate(timeout=30) == ("", "")
    assert served.returncode == 0
    assert "on" in fresh("ps").stdout
    fresh("rm", "-f", "on")


@pytest.mark.long
def test_a_socket_elsewhere_and_at_a_path_longer_than_an_address_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    cli = Cli(deep / "store", idle="2")
    census = Census(cli.root)
    try:
        assert cli("ps", "-q").stdout == ""
        end_engines(cli)
        elsewhere = os.fspath(tmp_path / "here.sock")
        assert cli("--socket", elsewhere, "ps", "-q").stdout == ""
        assert os.path.exists(elsewhere)
        assert cli("ps", "-q", LADING_SOCKET=elsewhere).stdout == ""
        end_engines(cli)
        census.check()
    finally:
        end_engines(cli)
        census.clean()


@pytest.mark.parametrize("root", ["/proc/nosuch/store", "/dev/null", "/dev/null/store"])
def test_a_root_that_can_not_be_is_one_line(root: str) -> None:
    done = Cli(Path(root))("ps", code=1)
    assert done.stderr.startswith("lading: ")
    assert done.stderr.count("\n") == 1


def test_an_engine_that_can_not_open_its_store_has_its_reason_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"store": "x", "format": 99}')
    (tmp_path / "log").mkdir()
    done = Cli(tmp_path)("ps", code=1)
    assert "install a newer lading" in done.stderr
    assert f"see {tmp_path}/serve.log" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_answers_at_the_socket_and_is_no_engine_is_told(tmp_path: Path) -> None:
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(path))
        other.listen()
        process = Cli(tmp_path / "store").start("--socket", os.fspath(path), "ps")
        connection, _ = other.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "is not an engine" in said
    assert not (tmp_path / "store").exists(), "nothing was started instead"


@pytest.mark.long
def test_a_store_that_a_library_owns_is_told_with_its_owner(fresh: Cli) -> None:
    async def live() -> str:
        async with lading.open_engine(fresh.root):
            done = await trio.to_thread.run_sync(lambda: fresh("ps", code=1))
            return done.stderr

    said = trio.run(live)
    assert f"process {os.getpid()}" in said
    assert said.count("\n") == 1


def test_who_is_not_root_is_told_to_be() -> None:
    code = "import os, sys; from lading.engine.cli import attach, main as cli\n"
    code += "from lading.engine.http import client\n"
    code += f"os.setuid(65534); sys.argv = ['lading', '--root', '/tmp/nosuch-{os.getpid()}', 'ps']; cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("lading: cannot find an engine")
    assert "sudo lading serve" in done.stderr


def test_an_interrupt_is_130_and_quiet(tmp_path: Path) -> None:
    path = tmp_path / "mute.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(path))
        other.listen()
        process = Cli(tmp_path / "store").start("--socket", os.fspath(path), "ps")
        connection, _ = other.accept()
        with connection:
            connection.recv(1000)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=30)[1].strip() == ""
    assert process.returncode == 130


def test_what_a_layer_may_ask_for_can_be_limited(fresh: Cli, busybox_tar: Path) -> None:
    served = fresh.start("serve", "--limit", "entries=3")
    assert served.stdout is not None
    assert "serving" in served.stdout.readline()
    refused = fresh("import", os.fspath(busybox_tar), "much:1", code=1)
    assert "more than the limit of 3 entries" in refused.stderr
    served.send_signal(signal.SIGTERM)
    served.communicate(timeout=30)
    assert served.returncode == 0
    wrong = fresh("serve", "--limit", "colour=3", code=2)
    assert "'colour' is none of entries" in wrong.stderr
