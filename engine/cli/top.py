"""``lading top``: the processes of a container."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lading.engine.cli.client import Place, get_json, run_with_engine
from lading.engine.cli.complete import complete_container
from lading.engine.cli.tables import draw

if TYPE_CHECKING:
    from lading.engine.http.client import Client

__all__ = ["COMMANDS"]


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="\b\nExamples:\n  lading top web\n  lading top web -o pid,comm",
)
@click.argument("container", shell_complete=complete_container)
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[PS OPTIONS]")
@click.pass_obj
def top(place: Place, container: str, options: tuple[str, ...]) -> int:
    """Show the processes of a container.

    Their numbers are those that they have on this machine. What comes after CONTAINER is for ps(1).
    """

    async def work(client: Client) -> int:
        found = await get_json(client, "containers", container, "top", ps_args=" ".join(options) or None)
        draw(found["Titles"], found["Processes"])
        return 0

    return run_with_engine(place, work)


COMMANDS = (top,)
