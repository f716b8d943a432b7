"""The HTTP server's connections: hostile, slow and vanishing clients, hijacking, and stopping."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from httpcalls import GET, Start, ask, body, echo, pong, status, until, until_end
from trio.testing import wait_all_tasks_blocked

from lading.engine.http.message import (
    MULTIPLEXED_STREAM,
    Request,
    Response,
    Stream,
)
from lading.engine.http.server import Limits, serve
from lading.engine.http.unix_socket import UnixListener, connect_unix, listen_unix


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
        (b"\x16\x03\x01\x02", 400),
        (b"GET / HTTP/1.1\r\nHost: x", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\na", 413),
    ],
)
async def test_a_malformed_request_is_refused_and_the_server_lives(
    start: Start, data: bytes, expected: int
) -> None:
    path = await start(echo)
    reply = await ask(path, data)
    assert status(reply) == expected
    assert "message" in json.loads(body(reply))
    assert b"connection: close" in reply.lower()
    assert status(await ask(path, GET)) == 200


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("size", [16 * 1024, 40_000, 200_000])
async def test_a_header_over_16_kib_is_a_431(start: Start, size: int, complete: bool) -> None:
    path = await start(pong)
    reply = await ask(path, GET[:-2] + b"X: " + b"x" * size + b"\r\n\r\n" * complete)
    assert status(reply) == 431


async def test_a_header_of_almost_16_kib_is_fine(start: Start) -> None:
    path = await start(pong)
    big = GET[:-2] + b"X: " + b"x" * (16 * 1024 - len(GET) - 10) + b"\r\n\r\n"
    assert (await ask(path, big * 3)).count(b"pong") == 3


async def test_a_slow_header_is_a_408_and_silence_is_just_closed(start: Start) -> None:
    path = await start(pong, limits=Limits(head_timeout=0.05, idle_timeout=0.05, grace=0, linger=0.02))
    async with await connect_unix(path) as slow, await connect_unix(path) as silent:
        await slow.send_all(GET[:10])
        with trio.fail_after(2):
            assert status(await until_end(slow)) == 408
            assert await until_end(silent) == b""
    async with await connect_unix(path) as stream:
        await stream.send_all(GET)
        await until(stream, b"pong")
        with trio.fail_after(2):
            assert await until_end(stream) == b""


async def test_a_stalled_body_is_a_408(start: Start) -> None:
    path = await start(echo, limits=Limits(body_timeout=0.05, grace=0, linger=0.02))
    async with await connect_unix(path) as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na")
        with trio.fail_after(2):
            assert status(await until_end(stream)) == 408


async def test_whoever_is_idle_makes_room_for_newcomers(start: Start) -> None:
    path = await start(pong, limits=Limits(connections=3, grace=0, linger=0.05))
    async with trio.open_nursery() as nursery:
        streams = [await connect_unix(path) for _ in range(10)]
        await wait_all_tasks_blocked()
        assert status(await ask(path, GET)) == 200
        nursery.cancel_scope.cancel()
    for stream in streams:
        await stream.aclose()


async def test_newcomers_wait_while_everybody_is_busy(start: Start) -> None:
    release = trio.Event()

    async def handler(request: Request) -> Response:
        await release.wait()
        return Response()

    path = await start(handler, limits=Limits(connections=2, grace=0, linger=0.05))
    replies: list[bytes] = []

    async def client() -> None:
        replies.append(await ask(path, GET))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(client)
        await wait_all_tasks_blocked()
        release.set()
    assert [status(reply) for reply in replies] == [200] * 5


class Starved(trio.abc.Listener[trio.SocketStream]):
    """A listener whose process is out of descriptors for a while."""

    def __init__(self, listener: UnixListener, failures: int) -> None:
        self.listener, self.failures = listener, failures

    async def accept(self) -> trio.SocketStream:
        if self.failures:
            self.failures -= 1
            await trio.lowlevel.checkpoint()
            raise OSError(errno.EMFILE, "too many open files")
        return await self.listener.accept()

    async def aclose(self) -> None:
        await self.listener.aclose()


async def test_running_out_of_descriptors_pauses_accepting_and_says_so_once(
    tmp_path: Path, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Starved(listen_unix(tmp_path / "s"), 3)
    begin = trio.current_time()
    await nursery.start(partial(serve, [listener], pong, limits=Limits(grace=0, linger=0.05, backoff=0.02)))
    assert status(await ask(tmp_path / "s", GET)) == 200
    assert trio.current_time() - begin >= 0.06
    assert len([record for record in caplog.records if "no new connections" in record.message]) == 1


@pytest.mark.parametrize("mode", ["waiting", "streaming", "producing", "hijacked", "reading"])
async def test_a_client_that_goes_away_cancels_its_handler(start: Start, mode: str) -> None:
    started, ended = trio.Event(), trio.Event()

    async def handler(request: Request) -> Stream | None:
        try:
            started.set()
            match mode:
                case "streaming":
                    async with request.respond() as send:
                        while True:
                            await send(b"x" * 100_000)
                case "producing":
                    return Stream(200, {}, tracked())
                case "hijacked":
                    async with request.hijack():
                        await trio.sleep_forever()
                case "reading":
                    await request.body()
            await trio.sleep_forever()
        finally:
            if mode != "producing":
                ended.set()

    async def tracked() -> AsyncIterator[bytes]:
        try:
            yield b"begun"
            await trio.sleep_forever()
        finally:
            ended.set()

    path = await start(handler)
    async with await connect_unix(path) as stream:
        # What was sent ahead must not hide that the sender has gone.
        await stream.send_all(GET + GET if mode != "reading" else GET[:-2] + b"Content-Length: 5\r\n\r\nab")
        await started.wait()
        if mode not in ("waiting", "reading"):
            await stream.receive_some(1)
        await wait_all_tasks_blocked()
        assert not ended.is_set()
    with trio.fail_after(2):
        await ended.wait()
    assert status(await ask(path, b"BAD\r\n\r\n")) == 400


async def test_clients_that_come_and_go_leave_nothing_behind(start: Start) -> None:
    ended = 0
    all_ended = trio.Event()

    async def handler(request: Request) -> None:
        nonlocal ended
        try:
            if request.path == "/attach":
                async with request.hijack():
                    await trio.sleep_forever()
            async with request.respond(endless=True) as send:
                await send(b"x")
                await trio.sleep_forever()
        finally:
            ended += 1
            if ended == 100:
                all_ended.set()

    path = await start(handler)
    before, tasks = len(os.listdir("/proc/self/fd")), trio.lowlevel.current_statistics().tasks_living
    for target in (b"/attach", b"/logs") * 50:
        async with await connect_unix(path) as stream:
            await stream.send_all(b"POST " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            await stream.receive_some(1)
    with trio.fail_after(2):
        await all_ended.wait()
    await wait_all_tasks_blocked()
    assert len(os.listdir("/proc/self/fd")) == before
    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_a_client_that_only_ends_its_sending_still_gets_its_answer(start: Start) -> None:
    async def handler(request: Request) -> Response:
        await trio.sleep(0.05)
        return Response.text("late")

    assert body(await ask(await start(handler), GET)) == b"late"


@pytest.mark.parametrize("upgrade", [True, False])
async def test_a_hijacked_connection_goes_both_ways_and_half_closes(start: Start, upgrade: bool) -> None:
    async def handler(request: Request) -> None:
        options = await request.json()
        async with request.hijack(MULTIPLEXED_STREAM) as stream:
            await stream.send_all(options["greet"].encode())
            data = await until_end(stream)
            await stream.send_all(data.upper())
            await stream.send_eof()

    path = await start(handler)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n"
    if upgrade:
        head += b"Connection: Upgrade\r\nUpgrade: tcp\r\n"
    async with await connect_unix(path) as stream:
        await stream.send_all(head + b'\r\n{"greet":"hi"}early ')
        first = b"101 UPGRADED" if upgrade else b"200 OK"
        kind = b"Content-Type: application/vnd.docker.multiplexed-stream\r\n"
        extra = b"Connection: Upgrade\r\nUpgrade: tcp\r\n" if upgrade else b""
        assert await until(stream, b"\r\n\r\n") == b"HTTP/1.1 " + first + b"\r\n" + kind + extra + b"\r\n"
        assert await until(stream, b"hi")
        await stream.send_all(b"late")
        await stream.send_eof()
        assert await until_end(stream) == b"EARLY LATE"


async def test_input_sent_right_before_closing_reaches_a_hijacked_handler(start: Start) -> None:
    got: list[bytes | bytearray] = []
    done = trio.Event()

    async def handler(request: Request) -> None:
        async with request.hijack() as stream:
            async for part in stream:
                await trio.sleep(0.01)
                got.append(part)
        done.set()

    path = await start(handler, limits=Limits(grace=0, linger=1))
    async with await connect_unix(path) as stream:
        await stream.send_all(GET)
        await until(stream, b"\r\n\r\n")
        await stream.send_all(b"last words")
    with trio.fail_after(2):
        await done.wait()
    assert b"".join(got) == b"last words"


async def test_a_handler_may_close_what_it_hijacked(start: Start) -> None:
    async def handler(request: Request) -> None:
        async with request.hijack() as stream:
            await stream.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await stream.send_all(b"x")

    path = await start(handler)
    assert b"200 OK" in await ask(path, GET)
    assert b"200 OK" in await ask(path, GET)


async def test_input_nobody_reads_does_not_reset_a_hijacked_connection(start: Start) -> None:
    async def handler(request: Request) -> None:
        async with request.hijack() as stream:
            await stream.send_all(b"output")

    assert body(await ask(await start(handler), GET + b"x" * 100_000)) == b"output"


async def test_an_unread_upload_is_cut_short_by_its_answer(start: Start) -> None:
    path = await start(pong)
    async with await connect_unix(path) as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n" + b"x" * 1000)
        reply = await until_end(stream)
    assert status(reply) == 200
    assert b"connection: close" in reply.lower()


async def test_stopping_closes_the_idle_cuts_the_endless_and_lets_the_rest_finish(tmp_path: Path) -> None:
    path = tmp_path / "s"
    release = trio.Event()

    async def handler(request: Request) -> Response | Stream:
        if request.path == "/endless":
            return Stream(200, {}, forever(), endless=True)
        await release.wait()
        return Response.text("finished")

    async def forever() -> AsyncIterator[bytes]:
        yield b"x"
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def server(task_status: trio.TaskStatus[Any]) -> None:
            with scope:
                await serve([listen_unix(path)], handler, task_status=task_status)

        await nursery.start(server)
        async with (
            await connect_unix(path) as idle,
            await connect_unix(path) as endless,
            await connect_unix(path) as busy,
        ):
            await endless.send_all(GET.replace(b"/", b"/endless", 1))
            await until(endless, b"x\r\n")
            await busy.send_all(GET * 2)
            await wait_all_tasks_blocked()
            scope.cancel()
            with trio.fail_after(2):
                assert await until_end(idle) == b""
                assert await until_end(endless) == b""
            assert not path.exists()
            release.set()
            with trio.fail_after(2):
                reply = await until_end(busy)
            assert reply.count(b"finished") == 1
            assert b"connection: close" in reply.lower()


async def test_stopping_waits_no_longer_than_the_grace(tmp_path: Path) -> None:
    async def handler(request: Request) -> Response:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        limits = Limits(grace=0.05)
        await nursery.start(partial(serve, [listen_unix(tmp_path / "s")], handler, limits=limits))
        async with await connect_unix(tmp_path / "s") as stream:
            await stream.send_all(GET)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
async def test_an_upload_of_any_size_takes_constant_memory(start: Start) -> None:
    size, total, peak = 200 << 20, 0, 0

    async def handler(request: Request) -> Response:
        nonlocal total, peak
        before = resident()
        async for chunk in request.body_stream():
            total += len(chunk)
            peak = max(peak, resident() - before)
        return Response()

    path = await start(handler)
    block = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    async with await connect_unix(path) as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(size >> 20):
            await stream.send_all(block)
        await stream.send_all(b"0\r\n\r\n")
        assert status(await until(stream, b"\r\n\r\n")) == 200
    assert total == size
    assert peak < 8 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
