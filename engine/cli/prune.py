"""``lading prune``, and ``prune`` of containers, images and volumes alone: removing what nothing uses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from lading.engine.cli.client import CLIENT, Place, run_with_engine, target
from lading.engine.cli.tables import size

if TYPE_CHECKING:
    from lading.engine.http.client import Client

__all__ = ["COMMANDS", "confirm", "prune_containers", "prune_images", "prune_volumes"]

_FILTERS = ("until", "label", "label!")


def _filters(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> dict[str, list[str]]:
    """``NAME=VALUE`` each; ``label!=KEY`` has its mark on the left, as docker writes it."""
    found: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in _FILTERS or not equals or not value:
            raise click.BadParameter(f"{word!r} is no filter: give until=TIME, label=KEY or label!=KEY.")
        found.setdefault(name, []).append(value)
    return found


def _choice(command: Any) -> Any:
    for option in (
        click.option("--filter", "filters", multiple=True, metavar="NAME=VALUE", callback=_filters,
                     help="Only those before until=10m, or with label=KEY[=VALUE]; label!= for without."),
        click.option("-f", "--force", is_flag=True, help="Without asking."),
        click.option("--dry-run", is_flag=True, help="Only show what would go."),
    ):  # fmt: skip
        command = option(command)
    return command


def _options(command: Any) -> Any:
    option = click.option("-a", "--all", "every", is_flag=True, help="Also images that have a name.")
    return option(_choice(command))


@click.command(epilog="\b\nExamples:\n  lading prune --dry-run\n  lading prune -af --filter until=24h")
@_options
@click.option("--volumes", is_flag=True, help="Also volumes that nobody named and no container mounts.")
@click.pass_obj
def prune(
    place: Place, every: bool, dry_run: bool, force: bool, filters: dict[str, list[str]], volumes: bool
) -> int:
    """Remove stopped containers and images that nothing uses.

    Without -a, of images only those without a name.
    """
    if volumes and "until" in filters:
        raise click.UsageError('The "until" filter is not supported with "--volumes".')
    images = "all images without at least one container" if every else "all images without a name"
    more = ("all anonymous volumes not used by at least one container",) if volumes else ()
    confirm(("all stopped containers", *more, images), force or dry_run)

    async def work(client: Client) -> int:
        containers = await _ask(client, "containers", filters, dry_run)
        _list("Containers", containers["ContainersDeleted"] or (), dry_run)
        freed: int = containers["SpaceReclaimed"]
        if volumes:
            freed += await _volumes(client, filters, dry_run, stopped=True)
        freed += await _images(client, every, filters, dry_run, stopped=True)
        _total(freed, dry_run)
        return 0

    return run_with_engine(place, work)


@click.command("prune", epilog="\b\nExamples:\n  lading image prune --dry-run\n  lading image prune -af")
@_options
@click.pass_obj
def prune_images(place: Place, every: bool, dry_run: bool, force: bool, filters: dict[str, list[str]]) -> int:
    """Remove images that nothing uses.

    Without -a only those without a name.
    """
    what = "all images without at least one container" if every else "all images without a name"
    confirm((what,), force or dry_run)

    async def work(client: Client) -> int:
        _total(await _images(client, every, filters, dry_run), dry_run)
        return 0

    return run_with_engine(place, work)


@click.command("prune", epilog="\b\nExamples:\n  lading container prune --dry-run\n  lading container prune -f")
@_choice
@click.pass_obj
def prune_containers(place: Place, dry_run: bool, force: bool, filters: dict[str, list[str]]) -> int:
    """Remove stopped containers."""
    confirm(("all stopped containers",), force or dry_run)

    async def work(client: Client) -> int:
        answer = await _ask(client, "containers", filters, dry_run)
        _list("Containers", answer["ContainersDeleted"] or (), dry_run)
        _total(answer["SpaceReclaimed"], dry_run)
        return 0

    return run_with_engine(place, work)


async def _images(
    client: Client, every: bool, filters: Mapping[str, Sequence[str]], dry_run: bool, *, stopped: bool = False
) -> int:
    asked = {**filters, "dangling": ["false" if every else "true"]}
    answer = await _ask(client, "images", asked, dry_run, stopped)
    gone = answer["ImagesDeleted"] or ()
    _list("Images", [f"{word.lower()}: {name}" for each in gone for word, name in each.items()], dry_run)
    freed: int = answer["SpaceReclaimed"]
    return freed


async def prune_volumes(client: Client, every: bool, filters: Mapping[str, Sequence[str]], dry_run: bool) -> int:
    """Remove the volumes that no container mounts, ``every`` one or those that nobody named, and tell which."""
    asked = {**filters, "all": ["true"]} if every else filters
    _total(await _volumes(client, asked, dry_run), dry_run)
    return 0


async def _volumes(
    client: Client, filters: Mapping[str, Sequence[str]], dry_run: bool, *, stopped: bool = False
) -> int:
    answer = await _ask(client, "volumes", filters, dry_run, stopped)
    _list("Volumes", answer["VolumesDeleted"] or (), dry_run)
    freed: int = answer["SpaceReclaimed"]
    return freed


async def _ask(
    client: Client, what: str, filters: Mapping[str, Sequence[str]], dry_run: bool, stopped: bool = False
) -> dict[str, Any]:
    dry = {"dry_run": 1, "stopped": int(stopped)} if dry_run else {}
    where = target(what, "prune", filters=json.dumps(filters), **dry)
    async with await client.request("POST", where, headers=CLIENT) as reply:
        await reply.check()
        answer: dict[str, Any] = await reply.json()
        return answer


def _list(what: str, lines: Sequence[str], dry_run: bool) -> None:
    if lines:
        print(f"{'Would delete' if dry_run else 'Deleted'} {what}:", *lines, "", sep="\n")


def _total(freed: int, dry_run: bool) -> None:
    print(f"{'Would reclaim' if dry_run else 'Total reclaimed space:'} {size(freed)}")


def confirm(what: Sequence[str], agreed: bool, ask: Callable[..., bool] = click.confirm) -> None:
    """Ask whether ``what`` may go, unless that was ``agreed``. Raises ``click.Abort``, ``click.UsageError``."""
    if agreed:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("Standard input is no terminal to be asked on: use --force, or --dry-run first.")
    lines = "".join(f"\n  - {each}" for each in what)
    if not ask(f"WARNING! This will remove:{lines}\nAre you sure you want to continue?", err=True):
        raise click.Abort


COMMANDS = (prune,)
