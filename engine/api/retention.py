"""Compaction over HTTP: ``POST /lading/compact?before=WHEN``, an extension of Docker's API."""

from __future__ import annotations

import attrs

from lading.engine.api.request import caller_of
from lading.engine.engine import Engine
from lading.engine.http.message import HttpError, Reply, Request, Response
from lading.engine.http.router import Router

__all__ = ["add_retention_routes"]


def add_retention_routes(router: Router, engine: Engine) -> None:
    """Route ``compact``."""
    router.add("POST", "/lading/compact", _Retention(engine).compact)


class _Retention:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def compact(self, request: Request) -> Reply:
        """Answered when the old records are in the archive; the answer has the fields of ``LogCompacted``."""
        before = request.query.get("before")
        if not before:
            raise HttpError(400, "compact needs the parameter before: a position, a time, or how long ago")
        event = await self._engine.compact(before, caller=caller_of(request))
        return Response.json({**attrs.asdict(event), "directory": str(self._engine.core.paths.archive)})
