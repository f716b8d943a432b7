"""Removing what nothing uses, over HTTP: stopped containers and images. (Volumes are in ``api/volumes``.)

``docker system prune`` asks for containers, networks, volumes, images and the build cache one after the other:
of those that this release doesn't have, nothing is removed. Each takes ``dry_run=1``, which is not Docker's: it
answers the same of what would go, and changes nothing.

Source: Docker Engine API v1.47, ContainerPrune, ImagePrune, NetworkPrune, VolumePrune, BuildPrune; moby's
``daemon/prune.go`` and ``daemon/images/image_prune.go`` (v27).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from lading.engine.api.images import removal_shape
from lading.engine.api.request import Filters, boolean_filter, caller_of, filters_of
from lading.engine.api.words import parse_past
from lading.engine.engine import Engine
from lading.engine.http.message import HttpError, Reply, Request, Response
from lading.engine.http.router import Router
from lading.engine.images.prune import Chosen, prune_containers

__all__ = ["add_prune_routes"]

_FILTERS: Final = ("until", "label", "label!")


def add_prune_routes(router: Router, engine: Engine) -> None:
    """Route the prunes."""
    prunes = _Prunes(engine)
    router.add("POST", "/containers/prune", prunes.one_at_a_time("containers", prunes.containers))
    router.add("POST", "/images/prune", prunes.one_at_a_time("images", prunes.images))
    router.add("POST", "/networks/prune", _nothing(_FILTERS, {"NetworksDeleted": None}))
    cache = ("until", "id", "parent", "type", "description", "inuse", "shared", "private", "label", "label!")
    router.add("POST", "/build/prune", _nothing(cache, {"CachesDeleted": None, "SpaceReclaimed": 0}))


def _nothing(known: tuple[str, ...], answer: dict[str, Any]) -> Callable[[Request], Awaitable[Reply]]:
    async def handler(request: Request) -> Reply:
        filters_of(request, known)
        return Response.json(answer)

    return handler


class _Prunes:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running: set[str] = set()

    def one_at_a_time(
        self, what: str, handler: Callable[[Request], Awaitable[Reply]]
    ) -> Callable[[Request], Awaitable[Reply]]:
        """``handler``, refusing as Docker does while another request for the same is at it."""

        async def guarded(request: Request) -> Reply:
            if what in self._running:
                raise HttpError(409, "a prune operation is already running")
            self._running.add(what)
            try:
                return await handler(request)
            finally:
                self._running.discard(what)

        return guarded

    async def images(self, request: Request) -> Reply:
        """In a dry run, ``stopped=1`` is for what would go once the stopped containers are gone."""
        filters = filters_of(request, ("dangling", *_FILTERS))
        chosen, dry_run = _chosen(filters), request.query.flag("dry_run")
        gone: Sequence[str] = ()
        caller = caller_of(request)
        if dry_run and request.query.flag("stopped"):
            found, _ = await prune_containers(self._engine.containers, caller, chosen, dry_run=True)
            gone = found
        pruned = await self._engine.images.prune(
            all=boolean_filter(filters, "dangling") is False,
            until=chosen.until,
            labels=chosen.labels,
            not_labels=chosen.not_labels,
            dry_run=dry_run,
            gone=gone,
            caller=caller,
        )
        shown = [removal_shape(removal) for removal in pruned.removals]
        return Response.json({"ImagesDeleted": shown or None, "SpaceReclaimed": pruned.reclaimed})

    async def containers(self, request: Request) -> Reply:
        chosen = _chosen(filters_of(request, _FILTERS))
        gone, reclaimed = await prune_containers(
            self._engine.containers, caller_of(request), chosen, dry_run=request.query.flag("dry_run")
        )
        return Response.json({"ContainersDeleted": gone or None, "SpaceReclaimed": reclaimed})


def _chosen(filters: Filters) -> Chosen:
    return Chosen(_until(filters), filters.get("label", ()), filters.get("label!", ()))


def _until(filters: Filters) -> int | None:
    values = filters.get("until", ())
    if len(values) > 1:
        raise HttpError(400, "more than one until filter specified")
    return parse_past(values[0], "until", time.time_ns()) if values else None
