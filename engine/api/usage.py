"""What everything takes on disk, over HTTP.

Layers and images are in the log's views; what a container wrote and what is in a volume is measured. A build cache
is not in this release and takes nothing.

Source: Docker Engine API v1.47, SystemDataUsage; moby ``daemon/disk_usage.go`` (v27).
"""

from __future__ import annotations

from typing import Any, Final

import trio

from lading.engine.api.imageshapes import image_summary
from lading.engine.api.listing import Listing, summary_of
from lading.engine.api.past import Seen, seen_by
from lading.engine.api.shapes import Sizes
from lading.engine.api.volumeshapes import volume_shape
from lading.engine.engine import Engine
from lading.engine.http.message import HttpError, Reply, Request, Response
from lading.engine.http.router import Router
from lading.engine.images.usage import layer_bytes, measure_writable
from lading.engine.volumes.volumes import volume_usage
from lading.events.views import IMAGES, LAYERS

__all__ = ["add_usage_route"]

_TYPES: Final = ("container", "image", "volume", "build-cache")


def add_usage_route(router: Router, engine: Engine) -> None:
    """Route ``system/df``."""
    router.add("GET", "/system/df", _Usage(engine).usage)


class _Usage:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def usage(self, request: Request) -> Reply:
        version = request.version
        wanted = request.query.get_all("type")
        if not wanted or (version is not None and version < (1, 42)):
            wanted = _TYPES
        for kind in wanted:
            if kind not in _TYPES:
                raise HttpError(400, f"unknown object type: {kind[:80]}")
        seen = await seen_by(self._engine, request)
        layers = 0
        if "image" in wanted:
            found = [layer for _, layer in seen.reader.scan(LAYERS)]
            paths = self._engine.core.paths
            layers = await trio.to_thread.run_sync(lambda: sum(layer_bytes(paths, layer) for layer in found))
        return Response.json(
            {
                "LayersSize": layers,
                "Images": _images(seen, version) if "image" in wanted else None,
                "Containers": await self._containers(seen) if "container" in wanted else None,
                "Volumes": await self._volumes(seen) if "volume" in wanted else None,
                "BuildCache": [] if "build-cache" in wanted else None,
            },
            headers=seen.headers,
        )

    async def _volumes(self, seen: Seen) -> list[dict[str, Any]]:
        core = self._engine.core
        return [
            volume_shape(each.volume, core.paths, (each.size, len(each.users)))
            for each in await volume_usage(core, seen.reader)
        ]

    async def _containers(self, seen: Seen) -> list[dict[str, Any]]:
        listing, shown = Listing(seen, {}, all=True), []
        for state in listing.states():
            image = seen.reader.get(IMAGES, state.spec.image)
            writable = await trio.to_thread.run_sync(measure_writable, self._engine.core.paths, state.id)
            sizes = Sizes(writable, writable + (image.size if image else 0))
            shown.append(summary_of(seen, listing, state, self._engine.core.paths, sizes))
        return shown


def _images(seen: Seen, version: tuple[int, int] | None) -> list[dict[str, Any]]:
    sizes = seen.sizes()
    return [
        image_summary(
            image,
            image.tags,
            version,
            shared=sizes[image.image].shared,
            containers=sizes[image.image].containers,
        )
        for image in seen.images.list()
    ]
