"""``lading serve``: the engine in the foreground."""

from __future__ import annotations

import click

from lading.engine.cli.client import IN_USE, Place, answers, message_of, say_error
from lading.engine.cli.progress import showing_progress

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
@click.pass_obj
def serve(place: Place, idle: float | None) -> int:
    """Run the engine in the foreground.

    Serves the Docker API on the socket until SIGTERM; containers go on without it. Exits with 75 if another
    process owns the store.
    """
    import logging

    import trio

    from lading.events.errors import InUse

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        trio.run(_serve, place, idle)
    except InUse as error:
        say_error(message_of(error))
        return IN_USE
    return 0


async def _serve(place: Place, idle: float | None) -> None:
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
            await serve_engine(place.root, place.socket, idle, progress)
        nursery.cancel_scope.cancel()


COMMANDS = (serve,)
