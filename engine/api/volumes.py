"""Volumes over HTTP: create, find, remove, prune.

Source: Docker Engine API v1.47, the Volume operations; moby ``api/server/router/volume`` (v27) for the words.
"""

from __future__ import annotations

from typing import Any, Final

from lading.engine.api.past import seen_by
from lading.engine.api.request import Filters, boolean_filter, caller_of, filters_of
from lading.engine.api.volumeshapes import volume_shape
from lading.engine.engine import Engine
from lading.engine.http.message import HttpError, Reply, Request, Response
from lading.engine.http.router import Router
from lading.engine.images.prune import Chosen, prune_containers
from lading.engine.volumes.volumes import VolumeQueries
from lading.events.ids import ContainerId

__all__ = ["add_volume_routes"]

_BODY: Final = 1 << 20
_ALL_BEFORE: Final = (1, 42)
"""The first version of the API in which a prune spares volumes with a name."""


def add_volume_routes(router: Router, engine: Engine) -> None:
    """Route everything about volumes."""
    volumes = _Volumes(engine)
    router.add("GET", "/volumes", volumes.list)
    router.add("POST", "/volumes/create", volumes.create)
    router.add("POST", "/volumes/prune", volumes.prune)
    router.add("GET", "/volumes/{name}", volumes.inspect)
    router.add("DELETE", "/volumes/{name}", volumes.remove)


class _Volumes:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pruning = False

    async def list(self, request: Request) -> Reply:
        filters = filters_of(request, ("name", "label", "dangling", "driver"))
        seen = await seen_by(self._engine, request)
        found = VolumeQueries(seen.reader).list(
            names=filters.get("name", ()),
            labels=filters.get("label", ()),
            drivers=filters.get("driver", ()),
            dangling=boolean_filter(filters, "dangling"),
        )
        shown = [volume_shape(state, self._engine.core.paths) for state in found]
        return Response.json({"Volumes": shown, "Warnings": None}, headers=seen.headers)

    async def inspect(self, request: Request) -> Reply:
        seen = await seen_by(self._engine, request)
        state = VolumeQueries(seen.reader).get(request.params["name"])
        return Response.json(volume_shape(state, self._engine.core.paths), headers=seen.headers)

    async def create(self, request: Request) -> Reply:
        body = await request.json(_BODY)
        if body.get("ClusterVolumeSpec"):
            raise HttpError(501, "cluster volumes are not supported in this release")
        state = await self._engine.volumes.create(
            _text(body, "Name") or None,
            labels=_texts(body, "Labels"),
            options=_texts(body, "DriverOpts"),
            driver=_text(body, "Driver"),
            caller=caller_of(request),
        )
        return Response.json(volume_shape(state, self._engine.core.paths), 201)

    async def remove(self, request: Request) -> Reply:
        await self._engine.volumes.remove(
            request.params["name"], force=request.query.flag("force"), caller=caller_of(request)
        )
        return Response(204)

    async def prune(self, request: Request) -> Reply:
        """``dry_run=1``: only tell; then ``stopped=1``: of what would go once the stopped containers are gone."""
        filters = filters_of(request, ("all", "label", "label!"))
        if self._pruning:
            raise HttpError(409, "a prune operation is already running")
        dry_run = request.query.flag("dry_run")
        caller, gone = caller_of(request), list[ContainerId]()
        self._pruning = True
        try:
            if dry_run and request.query.flag("stopped"):
                chosen = Chosen(None, filters.get("label", ()), filters.get("label!", ()))
                gone, _ = await prune_containers(self._engine.containers, caller, chosen, dry_run=True)
            pruned = await self._engine.volumes.prune(
                all=_every(request, filters),
                labels=filters.get("label", ()),
                not_labels=filters.get("label!", ()),
                dry_run=dry_run,
                gone=gone,
                caller=caller,
            )
        finally:
            self._pruning = False
        return Response.json({"VolumesDeleted": pruned.names or None, "SpaceReclaimed": pruned.reclaimed})


def _every(request: Request, filters: Filters) -> bool:
    version = request.version
    if version is not None and version < _ALL_BEFORE:
        return True
    return bool(boolean_filter(filters, "all"))


def _text(source: dict[str, Any], name: str) -> str:
    value = source.get(name)
    if value is not None and not isinstance(value, str):
        raise HttpError(400, f"invalid {name}: it must be a string")
    return value or ""


def _texts(source: dict[str, Any], name: str) -> dict[str, str]:
    value = source.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise HttpError(400, f"invalid {name}: it must be an object of strings")
    return value
