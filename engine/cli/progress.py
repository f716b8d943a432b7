"""How far something has come, on standard error: a bar on a terminal, elsewhere lines if they are wanted."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["is_progress", "showing_progress"]

_LINE = re.compile(r"[a-z ]+: [0-9]{1,3} %")
_STEP = 5


@contextmanager
def showing_progress(what: str, *, lines: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Gives what to call with how far it has come, and how far it is to go. Nothing is shown until that is
    called.
    """
    if sys.stderr.isatty():
        with _bar(what) as progress:
            yield progress
    elif lines:
        yield _lines(what)
    else:
        yield lambda at, of: None


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task: TaskID | None = None

    def progress(at: int, of: int) -> None:
        nonlocal task
        if task is None:
            bar.start()
            task = bar.add_task(what, total=of)
        bar.update(task, completed=at, total=of)
        if at >= of:
            bar.stop()

    try:
        yield progress
    finally:
        bar.stop()


def _lines(what: str) -> Callable[[int, int], None]:
    last = -_STEP

    def progress(at: int, of: int) -> None:
        nonlocal last
        percent = 100 * at // max(of, 1)
        if percent >= last + _STEP or (at >= of and last < 100):
            last = percent
            print(f"{what}: {percent} %", file=sys.stderr, flush=True)

    return progress


def is_progress(line: str) -> bool:
    """Whether ``line`` is one that ``showing_progress`` prints where there is no terminal."""
    return _LINE.fullmatch(line) is not None
