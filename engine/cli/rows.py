"""Rows of the history, written as they come: aligned, coloured for a terminal, and paged as git pages.

On a terminal the output goes through a pager: ``LADING_PAGER``, or else ``PAGER``, or else ``less``, which gets
``LESS=FRX`` unless that is set: it leaves by itself when everything fits on the screen. ``cat`` or nothing as the
pager, or ``--no-pager``, is none. ``NO_COLOR`` and ``TERM=dumb`` are respected.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

import click

from lading.engine.cli.tables import one_line

if TYPE_CHECKING:
    import subprocess

__all__ = ["Rows", "has_colour", "hostile_proof", "paged"]

_GAP = "   "
_FIRST = 1000
_STYLES: Mapping[str, Mapping[str, object]] = {
    "failure": {"fg": "red"},
    "container": {"fg": "cyan"},
    "image": {"fg": "magenta"},
    "layer": {"fg": "magenta", "dim": True},
    "tag": {"fg": "yellow"},
    "store": {"fg": "blue"},
}


class Rows:
    """Writes rows under ``columns``; a column is as wide as what has been in it so far, or ``widths`` at first.

    ``dim`` are the numbers of the columns that are not what the eye looks for; ``toned`` is the one that is
    coloured by a row's tone, which is a kind of stream or ``failure``.
    """

    def __init__(
        self,
        out: TextIO,
        columns: Sequence[str],
        *,
        colour: bool,
        dim: Iterable[int] = (),
        toned: int = -1,
        widths: Sequence[int] = (),
    ) -> None:
        self._out, self._colour = out, colour
        self._columns, self._dim, self._toned = columns, frozenset(dim), toned
        self._widths = [len(column) for column in columns]
        self._widths[: len(widths)] = widths
        self._headed = False

    def write_all(self, rows: Iterable[tuple[Sequence[str], str]]) -> None:
        """Write (cells, tone) for each row; the first thousand decide how wide the columns are."""
        left = iter(rows)
        first = [([one_line(cell) for cell in cells], tone) for cells, tone in itertools.islice(left, _FIRST)]
        for cells, _ in first:
            self._widen(cells)
        self.write(first)
        self.write(left)

    def write(self, rows: Iterable[tuple[Sequence[str], str]]) -> None:
        """Write rows now, and the heading before the first ones, also where there are none."""
        if not self._headed:
            self._headed = True
            heading = self._aligned(self._columns)
            self._line(click.style(cell, bold=True) if self._colour else cell for cell in heading)
        for cells, tone in rows:
            shown = [one_line(cell) for cell in cells]
            self._widen(shown)
            aligned = self._aligned(shown)
            self._line(self._styled(aligned, tone) if self._colour else aligned)

    def _widen(self, cells: Sequence[str]) -> None:
        self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, cells, strict=True)]

    def _aligned(self, cells: Sequence[str]) -> list[str]:
        *front, last = cells
        return [*(cell.ljust(width) for cell, width in zip(front, self._widths, strict=False)), last]

    def _styled(self, cells: Sequence[str], tone: str) -> Iterator[str]:
        for number, cell in enumerate(cells):
            if number == self._toned and tone in _STYLES:
                yield click.style(cell, **_STYLES[tone])  # type: ignore[arg-type]  # the table is of its arguments
            else:
                yield click.style(cell, dim=True) if number in self._dim else cell

    def _line(self, cells: Iterable[str]) -> None:
        self._out.write(_GAP.join(cells).rstrip() + "\n")


def has_colour() -> bool:
    """Whether standard output is a terminal that takes colours, and nobody objects."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def hostile_proof(out: TextIO) -> TextIO:
    """``out``, which from now on shows what its encoding doesn't have as an escape instead of failing."""
    with contextlib.suppress(AttributeError, ValueError):
        out.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]  # a TextIOWrapper has it
    return out


@contextlib.contextmanager
def paged(wanted: bool = True) -> Iterator[TextIO]:
    """Where to write: the pager's input on a terminal, if one is ``wanted``, else standard output.

    Who leaves the pager early ends the block quietly. Leaving the block waits until the pager is left.
    """
    pager = _start_pager() if wanted and sys.stdout.isatty() else None
    if pager is None:
        yield hostile_proof(sys.stdout)
        return
    import io

    assert pager.stdin is not None
    out = io.TextIOWrapper(pager.stdin, "utf-8", "backslashreplace")
    try:
        with contextlib.suppress(BrokenPipeError):
            yield out
            out.flush()
    finally:
        with contextlib.suppress(BrokenPipeError):
            out.close()
        while pager.poll() is None:
            with contextlib.suppress(KeyboardInterrupt):  # the pager's own business
                pager.wait()


def _start_pager() -> subprocess.Popen[bytes] | None:
    import shutil
    import subprocess

    named = os.environ.get("LADING_PAGER")
    command = os.environ.get("PAGER", "less") if named is None else named
    if command.strip() in ("", "cat") or (command == "less" and shutil.which("less") is None):
        return None
    environ = {"LESS": "FRX", "LV": "-c"} | os.environ
    return subprocess.Popen(command, shell=True, stdin=subprocess.PIPE, env=environ)
