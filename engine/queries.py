"""What can be asked of a store's views, whether they are those of now or of an earlier moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import attrs

from lading.events.claims import container_name
from lading.events.container import ContainerState, status
from lading.events.errors import Ambiguous, Invalid, NotFound
from lading.events.image import ImageState, TagState
from lading.events.moments import Instant, Position, parse_moment
from lading.events.reference import Reference, parse_reference
from lading.events.views import CLAIMS, CONTAINERS, IMAGES, TAGS, Reader
from lading.storage.log import Log

__all__ = [
    "ContainerQueries",
    "ImageQueries",
    "PastEngine",
    "created_at",
    "labels_fit",
    "past_engine",
    "resolve_moment",
]

_UP = frozenset(("running", "paused", "restarting"))
"""Docker's words for what ``docker ps`` shows without ``-a``."""


class ContainerQueries:
    """The containers of one moment."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def get(self, reference: str) -> ContainerState:
        """The container with this id, name, or unique id prefix, in this order.

        Raises ``NotFound`` or ``Ambiguous``.
        """
        reader = self._reader
        if len(reference) == 64 and (state := reader.get(CONTAINERS, reference)) is not None:
            return state
        if reference.isascii() and 0 < len(reference) <= 256:
            named = reader.get(CLAIMS, container_name(reference.removeprefix("/")).key)
            if named is not None:
                state = reader.get(CONTAINERS, named.holder.partition("/")[2])
                if state is not None:
                    return state
            found = reader.scan(CONTAINERS, reference, limit=5)
            if len(found) > 1:
                raise Ambiguous("container", reference, tuple(key for key, _ in found))
            if found:
                return found[0][1]
        raise NotFound("container", reference)

    def list(self, *, all: bool = True) -> list[ContainerState]:  # Docker's word
        """Every container (or only those that run, are paused or wait for a restart), the newest first."""
        states = [state for _, state in self._reader.scan(CONTAINERS)]
        if not all:
            states = [state for state in states if status(state) in _UP]
        return sorted(states, key=lambda state: (state.created_at, state.id), reverse=True)


class ImageQueries:
    """The images of one moment."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def list(self) -> list[ImageState]:
        """Every image, the newest first."""
        states = [state for _, state in self._reader.scan(IMAGES)]
        return sorted(states, key=lambda state: (state.added_at, state.image), reverse=True)

    def tag(self, name: str) -> TagState | None:
        """Where the tag with the full name ``name`` points."""
        return self._reader.get(TAGS, name)

    def get(self, image: str) -> ImageState | None:
        """The image with the id ``image``."""
        return self._reader.get(IMAGES, image)

    def resolve(self, reference: str) -> ImageState:
        """The image with this name, id, or unique id prefix; a name's digest counts for more than its tag.

        Raises ``NotFound``, ``Ambiguous`` or ``Invalid``.
        """
        bare = reference.removeprefix("sha256:")
        if bare and all(letter in "0123456789abcdef" for letter in bare):
            found = self._reader.scan(IMAGES, f"sha256:{bare}", limit=5)
            # A name may look like a prefix of an id: a name that exists comes first.
            if not (len(found) == 1 and len(bare) == 64) and reference == bare:
                named = self._named(parse_reference(reference)) if len(bare) < 64 else None
                if named is not None:
                    return named
            if len(found) > 1:
                raise Ambiguous("image", reference, tuple(key for key, _ in found))
            if found:
                return found[0][1]
            raise NotFound("image", reference)
        named = self._named(parse_reference(reference))
        if named is None:
            raise NotFound("image", reference)
        return named

    def is_id(self, reference: str, image: ImageState) -> bool:
        """Whether ``reference``, which ``resolve`` found to be ``image``, is its id or the beginning of it."""
        bare = reference.removeprefix("sha256:")
        if not image.image.startswith(f"sha256:{bare}"):
            return False
        return reference != bare or len(bare) == 64 or self._named(parse_reference(bare)) is None

    def _named(self, reference: Reference) -> ImageState | None:
        tag = self.tag(reference.full)
        return None if tag is None else self.get(tag.image)


def created_at(image: ImageState) -> int:
    """When ``image`` was made, in nanoseconds UTC, by its config; where that has no time, when it came here."""
    try:
        return int(datetime.fromisoformat(image.created).timestamp() * 1e9)
    except (ValueError, OverflowError):
        return image.added_at


def labels_fit(wanted: Iterable[str], labels: Mapping[str, str]) -> bool:
    """Whether ``labels`` has every one of ``wanted``, each ``key`` or ``key=value``."""
    for word in wanted:
        key, equals, value = word.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


@attrs.frozen
class PastEngine:
    """What the engine's queries gave just after ``position``, whose record was written at ``time`` (ns UTC; 0:
    none).

    Read-only, and as cheap to keep as an id: states are read when they are asked for. The queries raise
    ``NotInHistory`` once the log was compacted past ``position``.
    """

    position: int
    time: int
    containers: ContainerQueries
    images: ImageQueries
    reader: Reader


def past_engine(log: Log, position: int) -> PastEngine:
    """The engine as of ``position``. Raises ``NotInHistory``."""
    past = log.at(position)
    last = log.read(position - 1, 1) if position >= log.first else []
    time = last[0].time if last else 0
    return PastEngine(position, time, ContainerQueries(past), ImageQueries(past), past)


def resolve_moment(log: Log, when: int | str | datetime, now: int) -> int:
    """The position that ``when`` means: a position, an instant, or either in words (``events.moments``).

    An instant is the last position whose record's time is at or before it, in log order. Raises ``Invalid``.
    """
    if isinstance(when, bool) or (isinstance(when, int) and when < 0):
        raise Invalid("moment", when, "give a position from 0 on, a datetime, or words such as '2h ago'")
    if isinstance(when, int):
        return when
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise Invalid("moment", when, "a datetime needs a time zone, as datetime.now(UTC) has")
        since = when - datetime.fromtimestamp(0, when.tzinfo)
        return log.position_at(((since.days * 86_400 + since.seconds) * 10**6 + since.microseconds) * 1000)
    moment = parse_moment(when, now)
    match moment:
        case Position():
            return moment.position
        case Instant():
            return log.position_at(moment.time)
