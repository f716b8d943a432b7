"""Docker's events out of the log, as the stock client asks for and shows them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from stage import Stage, printed

import lading
from lading.engine.api.server import serve_api
from lading.engine.http.client import connect
from lading.events.envelope import Record
from lading.events.ids import container_stream
from lading.storage.log import Log

pytestmark = [pytest.mark.real, pytest.mark.slow]

QUIET = ("--network", "none")
PAST = ("--since", "24h", "--until", "0s")
READY = "trap 'exit 3' TERM; echo ready; sleep 1000 & wait"


async def told(api: Any, *options: str) -> list[Any]:
    """The past as the stock client shows it, after the second that is going on: its instants are whole ones."""
    await trio.sleep(1.05 - time.time() % 1)
    said = await api.docker("events", *PAST, "--format", "json", *options)
    assert said.code == 0, said.err
    return [json.loads(line) for line in said.out.splitlines()]


def actions(events: list[Any]) -> list[str]:
    return [event["Action"] for event in events]


@pytest.mark.long
async def test_a_life_has_dockers_actions_and_attributes(api: Any) -> None:
    await api.docker("run", "-d", "--name", "web", "-l", "team=a", *QUIET, api.image, "sh", "-c", READY)
    await printed(api.engine.containers.get("web"), b"ready")
    await api.docker("rename", "web", "shop")
    await api.docker("stop", "shop")
    await api.docker("start", "shop")
    await api.docker("rm", "-f", "shop")
    await api.docker("run", "--rm", "--name", "short", *QUIET, api.image, "sh", "-c", "sleep 1.2; exit 4")
    await api.docker("run", "--name", "wrong", *QUIET, api.image, "nope")
    events = await told(api)
    image = api.engine.images.list()[0].image
    assert [(event["Type"], event["Action"]) for event in events[:2]] == [("image", "import"), ("image", "tag")]
    assert [event["Actor"]["ID"] for event in events[:2]] == [image, image]
    assert [event["Actor"]["Attributes"]["name"] for event in events[:2]] == [image, api.image]
    lives: dict[str, list[Any]] = {}
    for event in events[2:]:
        assert (event["Type"], event["scope"], event["from"]) == ("container", "local", api.image)
        assert (event["status"], event["id"]) == (event["Action"], event["Actor"]["ID"])
        assert event["timeNano"] // 10**9 == event["time"]
        assert event["Actor"]["Attributes"]["image"] == api.image
        lives.setdefault(event["Actor"]["ID"], []).append(event)
    shop, short, wrong = lives.values()
    assert actions(shop) == ["create", "start", "rename", "kill", "die", "stop", "start", "kill", "die", "destroy"]
    assert actions(short) == ["create", "start", "die", "destroy"]
    assert actions(wrong) == ["create"]
    attributes = [event["Actor"]["Attributes"] for event in shop]
    assert {each["team"] for each in attributes} == {"a"}
    assert [each["name"] for each in attributes] == ["web"] * 2 + ["shop"] * 8
    assert attributes[2]["oldName"] == "/web"
    assert (attributes[3]["signal"], attributes[4]["exitCode"]) == ("15", "3")
    assert (attributes[7]["signal"], attributes[8]["exitCode"]) == ("9", "137")
    died = short[2]["Actor"]["Attributes"]
    assert (died["exitCode"], died["execDuration"]) == ("4", "1")


async def test_filters_are_dockers(api: Any) -> None:
    one = await api.create("true", name="one", Labels={"team": "a", "tier": "x"})
    two = await api.create("true", name="two", Labels={"team": "b"})
    await api.ask("DELETE", "/containers/two")
    image = api.engine.images.list()[0].image

    async def fits(*filters: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        options = [word for one_filter in filters for word in ("--filter", one_filter)]
        said = await api.docker("events", *PAST, "--format", "{{.Type}} {{.Action}} {{.Actor.ID}}", *options)
        assert said.code == 0, said.err
        return said.out.splitlines()

    await told(api)
    pictures = [f"image import {image}", f"image tag {image}"]
    ones, twos = [f"container create {one}"], [f"container create {two}", f"container destroy {two}"]
    assert await fits() == [*pictures, *ones, *twos]
    assert await fits("type=image") == pictures
    assert await fits("type=container", "type=image") == [*pictures, *ones, *twos]
    assert await fits("event=destroy") == twos[1:]
    assert await fits("event=destroy", "event=tag") == [pictures[1], *twos[1:]]
    assert await fits("container=two") == twos
    assert await fits("container=/two") == twos
    assert await fits(f"container={one[:12]}") == ones
    assert await fits("container=tw") == []
    assert await fits("label=team") == [*ones, *twos]
    assert await fits("label=team=a", "label=tier") == ones
    assert await fits("label=team=a", "label=team=b") == []
    assert await fits(f"image={api.image}", "type=container") == [*ones, *twos]
    assert await fits("image=busybox") == [pictures[1], *ones, *twos]
    assert await fits(f"image={image}") == [*pictures, *ones, *twos]
    assert await fits("scope=local", "event=create") == [*ones, twos[0]]
    for nothing in ("scope=swarm", "type=network", "network=x", "plugin=x", "node=x", "service=x"):
        assert (nothing, await fits(nothing)) == (nothing, [])
    for nothing in ("secret=x", "config=x", "daemon=x", "image=nope", "image=UPPER", "event=oom"):
        assert (nothing, await fits(nothing)) == (nothing, [])
    refused = await api.docker("events", *PAST, "--filter", "nope=x")
    assert (refused.code, "invalid filter" in refused.err) == (1, True)


async def test_the_past_is_whole_and_ends_where_it_was_cut(api: Any) -> None:
    """More events than Docker's daemon keeps, each side of a cut between two of them."""
    for number in range(300):
        await api.engine.containers.create(api.image, ["true"], name=f"c{number:03}")
    records = [record for record in api.engine.log.read(0, 5000) if record.stream.startswith("container/")]
    cut = records[150].time

    async def created(**query: str) -> list[str]:
        target = "&".join(f"{key}={value}" for key, value in query.items())
        async with await api.client.request("GET", f"/v1.47/events?{target}") as reply:
            events = [json.loads(line) for line in (await reply.read()).splitlines()]
        return [event["Actor"]["Attributes"]["name"] for event in events if event["Action"] == "create"]

    def instant(time: int) -> str:
        return f"{time // 10**9}.{time % 10**9:09}"

    now = instant(time.time_ns())
    names = [f"c{number:03}" for number in range(300)]
    assert await created(since="1", until=now) == names
    assert await created(since=instant(cut), until=now) == names[150:]
    assert await created(since=instant(cut + 1), until=now) == names[151:]
    assert await created(since="1", until=instant(cut)) == names[:151]
    assert await created(until=instant(cut)) == names[:151], "an end in the past, and no beginning"


@asynccontextmanager
async def served(stage: Stage, socket: Path) -> AsyncIterator[lading.Engine]:
    async with stage.emptied() as engine, trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[Any]) -> None:
            await serve_api(engine, socket, task_status=task_status)

        await nursery.start(serve)
        yield engine
        nursery.cancel_scope.cancel()


async def test_the_past_survives_restarts(stage: Stage, tmp_path: Path) -> None:
    """Three engines on one store: each tells what happened before it, of containers that are long gone."""
    for turn in range(3):
        async with served(stage, tmp_path / "s") as engine, connect(tmp_path / "s") as client:
            done = await engine.containers.run("busybox:test", ["sh", "-c", f"exit {turn}"], name=f"turn{turn}")
            assert done.exit_code == turn
            target = f"/v1.47/events?since=1&until={time.time() + 0.001:.6f}"
            await trio.sleep(0.01)
            async with await client.request("GET", target) as reply:
                events = [json.loads(line) for line in (await reply.read()).splitlines()]
        codes = [event["Actor"]["Attributes"].get("exitCode") for event in events if event["Action"] == "die"]
        assert codes == [str(number) for number in range(turn + 1)]
        names = {event["Actor"]["Attributes"]["name"] for event in events if event["Type"] == "container"}
        assert names == {f"turn{number}" for number in range(turn + 1)}


@pytest.mark.long
async def test_a_container_whose_beginning_was_compacted_away_is_told_of(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = await api.create("true", name="old", Labels={"team": "a"})
    await api.ask("POST", "/containers/old/rename", name="new")
    await api.ask("DELETE", "/containers/new")
    records = api.engine.log.read_stream(container_stream(container))
    whole = await told(api, "--filter", f"container={container}")
    read_stream = Log.read_stream

    def read_what_is_kept(self: Log, stream: str, after: int = 0, limit: int = 1000) -> list[Record]:
        return [record for record in read_stream(self, stream, after, limit) if record.position >= self.first]

    monkeypatch.setattr(Log, "first", records[1].position)
    monkeypatch.setattr(Log, "read_stream", read_what_is_kept)
    assert await told(api, "--filter", f"container={container}") == whole[1:]
    assert actions(whole[1:]) == ["rename", "destroy"]


async def test_what_happens_is_told_as_it_happens_from_the_past_on(api: Any) -> None:
    """``--since`` and no end: the past and then the present, in one stream without a gap or a double."""
    await api.docker("create", "--name", "before", *QUIET, api.image, "true")
    since = str(int(time.time()) - 3600)
    style = ("--format", "{{.Action}} {{.Actor.Attributes.name}}", "--filter", "type=container")
    async with trio.open_nursery() as nursery:
        process = await api.start_docker(nursery, "events", "--since", since, *style)
        got = b""
        with trio.fail_after(20):
            while b"create before\n" not in got:
                got += await process.stdout.receive_some()
            await api.docker("create", "--name", "after", *QUIET, api.image, "true")
            while b"create after\n" not in got:
                got += await process.stdout.receive_some()
        process.kill()
    assert got.decode().splitlines() == ["create before", "create after"]


@pytest.mark.long
async def test_a_client_that_is_killed_or_stopped_harms_nobody(api: Any) -> None:
    """One is killed, one is suspended while a thousand events come; the third gets all of them."""
    async with trio.open_nursery() as nursery:
        style = ("events", "--format", "{{.Action}} {{.Actor.Attributes.name}}", "--filter", "type=container")
        killed, stopped, reader = [await api.start_docker(nursery, *style) for _ in range(3)]
        with trio.fail_after(20):
            while api.engine.core.journal.tail._grown.statistics().tasks_waiting < 3:
                await trio.lowlevel.checkpoint()
        stopped.send_signal(19)
        killed.kill()
        names = [f"c{number}" for number in range(1000)]
        got = b""

        async def read() -> None:
            nonlocal got
            while got.count(b"\n") < 1000:
                got += await reader.stdout.receive_some()

        with trio.fail_after(40):
            async with trio.open_nursery() as both:
                both.start_soon(read)
                for name in names:
                    await api.engine.containers.create(api.image, ["true"], name=name)
            assert got.decode().splitlines() == [f"create {name}" for name in names]
            stopped.send_signal(18)
            late = b""
            while late.count(b"\n") < 1000:
                late += await stopped.stdout.receive_some()
            assert late == got
        stopped.kill()
        reader.kill()
