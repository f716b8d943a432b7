"""The lines of a transfer's progress: Docker's forms, a bounded pace, and nobody who waits for a slow client."""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel
import trio.testing

from lading.engine.api.failures import failure_words
from lading.engine.api.progress import (
    ProgressLines,
    aux_line,
    draw_bar,
    error_line,
    progress_line,
    status_line,
    stream_line,
    stream_progress,
)
from lading.engine.http.client import connect
from lading.engine.http.message import HttpError, Request
from lading.engine.http.server import Limits, serve
from lading.engine.http.unix_socket import connect_unix, listen_unix
from lading.events.errors import Invalid


@attrs.frozen
class Told:
    id: str
    status: str
    current: int = 0
    total: int = 0


@pytest.mark.parametrize(
    ("line", "raw"),
    [
        (
            progress_line(Told("latest", "Pulling from library/x")),
            b'{"status":"Pulling from library/x","id":"latest"}\r\n',
        ),
        (
            progress_line(Told("0123456789ab", "Pulling fs layer")),
            b'{"status":"Pulling fs layer","progressDetail":{},"id":"0123456789ab"}\r\n',
        ),
        (
            progress_line(Told("0123456789ab", "Downloading", 1_049_000, 4_194_304)),
            b'{"status":"Downloading","progressDetail":{"current":1049000,"total":4194304},'
            b'"progress":"[============\\u003e                                      ]  1.049MB/4.194MB",'
            b'"id":"0123456789ab"}\r\n'.replace(b"\\u003e", b">"),
        ),
        (progress_line(Told("", "Digest: sha256:1")), b'{"status":"Digest: sha256:1"}\r\n'),
        (status_line("x", "y"), b'{"status":"x","id":"y"}\r\n'),
        (stream_line("Loaded image: x\n"), b'{"stream":"Loaded image: x\\n"}\r\n'),
        (aux_line({"Tag": "1", "Size": 2}), b'{"progressDetail":{},"aux":{"Tag":"1","Size":2}}\r\n'),
        (error_line("no"), b'{"errorDetail":{"message":"no"},"error":"no"}\r\n'),
    ],
)
def test_a_line_has_dockers_fields_in_dockers_order(line: bytes, raw: bytes) -> None:
    assert line == raw


@pytest.mark.parametrize(
    ("current", "total", "bar"),
    [
        (0, 0, ""),
        (-1, 0, ""),
        (2_500, 0, "   2.5kB"),
        (0, 1000, "[>" + " " * 50 + "]       0B/1kB"),
        (1000, 1000, "[" + "=" * 50 + ">]      1kB/1kB"),
        (500, 1000, "[" + "=" * 25 + ">" + " " * 25 + "]     500B/1kB"),
        (1999, 1000, "[" + "=" * 50 + ">]  1.999kB"),
        (123_456_789, 10**12, "[>" + " " * 50 + "]  123.5MB/1TB"),
    ],
)
def test_the_bar_is_dockers(current: int, total: int, bar: str) -> None:
    assert draw_bar(current, total) == bar


class Reader:
    """What a client was sent, and when; ``slow``: seconds that it takes for each piece."""

    def __init__(self, slow: float = 0) -> None:
        self.lines: list[tuple[float, Any]] = []
        self._slow = slow

    async def send(self, piece: bytes) -> None:
        await trio.sleep(self._slow)
        self.lines += [(trio.current_time(), json.loads(line)) for line in piece.splitlines()]

    def statuses(self, identifier: str) -> list[str]:
        found = [line["status"] for _, line in self.lines if line.get("id") == identifier]
        return [status for at, status in enumerate(found) if not at or found[at - 1] != status]


async def test_counts_come_at_most_ten_times_a_second_and_a_new_status_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lines, reader = ProgressLines(), Reader()

    async def work() -> None:
        lines.tell(Told("a", "Pulling fs layer"))
        for count in range(1000):
            lines.tell(Told("a", "Downloading", count, 1000))
            await trio.sleep(0.005)
        lines.tell(Told("a", "Download complete"))
        lines.end()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await lines.send_all(reader.send, str)
    assert reader.statuses("a") == ["Pulling fs layer", "Downloading", "Download complete"]
    assert 40 <= len(reader.lines) <= 60, "five seconds of downloading"
    times = [at for at, line in reader.lines if line["status"] == "Downloading"]
    assert all(later - earlier > 0.09 for earlier, later in itertools.pairwise(times[1:]))


async def test_a_slow_reader_gets_fewer_lines_and_holds_nobody(autojump_clock: trio.testing.MockClock) -> None:
    lines, reader = ProgressLines(), Reader(slow=10)
    started = trio.current_time()
    finished: list[float] = []

    async def work() -> None:
        for layer in "abc":
            lines.tell(Told(layer, "Pulling fs layer"))
        for count in range(3000):
            for layer in "abc":
                lines.tell(Told(layer, "Downloading", count, 3000))
            await trio.sleep(0.001)
        for layer in "abc":
            lines.tell(Told(layer, "Download complete"))
            lines.tell(Told(layer, "Pull complete"))
        finished.append(trio.current_time() - started)
        lines.end()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await lines.send_all(reader.send, str)
    assert finished[0] < 3.5
    for layer in "abc":
        assert reader.statuses(layer)[-2:] == ["Download complete", "Pull complete"]
    assert len(reader.lines) < 20


async def test_what_waits_for_a_stopped_reader_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    lines, reader = ProgressLines(), Reader()
    for number in range(50_000):
        lines.tell(Told(str(number), f"Retrying in {number} seconds"))
    lines.end()
    await lines.send_all(reader.send, str)
    assert len(reader.lines) == 4096
    assert reader.lines[-1][1]["id"] == "49999"


async def test_a_failure_is_the_last_line(autojump_clock: trio.testing.MockClock) -> None:
    lines, reader = ProgressLines(), Reader()
    lines.tell(Told("a", "Downloading", 5, 10))
    lines.end(Invalid("x", 1, "no"))
    assert await lines.wait_first()
    await lines.send_all(reader.send, str)
    assert [line.get("error") for _, line in reader.lines] == [None, "invalid x 1: no"]


async def test_an_end_without_a_line_is_known_as_such(autojump_clock: trio.testing.MockClock) -> None:
    lines = ProgressLines()

    async def work() -> None:
        await trio.sleep(3)
        lines.end(Invalid("x", 1, "no"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        assert not await lines.wait_first()
    assert isinstance(lines.failure, Invalid)


Served = Callable[[Callable[[ProgressLines], Awaitable[None]]], Awaitable[Path]]


@pytest.fixture
def served(tmp_path: Path, nursery: trio.Nursery) -> Served:
    """A server that answers every request with the progress of some work; the path of its socket."""

    async def serve_it(work: Callable[[ProgressLines], Awaitable[None]]) -> Path:
        async def handler(request: Request) -> None:
            await stream_progress(request, work, failure_words)

        path = tmp_path / "s"
        await nursery.start(partial(serve, [listen_unix(path)], handler, limits=Limits(grace=0, linger=0.05)))
        return path

    return serve_it


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_work_goes_on_to_its_end_though_nobody_reads(served: Served) -> None:
    """More is told than any socket's buffer has room for."""
    done = trio.Event()

    async def work(lines: ProgressLines) -> None:
        for number in range(20_000):
            lines.tell(Told(f"{number:012}", "x" * 100))
            if number % 100 == 0:
                await trio.lowlevel.checkpoint()
        done.set()

    path = await served(work)
    async with await connect_unix(path) as stream:
        await stream.send_all(GET)
        with trio.fail_after(5):
            await done.wait()
        with trio.fail_after(10):
            got = b""
            while not got.endswith(b"0\r\n\r\n"):
                got += await stream.receive_some()
    assert 1000 < got.count(b'"status"') < 20_000, "some were left out, and the last is there"
    assert b'"id":"000000019999"' in got


async def test_a_client_that_leaves_ends_the_work(served: Served) -> None:
    begun, ended = trio.Event(), trio.Event()

    async def work(lines: ProgressLines) -> None:
        try:
            begun.set()
            await trio.sleep_forever()
        finally:
            ended.set()

    path = await served(work)
    async with await connect_unix(path) as stream:
        await stream.send_all(GET)
        await begun.wait()
    with trio.fail_after(5):
        await ended.wait()


@pytest.mark.parametrize("told", [False, True])
async def test_a_failure_is_a_status_until_something_was_told(served: Served, told: bool) -> None:
    async def work(lines: ProgressLines) -> None:
        if told:
            lines.tell(Told("a", "Downloading"))
        raise HttpError(404, "it is not there")

    path = await served(work)
    async with connect(path) as client, await client.request("GET", "/") as reply:
        body = [json.loads(line) for line in (await reply.read()).splitlines()]
    assert reply.status == (200 if told else 404)
    assert body[-1] == (json.loads(error_line("it is not there")) if told else {"message": "it is not there"})
