"""A server on a Unix socket, and raw requests to it, for what tests HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from lading.engine.http.message import Request, Response
from lading.engine.http.server import Limits
from lading.engine.http.unix_socket import connect_unix

Start = Callable[..., Awaitable[Path]]
QUICK = Limits(grace=0, linger=0.05)
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def ask(path: Path, data: bytes) -> bytes:
    """All that the server says to ``data`` and the end of input."""
    with trio.fail_after(5):
        async with await connect_unix(path) as stream:
            await stream.send_all(data)
            await stream.send_eof()
            return await until_end(stream)


async def until_end(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([part async for part in stream])


async def until(stream: trio.abc.ReceiveStream, end: bytes) -> bytes:
    got = b""
    with trio.fail_after(5):
        while not got.endswith(end):
            part = await stream.receive_some(1)
            assert part, got
            got += part
    return got


def status(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1])


def body(reply: bytes) -> bytes:
    return reply.partition(b"\r\n\r\n")[2]


async def echo(request: Request) -> Response:
    seen = [request.method, request.path, (await request.body()).decode(), request.peer.uid]
    return Response.json(seen)


async def pong(request: Request) -> Response:
    return Response.text("pong")
