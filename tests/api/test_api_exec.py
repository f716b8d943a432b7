"""Exec, terminals and attach over HTTP: our own client, the stock docker client, docker-py."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
import time
from collections.abc import Callable
from typing import Any

import pytest
import trio
from stage import printed

from lading.engine.http.stdcopy import Demultiplexer

pytestmark = [pytest.mark.real, pytest.mark.slow]

V = "/v1.47"


def streams(raw: bytes) -> dict[int, bytes]:
    taken: dict[int, bytes] = {}
    splitter = Demultiplexer()
    for number, data in splitter.feed(raw):
        taken[number] = taken.get(number, b"") + data
    splitter.finish()
    return taken


async def create(api: Any, container: str, *cmd: str, **config: Any) -> str:
    body = {"Cmd": list(cmd), "AttachStdout": True, "AttachStderr": True, **config}
    status, made = await api.ask("POST", f"{V}/containers/{container}/exec", body)
    assert status == 201, made
    exec_id: str = made["Id"]
    assert len(exec_id) == 64
    return exec_id


async def test_exec_is_created_started_and_inspected(api: Any) -> None:
    container = await api.start("sleep", "1000", name="web")
    exec_id = await create(api, "web", "sh", "-c", "echo out; echo err >&2; exit 5", User="app")
    status, shown = await api.ask("GET", f"{V}/exec/{exec_id}/json")
    assert (status, shown["Running"], shown["ExitCode"], shown["ContainerID"]) == (200, False, None, container)
    assert shown["ProcessConfig"] == {
        "tty": False,
        "entrypoint": "sh",
        "arguments": ["-c", "echo out; echo err >&2; exit 5"],
        "privileged": False,
        "user": "app",
    }
    assert (await api.ask("GET", f"{V}/containers/web/json"))[1]["ExecIDs"] == [exec_id]
    async with api.client.hijack("POST", f"{V}/exec/{exec_id}/start", body=b'{"Detach":false}') as stream:
        assert stream.content_type == "application/vnd.docker.multiplexed-stream"
        got = b"".join([part async for part in stream])
    assert streams(got) == {1: b"out\n", 2: b"err\n"}
    _, shown = await api.ask("GET", f"{V}/exec/{exec_id}/json")
    assert (shown["Running"], shown["ExitCode"], shown["Pid"]) == (False, 5, 0)
    assert (await api.ask("GET", f"{V}/containers/web/json"))[1]["ExecIDs"] is None
    status, said = await api.ask("POST", f"{V}/exec/{exec_id}/start", {})
    assert (status, said["message"]) == (409, f"error: exec command {exec_id} has already run")


async def test_refusals_have_dockers_words(api: Any) -> None:
    container = await api.create("sleep", "1000", name="web")

    async def refused(path: str, body: Any) -> tuple[int, str]:
        status, said = await api.ask("POST", f"{V}{path}", body)
        return status, said["message"]

    command = {"Cmd": ["true"]}
    assert await refused("/containers/web/exec", command) == (409, f"container {container} is not running")
    assert await refused("/containers/nope/exec", command) == (404, "No such container: nope")
    await api.ask("POST", f"/containers/{container}/start")
    assert await refused("/containers/web/exec", {}) == (400, "No exec command specified")
    assert await refused("/exec/nope/start", {}) == (404, "No such exec instance: nope")
    exec_id = await create(api, "web", "true")
    await api.engine.containers.get("web").pause()
    words = "is paused, unpause the container before exec"
    assert await refused("/containers/web/exec", command) == (409, f"Container web {words}")
    assert await refused(f"/exec/{exec_id}/start", {}) == (409, f"Container {container} {words}")
    assert await refused("/exec/nope/resize?h=1&w=1", None) == (404, "No such exec instance: nope")
    assert (await api.ask("GET", f"{V}/containers/web/attach/ws"))[0] == 501


async def test_events_tell_of_execs(api: Any, lines: Callable[[bytes], list[Any]]) -> None:
    container = await api.start("sleep", "1000", name="web", Labels={"k": "v"})
    exec_id = await create(api, "web", "sh", "-c", "exit 3")
    assert (await api.ask("POST", f"{V}/exec/{exec_id}/start", {"Detach": True}))[0] == 200
    await api.engine.core.execs.get(exec_id).wait()
    until = str(time.time() + 0.001)
    await trio.sleep(0.01)
    filters = '{"event":["exec_create","exec_start","exec_die"]}'.replace('"', "%22")
    async with await api.client.request("GET", f"{V}/events?since=1&until={until}&filters={filters}") as reply:
        told = lines(await reply.read())
    assert [event["Action"] for event in told] == [
        "exec_create: sh -c exit 3",
        "exec_start: sh -c exit 3",
        "exec_die",
    ]
    for event in told:
        assert (event["Type"], event["Actor"]["ID"]) == ("container", container)
        attributes = event["Actor"]["Attributes"]
        assert (attributes["execID"], attributes["name"], attributes["k"]) == (exec_id, "web", "v")
    assert told[-1]["Actor"]["Attributes"]["exitCode"] == "3"


async def test_who_leaves_takes_nothing_along(api: Any) -> None:
    await api.start("sleep", "1000", name="web")
    exec_id = await create(api, "web", "sh", "-c", "yes | head -c 3000000; touch /done; exit 4")
    async with api.client.hijack("POST", f"{V}/exec/{exec_id}/start", body=b"{}") as stream:
        await stream.receive_some(1)
    view = api.engine.core.execs.inspect(exec_id)
    with trio.fail_after(10):
        while view.phase != "exited":
            await trio.sleep(0.02)
            view = api.engine.core.execs.inspect(exec_id)
    assert view.exit_code == 4


async def test_a_terminals_size_comes_with_the_start_and_changes(api: Any) -> None:
    await api.start("sleep", "1000", name="web")
    script = "stty size; trap 'stty size; exit 7' WINCH; while :; do sleep 0.02; done"
    exec_id = await create(api, "web", "sh", "-c", script, Tty=True)
    body = b'{"Tty":true,"ConsoleSize":[33,44]}'
    async with api.client.hijack("POST", f"{V}/exec/{exec_id}/start", body=body) as stream:
        assert stream.content_type == "application/vnd.docker.raw-stream"
        assert await stream.receive_some() == b"33 44\r\n"
        assert (await api.ask("POST", f"{V}/exec/{exec_id}/resize?h=50&w=60"))[0] == 200
        assert b"".join([part async for part in stream]) == b"50 60\r\n"
    assert (await api.ask("GET", f"{V}/exec/{exec_id}/json"))[1]["ExitCode"] == 7


@pytest.mark.parametrize("count", [3])
async def test_a_terminal_container_has_many_clients(api: Any, count: int) -> None:
    """Each gets all that comes, raw; what any of them types is one input; a stalled one stalls nobody."""
    script = "stty -echo; stty size; while read line; do echo got $line; done"
    container = await api.create(
        "sh", "-c", script, Tty=True, OpenStdin=True, host={"ConsoleSize": [33, 44]}, name="web"
    )
    target = f"{V}/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1"
    async with api.client.hijack("POST", target) as one, api.client.hijack("POST", target) as two:  # noqa: SIM117
        async with api.client.hijack("POST", target):  # this one never reads
            assert one.content_type == "application/vnd.docker.raw-stream"
            await api.ask("POST", f"/containers/{container}/start")
            for stream in (one, two):
                assert await stream.receive_some() == b"33 44\r\n"
            for number in range(count):
                typist, other = (one, two) if number % 2 else (two, one)
                await typist.send_all(b"%d\n" % number)
                for stream in (typist, other):
                    assert await stream.receive_some() == b"got %d\r\n" % number
            await api.ask("POST", f"{V}/containers/{container}/resize?h=50&w=60")
            done = await api.engine.containers.get("web").exec(["stty", "-F", "/dev/pts/0", "size"])
            assert (done.stdout, done.stderr) in ((b"50 60\n", b""), (b"", done.stderr))
            await one.send_all(b"\x03")  # the terminal makes SIGINT of it, which ends the shell's read
    _, raw = await api.ask("GET", f"{V}/containers/{container}/logs?stdout=1")
    assert raw.startswith(b"33 44\r\ngot 0\r\n")


@pytest.mark.long
async def test_a_thousand_who_attach_and_leave_cost_nothing(api: Any) -> None:
    container = await api.start("cat", Tty=True, OpenStdin=True)
    keeper = api.engine.core.link.keeper_pid
    target = f"{V}/containers/{container}/attach?stream=1&stdin=1&stdout=1"

    def count() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{keeper}/fd"))

    async def some(number: int) -> None:
        for _ in range(number):
            async with api.client.hijack("POST", target):
                pass

    await some(20)
    before = count()
    await some(1000)
    with trio.fail_after(10):
        while any(now > then + 3 for now, then in zip(count(), before, strict=True)):  # noqa: ASYNC110
            await trio.sleep(0.02)


async def test_docker_exec(api: Any) -> None:
    await api.start("sleep", "1000", name="web")
    said = await api.docker("exec", "web", "sh", "-c", "echo out; echo err >&2; exit 9")
    assert (said.code, said.out, said.err) == (9, "out\n", "err\n")
    said = await api.docker(
        "exec", "-i", "-w", "/tmp", "-e", "A=1", "-u", "app", "web", "sh", stdin=b"pwd; echo $A; id -u"
    )
    assert (said.code, said.out) == (0, "/tmp\n1\n1000\n")
    said = await api.docker("exec", "-d", "web", "touch", "/made")
    assert (said.code, said.out) == (0, "")
    said = await api.docker("exec", "web", "nosuch")
    assert said.code == 127
    assert "executable file not found in $PATH" in said.err
    said = await api.docker("exec", "--privileged", "web", "true")
    assert said.code == 0


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, argv: list[str], environ: dict[str, str], rows: int, columns: int) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(argv[0], argv, {**environ, "TERM": "xterm"})
        self.resize(rows, columns)
        os.set_blocking(self.fd, False)
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, data: bytes) -> None:
        os.write(self.fd, data)

    async def shows(self, what: bytes) -> None:
        with trio.move_on_after(15):
            while what not in self.seen:
                await trio.lowlevel.wait_readable(self.fd)
                self.seen += os.read(self.fd, 4096)
        assert what in self.seen
        self.seen = self.seen.partition(what)[2]

    async def ends(self) -> int:
        with trio.fail_after(15):
            while True:
                pid, status = os.waitpid(self.pid, os.WNOHANG)  # noqa: ASYNC222
                if pid:
                    os.close(self.fd)
                    return os.waitstatus_to_exitcode(status)
                await trio.sleep(0.02)
                try:
                    self.seen += os.read(self.fd, 4096)
                except OSError:
                    continue


async def test_docker_exec_on_a_terminal(api: Any) -> None:
    await api.start("sleep", "1000", name="web")
    terminal = Terminal(api.command("exec", "-it", "web", "sh"), api.environ, 33, 44)
    await terminal.shows(b"# ")
    terminal.type(b"stty size; echo on-$(tty)\r")
    await terminal.shows(b"33 44")
    await terminal.shows(b"on-/dev/pts/")
    terminal.resize(50, 60)
    await trio.sleep(0.3)
    terminal.type(b"stty size\r")
    await terminal.shows(b"50 60")
    terminal.type(b"sleep 1000\r")
    await trio.sleep(0.3)
    terminal.type(b"\x03")
    terminal.type(b"exit 5\r")
    assert await terminal.ends() == 5


async def test_docker_run_and_attach_on_a_terminal(api: Any) -> None:
    quiet = ("--network", "none")
    terminal = Terminal(api.command("run", "-it", "--name", "web", *quiet, api.image, "sh"), api.environ, 33, 44)
    await terminal.shows(b"# ")
    terminal.type(b"stty size\r")
    await terminal.shows(b"33 44")
    terminal.type(b"\x10\x11")  # ctrl-p ctrl-q
    assert await terminal.ends() == 0
    assert api.engine.containers.get("web").status == "running"
    terminal = Terminal(api.command("attach", "web"), api.environ, 33, 44)
    await terminal.shows(b"# ")
    terminal.type(b"echo ag''ain\r")
    await terminal.shows(b"again")
    terminal.type(b"exit 6\r")
    assert await terminal.ends() == 6


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # it leaves its sockets to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_dockerpy_exec(api: Any) -> None:
    docker = pytest.importorskip("docker")
    await api.start("sleep", "1000", name="web")

    def work() -> tuple[Any, ...]:
        client = docker.DockerClient(base_url=f"unix://{api.socket}", version="1.47", timeout=30)
        try:
            container = client.containers.get("web")
            plain = container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 3"])
            apart = container.exec_run(["sh", "-c", "echo out; echo err >&2"], demux=True)
            streamed = b"".join(container.exec_run("seq 3", stream=True).output)
            tty = container.exec_run("tty", tty=True, environment={"A": "1"}, workdir="/tmp", user="app")
            return (plain.exit_code, sorted(plain.output.split())), tuple(apart.output), streamed, tty.output
        finally:
            client.close()

    got = await trio.to_thread.run_sync(work)
    assert got == ((3, [b"err", b"out"]), (b"out\n", b"err\n"), b"1\n2\n3\n", b"/dev/pts/0\r\n")


async def test_what_is_printed_before_anybody_reads_is_there(api: Any) -> None:
    container = await api.start("sh", "-c", "echo early; sleep 1000", Tty=True)
    await printed(api.engine.containers.get(container), b"early")
    _, raw = await api.ask("POST", f"{V}/containers/{container}/attach?logs=1&stdout=1")
    assert raw == b"early\r\n"
