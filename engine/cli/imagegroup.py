"""``lading image``: the commands for images under one word, as docker has them, and those that are only there."""

from __future__ import annotations

from functools import partial

import click

from lading.engine.cli import archives, images, transfers
from lading.engine.cli.client import Place, at_option, run_with_engine
from lading.engine.cli.complete import complete_image
from lading.engine.cli.containers import inspect_named
from lading.engine.cli.prune import prune_images

__all__ = ["COMMANDS"]


@click.group(epilog="\b\nExamples:\n  lading image ls\n  lading image prune -a --dry-run")
def image() -> None:
    """Manage images.

    The same commands as without the word, and `inspect` and `prune` for images alone.
    """


@click.command(epilog="\b\nExample:\n  lading image inspect busybox:1")
@at_option
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...", shell_complete=complete_image)
@click.pass_obj
def inspect(place: Place, names: tuple[str, ...], at: str | None) -> int:
    """Show all about images, as JSON."""
    return run_with_engine(place, partial(inspect_named, names=names, kind="image", at=at))


image.add_command(inspect)
image.add_command(prune_images, "prune")
image.add_command(images.images, "ls")
image.add_command(images.rmi, "rm")
for _command in (images.import_image, images.tag, images.history, *transfers.COMMANDS, *archives.COMMANDS):
    image.add_command(_command)

COMMANDS = (image,)
