"""The history over HTTP: the log's records as Docker's events, from any time and as they happen.

One record can be several of Docker's events or none: a stop that was asked for is a ``kill`` at once, and a
``die`` and a ``stop`` when the process is gone. What Docker attaches to an event (name, image, labels) is what
held at that moment, so it is folded from the container's own stream, which outlives the container.

Source: Docker Engine API v1.47, SystemEvents.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Final

import attrs
import trio

from lading.engine.api.request import Filters, filters_of, instant_of, labels_fit
from lading.engine.api.shapes import UNKNOWN_EXIT, familiar
from lading.engine.engine import Engine
from lading.engine.http.message import HttpError, Request, Send
from lading.engine.http.router import Router
from lading.events.container import (
    ContainerState,
    Created,
    Exited,
    KillRequested,
    Phase,
    Removed,
    RemoveRequested,
    Renamed,
    Started,
    StartFailed,
    StartRequested,
    StopRequested,
    evolve,
)
from lading.events.envelope import Record
from lading.events.errors import EngineClosed
from lading.events.image import ImageAdded, ImageState, Tagged
from lading.events.signals import signal_number
from lading.events.views import IMAGES

__all__ = ["add_event_route"]

_PAGE: Final = 256
_CACHE: Final = 4096
_FILTERS: Final = frozenset(["type", "event", "container", "image", "label", "scope", "daemon"])


@attrs.frozen
class _Event:
    """One of Docker's events. ``image``: the image it is about or its container is made from, if any."""

    kind: str
    action: str
    id: str
    attributes: dict[str, str]
    time: int

    @property
    def image(self) -> str:
        return self.id if self.kind == "image" else self.attributes.get("image", "")

    def shape(self) -> dict[str, Any]:
        return {
            "status": self.action,
            "id": self.id,
            **({"from": self.image} if self.kind == "container" else {}),
            "Type": self.kind,
            "Action": self.action,
            "Actor": {"ID": self.id, "Attributes": self.attributes},
            "scope": "local",
            "time": self.time // 1_000_000_000,
            "timeNano": self.time,
        }


def add_event_route(router: Router, engine: Engine) -> None:
    """Route ``events``."""
    router.add("GET", "/events", _Events(engine).follow)


class _Events:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def follow(self, request: Request) -> None:
        since, until = instant_of(request, "since"), instant_of(request, "until")
        if until and until < since:
            raise HttpError(400, "`since` time cannot be after `until` time")
        filters = filters_of(request, _FILTERS)
        here = self._engine.log.position
        left = (until - time.time_ns()) / 1e9
        past = bool(until) and left <= 0
        window = _Window(0 if since else here, here if past else None, since, until, filters)
        async with request.respond(200, {"Content-Type": "application/json"}, endless=True) as send:
            with trio.move_on_after(left) if until and not past else trio.CancelScope():
                await self._send(window, send)

    async def _send(self, window: _Window, send: Send) -> None:
        """Page by page, with no transaction, queue or backlog between the pages, however slow the client."""
        engine, after, last = self._engine, window.after, window.last
        translator = _Translator(engine)
        while last is None or after < last:
            page = engine.log.read(after, _PAGE)
            if not page:
                try:
                    await engine.core.journal.wait_past(after)
                except EngineClosed:
                    return
                continue
            lines = []
            for record in page:
                if record.time >= window.since and (not window.until or record.time <= window.until):
                    events = translator.events(record)
                    lines += [event.shape() for event in events if _fits(event, window.filters)]
            after = page[-1].position
            if lines:
                await send(b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines))
            else:
                await trio.lowlevel.checkpoint()


@attrs.frozen
class _Window:
    """What to send: records past position ``after``, to ``last`` (None: for ever), between two instants."""

    after: int
    last: int | None
    since: int
    until: int
    filters: Filters


class _Translator:
    """Records in order, though not necessarily all of them, to Docker's events."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._states: dict[str, ContainerState] = {}

    def events(self, record: Record) -> list[_Event]:
        """What Docker would have told of ``record``."""
        event = record.event
        if record.stream.startswith("container/"):
            return list(self._of_container(record))
        if isinstance(event, ImageAdded):
            return [
                self._image(record, event.image, "import" if event.origin == "import" else "pull", event.image)
            ]
        if isinstance(event, Tagged):
            return [self._image(record, event.image, "tag", familiar(event.name))]
        return []

    def _image(self, record: Record, image: str, action: str, name: str) -> _Event:
        state: ImageState | None = self._engine.core.log.get(IMAGES, image)
        labels = dict(state.config.labels) if state else {}
        return _Event("image", action, image, {**labels, "name": name}, record.time)

    def _of_container(self, record: Record) -> Iterator[_Event]:
        before = self._before(record)
        event: Any = record.event
        after = evolve(before, event, record.time)
        if len(self._states) > _CACHE:
            self._states.clear()
        if isinstance(event, Removed):
            self._states.pop(after.id, None)
        else:
            self._states[after.id] = after

        def told(action: str, **more: str) -> _Event:
            spec = after.spec
            fields = {**spec.labels, **more, "image": spec.image_name, "name": after.name}
            return _Event("container", action, after.id, fields, record.time)

        match event:
            case Created():
                yield told("create")
            case Started():
                yield told("start")
            case Exited():
                assert before is not None
                code = UNKNOWN_EXIT if event.exit_code is None else event.exit_code
                lasted = max(after.finished_at - before.started_at, 0) // 1_000_000_000
                yield told("die", exitCode=str(code), execDuration=str(lasted))
                if before.phase is Phase.STOPPING:
                    yield told("stop")
            case KillRequested() | StopRequested():
                yield told("kill", signal=str(signal_number(event.signal)))
            case RemoveRequested():
                if after.process is not None:
                    yield told("kill", signal="9")
            case Renamed():
                yield told("rename", oldName=f"/{event.old}")
            case Removed():
                yield told("destroy")
            case StartRequested() | StartFailed():
                pass

    def _before(self, record: Record) -> ContainerState | None:
        """The container as it was just before ``record``, from the records we had or from its stream."""
        container = record.stream.removeprefix("container/")
        state = self._states.get(container)
        version = state.version if state else 0
        if version > record.version - 1:
            state, version = None, 0
        while version < record.version - 1:
            for earlier in self._engine.log.read_stream(record.stream, version, record.version - 1 - version):
                event: Any = earlier.event
                state = evolve(state, event, earlier.time)
                version = earlier.version
        return state


def _fits(event: _Event, filters: Filters) -> bool:
    for name, values in filters.items():
        match name:
            case "type":
                fits = event.kind in values
            case "event":
                fits = event.action in values
            case "container":
                own = (event.id, event.attributes.get("name", ""))
                fits = event.kind == "container" and any(
                    event.id.startswith(value) or value.removeprefix("/") in own for value in values
                )
            case "image":
                names = {event.image, event.attributes.get("name", "") if event.kind == "image" else ""}
                names |= {name.rpartition(":")[0] for name in names if "/" not in name.rpartition(":")[2]}
                fits = any(value in names or event.image == f"sha256:{value}" for value in values)
            case "label":
                fits = labels_fit(values, event.attributes)
            case "scope":
                fits = "local" in values
            case _:
                fits = False
        if not fits:
            return False
    return True
