"""The engine as a daemon: when its socket is there, how it ends, and what it leaves running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from stage import Stage

from lading.engine.http.client import Client, connect
from lading.events.errors import HostError

pytestmark = [pytest.mark.real, pytest.mark.slow]

SCRIPT = """
import sys, trio
from lading.engine.serve import serve
trio.run(serve, sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else None)
"""


@asynccontextmanager
async def daemon(root: Path, socket: Path, *idle: str) -> AsyncIterator[trio.Process]:
    """A daemon of its own process, there when the block begins; killed at the end if it is still there."""
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[trio.Process]) -> None:
            await trio.run_process(
                [sys.executable, "-c", SCRIPT, str(root), str(socket), *idle],
                stdin=subprocess.DEVNULL,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                task_status=task_status,
            )

        process: trio.Process = await nursery.start(run)
        try:
            with trio.fail_after(20):
                while not socket.exists():  # nobody tells
                    assert process.poll() is None
                    await trio.sleep(0.01)
            yield process
        finally:
            if process.poll() is None:
                process.kill()


async def ask(client: Client, method: str, path: str, body: bytes = b"") -> Any:
    async with await client.request(method, path, body=body) as reply:
        await reply.check()
        return await reply.json() if reply.status in (200, 201) else None


async def start_sleeper(client: Client, tar: Path) -> str:
    await ask(client, "POST", "/images/create?fromSrc=-&repo=box", tar.read_bytes())
    body = b'{"Image": "box", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}'
    container: str = (await ask(client, "POST", "/containers/create", body))["Id"]
    await ask(client, "POST", f"/containers/{container}/start")
    return container


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_and_leaves_the_containers(stage: Stage, tmp_path: Path, number: int) -> None:
    socket = tmp_path / "s"
    async with daemon(stage.root, socket) as process, connect(socket) as client:
        container = await start_sleeper(client, stage.tar)
        pid = (await ask(client, "GET", f"/containers/{container}/json"))["State"]["Pid"]
        waiting = await client.request("POST", f"/containers/{container}/wait")
        process.send_signal(number)
        with trio.fail_after(20):
            assert await process.wait() == 0
        with pytest.raises(HostError):  # cut off, not answered
            await waiting.read()
    assert not socket.exists()
    os.kill(pid, 0)
    async with daemon(stage.root, socket) as process, connect(socket) as client:
        [shown] = await ask(client, "GET", "/containers/json")
        assert shown["Id"] == container
        assert (await ask(client, "GET", f"/containers/{container}/json"))["State"]["Pid"] == pid
        await ask(client, "DELETE", f"/containers/{container}?force=1")
        process.terminate()
        with trio.fail_after(20):
            assert await process.wait() == 0


@pytest.mark.long
async def test_idle_it_ends_by_itself_and_not_before(stage: Stage, tmp_path: Path) -> None:
    socket = tmp_path / "s"
    async with daemon(stage.root, socket, "0.3") as process:
        async with connect(socket) as client:
            await trio.sleep(0.8)  # a connection is open
            assert process.poll() is None
            container = await start_sleeper(client, stage.tar)
        await trio.sleep(0.8)  # a container runs
        assert process.poll() is None
        async with connect(socket) as client:
            await ask(client, "DELETE", f"/containers/{container}?force=1")
        with trio.fail_after(20):
            assert await process.wait() == 0
    assert not socket.exists()


async def test_a_second_one_is_refused_and_harms_nothing(stage: Stage, tmp_path: Path) -> None:
    socket = tmp_path / "s"
    async with daemon(stage.root, socket) as process, connect(socket) as client:
        other = await trio.run_process(
            [sys.executable, "-c", SCRIPT, str(stage.root), str(socket)],
            capture_stderr=True,
            check=False,
        )
        assert other.returncode != 0
        assert b"InUse" in other.stderr
        assert await ask(client, "GET", "/containers/json") == []
        process.terminate()
        with trio.fail_after(20):
            assert await process.wait() == 0
