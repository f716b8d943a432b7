"""``lading serve``: the engine in the foreground."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lading.engine.cli.client import IN_USE, Place, answers, message_of, say_error
from lading.engine.cli.progress import showing_progress

if TYPE_CHECKING:
    from lading.storage.plan import Limits

__all__ = ["COMMANDS"]


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  lading serve\n"
        "  lading serve --root /srv/lading --socket /run/lading.sock\n"
        "  docker -H unix:///var/lib/lading/lading.sock ps"
    )
)
@click.option(
    "--idle",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Leave after so long without a request; the default is to stay.",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="NAME=NUMBER",
    help="How much one layer may ask for: entries, stream_bytes, file_bytes, path_depth, expansion, ...",
)
@click.pass_obj
def serve(place: Place, idle: float | None, limits: tuple[str, ...]) -> int:
    """Run the engine in the foreground.

    Serves the Docker API on the socket until SIGTERM; containers go on without it. Exits with 75 if another
    process owns the store.
    """
    import logging

    import trio

    from lading.events.errors import InUse

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        trio.run(_serve, place, idle, _limits(limits))
    except InUse as error:
        say_error(message_of(error))
        return IN_USE
    return 0


def _limits(words: tuple[str, ...]) -> Limits:
    """The limits that ``words`` set, and the defaults of all others."""
    import attrs

    from lading.storage.plan import Limits

    names = [field.name for field in attrs.fields(Limits)]
    given: dict[str, int] = {}
    for word in words:
        name, _, number = word.partition("=")
        if name not in names:
            raise click.BadParameter(f"{name!r} is none of {', '.join(names)}", param_hint="--limit")
        if not (number.isascii() and number.isdigit() and int(number) > 0):
            raise click.BadParameter(f"{name} is a whole number above 0, not {number!r}", param_hint="--limit")
        given[name] = int(number)
    return Limits(**given)


async def _serve(place: Place, idle: float | None, limits: Limits) -> None:
    import trio

    from lading.engine.nursery import open_bare_nursery
    from lading.engine.serve import serve as serve_engine

    async def tell() -> None:
        while not await answers(place.socket):  # noqa: ASYNC110  # the engine has no event for it
            await trio.sleep(0.05)
        print(f"serving {place.root} at {place.socket}", flush=True)

    async with open_bare_nursery() as nursery:
        nursery.start_soon(tell)
        with showing_progress("making the views again", lines=True) as progress:
            await serve_engine(place.root, place.socket, idle, progress, limits)
        nursery.cancel_scope.cancel()


COMMANDS = (serve,)
