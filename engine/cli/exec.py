"""``lading exec`` and ``lading attach``: a command in a running container, and its own one, on this terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lading.engine.cli.client import Place, message_of, run_with_engine, say_error
from lading.engine.cli.complete import complete_container
from lading.engine.cli.runflags import environment

if TYPE_CHECKING:
    from lading.engine.http.client import Client

__all__ = ["COMMANDS"]

_keys_option = click.option(
    "--detach-keys", default="ctrl-p,ctrl-q", show_default=True, metavar="KEYS", help="What leaves it running."
)


@click.command(
    name="exec",
    context_settings={"allow_interspersed_args": False},
    epilog=(
        "\b\nExamples:\n"
        "  lading exec web ls /\n"
        "  lading exec -it web sh\n"
        "  tar c . | lading exec -i -w /srv web tar x"
    ),
)
@click.option("-d", "--detach", is_flag=True, help="Start it and leave it running; its output is dropped.")
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on to it.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Name or number to run as.")
@click.option("-w", "--workdir", default="", metavar="DIR", help="The directory in the container to run in.")
@click.option(
    "-e",
    "--env",
    multiple=True,
    metavar="NAME[=VALUE]",
    callback=environment,
    help="Set a variable; without a value, to the one it has here.",
)
@click.option("--privileged", is_flag=True, help="Give it every capability.")
@_keys_option
@click.argument("container", shell_complete=complete_container)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def exec_command(
    place: Place,
    /,
    container: str,
    command: tuple[str, ...],
    detach: bool,
    interactive: bool,
    tty: bool,
    user: str,
    workdir: str,
    env: tuple[str, ...],
    privileged: bool,
    detach_keys: str,
) -> int:
    """Run a command in a container that runs.

    The exit code is the command's own, 127 if it isn't there, 126 if it can't be executed, and 1 if it could not
    be asked for. If the client is ended, the command goes on.
    """
    from lading.engine.cli.sessions import run_exec
    from lading.engine.cli.terminal import parse_keys

    request: dict[str, Any] = {
        "Cmd": list(command),
        "Env": list(env),
        "User": user,
        "WorkingDir": workdir,
        "Tty": tty,
        "Privileged": privileged,
        "AttachStdin": interactive and not detach,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
    }
    keys = parse_keys(detach_keys)

    async def work(client: Client) -> int:
        return await run_exec(client, container, request, detach=detach, keys=keys)

    return _run(place, work)


@click.command(epilog="\b\nExample:\n  lading attach web")
@click.option("--no-stdin", is_flag=True, help="Don't pass standard input on.")
@_keys_option
@click.argument("container", shell_complete=complete_container)
@click.pass_obj
def attach(place: Place, container: str, no_stdin: bool, detach_keys: str) -> int:
    """See what a container prints, and pass standard input on.

    Ends with the container, and with its exit code.
    """
    from lading.engine.cli.sessions import run_attach
    from lading.engine.cli.terminal import parse_keys

    keys = parse_keys(detach_keys)

    async def work(client: Client) -> int:
        return await run_attach(client, container, stdin=not no_stdin, keys=keys)

    return _run(place, work)


def _run(place: Place, work: Any) -> int:
    from lading.engine.http.message import HttpError

    try:
        return run_with_engine(place, work)
    except HttpError as error:
        say_error(message_of(error))
        return 1


COMMANDS = (exec_command, attach)
