"""What streams, in bare HTTP, with a real runtime: logs, attach, events."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import trio
from stage import printed

from lading.engine.http.stdcopy import Demultiplexer
from lading.engine.http.unix_socket import connect_unix

pytestmark = [pytest.mark.real, pytest.mark.slow]

FOREVER = ("sleep", "1000")
V = "/v1.47"

Lines = Callable[[bytes], list[Any]]


def streams(raw: bytes) -> dict[int, bytes]:
    """Multiplexed output, taken apart."""
    taken: dict[int, list[bytes]] = {}
    splitter = Demultiplexer()
    for number, data in splitter.feed(raw):
        taken.setdefault(number, []).append(data)
    splitter.finish()
    return {number: b"".join(parts) for number, parts in taken.items()}


async def until(true: Callable[[], bool]) -> None:
    """Wait a moment for what the host does by itself."""
    with trio.fail_after(10):
        while not true():  # noqa: ASYNC110  # nobody tells
            await trio.sleep(0.01)


async def test_logs_are_framed_by_stream(api: Any) -> None:
    container = await api.start(
        "sh", "-c", "printf 'a\\nb\\n2026-01-01T00:00:00Z forged\\n'; printf 'e\\0\\377' >&2"
    )
    await api.ask("POST", f"{V}/containers/{container}/wait")
    path = f"{V}/containers/{container}/logs"

    async def logs(**query: str) -> dict[int, bytes]:
        status, raw = await api.ask("GET", path, **{"stdout": "1", "stderr": "1", **query})
        assert status == 200
        return streams(raw)

    out = b"a\nb\n2026-01-01T00:00:00Z forged\n"
    assert await logs() == {1: out, 2: b"e\0\xff"}
    assert await logs(stderr="0") == {1: out}
    assert await logs(stdout="0", tail="all") == {2: b"e\0\xff"}
    assert await logs(stderr="0", tail="1") == {1: b"2026-01-01T00:00:00Z forged\n"}
    assert await logs(tail="0") == {}
    assert await logs(since=str(int(time.time()) + 100)) == {}
    assert await logs(until="1") == {}
    assert await logs(follow="1") == {1: out, 2: b"e\0\xff"}
    stamped = (await logs(stderr="0", timestamps="1"))[1].splitlines()
    assert [line[30:] for line in stamped] == [b" a", b" b", b" 2026-01-01T00:00:00Z forged"]
    assert all(line[29:30] == b"Z" for line in stamped)
    assert (await api.ask("GET", path))[0] == 400


async def test_a_half_line_of_the_log_hides_nothing_before_it(api: Any) -> None:
    container = await api.start("echo", "whole")
    await api.ask("POST", f"{V}/containers/{container}/wait")
    _, shown = await api.ask("GET", f"{V}/containers/{container}/json")
    with open(shown["LogPath"], "ab") as file:
        file.write(b"\xb1\x01\0\0")
    status, raw = await api.ask("GET", f"{V}/containers/{container}/logs?stdout=1&follow=1")
    assert (status, streams(raw)) == (200, {1: b"whole\n"})


async def test_followed_logs_come_as_they_are_printed(api: Any) -> None:
    container = await api.start("sh", "-c", "echo one; sleep 0.3; echo two")
    target = f"{V}/containers/{container}/logs?stdout=1&follow=1"
    async with await api.client.request("GET", target) as reply:
        seen = [(trio.current_time(), chunk) async for chunk in reply.stream()]
    assert streams(b"".join(chunk for _, chunk in seen)) == {1: b"one\ntwo\n"}
    assert seen[-1][0] - seen[0][0] > 0.1


async def test_followed_logs_end_at_until(api: Any) -> None:
    container = await api.start("sh", "-c", "echo one; sleep 1000")
    await printed(api.engine.containers.get(container), b"one")
    until = f"{time.time() + 0.3:.6f}"
    status, raw = await api.ask("GET", f"{V}/containers/{container}/logs?stdout=1&follow=1&until={until}")
    assert (status, streams(raw)) == (200, {1: b"one\n"})


async def test_a_lot_of_output_comes_whole(api: Any) -> None:
    container = await api.start("sh", "-c", "yes 0123456789 | head -c 2000000; seq 20000 >&2")
    await api.ask("POST", f"{V}/containers/{container}/wait")
    _, raw = await api.ask("GET", f"{V}/containers/{container}/logs?stdout=1&stderr=1")
    taken = streams(raw)
    assert taken[1] == (b"0123456789\n" * 200_000)[:2_000_000]
    assert taken[2] == b"".join(b"%d\n" % n for n in range(1, 20_001))


async def test_who_attaches_before_the_start_misses_nothing(api: Any) -> None:
    container = await api.create("sh", "-c", "echo first; echo err >&2; exit 1")
    target = f"{V}/containers/{container}/attach?stream=1&stdout=1&stderr=1"
    async with api.client.hijack("POST", target) as stream:
        assert stream.content_type == "application/vnd.docker.multiplexed-stream"
        await api.ask("POST", f"{V}/containers/{container}/start")
        with trio.fail_after(10):
            got = b"".join([part async for part in stream])
    assert streams(got) == {1: b"first\n", 2: b"err\n"}


async def test_who_attaches_to_a_start_that_fails_is_let_go(api: Any) -> None:
    container = await api.create("nope")
    async with api.client.hijack(
        "POST", f"{V}/containers/{container}/attach?stream=1&stdout=1&stderr=1"
    ) as stream:
        await api.ask("POST", f"{V}/containers/{container}/start")
        with trio.fail_after(10):
            assert [part async for part in stream] == []


async def test_who_attaches_later_sees_what_comes_and_with_logs_what_was(api: Any) -> None:
    container = await api.start("sh", "-c", "echo before; read line; echo $line", OpenStdin=True, StdinOnce=True)
    await printed(api.engine.containers.get(container), b"before")
    path = f"{V}/containers/{container}/attach"
    _, raw = await api.ask("POST", f"{path}?logs=1&stdout=1")
    assert streams(raw) == {1: b"before\n"}
    async with (
        api.client.hijack("POST", f"{path}?stream=1&stdout=1&logs=1") as everything,
        api.client.hijack("POST", f"{path}?stream=1&stdout=1&stdin=1") as stream,
    ):
        await stream.send_all(b"after\n")
        with trio.fail_after(10):
            assert streams(b"".join([part async for part in stream])) == {1: b"after\n"}
            assert streams(b"".join([part async for part in everything])) == {1: b"before\nafter\n"}


async def test_the_end_of_a_clients_input_ends_the_containers(api: Any) -> None:
    container = await api.create("cat", OpenStdin=True, StdinOnce=True)
    target = f"{V}/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1"
    data = os.urandom(3_000_000)
    async with api.client.hijack("POST", target) as stream, trio.open_nursery() as nursery:

        async def feed() -> None:
            await stream.send_all(data)
            await stream.send_eof()

        nursery.start_soon(feed)
        await api.ask("POST", f"{V}/containers/{container}/start")
        with trio.fail_after(20):
            assert streams(b"".join([part async for part in stream])) == {1: data}
    assert await api.ask("POST", f"{V}/containers/{container}/wait") == (200, {"StatusCode": 0})


async def test_an_input_that_may_be_fed_again_stays_open(api: Any) -> None:
    container = await api.start("cat", OpenStdin=True)
    target = f"{V}/containers/{container}/attach?stream=1&stdin=1&stdout=1"
    for word in (b"one\n", b"two\n"):
        async with api.client.hijack("POST", target) as stream:
            await stream.send_all(word)
            await stream.send_eof()
            await printed(api.engine.containers.get(container), word.strip())
    assert api.engine.containers.get(container).status == "running"


async def test_many_who_attach_and_vanish_leave_nothing(api: Any) -> None:
    container = await api.start("cat", OpenStdin=True)
    target = f"POST {V}/containers/{container}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\n"
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        async with await connect_unix(api.socket) as stream:
            await stream.send_all(target.encode() + b"Host: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
            assert (await stream.receive_some(100)).startswith(b"HTTP/1.1 101")
    # The input's own connection may stay.
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before + 2)


async def test_events_tell_a_life_afterwards_and_while_it_is_lived(api: Any, lines: Lines) -> None:
    since = str(time.time())
    live: list[Any] = []

    async def watch(task_status: trio.TaskStatus[None]) -> None:
        async with await api.client.request("GET", f"{V}/events") as reply:
            task_status.started()
            async for chunk in reply.stream():
                live.extend(lines(chunk))

    async with trio.open_nursery() as nursery:
        await nursery.start(watch)
        script = "trap 'exit 3' TERM; echo ready; sleep 1000 & wait"
        container = await api.start("sh", "-c", script, name="web", Labels={"k": "v"})
        await printed(api.engine.containers.get(container), b"ready")
        await api.ask("POST", f"{V}/containers/web/stop")
        await api.ask("POST", f"{V}/containers/web/rename", name="db")
        await api.ask("POST", f"{V}/containers/db/start")
        await api.ask("DELETE", f"{V}/containers/db", force="1")
        await until(lambda: bool(live) and live[-1]["Action"] == "destroy")
        nursery.cancel_scope.cancel()
    actions = ["create", "start", "kill", "die", "stop", "rename", "start", "kill", "die", "destroy"]
    assert [event["Action"] for event in live] == actions
    names = [event["Actor"]["Attributes"]["name"] for event in live]
    assert names == ["web"] * 5 + ["db"] * 5
    for event in live:
        assert (event["Type"], event["Actor"]["ID"], event["scope"]) == ("container", container, "local")
        assert event["Actor"]["Attributes"]["k"] == "v"
        assert event["Actor"]["Attributes"]["image"] == api.image
        assert event["time"] == event["timeNano"] // 10**9
        assert (event["status"], event["id"], event["from"]) == (event["Action"], container, api.image)
    attributes = [event["Actor"]["Attributes"] for event in live]
    assert (attributes[2]["signal"], attributes[3]["exitCode"]) == ("15", "3")
    assert (attributes[5]["oldName"], attributes[7]["signal"], attributes[8]["exitCode"]) == ("/web", "9", "137")

    end = str(time.time() + 0.001)
    await trio.sleep(0.01)
    async with await api.client.request("GET", f"{V}/events?since={since}&until={end}") as reply:
        assert (reply.status, lines(await reply.read())) == (200, live)


async def test_events_are_filtered(api: Any, lines: Lines) -> None:
    one = await api.create("true", name="one", Labels={"k": "v"})
    two = await api.create("true", name="two")
    end = str(time.time() + 0.001)
    await trio.sleep(0.01)

    async def told(**filters: list[str]) -> list[tuple[str, str]]:
        query = f"since=1&until={end}&filters={json.dumps(filters)}".replace(" ", "").replace('"', "%22")
        async with await api.client.request("GET", f"{V}/events?{query}") as reply:
            assert reply.status == 200
            return [(event["Action"], event["Actor"]["ID"]) for event in lines(await reply.read())]

    image = api.engine.images.list()[0].image
    assert await told() == [("import", image), ("tag", image), ("create", one), ("create", two)]
    assert await told(type=["image"]) == [("import", image), ("tag", image)]
    assert await told(event=["create", "die"]) == [("create", one), ("create", two)]
    assert await told(container=["one"]) == [("create", one)]
    assert await told(container=[two[:12]]) == [("create", two)]
    assert await told(image=["busybox"], type=["container"]) == [("create", one), ("create", two)]
    assert await told(image=[api.image], event=["tag"]) == [("tag", image)]
    assert await told(label=["k=v"]) == [("create", one)]
    assert await told(label=["k=w"]) == []


async def test_events_until_the_future_end_then(api: Any) -> None:
    before = trio.current_time()
    status, _ = await api.ask("GET", f"{V}/events", until=f"{time.time() + 0.3:.6f}")
    assert (status, 0.2 < trio.current_time() - before < 5) == (200, True)
