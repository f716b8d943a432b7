"""What the HTTP server answers, over real Unix sockets."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from httpcalls import GET, Start, ask, body, echo, pong, status, until, until_end
from trio.testing import wait_all_tasks_blocked

from lading.engine.http.message import (
    HttpError,
    Request,
    Response,
    Stream,
)
from lading.engine.http.unix_socket import connect_unix
from lading.events.errors import NotFound


async def test_a_request_is_answered_and_the_common_headers_are_there(start: Start) -> None:
    path = await start(echo, headers={"Api-Version": "1.41"}, now=lambda: 0.0)
    reply = await ask(path, b"POST /a%20b?x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body(reply)) == ["POST", "/a b", "hi", os.getuid()]
    for line in (b"Api-Version: 1.41", b"Date: Thu, 01 Jan 1970 00:00:00 GMT", b"Content-Length: "):
        assert line.lower() in reply.lower()


async def test_one_connection_serves_many_requests_one_after_the_other(start: Start) -> None:
    running = 0

    async def handler(request: Request) -> Response:
        nonlocal running
        running += 1
        await wait_all_tasks_blocked()
        assert running == 1
        running -= 1
        return Response.text(request.path)

    path = await start(handler)
    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(5))
    reply = await ask(path, b"\r\n" + requests)
    assert [part[-2:] for part in reply.split(b"HTTP/1.1 200 OK")[1:]] == [b"/%d" % n for n in range(5)]


async def test_a_pipelined_request_follows_a_body_nobody_read(start: Start) -> None:
    path = await start(pong)
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    assert (await ask(path, post + GET)).count(b"pong") == 2


async def test_head_and_204_have_no_body(start: Start) -> None:
    async def handler(request: Request) -> Response | Stream:
        if request.path == "/stream":
            return Stream(200, {}, chunks(b"never"))
        return Response(204, {}, b"x") if request.path == "/204" else Response.text("pong")

    path = await start(handler)
    reply = await ask(path, b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
    assert b"content-length: 4\r\n" in reply.lower()
    assert b"pong" not in reply
    assert reply.count(b"HTTP/1.1 200") == 2
    reply = await ask(path, b"GET /204 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert body(reply) == b""
    assert b"content-length" not in reply.lower()
    reply = await ask(path, b"HEAD /stream HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status(reply), body(reply)) == (200, b"")


async def test_http_1_0_gets_an_unframed_stream(start: Start) -> None:
    async def handler(request: Request) -> Stream:
        return Stream(200, {}, chunks(b"a", b"b"))

    reply = await ask(await start(handler), b"GET / HTTP/1.0\r\n\r\n")
    assert body(reply) == b"ab"
    assert b"chunked" not in reply


async def test_100_continue_is_sent_when_and_only_when_the_body_is_wanted(start: Start) -> None:
    async def handler(request: Request) -> Response:
        return Response(body=await request.body(3)) if request.path == "/want" else Response.text("no")

    path = await start(handler)
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    async with await connect_unix(path) as stream:
        await stream.send_all(head % (b"/want", 3))
        assert await until(stream, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await stream.send_all(b"abc")
        assert b" 200 " in await until(stream, b"abc")
        await stream.send_all(head % (b"/other", 3))
        reply = await until_end(stream)
        assert (status(reply), body(reply)) == (200, b"no")
        assert b"connection: close" in reply.lower()
    reply = await ask(path, head % (b"/want", 4))
    assert status(reply) == 413


async def test_errors_of_handlers_become_replies(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request) -> Response | None:
        match request.path:
            case "/teapot":
                raise HttpError(418, "short", {"X-Stout": "yes"})
            case "/lading":
                async with trio.open_nursery():
                    raise NotFound("container", "web")
            case "/bad-header":
                return Response(200, {"X": "a\r\nSet-Cookie: b"})
            case "/nothing":
                return None
        raise ZeroDivisionError("secret")

    path = await start(handler, on_error=lambda error: Response.error(404, str(error)))
    request = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"
    reply = await ask(path, request % b"/teapot" + request % b"/lading")
    assert reply.count(b"HTTP/1.1 418") == reply.count(b"HTTP/1.1 404") == 1
    assert b'{"message":"short"}' in reply
    assert b'{"message":"no such container: web"}' in reply
    assert caplog.records == []
    for target in (b"/crash", b"/bad-header", b"/nothing"):
        reply = await ask(path, request % target + GET)
        assert status(reply) == 500
        assert b"secret" not in reply
        assert reply.count(b"HTTP/1.1") == 1
        assert "message" in json.loads(body(reply))
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 3
    assert status(await ask(path, request % b"/teapot")) == 418


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_stream_sends_its_header_and_each_chunk_at_once(start: Start) -> None:
    send, receive = trio.open_memory_channel[bytes](0)

    async def handler(request: Request) -> Stream:
        return Stream(200, {"Content-Type": "application/json"}, receive)

    path = await start(handler)
    async with await connect_unix(path) as stream:
        await stream.send_all(GET * 2)
        assert b"chunked" in await until(stream, b"\r\n\r\n")
        await send.send(b"one")
        assert await until(stream, b"one\r\n") == b"3\r\none\r\n"
        await send.send(b"")
        await send.send(b"two!")
        assert await until(stream, b"!\r\n") == b"4\r\ntwo!\r\n"
        await send.aclose()
        assert await until(stream, b"0\r\n\r\n") == b"0\r\n\r\n"


async def test_a_handler_may_send_from_several_tasks(start: Start) -> None:
    async def handler(request: Request) -> None:
        async with request.respond(201) as send, trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(send, b"x" * 30_000)

    reply = await ask(await start(handler), GET)
    assert status(reply) == 201
    assert body(reply) == (b"7530\r\n" + b"x" * 30_000 + b"\r\n") * 20 + b"0\r\n\r\n"


async def test_a_stream_that_fails_is_cut_off_and_closed(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    closed = trio.Event()

    async def broken() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            raise NotFound("container", "web")
        finally:
            closed.set()

    async def handler(request: Request) -> Stream:
        return Stream(200, {}, broken())

    reply = await ask(await start(handler), GET * 2)
    assert body(reply) == b"3\r\none\r\n"
    assert closed.is_set()
    assert "cut off" in caplog.text


async def test_nothing_follows_half_a_chunk(start: Start) -> None:
    async def handler(request: Request) -> None:
        async with request.respond() as send:
            with trio.move_on_after(0.02):
                await send(b"x" * 10_000_000)
            await send(b"after")

    path = await start(handler)
    async with await connect_unix(path) as stream:
        await stream.send_all(GET)
        await trio.sleep(0.05)
        reply = await until_end(stream)
    assert not reply.endswith(b"after\r\n")
    assert not reply.endswith(b"0\r\n\r\n")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.slow
async def test_curl_agrees(start: Start, tmp_path: Path) -> None:
    async def handler(request: Request) -> Response | Stream:
        if request.method == "PUT":
            return Response.text(str(len(await request.body(1 << 30))))
        return Stream(200, {}, chunks(b"one ", b"two"))

    path = await start(handler)
    (tmp_path / "big").write_bytes(bytes(3_000_000))

    async def curl(*arguments: str) -> bytes:
        command = ["curl", "-sS", "--unix-socket", str(path), *arguments]
        done = await trio.run_process(command, capture_stdout=True)
        assert isinstance(done.stdout, bytes)
        return done.stdout

    assert await curl("http://x/a", "http://x/b") == b"one twoone two"
    assert await curl("-T", str(tmp_path / "big"), "http://x/up") == b"3000000"
    upload = ("-T", str(tmp_path / "big"), "-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue")
    assert await curl(*upload, "http://x/up") == b"3000000"
    assert b"HTTP/1.1 200" in await curl("-I", "http://x/")
