"""Queries about an earlier moment: the extension parameter ``at`` of the list and inspect endpoints.

``at`` is a position of the log or an instant, as ``events.moments`` reads them; without it a query is about
now. The answer says which moment it shows in the headers ``Lading-Position`` and ``Lading-Time`` (nanoseconds
UTC).
"""

from __future__ import annotations

import time

import attrs

from lading.engine.engine import Engine
from lading.engine.http.message import Request
from lading.engine.queries import ContainerQueries, ImageQueries

__all__ = ["Seen", "seen_by"]


@attrs.frozen
class Seen:
    """What a query is about: the containers and images of a moment, ``now`` being that moment in nanoseconds
    UTC.
    """

    containers: ContainerQueries
    images: ImageQueries
    now: int
    headers: tuple[tuple[str, str], ...] = ()


async def seen_by(engine: Engine, request: Request) -> Seen:
    """The moment that ``request`` asks about. Raises ``Invalid`` and ``NotInHistory``."""
    when = request.query.get("at")
    if not when:
        log = engine.core.log
        return Seen(ContainerQueries(log), ImageQueries(log), time.time_ns())
    past = await engine.at(when)
    headers = (("Lading-Position", str(past.position)), ("Lading-Time", str(past.time)))
    return Seen(past.containers, past.images, past.time, headers)
