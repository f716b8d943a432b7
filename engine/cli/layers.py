"""What a pull, a push or a load tells on its way, shown: bars on a terminal, lines elsewhere, or JSON as it came.

Source: docker/cli ``cli/internal/jsonstream`` for what is left out where there is no terminal: counts.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TextIO

import click

from lading.engine.cli.tables import one_line

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from lading.engine.http.client import ClientResponse

__all__ = ["Show", "Style", "follow", "json_lines", "progress_options", "showing_layers"]

Show = Callable[[Mapping[str, Any]], None]
Style = Literal["auto", "plain", "json", "quiet"]


def progress_options(command: Callable[..., int]) -> Callable[..., int]:
    """``--progress``, ``--json`` and ``-q`` in one: they give the command its ``style``."""

    @functools.wraps(command)
    def styled(*args: Any, quiet: bool, as_json: bool, progress: Style, **options: Any) -> int:
        style: Style = "quiet" if quiet else "json" if as_json else progress
        return command(*args, style=style, **options)

    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Only the result."),
        click.option("--json", "as_json", is_flag=True, help="Progress as JSON, one object a line."),
        click.option("--progress", type=click.Choice(("auto", "plain", "json")), default="auto", show_default=True,
                     help="How to show it: auto has bars on a terminal."),
    ):  # fmt: skip
        styled = option(styled)
    return styled


async def json_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The objects, one a line, that the API's progress messages are."""
    left = b""
    async for chunk in chunks:
        *lines, left = (left + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield json.loads(line)
    if left.strip():
        yield json.loads(left)


async def follow(reply: ClientResponse, show: Show) -> list[Any]:
    """Show what ``reply`` tells until it ends; what is in it for programs. Raises ``HttpError`` for its error."""
    from lading.engine.http.message import HttpError

    await reply.check()
    found = []
    async for line in json_lines(reply.stream()):
        if error := line.get("error"):
            raise HttpError(500, str(error))
        if "aux" in line:
            found.append(line["aux"])
        show(line)
    return found


@contextmanager
def showing_layers(style: Style, out: TextIO | None = None) -> Iterator[Show]:
    """Something to tell each line to; on ``out`` (standard output)."""
    out = out or sys.stdout
    if style == "quiet":
        yield lambda line: None
    elif style == "json":
        yield lambda line: print(json.dumps(line, ensure_ascii=False), file=out, flush=True)
    elif style == "auto" and out.isatty():
        with _Bars(out) as bars:
            yield bars.show
    else:
        yield _Lines(out).show


def _words(line: Mapping[str, Any]) -> str:
    return one_line(str(line.get("stream") or line.get("status") or "").rstrip("\n"))


class _Lines:
    """A line for each change of status: counts are left out."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last: dict[str, str] = {}

    def show(self, line: Mapping[str, Any]) -> None:
        words, identifier = _words(line), one_line(str(line.get("id") or ""))
        if not words or ("progressDetail" in line and self._last.get(identifier) == words):
            return
        self._last[identifier] = words
        print(f"{identifier}: {words}" if identifier else words, file=self._out, flush=True)


class _Bars:
    """A bar for each layer, and what else is said above them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, line: Mapping[str, Any]) -> None:
        words, identifier = _words(line), one_line(str(line.get("id") or ""))
        if not words:
            return
        progress = self._progress or self._start()
        if "progressDetail" not in line:
            text = f"{identifier}: {words}" if identifier else words
            progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
            return
        if identifier not in self._tasks:
            self._tasks[identifier] = progress.add_task(identifier, total=None, status="")
        task = self._tasks[identifier]
        counts = line["progressDetail"] or {}
        if total := counts.get("total"):
            progress.update(task, status=words, total=total, completed=counts.get("current", 0))
        else:
            known = progress.tasks[task].total
            done = words.endswith("complete") or words in ("Already exists", "Pushed", "Layer already exists")
            progress.update(task, status=words, total=(known or 1) if done else known)
            if done:
                progress.update(task, completed=known or 1)

    def _start(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        columns = (
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[status]}", markup=False, table_column=Column(min_width=18, no_wrap=True)),
            BarColumn(),
            _sizes(),
        )
        self._progress = Progress(*columns, console=Console(file=self._out))
        self._progress.start()
        return self._progress


def _sizes() -> Any:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    from lading.engine.cli.tables import size

    class Sizes(ProgressColumn):
        """``1.2MB/3.4MB``, where bytes are counted."""

        def render(self, task: Task) -> Text:
            if not task.total or task.total <= 1:
                return Text("")
            return Text(f"{size(task.completed)}/{size(task.total)}")

    return Sizes()
