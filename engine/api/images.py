"""Images over HTTP: list, inspect, import.

Source: Docker Engine API v1.47, ImageList, ImageInspect, ImageCreate.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence

from lading.engine.api.changes import apply_changes
from lading.engine.api.past import seen_by
from lading.engine.api.request import Filters, caller_of, check_reference, filters_of
from lading.engine.api.shapes import familiar, image_inspect, image_summary
from lading.engine.engine import Engine
from lading.engine.http.message import HttpError, Reply, Request, Response
from lading.engine.http.router import Router
from lading.engine.platform import host_platform
from lading.engine.queries import labels_fit
from lading.events.image import ImageState
from lading.events.reference import parse_reference

__all__ = ["add_image_routes"]

_JSON = {"Content-Type": "application/json"}


def add_image_routes(router: Router, engine: Engine) -> None:
    """Route what there is to do with images."""
    images = _Images(engine)
    router.add("GET", "/images/json", images.list)
    router.add("GET", "/images/{name:path}/json", images.inspect)
    router.add("POST", "/images/create", images.create)


class _Images:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def list(self, request: Request) -> Reply:
        filters = filters_of(request, ("reference", "dangling", "label"))
        if name := request.query.get("filter"):
            filters = {**filters, "reference": (name,)}
        shown = []
        seen = await seen_by(self._engine, request)
        for image in seen.images.list():
            tags = _listed_for(image, filters)
            if tags is not None:
                shown.append(image_summary(image, tags))
        return Response.json(shown, headers=seen.headers)

    async def inspect(self, request: Request) -> Reply:
        seen = await seen_by(self._engine, request)
        image = seen.images.resolve(check_reference(request.params["name"]))
        tags = [seen.images.tag(tag) for tag in image.tags]
        since = max((tag.since for tag in tags if tag is not None), default=0)
        return Response.json(image_inspect(image, self._engine.core.paths, since), headers=seen.headers)

    async def create(self, request: Request) -> Reply:
        """An import. Answered when the image is there, so that a failure is an error and not a line of text."""
        query = request.query
        if query.get("fromImage"):
            raise HttpError(501, "pull is not implemented in this release: import a root file system instead")
        source = query.get("fromSrc")
        if source != "-":
            what = f"an import from {source[:200]!r}" if source else "this"
            raise HttpError(501, f"{what} is not implemented in this release: send the archive (fromSrc=-)")
        _check_platform(query.get("platform"))
        image = await self._engine.images.import_rootfs(
            request.body_stream(),
            _reference(query.get("repo"), query.get("tag")),
            config=apply_changes(query.get_all("changes")),
            comment=query.get("message") or "Imported from -",
            caller=caller_of(request),
        )
        return Response(200, _JSON, json.dumps({"status": image.image}).encode() + b"\r\n")


def _reference(repository: str, tag: str) -> str | None:
    """The name for an import. ``repo`` may have a tag of its own, which ``tag`` replaces."""
    if not repository:
        return None
    if not tag:
        return check_reference(repository)
    return check_reference(f"{parse_reference(check_reference(repository)).repository}:{tag}")


def _check_platform(platform: str) -> None:
    system, _, machine = platform.lower().partition("/")
    if platform and (system != "linux" or machine not in ("", host_platform().architecture)):
        raise HttpError(501, f"platform {platform[:80]!r} is not supported: imports are for {host_platform()}")


def _listed_for(image: ImageState, filters: Filters) -> Sequence[str] | None:
    """The tags under which ``filters`` list ``image``; None if they don't list it."""
    if not labels_fit(filters.get("label", ()), image.config.labels):
        return None
    for value in filters.get("dangling", ()):
        if value.lower() not in ("true", "1", "false", "0"):
            raise HttpError(400, f"invalid filter 'dangling={value[:80]}'")
        if (value.lower() in ("true", "1")) == bool(image.tags):
            return None
    patterns = filters.get("reference")
    if patterns is None:
        return image.tags
    return [tag for tag in image.tags if any(_fits(pattern, tag) for pattern in patterns)] or None


def _fits(pattern: str, tag: str) -> bool:
    """Whether a shell pattern fits the familiar name with or without its tag; ``*`` stops at a slash."""
    names = (familiar(tag), parse_reference(tag).repository)
    parts = pattern.replace("[^", "[!").split("/")
    for name in names:
        pieces = name.split("/")
        if len(pieces) == len(parts) and all(map(fnmatch.fnmatchcase, pieces, parts)):
            return True
    return False
