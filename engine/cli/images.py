"""The commands for images."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from lading.engine.cli.client import CLIENT, Place, at_option, get_at, run_with_engine, target
from lading.engine.cli.tables import ago, draw, short_id, size

if TYPE_CHECKING:
    from lading.engine.http.client import Client

__all__ = ["COMMANDS"]

_CHUNK = 1 << 18
_NONE = "<none>"


@click.command(epilog="\b\nExample:\n  lading images\n  lading images --at 2026-01-31")
@click.option("-q", "--quiet", is_flag=True, help="Only the ids.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@click.option("--format", "form", type=click.Choice(("table", "json")), default="table", help="One JSON a line.")
@at_option
@click.pass_obj
def images(place: Place, quiet: bool, no_trunc: bool, form: str, at: str | None) -> int:
    """List images, the newest first.

    An image has a line for each of its names.
    """

    async def work(client: Client) -> int:
        found, now = await get_at(client, "images", "json", at=at)
        if quiet:
            for image in found:
                print(image["Id"] if no_trunc else short_id(image["Id"]))
            return 0
        rows = [row for image in found for row in _rows(image, no_trunc, now)]
        if form == "json":
            for row in rows:
                print(json.dumps(row, ensure_ascii=False))
        else:
            fields = ("Repository", "Tag", "ID", "CreatedSince", "Size")
            names = ("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE")
            draw(names, ([row[field] for field in fields] for row in rows))
        return 0

    return run_with_engine(place, work)


def _rows(image: dict[str, Any], no_trunc: bool, now: float) -> list[dict[str, str]]:
    """One entry of the API's list with the names and forms that `docker images --format json` has."""
    from datetime import UTC, datetime

    rows = []
    for tag in image.get("RepoTags") or [f"{_NONE}:{_NONE}"]:
        repository, _, name = tag.rpartition(":")
        rows.append(
            {
                "Repository": repository,
                "Tag": name,
                "ID": image["Id"] if no_trunc else short_id(image["Id"]),
                "CreatedAt": datetime.fromtimestamp(image["Created"], UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC"),
                "CreatedSince": ago(now - image["Created"]),
                "Size": size(image["Size"]),
            }
        )
    return rows


@click.command(
    "import",
    epilog=(
        "\b\nExamples:\n"
        "  lading import rootfs.tar.gz busybox:1 -c 'CMD [\"sh\"]' -c 'ENV LANG=C.UTF-8'\n"
        "  tar c -C rootfs . | lading import - busybox:1"
    ),
)
@click.option(
    "-c", "--change", "changes", multiple=True, metavar="INSTRUCTION", help="As in a Dockerfile: CMD, ENV, ..."
)
@click.option("-m", "--message", metavar="TEXT", help="A comment to keep with the image.")
@click.argument("file", type=click.Path(allow_dash=True, dir_okay=False))
@click.argument("name", metavar="[NAME[:TAG]]", required=False)
@click.pass_obj
def import_image(place: Place, file: str, name: str | None, changes: tuple[str, ...], message: str | None) -> int:
    """Make an image of a root file system.

    FILE is a tar archive, plain or gzip, or - for standard input. Prints the image's id.
    """
    if file == "-" and sys.stdin.isatty():
        raise click.UsageError("There is an archive to be read, and standard input is a terminal.")
    # Opened before an engine is started for it: a wrong path is told at once.
    source: BinaryIO = sys.stdin.buffer if file == "-" else open(file, "rb", buffering=0)  # noqa: SIM115

    async def work(client: Client) -> int:
        from lading.engine.http.message import HttpError

        where = target("images", "create", fromSrc="-", repo=name, message=message)
        where += "".join(f"&{_quoted('changes', change)}" for change in changes)
        kind = CLIENT | {"Content-Type": "application/x-tar"}
        async with await client.request("POST", where, headers=kind, body=_chunks(source)) as reply:
            await reply.check()
            identifier = ""
            async for line in _lines(reply.stream()):
                progress = json.loads(line)
                if error := progress.get("error"):
                    raise HttpError(500, str(error))
                identifier = progress.get("status", identifier)
        print(identifier)
        return 0

    try:
        return run_with_engine(place, work)
    finally:
        if file != "-":
            source.close()


def _quoted(name: str, value: str) -> str:
    from urllib.parse import urlencode

    return urlencode({name: value})


async def _chunks(source: BinaryIO) -> AsyncIterator[bytes]:
    import trio

    descriptor = source.fileno()
    while data := await trio.to_thread.run_sync(os.read, descriptor, _CHUNK, abandon_on_cancel=True):
        yield data


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines that the API's progress messages are."""
    left = b""
    async for chunk in chunks:
        *lines, left = (left + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
    if left.strip():
        yield left


COMMANDS = (images, import_image)
