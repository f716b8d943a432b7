"""``lading save`` and ``lading load``: images as files."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, BinaryIO

import click

from lading.engine.cli.client import CLIENT, Place, run_with_engine, target
from lading.engine.cli.complete import complete_image
from lading.engine.cli.images import file_chunks, quoted
from lading.engine.cli.layers import follow, showing_layers
from lading.engine.cli.outfile import refuse_terminal, save_body

if TYPE_CHECKING:
    from lading.engine.http.client import Client

__all__ = ["COMMANDS"]


@click.command(
    epilog="\b\nExamples:\n  lading save -o web.tar web:1 db:2\n  lading save --format oci web:1 | tar x -C layout"
)
@click.option("-o", "--output", default="-", metavar="FILE", help="Where to; - is standard output, the default.")
@click.option(
    "--format", "form", type=click.Choice(("docker", "oci")), default="docker", show_default=True,
    help="For docker load, or an OCI image layout.",
)  # fmt: skip
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...", shell_complete=complete_image)
@click.pass_obj
def save(place: Place, names: tuple[str, ...], output: str, form: str) -> int:
    """Write images, whole, as one tar archive.

    The layers in it are, byte for byte, those that came. FILE gets its name when it is whole.
    """
    refuse_terminal(output)

    async def work(client: Client) -> int:
        where = target("images", "get", format=form) + "".join(f"&{quoted('names', name)}" for name in names)
        async with await client.request("GET", where, headers=CLIENT) as reply:
            await save_body(reply, output)
        return 0

    return run_with_engine(place, work)


@click.command(epilog="\b\nExamples:\n  lading load -i web.tar\n  docker save web:1 | lading load")
@click.option("-i", "--input", "source", default="-", metavar="FILE", help="What to read; - is standard input.")
@click.option("-q", "--quiet", is_flag=True, help="Without progress.")
@click.pass_obj
def load(place: Place, source: str, quiet: bool) -> int:
    """Take in images from an archive.

    An archive that docker save or lading save wrote, or an OCI image layout as a tar archive; also compressed.
    """
    if source == "-" and sys.stdin.isatty():
        raise click.UsageError("There is an archive to be read, and standard input is a terminal: use -i FILE.")
    file: BinaryIO = sys.stdin.buffer if source == "-" else open(source, "rb", buffering=0)  # noqa: SIM115

    async def work(client: Client) -> int:
        silent = quiet or not sys.stdout.isatty()
        kind = CLIENT | {"Content-Type": "application/x-tar"}
        where = target("images", "load", quiet=int(silent))
        async with await client.request("POST", where, headers=kind, body=file_chunks(file)) as reply:
            with showing_layers("auto") as show:
                await follow(reply, show)
        return 0

    try:
        return run_with_engine(place, work)
    finally:
        if source != "-":
            file.close()


COMMANDS = (save, load)
