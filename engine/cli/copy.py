"""``lading cp``: files between a container and here, by the rules of ``docker cp``."""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from lading.engine.cli.client import CLIENT, Place, run_with_engine, target
from lading.engine.cli.complete import complete_container

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lading.engine.http.client import Client, ClientResponse

__all__ = ["COMMANDS"]

_DIRECTORY = 1 << 31
_SYMLINK = 1 << 27
_SPECIAL = 1 << 26 | 1 << 25 | 1 << 24
_STAT = "X-Docker-Container-Path-Stat"
_PIECE = 1 << 18


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  lading cp web:/etc/nginx/nginx.conf .\n"
        "  lading cp site/. web:/srv/www\n"
        "  tar c site | lading cp - web:/srv"
    )
)
@click.option("-a", "--archive", is_flag=True, help="Keep owners.")
@click.option("-L", "--follow-link", is_flag=True, help="Copy what SRC leads to if it is a symlink.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing.")
@click.argument("source", metavar="SRC", shell_complete=complete_container)
@click.argument("destination", metavar="DST", shell_complete=complete_container)
@click.pass_obj
def cp(place: Place, source: str, destination: str, archive: bool, follow_link: bool, quiet: bool) -> int:
    """Copy files between a container and here.

    One of SRC and DST is CONTAINER:PATH, whether it runs or not; the other a path here, or - for a tar archive on
    standard input or output. A directory that ends in /. is copied without itself. The rest is as in cp -r.
    """
    (from_, path), (to, where) = _split(source), _split(destination)
    if from_ and to:
        raise click.UsageError("Copying between containers is not supported: copy here first.")
    if not from_ and not to:
        raise click.UsageError("One of SRC and DST must be CONTAINER:PATH.")
    if not path or not where:
        raise click.UsageError("A path is missing.")
    if from_ and where == "-" and sys.stdout.isatty():
        raise click.UsageError("An archive is not for a terminal: redirect standard output.")

    async def work(client: Client) -> int:
        if from_:
            size = await _out(client, from_, path, where, archive, follow_link)
            told = where
        else:
            size = await _in(client, to, where, path, archive, follow_link)
            told = f"{to}:{where}"
        if not quiet and where != "-":
            from lading.engine.cli.tables import one_line
            from lading.engine.cli.tables import size as shown

            print(f"Successfully copied {shown(size)} to {one_line(told)}", file=sys.stderr)
        return 0

    return run_with_engine(place, work)


def _split(argument: str) -> tuple[str, str]:
    """The container, empty for a path here, and the path."""
    if argument.startswith("/"):
        return "", argument
    container, colon, path = argument.partition(":")
    if not colon or container.startswith("."):
        return "", argument
    return container, path


async def _stat(client: Client, container: str, path: str) -> dict[str, Any] | None:
    """What is at ``path``, or None. Raises ``HttpError`` for anything but that it isn't there."""
    where = target("containers", container, "archive", path=path)
    async with await client.request("HEAD", where, headers=CLIENT) as reply:
        if reply.status == 404:
            return None
        await reply.check()
        return _told(reply)


def _told(reply: ClientResponse) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(reply.headers[_STAT]))
    return found


def _beside(path: str, link: str) -> str:
    """What the symlink ``path`` with the text ``link`` leads to."""
    return link if link.startswith("/") else os.path.join(os.path.dirname(os.path.normpath(path)), link)


# -- out ------------------------------------------------------------------------------------------------


async def _out(client: Client, container: str, path: str, where: str, owners: bool, follow: bool) -> int:
    from lading.engine.cli.localcopy import End, local_end, place, split_end

    asked = os.fsencode(path)
    name = split_end(asked)[1]
    if follow:
        told = await _stat(client, container, path)
        if told is not None and told["mode"] & _SYMLINK:
            path = _beside(path, told["linkTarget"])
    request = target("containers", container, "archive", path=path)
    async with await client.request("GET", request, headers=CLIENT) as reply:
        await reply.check()
        told = _told(reply)
        if where == "-":
            return await _to_stdout(reply)
        old = os.fsencode(told["name"])
        end = End(asked, True, bool(told["mode"] & _DIRECTORY))
        directory, new = place(end, local_end(os.fsencode(where)))
        if new is None and old != name and name not in (b".", b"/"):
            new = name
        return await _unpacked(reply, directory, old, new, owners)


async def _to_stdout(reply: ClientResponse) -> int:
    import trio

    size = 0
    async for chunk in reply.stream():
        await trio.to_thread.run_sync(sys.stdout.buffer.write, chunk)
        size += len(chunk)
    sys.stdout.buffer.flush()
    return size


async def _unpacked(reply: ClientResponse, directory: bytes, old: bytes, new: bytes | None, owners: bool) -> int:
    """Extract the reply's archive here, in a thread that reads it from a pipe."""
    import trio

    from lading.engine.cli.localcopy import unpack_local
    from lading.engine.nursery import open_bare_nursery

    read, write = os.pipe2(os.O_CLOEXEC)
    pipe = trio.lowlevel.FdStream(write)
    size = 0

    def extract() -> None:
        try:
            unpack_local(read, directory, old, new, owners=owners and os.geteuid() == 0)
        finally:
            os.close(read)

    async with open_bare_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, extract)
        async with pipe:
            async for chunk in reply.stream():
                try:
                    await pipe.send_all(chunk)
                except trio.BrokenResourceError:
                    break  # it has failed, and says why
                size += len(chunk)
    return size


# -- in -------------------------------------------------------------------------------------------------


async def _in(client: Client, container: str, where: str, path: str, owners: bool, follow: bool) -> int:
    from lading.engine.cli.images import file_chunks
    from lading.engine.cli.localcopy import End, pack_local, place
    from lading.engine.http.message import HttpError
    from lading.engine.stream import chunks

    found, told = where, await _stat(client, container, where)
    if told is not None and told["mode"] & _SYMLINK:
        found = _beside(where, told["linkTarget"])
        told = await _stat(client, container, found)
    if told is not None and told["mode"] & _SPECIAL:
        raise HttpError(400, f'destination "{container}:{where}" must be a directory or a regular file')
    end = End(os.fsencode(found), told is not None, told is not None and bool(told["mode"] & _DIRECTORY))
    if path == "-":
        if not end.directory:
            raise HttpError(400, f'destination "{container}:{where}" must be a directory')
        return await _put(client, container, found, file_chunks(sys.stdin.buffer), owners)
    source, name, tree = pack_local(os.fsencode(path), follow)
    directory, new = place(source, end)
    pieces = chunks(tree.pieces(name if new is None else new))
    return await _put(client, container, os.fsdecode(directory), pieces, owners)


async def _put(client: Client, container: str, directory: str, body: AsyncIterator[bytes], owners: bool) -> int:
    size = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal size
        async for piece in body:
            size += len(piece)
            yield piece

    where = target(
        "containers",
        container,
        "archive",
        path=directory,
        noOverwriteDirNonDir="true",
        copyUIDGID=str(owners).lower(),
    )
    headers = CLIENT | {"Content-Type": "application/x-tar"}
    async with await client.request("PUT", where, headers=headers, body=counted()) as reply:
        await reply.check()
    return size


COMMANDS = (cp,)
