"""The history over HTTP: the log's records as Docker's events, from any time and as they happen.

One record can be several of Docker's events or none: a stop that was asked for is a ``kill`` at once, and a
``die`` and a ``stop`` when the process is gone. What Docker attaches to an event (name, image, labels) is what
held at that moment, which the container's own stream tells. Docker's daemon remembers its last 256 events; here
``since`` goes back as far as the log does, over restarts and reboots.

Source: Docker Engine API v1.47, SystemEvents.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from lading.engine.api.history import Window, each_page
from lading.engine.api.imageshapes import familiar
from lading.engine.api.request import Filters, filters_of, instant_of
from lading.engine.api.shapes import UNKNOWN_EXIT
from lading.engine.api.volumeevents import volume_words
from lading.engine.engine import Engine
from lading.engine.http.message import HttpError, Request, Send
from lading.engine.http.router import Router
from lading.engine.queries import labels_fit
from lading.events.container import (
    Created,
    Exited,
    HealthChanged,
    KillRequested,
    Paused,
    Phase,
    Removed,
    RemoveRequested,
    Renamed,
    Started,
    StartFailed,
    StartRequested,
    StopRequested,
    Unpaused,
    Updated,
)
from lading.events.envelope import Record
from lading.events.execs import ExecCreated, ExecExited, ExecRequested
from lading.events.ids import container_stream, image_stream
from lading.events.image import ImageAdded, ImageRemoved, LayerSealed, Pushed, Tagged, Untagged
from lading.events.reference import parse_reference
from lading.events.selection import Selection, is_image, select
from lading.events.signals import signal_number
from lading.events.strictjson import parse_object
from lading.events.transfer import LeaseTaken, PullFinished, PullRequested
from lading.events.views import CONTAINERS
from lading.storage.layers import blob_name
from lading.storage.log import Log
from lading.storage.lookback import Lookback
from lading.storage.store import Paths

__all__ = ["add_event_route"]

_NEVER_HERE: Final = ("config", "daemon", "network", "node", "plugin", "secret", "service")
_FILTERS: Final = frozenset(("container", "event", "image", "label", "scope", "type", "volume", *_NEVER_HERE))
"""Docker's. Of some of these kinds nothing ever happens here, so they fit nothing."""


@attrs.frozen
class _Event:
    """One of Docker's events. ``image``: the id of the image it is about or its container is made from."""

    kind: str
    action: str
    id: str
    attributes: dict[str, str]
    time: int
    image: str

    def shape(self) -> dict[str, Any]:
        both = {"status": self.action, "id": self.id} if self.kind != "volume" else {}
        return {
            **both,
            **({"from": self.attributes.get("image", "")} if self.kind == "container" else {}),
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
        if not since and request.query.get("since").strip():
            since = 1  # from the beginning is not the same as from now on
        if until and until < since:
            raise HttpError(400, "`since` time cannot be after `until` time")
        filters = filters_of(request, _FILTERS)
        window, core = self._window(since, until), self._engine.core
        async with request.respond(200, {"Content-Type": "application/json"}, endless=True) as send:
            lines = _Lines(core.log, core.paths, filters, since, until, send)
            await each_page(self._engine.log, _selection(filters), window, lines.send)

    def _window(self, since: int, until: int) -> Window:
        """From ``since`` to ``until``. Without a beginning it is the present, or the past if it ends there.

        (Docker's daemon would give what it has buffered, too, before a present that ends in the future.)
        """
        history = self._engine.log
        past = 0 < until <= time.time_ns()
        after = history.position_from(since) - 1 if since else 0 if past else history.position
        after = max(after, history.first - 1)
        if past:
            return Window(after, history.position_at(until))
        return Window(after, ends=until or None)


def _selection(filters: Filters) -> Selection:
    """Records that could give an event which fits: the rest need not be decoded."""
    kinds = filters.get("type", ("container", "image", "volume"))
    streams = {
        "container": ("container/", "exec/", "image/"),
        "image": ("image/", "tag/", "pull/"),
        "volume": ("volume/", "container/"),
    }
    return select(streams=[stream for kind in kinds for stream in streams.get(kind, ())] or ["none"])


class _Lines:
    """Sends what of each page of records is an event that fits, with nothing kept between the pages."""

    def __init__(self, log: Log, paths: Paths, filters: Filters, since: int, until: int, send: Send) -> None:
        self._translator = _Translator(log, paths)
        self._filters, self._since, self._until = filters, since, until
        self._send = send

    async def send(self, page: list[Record]) -> bool:
        lines = []
        for record in page:
            events = self._translator.events(record)
            if record.time >= self._since and (not self._until or record.time <= self._until):
                lines += [event.shape() for event in events if _fits(event, self._filters)]
        if lines:
            await self._send(b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines))
        return True


class _Translator:
    """Records in order, though not necessarily all of them, to Docker's events."""

    def __init__(self, log: Log, paths: Paths) -> None:
        self._log, self._paths = log, paths
        self._past = Lookback(log)

    def events(self, record: Record) -> list[_Event]:
        """What Docker would have told of ``record``."""
        if record.stream.startswith(("container/", "volume/")):
            return self._with_volumes(record)
        if record.stream.startswith("exec/"):
            return self._of_exec(record)
        match record.event:
            case ImageAdded(image=image, origin="import" | "load" as origin):
                return [self._image(record, image, origin, image)]
            case ImageAdded(origin="commit"):
                return self._committed(record, record.event)
            case ImageRemoved(image=image):
                return [self._image(record, image, "delete", image)]
            case Tagged(image=image, name=name) if "@" not in name and not self._is_brought(record):
                return [self._image(record, image, "tag", familiar(name))]
            case Untagged(image=image, name=name) if "@" not in name:
                return [self._image(record, image, "untag", familiar(name))]
            case PullFinished(image=image):
                return [self._moved(record, image, "pull", self._pulled(record.stream))]
            case Pushed(image=image, name=name):
                return [self._moved(record, image, "push", familiar(name))]
        return []

    def _with_volumes(self, record: Record) -> list[_Event]:
        """What a container or a volume did. A volume is mounted before, and unmounted after."""
        own = list(self._of_container(record)) if record.stream.startswith("container/") else []
        told = [
            _Event("volume", word.action, word.name, word.attributes, record.time, "")
            for word in volume_words(self._log, record)
        ]
        return [*told, *own] if isinstance(record.event, Started) else [*own, *told]

    def _committed(self, record: Record, event: ImageAdded) -> list[_Event]:
        """Docker tells it of the container, which the append that sealed its layer names, or the image's
        config."""
        together = self._log.first_append(record.command) or ()
        if any(isinstance(each.event, LeaseTaken) for each in together):
            return []  # its digests were found out, that is all
        named = [each.event for each in together if isinstance(each.event, Tagged)]
        sealed = [each.event.container for each in together if isinstance(each.event, LayerSealed)]
        container = sealed[0] if sealed else self._container_of(event.image)
        if not container:
            return []
        state = self._log.get(CONTAINERS, container)
        about = {"comment": event.comment, "imageID": event.image}
        about["imageRef"] = familiar(named[0].name) if named else ""
        if state is not None:
            about = {**state.spec.labels, **about, "image": state.spec.image_name, "name": state.name}
        image = state.spec.image if state is not None else ""
        return [_Event("container", "commit", container, about, record.time, image)]

    def _container_of(self, image: str) -> str:
        try:
            said = parse_object(blob_name(self._paths, image).read_bytes()).get("container")
        except (OSError, ValueError):
            return ""
        return said if isinstance(said, str) else ""

    def _image(self, record: Record, image: str, action: str, name: str) -> _Event:
        return _Event("image", action, image, {**self._labels(image), "name": name}, record.time, image)

    def _moved(self, record: Record, image: str, action: str, name: str) -> _Event:
        """Between a registry and here: Docker tells of the name, and has the repository for a name of the name."""
        repository = parse_reference(name).repository if name else image
        attributes = {**self._labels(image), "name": repository}
        return _Event("image", action, name or image, attributes, record.time, image)

    def _labels(self, image: str) -> Mapping[str, str]:
        origin = self._past.origin(image_stream(image))
        return origin.labels if origin else {}

    def _pulled(self, stream: str) -> str:
        """The familiar name that the pull of ``stream`` was asked for; empty if that was compacted away."""
        for record in self._log.read_stream(stream, 0, 1):
            if isinstance(record.event, PullRequested):
                return familiar(record.event.reference)
        return ""

    def _is_brought(self, record: Record) -> bool:
        """Whether the name of ``record`` came with a pull or a load, rather than being given by somebody."""
        together = self._log.first_append(record.command) or ()
        return any(
            isinstance(each.event, PullRequested | PullFinished)
            or (isinstance(each.event, LeaseTaken) and each.event.purpose in ("load", "commit"))
            or (isinstance(each.event, ImageAdded) and each.event.origin == "load")
            for each in together
        )

    def _of_exec(self, record: Record) -> list[_Event]:
        """Docker has them as events of their container; the words of the command are part of the action."""
        created: ExecCreated | None = None
        for first in self._log.read_stream(record.stream, 0, 1):
            created = first.event if isinstance(first.event, ExecCreated) else None
        if created is None:
            return []  # that it was created was compacted away, and with it whose it was
        state = self._past.until(container_stream(created.container), record.position)
        fields: dict[str, str] = {"execID": created.exec}
        if state is not None:
            fields = {**state.spec.labels, **fields, "image": state.spec.image_name, "name": state.name}
        match record.event:
            case ExecCreated():
                action = "exec_create: " + " ".join(created.spec.args)
            case ExecRequested():
                action = "exec_start: " + " ".join(created.spec.args)
            case ExecExited(exit_code=code):
                action = "exec_die"
                fields["exitCode"] = str(UNKNOWN_EXIT if code is None else code)
            case _:
                return []
        image = state.spec.image if state is not None else ""
        return [_Event("container", action, created.container, fields, record.time, image)]

    def _of_container(self, record: Record) -> Iterator[_Event]:
        before, after = self._past.step(record)
        container = record.stream.removeprefix(container_stream(""))
        event: Any = record.event

        def told(action: str, **more: str) -> _Event:
            if after is None:
                return _Event("container", action, container, more, record.time, "")
            fields = {**after.spec.labels, **more, "image": after.spec.image_name, "name": after.name}
            return _Event("container", action, container, fields, record.time, after.spec.image)

        match event:
            case Created():
                yield told("create")
            case Started():
                yield told("start")
            case Paused():
                yield told("pause")
            case Unpaused():
                yield told("unpause")
            case Updated():
                yield told("update")
            case HealthChanged():
                yield told(f"health_status: {event.health}")
            case Exited():
                if event.oom:
                    yield told("oom")
                code = UNKNOWN_EXIT if event.exit_code is None else event.exit_code
                began = before.started_at if before else record.time
                lasted = max((event.at or record.time) - began, 0) // 1_000_000_000
                yield told("die", exitCode=str(code), execDuration=str(lasted))
                if before is not None and before.phase is Phase.STOPPING:
                    yield told("stop")
            case KillRequested() | StopRequested():
                yield told("kill", signal=str(signal_number(event.signal)))
            case RemoveRequested():
                if after is not None and after.process is not None:
                    yield told("kill", signal="9")
            case Renamed():
                yield told("rename", oldName=f"/{event.old}")
            case Removed():
                yield told("destroy")
            case StartRequested() | StartFailed():
                pass


def _fits(event: _Event, filters: Filters) -> bool:
    for name, values in filters.items():
        match name:
            case "type":
                fits = event.kind in values
            case "event":
                fits = event.action in values or event.action.partition(":")[0] in values
            case "container":
                own = (event.id, event.attributes.get("name", ""))
                fits = event.kind == "container" and any(
                    event.id.startswith(value) or value.removeprefix("/") in own for value in values
                )
            case "image":
                name = event.attributes.get("name" if event.kind == "image" else "image", "")
                fits = any(is_image(value, event.image, name) for value in values)
            case "volume":
                fits = event.kind == "volume" and any(event.id.startswith(value) for value in values)
            case "label":
                fits = labels_fit(values, event.attributes)
            case "scope":
                fits = "local" in values
            case _:
                fits = False
        if not fits:
            return False
    return True
