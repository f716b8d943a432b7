"""``lading log``: the history, read from the store itself, whether an engine owns it or not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from lading.engine.cli.choosing import choosing, words_of
from lading.engine.cli.client import Place
from lading.engine.cli.complete import complete_container

if TYPE_CHECKING:
    from lading.events.envelope import Record
    from lading.events.moments import Moment
    from lading.events.selection import Selection
    from lading.storage.log import Log

__all__ = ["COMMANDS", "json_line"]


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  lading log -n 20\n"
        "  lading log web --since '2h ago' --type container.exited\n"
        "  lading log --command 019b2d4f1d9c02ab\n"
        "  lading log --json --after 1200 | jq -r .type"
    )
)
@choosing
@click.option(
    "--after", type=click.IntRange(min=0), default=0, metavar="POSITION", help="Only what came after it."
)
@click.option("-n", "--last", type=click.IntRange(min=0), metavar="N", help="Only the last N of them.")
@click.option("--reverse", is_flag=True, help="The last one first.")
@click.option("--utc", is_flag=True, help="The time itself instead of how long ago.")
@click.option("--json", "as_json", is_flag=True, help="One object a line, with every field.")
@click.option("--no-pager", is_flag=True, help="Don't page on a terminal.")
@click.argument("container", required=False, shell_complete=complete_container)
@click.pass_obj
def log(
    place: Place, /, container: str | None, commands: bool, as_json: bool, utc: bool, no_pager: bool, **chosen: Any
) -> int:
    """Show what happened, when, and who asked for it.

    CONTAINER, which may be removed already, is an id, a name or the beginning of an id. Of a name that several
    had, the one that has it counts, or the last that had it.

    WHEN is a position of the log (1200 or @1200), a date with a time or without (UTC unless it names an offset),
    seconds since 1970, or a span: 90s, 1h30m ago, 3 days ago, yesterday.
    """
    from pathlib import Path

    from lading.engine.cli.events import DIM, TONED, Words, tone
    from lading.engine.cli.rows import Rows, has_colour, paged
    from lading.events.described import as_dict
    from lading.events.ids import container_stream
    from lading.events.selection import select
    from lading.storage.store import read_log

    words = words_of(chosen)
    history = read_log(Path(place.root))
    try:
        if container is not None:
            words["streams"] = [*words.get("streams", ()), container_stream(_resolve(history, container))]
        records = _chosen(history, select(**words), **chosen)
        with paged(not (as_json or no_pager)) as out:
            if as_json:
                for record in records:
                    out.write(json_line(as_dict(record)))
            else:
                shown = Words(history, utc, commands)
                rows = Rows(out, shown.columns, colour=has_colour(), dim=DIM, toned=TONED)
                rows.write_all((shown.row(record), tone(record.event)) for record in records)
    finally:
        history.close()
    return 0


def _chosen(
    history: Log,
    selection: Selection,
    *,
    after: int,
    since: Moment | None,
    until: Moment | None,
    last: int | None,
    reverse: bool,
) -> Iterable[Record]:
    """What was asked for, up to what is there now, however fast it grows."""
    from lading.storage.scan import scan
    from lading.storage.window import last_until, start_since

    begin = after if since is None else max(after, start_since(history, since))
    end = history.head() if until is None else min(history.head(), last_until(history, until))
    if last is None:
        return scan(history, selection, begin, end, backwards=reverse)
    newest = islice(scan(history, selection, begin, end, backwards=True), last)
    return newest if reverse else reversed(list(newest))


def json_line(shown: dict[str, Any]) -> str:
    """``shown`` as one line: escaped for a terminal, or for an output that hasn't every letter."""
    plain = not sys.stdout.isatty() and (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return json.dumps(shown, ensure_ascii=not plain) + "\n"


def _resolve(history: Log, reference: str) -> str:
    """The id of the container called ``reference``, now or ever. Raises ``NotFound`` or ``Ambiguous``."""
    from lading.events.claims import container_name
    from lading.events.errors import Ambiguous, NotFound
    from lading.events.ids import container_stream
    from lading.events.views import CLAIMS

    if len(reference) == 64 and history.read_stream(container_stream(reference), 0, 1):
        return reference
    named = None
    if reference.isascii() and 0 < len(reference) <= 256:
        named = history.get(CLAIMS, container_name(reference).key)
    if named is not None:
        return named.holder.partition("/")[2]
    ids, named_so = _everyone(history, reference)
    if named_so:
        if len(named_so) > 1:
            from lading.engine.cli.client import say_error

            others = ", ".join(identifier[:12] for identifier in named_so[:-1][-4:])
            say_error(f"note: {len(named_so)} containers were called {reference}; this is the last, not {others}")
        return named_so[-1]
    if len(ids) > 1:
        raise Ambiguous("container", reference, tuple(ids))
    if not ids:
        raise NotFound("container", reference)
    return ids[0]


def _everyone(history: Log, reference: str) -> tuple[list[str], list[str]]:
    """The ids that begin with ``reference``, and those that ever had it as their name, the last one last."""
    from lading.events.container import Created, Renamed
    from lading.events.views import CONTAINERS

    # Of one that still is there, the beginning may have been compacted away.
    ids = dict.fromkeys(key for key, _ in history.scan(CONTAINERS, reference)) if reference else {}
    named: dict[str, None] = {}
    for record in _names(history):
        event = record.event
        if isinstance(event, Created):
            if reference and event.container.startswith(reference):
                ids[event.container] = None
            if event.name == reference:
                named[event.container] = None
        elif isinstance(event, Renamed) and event.new == reference:
            identifier = record.stream.partition("/")[2]
            named.pop(identifier, None)
            named[identifier] = None
    return list(ids), list(named)


def _names(history: Log) -> Iterator[Record]:
    from lading.events.selection import select
    from lading.storage.scan import scan

    named = select(types=["container.created", "container.renamed"])
    return scan(history, named, 0, history.head())


COMMANDS: Iterable[click.Command] = (log,)
