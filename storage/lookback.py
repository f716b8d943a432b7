"""What a container or an image was at a record of the history, read back from the log.

A record tells what changed, not what was there. That is found by folding the container's own stream, which
outlives the container, from its first record or, where the first ones were compacted away, from the views as they
were just before the oldest record that is kept. What was found is remembered, for a bounded number of streams.
"""

from __future__ import annotations

from typing import Final, Protocol, TypeVar, cast

from lading.events.container import ContainerEvent, ContainerState, Created, Removed, Renamed, evolve
from lading.events.envelope import Record
from lading.events.facts import Event
from lading.events.ids import container_stream
from lading.events.image import ImageState
from lading.events.selection import Origin, origin_of
from lading.events.views import CONTAINERS, IMAGES, View
from lading.storage.log import Log

__all__ = ["Lookback", "name_given"]

_MOST: Final = 4096
_PAGE: Final = 1000

S = TypeVar("S")


class _Reader(Protocol):
    def get(self, view: View[S], key: str) -> S | None: ...


class Lookback:
    """Answers about the past of ``log``. For one thread; a new one knows nothing yet, and that is all it costs."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._origins: dict[str, Origin | None] = {}
        self._states: dict[str, ContainerState] = {}
        self._base: tuple[int, _Reader] | None = None

    def origin(self, stream: str) -> Origin | None:
        """What the container, image or pull of ``stream`` began with (a ``Lookup``); None if it has none."""
        if stream in self._origins:
            return self._origins[stream]
        found = self._find_origin(stream)
        if found is not None:
            _remember(self._origins, stream, found)
        return found

    def _find_origin(self, stream: str) -> Origin | None:
        kind, _, key = stream.partition("/")
        if kind == "pull":  # it begins with what was asked for, and is no state once it is over
            return next((origin_of(record.event) for record in self._log.read_stream(stream, 0, 1)), None)
        if kind not in ("container", "image"):
            return None
        if (found := _origin(self._log, kind, key)) is not None:
            return found
        for record in self._log.read_stream(stream, 0, 1):
            return origin_of(record.event) or _origin(self._before_the_first(), kind, key)
        return _origin(self._before_the_first(), kind, key)

    def step(self, record: Record) -> tuple[ContainerState | None, ContainerState | None]:
        """The container of ``record`` just before it and just after it: (None, ...) if the record created it.

        (None, None) if nothing of the container is known, which no whole log can bring about. Cheapest when
        asked for records in order.
        """
        stream = record.stream
        known = self._states.get(stream)
        if known is None or known.version >= record.version:
            known = self._beginning(stream) if record.version > 1 else None
        while known is not None and known.version < record.version - 1:
            page = self._log.read_stream(stream, known.version, min(_PAGE, record.version - 1 - known.version))
            if not page:
                return None, None
            for earlier in page:
                known = evolve(known, cast("ContainerEvent", earlier.event), earlier.time)
        if known is None and record.version > 1:
            return None, None
        after = evolve(known, cast("ContainerEvent", record.event), record.time)
        if isinstance(record.event, Removed):
            self._states.pop(stream, None)
        else:
            _remember(self._states, stream, after)
        return known, after

    def until(self, stream: str, position: int) -> ContainerState | None:
        """The container of ``stream`` just before ``position``, which is past whatever was asked of it before.

        None if nothing of it is known.
        """
        known = self._states.get(stream) or self._beginning(stream)
        while known is not None and (page := self._log.read_stream(stream, known.version, _PAGE)):
            for record in page:
                if record.position >= position:
                    break
                known = evolve(known, cast("ContainerEvent", record.event), record.time)
            if page[-1].position >= position:
                break
        if known is not None:
            _remember(self._states, stream, known)
        return known

    def names(self, stream: str) -> list[tuple[int, str]]:
        """What the container of ``stream`` was called: (version, the name that it had from then on), in order."""
        names: list[tuple[int, str]] = []
        version = 0
        while page := self._log.read_stream(stream, version, _PAGE):
            if not version and page[0].version > 1 and (before := self._beginning(stream)) is not None:
                names.append((before.version, before.name))
            names += [(record.version, name) for record in page if (name := name_given(record.event))]
            version = page[-1].version
        return names

    def _beginning(self, stream: str) -> ContainerState | None:
        """The container after the first record of its stream, or as it was before those that are kept."""
        for first in self._log.read_stream(stream, 0, 1):
            if first.version == 1:
                return evolve(None, cast("ContainerEvent", first.event), first.time)
        return self._before_the_first().get(CONTAINERS, stream.removeprefix(container_stream("")))

    def _before_the_first(self) -> _Reader:
        first = self._log.first
        if self._base is None or self._base[0] != first:
            self._base = first, self._log.at(first - 1)
        return self._base[1]


def name_given(event: Event) -> str:
    """The name that ``event`` gives its container, or nothing."""
    if isinstance(event, Created):
        return event.name
    return event.new if isinstance(event, Renamed) else ""


def _origin(views: _Reader, kind: str, key: str) -> Origin | None:
    if kind == "container":
        state = views.get(CONTAINERS, key)
        return None if state is None else Origin(state.spec.image, state.spec.image_name, state.spec.labels)
    image: ImageState | None = views.get(IMAGES, key)
    return None if image is None else Origin(image.image, "", image.config.labels)


def _remember(cache: dict[str, S], key: str, value: S) -> None:
    cache.pop(key, None)
    cache[key] = value
    if len(cache) > _MOST:
        del cache[next(iter(cache))]
