"""The views: what the engine knows, each a fold of the log and nothing else.

``project`` is the one definition of how a record changes them. The log applies it inside the transaction
that appends the record, and again, from position 1, when the views are rebuilt or verified: both must give
the same bytes. Names are claimed here, too, so that two containers can't get one name in one transaction.
"""

from __future__ import annotations

from typing import Any, assert_never, cast

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
from lading.events.facts import ImageEvent, TransferEvent
from lading.events.ids import ContainerId
from lading.events.imageviews import (
    ARCHIVES,
    GOING,
    IMAGES,
    LAYERS,
    LEASES,
    MANIFESTS,
    PULLS,
    TAGS,
    project_image,
    project_transfer,
)
from lading.events.store import StoreCreated
from lading.events.view import Reader, View, Views

__all__ = [
    "ARCHIVES",
    "CLAIMS",
    "CONTAINERS",
    "GOING",
    "IMAGES",
    "LAYERS",
    "LEASES",
    "MANIFESTS",
    "MOVES",
    "PULLS",
    "TAGS",
    "VIEWS",
    "Reader",
    "View",
    "Views",
    "project",
]

CONTAINERS = View("container", ContainerState)
"""Container id -> its state, until it is deleted."""
CLAIMS = View("claim", ClaimState)
"""``kind/name`` (``Claim.key``) -> whose it is."""

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

VIEWS: tuple[View[Any], ...] = (
    CONTAINERS,
    CLAIMS,
    IMAGES,
    LAYERS,
    TAGS,
    ARCHIVES,
    MANIFESTS,
    GOING,
    PULLS,
    LEASES,
)


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
        case ClaimTaken():
            _claim(views, Claim(event.kind, event.name), event.holder)
        case ClaimReleased():
            _release(views, Claim(event.kind, event.name), event.holder)
        case StoreCreated() | LogCompacted():
            pass
        case _ if isinstance(event, ImageEvent):
            project_image(event, record.time, views)
        case _ if isinstance(event, TransferEvent):
            project_transfer(event, record, views)
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
