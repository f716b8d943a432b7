"""The commands for containers that exist."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from lading.engine.cli.client import (
    CLIENT,
    Place,
    at_option,
    each,
    get_at,
    post,
    run_with_engine,
    say_error,
    target,
)
from lading.engine.cli.complete import complete_container
from lading.engine.cli.logs import logs
from lading.engine.cli.tables import ago, draw, short_id

if TYPE_CHECKING:
    from lading.engine.http.client import Client

__all__ = ["COMMANDS", "inspect_named"]

_COMMAND_WIDTH = 20

_containers = click.argument(
    "containers", nargs=-1, required=True, metavar="CONTAINER...", shell_complete=complete_container
)


def _example(*lines: str) -> str:
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


# -- ps -------------------------------------------------------------------------------------------------


def _filters(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> dict[str, list[str]]:
    """``NAME=VALUE`` each; the engine knows which there are."""
    found: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{word!r} is no filter: give NAME=VALUE, such as health=unhealthy.")
        found.setdefault(name, []).append(value)
    return found


@click.command(
    epilog=_example(
        "lading ps -a",
        "lading ps --filter health=unhealthy --filter label=app=shop",
        "lading rm -f $(lading ps -aq)",
        "lading ps --at '2h ago'",
    )
)
@click.option("-a", "--all", "every", is_flag=True, help="Also those that don't run.")
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_filters,
    help="Only those with a status, health, name, id, label, ancestor, volume, network or exited.",
)
@click.option(
    "-n", "--last", type=int, default=0, metavar="NUMBER", help="Only so many, the newest, running or not."
)
@click.option("-q", "--quiet", is_flag=True, help="Only the ids.")
@click.option("--no-trunc", is_flag=True, help="Whole ids and commands.")
@click.option("--format", "form", type=click.Choice(("table", "json")), default="table", help="One JSON a line.")
@at_option
@click.pass_obj
def ps(
    place: Place,
    every: bool,
    filters: dict[str, list[str]],
    last: int,
    quiet: bool,
    no_trunc: bool,
    form: str,
    at: str | None,
) -> int:
    """List containers, the newest first."""

    async def work(client: Client) -> int:
        asked = {"filters": json.dumps(filters) if filters else None, "limit": last or None}
        found, now = await get_at(client, "containers", "json", at=at, all=int(every), **asked)
        if quiet:
            for one in found:
                print(one["Id"] if no_trunc else short_id(one["Id"]))
        elif form == "json":
            for one in found:
                print(json.dumps(_as_docker_prints(one, no_trunc, now), ensure_ascii=False))
        else:
            names = ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES")
            rows = (_as_docker_prints(one, no_trunc, now) for one in found)
            fields = ("ID", "Image", "Command", "RunningFor", "Status", "Names")
            draw(names, ([row[field] for field in fields] for row in rows))
        return 0

    return run_with_engine(place, work)


def _as_docker_prints(container: dict[str, Any], no_trunc: bool, now: float) -> dict[str, str]:
    """One entry of the API's list with the names and forms that `docker ps --format json` has."""
    from datetime import UTC, datetime

    command, image, created = container["Command"], container["Image"], container["Created"]
    if not no_trunc:
        command = command if len(command) <= _COMMAND_WIDTH else command[: _COMMAND_WIDTH - 1] + "…"
        image = short_id(image) if image.startswith("sha256:") else image
    return {
        "ID": container["Id"] if no_trunc else short_id(container["Id"]),
        "Names": ",".join(name.removeprefix("/") for name in container["Names"]),
        "Image": image,
        "Command": f'"{command}"',
        "CreatedAt": datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC"),
        "RunningFor": ago(now - created),
        "State": container["State"],
        "Status": container["Status"],
        "Networks": (container.get("HostConfig") or {}).get("NetworkMode", ""),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted((container.get("Labels") or {}).items())),
    }


# -- one change of one container, for each of those that are named --------------------------------------


@click.command(epilog=_example("lading start web"))
@_containers
@click.pass_obj
def start(place: Place, containers: tuple[str, ...]) -> int:
    """Run containers that have ended or never ran."""
    from lading.engine.http.message import HttpError

    async def one(client: Client, name: str) -> str:
        if await post(client, "containers", name, "start") == 304:
            raise HttpError(304, f"cannot start container {name}: it is already running")
        return name

    return run_with_engine(place, lambda client: each(client, containers, one))


@click.command(epilog=_example("lading stop web", "lading stop -t 2 -s SIGINT web db"))
@click.option(
    "-t", "--timeout", type=int, metavar="SECONDS", help="Until SIGKILL; negative: never.  [the container's]"
)
@click.option("-s", "--signal", metavar="SIGNAL", help="What to send first.  [the container's]")
@_containers
@click.pass_obj
def stop(place: Place, containers: tuple[str, ...], timeout: int | None, signal: str | None) -> int:
    """Stop containers: a signal first, SIGKILL after a while."""

    async def one(client: Client, name: str) -> str:
        await post(client, "containers", name, "stop", t=timeout, signal=signal)
        return name

    return run_with_engine(place, lambda client: each(client, containers, one, together=True))


@click.command(epilog=_example("lading kill web", "lading kill -s HUP web"))
@click.option("-s", "--signal", default="SIGKILL", show_default=True, metavar="SIGNAL", help="Name or number.")
@_containers
@click.pass_obj
def kill(place: Place, containers: tuple[str, ...], signal: str) -> int:
    """Send a signal to the first process of containers."""

    async def one(client: Client, name: str) -> str:
        await post(client, "containers", name, "kill", signal=signal)
        return name

    return run_with_engine(place, lambda client: each(client, containers, one))


@click.command(epilog=_example("lading rm web", "lading rm -f web db"))
@click.option("-f", "--force", is_flag=True, help="Kill it first if it runs.")
@click.option("-v", "--volumes", is_flag=True, help="And its volumes that nobody named, if no other mounts them.")
@_containers
@click.pass_obj
def rm(place: Place, containers: tuple[str, ...], force: bool, volumes: bool) -> int:
    """Remove containers with what they wrote.

    Their history stays in the log: see `lading log`.
    """

    async def one(client: Client, name: str) -> str:
        await post(client, "containers", name, method="DELETE", force=int(force), v=int(volumes))
        return name

    return run_with_engine(place, lambda client: each(client, containers, one))


@click.command(epilog=_example("lading wait web"))
@_containers
@click.pass_obj
def wait(place: Place, containers: tuple[str, ...]) -> int:
    """Wait for containers to end; print their exit codes."""
    from lading.engine.http.message import HttpError

    async def one(client: Client, name: str) -> str:
        async with await client.request("POST", target("containers", name, "wait"), headers=CLIENT) as reply:
            await reply.check()
            answer = await reply.json()
        if error := (answer.get("Error") or {}).get("Message"):
            raise HttpError(500, f"{name}: {error}")
        return str(answer["StatusCode"])

    return run_with_engine(place, lambda client: each(client, containers, one))


@click.command(epilog=_example("lading rename brisk_anchor web"))
@click.argument("container", shell_complete=complete_container)
@click.argument("name")
@click.pass_obj
def rename(place: Place, container: str, name: str) -> int:
    """Give a container another name."""

    async def work(client: Client) -> int:
        await post(client, "containers", container, "rename", name=name)
        return 0

    return run_with_engine(place, work)


# -- inspect --------------------------------------------------------------------------------------------


@click.command(epilog=_example("lading inspect web", "lading inspect --type image busybox:1"))
@at_option
@click.option("--type", "kind", type=click.Choice(("container", "image")), help="Look for this only.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_container)
@click.pass_obj
def inspect(place: Place, names: tuple[str, ...], kind: str | None, at: str | None) -> int:
    """Show all about containers and images, as JSON."""
    return run_with_engine(place, partial(inspect_named, names=names, kind=kind, at=at))


async def inspect_named(client: Client, names: tuple[str, ...], kind: str | None, at: str | None) -> int:
    """Print what the API has about each of ``names``, ``kind`` first or alone; 1 if one of them isn't there."""
    from lading.engine.http.message import HttpError

    found, failed = [], 0
    kinds = ("container", "image") if kind is None else (kind,)
    for name in names:
        for number, each_kind in enumerate(kinds):
            try:
                found.append((await get_at(client, f"{each_kind}s", name, "json", at=at))[0])
                break
            except HttpError as error:
                if error.status == 404 and number + 1 < len(kinds):
                    continue
                message = f"no such container or image: {name}" if len(kinds) > 1 else error.message
                say_error(message if error.status == 404 else error.message)
                failed = 1
                break
    print(json.dumps(found, indent=4, ensure_ascii=False))
    return failed


COMMANDS = (ps, start, stop, kill, rm, logs, wait, inspect, rename)
