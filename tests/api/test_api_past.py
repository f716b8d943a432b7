"""Extensions of the API: queries about an earlier moment, requests that are made again, compaction."""

from __future__ import annotations

from typing import Any

import pytest
from stage import records

from lading.events.container import KillRequested, Started

pytestmark = [pytest.mark.real, pytest.mark.slow]

V = "/v1.47"
FOREVER = ("sleep", "1000")


async def headers_of(api: Any, path: str) -> dict[str, str]:
    async with await api.client.request("GET", path) as reply:
        await reply.read()
    return dict(reply.headers)


async def test_lists_and_inspections_of_an_earlier_moment(api: Any) -> None:
    """The same shapes as of now; the headers say which moment it is."""
    web = await api.create(*FOREVER, name="web")
    created = api.engine.log.position
    await api.ask("POST", f"{V}/containers/web/start")
    running = api.engine.log.position
    await api.ask("POST", f"{V}/containers/web/rename", name="api")
    await api.ask("DELETE", f"{V}/containers/api", force="1")
    assert await api.ask("GET", f"{V}/containers/json", all="1") == (200, [])
    for at, state in ((created, "created"), (running, "running"), (f"@{running}", "running")):
        status, [shown] = await api.ask("GET", f"{V}/containers/json", all="1", at=str(at))
        assert (status, shown["Id"], shown["Names"], shown["State"]) == (200, web, ["/web"], state)
        status, shown = await api.ask("GET", f"{V}/containers/web/json", at=str(at))
        assert (status, shown["Id"], shown["State"]["Status"]) == (200, web, state)
    filters = '{"name":["web"],"status":["running"]}'
    assert len((await api.ask("GET", f"{V}/containers/json", at=str(running), filters=filters))[1]) == 1
    assert (await api.ask("GET", f"{V}/containers/json", at=str(created), filters=filters))[1] == []
    status, [image] = await api.ask("GET", f"{V}/images/json", at=str(running))
    assert (status, image) == (200, (await api.ask("GET", f"{V}/images/json"))[1][0])
    assert await api.ask("GET", f"{V}/images/json", at="1") == (200, [])
    assert (await api.ask("GET", f"{V}/images/{api.image}/json", at="1"))[0] == 404
    found = await headers_of(api, f"{V}/containers/json?at={running}")
    [record] = api.engine.log.read(running - 1, 1)
    assert (found["lading-position"], found["lading-time"]) == (str(running), str(record.time))
    assert "lading-position" not in await headers_of(api, f"{V}/containers/json")


@pytest.mark.parametrize(("at", "status"), [("soon", 400), ("-1", 400), ("99999", 404), ("9" * 30, 400)])
async def test_a_moment_that_is_none_is_refused(api: Any, at: str, status: int) -> None:
    for path in ("containers/json", "images/json", f"images/{api.image}/json"):
        got, said = await api.ask("GET", f"{V}/{path}", at=at)
        assert got == status
        assert said["message"]


async def test_a_request_made_again_with_its_command_id_is_done_once(api: Any) -> None:
    """Whoever heard no answer asks again, and is answered as the first was, also when the container is gone."""

    def command(number: int) -> dict[str, str]:
        return {"Lading-Command": f"{number:032x}"}

    body = {"Image": api.image, "Cmd": list(FOREVER), "HostConfig": {"NetworkMode": "none"}}
    first = await api.ask("POST", f"{V}/containers/create", body, headers=command(1), name="web")
    assert first[0] == 201
    assert await api.ask("POST", f"{V}/containers/create", body, headers=command(1), name="web") == first
    container = first[1]["Id"]
    for _ in range(2):
        assert await api.ask("POST", f"{V}/containers/web/start", headers=command(2)) == (204, b"")
        assert await api.ask("POST", f"{V}/containers/web/kill", headers=command(3)) == (204, b"")
    assert (await api.ask("POST", f"{V}/containers/web/wait"))[1]["StatusCode"] == 137
    for _ in range(2):
        assert await api.ask("DELETE", f"{V}/containers/web", headers=command(4)) == (204, b"")
    other = await api.create(*FOREVER, name="web")  # the name is another's now
    assert await api.ask("DELETE", f"{V}/containers/web", headers=command(4)) == (204, b"")
    assert api.engine.containers.get("web").id == other
    life = records(api.engine, container)
    for kind, number in ((Started, 2), (KillRequested, 3)):
        [record] = [record for record in life if isinstance(record.event, kind)]
        assert record.command == f"{number:032x}"
    status, said = await api.ask("DELETE", f"{V}/containers/web", headers=command(1))
    assert status == 409
    assert "was used for another request" in said["message"]
    for wrong in ("1", "G" * 32, "a" * 33):
        assert (await api.ask("DELETE", f"{V}/containers/web", headers={"Lading-Command": wrong}))[0] == 400


async def test_compaction_over_http(api: Any) -> None:
    position = api.engine.log.position
    status, said = await api.ask("POST", f"{V}/lading/compact", before=str(position))
    assert (status, said["first"], said["last"]) == (200, 1, position)
    assert (await api.ask("GET", f"{V}/images/json", at="1"))[0] == 404
    assert (await api.ask("POST", f"{V}/lading/compact"))[0] == 400
    assert (await api.ask("POST", f"{V}/lading/compact", before=str(position)))[0] == 404
