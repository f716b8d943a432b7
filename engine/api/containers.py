"""Containers over HTTP: create, find, start, stop, remove. What streams is in ``api_streams`` and ``api_waits``.

Source: Docker Engine API v1.47, the Container operations; the words of refusals are moby's, since clients look
for some of them.
"""

from __future__ import annotations

import trio

from lading.engine.api.create import parse_create
from lading.engine.api.createlimits import Machine
from lading.engine.api.listing import LISTING_FILTERS, Listing, summary_of
from lading.engine.api.past import seen_by
from lading.engine.api.request import caller_of, check_reference, filters_of, not_supported
from lading.engine.api.shapes import Sizes, container_inspect
from lading.engine.containers.container import Container
from lading.engine.containers.hostchecks import unsupported
from lading.engine.core import Caller
from lading.engine.engine import Engine
from lading.engine.http.message import HttpError, Reply, Request, Response
from lading.engine.http.router import Router
from lading.engine.images.usage import measure_writable
from lading.events.container import LIVE, ContainerState, Phase
from lading.events.errors import HostError, NotFound, WrongPhase
from lading.events.ids import ContainerId
from lading.events.image import ImageState
from lading.events.platforms import parse_platform
from lading.events.views import IMAGES

__all__ = ["add_container_routes", "asked_of"]

_BODY = 8 << 20
"""Above what execve(2) takes in arguments and environment together."""

_IN_THE_WAY = {
    Phase.PAUSED: "container is paused and must be unpaused first",
    Phase.RESTARTING: "container is restarting: stop the container before removing or force remove",
}
_RUNNING = "container is running: stop the container before removing or force remove"


def add_container_routes(router: Router, engine: Engine) -> None:
    """Route everything about containers that answers at once."""
    containers = _Containers(engine)
    router.add("GET", "/containers/json", containers.list)
    router.add("POST", "/containers/create", containers.create)
    router.add("GET", "/containers/{id}/json", containers.inspect)
    router.add("POST", "/containers/{id}/start", containers.start)
    router.add("POST", "/containers/{id}/stop", containers.stop)
    router.add("POST", "/containers/{id}/kill", containers.kill)
    router.add("POST", "/containers/{id}/rename", containers.rename)
    router.add("DELETE", "/containers/{id}", containers.remove)


class _Containers:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._machine = Machine.probe(cgroup_v2=engine.core.host.cgroup_v2)

    def _asked(self, request: Request) -> tuple[Container, Caller]:
        return asked_of(self._engine, request)

    # -- queries --------------------------------------------------------------------------------------------

    async def list(self, request: Request) -> Reply:
        query = request.query
        seen = await seen_by(self._engine, request)
        listing = Listing(
            seen,
            filters_of(request, LISTING_FILTERS),
            all=query.flag("all"),
            limit=query.integer("limit", 0, least=-1),
            since=query.get("since"),
            before=query.get("before"),
        )
        sized = query.flag("size")
        shown = []
        for state in listing.states():
            sizes = await self._sizes(state) if sized else None
            shown.append(summary_of(seen, listing, state, self._engine.core.paths, sizes))
        return Response.json(shown, headers=seen.headers)

    async def inspect(self, request: Request) -> Reply:
        seen = await seen_by(self._engine, request)
        state = seen.containers.get(request.params["id"])
        sizes = await self._sizes(state) if request.query.flag("size") else None
        try:
            runtime = (await self._engine.core.runtime()).name
        except HostError:
            runtime = ""
        core = self._engine.core
        shown = container_inspect(
            state,
            seen.settings(state.id),
            seen.supervision(state.id),
            core.paths,
            runtime,
            sizes,
            cgroup_v2=core.host.cgroup_v2,
            probes=core.health.get(state.id),
            execs=core.execs.ids(state.id),
        )
        return Response.json(shown, headers=seen.headers)

    async def _sizes(self, state: ContainerState) -> Sizes:
        image = self._engine.core.log.get(IMAGES, state.spec.image)
        writable = await trio.to_thread.run_sync(measure_writable, self._engine.core.paths, state.id)
        return Sizes(writable, writable + (image.size if image else 0))

    # -- commands -------------------------------------------------------------------------------------------

    async def create(self, request: Request) -> Reply:
        engine = self._engine
        asked = parse_create(await request.json(_BODY), self._machine)
        if asked.runtime and asked.runtime != (await engine.core.runtime()).name:
            raise HttpError(400, f"unknown or invalid runtime name: {asked.runtime[:80]}")
        image = engine.images.resolve(check_reference(asked.recipe.image))
        _check_platform(request.query.get("platform"), asked.recipe.image, image)
        name = request.query.get("name").removeprefix("/") or None
        container, _ = await engine.containers.make(
            asked.recipe, name=name, start=False, caller=caller_of(request)
        )
        if asked.size is not None:
            engine.core.console_sizes[container.id] = asked.size
        warnings = (*asked.warnings, *unsupported(asked.recipe.settings, engine.core.host))
        return Response.json({"Id": container.id, "Warnings": warnings}, 201)

    async def start(self, request: Request) -> Reply:
        if request.query.get("checkpoint"):
            raise not_supported("starting from a checkpoint")
        container, caller = self._asked(request)
        try:
            await container.start(caller=caller)
        except WrongPhase as error:
            if error.phase == Phase.PAUSED:
                raise HttpError(409, "cannot start a paused container, try unpause instead") from None
            if error.phase not in LIVE:
                words = f"container {container.id} is marked for removal and cannot be started"
                raise HttpError(409, words) from None
            await self._engine.containers.supervisor(container.id)
            return Response(304)
        return Response(204)

    async def stop(self, request: Request) -> Reply:
        timeout = request.query.integer("t", -2, least=-(2**31), most=2**31)
        container, caller = self._asked(request)
        try:
            await container.stop(
                None if "t" not in request.query or timeout == -2 else timeout,
                request.query.get("signal") or None,
                caller=caller,
            )
        except WrongPhase as error:
            if error.phase in (Phase.CREATED, Phase.STOPPED, Phase.DEAD):
                return Response(304)
            raise
        return Response(204)

    async def kill(self, request: Request) -> Reply:
        container, caller = self._asked(request)
        try:
            await container.kill(request.query.get("signal") or "SIGKILL", caller=caller)
        except WrongPhase:
            asked = request.params["id"]
            words = f"cannot kill container: {asked}: container {container.id} is not running"
            raise HttpError(409, words) from None
        return Response(204)

    async def rename(self, request: Request) -> Reply:
        name = request.query.get("name").removeprefix("/")
        if not name:
            raise HttpError(400, "Neither old nor new names may be empty")
        container, caller = self._asked(request)
        if not caller.once and container.name == name:
            raise HttpError(400, "Renaming a container with the same name as its current name")
        await container.rename(name, caller=caller)
        return Response(204)

    async def remove(self, request: Request) -> Reply:
        if request.query.flag("link"):
            raise not_supported("removing a link (--link)")
        container, caller = self._asked(request)
        try:
            name = "" if caller.once else container.name
            await container.remove(
                force=request.query.flag("force"), volumes=request.query.flag("v"), caller=caller
            )
        except WrongPhase as error:
            if error.phase == Phase.REMOVING:
                words = f"removal of container {request.params['id']} is already in progress"
                raise HttpError(409, words) from None
            why = _IN_THE_WAY.get(Phase(error.phase), _RUNNING)
            raise HttpError(409, f'cannot remove container "/{name}": {why}') from None
        except NotFound:
            # Its own end removed it between our look and our word.
            raise NotFound("container", request.params["id"]) from None
        return Response(204)


def asked_of(engine: Engine, request: Request) -> tuple[Container, Caller]:
    """The container that a change is asked of, and who asks; for a retry the one that the first try was about.

    That one may be gone by now, or another may have its name.
    """
    caller = caller_of(request)
    first = engine.core.log.first_append(caller.command) if caller.once else None
    kind, _, identifier = first[0].stream.partition("/") if first else ("", "", "")
    if kind == "container":
        return Container(engine.containers, ContainerId(identifier)), caller
    return engine.containers.get(request.params["id"]), caller


def _check_platform(platform: str, name: str, image: ImageState) -> None:
    """Docker's rule: an image of another platform than asked for is as good as none."""
    if not platform:
        return
    wanted = parse_platform(platform, architecture=image.architecture)
    actual = f"{image.os}/{image.architecture}"
    if (wanted.os, wanted.architecture) != (image.os, image.architecture):
        raise HttpError(
            404,
            f"image with reference {name} was found but does not provide the specified platform "
            f"({platform[:80]}): it is for {actual}",
        )
