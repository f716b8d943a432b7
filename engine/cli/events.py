"""Records in words: rows of a table for ``lading log`` and ``lading events``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from lading.engine.cli.tables import ago, short_id
from lading.events.codec import event_tag
from lading.events.container import Created, Exited, Renamed
from lading.events.described import as_dict
from lading.events.envelope import Actor, Record
from lading.events.errors import Invalid
from lading.events.facts import Event
from lading.events.image import ImageAdded, LayerAdded, Tagged
from lading.events.moments import utc_time
from lading.events.reference import parse_reference
from lading.storage.log import Log

__all__ = ["COLUMNS", "Words", "as_dict", "utc_time"]

COLUMNS = ("POSITION", "WHEN", "WHO", "STREAM", "WHAT", "DETAILS")

_PAGE = 1000
_UNKNOWN = "unknown"


class Words:
    """Turns records into rows. Container names are those of the moment, read from the containers' streams."""

    def __init__(self, log: Log, utc: bool) -> None:
        self._log, self._utc = log, utc
        self._now = time.time()
        self._names: dict[str, str] = {}
        self._users: dict[int, str] = {}

    def row(self, record: Record) -> tuple[str, ...]:
        """``COLUMNS`` of ``record``."""
        when = utc_time(record.time)[:-7] + "Z" if self._utc else ago(self._now - record.time / 1e9)
        return (
            str(record.position),
            when,
            self.who(record.actor),
            self.stream(record),
            event_tag(record.event),
            details(record.event),
        )

    def who(self, actor: Actor) -> str:
        """``root[4711] python``; a part that is not known is left out, and is never taken to be root."""
        parts = _UNKNOWN if actor.uid is None else self._user(actor.uid)
        if actor.pid is not None:
            parts += f"[{actor.pid}]"
        return f"{parts} {actor.client}".rstrip()

    def stream(self, record: Record) -> str:
        """What the record is about, as a person would call it then."""
        kind, _, name = record.stream.partition("/")
        if kind == "container":
            return self._container(record) or short_id(name)
        if kind == "tag":
            try:
                return parse_reference(name).familiar
            except Invalid:
                return name
        return f"{kind} {short_id(name)}".rstrip()

    def _container(self, record: Record) -> str:
        event = record.event
        if isinstance(event, Created):
            self._names[record.stream] = event.name
        elif isinstance(event, Renamed):
            self._names[record.stream] = event.new
            return event.old
        elif record.stream not in self._names:
            self._names[record.stream] = self._name_before(record)
        return self._names[record.stream]

    def _name_before(self, record: Record) -> str:
        name, version = "", 0
        while version < record.version and (page := self._log.read_stream(record.stream, version, _PAGE)):
            for each in page:
                if each.version < record.version:
                    event = each.event
                    name = event.name if isinstance(event, Created) else name
                    name = event.new if isinstance(event, Renamed) else name
            version = page[-1].version
        return name

    def _user(self, uid: int) -> str:
        if uid not in self._users:
            import pwd

            try:
                self._users[uid] = pwd.getpwuid(uid).pw_name
            except KeyError:
                self._users[uid] = str(uid)
        return self._users[uid]


def details(event: Event) -> str:
    """The event's fields in a few words."""
    words = _DETAILS.get(type(event))
    return words(event) if words is not None else _each_field(event)


def _created(event: Created) -> str:
    return f"{_image(event.spec.image_name)}: {' '.join(event.spec.args)}"


def _image(name: str) -> str:
    return short_id(name) if name.startswith("sha256:") else name


def _exited(event: Exited) -> str:
    code = "exit code unknown" if event.exit_code is None else f"exit code {event.exit_code}"
    return f"run {event.run}, {code}" + (f": {event.why}" if event.why else "")


def _tagged(event: Tagged) -> str:
    before = f", before {short_id(event.previous)}" if event.previous and event.previous != event.image else ""
    return f"{short_id(event.image)}{before}"


_DETAILS: Mapping[type[Any], Callable[[Any], str]] = {
    Created: _created,
    Exited: _exited,
    Renamed: lambda event: f"{event.old} to {event.new}",
    Tagged: _tagged,
    ImageAdded: lambda event: f"{event.origin}, layers: {len(event.layers)}" + _in_brackets(event.comment),
    LayerAdded: lambda event: f"{event.size} bytes, {event.inodes} files",
}


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def _each_field(event: Event) -> str:
    """Every field that is one word or number; a process is its pid."""
    words = []
    for field in attrs.fields(type(event)):
        value = getattr(event, field.name)
        if hasattr(value, "pid"):
            words.append(f"pid {value.pid}")
        elif isinstance(value, bool):
            words.extend([field.name.replace("_", " ")] if value else [])
        elif isinstance(value, str | int) and value != "":
            shown = short_id(value) if isinstance(value, str) and value.startswith("sha256:") else value
            words.append(f"{field.name.replace('_', ' ')} {shown}")
    return ", ".join(words)
