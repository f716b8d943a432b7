"""The history over HTTP: the log's records as JSON, one object a line.

``GET /lading/history`` is not Docker's. Its parameters, each of which may be left out:

===========  ============================================================================================
after        a position; what comes after it is sent. What the client saw last is what to resume with
since        a moment (``events/moments.py``) in place of ``after``; without both, all that is kept
until        a moment; up to there
limit        at most so many records
follow       go on as the log grows, until the client leaves, or ``until`` or ``limit`` is reached
streams, types, images, labels, actors, command
             which records (``events/selection.py``); several in one parameter by commas, but for labels, or
             by repeating it
===========  ============================================================================================

A line is what ``as_dict`` gives. With ``follow``, ``{"notice":"caught-up","position":N}`` comes between what was
there and what is new, and ``fell-behind`` when this client was too slow to be given it as it happened; nothing is
left out. The memory that a client takes is that of one page, however slow it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import trio

from lading.engine.engine import Engine
from lading.engine.history.follow import CaughtUp, History
from lading.engine.http.message import HttpError, Request, Send
from lading.engine.http.router import Router
from lading.events.described import as_dict
from lading.events.envelope import Record
from lading.events.errors import Invalid
from lading.events.moments import Instant, Moment, parse_moment
from lading.events.selection import Selection, select
from lading.storage.log import Log
from lading.storage.window import last_until, start_since

__all__ = ["Window", "add_history_route", "each_page"]

_WORDS: Final = ("streams", "types", "images", "labels", "actors")
_KNOWN: Final = frozenset({*_WORDS, "command", "after", "since", "until", "limit", "follow"})
_CHUNK: Final = 1 << 18


@attrs.frozen
class Window:
    """Which part of the log: past position ``after``, to ``last`` (None: for ever), and until ``ends``.

    ``ends`` is nanoseconds UTC, in the future: whatever is on disk by then is in it.
    """

    after: int
    last: int | None = None
    ends: int | None = None


async def each_page(
    history: History,
    selection: Selection,
    window: Window,
    handle: Callable[[list[Any]], Awaitable[bool]],
    *,
    notices: bool = False,
) -> None:
    """Give ``handle`` what is selected of the window, page by page, until it returns False or the window ends."""
    pages = history.select(selection, window.after, window.last, notices=notices)
    left = float("inf") if window.ends is None else max((window.ends - time.time_ns()) / 1e9, 0)
    deadline = trio.current_time() + left
    while True:
        page: list[Any] | None = None
        with trio.move_on_at(deadline) as scope:  # only the waiting: nothing is cut off in the middle of a line
            page = await anext(pages, None)
        if scope.cancelled_caught:
            break
        if page is None or not await handle(page):
            return
    assert window.ends is not None
    async for page in history.select(selection, pages.position, history.position_at(window.ends)):
        if not await handle(page):
            return


def add_history_route(router: Router, engine: Engine) -> None:
    """Route ``lading/history``."""
    router.add("GET", "/lading/history", _Reading(engine).read)


class _Reading:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def read(self, request: Request) -> None:
        history = self._engine.log
        selection = _selection_of(request)
        window, follow = _window_of(request, self._engine.core.log)
        limit = request.query.integer("limit", 0)
        history.select(selection, window.after)  # refuses what is not kept while a status can still say so
        async with request.respond(200, {"Content-Type": "application/x-ndjson"}, endless=follow) as send:
            await each_page(history, selection, window, _Lines(send, limit).send, notices=follow)


class _Lines:
    """Sends pages as lines, in chunks of bounded size; at most ``limit`` records (0: all)."""

    def __init__(self, send: Send, limit: int) -> None:
        self._send = send
        self._left = limit
        self._limited = limit > 0

    async def send(self, page: list[Any]) -> bool:
        chunk = bytearray()
        for item in page:
            if isinstance(item, Record):
                chunk += _line(as_dict(item))
                self._left -= 1
                if self._limited and not self._left:
                    await self._send(bytes(chunk))
                    return False
            else:
                notice = "caught-up" if isinstance(item, CaughtUp) else "fell-behind"
                chunk += _line({"notice": notice, "position": item.position})
            if len(chunk) > _CHUNK:
                await self._send(bytes(chunk))
                chunk.clear()
        if chunk:
            await self._send(bytes(chunk))
        return True


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _selection_of(request: Request) -> Selection:
    query = request.query
    for name in query:
        if name not in _KNOWN:
            raise HttpError(
                400, f"unknown parameter {json.dumps(name)[:80]}: there are {', '.join(sorted(_KNOWN))}"
            )
    words = {name: [word for word in query.get_all(name) if word] for name in _WORDS}
    for name in _WORDS:
        if name != "labels":
            words[name] = [part for word in words[name] for part in word.split(",") if part]
    return select(**words, command=query.get("command"))


def _window_of(request: Request, log: Log) -> tuple[Window, bool]:
    query, now = request.query, time.time_ns()
    follow = query.flag("follow")
    since, until = _moment(request, "since", now), _moment(request, "until", now)
    if since is not None and query.get("after"):
        raise HttpError(400, "give either after or since: both say where to begin")
    after = log.first - 1 if since is None else start_since(log, since)
    after = query.integer("after", after)
    if until is None:
        return Window(after, None if follow else log.position), follow
    if follow and isinstance(until, Instant) and until.time > now:
        return Window(after, None, until.time), follow
    last = last_until(log, until)
    return Window(after, last if follow else min(last, log.position)), follow


def _moment(request: Request, name: str, now: int) -> Moment | None:
    text = request.query.get(name)
    try:
        return parse_moment(text, now) if text else None
    except Invalid as error:
        raise HttpError(400, f"invalid {name} {text[:80]!r}: {error.why}") from None
