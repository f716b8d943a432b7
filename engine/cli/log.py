"""``lading log``: the history, read from the store itself, whether an engine owns it or not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from lading.engine.cli.client import Place
from lading.engine.cli.complete import complete_container

if TYPE_CHECKING:
    from lading.events.envelope import Record
    from lading.storage.log import Log

__all__ = ["COMMANDS"]

_PAGE = 1000


@click.command(
    epilog=(
        "\b\nExamples:\n  lading log -n 20\n  lading log web --utc\n  lading log --json --after 1200 | jq -r .type"
    )
)
@click.option(
    "--after", type=click.IntRange(min=0), default=0, metavar="POSITION", help="Only what came after it."
)
@click.option("-n", "--last", type=click.IntRange(min=0), metavar="N", help="Only the last N of them.")
@click.option("--utc", is_flag=True, help="The time itself instead of how long ago.")
@click.option("--json", "as_json", is_flag=True, help="One object a line, with every field.")
@click.argument("container", required=False, shell_complete=complete_container)
@click.pass_obj
def log(place: Place, container: str | None, after: int, last: int | None, utc: bool, as_json: bool) -> int:
    """Show what happened, when, and who asked for it.

    CONTAINER, which may be removed already, is an id, a name or the beginning of an id. Of a name that several
    had, the one that has it counts, or the last that had it.
    """
    from pathlib import Path

    from lading.engine.cli.events import COLUMNS, Words, as_dict
    from lading.engine.cli.tables import draw
    from lading.storage.store import read_log

    history = read_log(Path(place.root))
    try:
        records: Iterable[Record] = (
            _whole(history, after, last) if container is None else _of_container(history, container, after, last)
        )
        if as_json:
            for record in records:
                print(json.dumps(as_dict(record), ensure_ascii=False))
        else:
            words = Words(history, utc)
            draw(COLUMNS, (words.row(record) for record in records))
    finally:
        history.close()
    return 0


def _whole(history: Log, after: int, last: int | None) -> Iterator[Record]:
    """The records after ``after``, at most the ``last``; up to what is there now, however fast it grows."""
    end = history.head()
    if last is not None:
        after = max(after, end - last)
    while after < end:
        page = history.read(after, min(_PAGE, end - after))
        if not page:
            return
        yield from page
        after = page[-1].position


def _of_container(history: Log, container: str, after: int, last: int | None) -> Sequence[Record]:
    from lading.events.ids import container_stream

    stream = container_stream(_resolve(history, container))
    records: list[Record] = []
    version = 0
    while page := history.read_stream(stream, version, _PAGE):
        records.extend(record for record in page if record.position > after)
        version = page[-1].version
    return records if last is None else records[max(0, len(records) - last) :]


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

    ids: list[str] = []
    named: dict[str, None] = {}
    for record in _whole(history, 0, None):
        event = record.event
        if isinstance(event, Created):
            if reference and event.container.startswith(reference):
                ids.append(event.container)
            if event.name == reference:
                named[event.container] = None
        elif isinstance(event, Renamed) and event.new == reference:
            identifier = record.stream.partition("/")[2]
            named.pop(identifier, None)
            named[identifier] = None
    return ids, list(named)


COMMANDS: Iterable[click.Command] = (log,)
