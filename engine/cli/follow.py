"""``lading events``: the log as it happens, over the engine's socket."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from lading.engine.cli.choosing import choosing, words_of
from lading.engine.cli.client import CLIENT, Place, answers, get_json, open_client, say_error, target
from lading.engine.cli.complete import complete_container
from lading.engine.cli.log import json_line
from lading.engine.cli.tables import short_id

if TYPE_CHECKING:
    from lading.engine.cli.events import Words
    from lading.engine.cli.rows import Rows
    from lading.engine.http.client import Client
    from lading.events.moments import Moment

__all__ = ["COMMANDS"]

_PATIENCE = 20.0
"""Seconds that the next engine is waited for when the one that was followed is gone."""
_INTERRUPTED = 130
_WIDTHS = (8, 24, 24, 18, 26)


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  lading events\n"
        "  lading events --since 1h --follow --filter type=container.exited\n"
        "  lading events --json --after 1200 --follow | jq -r .type"
    )
)
@choosing
@click.option(
    "--after", type=click.IntRange(min=0), metavar="POSITION", help="From there on: what to resume with."
)
@click.option(
    "-f", "--follow", is_flag=True, help="Go on after the past; that is so if no part of it is asked for."
)
@click.option("--json", "as_json", is_flag=True, help="One object a line, with every field.")
@click.argument("container", required=False, shell_complete=complete_container)
@click.pass_obj
def events(place: Place, /, container: str | None, commands: bool, as_json: bool, **chosen: Any) -> int:
    """Show what happens as it happens.

    It goes on over a restart of the engine, without a gap. If no engine comes back, it says where to go on.

    WHEN is a position of the log (1200 or @1200), a date with a time or without (UTC unless it names an offset),
    seconds since 1970, or a span: 90s, 1h30m ago, 3 days ago, yesterday.
    """
    import trio

    words = words_of(chosen)
    since, until, after = chosen["since"], chosen["until"], chosen["after"]
    if since is not None and after is not None:
        raise click.UsageError("give either --after or --since: both say where to begin.")
    query: dict[str, Any] = {**words, "after": after, "since": _instant(since), "until": _instant(until)}
    query["follow"] = int(chosen["follow"] or (since is None and until is None and after is None))
    if after is None and since is None and until is None:
        query["since"] = "now"
    from lading.engine.cli.events import DIM, TONED, Words
    from lading.engine.cli.rows import Rows, has_colour, hostile_proof

    shown = Words(None, True, commands)
    out = hostile_proof(sys.stdout)
    rows = Rows(out, shown.columns, colour=has_colour(), dim=DIM, toned=TONED, widths=_WIDTHS)
    try:
        return trio.run(_show, place, container, query, _Printer(shown, rows, as_json))
    except KeyboardInterrupt:  # how this ends when all is well: not even click's empty line
        return _INTERRUPTED


def _instant(moment: Moment | None) -> str | None:
    """``moment`` so that it means the same in a moment."""
    from lading.events.moments import Position

    if moment is None:
        return None
    if isinstance(moment, Position):
        return f"@{moment.position}"
    return f"{moment.time // 10**9}.{moment.time % 10**9:09}"


async def _show(place: Place, container: str | None, query: dict[str, Any], printer: _Printer) -> int:
    import trio

    from lading.engine.http.client import connect
    from lading.events.errors import HostError
    from lading.events.ids import container_stream

    async with open_client(place) as client:
        if container is not None:
            state = await get_json(client, "containers", container, "json")
            query["streams"] = [*query.get("streams", ()), container_stream(state["Id"])]
        over = await _until_it_breaks(client, query, printer)
    while not over:
        say_error(f"the engine is gone; waiting for the next one, to go on after position {printer.position}")
        deadline = trio.current_time() + _PATIENCE
        while not await answers(place.socket):
            if trio.current_time() > deadline:
                say_error(f"no engine came back; go on with --after {printer.position}")
                return 1
            await trio.sleep(0.1)
        try:
            async with connect(place.socket) as client:
                over = await _until_it_breaks(client, query, printer)
        except HostError:
            continue
    return 0


async def _until_it_breaks(client: Client, query: dict[str, Any], printer: _Printer) -> bool:
    """Print what comes; whether it came to its end."""
    from lading.events.errors import HostError

    if printer.position >= 0:
        query = {**query, "after": printer.position, "since": None}
    try:
        async with await client.request("GET", _target(query), headers=CLIENT) as reply:
            await reply.check()
            rest = b""
            async for chunk in reply.stream():
                *lines, rest = (rest + chunk).split(b"\n")
                await printer.show(client, [json.loads(line) for line in lines])
    except HostError:
        if not query.get("follow"):
            raise
        return False
    # An engine that closes ends what it was sending in good order.
    return not query.get("follow") or bool(query.get("until"))


def _target(query: dict[str, Any]) -> str:
    from urllib.parse import urlencode

    given = {key: value for key, value in query.items() if value not in (None, "", (), [])}
    return f"{target('lading', 'history')}?{urlencode(given, doseq=True)}"


class _Printer:
    """Prints lines of the API; ``position`` is the last one that it knows to be behind it."""

    def __init__(self, words: Words, rows: Rows, as_json: bool) -> None:
        self._words, self._rows, self._as_json = words, rows, as_json
        self.position = -1

    async def show(self, client: Client, lines: list[dict[str, Any]]) -> None:
        from lading.engine.cli.events import tone
        from lading.events.described import from_dict

        for line in lines:
            if "notice" not in line:
                if self._as_json:
                    sys.stdout.write(json_line(line))
                else:
                    record = from_dict(line)
                    if not self._words.knows(record):
                        names = await _names(client, record.stream)
                        self._words.learn(record.stream, names or [(0, short_id(record.stream.partition("/")[2]))])
                    self._rows.write([(self._words.row(record), tone(record.event))])
            self.position = line["position"]
        if not self._as_json:
            self._rows.write([])
        sys.stdout.flush()


async def _names(client: Client, stream: str) -> list[tuple[int, str]]:
    """What the container of ``stream`` was called, (version, name), as far as the log goes back."""
    from lading.events.described import from_dict
    from lading.storage.lookback import name_given

    where = _target({"streams": stream, "types": ["container.created", "container.renamed"]})
    async with await client.request("GET", where, headers=CLIENT) as reply:
        await reply.check()
        lines = (await reply.read()).split(b"\n")
    records = [from_dict(json.loads(line)) for line in lines if line]
    return [(record.version, name_given(record.event)) for record in records]


COMMANDS: Iterable[click.Command] = (events,)
