"""Waiting for the end of a run over HTTP, and for its beginning.

Source: Docker Engine API v1.47, ContainerWait. The header of the reply is out before anything is waited for, so
that a client which asks first and starts then can't miss the end of a container that is gone in a moment.
"""

from __future__ import annotations

import json
from typing import Final

from lading.engine.api.shapes import UNKNOWN_EXIT
from lading.engine.core import Core
from lading.engine.engine import Engine
from lading.engine.http.message import HttpError, Request
from lading.engine.http.router import Router
from lading.engine.supervisor import Supervisor
from lading.events.container import LIVE, ContainerState, Exited, StartFailed
from lading.events.ids import container_stream
from lading.events.views import CONTAINERS

__all__ = ["add_wait_route", "next_run", "wait_begun"]

_CONDITIONS: Final = ("not-running", "next-exit", "removed")
_UNKNOWN: Final = "its exit status is unknown"

Exit = tuple[int | None, str]
"""The exit code, None for unknown, and an error text."""


def add_wait_route(router: Router, engine: Engine) -> None:
    """Route ``wait``."""
    router.add("POST", "/containers/{id}/wait", _Waits(engine).wait)


class _Waits:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def wait(self, request: Request) -> None:
        condition = request.query.get("condition") or "not-running"
        if condition not in _CONDITIONS:
            raise HttpError(400, f"invalid condition: {json.dumps(condition)[:80]}")
        core = self._engine.core
        state = self._engine.containers.get(request.params["id"]).state
        # Asked for now: once the removal has an outcome, nobody sets it any more.
        gone = core.removal(state.id) if condition == "removed" else None
        async with request.respond(200, {"Content-Type": "application/json"}, endless=True) as send:
            stays = ""
            if gone is not None:
                await gone.wait()
                code, why = _last_exit(core, state)
                left = core.log.get(CONTAINERS, state.id)
                stays = f"it could not be removed: {left.error}" if left is not None else ""
            elif condition == "not-running" and not _is_live(state):
                code, why = _last_exit(core, state)
            else:
                run = next_run(state)
                supervisor = await wait_begun(core, state.id, run)
                if supervisor is not None:
                    await supervisor.ended.wait()
                code, why = _last_exit(core, state, run)
            shown: dict[str, object] = {"StatusCode": UNKNOWN_EXIT if code is None else code}
            if code is None or stays:
                shown["Error"] = {"Message": stays or why or _UNKNOWN}
            await send(json.dumps(shown, separators=(",", ":")).encode() + b"\n")


def next_run(state: ContainerState) -> int:
    """The number of the run that is under way, or else of the next one."""
    return state.run if _is_live(state) else state.run + 1


async def wait_begun(core: Core, container: str, run: int) -> Supervisor | None:
    """Wait until the start of run number ``run`` has its outcome: its supervisor, or None when it is over already.

    None, too, when the container is removed. Raises ``EngineClosed`` when the engine closes first.
    """
    while True:
        position = core.journal.position
        supervisor = core.live.get(container)
        if supervisor is not None and supervisor.run_number >= run:
            await supervisor.begun.wait()
            return supervisor
        state = core.log.get(CONTAINERS, container)
        if state is None or (state.run >= run and state.phase not in LIVE):
            return None
        await core.journal.wait_past(position)


def _is_live(state: ContainerState) -> bool:
    return state.phase in LIVE or state.process is not None


def _last_exit(core: Core, state: ContainerState, run: int = 0) -> Exit:
    """How run number ``run`` ended, a start that failed included; or else how the last one did.

    Read from the container's stream from ``state`` on, which outlives the container.
    """
    code, why = state.exit_code, state.error
    if state.started_at == 0 and code is None:
        code = 0
    version = state.version
    while page := core.log.read_stream(container_stream(state.id), version):
        for record in page:
            if isinstance(record.event, Exited | StartFailed):
                code, why = record.event.exit_code, record.event.why
                if record.event.run == run:
                    return code, why
        version = page[-1].version
    return code, why
