"""``lading timeline``: the picture of a store's history, in the terminal or as a page of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from lading.engine.cli.client import Place
from lading.engine.cli.complete import complete_container

if TYPE_CHECKING:
    from lading.engine.cli.bars import Line
    from lading.engine.cli.window import Window
    from lading.events.lives import Life, Timeline
    from lading.events.moments import Moment

__all__ = ["COMMANDS"]

_ROWS = 40
_WIDTH = 100
_NARROWEST = 40


def _moment(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Moment | None:
    import time

    from lading.events.errors import Invalid
    from lading.events.moments import parse_moment

    if text is None:
        return None
    try:
        return parse_moment(text, time.time_ns())
    except Invalid as error:
        raise click.BadParameter(f"{text!r} is no time: {error.why}.") from None


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  lading timeline --since 2h\n"
        "  lading timeline web db --html history.html\n"
        "  lading timeline --json | jq -r .name"
    )
)
@click.option("--since", metavar="WHEN", callback=_moment, help="From then on: 2h, a date or a position.")
@click.option("--until", metavar="WHEN", callback=_moment, help="Up to then.")
@click.option("-a", "--all", "every", is_flag=True, help=f"A row for every container, not for {_ROWS} at most.")
@click.option(
    "-n", "--last", type=click.IntRange(min=1), metavar="N", help="Only the N containers that changed last."
)
@click.option("--utc", is_flag=True, help="Times in UTC instead of local ones.")
@click.option(
    "--width",
    type=click.IntRange(min=_NARROWEST),
    metavar="N",
    help=f"Columns to draw in.  [the terminal's, or {_WIDTH}]",
)
@click.option("--html", metavar="FILE", help="Write a page to explore instead; - is standard output.")
@click.option("--json", "as_json", is_flag=True, help="One object a line for each container, with everything.")
@click.argument("containers", nargs=-1, metavar="[CONTAINER...]", shell_complete=complete_container)
@click.pass_obj
def timeline(
    place: Place,
    containers: tuple[str, ...],
    since: Moment | None,
    until: Moment | None,
    every: bool,
    last: int | None,
    utc: bool,
    width: int | None,
    html: str | None,
    as_json: bool,
) -> int:
    """Draw the lives of containers over time.

    CONTAINER, which may be removed already, is a name, an id or the beginning of an id. A name stands for every
    container that had it. Read from the store itself, with or without an engine.
    """
    from pathlib import Path

    from lading.engine.cli.window import open_window
    from lading.events.lives import trace
    from lading.storage.store import read_log

    if html is not None and as_json:
        raise click.UsageError("--html and --json are one too many.")
    history = read_log(Path(place.root))
    try:
        window = open_window(history, since, until)
        told = trace(window.records(), window.containers_before(), marks=False)
        lives = _chosen(told.lives, containers, last)
        if html is not None:
            from lading.engine.cli.page.document import write_page

            chosen = lives if containers or last is not None else None
            write_page(html, window, chosen, root=place.root)
        elif as_json:
            for life in lives:
                print(json.dumps(_as_dict(life), ensure_ascii=False))
        else:
            rows = lives if every or last is not None else _latest(lives, _ROWS)
            _draw(window, told, rows, len(lives) - len(rows), width, utc)
    finally:
        history.close()
    return 0


def _chosen(lives: Sequence[Life], references: Sequence[str], last: int | None) -> list[Life]:
    """The lives that ``references`` stand for, in their order in time. Raises ``NotFound``."""
    chosen = list(lives)
    if references:
        wanted: set[str] = set()
        for reference in references:
            wanted |= _called(lives, reference)
        chosen = [life for life in lives if life.container in wanted]
    return chosen if last is None else _latest(chosen, last)


def _called(lives: Sequence[Life], reference: str) -> set[str]:
    from lading.events.errors import NotFound

    found = {life.container for life in lives if any(name.name == reference for name in life.names)}
    if not found and reference:
        found = {life.container for life in lives if life.container.startswith(reference)}
    if not found:
        raise NotFound("container", reference)
    return {str(container) for container in found}


def _latest(lives: Sequence[Life], count: int) -> list[Life]:
    """The ``count`` of ``lives`` that changed last, in the order of ``lives``."""
    if len(lives) <= count:
        return list(lives)
    order = sorted(range(len(lives)), key=lambda index: (lives[index].changed, index))
    return [lives[index] for index in sorted(order[len(order) - count :])]


# -- in the terminal ------------------------------------------------------------------------------------


def _draw(
    window: Window,
    told: Timeline,
    lives: Sequence[Life],
    hidden: int,
    width: int | None,
    utc: bool,
) -> None:
    import shutil
    import time

    from lading.engine.cli.bars import bars
    from lading.engine.cli.window import window_end

    if not lives:
        whole = window.after < window.log.first and window.end == window.log.head()
        print("No container yet." if whole else "No container lived then.")
        return
    columns = width or (max(shutil.get_terminal_size().columns, _NARROWEST) if sys.stdout.isatty() else _WIDTH)
    now = window_end(window, told.last, time.time_ns())
    start, end = _extent(lives, told, window.since, now)
    ascii_only = not _prints("█─×…")
    lines = list(bars(lives, start, end, columns, utc=utc, ascii_only=ascii_only))
    _show(
        _heading(
            start,
            end,
            window.end == window.log.head() and window.until is None and end >= now,
            utc,
            window.end - window.after,
        ),
        lines,
    )
    if hidden:
        print(f"{hidden} more that changed before these: --all shows them, --since, --last or a name chooses.")


def _extent(lives: Sequence[Life], told: Timeline, since: int | None, now: int) -> tuple[int, int]:
    """The axis: from ``since`` or the first beginning to the last end, or to ``now`` if something goes on."""
    starts = [segment.start for life in lives for segment in life.segments[:1]]
    ends = [segment.end for life in lives for segment in life.segments[-1:]]
    known = [start for start in starts if start is not None]
    start = since if since is not None else min(known) if len(known) == len(starts) else told.first
    goes_on = any(end is None for end in ends)
    end = max(now, told.last) if goes_on else max(end for end in ends if end is not None)
    return min(start, end), end


def _heading(start: int, end: int, to_now: bool, utc: bool, count: int) -> str:
    from datetime import UTC, datetime

    from lading.engine.cli.tables import duration

    first, last = (datetime.fromtimestamp(instant // 10**9, UTC) for instant in (start, end))
    if not utc:
        first, last = first.astimezone(), last.astimezone()
    same_day = first.date() == last.date()
    until = "now" if to_now else f"{last:%H:%M:%S}" if same_day else f"{last:%Y-%m-%d %H:%M:%S}"
    zone = "UTC" if utc else "local time"
    return f"{first:%Y-%m-%d %H:%M:%S} to {until} ({zone}), {duration((end - start) / 1e9)}, records: {count}"


def _show(heading: str, lines: Sequence[Line]) -> None:
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text

        console = Console()
        console.print(Text(heading, "bright_black"), soft_wrap=True)
        for line in lines:
            console.print(Text.assemble(*((span.text, span.style) for span in line)), soft_wrap=True)
        return
    print(heading)
    for line in lines:
        print("".join(span.text for span in line).rstrip())


def _prints(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


# -- as JSON --------------------------------------------------------------------------------------------


def _as_dict(life: Life) -> dict[str, Any]:
    import attrs

    return {
        "container": life.container,
        "name": life.name,
        "phase": life.phase,
        "image": life.image,
        "image_name": life.image_name,
        "labels": dict(life.labels),
        **{
            field: [attrs.asdict(each) for each in getattr(life, field)]
            for field in ("names", "segments", "outcomes")
        },
        "exit_code": None if life.outcome is None else life.outcome.exit_code,
        "changed": life.changed,
    }


COMMANDS: Iterable[click.Command] = (timeline,)
