"""The history over HTTP: every record, in order, from any position, to readers of any speed."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from urllib.parse import urlencode

import pytest
import trio

from lading.engine.core import new_caller
from lading.engine.http.unix_socket import connect_unix
from lading.events.described import as_dict, from_dict
from lading.events.envelope import Proposed
from lading.events.image import Tagged
from lading.storage.log import Log

pytestmark = [pytest.mark.real, pytest.mark.slow]

H = "/lading/history"


async def asked(api: Any, **query: Any) -> list[Any]:
    """The lines of a reply that ends."""
    with trio.fail_after(20):
        async with await api.client.request("GET", f"{H}?{urlencode(query, doseq=True)}") as reply:
            assert reply.status == 200, await reply.read()
            assert reply.headers["content-type"] == "application/x-ndjson"
            return [json.loads(line) for line in (await reply.read()).splitlines()]


async def followed(api: Any, **query: Any) -> AsyncIterator[Any]:
    """The lines of a reply that goes on."""
    async with await api.client.request("GET", f"{H}?{urlencode({'follow': 1, **query}, doseq=True)}") as reply:
        await reply.check()
        rest = b""
        async for chunk in reply.stream():
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield json.loads(line)
        assert rest == b""


async def take(lines: Any, count: int) -> list[Any]:
    with trio.fail_after(20):
        return [await anext(lines) for _ in range(count)]


async def grow(api: Any, count: int, at_once: int = 1) -> None:
    """Records that nothing comes of: a tag that is set again and again."""
    image = api.engine.images.list()[0].image
    event = Proposed("tag/docker.io/library/x:1", Tagged("docker.io/library/x:1", image, image))
    for _ in range(count // at_once):
        caller = new_caller()
        await api.engine.core.journal.append([event] * at_once, actor=caller.actor, command=caller.command)


async def test_every_record_is_one_line_with_every_field(api: Any) -> None:
    await api.create("true", name="web", Labels={"k": "\u2028\x1b[31m"})
    records = api.engine.log.read()
    assert await asked(api) == [json.loads(json.dumps(as_dict(record))) for record in records]
    assert [from_dict(line) for line in await asked(api)] == records
    assert (await api.ask("GET", f"/v1.47{H}"))[1] == (await api.ask("GET", H))[1]


async def test_a_part_is_what_was_asked_for(api: Any) -> None:
    one = await api.create("true", name="one", Labels={"team": "a"})
    two = await api.create("true", name="two")
    await api.ask("DELETE", "/containers/one")
    every = api.engine.log.read()
    image = api.engine.images.list()[0].image

    async def positions(**query: Any) -> list[int]:
        return [line["position"] for line in await asked(api, **query)]

    def those(true: Any) -> list[int]:
        return [record.position for record in every if true(record)]

    assert await positions(after=3) == those(lambda record: record.position > 3)
    assert await positions(after=3, limit=2) == [4, 5]
    assert await positions(until="@2") == [1, 2]
    assert await positions(after=10**9) == []
    assert await positions(streams=f"container/{one}") == those(lambda record: record.stream == f"container/{one}")
    assert await positions(streams=["engine", "tag/"]) == those(lambda record: record.stream[:3] in ("eng", "tag"))
    assert await positions(streams="engine,tag/") == await positions(streams=["engine", "tag/"])
    created = await positions(types="container.created")
    assert len(created) == 2
    assert await positions(labels="team=a") == await positions(streams=f"container/{one}")
    assert await positions(labels=["team", "nope"]) == []
    assert len(await positions(images=api.image)) == len(await positions(images=image[:20])) - 1
    assert await positions(actors="http", types="container.created") == created
    assert await positions(actors="python") == those(lambda record: record.actor.client == "python")
    removal = (await asked(api, streams=f"container/{one}"))[-1]
    assert removal["type"] == "container.removed"
    both = await asked(api, command=removal["command"])
    assert [line["type"] for line in both] == ["container.remove-requested", "container.removed"]
    at = next(record.time for record in every if record.stream == f"container/{two}")
    moment = f"{at // 10**9}.{at % 10**9:09}"
    assert (await positions(since=moment))[0] == created[1]
    assert (await positions(until=moment))[-1] == created[1]
    assert await positions(since="now") == []
    assert await positions(until="2001-01-01") == []
    assert await positions(since="1h ago", until="now") == those(lambda record: True)


BAD = {
    "after": ["x", "-1", "1.5", "\u0661", "9" * 30],
    "limit": ["x", "-1"],
    "since": ["soon", "1969-01-01", "\uff11"],
    "until": ["tomorrow-ish"],
    "types": ["container", "nope", "container.start"],
    "images": ["UPPER CASE", "a b"],
    "labels": ["=x"],
    "command": ["xyz", "c" * 33],
    "streams": ["x" * 9000, "a\0b"],
    "stream": ["container/"],
}


async def test_what_makes_no_sense_is_a_400_in_words(api: Any) -> None:
    for name, values in BAD.items():
        for value in values:
            status, said = await api.ask("GET", H, **{name: value})
            assert (status, list(said), name, value) == (400, ["message"], name, value)
            assert len(said["message"]) > 20
    status, said = await api.ask("GET", f"{H}?labels=%ff")
    assert status == 400
    status, said = await api.ask("GET", H, after="1", since="now")
    assert (status, "either after or since" in said["message"]) == (400, True)
    assert (await api.ask("POST", H))[0] == 405
    assert (await api.ask("GET", f"/v9.99{H}"))[0] == 400


async def test_what_was_compacted_away_is_a_404_that_says_where_to_go_on(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Log, "first", 3)
    for follow in ("0", "1"):
        status, said = await api.ask("GET", H, after="1", follow=follow)
        assert (status, "compacted up to 2" in said["message"]) == (404, True)
    assert (await asked(api))[0]["position"] == 3


async def test_following_tells_where_the_past_ends_and_goes_on(api: Any) -> None:
    head = api.engine.log.position
    async with aclosing(followed(api, after=head - 2)) as lines:
        seen = await take(lines, 3)
        assert [line.get("position") for line in seen] == [head - 1, head, head]
        assert seen[2] == {"notice": "caught-up", "position": head}
        await grow(api, 3)
        assert [line["position"] for line in await take(lines, 3)] == [head + 1, head + 2, head + 3]
    async with aclosing(followed(api, after=head + 3, limit=2)) as lines:
        assert await take(lines, 1) == [{"notice": "caught-up", "position": head + 3}]
        await grow(api, 5)
        assert [line["position"] async for line in lines] == [head + 4, head + 5]


async def test_following_until_an_instant_has_everything_up_to_it(api: Any) -> None:
    head = api.engine.log.position
    end = time.time() + 0.5
    seen: list[int] = []
    async with trio.open_nursery() as nursery:

        async def keep_growing() -> None:
            while time.time() < end + 0.2:
                await grow(api, 1)

        nursery.start_soon(keep_growing)
        with trio.fail_after(20):
            async with aclosing(followed(api, after=head, until=f"{end:.6f}")) as lines:
                seen = [line["position"] async for line in lines if "notice" not in line]
    by_then = list(range(head + 1, api.engine.log.position_at(int(end * 1e6) * 1000) + 1))
    assert seen in (by_then, by_then[:-1]), "but for one that was on its way to the disk"
    assert len(seen) > 10


async def test_following_until_a_position_ends_there(api: Any) -> None:
    head = api.engine.log.position
    async with aclosing(followed(api, after=head, until=head + 4)) as lines:
        await take(lines, 1)
        await grow(api, 9, 9)
        assert [line["position"] async for line in lines] == [head + 1, head + 2, head + 3, head + 4]


@pytest.mark.long
async def test_a_client_that_reads_nothing_costs_a_page_and_then_gets_everything(api: Any) -> None:
    """While it sleeps, a hundred thousand records: its connection is full, and nothing piles up for it."""
    head = api.engine.log.position
    with trio.fail_after(80):
        async with await connect_unix(api.socket) as stream:
            await stream.send_all(f"GET {H}?follow=1&after={head} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            got = await stream.receive_some(1 << 16)
            before = memory()
            await grow(api, 100_000, 1000)
            assert memory() - before < 50 << 20
            last, notices = head, []
            while last < api.engine.log.position:
                got += await stream.receive_some(1 << 20)
                *whole, got = got.split(b"\n")
                for line in whole:
                    if line.startswith(b'{"position"'):
                        position = json.loads(line)["position"]
                        assert position == last + 1
                        last = position
                    elif line.startswith(b'{"notice"'):
                        notices.append(json.loads(line)["notice"])
    assert notices[:2] == ["caught-up", "fell-behind"]


def memory() -> int:
    """Bytes that this process has resident."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


async def test_a_reader_that_vanishes_leaves_nothing(api: Any) -> None:
    for _ in range(20):
        async with aclosing(followed(api)) as lines:
            await take(lines, 3)
    await grow(api, 1)
    with trio.fail_after(10):
        while api.engine.core.journal.tail._grown.statistics().tasks_waiting:
            await trio.lowlevel.checkpoint()
