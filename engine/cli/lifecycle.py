"""``lading pause``, ``unpause``, ``restart`` and ``update``: changing how containers go on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from lading.engine.cli.client import CLIENT, Place, each, post, run_with_engine, say_error, target
from lading.engine.cli.complete import complete_container
from lading.engine.cli.limitflags import limit_request, updatable_options
from lading.engine.cli.quantities import RESTART

if TYPE_CHECKING:
    from lading.engine.http.client import Client

__all__ = ["COMMANDS"]

_containers = click.argument(
    "containers", nargs=-1, required=True, metavar="CONTAINER...", shell_complete=complete_container
)


@click.command(epilog="\b\nExample:\n  lading pause web")
@_containers
@click.pass_obj
def pause(place: Place, containers: tuple[str, ...]) -> int:
    """Freeze all processes of containers."""

    async def one(client: Client, name: str) -> str:
        await post(client, "containers", name, "pause")
        return name

    return run_with_engine(place, lambda client: each(client, containers, one))


@click.command(epilog="\b\nExample:\n  lading unpause web")
@_containers
@click.pass_obj
def unpause(place: Place, containers: tuple[str, ...]) -> int:
    """Let the processes of paused containers go on."""

    async def one(client: Client, name: str) -> str:
        await post(client, "containers", name, "unpause")
        return name

    return run_with_engine(place, lambda client: each(client, containers, one))


@click.command(epilog="\b\nExample:\n  lading restart -t 2 web db")
@click.option(
    "-t", "--timeout", type=int, metavar="SECONDS", help="Until SIGKILL; negative: never.  [the container's]"
)
@click.option("-s", "--signal", metavar="SIGNAL", help="What to send first.  [the container's]")
@_containers
@click.pass_obj
def restart(place: Place, containers: tuple[str, ...], timeout: int | None, signal: str | None) -> int:
    """Stop containers and run them again."""

    async def one(client: Client, name: str) -> str:
        await post(client, "containers", name, "restart", t=timeout, signal=signal)
        return name

    return run_with_engine(place, lambda client: each(client, containers, one, together=True))


@click.command(epilog="\b\nExamples:\n  lading update -m 1g --cpus 2 web\n  lading update --restart always web db")
@updatable_options
@click.option("--restart", type=RESTART, metavar="POLICY", help="no, on-failure[:MAX], always or unless-stopped.")
@_containers
@click.pass_obj
def update(place: Place, /, containers: tuple[str, ...], restart: dict[str, Any] | None, **limits: Any) -> int:
    """Change limits of containers, also while they run.

    What is not given stays as it is.
    """
    asked = limit_request(limits)
    if restart:
        asked["RestartPolicy"] = restart
    if not asked:
        raise click.UsageError("You must provide one or more options: there is nothing to change.")

    async def one(client: Client, name: str) -> str:
        body = json.dumps(asked).encode()
        kind = CLIENT | {"Content-Type": "application/json"}
        where = target("containers", name, "update")
        async with await client.request("POST", where, headers=kind, body=body) as reply:
            await reply.check()
            answer = await reply.json()
        for warning in answer.get("Warnings") or ():
            say_error(f"warning: {warning}")
        return name

    return run_with_engine(place, lambda client: each(client, containers, one))


COMMANDS = (pause, unpause, restart, update)
