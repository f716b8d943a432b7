"""The HTTP client against our own server, and against servers that misbehave."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from httpcalls import Start
from trio.testing import wait_all_tasks_blocked

from lading.engine.http.client import connect
from lading.engine.http.message import (
    MULTIPLEXED_STREAM,
    RAW_STREAM,
    HttpError,
    Request,
    Response,
    Stream,
)
from lading.engine.http.server import Limits, serve
from lading.engine.http.unix_socket import listen_unix
from lading.events.errors import HostError, NotFound


@pytest.fixture
def script(tmp_path: Path, nursery: trio.Nursery) -> Callable[[bytes], Awaitable[Path]]:
    """A server that reads something, says ``reply`` and hangs up."""

    async def script(reply: bytes) -> Path:
        async def answer(stream: trio.SocketStream) -> None:
            async with stream:
                await stream.receive_some()
                await stream.send_all(reply)

        await nursery.start(trio.serve_listeners, answer, [listen_unix(tmp_path / "s")])
        return tmp_path / "s"

    return script


async def tell(request: Request) -> Response:
    body = await request.body(1 << 30)
    return Response.json(
        {"method": request.method, "target": request.target, "x": request.headers.get("x"), "size": len(body)}
    )


async def blocks(count: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield bytes(size)


async def test_a_request_has_a_method_a_target_headers_and_a_body(start: Start) -> None:
    async with connect(await start(tell)) as client:
        response = await client.request("PUT", "/a?b=c", headers={"X": "y"}, body=b"hello")
        assert response.status == 200
        assert response.headers["content-type"] == "application/json"
        assert await response.json() == {"method": "PUT", "target": "/a?b=c", "x": "y", "size": 5}
        response = await client.request("GET", "/")
        assert (await response.json())["size"] == 0
        response = await client.request("POST", "/", body=blocks(100, 40_000))
        assert (await response.json())["size"] == 4_000_000


async def test_requests_run_at_the_same_time(start: Start) -> None:
    release = trio.Event()

    async def handler(request: Request) -> Response:
        if request.path == "/release":
            release.set()
        await release.wait()
        return Response.text(request.path)

    answers = []
    async with connect(await start(handler)) as client, trio.open_nursery() as nursery:

        async def ask(path: str) -> None:
            answers.append(await (await client.request("GET", path)).read())

        for number in range(5):
            nursery.start_soon(ask, f"/{number}")
        await wait_all_tasks_blocked()
        assert answers == []
        await ask("/release")
    assert sorted(answers) == [b"/0", b"/1", b"/2", b"/3", b"/4", b"/release"]


async def test_a_stream_is_read_as_it_comes_and_dropping_it_frees_the_server(start: Start) -> None:
    ended = trio.Event()

    async def forever() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            await trio.sleep_forever()
        finally:
            ended.set()

    async def handler(request: Request) -> Stream:
        return Stream(200, {}, forever())

    async with connect(await start(handler)) as client, await client.request("GET", "/") as response:
        async for chunk in response.stream():
            assert chunk == b"one"
            break
        await response.aclose()
        with trio.fail_after(2):
            await ended.wait()


async def test_a_reply_can_run_while_its_request_is_being_sent(start: Start) -> None:
    async def handler(request: Request) -> None:
        async with request.respond() as send:
            async for chunk in request.body_stream():
                await send(chunk)

    async with connect(await start(handler)) as client:
        response = await client.request("POST", "/", body=blocks(50, 100_000))
        total = 0
        async for chunk in response.stream():
            total += len(chunk)
        assert total == 5_000_000


async def test_an_early_refusal_of_an_upload_is_seen(start: Start) -> None:
    async def handler(request: Request) -> Response:
        raise HttpError(507, "the disk is full")

    async with connect(await start(handler)) as client:
        for body in (bytes(50_000_000), blocks(1000, 1_000_000)):
            response = await client.request("POST", "/", body=body)
            with pytest.raises(HttpError, match="the disk is full") as caught:
                await response.check()
            assert caught.value.status == 507


async def test_what_the_upload_raises_reaches_the_caller(start: Start) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"x"
        raise NotFound("file", "layer.tar")

    async with connect(await start(tell)) as client:
        with pytest.raises(NotFound, match=r"layer\.tar"):
            await client.request("POST", "/", body=failing())
        assert (await client.request("GET", "/")).status == 200


async def test_check_raises_what_the_server_says_and_passes_success_on(start: Start) -> None:
    async def handler(request: Request) -> Response:
        return Response(409, {}, b"plain\n") if request.path == "/plain" else Response.error(404, "no such thing")

    async with connect(await start(handler)) as client:
        with pytest.raises(HttpError, match="no such thing") as caught:
            await (await client.request("GET", "/")).check()
        assert caught.value.status == 404
        with pytest.raises(HttpError, match="plain"):
            await (await client.request("GET", "/plain")).check()


async def test_hijacking_gives_both_directions(start: Start) -> None:
    async def handler(request: Request) -> None:
        options = await request.json()
        async with request.hijack(MULTIPLEXED_STREAM) as stream:
            await stream.send_all(options["greet"].encode())
            async for part in stream:
                await stream.send_all(part.upper())
            await stream.send_all(b"!")

    path = await start(handler)
    async with connect(path) as client, client.hijack("POST", "/", body=b'{"greet":"hi "}') as stream:
        assert stream.content_type == MULTIPLEXED_STREAM
        await stream.send_all(b"abc")
        await stream.send_eof()
        assert b"".join([part async for part in stream]) == b"hi ABC!"


@pytest.mark.parametrize("first", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n"])
async def test_both_ways_to_hand_a_connection_over_are_understood(
    script: Callable[[bytes], Awaitable[Path]], first: bytes
) -> None:
    path = await script(first + b"Content-Type: application/vnd.docker.raw-stream\r\n\r\nraw\r\n")
    async with connect(path) as client, client.hijack("POST", "/attach") as stream:
        assert stream.content_type == RAW_STREAM
        assert b"".join([part async for part in stream]) == b"raw\r\n"


async def test_a_refused_hijack_raises_the_refusal(start: Start) -> None:
    async def handler(request: Request) -> Response:
        return Response.error(409, "container is paused")

    async with connect(await start(handler)) as client:
        with pytest.raises(HttpError, match="paused") as caught:
            async with client.hijack("POST", "/"):
                pass
        assert caught.value.status == 409


async def test_leaving_the_block_ends_everything_and_raises_what_was_raised(start: Start) -> None:
    running = trio.Event()
    ended = trio.Event()

    async def handler(request: Request) -> Response:
        try:
            running.set()
            await trio.sleep_forever()
        finally:
            ended.set()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x"
        await trio.sleep_forever()

    path = await start(handler)

    async def leave() -> None:
        async with connect(path) as client:
            with trio.move_on_after(0.02):
                await client.request("POST", "/", body=endless())
            await running.wait()
            raise NotFound("container", "web")

    with pytest.raises(NotFound):
        await leave()
    with trio.fail_after(2):
        await ended.wait()


async def test_a_server_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="start the engine") as caught:
        async with connect(tmp_path / "none"):
            pass
    assert caught.value.errno == errno.ENOENT


async def test_a_long_path_works(tmp_path: Path, nursery: trio.Nursery) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    await nursery.start(partial(serve, [listen_unix(directory / "s")], tell, limits=Limits(grace=0)))
    async with connect(directory / "s") as client:
        assert (await client.request("GET", "/")).status == 200
        assert (await client.request("GET", "/")).status == 200


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"220 smtp ready\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nxx",
    ],
)
async def test_a_server_that_misbehaves_is_a_host_error(
    script: Callable[[bytes], Awaitable[Path]], reply: bytes
) -> None:
    path = await script(reply)
    async with connect(path) as client:
        with pytest.raises(HostError, match=str(path)):  # noqa: PT012 - which of the two depends on the case
            response = await client.request("GET", "/")
            await response.json()


async def test_a_body_over_the_limit_is_not_read(start: Start) -> None:
    async def handler(request: Request) -> Stream:
        return Stream(200, {}, blocks(1000, 100_000))

    async with connect(await start(handler)) as client:
        with pytest.raises(HostError, match="more than 300000 bytes"):
            await (await client.request("GET", "/")).read(300_000)
