"""The views: what the engine knows, each a fold of the log and nothing else.

``project`` is the one definition of how a record changes them. The log applies it inside the transaction
that appends the record, and again, from position 1, when the views are rebuilt or verified: both must give
the same bytes. Names are claimed here, too, so that two containers can't get one name in one transaction.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar, assert_never, cast

import attrs

from lading.events.claims import Claim, ClaimReleased, ClaimState, ClaimTaken, container_name
from lading.events.compaction import LogCompacted
from lading.events.container import (
    ContainerEvent,
    ContainerState,
    Created,
    Exited,
    KillRequested,
    Removed,
    RemoveFailed,
    RemoveRequested,
    Renamed,
    Started,
    StartFailed,
    StartRequested,
    StopRequested,
    evolve,
)
from lading.events.envelope import Record
from lading.events.errors import AlreadyExists, InUse
from lading.events.ids import ContainerId
from lading.events.image import ImageAdded, ImageState, LayerAdded, LayerState, Tagged, TagState
from lading.events.store import StoreCreated

__all__ = [
    "CLAIMS",
    "CONTAINERS",
    "IMAGES",
    "LAYERS",
    "MOVES",
    "TAGS",
    "VIEWS",
    "Reader",
    "View",
    "Views",
    "project",
]

S = TypeVar("S")


@attrs.frozen(eq=False)
class View(Generic[S]):
    """A table of states by key. ``schema`` goes up whenever the bytes of a state would change."""

    name: str
    state: type[S]
    schema: int = 1


CONTAINERS = View("container", ContainerState)
"""Container id -> its state, until it is deleted."""
CLAIMS = View("claim", ClaimState)
"""``kind/name`` (``Claim.key``) -> whose it is."""
IMAGES = View("image", ImageState)
"""Image id -> its state."""
LAYERS = View("layer", LayerState)
"""Chain id -> its state."""
TAGS = View("tag", TagState)
"""Full tag name -> the image it points at."""

MOVES = frozenset(
    (
        StartRequested,
        Started,
        StartFailed,
        StopRequested,
        KillRequested,
        Exited,
        RemoveRequested,
        RemoveFailed,
    )
)
"""The events that change nothing but their container's own state."""

VIEWS: tuple[View[Any], ...] = (CONTAINERS, CLAIMS, IMAGES, LAYERS, TAGS)


class Reader(Protocol):
    """The views at one moment, to read: now, or as they were at some position."""

    def get(self, view: View[S], key: str) -> S | None:
        """The state at ``key``, or None."""

    def scan(self, view: View[S], prefix: str = "", limit: int = 0) -> list[tuple[str, S]]:
        """Every (or the first ``limit``) state whose key starts with ``prefix``, by key."""


class Views(Protocol):
    """Where states are kept: LMDB, or a dict while views are rebuilt aside."""

    def get(self, view: View[S], key: str) -> S | None:
        """The state at ``key``, or None."""

    def put(self, view: View[S], key: str, state: S) -> None:
        """Set the state at ``key``."""

    def delete(self, view: View[S], key: str) -> None:
        """Forget ``key``."""


def project(record: Record, views: Views) -> None:
    """Bring ``views`` from just before ``record`` to just after it.

    Raises ``AlreadyExists`` or ``WrongPhase`` for an event that can't happen there; what it has put by then
    must be thrown away by the caller.
    """
    event = record.event
    if type(event) in MOVES:  # most of all events: looked up first
        container = _container(record)
        views.put(CONTAINERS, container, _advance(views, container, record))
        return
    match event:
        case Created():
            _claim(views, container_name(event.name), record.stream)
            before = views.get(CONTAINERS, event.container)
            views.put(CONTAINERS, event.container, evolve(before, event, record.time))
        case Removed():
            container = _container(record)
            _free(views, container_name(_advance(views, container, record).name), record.stream)
            views.delete(CONTAINERS, container)
        case Renamed():
            container = _container(record)
            _claim(views, container_name(event.new), record.stream)
            before = views.get(CONTAINERS, container)
            if before is not None and before.name != event.new:
                _free(views, container_name(before.name), record.stream)
            views.put(CONTAINERS, container, _advance(views, container, record))
        case (
            StartRequested()
            | Started()
            | StartFailed()
            | StopRequested()
            | KillRequested()
            | Exited()
            | RemoveRequested()
            | RemoveFailed()
        ):
            container = _container(record)
            views.put(CONTAINERS, container, _advance(views, container, record))
        case LayerAdded():
            views.put(LAYERS, event.chain, LayerState(**attrs.asdict(event)))
        case ImageAdded():
            layers = [views.get(LAYERS, chain) for chain in event.layers]
            size = sum(layer.disk_bytes for layer in layers if layer is not None)
            fields = {field.name: getattr(event, field.name) for field in attrs.fields(ImageAdded)}
            known = views.get(IMAGES, event.image)
            tags = () if known is None else known.tags
            views.put(IMAGES, event.image, ImageState(**fields, added_at=record.time, size=size, tags=tags))
        case Tagged():
            _tag(views, event, record.time)
        case ClaimTaken():
            _claim(views, Claim(event.kind, event.name), event.holder)
        case ClaimReleased():
            _release(views, Claim(event.kind, event.name), event.holder)
        case StoreCreated() | LogCompacted():
            pass
        case _:
            assert_never(event)


def _container(record: Record) -> ContainerId:
    return ContainerId(record.stream.removeprefix("container/"))


def _advance(views: Views, container: ContainerId, record: Record) -> ContainerState:
    event = cast("ContainerEvent", record.event)  # project has matched it
    return evolve(views.get(CONTAINERS, container), event, record.time)


def _claim(views: Views, claim: Claim, holder: str) -> None:
    held = views.get(CLAIMS, claim.key)
    if held is not None and held.holder != holder:
        raise AlreadyExists(claim.kind.removesuffix("-name"), claim.name, held.holder.partition("/")[2])
    views.put(CLAIMS, claim.key, ClaimState(holder))


def _free(views: Views, claim: Claim, holder: str) -> None:
    held = views.get(CLAIMS, claim.key)
    if held is not None and held.holder == holder:
        views.delete(CLAIMS, claim.key)


def _release(views: Views, claim: Claim, holder: str) -> None:
    held = views.get(CLAIMS, claim.key)
    if held is None or held.holder != holder:
        users = () if held is None else (held.holder,)
        raise InUse(claim.kind, claim.name, users, f"{holder} can't release what it doesn't hold")
    views.delete(CLAIMS, claim.key)


def _tag(views: Views, event: Tagged, time: int) -> None:
    pointed = views.get(TAGS, event.name)
    before = views.get(IMAGES, pointed.image) if pointed is not None else None
    if before is not None and before.image != event.image:
        left = tuple(tag for tag in before.tags if tag != event.name)
        views.put(IMAGES, before.image, attrs.evolve(before, tags=left))
    now = views.get(IMAGES, event.image)
    if now is not None and event.name not in now.tags:
        views.put(IMAGES, event.image, attrs.evolve(now, tags=tuple(sorted((*now.tags, event.name)))))
    views.put(TAGS, event.name, TagState(event.name, event.image, time))
