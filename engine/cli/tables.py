"""Tables and the words in them: drawn for a terminal, aligned by spaces for anything else.

rich is imported only when a table is drawn on a terminal. Elsewhere a table has no colour and no maximum
width: nothing is cut, and every row is one line. Rows are taken as they come, a page at a time, so that a
table of a million rows costs the memory of a thousand; the columns are as wide as the first page needs.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Sequence

__all__ = ["ago", "draw", "duration", "one_line", "short_id", "size"]

_PAGE = 1000
_GAP = "   "
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def draw(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print ``rows`` under ``columns`` on standard output; the heading comes even if there are none."""
    left = iter(rows)
    page = list(itertools.islice(left, _PAGE))
    if sys.stdout.isatty():
        while True:
            _draw_rich(columns, page)
            page = list(itertools.islice(left, _PAGE))
            if not page:
                return
    lines = [list(columns), *([one_line(cell) for cell in row] for row in page)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for line in itertools.chain(lines, ([one_line(cell) for cell in row] for row in left)):
        padded = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)]
        sys.stdout.write(_GAP.join([*padded, line[-1]]).rstrip() + "\n")


def _draw_rich(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, column in enumerate(columns):
        # Nothing is cut: where there is no room, words go on in the next line, but for the first column's.
        table.add_column(column, overflow="fold", no_wrap=number == 0, min_width=len(column))
    for row in rows:
        # Text, not markup: a container may well be called [red].
        table.add_row(*(Text(one_line(cell)) for cell in row))
    Console().print(table)


def one_line(text: str) -> str:
    """``text`` without anything that a terminal would obey: control characters are shown as escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def short_id(identifier: str) -> str:
    """The first twelve digits of an id, without ``sha256:``."""
    return identifier.removeprefix("sha256:")[:12]


def duration(seconds: float) -> str:
    """``seconds`` in the largest unit that fits, in Docker's words: ``About a minute``, ``3 weeks``."""
    whole = int(seconds)
    minutes, hours = whole // 60, round(seconds / 3600)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"


def ago(seconds: float) -> str:
    """How long ago something was; a clock that stepped back is told as it is."""
    return f"in {duration(-seconds)}" if seconds < -1 else f"{duration(seconds)} ago"


def size(count: float) -> str:
    """``count`` bytes in decimal units and three digits, as Docker shows sizes: ``4.43MB``."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{count:.3g}{_UNITS[unit]}"
