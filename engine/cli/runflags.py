"""The options that `run` and `create` share, and the request that their values make.

Each kind of options has a file of its own, which knows the fields of the API that they fill; here are the plain
ones, and the whole. What wasn't given is not in the request.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from lading.engine.cli.complete import complete_image
from lading.engine.cli.healthflags import health_options, health_request
from lading.engine.cli.keyfile import read_pairs
from lading.engine.cli.limitflags import limit_options, limit_request
from lading.engine.cli.mountflags import mount_options, mount_request
from lading.engine.cli.securityflags import security_options, security_request

__all__ = ["creating", "environment", "make_request"]

F = TypeVar("F", bound=Callable[..., Any])

_MOUNTS: Final = ("volume", "mount", "tmpfs", "volumes_from")
_TEXTS: Final = {
    "workdir": "WorkingDir",
    "user": "User",
    "hostname": "Hostname",
    "stop_signal": "StopSignal",
    "stop_timeout": "StopTimeout",
}


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


def _pairs(environ: Mapping[str, str] | None) -> Callable[..., tuple[str, ...]]:
    def callback(_context: click.Context, _parameter: click.Parameter, paths: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(pair for path in paths for pair in read_pairs(path, environ))
        except OSError as error:
            raise click.BadParameter(f"{error.strerror}: {error.filename}.") from None
        except ValueError as error:
            raise click.BadParameter(f"{error}.") from None

    return callback


_PLAIN: Final = (
    click.option("--name", metavar="NAME", help="Its name; the default is a random one."),
    click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", callback=environment,
                 help="Set a variable; without a value, to the one it has here."),
    click.option("--env-file", multiple=True, metavar="FILE", callback=_pairs(os.environ),
                 help="Set the variables in a file, one a line."),
    click.option("-w", "--workdir", metavar="DIR", help="The directory in the container to run in."),
    click.option("--rm", "remove", is_flag=True, help="Remove the container when it ends."),
    click.option("-i", "--interactive", is_flag=True, help="Pass standard input on to the container."),
    click.option("-t", "--tty", is_flag=True, help="Give it a terminal."),
    click.option("-u", "--user", metavar="USER[:GROUP]", help="Name or number to run as."),
    click.option("--entrypoint", metavar="PROGRAM", help="Instead of the image's; empty for none."),
    click.option("--network", type=click.Choice(("host", "none")), default="host", show_default=True,
                 help="Its network."),
    click.option("-l", "--label", multiple=True, metavar="KEY[=VALUE]", help="Set a label."),
    click.option("--label-file", multiple=True, metavar="FILE", callback=_pairs(None),
                 help="Set the labels in a file, one a line."),
    click.option("-h", "--hostname", metavar="NAME", help="Its host name."),
    click.option("--read-only", is_flag=True, help="Mount its root file system read-only."),
)  # fmt: skip
_LAST: Final = (
    click.option("--stop-signal", metavar="SIGNAL", help="What a stop sends.  [SIGTERM]"),
    click.option("--stop-timeout", type=int, metavar="SECONDS",
                 help="From a stop to SIGKILL; negative: never.  [10]"),
    click.option("--cidfile", metavar="FILE", default="", help="Write its id into a new file."),
    click.option("--pull", "pulled", type=click.Choice(("always", "missing", "never")), default="missing",
                 show_default=True, help="When to get the image from its registry."),
    click.option("--platform", metavar="OS[/ARCH[/VARIANT]]", help="Which one, where an image is for several."),
    click.argument("image", shell_complete=complete_image),
    click.argument("command", nargs=-1, type=click.UNPROCESSED),
    click.pass_obj,
)  # fmt: skip


def creating(command: F) -> F:
    """Add all that says what a container should be: options, the image and its command."""
    made: Any = command
    for add in reversed((*_PLAIN, mount_options, limit_options, security_options, health_options, *_LAST)):
        made = add(made)
    return made  # type: ignore[no-any-return]  # each of them returns what it takes


def make_request(
    image: str,
    command: tuple[str, ...],
    *,
    interactive: bool = False,
    detach: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """The body of ``POST /containers/create`` (Docker Engine API, ContainerCreate).

    ``options``: the values of the options by their names. Raises ``click.UsageError`` for some that contradict
    each other.
    """
    mounts, mount_host = mount_request(**{name: options[name] for name in _MOUNTS if name in options})
    security, security_host = security_request(options)
    health, health_host = health_request(options)
    host = {
        "NetworkMode": options.get("network", "host"),
        "AutoRemove": options.get("remove", False),
        "ReadonlyRootfs": options.get("read_only", False),
    }
    labels = (*options.get("label_file", ()), *options.get("label", ()))
    request: dict[str, Any] = {
        **mounts,
        **security,
        **health,
        "Image": image,
        "Env": [*options.get("env_file", ()), *options.get("env", ())],
        "Labels": {key: value for key, _, value in (word.partition("=") for word in labels)},
        "OpenStdin": interactive,
        "StdinOnce": interactive and not detach,
        "AttachStdin": interactive and not detach,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "HostConfig": host | mount_host | limit_request(options) | security_host | health_host,
    }
    if command:
        request["Cmd"] = list(command)
    if options.get("entrypoint") is not None:
        request["Entrypoint"] = [options["entrypoint"]]
    if options.get("tty"):
        request["Tty"] = True
    return request | {field: options[name] for name, field in _TEXTS.items() if options.get(name) is not None}
