"""Queries about an earlier moment: the extension parameter ``at`` of the list and inspect endpoints.

``at`` is a position of the log or an instant, as ``events.moments`` reads them; without it a query is about
now. The answer says which moment it shows in the headers ``Lading-Position`` and ``Lading-Time`` (nanoseconds
UTC).
"""

from __future__ import annotations

import time
from collections import Counter

import attrs

from lading.engine.engine import Engine
from lading.engine.http.message import Request
from lading.engine.queries import ContainerQueries, ImageQueries
from lading.events.settings import ContainerSettings
from lading.events.upkeep import SupervisionState
from lading.events.views import LAYERS, SETTINGS, SUPERVISION, Reader

__all__ = ["ImageSize", "Seen", "seen_by"]

_USUAL = ContainerSettings()
_NOTHING = SupervisionState()


@attrs.frozen
class ImageSize:
    """``shared``: bytes on disk of the image's layers that other images have, too."""

    shared: int
    containers: int


@attrs.frozen
class Seen:
    """What a query is about: the containers and images of a moment, ``now`` being that moment in nanoseconds
    UTC.
    """

    containers: ContainerQueries
    images: ImageQueries
    reader: Reader
    now: int
    headers: tuple[tuple[str, str], ...] = ()

    def settings(self, container: str) -> ContainerSettings:
        """What the container is allowed and given."""
        return self.reader.get(SETTINGS, container) or _USUAL

    def supervision(self, container: str) -> SupervisionState:
        """What supervision remembers of the container."""
        return self.reader.get(SUPERVISION, container) or _NOTHING

    def sizes(self) -> dict[str, ImageSize]:
        """What each image shares with others, by its id, and how many containers are made of it."""
        images = self.images.list()
        layers = {chain: state.disk_bytes for chain, state in self.reader.scan(LAYERS)}
        users = Counter(chain for image in images for chain in set(image.layers))
        made = Counter(state.spec.image for state in self.containers.list())
        return {
            image.image: ImageSize(
                sum(layers.get(chain, 0) for chain in set(image.layers) if users[chain] > 1), made[image.image]
            )
            for image in images
        }


async def seen_by(engine: Engine, request: Request) -> Seen:
    """The moment that ``request`` asks about. Raises ``Invalid`` and ``NotInHistory``."""
    when = request.query.get("at")
    if not when:
        log = engine.core.log
        return Seen(ContainerQueries(log), ImageQueries(log), log, time.time_ns())
    past = await engine.at(when)
    headers = (("Lading-Position", str(past.position)), ("Lading-Time", str(past.time)))
    return Seen(past.containers, past.images, past.reader, past.time, headers)
