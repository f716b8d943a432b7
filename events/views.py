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
    Paused,
    Removed,
    RemoveFailed,
    RemoveRequested,
    Renamed,
    Started,
    StartFailed,
    StartRequested,
    StopRequested,
    Unpaused,
    evolve,
)
from lading.events.containerviews import (
    CONTAINERS,
    EXECS,
    SETTINGS,
    SUPERVISED,
    SUPERVISION,
    VOLUMES,
    forget_upkeep,
    project_exec,
    project_upkeep,
    project_volume,
)
from lading.events.envelope import Record
from lading.events.errors import AlreadyExists, InUse
from lading.events.execs import ExecEvent
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
    SEALED,
    TAGS,
    project_image,
    project_transfer,
)
from lading.events.store import StoreCreated
from lading.events.view import Reader, View, Views
from lading.events.volume import VolumeEvent

__all__ = [
    "ARCHIVES",
    "CLAIMS",
    "CONTAINERS",
    "EXECS",
    "GOING",
    "IMAGES",
    "LAYERS",
    "LEASES",
    "MANIFESTS",
    "MOVES",
    "PULLS",
    "SEALED",
    "SETTINGS",
    "SUPERVISED",
    "SUPERVISION",
    "TAGS",
    "VIEWS",
    "VOLUMES",
    "Reader",
    "View",
    "Views",
    "project",
]

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
        Paused,
        Unpaused,
        RemoveRequested,
        RemoveFailed,
    )
)
"""The events that change their container's own state and, if they are in ``SUPERVISED``, its supervision's."""

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
    SETTINGS,
    SUPERVISION,
    EXECS,
    VOLUMES,
    SEALED,
)


def project(record: Record, views: Views) -> None:
    """Bring ``views`` from just before ``record`` to just after it.

    Raises ``AlreadyExists`` or ``WrongPhase`` for an event that can't happen there; what it has put by then
    must be thrown away by the caller.
    """
    event = record.event
    if type(event) in MOVES:  # most of all events: looked up first
        _move(views, record)
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
            forget_upkeep(views, container)
        case Renamed():
            container = _container(record)
            _claim(views, container_name(event.new), record.stream)
            before = views.get(CONTAINERS, container)
            if before is not None and before.name != event.new:
                _free(views, container_name(before.name), record.stream)
            views.put(CONTAINERS, container, _advance(views, container, record))
        case _ if isinstance(event, ContainerEvent):
            _move(views, record)
        case _ if isinstance(event, ExecEvent):
            project_exec(views, event, record)
        case _ if isinstance(event, VolumeEvent):
            project_volume(views, event, record)
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


def _move(views: Views, record: Record) -> None:
    """An event that changes one container and no name."""
    container = _container(record)
    event = cast("ContainerEvent", record.event)
    before = views.get(CONTAINERS, container)
    views.put(CONTAINERS, container, evolve(before, event, record.time))
    if type(event) not in MOVES or type(event) in SUPERVISED:
        project_upkeep(views, container, event, before.phase if before else None, record.time)


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
