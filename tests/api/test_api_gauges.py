"""Top and stats over HTTP: when they are asked for, how often, and what is sent where nothing runs.

What a sample has in it is the affair of who takes it: here it is a number that counts.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from lading.engine.api.failures import error_response
from lading.engine.api.gauges import Gauges, add_gauge_routes
from lading.engine.core import Core
from lading.engine.http import server
from lading.engine.http.client import Client, connect
from lading.engine.http.router import Router
from lading.engine.http.unix_socket import listen_unix

pytestmark = [pytest.mark.real, pytest.mark.slow]

FOREVER = ("sleep", "1000")


@pytest.fixture
async def gauges(api: Any, tmp_path: Path) -> AsyncIterator[Client]:
    """A client of top and stats alone, of the engine of ``api``."""
    count = itertools.count(1)

    async def top(core: Core, container: str, arguments: str) -> tuple[list[str], list[list[str]]]:
        return ["PID", "ARGS"], [[str(core.state(container).process is not None), arguments]]

    def shape(now: int, before: int | None, name: str, identifier: str) -> dict[str, Any]:
        return {"now": now, "before": before, "name": name, "id": identifier}

    router = Router()
    add_gauge_routes(router, api.engine, Gauges(top, lambda core, container: next(count), shape))
    path = tmp_path / "gauges"
    async with trio.open_nursery() as nursery:
        listeners = [listen_unix(path, mode=0o600)]
        await nursery.start(partial(server.serve, listeners, router, on_error=error_response))
        async with connect(path) as client:
            yield client
        nursery.cancel_scope.cancel()


async def ask(client: Client, target: str) -> tuple[int, Any]:
    with trio.fail_after(20):
        async with await client.request("GET", target) as reply:
            return reply.status, json.loads(await reply.read())


async def test_top_is_of_what_runs(api: Any, gauges: Client) -> None:
    container = await api.create(*FOREVER)
    status, said = await ask(gauges, f"/containers/{container}/top")
    assert (status, said["message"]) == (409, f"container {container} is not running")
    await api.ask("POST", f"/containers/{container}/start")
    assert await ask(gauges, f"/containers/{container}/top") == (
        200, {"Titles": ["PID", "ARGS"], "Processes": [["True", "-ef"]]},
    )  # fmt: skip
    _, said = await ask(gauges, f"/containers/{container}/top?ps_args=-o%20pid")
    assert said["Processes"] == [["True", "-o pid"]]
    assert (await ask(gauges, f"/containers/{container}/top?ps_args={'x' * 2000}"))[0] == 400
    assert (await ask(gauges, "/containers/nope/top"))[0] == 404


async def test_one_sample_and_two(api: Any, gauges: Client) -> None:
    container = await api.start(*FOREVER, name="web")
    told = {"name": "web", "id": container}
    assert await ask(gauges, "/containers/web/stats?stream=0&one-shot=1") == (
        200,
        {"now": 1, "before": None, **told},
    )
    assert await ask(gauges, "/containers/web/stats?stream=false") == (200, {"now": 3, "before": 2, **told})
    assert (await ask(gauges, "/containers/nope/stats"))[0] == 404


async def test_what_does_not_run_has_an_empty_sample(api: Any, gauges: Client) -> None:
    container = await api.create(*FOREVER, name="web")
    status, said = await ask(gauges, "/containers/web/stats?stream=0")
    assert (status, said["id"], said["name"], said["memory_stats"]) == (200, container, "/web", {})
    assert said["cpu_stats"]["cpu_usage"]["total_usage"] == 0


@pytest.mark.long
async def test_a_stream_goes_on_until_the_container_is_gone(api: Any, gauges: Client) -> None:
    container = await api.start(*FOREVER)
    seen = []
    with trio.fail_after(20):
        async with await gauges.request("GET", f"/containers/{container}/stats") as reply:
            assert reply.status == 200
            async for data in reply.stream():
                seen += [json.loads(line) for line in data.splitlines()]
                if len(seen) == 2:
                    await api.ask("POST", f"/containers/{container}/kill")
                if len(seen) == 3:
                    await api.ask("DELETE", f"/containers/{container}?force=1")
    assert [(one["now"], one["before"]) for one in seen[:2]] == [(1, None), (2, 1)]
    assert seen[-1]["memory_stats"] == {}
