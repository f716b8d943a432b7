"""What runs in a container and what it uses, over HTTP: top and stats.

How either is found out is given from outside, as ``Gauges`` (``KERNEL``: as the kernel tells): this is only how it
is asked for and sent.

Source: Docker Engine API v1.47, ContainerTop and ContainerStats; moby ``daemon/top_unix.go``, ``daemon/stats.go``
(v27).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import attrs
import trio

from lading.engine.api.statshape import docker_stats
from lading.engine.containers.stats import Stats, read_stats
from lading.engine.containers.top import top
from lading.engine.core import Core
from lading.engine.engine import Engine
from lading.engine.http.message import HttpError, Reply, Request, Response
from lading.engine.http.router import Router
from lading.events.container import ContainerState, Phase, status
from lading.events.errors import HostError, NotFound
from lading.events.views import CONTAINERS

__all__ = ["KERNEL", "Gauges", "add_gauge_routes"]

_INTERVAL: Final = 1.0
_ARGUMENTS: Final = 1000

S = TypeVar("S")


@attrs.frozen
class Gauges(Generic[S]):
    """How what a container does is read.

    ``top(core, container, ps_args)``: titles and rows of processes. ``read(core, container)``: a sample; it
    blocks, and is called in a thread; raises ``HostError`` where the container has no control group any more.
    ``shape(now, before, name, id)``: a sample as Docker's clients read it, with the one before it (None: there was
    none).
    """

    top: Callable[[Core, str, str], Awaitable[tuple[Sequence[str], Sequence[Sequence[str]]]]]
    read: Callable[[Core, str], S]
    shape: Callable[[S, S | None, str, str], dict[str, Any]]


async def _top(core: Core, container: str, ps_args: str) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    found = await top(core.paths, container, ps_args)
    return found.titles, found.processes


def _read(core: Core, container: str) -> Stats:
    state = core.state(container)
    sample = read_stats(core.paths, container, state.process, own_network=state.spec.network != "host")
    if sample is None:
        raise HostError("read what is used by", container, 0, "it doesn't run")
    return sample


KERNEL: Final = Gauges(_top, _read, docker_stats)


def add_gauge_routes(router: Router, engine: Engine, gauges: Gauges[Any]) -> None:
    """Route top and stats."""
    routes = _Routes(engine, gauges)
    router.add("GET", "/containers/{id}/top", routes.top)
    router.add("GET", "/containers/{id}/stats", routes.stats)


class _Routes:
    def __init__(self, engine: Engine, gauges: Gauges[Any]) -> None:
        self._engine = engine
        self._gauges = gauges

    async def top(self, request: Request) -> Reply:
        arguments = request.query.get("ps_args", "-ef")
        if len(arguments) > _ARGUMENTS:
            raise HttpError(400, f"ps_args may have {_ARGUMENTS} characters")
        state = self._engine.containers.get(request.params["id"]).state
        if state.phase is Phase.RESTARTING:
            words = f"Container {state.id} is restarting, wait until the container is running"
            raise HttpError(409, words)
        if not _runs(state):
            raise HttpError(409, f"container {state.id} is not running")
        core = self._engine.core
        titles, processes = await self._gauges.top(core, state.id, arguments)
        return Response.json({"Titles": list(titles), "Processes": [list(row) for row in processes]})

    async def stats(self, request: Request) -> Reply | None:
        query = request.query
        state = self._engine.containers.get(request.params["id"]).state
        if query.flag("stream", True):
            async with request.respond(200, {"Content-Type": "application/json"}, endless=True) as send:
                await self._stream(state.id, send)
            return None
        before = await self._sample(state)
        if before is None or query.flag("one-shot"):
            return Response.json(self._shape(state, before, None))
        await trio.sleep(_INTERVAL)
        return Response.json(self._shape(state, await self._sample(self._now(state.id) or state), before))

    async def _stream(self, container: str, send: Callable[[bytes], Any]) -> None:
        """One sample a second, empty ones while it doesn't run, until it is removed or the client has enough."""
        before = None
        due = trio.current_time()
        while (state := self._now(container)) is not None:
            now = await self._sample(state)
            shown = self._shape(state, now, before)
            await send(json.dumps(shown, separators=(",", ":")).encode() + b"\n")
            before = now
            due = max(due + _INTERVAL, trio.current_time())
            await trio.sleep_until(due)

    async def _sample(self, state: ContainerState) -> Any:
        if not _runs(state):
            return None
        try:
            return await trio.to_thread.run_sync(
                self._gauges.read, self._engine.core, state.id, abandon_on_cancel=True
            )
        except (HostError, NotFound):
            return None  # it ended just now

    def _shape(self, state: ContainerState, now: Any, before: Any) -> dict[str, Any]:
        if now is not None:
            return self._gauges.shape(now, before, state.name, state.id)
        return {
            "name": f"/{state.name}",
            "id": state.id,
            "read": _NEVER,
            "preread": _NEVER,
            "num_procs": 0,
            "pids_stats": {},
            "blkio_stats": {},
            "storage_stats": {},
            "cpu_stats": _NO_CPU,
            "precpu_stats": _NO_CPU,
            "memory_stats": {},
        }

    def _now(self, container: str) -> ContainerState | None:
        return self._engine.core.log.get(CONTAINERS, container)


_NEVER: Final = "0001-01-01T00:00:00Z"
_NO_CPU: Final = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}


def _runs(state: ContainerState) -> bool:
    return status(state) in ("running", "paused")
