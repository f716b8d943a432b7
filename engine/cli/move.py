"""``lading export`` and ``lading import-log``: the history as a file, and a store made of such files."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

import click

from lading.engine.cli.client import CLIENT, Place, run_with_engine, target
from lading.engine.cli.complete import complete_container
from lading.engine.cli.outfile import opened_output, refuse_terminal, save_body
from lading.engine.cli.progress import showing_progress

if TYPE_CHECKING:
    from lading.engine.http.client import Client
    from lading.storage.export import Header
    from lading.storage.log import Log

__all__ = ["COMMANDS"]

_PAGE = 1000


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  lading export --gzip -o history.jsonl.gz\n"
        "  lading export -o web.tar web\n"
        "  lading export --after 1200 | jq -r 'select(.type) | [.utc, .stream, .type] | @tsv'"
    )
)
@click.option("-o", "--output", default="-", metavar="FILE", help="Where to; - is standard output, the default.")
@click.option(
    "--after", type=click.IntRange(min=0), default=0, metavar="POSITION", help="Only what came after it."
)
@click.option("--until", type=click.IntRange(min=0), metavar="POSITION", help="Nothing after it.")
@click.option("--gzip", "compress", is_flag=True, help="Compressed.")
@click.argument("container", required=False, shell_complete=complete_container)
@click.pass_obj
def export(place: Place, container: str | None, output: str, after: int, until: int | None, compress: bool) -> int:
    """Write the history as lines of JSON, or a container as a tar.

    The lines are for other programs to read, and `lading import-log` makes exactly the same records of them again:
    every record, with its hash, between a header and a checksum. Works with or without an engine.

    Of a CONTAINER its whole file system is written, as a tar archive that `lading import` makes an image of. FILE
    gets its name when it is whole.
    """
    if container is not None:
        if after or until is not None or compress:
            raise click.UsageError("--after, --until and --gzip are about the history, not about a container.")
        return _export_container(place, container, output)
    from pathlib import Path

    from lading.storage.export import write_export
    from lading.storage.store import read_identity, read_log

    if output == "-" and compress and sys.stdout.isatty():
        raise click.UsageError("Compressed data is not for a terminal: use -o FILE.")
    root = Path(place.root)
    history = read_log(root)
    try:
        header, last = _part(history, read_identity(root), after, until)
        with opened_output(output) as out, showing_progress("exporting") as told:
            done = write_export(out, header, _pages(history, header.after, last, told), compress=compress)
    finally:
        history.close()
    if output != "-":
        print(f"{output}: {done.records} records up to position {done.position}, chain {done.chain.hex()}")
    return 0


def _export_container(place: Place, container: str, output: str) -> int:
    refuse_terminal(output)

    async def work(client: Client) -> int:
        where = target("containers", container, "export")
        async with await client.request("GET", where, headers=CLIENT) as reply:
            await save_body(reply, output)
        return 0

    return run_with_engine(place, work)


def _part(history: Log, store: str, after: int, until: int | None) -> tuple[Header, int]:
    """The header of the export of what comes after ``after``, and the last position that goes into it."""
    from lading.events.codec import GENESIS
    from lading.events.errors import Invalid
    from lading.storage.export import Header

    head = history.head()
    last = head if until is None else until
    if last > head:
        raise Invalid("--until", last, f"the log ends at position {head}")
    if after > last:
        raise Invalid("--after", after, f"that is past the last position to export, {last}")
    base = history.base
    if after <= base.position:  # what is before it is in archives
        return Header(store, base.position, base.chain), last
    page = history.read_raw(after - 1, 1)
    return Header(store, after, page[0][1][-len(GENESIS) :]), last


def _pages(
    history: Log, after: int, last: int, told: Callable[[int, int], None]
) -> Iterator[list[tuple[int, bytes]]]:
    position = after
    while position < last and (page := history.read_raw(position, min(_PAGE, last - position))):
        yield page
        position = page[-1][0]
        told(position - after, last - after)


@click.command(
    "import-log",
    epilog=(
        "\b\nExamples:\n"
        "  lading import-log history.jsonl.gz --root /srv/lading\n"
        "  lading import-log archive-1.gz archive-2.gz history.jsonl   # in order"
    ),
)
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(allow_dash=True, dir_okay=False), metavar="FILE..."
)
@click.pass_obj
def import_log(place: Place, files: tuple[str, ...]) -> int:
    """Make a store of exports of a history.

    FILE is what `lading export` or the archiving of old records wrote; several, in order, are one history from its
    first record on. There must be no store yet at the root. All is checked, and all or nothing is there after.
    Layers and containers' files are not in it: `lading backup` has those.
    """
    from pathlib import Path

    from lading.storage.importing import import_history

    total = _size(files)
    with showing_progress("importing") as told:
        done = import_history(Path(place.root), _sources(files, total, told))
    print(f"imported {done.position} records of store {done.store}")
    return 0


def _size(files: tuple[str, ...]) -> int:
    """The bytes there are to be read; 0 if somebody still writes them. Tells a wrong path at once."""
    return sum(os.stat(file).st_size for file in files if file != "-")


def _sources(
    files: tuple[str, ...], total: int, told: Callable[[int, int], None]
) -> Iterator[tuple[str, BinaryIO]]:
    from lading.events.errors import HostError

    done = 0
    for file in files:
        try:
            opened = contextlib.nullcontext(sys.stdin.buffer) if file == "-" else open(file, "rb")  # noqa: SIM115
        except OSError as error:
            raise HostError("read", file, error.errno or 0) from error
        with opened as source:
            counted = _Counted(source, done, total, told)
            yield file, cast("BinaryIO", counted)
        done = counted.done


class _Counted:
    """A file that tells how much of it, after ``before``, and of ``total`` bytes in all, was read."""

    def __init__(self, source: BinaryIO, before: int, total: int, told: Callable[[int, int], None]) -> None:
        self.done = before
        self._source, self._total, self._told = source, total, told

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self.done += len(data)
        self._told(self.done, self._total)
        return data


COMMANDS = (export, import_log)
