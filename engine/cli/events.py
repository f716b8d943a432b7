"""Records in words: rows of a table for ``lading log`` and ``lading events``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from lading.engine.cli.tables import ago, short_id, size
from lading.events.codec import event_tag
from lading.events.container import Created, Exited, Rebased, RemoveFailed, Renamed, StartFailed
from lading.events.described import as_dict
from lading.events.envelope import Actor, Record
from lading.events.errors import Invalid
from lading.events.facts import Event
from lading.events.image import (
    ImageAdded,
    ImageRemoved,
    LayerAdded,
    LayerArchived,
    LayerPacked,
    LayerRemoved,
    LayerRemoveRequested,
    LayerSealed,
    ManifestAdded,
    Pushed,
    Tagged,
    Untagged,
)
from lading.events.moments import utc_time
from lading.events.reference import parse_reference
from lading.events.transfer import (
    LeaseReleased,
    LeaseTaken,
    PullFailed,
    PullFinished,
    PullProgressed,
    PullRequested,
)
from lading.storage.log import Log
from lading.storage.lookback import Lookback, name_given

__all__ = ["COLUMNS", "COMMAND", "DIM", "TONED", "Words", "as_dict", "tone", "utc_time"]

COLUMNS = ("POSITION", "WHEN", "WHO", "STREAM", "WHAT", "DETAILS")
DIM = (0, 1, 2)
TONED = 4
COMMAND = "COMMAND"
"""A column more in front of the details, for who asks for it."""

_SHORT = 16
"""Digits of a command that are shown: twelve of them are the time (engine/core.py), the rest chance."""
_MOST = 4096
_UNKNOWN = "unknown"


class Words:
    """Turns records into rows. Container names are those of the moment.

    They are read from ``log``; without one, they are those that ``learn`` was told and that records gave since.
    """

    def __init__(self, log: Log | None, utc: bool, commands: bool = False) -> None:
        self._past = None if log is None else Lookback(log)
        self._utc, self._commands = utc, commands
        self._now = time.time()
        self._names: dict[str, list[tuple[int, str]]] = {}
        self._users: dict[int, str] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """The headings of the rows."""
        return (*COLUMNS[:-1], COMMAND, COLUMNS[-1]) if self._commands else COLUMNS

    def row(self, record: Record) -> tuple[str, ...]:
        """The cells of ``record`` under ``columns``."""
        when = utc_time(record.time)[:-7] + "Z" if self._utc else ago(self._now - record.time / 1e9)
        return (
            str(record.position),
            when,
            self.who(record.actor),
            self.stream(record),
            event_tag(record.event),
            *((record.command[:_SHORT],) if self._commands else ()),
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
            return _familiar(name)
        return f"{kind} {short_id(name)}".rstrip()

    def knows(self, record: Record) -> bool:
        """Whether the container of ``record`` has a name here; what is no container needs none."""
        return not record.stream.startswith("container/") or bool(self._known(record))

    def learn(self, stream: str, names: Sequence[tuple[int, str]]) -> None:
        """Take note of what the container of ``stream`` was called: (version, name from then on), in order."""
        self._names[stream] = list(names)
        if len(self._names) > _MOST:
            del self._names[next(iter(self._names))]

    def _known(self, record: Record) -> list[tuple[int, str]]:
        if record.stream not in self._names:
            self.learn(record.stream, ())
        names = self._names[record.stream]
        given = name_given(record.event)
        if not names and self._past is not None and not isinstance(record.event, Created):
            self.learn(record.stream, self._past.names(record.stream))
        elif given and (not names or names[-1][0] < record.version):
            if not names and isinstance(record.event, Renamed):
                names.append((0, record.event.old))
            names.append((record.version, given))
        return self._names[record.stream]

    def _container(self, record: Record) -> str:
        if isinstance(record.event, Renamed):
            self._known(record)
            return record.event.old
        names = [name for version, name in self._known(record) if version <= record.version]
        return names[-1] if names else ""

    def _user(self, uid: int) -> str:
        if uid not in self._users:
            import pwd

            try:
                self._users[uid] = pwd.getpwuid(uid).pw_name
            except KeyError:
                self._users[uid] = str(uid)
        return self._users[uid]


def tone(event: Event) -> str:
    """What sort of thing ``event`` is, for its colour: ``failure``, or what it happened to."""
    failed = isinstance(event, StartFailed | RemoveFailed | PullFailed) or (
        isinstance(event, Exited) and event.exit_code != 0
    )
    return "failure" if failed else event_tag(event).partition(".")[0]


def details(event: Event) -> str:
    """The event's fields in a few words."""
    words = _DETAILS.get(type(event))
    return words(event) if words is not None else _each_field(event)


def _familiar(name: str) -> str:
    try:
        return parse_reference(name).familiar
    except Invalid:
        return name


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


def _layer_added(event: LayerAdded) -> str:
    if not event.size:  # a container's writable layer, of which no archive was made
        return f"{size(event.disk_bytes)} on disk, {event.inodes} files" if event.inodes else "not counted"
    return f"{event.size} bytes, {event.inodes} files"


def _archived(event: LayerArchived) -> str:
    match event.form:
        case "blob":
            return f"the compressed archive is kept: {short_id(event.blob)}, {size(event.blob_size)}"
        case "split":
            return f"the archive's headers are kept, {size(event.disk_bytes)}"
        case _:
            return "the archive is made by packing the layer"


def _progressed(event: PullProgressed) -> str:
    return f"{event.done} of {event.layers} layers, {size(event.fetched)} of {size(event.total)}"


_DETAILS: Mapping[type[Any], Callable[[Any], str]] = {
    Created: _created,
    Exited: _exited,
    Renamed: lambda event: f"{event.old} to {event.new}",
    Tagged: _tagged,
    ImageAdded: lambda event: f"{event.origin}, layers: {len(event.layers)}" + _in_brackets(event.comment),
    LayerAdded: _layer_added,
    LayerSealed: lambda event: f"what container {short_id(event.container)} wrote, not copied",
    Rebased: lambda event: f"what it wrote is layer {short_id(event.chain)} now",
    LayerArchived: _archived,
    LayerPacked: lambda event: f"to be pushed: {short_id(event.digest)}, {size(event.size)}",
    LayerRemoveRequested: lambda event: "nothing uses it",
    LayerRemoved: lambda event: "",
    ImageRemoved: lambda event: "",
    Untagged: lambda event: f"was {short_id(event.image)}",
    ManifestAdded: lambda event: short_id(event.digest),
    Pushed: lambda event: f"{_familiar(event.name)} as {short_id(event.digest)}",
    PullRequested: lambda event: f"{_familiar(event.reference)} for {event.platform}",
    PullProgressed: _progressed,
    PullFinished: lambda event: f"image {short_id(event.image)}, {size(event.fetched)} fetched",
    PullFailed: lambda event: event.why,
    LeaseTaken: lambda event: f"for a {event.purpose}, layers: {len(event.layers)}",
    LeaseReleased: lambda event: f"the {event.purpose} is over",
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
