"""Shell completion: the scripts, and the names of containers and images read from the store itself.

Completion never starts an engine, never prints an error, and never waits: with no store there are no names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lading.engine.cli.client import find_place

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from lading.storage.log import Log

__all__ = ["complete_container", "complete_image", "completion"]

_SHELLS = ("bash", "zsh", "fish")


def complete_container(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Containers by name, or by id where what is typed begins no name."""
    from click.shell_completion import CompletionItem

    from lading.events.views import CONTAINERS

    log = _open_log(context)
    if log is None:
        return []
    try:
        states = [state for _, state in log.scan(CONTAINERS)]
    finally:
        log.close()
    taken = context.params.values()
    items = [
        CompletionItem(state.name, help=state.spec.image_name)
        for state in sorted(states, key=lambda state: state.name)
        if state.name.startswith(incomplete) and not any(isinstance(v, tuple) and state.name in v for v in taken)
    ]
    if items or not incomplete:
        return items
    return [CompletionItem(state.id[:12], help=state.name) for state in states if state.id.startswith(incomplete)]


def complete_image(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Images by their familiar names; those by a digest only once that is begun."""
    from click.shell_completion import CompletionItem

    from lading.events.reference import parse_reference
    from lading.events.views import TAGS

    log = _open_log(context)
    if log is None:
        return []
    try:
        names = [parse_reference(name).familiar for name, _ in log.scan(TAGS)]
    finally:
        log.close()
    fits = [name for name in sorted(names) if name.startswith(incomplete)]
    return [CompletionItem(name) for name in fits if "@" not in name or "@" in incomplete]


def _open_log(context: click.Context) -> Log | None:
    from pathlib import Path

    from lading.storage.store import read_log

    options = context.find_root().params
    try:
        return read_log(Path(find_place(options.get("root")).root))
    except Exception:
        return None  # whatever is wrong, a half-typed line is no place to say it


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  lading completion bash > /etc/bash_completion.d/lading\n"
        '  lading completion zsh > "${fpath[1]}/_lading"\n'
        "  lading completion fish > ~/.config/fish/completions/lading.fish"
    )
)
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes this command line in a shell."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    root = context.find_root()
    # Not source(): it runs the shell to see its version, and the script is the same for all of them.
    script = kind(root.command, {}, "lading", "_LADING_COMPLETE")
    click.echo(script.source_template % script.source_vars())
