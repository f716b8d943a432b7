"""``lading commit`` and ``lading fork``: an image, or more containers, of what a container is now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from lading.engine.cli.client import CLIENT, Place, run_with_engine, target
from lading.engine.cli.complete import complete_container
from lading.engine.cli.images import quoted

if TYPE_CHECKING:
    from lading.engine.http.client import Client

__all__ = ["COMMANDS"]


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  lading commit web web:patched\n"
        "  lading commit -m 'with tools' -c 'CMD [\"sh\"]' -c 'ENV DEBUG=1' web tools:1"
    )
)
@click.option("-a", "--author", default="", metavar="WHO", help="Who made it.")
@click.option("-m", "--message", default="", metavar="TEXT", help="What it is.")
@click.option("-c", "--change", "changes", multiple=True, metavar="LINE", help="A Dockerfile instruction; repeat.")
@click.option(
    "-p/-P", "--pause/--no-pause", default=True, show_default=True, help="Hold it still while it is copied."
)
@click.argument("container", shell_complete=complete_container)
@click.argument("name", metavar="[NAME[:TAG]]", required=False)
@click.pass_obj
def commit(
    place: Place,
    container: str,
    name: str | None,
    author: str,
    message: str,
    changes: tuple[str, ...],
    pause: bool,
) -> int:
    """Make an image of what a container is now.

    Of a container that does not run nothing is copied, however much it wrote. Volumes are no part of it.
    """

    async def work(client: Client) -> int:
        where = target("commit", container=container, repo=name, author=author, comment=message, pause=int(pause))
        where += "".join(f"&{quoted('changes', change)}" for change in changes)
        async with await client.request("POST", where, headers=CLIENT) as reply:
            await reply.check()
            print((await reply.json())["Id"])
        return 0

    return run_with_engine(place, work)


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  lading fork web\n"
        "  lading fork -n 10 --name try --start web\n"
        "  lading fork --start web sh -c 'make test'"
    )
)
@click.option("-n", "--count", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many.")
@click.option("--name", "prefix", metavar="PREFIX", help="They are PREFIX-1, PREFIX-2 ... (one: PREFIX).")
@click.option("-s", "--start", is_flag=True, help="Start them, too.")
@click.argument("container", shell_complete=complete_container)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND...]")
@click.pass_obj
def fork(
    place: Place, container: str, command: tuple[str, ...], count: int, prefix: str | None, start: bool
) -> int:
    """Make containers that go on from another one's files.

    Each has what CONTAINER wrote so far, and is set up like it; COMMAND replaces its command. Of a container that
    does not run nothing is copied, however much it wrote.
    """

    async def work(client: Client) -> int:
        asked: dict[str, object] = {"Count": count, "Start": start}
        if prefix is not None:
            asked["Names"] = [prefix] if count == 1 else [f"{prefix}-{number}" for number in range(1, count + 1)]
        if command:
            asked["Cmd"] = list(command)
        where = target("lading", "containers", container, "fork")
        headers = CLIENT | {"Content-Type": "application/json"}
        body = json.dumps(asked).encode()
        async with await client.request("POST", where, headers=headers, body=body) as reply:
            await reply.check()
            for made in (await reply.json())["Containers"]:
                print(made["Name"])
        return 0

    return run_with_engine(place, work)


fork.context_settings["ignore_unknown_options"] = True
fork.allow_interspersed_args = False

COMMANDS = (commit, fork)
