"""``lading stats``: what containers use, as it goes on.

The numbers are worked out as docker's client does it: CPU in percent of one CPU, memory without the page cache
that the kernel would give back at once.

Source: docker/cli ``cli/command/container/stats_helpers.go`` and ``formatter_stats.go`` (v27).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import click

from lading.engine.cli.client import CLIENT, Place, get_json, run_with_engine, target
from lading.engine.cli.complete import complete_container
from lading.engine.cli.quantities import binary_size
from lading.engine.cli.tables import draw, one_line, short_id, size

if TYPE_CHECKING:
    from rich.table import Table

    from lading.engine.http.client import Client

__all__ = ["COMMANDS", "row_of"]

_COLUMNS: Final = {
    "ID": "CONTAINER ID",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}
_NOTHING: Final = "--"
_EVERY: Final = 0.5
_REFRESH: Final = 5.0


def row_of(sample: Mapping[str, Any], no_trunc: bool = False) -> dict[str, str]:
    """A sample of the API in the names and forms that `docker stats --format json` has; ``--`` for what isn't
    known."""
    memory, pids = _part(sample, "memory_stats"), _part(sample, "pids_stats")
    identifier = str(sample.get("id", ""))
    row = {
        "Container": identifier,
        "ID": identifier if no_trunc else short_id(identifier),
        "Name": str(sample.get("name", "")).removeprefix("/") or _NOTHING,
        **dict.fromkeys(("CPUPerc", "MemPerc", "NetIO", "BlockIO", "PIDs"), _NOTHING),
        "MemUsage": f"{_NOTHING} / {_NOTHING}",
    }
    if not memory and not pids:
        return row
    used, limit = _memory(memory), memory.get("limit") or 0
    received, sent = _network(sample)
    read, written = _disk(sample)
    return row | {
        "CPUPerc": f"{_cpu(sample):.2f}%",
        "MemUsage": f"{binary_size(used)} / {binary_size(limit)}",
        "MemPerc": f"{used / limit * 100 if limit else 0:.2f}%",
        "NetIO": f"{size(received)} / {size(sent)}",
        "BlockIO": f"{size(read)} / {size(written)}",
        "PIDs": str(pids.get("current") or 0),
    }


def _part(source: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = source.get(name)
    return found if isinstance(found, dict) else {}


def _cpu(sample: Mapping[str, Any]) -> float:
    now, before = _part(sample, "cpu_stats"), _part(sample, "precpu_stats")
    used = _total(now) - _total(before)
    passed = (now.get("system_cpu_usage") or 0) - (before.get("system_cpu_usage") or 0)
    count = now.get("online_cpus") or len(_part(now, "cpu_usage").get("percpu_usage") or ()) or 1
    return float(used / passed * count * 100) if used > 0 and passed > 0 else 0.0


def _total(cpu: Mapping[str, Any]) -> int:
    return int(_part(cpu, "cpu_usage").get("total_usage") or 0)


def _memory(memory: Mapping[str, Any]) -> int:
    """Without the inactive files, by version 1's name for them or version 2's."""
    used, details = int(memory.get("usage") or 0), _part(memory, "stats")
    cache = int(details.get("total_inactive_file") or details.get("inactive_file") or 0)
    return used - cache if cache < used else used


def _network(sample: Mapping[str, Any]) -> tuple[int, int]:
    found = _part(sample, "networks").values()
    return sum(each.get("rx_bytes", 0) for each in found), sum(each.get("tx_bytes", 0) for each in found)


def _disk(sample: Mapping[str, Any]) -> tuple[int, int]:
    entries = _part(sample, "blkio_stats").get("io_service_bytes_recursive") or ()
    sums = {"read": 0, "write": 0}
    for entry in entries:
        word = str(entry.get("op", "")).lower()
        if word in sums:
            sums[word] += entry.get("value", 0)
    return sums["read"], sums["write"]


@click.command(epilog="\b\nExamples:\n  lading stats\n  lading stats --no-stream --format json web db")
@click.option("-a", "--all", "every", is_flag=True, help="Also containers that don't run.")
@click.option("--no-stream", is_flag=True, help="Only once.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@click.option("--format", "form", type=click.Choice(("table", "json")), default="table", help="One JSON a line.")
@click.argument("containers", nargs=-1, metavar="[CONTAINER...]", shell_complete=complete_container)
@click.pass_obj
def stats(
    place: Place, containers: tuple[str, ...], every: bool, no_stream: bool, no_trunc: bool, form: str
) -> int:
    """Show what containers use, as it goes on.

    Without names, of all that run. Ctrl-C ends it.
    """

    async def work(client: Client) -> int:
        watch = _Watch(client, containers, every)
        show = _Show(no_trunc, form)
        if no_stream:
            show.once(await watch.once())
            return 0
        with show:
            await watch.go_on(show)
        return 0

    return run_with_engine(place, work)


class _Watch:
    """The samples of the containers that are asked for, or of all that run, the newest of each."""

    def __init__(self, client: Client, names: Sequence[str], every: bool) -> None:
        self._client, self._names, self._every = client, names, every
        self.samples: dict[str, Mapping[str, Any]] = {}
        self._going: set[str] = set()

    async def once(self) -> list[Mapping[str, Any]]:
        """One sample of each, in order. Raises ``HttpError`` for one that isn't there."""
        import trio

        from lading.engine.nursery import open_bare_nursery

        async def one(name: str) -> None:
            self.samples[name] = await get_json(self._client, "containers", name, "stats", stream=0)

        names = self._names or await self._listed()
        async with open_bare_nursery() as nursery:
            for name in names:
                nursery.start_soon(one, name)
        await trio.lowlevel.checkpoint()
        return [self.samples[name] for name in names]

    async def go_on(self, show: _Show) -> None:
        """Hand all of them to ``show`` again and again, until those that were named are gone."""
        import trio

        from lading.engine.nursery import open_bare_nursery

        async with open_bare_nursery() as nursery:
            for name in self._names:
                await nursery.start(self._follow, name)
            looked = trio.current_time() - _REFRESH
            while self._going or not self._names:
                if not self._names and trio.current_time() - looked >= _REFRESH:
                    looked = trio.current_time()
                    for name in await self._listed():
                        if name not in self._going:
                            await nursery.start(self._follow_listed, name)
                await trio.sleep(_EVERY)
                show.again(list(self.samples.values()))

    async def _follow_listed(self, name: str, *, task_status: Any) -> None:
        """As ``_follow``, of one that nobody named: it may be gone by now."""
        from lading.engine.http.message import HttpError

        try:
            await self._follow(name, task_status=task_status)
        except HttpError as error:
            if error.status != 404:
                raise
            task_status.started()

    async def _follow(self, name: str, *, task_status: Any) -> None:
        where = target("containers", name, "stats", stream=1)
        self._going.add(name)
        try:
            async with await self._client.request("GET", where, headers=CLIENT) as reply:
                await reply.check()
                task_status.started()
                left = b""
                async for data in reply.stream():
                    *lines, left = (left + data).split(b"\n")
                    if not lines:
                        continue
                    self.samples[name] = sample = json.loads(lines[-1])
                    if not self._names and not self._every and not _part(sample, "memory_stats"):
                        break  # it ended, and only what runs was asked for
        finally:
            self._going.discard(name)
            self.samples.pop(name, None)

    async def _listed(self) -> list[str]:
        found = await get_json(self._client, "containers", "json", all=int(self._every))
        return [one["Id"] for one in found]


class _Show:
    """Samples as a table that stays in its place on a terminal; elsewhere, and as JSON, line after line."""

    def __init__(self, no_trunc: bool, form: str) -> None:
        self._no_trunc, self._form = no_trunc, form
        self._live: Any = None

    def __enter__(self) -> _Show:
        if self._form == "table" and sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(self._table(()), auto_refresh=False)
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*error)

    def once(self, samples: Sequence[Mapping[str, Any]]) -> None:
        """Print them."""
        rows = [row_of(sample, self._no_trunc) for sample in samples]
        if self._form == "json":
            for row in rows:
                print(json.dumps(row, ensure_ascii=False), flush=True)
            return
        draw(list(_COLUMNS.values()), ([row[field] for field in _COLUMNS] for row in rows))
        with suppress(BrokenPipeError):
            sys.stdout.flush()

    def again(self, samples: Sequence[Mapping[str, Any]]) -> None:
        """Put them in the place of those before."""
        if self._live is None:
            self.once(samples)
            return
        self._live.update(self._table([row_of(sample, self._no_trunc) for sample in samples]), refresh=True)

    def _table(self, rows: Sequence[Mapping[str, str]]) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in _COLUMNS.values():
            table.add_column(column, no_wrap=True)
        for row in rows:
            table.add_row(*(Text(one_line(row[field])) for field in _COLUMNS))
        return table


COMMANDS = (stats,)
