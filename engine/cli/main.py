"""The ``lading`` command line: its group, its global options, and what becomes of errors.

Nothing heavy is imported before a command needs it: neither trio nor lmdb, rich or h11. Every error that
this package raises on purpose is one line on standard error; a traceback is a bug.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from lading.engine.cli import archives as cli_archives
from lading.engine.cli import backup as cli_backup
from lading.engine.cli import commit as cli_commit
from lading.engine.cli import compact as cli_compact
from lading.engine.cli import containergroup as cli_containergroup
from lading.engine.cli import containers as cli_containers
from lading.engine.cli import copy as cli_copy
from lading.engine.cli import df as cli_df
from lading.engine.cli import diff as cli_diff
from lading.engine.cli import doctor as cli_doctor
from lading.engine.cli import exec as cli_exec
from lading.engine.cli import follow as cli_follow
from lading.engine.cli import imagegroup as cli_imagegroup
from lading.engine.cli import images as cli_images
from lading.engine.cli import lifecycle as cli_lifecycle
from lading.engine.cli import log as cli_log
from lading.engine.cli import login as cli_login
from lading.engine.cli import move as cli_move
from lading.engine.cli import prune as cli_prune
from lading.engine.cli import run as cli_run
from lading.engine.cli import seal as cli_seal
from lading.engine.cli import serve as cli_serve
from lading.engine.cli import stats as cli_stats
from lading.engine.cli import timeline as cli_timeline
from lading.engine.cli import top as cli_top
from lading.engine.cli import transfers as cli_transfers
from lading.engine.cli import verify as cli_verify
from lading.engine.cli import volume as cli_volume
from lading.engine.cli.client import DEFAULT_ROOT, find_place, message_of, say_error
from lading.engine.cli.complete import completion

__all__ = ["group", "main"]

_INTERRUPTED = 130
_BROKEN_PIPE = 141


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(_version())
        context.exit()


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise click.exceptions.Exit(_BROKEN_PIPE) from None  # before click makes a 1 of it


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        "\b\nExamples:\n"
        "  lading import rootfs.tar web:1\n"
        "  lading run -d --name web web:1 httpd -f\n"
        "  lading log web"
    ),
)
@click.option("--root", metavar="DIR", envvar="LADING_ROOT", help=f"The store's directory [{DEFAULT_ROOT}].")
@click.option("--socket", metavar="PATH", envvar="LADING_SOCKET", help="The engine's socket [ROOT/lading.sock].")
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version."
)
@click.pass_context
def group(context: click.Context, root: str | None, socket: str | None) -> None:
    """Containers whose whole life is in a log.

    Commands talk to the engine over its socket and start one if none is there. `lading log` reads the history
    itself, with or without an engine.
    """
    context.obj = find_place(root, socket)


@click.command(epilog="\b\nExample:\n  lading version")
def version() -> None:
    """Show the version of this program."""
    click.echo(_version())


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"lading {version('lading')}"
    except PackageNotFoundError:
        return "lading (not installed)"


def _set_place(context: click.Context, option: click.Parameter, value: str | None) -> None:
    """``--root`` and ``--socket`` after the command mean what they mean before it."""
    if value is not None and option.name is not None:
        top = context.find_root()
        top.params[option.name] = value
        context.obj = top.obj = find_place(top.params["root"], top.params["socket"])


def _add(command: click.Command) -> None:
    _take_place(command)
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _take_place(each)
    group.add_command(command)


def _take_place(command: click.Command) -> None:
    """Let the options that say where the engine is come after ``command``, too."""
    if any(parameter.name == "root" for parameter in command.params):
        return
    for name, metavar, what in (
        ("--root", "DIR", "The store's directory, as before the command."),
        ("--socket", "PATH", "The engine's socket, as before the command."),
    ):
        option = click.Option([name], metavar=metavar, help=what, expose_value=False, callback=_set_place)
        command.params.append(option)


for _command in (
    *cli_run.COMMANDS,
    *cli_exec.COMMANDS,
    *cli_containers.COMMANDS,
    *cli_copy.COMMANDS,
    *cli_commit.COMMANDS,
    *cli_lifecycle.COMMANDS,
    *cli_top.COMMANDS,
    *cli_stats.COMMANDS,
    *cli_containergroup.COMMANDS,
    *cli_images.COMMANDS,
    *cli_transfers.COMMANDS,
    *cli_archives.COMMANDS,
    *cli_imagegroup.COMMANDS,
    *cli_volume.COMMANDS,
    *cli_login.COMMANDS,
    *cli_prune.COMMANDS,
    *cli_log.COMMANDS,
    *cli_follow.COMMANDS,
    *cli_diff.COMMANDS,
    *cli_df.COMMANDS,
    *cli_compact.COMMANDS,
    *cli_move.COMMANDS,
    *cli_verify.COMMANDS,
    *cli_seal.COMMANDS,
    *cli_backup.COMMANDS,
    *cli_timeline.COMMANDS,
    *cli_doctor.COMMANDS,
    *cli_serve.COMMANDS,
):
    _add(_command)
group.add_command(completion)
group.add_command(version)


def main() -> None:
    """Run the command line with this process's arguments; never returns."""
    try:
        code = _invoke()
        sys.stdout.flush()
    except BrokenPipeError:
        code = _BROKEN_PIPE
    if code == _BROKEN_PIPE:
        # The interpreter flushes at its end: give it somewhere to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def _invoke() -> int:
    try:
        result = group.main(prog_name="lading", standalone_mode=False)
    except click.Abort:
        return _INTERRUPTED
    except click.ClickException as error:
        return _usage_error(error)
    except BaseExceptionGroup as many:
        return _report(_first(many))
    except Exception as error:
        return _report(error)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return result if isinstance(result, int) else 0


def _usage_error(error: click.ClickException) -> int:
    message = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
    elif isinstance(error, click.UsageError) and context is not None:
        say_error(f"{message} See `{context.command_path} --help`.")
    else:
        say_error(message)
    return error.exit_code


def _report(error: BaseException) -> int:
    """Tell of ``error`` if it is one of ours or the machine's; anything else is a bug and stays as it is."""
    from lading.events.errors import LadingError

    # Where nobody imported the client, nothing it raises can be here: don't import it, and trio with it.
    http = sys.modules.get("lading.engine.http.message")
    ours: tuple[type[Exception], ...] = (LadingError, OSError, *((http.HttpError,) if http else ()))
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return _BROKEN_PIPE
    if isinstance(error, ours):
        say_error(message_of(error))
        return 1
    raise error


def _first(many: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error of a group that there is to tell: an interrupt before anything else."""
    if many.subgroup(KeyboardInterrupt) is not None:
        return KeyboardInterrupt()
    error: BaseException = many
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    main()
