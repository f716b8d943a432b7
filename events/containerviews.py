"""The views of containers, of the commands run in them, and of volumes: each a fold of its facts.

A container's state, its settings and what supervision remembers of it are three views. Only the first has every
container; an event that could change the others looks whether there is anything to change.
"""

from __future__ import annotations

from typing import cast

import attrs

from lading.events.container import (
    ContainerEvent,
    ContainerState,
    Exited,
    KillRequested,
    Phase,
    Started,
    StartRequested,
    StopRequested,
)
from lading.events.envelope import Record
from lading.events.errors import NotFound
from lading.events.execs import ExecEvent, ExecId, ExecState, evolve_exec
from lading.events.settings import ContainerSettings
from lading.events.upkeep import (
    Configured,
    HealthChanged,
    Rebased,
    RestartCancelled,
    RestartScheduled,
    SupervisionState,
    Updated,
)
from lading.events.view import View, Views
from lading.events.volume import VolumeEvent, VolumeState, evolve_volume

__all__ = [
    "CONTAINERS",
    "EXECS",
    "SETTINGS",
    "SUPERVISED",
    "SUPERVISION",
    "VOLUMES",
    "forget_upkeep",
    "project_exec",
    "project_upkeep",
    "project_volume",
]

CONTAINERS = View("container", ContainerState)
"""Container id -> its state, until it is deleted."""
SETTINGS = View("settings", ContainerSettings)
"""Container id -> its settings, if they are not the usual ones."""
SUPERVISION = View("supervision", SupervisionState)
"""Container id -> what supervision remembers, if there is anything."""
EXECS = View("exec", ExecState)
"""Exec id -> a command in a container that is not over."""
VOLUMES = View("volume", VolumeState)
"""Name -> the volume."""

SUPERVISED = frozenset((StartRequested, Started, StopRequested, KillRequested, Exited))
"""The events of a run that may change what supervision remembers."""

_NOTHING = SupervisionState()


def project_upkeep(views: Views, container: str, event: ContainerEvent, before: Phase | None, time: int) -> None:
    """Bring settings and supervision of ``container`` from before to after ``event``, in phase ``before``.

    Raises ``NotFound`` for what needs a layer that isn't there.
    """
    known = views.get(SUPERVISION, container)
    now = known or _NOTHING
    match event:
        case StartRequested():
            if before is Phase.RESTARTING:
                now = attrs.evolve(now, restarts=now.restarts + 1, due=0, stopped=False, oom=False)
            else:
                now = _NOTHING
        case Started():
            settings = None if now.health == "starting" else views.get(SETTINGS, container)
            if settings is not None and settings.health is not None:
                now = attrs.evolve(now, health="starting")
        case StopRequested() | KillRequested():
            if not now.stopped and views.get(SETTINGS, container) is not None:
                now = attrs.evolve(now, stopped=True)
        case Exited():
            now = attrs.evolve(now, oom=event.oom) if now.oom != event.oom else now
        case RestartScheduled():
            now = attrs.evolve(now, streak=event.streak, due=time + event.delay)
        case RestartCancelled():
            now = attrs.evolve(now, due=0, stopped=True)
        case HealthChanged():
            now = attrs.evolve(now, health=event.health)
        case Configured():
            views.put(SETTINGS, container, event.settings)
        case Updated():
            settings = views.get(SETTINGS, container) or ContainerSettings()
            settings = attrs.evolve(settings, resources=event.resources, restart=event.restart)
            views.put(SETTINGS, container, settings)
        case Rebased() | _:
            pass
    if now != _NOTHING:
        if now != known:
            views.put(SUPERVISION, container, now)
    elif known is not None:
        views.delete(SUPERVISION, container)


def forget_upkeep(views: Views, container: str) -> None:
    """The container is gone, and everything that was known of it besides its state goes, too."""
    for view in (SETTINGS, SUPERVISION):
        if views.get(cast("View[object]", view), container) is not None:
            views.delete(cast("View[object]", view), container)


def project_exec(views: Views, event: ExecEvent, record: Record) -> None:
    """Bring the view of execs to just after ``event``, ``record``'s. Raises ``NotFound`` or ``WrongPhase``."""
    key = ExecId(record.stream.removeprefix("exec/"))
    known = views.get(EXECS, key)
    after = evolve_exec(known, event, record.time)
    if after is None:
        views.delete(EXECS, key)
        return
    if known is None and views.get(CONTAINERS, after.container) is None:
        raise NotFound("container", after.container)
    views.put(EXECS, key, after)


def project_volume(views: Views, event: VolumeEvent, record: Record) -> None:
    """Bring the view of volumes to just after ``event``, ``record``'s. Raises ``AlreadyExists``, ``NotFound``."""
    name = record.stream.removeprefix("volume/")
    known = views.get(VOLUMES, name)
    after = evolve_volume(known, event, name, record.time)
    if after is None:
        views.delete(VOLUMES, name)
    else:
        views.put(VOLUMES, name, after)
