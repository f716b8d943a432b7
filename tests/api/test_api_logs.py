"""Logs over the API, of output that is rotated, damaged or a terminal's; by the stock client with every option."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from stage import IMAGE

from lading.engine.http.stdcopy import Demultiplexer
from lading.events.settings import ContainerSettings
from lading.storage.output import BLOCK

pytestmark = [pytest.mark.real, pytest.mark.slow]

V = "/v1.47"


async def made(api: Any, script: str, *, name: str | None = None, wait: bool = True, **settings: Any) -> Any:
    """A container that runs ``script``, to its end unless told otherwise."""
    container = await api.engine.containers.create(
        IMAGE, ["sh", "-c", script], name=name, settings=ContainerSettings(**settings)
    )
    await container.start()
    if wait:
        assert await container.wait() == 0
    return container


async def frames(api: Any, container: Any, **query: str) -> list[tuple[int, bytes]]:
    status, raw = await api.ask("GET", f"{V}/containers/{container.id}/logs", stdout="1", stderr="1", **query)
    assert status == 200
    splitter = Demultiplexer()
    pieces = splitter.feed(raw) if raw else []
    splitter.finish()
    return pieces


async def test_each_line_is_a_frame_however_many_came_at_once(api: Any) -> None:
    """Clients that iterate over logs take a frame for a line."""
    container = await made(api, "seq 1 30000")
    pieces = await frames(api, container)
    joined = b"".join(data for _, data in pieces)
    assert joined == b"".join(b"%d\n" % number for number in range(1, 30001))
    split = [data for _, data in pieces if not data.endswith(b"\n")]
    assert len(split) <= len(joined) // 4000  # where a read ended within a line
    stamped = await frames(api, container, timestamps="1", tail="3")
    assert [data[30:] for _, data in stamped] == [b" 29998\n", b" 29999\n", b" 30000\n"]


async def test_a_gap_is_told_on_standard_error(api: Any) -> None:
    container = await made(api, "seq 100000 199999")
    path = api.engine.core.paths.container(container.id) / "output"
    with path.open("r+b") as file:
        file.seek(BLOCK + 40)
        file.write(b"\0" * 8)
    told = [data for stream, data in await frames(api, container) if stream == 2]
    assert len(told) == 1
    assert told[0].startswith(b"[output is missing here")


async def test_a_terminal_s_output_is_raw(api: Any) -> None:
    container = await made(api, "printf 'a\\nb\\nc'", tty=True)
    where = f"{V}/containers/{container.id}/logs?stdout=1&stderr=1"
    async with await api.client.request("GET", where) as reply:
        assert reply.headers["content-type"] == "application/vnd.docker.raw-stream"
        assert await reply.read() == b"a\r\nb\r\nc"
    async with await api.client.request("GET", f"{where}&timestamps=1&tail=2") as reply:
        lines = (await reply.read()).split(b"\n")
    assert [line[30:] for line in lines] == [b" b\r", b" c"]


@pytest.mark.long
async def test_the_stock_client_reads_rotated_logs_with_every_option(api: Any) -> None:
    script = (
        "i=1000; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done; sleep 1.1;"
        "while [ $i -lt 3500 ]; do echo $i; i=$((i+1)); done; sleep 1.1; echo last >&2"
    )
    await made(api, script, name="it", log_size=4000, log_files=5)
    everything = (await api.docker("logs", "it")).out.split()
    assert len(everything) > 1000
    assert everything == [str(number) for number in range(3500 - len(everything), 3500)]
    assert (await api.docker("logs", "it")).err == "last\n"
    tail = await api.docker("logs", "--tail", "700", "it")
    assert (tail.out.split(), tail.err) == (everything[-699:], "last\n")
    stamped = (await api.docker("logs", "-t", "it")).out.splitlines()
    assert [line.split()[1] for line in stamped] == everything
    times = {int(line.split()[1]): line.split()[0] for line in stamped}
    since = await api.docker("logs", "--since", times[3000], "it")
    assert (since.out.split()[0], since.out.split()[-1], since.err) == ("3000", "3499", "last\n")
    until = await api.docker("logs", "--until", times[2999], "it")
    assert (until.out.split()[-1], until.err) == ("2999", "")
    both = await api.docker("logs", "--since", times[3000], "--tail", "10", "it")
    assert both.out.split() == [str(number) for number in range(3491, 3500)]
    few = await api.docker("logs", "--since", times[3000], "--tail", "100000", "it")
    assert few.out == since.out
    middle = await api.docker("logs", "--until", times[2999], "--tail", "5", "it")
    assert middle.out.split() == [str(number) for number in range(2995, 3000)]
    assert (await api.docker("logs", "--tail", "0", "it")).out == ""
    seconds = datetime.fromisoformat(times[3000][:19]).replace(tzinfo=UTC).timestamp()
    assert (await api.docker("logs", "--since", str(int(seconds)), "it")).out.split()[-1] == "3499"


async def test_the_stock_client_follows_through_rotations(api: Any) -> None:
    script = (
        "i=10000; while [ $i -lt 20000 ]; do n=0;"
        "while [ $n -lt 50 ]; do echo $i; i=$((i+1)); n=$((n+1)); done; usleep 4000; done"
    )
    container = await made(api, script, name="it", wait=False, log_size=500, log_files=60)
    said = await api.docker("logs", "-f", "it")
    assert said.out.split() == [str(number) for number in range(10_000, 20_000)]
    assert await container.wait() == 0
    own = api.engine.core.paths.container(container.id)
    assert len([path for path in own.iterdir() if path.name.startswith("output")]) == 60


async def test_following_from_the_end_gives_what_comes(api: Any) -> None:
    container = await made(
        api, "seq 1 500; sleep 1; seq 501 1000", name="it", wait=False, log_size=700, log_files=9
    )
    with trio.fail_after(10), container.logs(follow=True) as reader:
        async for piece in reader:
            if piece.data == b"500\n":
                break
    said = await api.docker("logs", "-f", "--tail", "1", "it")
    assert said.out.split() == [str(number) for number in range(500, 1001)]
    _, shown = await api.ask("GET", f"{V}/containers/{container.id}/json")
    assert json.dumps(shown["LogPath"]).endswith('output"')
