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
    every: bool = False,
    platform: str | None = None,
    style: Style = "auto",
    out: TextIO | None = None,
) -> None:
    """Have the engine pull ``reference``, or ``every`` tag of its repository, and show how far it is.

    Raises ``HttpError`` if it can't be had, and ``Invalid`` for what is no name.
    """
    from lading.events.reference import parse_reference

    parsed = parse_reference(reference)
    tag = None if every else parsed.digest or parsed.tag
    where = target("images", "create", fromImage=parsed.repository, tag=tag, platform=platform)
    headers = await registry_headers(reference)
    async with await client.request("POST", where, headers=headers) as reply:
        with showing_layers(style, out) as show:
            await follow(reply, show)


@click.command(
    epilog="\b\nExamples:\n  lading pull busybox\n  lading pull --platform linux/arm64 registry.example/team/web:2"
)
@click.option("--platform", metavar="OS[/ARCH[/VARIANT]]", help="Of several, this one.  [this machine's]")
@click.option("-a", "--all-tags", is_flag=True, help="Every tag of the repository.")
@progress_options
@click.argument("name", metavar="NAME[:TAG|@DIGEST]")
@click.pass_obj
def pull(place: Place, name: str, platform: str | None, all_tags: bool, style: Style) -> int:
    """Get an image from its registry.

    Prints the image's full name at the end. What is here already is not fetched again. Interrupted, it leaves
    nothing behind.
    """

    async def work(client: Client) -> int:
        from lading.events.reference import parse_reference

        reference = parse_reference(name)
        named = reference.digest is not None or ":" in name.rpartition("/")[2]
        if all_tags and named:
            raise click.UsageError("A tag can't be used with --all-tags.")
        if style == "auto" and not named and not all_tags:
            print("Using default tag: latest")
        await pull_image(client, reference.familiar, every=all_tags, platform=platform, style=style)
        if style != "json":
            print(f"{reference.domain}/{reference.path}" if all_tags else reference.full)
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
