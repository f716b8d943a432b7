"""Images over HTTP: list, inspect, history, tag, remove. Pulls and pushes are in ``api_pulls``.

Source: Docker Engine API v1.47, ImageList, ImageInspect, ImageHistory, ImageTag, ImageDelete; moby's
``daemon/images`` (v27) for what filters mean. The words of what can't be removed are the engine's own.
"""

from __future__ import annotations

from typing import Any

import trio

from lading.engine.api.imagelisting import LISTING_FILTERS, ImageListing
from lading.engine.api.imageshapes import image_inspect, image_summary, repo_tags
from lading.engine.api.past import seen_by
from lading.engine.api.request import caller_of, check_reference, filters_of
from lading.engine.api.words import parse_created
from lading.engine.engine import Engine
from lading.engine.http.message import HttpError, Reply, Request, Response
from lading.engine.http.router import Router
from lading.engine.images.untag import Removal
from lading.events.reference import parse_reference
from lading.storage.store import Paths

__all__ = ["add_image_routes", "named", "removal_shape"]


def add_image_routes(router: Router, engine: Engine) -> None:
    """Route what is asked of images, and what is done with their names."""
    images = _Images(engine)
    router.add("GET", "/images/json", images.list)
    router.add("GET", "/images/search", images.search)
    router.add("GET", "/images/{name:path}/json", images.inspect)
    router.add("GET", "/images/{name:path}/history", images.history)
    router.add("POST", "/images/{name:path}/tag", images.tag)
    router.add("DELETE", "/images/{name:path}", images.remove)


class _Images:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # -- queries ------------------------------------------------------------------------------------------

    async def list(self, request: Request) -> Reply:
        query, version = request.query, request.version
        filters = filters_of(request, LISTING_FILTERS)
        if name := query.get("filter"):
            filters = {**filters, "reference": (name,)}
        seen = await seen_by(self._engine, request)
        listing = ImageListing(seen.images, filters, seen.now)
        sizes = seen.sizes() if query.flag("shared-size") else None
        shown = []
        for image, names in listing.images():
            if sizes is None:
                shown.append(image_summary(image, names, version))
            else:
                size = sizes[image.image]
                shown.append(image_summary(image, names, version, shared=size.shared, containers=size.containers))
        return Response.json(shown, headers=seen.headers)

    async def inspect(self, request: Request) -> Reply:
        engine, version = self._engine, request.version
        seen = await seen_by(engine, request)
        image = seen.images.resolve(check_reference(request.params["name"]))
        tags = [seen.images.tag(tag) for tag in image.tags]
        since = max((tag.since for tag in tags if tag is not None), default=0)
        document = await trio.to_thread.run_sync(_document, engine.core.paths, image.image)
        return Response.json(
            image_inspect(image, document, engine.core.paths, since, version), headers=seen.headers
        )

    async def history(self, request: Request) -> Reply:
        """The steps that made the image, the last first; of each its layer's size, if it made one."""
        reference = check_reference(request.params["name"])
        image = self._engine.images.resolve(reference)
        found = await trio.to_thread.run_sync(self._engine.images.history, image.image)
        steps: list[dict[str, Any]] = [
            {
                "Id": "<missing>",
                "Created": parse_created(step.entry.created) // 1_000_000_000,
                "CreatedBy": step.entry.created_by,
                "Tags": None,
                "Size": step.size,
                "Comment": step.entry.comment,
            }
            for step in found
        ]
        if steps:  # the last one stands for the image itself
            steps[0] |= {"Id": image.image, "Tags": repo_tags(image.tags) or None}
        return Response.json(steps)

    async def search(self, request: Request) -> Reply:
        words = "searching registries is not supported in this release: look on the registry's own pages"
        raise HttpError(501, words)

    # -- commands -----------------------------------------------------------------------------------------

    async def tag(self, request: Request) -> Reply:
        query = request.query
        name = named(query.get("repo"), query.get("tag"))
        if name is None:
            raise HttpError(400, "invalid reference format: give the new name as repo, and its tag as tag")
        if parse_reference(name).repository == "sha256":
            raise HttpError(400, "refusing to create an ambiguous tag using digest algorithm as name")
        await self._engine.images.tag(check_reference(request.params["name"]), name, caller=caller_of(request))
        return Response(201)

    async def remove(self, request: Request) -> Reply:
        """``noprune`` is taken and means nothing: an image has no parents here."""
        reference = check_reference(request.params["name"])
        if not reference.strip():
            raise HttpError(400, "image name cannot be blank")
        removals = await self._engine.images.remove(
            reference, force=request.query.flag("force"), caller=caller_of(request)
        )
        return Response.json([removal_shape(removal) for removal in removals])


def removal_shape(removal: Removal) -> dict[str, str]:
    """One thing that went, as ImageDeleteResponseItem."""
    return {"Untagged" if removal.kind == "untagged" else "Deleted": removal.name}


def _document(paths: Paths, image: str) -> bytes | None:
    try:
        return (paths.blobs / image.removeprefix("sha256:")).read_bytes()
    except FileNotFoundError:
        return None  # an earlier moment is asked about, and the image is gone since


def named(repository: str, tag: str) -> str | None:
    """The name that ``repo`` and ``tag`` make, None for none. ``repo`` may have a tag, which ``tag`` replaces."""
    if not repository:
        return None
    if not tag:
        return check_reference(repository)
    return check_reference(f"{parse_reference(check_reference(repository)).repository}:{tag}")
