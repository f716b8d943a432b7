"""Waiting for the end of a run over HTTP, and for its beginning.

Source: Docker Engine API v1.47, ContainerWait. The header of the reply is out before anything is waited for, so
that a client which asks first and starts then can't miss the end of a container that is gone in a moment.
"""

from __future__ import annotations

import json
from typing import Final

from lading.engine.api.shapes import UNKNOWN_EXIT
from lading.engine.containers.waiting import exit_since, is_live, next_run, wait_begun
from lading.engine.engine import Engine
from lading.engine.http.message import HttpError, Request
from lading.engine.http.router import Router
from lading.events.views import CONTAINERS

__all__ = ["add_wait_route"]

_CONDITIONS: Final = ("not-running", "next-exit", "removed")
_UNKNOWN: Final = "its exit status is unknown"


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
                code, why = exit_since(core, state)
                left = core.log.get(CONTAINERS, state.id)
                stays = f"it could not be removed: {left.error}" if left is not None else ""
            elif condition == "not-running" and not is_live(state):
                code, why = exit_since(core, state)
            else:
                run = next_run(state)
                supervisor = await wait_begun(core, state.id, run)
                if supervisor is not None:
                    await supervisor.ended.wait()
                code, why = exit_since(core, state, run)
            shown: dict[str, object] = {"StatusCode": UNKNOWN_EXIT if code is None else code}
            if code is None or stays:
                shown["Error"] = {"Message": stays or why or _UNKNOWN}
            await send(json.dumps(shown, separators=(",", ":")).encode() + b"\n")
