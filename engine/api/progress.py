"""How far a pull, a push or a load has come, in the JSON lines that Docker's clients draw.

A transfer tells what it likes, as often as it likes, and never waits: what the client has not been sent yet is
kept by layer and status, the newest counts over the older ones. A client that reads slowly gets fewer lines, and a
fast one at most ten a second of each layer's counts; every change of status is sent, in order. Errors are a status
until the first line is out, and a line after that.

Source: moby ``pkg/jsonmessage`` and ``pkg/streamformatter`` (v27) for the lines and their order of fields,
``pkg/progress`` for the pace, ``docker/go-units`` for sizes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import trio

from lading.engine.http.message import HttpError, Request, Send
from lading.engine.nursery import open_bare_nursery
from lading.events.errors import LadingError

__all__ = [
    "Progress",
    "ProgressLines",
    "aux_line",
    "draw_bar",
    "error_line",
    "progress_line",
    "status_line",
    "stream_line",
    "stream_progress",
]

_PAUSE: Final = 0.1
_MOST: Final = 4096
"""Lines that may wait for one client: some ten for each layer, and no image has so many."""
_BAR: Final = 50
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_END: Final = b"\r\n"


class Progress(Protocol):
    """How far one layer has come (or, with an empty id or a tag for one, the whole): Docker's words and bytes."""

    @property
    def id(self) -> str: ...

    @property
    def status(self) -> str: ...

    @property
    def current(self) -> int: ...

    @property
    def total(self) -> int: ...


# -- lines ----------------------------------------------------------------------------------------------


def progress_line(progress: Progress) -> bytes:
    """One line of a layer's progress, or of the whole transfer's, whose id is empty or a tag."""
    counts = {"current": progress.current, "total": progress.total} if progress.total else {}
    if progress.current and not counts:
        counts = {"current": progress.current}
    if progress.status.startswith("Pulling from ") or not (progress.id or progress.current or progress.total):
        return status_line(progress.status, progress.id)
    line: dict[str, Any] = {
        "status": progress.status,
        "progressDetail": counts,
    }
    if bar := draw_bar(progress.current, progress.total):
        line["progress"] = bar
    return _line({**line, "id": progress.id} if progress.id else line)


def status_line(status: str, identifier: str = "") -> bytes:
    """A line that only says something."""
    return _line({"status": status, **({"id": identifier} if identifier else {})})


def stream_line(text: str) -> bytes:
    """A line whose text clients print as it is."""
    return _line({"stream": text})


def aux_line(value: dict[str, Any]) -> bytes:
    """A line for programs."""
    return _line({"progressDetail": {}, "aux": value})


def error_line(message: str) -> bytes:
    """The last line of what failed after its first."""
    return _line({"errorDetail": {"message": message}, "error": message})


def draw_bar(current: int, total: int) -> str:
    """Docker's bar and sizes: ``[====>    ]  1.049MB/4.194MB``, 50 columns wide; empty for nothing."""
    if current <= 0 and total <= 0:
        return ""
    if total <= 0:
        return f"{_size(current):>8}"
    filled = min(current * 100 // total // 2, _BAR)
    sizes = f"{_size(current):>8}" + ("" if current > total else f"/{_size(total)}")
    return f"[{'=' * filled}>{' ' * (_BAR - filled)}] {sizes}"


def _size(count: float) -> str:
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{count:.4g}{_UNITS[unit]}"


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + _END


# -- the stream -----------------------------------------------------------------------------------------


class ProgressLines:
    """What one client has still to be sent. ``tell`` is for the transfer, and never waits.

    ``failure``: what the transfer ended with, which is sent as the last line.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self._pending: dict[tuple[str, str], Progress | bytes] = {}
        self._status: dict[str, str] = {}
        self._sent: dict[str, float] = {}
        self._urgent: set[str] = set()
        self._news = trio.Event()
        self._over = False
        self._count = 0

    def tell(self, progress: Progress) -> None:
        """``progress`` instead of what was told of the same id and status, unless that is sent already."""
        key = (progress.id, progress.status)
        if self._status.get(progress.id) != progress.status:
            self._pending.pop(key, None)  # it goes behind what came since
            self._status[progress.id] = progress.status
            self._urgent.add(progress.id)
            self._news.set()
        elif key not in self._pending:
            self._news.set()
        self._pending[key] = progress
        self._bound()

    def add(self, line: bytes) -> None:
        """A whole line, which nothing takes the place of."""
        self._count += 1
        self._pending["", f"\0{self._count}"] = line
        self._urgent.add("")
        self._news.set()
        self._bound()

    def end(self, failure: Exception | None = None) -> None:
        """Nothing more comes."""
        self.failure, self._over = failure, True
        self._news.set()

    async def wait_first(self, count: int = 1) -> bool:
        """Whether there are ``count`` lines to be sent, once that is known. False: it ended with fewer."""
        while len(self._pending) < count and not self._over:
            await self._wait(math.inf)
        return len(self._pending) >= count

    async def send_all(self, send: Send, words: Callable[[Exception], str]) -> None:
        """Send everything until the end, the failure (in ``words``) last."""
        while True:
            lines, due = self._take(trio.current_time())
            if lines:
                await send(b"".join(lines))
            elif self._over:
                break
            else:
                await self._wait(due)
        if self.failure is not None:
            await send(error_line(words(self.failure)))

    async def _wait(self, deadline: float) -> None:
        with trio.move_on_at(deadline):
            await self._news.wait()
        self._news = trio.Event()

    def _take(self, now: float) -> tuple[list[bytes], float]:
        """The lines to send now, and when the next one is due."""
        lines, due = [], math.inf
        for key, value in list(self._pending.items()):
            identifier = key[0]
            when = self._sent.get(identifier, -math.inf) + _PAUSE
            if not self._over and identifier not in self._urgent and when > now:
                due = min(due, when)
                continue
            del self._pending[key]
            lines.append(value if isinstance(value, bytes) else progress_line(value))
            self._sent[identifier] = now
        self._urgent.clear()
        return lines, due

    def _bound(self) -> None:
        if len(self._pending) > _MOST:
            del self._pending[next(iter(self._pending))]


async def stream_progress(
    request: Request,
    work: Callable[[ProgressLines], Awaitable[None]],
    words: Callable[[Exception], str],
    *,
    held: int = 0,
    always: bool = False,
) -> None:
    """Answer ``request`` with what ``work`` tells; a client that leaves cancels ``work``.

    The answer's header is sent with its first line: what ``work`` raises before that (``LadingError``,
    ``HttpError``) is raised from here, and later is a line, in ``words``. ``held``: so many lines wait for the
    next one, since they don't mean yet that anything is right. ``always``: the answer is 200 whatever comes.
    """
    lines = ProgressLines()

    async def run() -> None:
        try:
            await work(lines)
        except (LadingError, HttpError) as error:
            lines.end(error)
        else:
            lines.end()

    async with open_bare_nursery() as nursery:
        nursery.start_soon(run)
        if not await lines.wait_first(held + 1) and lines.failure is not None and not always:
            raise lines.failure
        async with request.respond(200, {"Content-Type": "application/json"}) as send:
            await lines.send_all(send, words)
