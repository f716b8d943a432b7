"""The options by which ``lading log`` and ``lading events`` choose records: which, since when, until when."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lading.engine.cli.complete import complete_image

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from lading.events.moments import Moment
    from lading.events.selection import SelectionWords

__all__ = ["choosing", "moment_option", "words_of"]

_FILTERS = ("stream", "type", "image", "label", "actor", "command")

F = TypeVar("F", bound=Callable[..., Any])


def _moment(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Moment | None:
    import time

    from lading.events.errors import Invalid
    from lading.events.moments import parse_moment

    if text is None:
        return None
    try:
        return parse_moment(text, time.time_ns())
    except Invalid as error:
        raise click.BadParameter(f"{text!r}: {error.why}.") from None


def moment_option(name: str, help: str) -> Callable[[F], F]:
    """An option whose value is a ``Moment``."""
    return click.option(name, metavar="WHEN", callback=_moment, help=help)


def _complete_type(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from lading.events.codec import SCHEMAS

    return [CompletionItem(tag) for tag in SCHEMAS if tag.startswith(incomplete)]


def choosing(command: F) -> F:
    """Add the options that choose records. Their values make a selection through ``words_of``."""
    options = (
        click.option("--type", "types", multiple=True, shell_complete=_complete_type, metavar="TAG",
                     help="Such as container.exited; or a beginning: container."),
        click.option("--image", "images", multiple=True, shell_complete=complete_image, metavar="IMAGE",
                     help="Of images, their tags and their containers."),
        click.option("--label", "labels", multiple=True, metavar="KEY[=VALUE]",
                     help="Of containers and images with this label, and every other given."),
        click.option("--actor", "actors", multiple=True, metavar="WHO", help="A user (name, number) or a client."),
        click.option("--command", "command", metavar="ID", help="All that one request did; a beginning will do."),
        click.option("--stream", "streams", multiple=True, metavar="NAME",
                     help="One stream, or a kind of them: container/"),
        click.option("--filter", "filters", multiple=True, metavar="NAME=VALUE",
                     help="Any of these options, as docker writes it: type=container."),
        moment_option("--since", "From then on: 2h ago, yesterday, a date, or a position."),
        moment_option("--until", "Up to then."),
        click.option("--commands", is_flag=True, help="Show the request, too, that each belongs to."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def words_of(chosen: dict[str, Any]) -> SelectionWords:
    """The words of the options' values, taken out of ``chosen``. Raises ``click.UsageError``."""
    from lading.events.errors import Invalid
    from lading.events.selection import select

    words: dict[str, list[str]] = {f"{name}s": list(chosen.pop(f"{name}s", ())) for name in _FILTERS[:-1]}
    command: str | None = chosen.pop("command")
    for text in chosen.pop("filters"):
        name, equals, value = text.partition("=")
        if name not in _FILTERS or not equals:
            raise click.UsageError(f"{text!r} is no filter: give NAME=VALUE, NAME one of {', '.join(_FILTERS)}.")
        if name == "command":
            command = value
        else:
            words[f"{name}s"].append(value)
    words["actors"] = [each for actor in words["actors"] for each in _actor(actor)]
    found: SelectionWords = {**words, "command": command or ""}  # type: ignore[typeddict-item]  # by _FILTERS
    try:
        select(**found)
    except Invalid as error:
        raise click.UsageError(f"{error}.") from None
    return found


def _actor(name: str) -> tuple[str, ...]:
    """``name`` as a client's, and as the number of the user who is called that here."""
    import pwd

    try:
        return name, str(pwd.getpwnam(name).pw_uid)
    except (KeyError, ValueError):
        return (name,)
