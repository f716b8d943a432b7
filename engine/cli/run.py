"""``lading run``: its options, and the request they make. What happens then is in ``cli_attach``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from lading.engine.cli.client import Place, message_of, say_error
from lading.engine.cli.complete import complete_image
from lading.engine.cli.mountflags import mount_options, mount_request

if TYPE_CHECKING:
    from lading.engine.cli.attach import PullPolicy

__all__ = ["COMMANDS", "environment", "make_request"]

_ENGINE_FAILED = 125


def environment(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    """What ``-e`` gives: ``K=V`` as it is; ``K`` with the caller's own value, and left out where there is none."""
    result = []
    for word in words:
        name, equals, _ = word.partition("=")
        if not name:
            raise click.BadParameter(f"{word!r} has no name.")
        if equals:
            result.append(word)
        elif name in os.environ:
            result.append(f"{name}={os.environ[name]}")
    return tuple(result)


def make_request(
    image: str,
    command: tuple[str, ...],
    *,
    interactive: bool = False,
    tty: bool = False,
    detach: bool = False,
    env: tuple[str, ...] = (),
    workdir: str | None = None,
    user: str | None = None,
    entrypoint: str | None = None,
    network: str = "host",
    label: tuple[str, ...] = (),
    hostname: str | None = None,
    read_only: bool = False,
    remove: bool = False,
    stop_signal: str | None = None,
    stop_timeout: int | None = None,
    volume: tuple[str, ...] = (),
    mount: tuple[dict[str, Any], ...] = (),
    tmpfs: tuple[str, ...] = (),
    volumes_from: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The body of ``POST /containers/create`` (Docker Engine API, ContainerCreate)."""
    body, host = mount_request(volume=volume, mount=mount, tmpfs=tmpfs, volumes_from=volumes_from)
    request: dict[str, Any] = {
        **body,
        "Image": image,
        "Env": list(env),
        "Labels": {key: value for key, _, value in (word.partition("=") for word in label)},
        "Tty": tty,
        "OpenStdin": interactive,
        "StdinOnce": interactive and not detach,
        "AttachStdin": interactive and not detach,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "HostConfig": {"NetworkMode": network, "AutoRemove": remove, "ReadonlyRootfs": read_only, **host},
    }
    optional = {
        "Cmd": list(command) or None,
        "Entrypoint": None if entrypoint is None else [entrypoint],
        "WorkingDir": workdir,
        "User": user,
        "Hostname": hostname,
        "StopSignal": stop_signal,
        "StopTimeout": stop_timeout,
    }
    return request | {key: value for key, value in optional.items() if value is not None}


@click.command(
    context_settings={"allow_interspersed_args": False},
    epilog=(
        "\b\nExamples:\n"
        "  lading run --rm busybox:1 echo hello\n"
        "  lading run -d --name web -e PORT=80 -l app=shop busybox:1 httpd -f\n"
        "  tar c . | lading run -i --rm busybox:1 tar t"
    ),
)
@click.option("-d", "--detach", is_flag=True, help="Print the id and leave it running.")
@click.option("--name", metavar="NAME", help="Its name; the default is a random one.")
@click.option(
    "-e",
    "--env",
    multiple=True,
    metavar="NAME[=VALUE]",
    callback=environment,
    help="Set a variable; without a value, to the one it has here.",
)
@click.option("-w", "--workdir", metavar="DIR", help="The directory in the container to run in.")
@click.option("--rm", "remove", is_flag=True, help="Remove the container when it ends.")
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on to the container.")
@click.option("-t", "--tty", is_flag=True, help="Give the container a terminal.")
@click.option(
    "--detach-keys", default="ctrl-p,ctrl-q", metavar="KEYS", help="What leaves it running.  [ctrl-p,ctrl-q]"
)
@click.option("-u", "--user", metavar="USER[:GROUP]", help="Name or number to run as.")
@click.option("--entrypoint", metavar="PROGRAM", help="Instead of the image's; empty for none.")
@click.option(
    "--network", type=click.Choice(("host", "none")), default="host", show_default=True, help="Its network."
)
@click.option("-l", "--label", multiple=True, metavar="KEY[=VALUE]", help="Set a label.")
@click.option("--hostname", metavar="NAME", help="Its host name.")
@click.option("--read-only", is_flag=True, help="Mount its root file system read-only.")
@mount_options
@click.option("--stop-signal", metavar="SIGNAL", help="What a stop sends.  [SIGTERM]")
@click.option("--stop-timeout", type=int, metavar="SECONDS", help="From a stop to SIGKILL; negative: never.  [10]")
@click.option(
    "--pull",
    "pulled",
    type=click.Choice(("always", "missing", "never")),
    default="missing",
    show_default=True,
    help="When to get the image from its registry.",
)
@click.option("--platform", metavar="OS[/ARCH[/VARIANT]]", help="Which one, where an image is for several.")
@click.argument("image", shell_complete=complete_image)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def run(
    place: Place,
    /,
    image: str,
    command: tuple[str, ...],
    name: str | None,
    pulled: PullPolicy,
    platform: str | None,
    detach_keys: str,
    **options: Any,
) -> int:
    """Run a command in a new container.

    An image that isn't here is pulled first. What comes after IMAGE belongs to the command. The exit code is the
    command's own, 127 if it isn't there, 126 if it can't be executed, and 125 if the engine failed.
    """
    import trio

    from lading.engine.cli.attach import Run
    from lading.engine.cli.terminal import parse_keys
    from lading.engine.http.message import HttpError
    from lading.events.errors import LadingError

    request = make_request(image, command, **options)
    try:
        keys = parse_keys(detach_keys)
        _prepare_terminal(request)
        work = Run(place, name, request, options["detach"], pulled, platform, keys)
        return trio.run(work.main)
    except (LadingError, HttpError) as error:
        say_error(message_of(error))
        return _ENGINE_FAILED


def _prepare_terminal(request: dict[str, Any]) -> None:
    """Tell the size of the user's terminal, which has to be one where it is to be the container's."""
    from lading.engine.cli.terminal import is_terminal, own_size
    from lading.events.errors import HostError

    if not request["Tty"]:
        return
    if request["AttachStdin"] and not is_terminal():
        raise HostError("use a terminal:", "", 0, "standard input is none; leave out -t, or -i")
    size = own_size()
    if any(size):
        request["HostConfig"]["ConsoleSize"] = list(size)


COMMANDS = (run,)
