"""The API in bare HTTP: the engine itself, who asks, and what malformed and hostile requests get."""

from __future__ import annotations

import os
import stat
from typing import Any

import pytest

from lading.events.errors import StoreBroken

pytestmark = [pytest.mark.real, pytest.mark.slow]

FOREVER = ("sleep", "1000")
V = "/v1.47"


async def test_ping_tells_what_clients_negotiate_with(api: Any) -> None:
    for method, body in (("GET", b"OK"), ("HEAD", b"")):
        async with await api.client.request(method, "/_ping") as reply:
            assert (reply.status, await reply.read()) == (200, body)
        assert reply.headers["api-version"] == "1.47"
        assert reply.headers["ostype"] == "linux"
        assert reply.headers["docker-experimental"] == "false"
        assert reply.headers["server"].startswith("Lading/")


async def test_other_versions_are_refused_in_dockers_words(api: Any) -> None:
    new, old = (
        "is too new. Maximum supported API version is 1.47",
        "is too old. Minimum supported API version is 1.24",
    )
    upgrade = ", please upgrade your client to a newer version"
    for version, words in (("1.99", new), ("1.48", new), ("2.0", new), ("1.23", old + upgrade)):
        told = {"message": f"client version {version} {words}"}
        assert await api.ask("GET", f"/v{version}/version") == (400, told)


async def test_every_version_between_and_none_is_served(api: Any) -> None:
    for prefix in ("", "/v1.24", "/v1.41", "/v1.47"):
        status, version = await api.ask("GET", f"{prefix}/version")
        assert (status, version["ApiVersion"], version["MinAPIVersion"]) == (200, "1.47", "1.24")


async def test_what_is_not_there_is_a_404(api: Any) -> None:
    for method, path in (
        ("GET", f"{V}/networks"),
        ("GET", f"{V}/plugins"),
        ("POST", f"{V}/swarm/init"),
    ):
        assert await api.ask(method, path) == (404, {"message": "page not found"})


async def test_info_counts_and_warns(api: Any) -> None:
    await api.create(*FOREVER)
    await api.start(*FOREVER)
    status, info = await api.ask("GET", f"{V}/info")
    assert status == 200
    counts = ("Containers", "ContainersRunning", "ContainersStopped", "Images")
    assert [info[key] for key in counts] == [2, 1, 1, 1]
    assert info["DefaultRuntime"] in ("crun", "runc")
    assert info["DockerRootDir"] == str(api.engine.root)
    assert (info["NCPU"] > 0, info["MemTotal"] > 1 << 20, info["Driver"]) == (True, True, "overlay2")


async def test_the_socket_is_its_owners_alone(api: Any) -> None:
    assert stat.S_IMODE(os.stat(api.socket).st_mode) == 0o600


async def test_a_command_is_recorded_with_who_asked(api: Any) -> None:
    agent = {"User-Agent": "Tool/1.0<script>" + "x" * 100 + " (linux)"}
    body = {"Image": api.image, "Cmd": ["true"]}
    _, made = await api.ask("POST", f"{V}/containers/create", body, headers=agent)
    [record] = api.engine.log.read_stream(f"container/{made['Id']}")
    assert (record.actor.uid, record.actor.gid, record.actor.pid) == (os.getuid(), os.getgid(), os.getpid())
    assert record.actor.client == ("Tool/1.0script" + "x" * 100)[:64]
    assert len(record.command) == 32


async def test_an_engine_that_cant_write_answers_503(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*args: Any, **options: Any) -> None:
        raise StoreBroken("no space")

    with monkeypatch.context() as patch:
        patch.setattr(api.engine.core.journal, "append", broken)
        status, said = await api.ask("POST", f"{V}/containers/create", {"Image": api.image, "Cmd": ["true"]})
    assert (status, "no space" in said["message"]) == (503, True)


NOT_JSON = [
    b"",
    b"[]",
    b"null",
    b"{",
    b'{"Image": "a"} x',
    b'{"a": NaN}',
    b"[" * 100_000,
    b'{"Image": "\\ud800"}',
    b'{"Image": "a", "Image": "b"}',
    b"\xff\xfe",
    b'{"Image": 1e999}',
    b'{"Image": {"a": 1}}',
    b'{"Image": "a", "Cmd": ' + b"9" * 100_000 + b"}",
]


async def test_json_that_is_none_is_a_400(api: Any) -> None:
    for body in NOT_JSON:
        status, said = await api.ask("POST", f"{V}/containers/create", body)
        assert (status, list(said), body) == (400, ["message"], body)
    assert api.engine.containers.list() == []


CANT_BE: list[dict[str, Any]] = [
    {"Env": [""]},
    {"Env": ["="]},
    {"Env": ["=x"]},
    {"Env": ["A"]},
    {"Env": ["A=\0"]},
    {"Env": ["A=" + "x" * 200_000]},
    {"Env": [f"A{n}=" + "x" * 100_000 for n in range(70)]},
    {"Cmd": ["a\0b"]},
    {"Cmd": []},
    {"User": "a\0"},
    {"WorkingDir": "/proc/self/fd/9"},
    {"WorkingDir": "rel"},
    {"WorkingDir": "/x/../../sys"},
    {"Hostname": "a\nb"},
    {"Labels": {"": "x"}},
    {"Labels": {"a": "x" * (2 << 20)}},
    {"StopSignal": "SIGNOPE"},
    {"Image": "UPPER"},
    {"Image": "a" * 600},
    {"Image": "sha256:" + "a" * 505},
    {"Image": "x" * 300 + ".y/" + "z" * 200},
    {"Image": "a\nb"},
]


async def test_values_that_cant_be_are_a_400(api: Any) -> None:
    for config in CANT_BE:
        body = {"Image": api.image, "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}, **config}
        status, said = await api.ask("POST", f"{V}/containers/create", body)
        assert (status, list(said), config) == (400, ["message"], config)
        assert len(said["message"]) < 500
    assert api.engine.containers.list() == []


async def test_a_body_beyond_all_reason_is_a_413(api: Any) -> None:
    body = {"Image": api.image, "Cmd": ["true"], "Labels": {"a": "x" * (9 << 20)}}
    assert (await api.ask("POST", f"{V}/containers/create", body))[0] == 413


async def test_a_name_that_is_none_is_a_400(api: Any) -> None:
    body = {"Image": api.image, "Cmd": ["true"]}
    full_width = "\uff57\uff45\uff42"
    for name in ("x\n", ".", "..", "a/b", "-rm", full_width, "x", "a" * 256, "//ab", " ab", "a\0b"):
        status, said = await api.ask("POST", f"{V}/containers/create", body, name=name)
        assert (status, said["message"].startswith("Invalid container name ("), name) == (400, True, name)
    assert api.engine.containers.list() == []


async def test_a_container_that_is_not_there_is_a_404(api: Any) -> None:
    await api.create(*FOREVER)
    for reference in ("nope", "0" * 64, "%2e%2e", "a%0ab", "x" * 1000, "%00"):
        for method, path in (("GET", "json"), ("POST", "start"), ("GET", "logs?stdout=1"), ("POST", "wait")):
            status, said = await api.ask(method, f"{V}/containers/{reference}/{path}")
            assert (status, reference) in ((404, reference), (400, reference))
            assert status == 400 or said["message"].startswith("No such container: ")


NO_SENSE = [
    "/containers/json?filters=x",
    "/containers/json?filters=[]",
    '/containers/json?filters={"nope":["x"]}',
    '/containers/json?filters={"status":["weird"]}',
    '/containers/json?filters={"exited":["x"]}',
    '/containers/json?filters={"name":["(a*)*$"]}',
    '/containers/json?filters={"name":[1]}',
    "/containers/json?filters=%ff",
    "/containers/json?limit=x",
    "/containers/json?limit=" + "9" * 30,
    "/events?since=x",
    "/events?since=2&until=1",
    '/events?filters={"nope":["x"]}',
    '/images/json?filters={"until":["x"]}',
    '/images/json?filters={"dangling":["maybe"]}',
]


async def test_a_query_that_makes_no_sense_is_a_400(api: Any) -> None:
    for target in NO_SENSE:
        status, said = await api.ask("GET", V + target.replace('"', "%22"))
        assert (status, list(said), target) == (400, ["message"], target)


async def test_an_id_prefix_that_fits_two_is_a_400(api: Any) -> None:
    made = [await api.create(*FOREVER) for _ in range(17)]
    first = next(one for one in made if sum(other[0] == one[0] for other in made) > 1)
    status, said = await api.ask("GET", f"{V}/containers/{first[0]}/json")
    assert (status, said["message"]) == (400, f"multiple IDs found with provided prefix: {first[0]}")
    status, found = await api.ask("GET", f"{V}/containers/{first[:20]}/json")
    assert (status, found["Id"]) == (200, first)
    # A name comes before a prefix, and a whole id before a name.
    named = await api.create(*FOREVER, name=first[:12])
    status, found = await api.ask("GET", f"{V}/containers/{first[:12]}/json")
    assert (status, found["Id"]) == (200, named)
