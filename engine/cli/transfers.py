"""``lading pull`` and ``lading push``."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

import click

from lading.engine.cli.client import Place, run_with_engine, target
from lading.engine.cli.complete import complete_image
from lading.engine.cli.layers import Style, follow, progress_options, showing_layers
from lading.engine.cli.login import registry_headers

if TYPE_CHECKING:
    from lading.engine.http.client import Client

__all__ = ["COMMANDS", "pull_image"]


async def pull_image(
    client: Client,
    reference: str,
    *,
    platform: str | None = None,
    style: Style = "auto",
    out: TextIO | None = None,
) -> None:
    """Have the engine pull ``reference``, and show how far it is.

    Raises ``HttpError`` if it can't be had, and ``Invalid`` for what is no name.
    """
    from lading.events.reference import parse_reference

    parsed = parse_reference(reference)
    where = target(
        "images", "create", fromImage=parsed.repository, tag=parsed.digest or parsed.tag, platform=platform
    )
    headers = await registry_headers(reference)
    async with await client.request("POST", where, headers=headers) as reply:
        with showing_layers(style, out) as show:
            await follow(reply, show)


@click.command(
    epilog="\b\nExamples:\n  lading pull busybox\n  lading pull --platform linux/arm64 registry.example/team/web:2"
)
@click.option("--platform", metavar="OS[/ARCH[/VARIANT]]", help="Of several, this one.  [this machine's]")
@click.option("-a", "--all-tags", is_flag=True, hidden=True, help="Not in this release.")
@progress_options
@click.argument("name", metavar="NAME[:TAG|@DIGEST]")
@click.pass_obj
def pull(place: Place, name: str, platform: str | None, all_tags: bool, style: Style) -> int:
    """Get an image from its registry.

    Prints the image's full name at the end. What is here already is not fetched again. Interrupted, it leaves
    nothing behind.
    """
    if all_tags:
        raise click.UsageError("Pulling every tag of a repository is not in this release: name the ones you want.")

    async def work(client: Client) -> int:
        from lading.events.reference import parse_reference

        reference = parse_reference(name)
        if style == "auto" and reference.tag == "latest" and ":" not in name.rpartition("/")[2]:
            print("Using default tag: latest")
        await pull_image(client, reference.familiar, platform=platform, style=style)
        if style != "json":
            print(reference.full)
        return 0

    return run_with_engine(place, work)


@click.command(
    epilog="\b\nExamples:\n  lading push registry.example/team/web:2\n  lading push -a registry.example/team/web"
)
@click.option("-a", "--all-tags", is_flag=True, help="Every tag of the repository.")
@progress_options
@click.argument("name", metavar="NAME[:TAG]", shell_complete=complete_image)
@click.pass_obj
def push(place: Place, name: str, all_tags: bool, style: Style) -> int:
    """Send an image to its registry.

    What the registry has already is not sent again.
    """

    async def work(client: Client) -> int:
        from lading.events.reference import parse_reference

        reference = parse_reference(name)
        tagged = ":" in name.rpartition("/")[2]
        if reference.digest is not None or (all_tags and tagged):
            raise click.UsageError(
                "A tag can't be used with --all-tags." if all_tags else "Push a tag, not a digest."
            )
        if style == "auto" and not all_tags and not tagged:
            print("Using default tag: latest")
        where = target("images", reference.repository, "push", tag=None if all_tags else reference.tag)
        headers = await registry_headers(name)
        async with await client.request("POST", where, headers=headers) as reply:
            with showing_layers(style) as show:
                pushed = await follow(reply, show)
        if style == "quiet":
            for each in pushed:
                print(f"{reference.domain}/{reference.path}:{each['Tag']}")
        return 0

    return run_with_engine(place, work)


COMMANDS = (pull, push)
