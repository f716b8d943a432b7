"""The commands for images."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from lading.engine.cli.client import (
    CLIENT,
    Place,
    at_option,
    get_at,
    get_json,
    post,
    run_with_engine,
    say_error,
    target,
)
from lading.engine.cli.complete import complete_image
from lading.engine.cli.layers import json_lines
from lading.engine.cli.tables import ago, draw, short_id, size

if TYPE_CHECKING:
    from lading.engine.http.client import Client

__all__ = ["COMMANDS", "file_chunks", "history", "images", "import_image", "quoted", "rmi", "tag"]

_CHUNK = 1 << 18
_NONE = "<none>"
_COLUMNS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "Size": "SIZE",
}
"""What the list shows of the fields that docker's JSON has."""
_STEP_WIDTH = 45
_LONG_AGO = 946_684_800
"""Seconds: what was made before 2000 was made to be reproducible, and has no time (docker/cli)."""


@click.command(epilog="\b\nExample:\n  lading images\n  lading images --at 2026-01-31")
@click.option("-q", "--quiet", is_flag=True, help="Only the ids.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@click.option("--digests", is_flag=True, help="What the registries call them, too.")
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="NAME=VALUE",
    help="Only some: reference, label, dangling, before, since, until.",
)
@click.option("--format", "form", type=click.Choice(("table", "json")), default="table", help="One JSON a line.")
@at_option
@click.argument("name", required=False, metavar="[NAME]", shell_complete=complete_image)
@click.pass_obj
def images(
    place: Place,
    name: str | None,
    quiet: bool,
    no_trunc: bool,
    digests: bool,
    filters: tuple[str, ...],
    form: str,
    at: str | None,
) -> int:
    """List images, the newest first.

    An image has a line for each of its names. NAME may be a pattern: 'team/*:1'.
    """
    chosen = [*filters, *([f"reference={name}"] if name else [])]
    for word in chosen:
        if not all(word.partition("=")):
            raise click.UsageError(f"{word!r} is no filter: give NAME=VALUE.")
    wanted: dict[str, list[str]] = {}
    for key, _, value in (word.partition("=") for word in chosen):
        wanted.setdefault(key, []).append(value)

    async def work(client: Client) -> int:
        asked = json.dumps(wanted) if wanted else None
        found, now = await get_at(client, "images", "json", at=at, filters=asked)
        if quiet:
            for image in found:
                print(image["Id"] if no_trunc else short_id(image["Id"]))
            return 0
        rows = [row for image in found for row in _rows(image, no_trunc, now)]
        if form == "json":
            for row in rows:
                print(json.dumps(row, ensure_ascii=False))
        else:
            shown = [name for name in _COLUMNS if digests or name != "Digest"]
            draw([_COLUMNS[name] for name in shown], ([row[name] for name in shown] for row in rows))
        return 0

    return run_with_engine(place, work)


def _rows(image: dict[str, Any], no_trunc: bool, now: float) -> list[dict[str, str]]:
    """One entry of the API's list with the names and forms that `docker images --format json` has."""
    from datetime import UTC, datetime

    digests: dict[str, str] = {}
    for name in image.get("RepoDigests") or ():
        repository, _, digest = name.partition("@")
        digests.setdefault(repository, digest)
    names = [tag.rpartition(":")[::2] for tag in image.get("RepoTags") or ()]
    names += [(repository, _NONE) for repository in digests if repository not in {name for name, _ in names}]
    return [
        {
            "Repository": repository,
            "Tag": tag,
            "Digest": digests.get(repository, _NONE),
            "ID": image["Id"] if no_trunc else short_id(image["Id"]),
            "CreatedAt": datetime.fromtimestamp(image["Created"], UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC"),
            "CreatedSince": ago(now - image["Created"]),
            "Size": size(image["Size"]),
        }
        for repository, tag in names or [(_NONE, _NONE)]
    ]


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
        where += "".join(f"&{quoted('changes', change)}" for change in changes)
        kind = CLIENT | {"Content-Type": "application/x-tar"}
        async with await client.request("POST", where, headers=kind, body=file_chunks(source)) as reply:
            await reply.check()
            identifier = ""
            async for progress in json_lines(reply.stream()):
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


def quoted(name: str, value: str) -> str:
    """One more parameter for a target: there may be several of one name."""
    from urllib.parse import urlencode

    return urlencode({name: value})


async def file_chunks(source: BinaryIO) -> AsyncIterator[bytes]:
    """A file's or a pipe's bytes as they come, read in a thread."""
    import trio

    descriptor = source.fileno()
    while data := await trio.to_thread.run_sync(os.read, descriptor, _CHUNK, abandon_on_cancel=True):
        yield data


# -- names and history ----------------------------------------------------------------------------------


@click.command(epilog="\b\nExample:\n  lading tag web:1 registry.example/team/web:1")
@click.argument("image", shell_complete=complete_image)
@click.argument("name", metavar="NAME[:TAG]", shell_complete=complete_image)
@click.pass_obj
def tag(place: Place, image: str, name: str) -> int:
    """Give an image one more name.

    A name that points at another image points at this one from now on.
    """

    async def work(client: Client) -> int:
        from lading.events.reference import parse_reference

        new = parse_reference(name)
        whole = new.familiar if new.digest is not None else new.repository  # which the engine refuses in its words
        await post(client, "images", image, "tag", repo=whole, tag=None if new.digest is not None else new.tag)
        return 0

    return run_with_engine(place, work)


@click.command(epilog="\b\nExamples:\n  lading rmi web:1\n  lading rmi -f $(lading images -q)")
@click.option("-f", "--force", is_flag=True, help="Also if it has several names, or stopped containers use it.")
@click.option("--no-prune", is_flag=True, help="As docker has it; an image here has no parents to keep.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", shell_complete=complete_image)
@click.pass_obj
def rmi(place: Place, images: tuple[str, ...], force: bool, no_prune: bool) -> int:
    """Remove images, or names of images.

    A name is taken from its image; the image goes with its last one, and with it the layers that nothing else
    uses. With --force an image that isn't there is no error.
    """

    async def work(client: Client) -> int:
        from lading.engine.http.message import HttpError

        failed = 0
        for image in images:
            where = target("images", image, force=int(force), noprune=int(no_prune))
            try:
                async with await client.request("DELETE", where, headers=CLIENT) as reply:
                    await reply.check()
                    for gone in await reply.json():
                        for word, name in gone.items():
                            print(f"{word}: {name}", flush=True)
            except HttpError as error:
                say_error(error.message)
                failed = failed if force and error.status == 404 else 1
        return failed

    return run_with_engine(place, work)


@click.command(epilog="\b\nExamples:\n  lading history web:1\n  lading history --no-trunc --format json web:1")
@click.option("-q", "--quiet", is_flag=True, help="Only the ids.")
@click.option("--no-trunc", is_flag=True, help="Whole ids and commands.")
@click.option("--format", "form", type=click.Choice(("table", "json")), default="table", help="One JSON a line.")
@click.argument("image", shell_complete=complete_image)
@click.pass_obj
def history(place: Place, image: str, quiet: bool, no_trunc: bool, form: str) -> int:
    """Show how an image was made, the last step first.

    What happened to it here is in `lading log`.
    """

    async def work(client: Client) -> int:
        import time

        rows = [_step(step, no_trunc, time.time()) for step in await get_json(client, "images", image, "history")]
        if quiet:
            for row in rows:
                print(row["ID"])
        elif form == "json":
            for row in rows:
                print(json.dumps(row, ensure_ascii=False))
        else:
            fields = ("ID", "CreatedSince", "CreatedBy", "Size", "Comment")
            draw(
                ("IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"),
                ([row[name] for name in fields] for row in rows),
            )
        return 0

    return run_with_engine(place, work)


def _step(step: dict[str, Any], no_trunc: bool, now: float) -> dict[str, str]:
    """One step with the names and forms that `docker history --format json` has."""
    from datetime import UTC, datetime

    made = step["CreatedBy"].replace("\t", " ")
    if not no_trunc and len(made) > _STEP_WIDTH:
        made = made[: _STEP_WIDTH - 1] + "…"
    identifier = step["Id"]
    return {
        "ID": identifier if no_trunc else short_id(identifier),
        "CreatedAt": datetime.fromtimestamp(step["Created"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "CreatedSince": ago(now - step["Created"]) if step["Created"] > _LONG_AGO else "N/A",
        "CreatedBy": made,
        "Size": size(step["Size"]),
        "Comment": step["Comment"],
    }


COMMANDS = (images, import_image, tag, rmi, history)
