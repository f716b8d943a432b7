"""Pausing, restarting and updating containers over HTTP.

Source: Docker Engine API v1.47, ContainerPause, ContainerUnpause, ContainerRestart, ContainerUpdate; moby's words
(``daemon/pause.go``, ``unpause.go``, ``restart.go``, ``update.go``, v27).
"""

from __future__ import annotations

from typing import Final

from lading.engine.api.containers import asked_of
from lading.engine.api.create import refuse_unknown
from lading.engine.api.createlimits import RESOURCE_FIELDS, Machine, changed, parse_resources
from lading.engine.api.createsettings import parse_restart
from lading.engine.api.failures import error_response
from lading.engine.api.fields import object_of
from lading.engine.containers.container import Container
from lading.engine.engine import Engine
from lading.engine.http.message import HttpError, Reply, Request, Response
from lading.engine.http.router import Router
from lading.events.container import Phase
from lading.events.errors import LadingError, WrongPhase
from lading.events.settings import Resources

__all__ = ["add_lifecycle_routes"]

_BODY: Final = 1 << 20
_UPDATE: Final = RESOURCE_FIELDS | {"RestartPolicy"}


def add_lifecycle_routes(router: Router, engine: Engine) -> None:
    """Route pause, unpause, restart and update."""
    lifecycle = _Lifecycle(engine)
    router.add("POST", "/containers/{id}/pause", lifecycle.pause)
    router.add("POST", "/containers/{id}/unpause", lifecycle.unpause)
    router.add("POST", "/containers/{id}/restart", lifecycle.restart)
    router.add("POST", "/containers/{id}/update", lifecycle.update)


class _Lifecycle:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._machine = Machine.probe(cgroup_v2=engine.core.host.cgroup_v2)

    async def pause(self, request: Request) -> Reply:
        container, caller = asked_of(self._engine, request)
        try:
            await container.pause(caller=caller)
        except WrongPhase as error:
            match Phase(error.phase):
                case Phase.PAUSED:
                    words = f"container {container.id} is already paused"
                case Phase.RESTARTING:
                    words = f"Container {container.id} is restarting, wait until the container is running"
                case _:
                    words = f"container {container.id} is not running"
            raise HttpError(409, words) from None
        return Response(204)

    async def unpause(self, request: Request) -> Reply:
        """That it isn't paused is a 500, as in Docker."""
        container, caller = asked_of(self._engine, request)
        try:
            await container.unpause(caller=caller)
        except WrongPhase:
            raise HttpError(500, f"Container {container.id} is not paused") from None
        return Response(204)

    async def restart(self, request: Request) -> Reply:
        query = request.query
        timeout = query.integer("t", 0, least=-(2**31), most=2**31) if query.get("t") else None
        container, caller = asked_of(self._engine, request)
        try:
            await container.restart(timeout, query.get("signal") or None, caller=caller)
        except WrongPhase as error:
            why = f"container {container.id} is marked for removal and cannot be started"
            if Phase(error.phase) not in (Phase.REMOVING, Phase.DEAD):
                why = str(error)
            raise HttpError(409, f"Cannot restart container {request.params['id']}: {why}") from None
        return Response(204)

    async def update(self, request: Request) -> Reply:
        body = await request.json(_BODY)
        refuse_unknown(body, _UPDATE, "Config")
        asked, warnings = parse_resources(body, self._machine, update=True)
        restart = parse_restart(body) if object_of(body, "RestartPolicy").get("Name") else None
        container, caller = asked_of(self._engine, request)
        try:
            known = self._engine.core.settings(container.id).resources
            resources = changed(known, asked) if asked != Resources() else None
            if restart is not None and restart.name != "no" and container.state.spec.auto_remove:
                raise HttpError(
                    409, "Restart policy cannot be updated because AutoRemove is enabled for the container"
                )
            await container.update(resources, restart, caller=caller)
        except WrongPhase:
            words = (
                f'Cannot update container {container.id}: container is marked for removal and cannot be "update"'
            )
            raise HttpError(409, words) from None
        except HttpError as error:
            raise HttpError(error.status, _cannot(container, error.message)) from None
        except LadingError as error:
            answer = error_response(error)
            if answer.status == 404:
                raise
            raise HttpError(answer.status, _cannot(container, str(error))) from error
        return Response.json({"Warnings": list(warnings) or None})


def _cannot(container: Container, why: str) -> str:
    return f"Cannot update container {container.id}: {why}"
