"""A real engine behind a real socket, spoken to by our own client and by the stock docker client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import attrs
import docker
import pytest
import trio
from sdk import call
from stage import IMAGE, Stage

import lading
from lading.engine.api.server import serve_api
from lading.engine.http.client import Client, connect

DOCKER = shutil.which("docker", path=f"{Path(__file__).parents[2]}/.cache/bin:{os.environ.get('PATH', '')}")


@attrs.frozen
class Said:
    """What the docker client said, and its exit code."""

    code: int
    out: str
    err: str


@attrs.define
class Api:
    """An engine that is served at ``socket``. Its image is ``image``."""

    engine: lading.Engine
    socket: Path
    client: Client
    config: Path
    image: str = IMAGE

    @property
    def environ(self) -> dict[str, str]:
        """The docker client's whole environment."""
        return {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_CONFIG": str(self.config), "PATH": "/usr/bin:/bin"}

    def command(self, *args: str) -> list[str]:
        if DOCKER is None:
            pytest.skip("there is no docker client")
        return [DOCKER, *args]

    async def docker(self, *args: str, stdin: bytes = b"") -> Said:
        """Run the stock client to its end."""
        with trio.fail_after(30):
            done = await trio.run_process(
                self.command(*args),
                stdin=stdin,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=self.environ,
            )
        return Said(done.returncode, done.stdout.decode(), done.stderr.decode())

    async def start_docker(self, nursery: trio.Nursery, *args: str) -> trio.Process:
        """The stock client, running: its input and output are pipes. Ended with ``nursery``."""
        command = self.command(*args)

        async def run(task_status: trio.TaskStatus[trio.Process]) -> None:
            await trio.run_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
                env=self.environ,
                task_status=task_status,
            )

        process: trio.Process = await nursery.start(run)
        return process

    async def ask(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None, **query: str
    ) -> tuple[int, Any]:
        """Status and body of the reply: JSON decoded, or the bytes."""
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        target = f"{path}?{urlencode(query)}" if query else path
        with trio.fail_after(20):
            async with await self.client.request(method, target, headers=headers or {}, body=raw) as reply:
                got = await reply.read()
        kind = reply.headers.get("content-type", "")
        return reply.status, json.loads(got) if kind == "application/json" and got else got

    async def stream(
        self, path: str, body: bytes = b"", *, headers: Mapping[str, str] | None = None, **query: str
    ) -> tuple[int, list[Any]]:
        """Status of a POST, and the reply's lines, each decoded as JSON."""
        with trio.fail_after(30):
            async with await self.client.request(
                "POST", f"{path}?{urlencode(query)}", headers=headers or {}, body=body
            ) as reply:
                got = await reply.read()
        return reply.status, [json.loads(line) for line in got.splitlines()]

    async def create(self, *cmd: str, host: Mapping[str, Any] | None = None, name: str = "", **config: Any) -> str:
        """A new container's id."""
        body = {
            "Image": self.image,
            "Cmd": list(cmd),
            **config,
            "HostConfig": {"NetworkMode": "none", **(host or {})},
        }
        status, made = await self.ask("POST", f"/v1.47/containers/create?{urlencode({'name': name})}", body)
        assert status == 201, made
        container: str = made["Id"]
        return container

    async def start(self, *cmd: str, **options: Any) -> str:
        """A new container's id, started."""
        container = await self.create(*cmd, **options)
        assert await self.ask("POST", f"/containers/{container}/start") == (204, b"")
        return container


@pytest.fixture
async def api(stage: Stage, tmp_path: Path) -> AsyncIterator[Api]:
    """Served while the test runs; at the end, nothing is left on the host."""
    config = tmp_path / "docker"
    config.mkdir()
    socket = tmp_path / "s"
    async with stage.emptied() as engine, trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[Any]) -> None:
            await serve_api(engine, socket, task_status=task_status)

        await nursery.start(serve)
        async with connect(socket) as client:
            yield Api(engine, socket, client, config)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def sdk(api: Api, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[docker.DockerClient]:
    """The SDK's client of the engine of ``api``, which asked the engine for its version."""
    monkeypatch.setenv("DOCKER_CONFIG", str(api.config))
    client = await call(docker.DockerClient, base_url=f"unix://{api.socket}", version="auto", timeout=60)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def lines() -> Callable[[bytes], list[Any]]:
    """JSON lines, decoded."""
    return lambda raw: [json.loads(line) for line in raw.splitlines() if line]
