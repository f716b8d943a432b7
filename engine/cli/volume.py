"""``lading volume``: storage that outlives containers."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
from lading.engine.cli.prune import confirm, prune_volumes
from lading.engine.cli.tables import draw

if TYPE_CHECKING:
    from lading.engine.http.client import Client

__all__ = ["COMMANDS"]

_FILTERS = ("name", "label", "dangling", "driver")


@click.group(epilog="\b\nExamples:\n  lading volume create data\n  lading volume ls")
def volume() -> None:
    """Manage volumes: directories that outlive containers."""


def _pairs(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def _filters(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> Mapping[str, Any]:
    found: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in _FILTERS or not equals:
            raise click.BadParameter(f"{word!r} is no filter: give NAME=VALUE, NAME one of {', '.join(_FILTERS)}.")
        found.setdefault(name, []).append(value)
    return found


@volume.command(
    epilog="\b\nExamples:\n  lading volume create data\n  lading volume create -o type=tmpfs -o device=tmpfs"
)
@click.option(
    "-l", "--label", "labels", multiple=True, metavar="KEY[=VALUE]", callback=_pairs, help="Set a label."
)
@click.option(
    "-o", "--opt", "options", multiple=True, metavar="KEY=VALUE", callback=_pairs, help="type=, device=, o=."
)
@click.option("-d", "--driver", default="local", show_default=True, metavar="NAME", help="There is one.")
@click.argument("name", required=False)
@click.pass_obj
def create(place: Place, name: str | None, labels: dict[str, str], options: dict[str, str], driver: str) -> int:
    """Make a volume, unless there is one of that name; print its name.

    With type=none, o=bind and device=/path it is that directory of the host; with type=tmpfs, memory that the
    containers which run with it share.
    """
    body = {"Name": name or "", "Labels": labels, "DriverOpts": options, "Driver": driver}

    async def work(client: Client) -> int:
        where = target("volumes", "create")
        headers = {**CLIENT, "Content-Type": "application/json"}
        async with await client.request("POST", where, headers=headers, body=json.dumps(body).encode()) as reply:
            await reply.check()
            print((await reply.json())["Name"])
        return 0

    return run_with_engine(place, work)


@volume.command("ls", epilog="\b\nExample:\n  lading volume ls --filter dangling=true")
@click.option("-q", "--quiet", is_flag=True, help="Only the names.")
@click.option("--filter", "filters", multiple=True, metavar="NAME=VALUE", callback=_filters,
              help="Only those with name=, label=, driver= or dangling=true.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(("table", "json")), default="table", help="One JSON a line.")
@at_option
@click.pass_obj
def ls(place: Place, quiet: bool, filters: Mapping[str, Any], form: str, at: str | None) -> int:
    """List volumes by name."""

    async def work(client: Client) -> int:
        found, _ = await get_at(client, "volumes", at=at, filters=json.dumps(filters) if filters else None)
        shown = found["Volumes"] or []
        if quiet:
            print(*(one["Name"] for one in shown), sep="\n", end="\n" if shown else "")
        elif form == "json":
            for one in shown:
                print(json.dumps(_as_docker_prints(one), ensure_ascii=False))
        else:
            draw(("DRIVER", "VOLUME NAME"), ([one["Driver"], one["Name"]] for one in shown))
        return 0

    return run_with_engine(place, work)


def _as_docker_prints(one: dict[str, Any]) -> dict[str, str]:
    labels = ",".join(f"{key}={value}" for key, value in sorted((one["Labels"] or {}).items()))
    return {name: one[name] for name in ("Driver", "Mountpoint", "Name", "Scope")} | {"Labels": labels}


@volume.command(epilog="\b\nExample:\n  lading volume inspect data")
@at_option
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...")
@click.pass_obj
def inspect(place: Place, names: tuple[str, ...], at: str | None) -> int:
    """Show all about volumes, as JSON."""
    from lading.engine.http.message import HttpError

    async def work(client: Client) -> int:
        found, failed = [], 0
        for name in names:
            try:
                found.append((await get_at(client, "volumes", name, at=at))[0])
            except HttpError as error:
                say_error(error.message)
                failed = 1
        print(json.dumps(found, indent=4, ensure_ascii=False))
        return failed

    return run_with_engine(place, work)


@volume.command("rm", epilog="\b\nExample:\n  lading volume rm data")
@click.option("-f", "--force", is_flag=True, help="Fine if there is no such volume.")
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...")
@click.pass_obj
def rm(place: Place, names: tuple[str, ...], force: bool) -> int:
    """Remove volumes with all that is in them.

    Not one that a container mounts, whether it runs or not.
    """

    async def one(client: Client, name: str) -> str:
        await post(client, "volumes", name, method="DELETE", force=int(force))
        return name

    return run_with_engine(place, lambda client: each(client, names, one))


def _prune_filters(
    _context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in ("label", "label!") or not equals or not value:
            raise click.BadParameter(f"{word!r} is no filter: give label=KEY[=VALUE], or label!= for without.")
        found.setdefault(name, []).append(value)
    return found


@volume.command("prune", epilog="\b\nExamples:\n  lading volume prune --dry-run\n  lading volume prune -af")
@click.option("-a", "--all", "every", is_flag=True, help="Also volumes that have a name.")
@click.option("--filter", "filters", multiple=True, metavar="NAME=VALUE", callback=_prune_filters,
              help="Only those with label=KEY[=VALUE]; label!= for without.")  # fmt: skip
@click.option("-f", "--force", is_flag=True, help="Without asking.")
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@click.pass_obj
def prune(place: Place, every: bool, filters: dict[str, list[str]], force: bool, dry_run: bool) -> int:
    """Remove volumes that no container mounts.

    Without -a only those that nobody named.
    """
    what = "all volumes not used by at least one container" if every else "anonymous volumes that nothing uses"
    confirm((what,), force or dry_run)
    return run_with_engine(place, lambda client: prune_volumes(client, every, filters, dry_run))


COMMANDS = (volume,)
