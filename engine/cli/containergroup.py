"""``lading container``: the commands for containers under one word, as docker has them, and ``prune``."""

from __future__ import annotations

import click

from lading.engine.cli import containers, lifecycle, run, stats, top
from lading.engine.cli.prune import prune_containers

__all__ = ["COMMANDS"]


@click.group(epilog="\b\nExamples:\n  lading container ls -a\n  lading container prune --dry-run")
def container() -> None:
    """Manage containers.

    The same commands as without the word, and `prune` for containers alone.
    """


container.add_command(prune_containers, "prune")
container.add_command(containers.ps, "ls")
for _command in (
    *run.COMMANDS,
    *(each for each in containers.COMMANDS if each is not containers.ps),
    *lifecycle.COMMANDS,
    *top.COMMANDS,
    *stats.COMMANDS,
):
    container.add_command(_command)

COMMANDS = (container,)
