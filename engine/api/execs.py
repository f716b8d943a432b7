"""Commands in running containers over HTTP: create, start with streams, resize, inspect; and the terminal's size.

Source: Docker Engine API v1.47, the Exec operations, ContainerResize, and "Hijacking"; the words of refusals are
moby's (``daemon/exec.go``, ``daemon/errors.go``), since clients look for some of them.

As in Docker, a client that leaves takes nothing along: the command goes on, and what it prints is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trio

from lading.engine.api.create import console_size
from lading.engine.api.request import caller_of, stream_type
from lading.engine.api.shapes import UNKNOWN_EXIT
from lading.engine.engine import Engine
from lading.engine.execs.live import LiveExec
from lading.engine.execs.streams import ExecInput, ExecOutput
from lading.engine.http.message import RAW_STREAM, HttpError, Reply, Request, Response
from lading.engine.http.router import Router
from lading.engine.http.stdcopy import STDERR, STDOUT, frame
from lading.engine.nursery import open_bare_nursery
from lading.engine.retry import deciding, first_result
from lading.events.container import LIVE, Phase
from lading.events.errors import EngineClosed, Invalid, NotFound, WrongPhase
from lading.events.execs import ExecCreated, ExecSpec

__all__ = ["add_exec_routes"]

_BODY = 8 << 20


def add_exec_routes(router: Router, engine: Engine) -> None:
    """Route exec, and the resizing of terminals."""
    execs = _Execs(engine)
    router.add("POST", "/containers/{id}/exec", execs.create)
    router.add("POST", "/containers/{id}/resize", execs.resize_container)
    router.add("POST", "/exec/{id}/start", execs.start)
    router.add("POST", "/exec/{id}/resize", execs.resize)
    router.add("GET", "/exec/{id}/json", execs.inspect)


class _Execs:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def create(self, request: Request) -> Reply:
        asked = request.params["id"]
        container = self._engine.containers.get(asked).id
        spec = _spec(await request.json(_BODY))
        execs, core, caller = self._engine.core.execs, self._engine.core, caller_of(request)
        async with deciding(core, caller):
            first = first_result(core, caller, ExecCreated)
            if first is not None:
                assert isinstance(first.event, ExecCreated)
                return Response.json({"Id": first.event.exec}, 201)
            try:
                live = await execs.create(container, spec, caller)
            except WrongPhase as error:
                raise _refusal(error, asked if error.phase == Phase.PAUSED else container) from None
        return Response.json({"Id": live.id}, 201)

    async def start(self, request: Request) -> Reply:
        body = await request.json(_BODY, default={})
        execs, exec_id = self._engine.core.execs, request.params["id"]
        view = execs.inspect(exec_id)
        if view.phase != "created":
            past = "has already run" if view.phase == "exited" else "is already running"
            raise HttpError(409, f"error: exec command {exec_id} {past}")
        size = console_size(body) or (0, 0)
        if not _flag(body, "Tty") and size != (0, 0):
            raise HttpError(400, "exec ConsoleSize requires Tty")
        try:
            execs.check(view.container)
            if _flag(body, "Detach"):
                await execs.start(exec_id, caller_of(request), size=size, detach=True)
                return Response(200)
        except WrongPhase as error:
            raise _refusal(error, view.container) from None
        kind = RAW_STREAM if view.spec.tty else stream_type(request)
        async with request.hijack(kind, endless=True) as client:
            try:
                live = await execs.start(exec_id, caller_of(request), size=size)
            except EngineClosed:
                return None
            except (WrongPhase, Invalid, NotFound) as error:
                await client.send_all(_words(view.spec.tty, f"{error}\r\n"))
                return None
            try:
                await self._serve(live, client)
            finally:
                execs.leave(live)
        return None

    async def _serve(self, live: LiveExec, client: trio.abc.HalfCloseableStream) -> None:
        """Copy until the command is over and all that it printed is sent. An end of the client's input is one."""
        streams, tty = live.streams, live.spec.tty
        sending = trio.Lock()

        async def send(number: int, output: ExecOutput) -> None:
            async for data in output:
                async with sending:
                    await client.send_all(bytes(data) if tty else frame(number, bytes(data)))

        async with open_bare_nursery() as nursery:
            if streams.stdin is not None:
                nursery.start_soon(_feed, client, streams.stdin)
            async with open_bare_nursery() as outputs:
                outputs.start_soon(send, STDOUT, streams.stdout)
                outputs.start_soon(send, STDERR, streams.stderr)
                await live.ended.wait()
            if live.why and live.exit_code in (126, 127):
                await client.send_all(_words(tty, f"OCI runtime exec failed: exec failed: {live.why}\r\n"))
            nursery.cancel_scope.cancel()

    async def resize(self, request: Request) -> Reply:
        execs, exec_id = self._engine.core.execs, request.params["id"]
        view = execs.inspect(exec_id)
        rows, columns = _size(request)
        if view.phase != "running":
            raise HttpError(409, f"cannot resize exec {exec_id}: it is not running")
        execs.resize(exec_id, rows, columns)
        return Response(200)

    async def resize_container(self, request: Request) -> Reply:
        container = self._engine.containers.get(request.params["id"])
        rows, columns = _size(request)
        if container.state.phase not in LIVE or container.state.phase is Phase.STARTING:
            raise HttpError(409, f"container {container.id} is not running")
        container.resize(rows, columns)
        return Response(200)

    async def inspect(self, request: Request) -> Reply:
        view = self._engine.core.execs.inspect(request.params["id"])
        code = (UNKNOWN_EXIT if view.exit_code is None else view.exit_code) if view.phase == "exited" else None
        spec = view.spec
        process: dict[str, Any] = {
            "tty": spec.tty,
            "entrypoint": spec.args[0],
            "arguments": list(spec.args[1:]),
            "privileged": spec.privileged,
        }
        return Response.json(
            {
                "ID": view.id,
                "Running": view.phase == "running",
                "ExitCode": code,
                "ProcessConfig": process | ({"user": spec.user} if spec.user else {}),
                "OpenStdin": spec.stdin,
                "OpenStderr": spec.stderr,
                "OpenStdout": spec.stdout,
                "CanRemove": False,
                "ContainerID": view.container,
                "DetachKeys": "",
                "Pid": view.pid,
            }
        )


def _spec(body: Mapping[str, Any]) -> ExecSpec:
    """What ``ExecConfig`` asks for. ``DetachKeys`` is the client's own affair."""
    words, env = body.get("Cmd"), body.get("Env")
    for name, value in (("Cmd", words), ("Env", env)):
        if value is not None and not (isinstance(value, list) and all(isinstance(word, str) for word in value)):
            raise HttpError(400, f"invalid {name}: it must be a list of strings")
    if not words:
        raise HttpError(400, "No exec command specified")
    size, tty = console_size(body), _flag(body, "Tty")
    if size is not None and not tty:
        raise HttpError(400, "exec ConsoleSize requires Tty")
    for name in ("User", "WorkingDir"):
        if not isinstance(body.get(name, ""), str | None):
            raise HttpError(400, f"invalid {name}: it must be a string")
    return ExecSpec(
        args=tuple(words),
        env=tuple(env or ()),
        working_dir=body.get("WorkingDir") or "",
        user=body.get("User") or "",
        tty=tty,
        stdin=_flag(body, "AttachStdin"),
        stdout=_flag(body, "AttachStdout") or tty,
        stderr=_flag(body, "AttachStderr") and not tty,
        privileged=_flag(body, "Privileged"),
    )


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if not isinstance(value, bool | None):
        raise HttpError(400, f"invalid {name}: it must be true or false")
    return bool(value)


def _size(request: Request) -> tuple[int, int]:
    query = request.query
    return query.integer("h", 0, most=65535), query.integer("w", 0, most=65535)


def _refusal(error: WrongPhase, container: str) -> HttpError:
    match error.phase:
        case Phase.PAUSED:
            words = f"Container {container} is paused, unpause the container before exec"
        case Phase.RESTARTING:
            words = f"Container {container} is restarting, wait until the container is running"
        case "already running":
            words = "error: exec command is already running"
        case _:
            words = f"container {container} is not running"
    return HttpError(409, words)


def _words(tty: bool, text: str) -> bytes:
    return text.encode() if tty else frame(STDERR, text.encode())


async def _feed(client: trio.abc.ReceiveStream, stdin: ExecInput) -> None:
    """What the client sends, to the command. Where its input is a terminal, the client's end means nothing."""
    try:
        while data := await client.receive_some():
            await stdin.send_all(data)
        if not stdin.is_terminal:
            await stdin.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return  # one of the two is gone
