"""``lading run`` and ``lading create``. What happens once the request is made is in ``cli_attach``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lading.engine.cli.client import Place, message_of, say_error
from lading.engine.cli.runflags import creating, make_request

if TYPE_CHECKING:
    from lading.engine.cli.attach import PullPolicy

__all__ = ["COMMANDS", "make_request"]

_ENGINE_FAILED = 125
_SETTINGS = {"allow_interspersed_args": False, "help_option_names": ["--help"]}  # -h is the host's name


@click.command(
    context_settings=_SETTINGS,
    epilog=(
        "\b\nExamples:\n"
        "  lading run --rm busybox:1 echo hello\n"
        "  lading run -d --name web -e PORT=80 -l app=shop busybox:1 httpd -f\n"
        "  lading run -d -m 512m --cpus 1.5 --restart on-failure:3 busybox:1 httpd -f\n"
        "  tar c . | lading run -i --rm busybox:1 tar t"
    ),
)
@click.option("-d", "--detach", is_flag=True, help="Print the id and leave it running.")
@click.option(
    "--detach-keys", default="ctrl-p,ctrl-q", metavar="KEYS", help="What leaves it running.  [ctrl-p,ctrl-q]"
)
@creating
def run(
    place: Place,
    /,
    image: str,
    command: tuple[str, ...],
    name: str | None,
    pulled: PullPolicy,
    platform: str | None,
    cidfile: str,
    detach_keys: str,
    **options: Any,
) -> int:
    """Run a command in a new container.

    An image that isn't here is pulled first. What comes after IMAGE belongs to the command. The exit code is the
    command's own, 127 if it isn't there, 126 if it can't be executed, and 125 if the engine failed.
    """
    request = make_request(image, command, **options)
    return _carry_out(place, name, request, options["detach"], pulled, platform, cidfile, detach_keys)


@click.command(
    context_settings=_SETTINGS,
    epilog="\b\nExample:\n  lading create --name web -m 512m busybox:1 httpd -f && lading start web",
)
@creating
def create(
    place: Place,
    /,
    image: str,
    command: tuple[str, ...],
    name: str | None,
    pulled: PullPolicy,
    platform: str | None,
    cidfile: str,
    **options: Any,
) -> int:
    """Make a container and don't start it; print its id."""
    request = make_request(image, command, **options)
    return _carry_out(place, name, request, False, pulled, platform, cidfile, None)


def _carry_out(
    place: Place,
    name: str | None,
    request: dict[str, Any],
    detach: bool,
    pull: PullPolicy,
    platform: str | None,
    cidfile: str,
    detach_keys: str | None,
) -> int:
    """Without ``detach_keys`` it is made and not started."""
    import trio

    from lading.engine.cli.attach import Run
    from lading.engine.cli.keyfile import IdFile
    from lading.engine.cli.terminal import parse_keys
    from lading.engine.http.message import HttpError
    from lading.events.errors import LadingError

    try:
        with IdFile(cidfile) as made:
            keys = parse_keys(detach_keys or "")
            if detach_keys is not None:
                _prepare_terminal(request)
            work = Run(place, name, request, detach, pull, platform, keys, made.write)
            return trio.run(work.main if detach_keys is not None else work.create)
    except FileExistsError:
        say_error(f"container ID file found, make sure the other container isn't running or delete {cidfile}")
    except (LadingError, HttpError) as error:
        say_error(message_of(error))
    return _ENGINE_FAILED if detach_keys is not None else 1


def _prepare_terminal(request: dict[str, Any]) -> None:
    """Tell the size of the user's terminal, which has to be one where it is to be the container's."""
    from lading.engine.cli.terminal import is_terminal, own_size
    from lading.events.errors import HostError

    if not request.get("Tty"):
        return
    if request["AttachStdin"] and not is_terminal():
        raise HostError("use a terminal:", "", 0, "standard input is none; leave out -t, or -i")
    size = own_size()
    if any(size):
        request["HostConfig"]["ConsoleSize"] = list(size)


COMMANDS = (run, create)
