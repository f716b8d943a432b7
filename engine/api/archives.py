"""Images and containers as archives over HTTP: save, load, export.

Source: Docker Engine API v1.47, ImageGet, ImageGetAll, ImageLoad, ContainerExport; moby ``image/tarexport`` (v27)
for what a load says. An archive is streamed as it is made: what goes wrong before its first byte is a status, and
later cuts the reply off, so that nobody takes half an archive for a whole one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final, Literal

from lading.engine.api.failures import failure_words
from lading.engine.api.imageshapes import familiar
from lading.engine.api.progress import ProgressLines, stream_line, stream_progress
from lading.engine.api.request import caller_of, check_reference
from lading.engine.engine import Engine
from lading.engine.http.message import HttpError, Request
from lading.engine.http.router import Router
from lading.engine.images.progress import untold
from lading.events.container import Phase

__all__ = ["add_archive_routes"]

_TAR: Final = {"Content-Type": "application/x-tar"}


def add_archive_routes(router: Router, engine: Engine) -> None:
    """Route what gives or takes an archive. ``format=oci`` of a save is not Docker's: an OCI image layout."""
    archives = _Archives(engine)
    router.add("GET", "/images/get", archives.save_many)
    router.add("GET", "/images/{name:path}/get", archives.save_one)
    router.add("POST", "/images/load", archives.load)
    router.add("GET", "/containers/{id}/export", archives.export)


class _Archives:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def save_one(self, request: Request) -> None:
        await self._save(request, [request.params["name"]])

    async def save_many(self, request: Request) -> None:
        names = [name for value in request.query.get_all("names") for name in value.split(",") if name]
        if not names:
            raise HttpError(400, "no image names were given: say which with names=")
        await self._save(request, names)

    async def _save(self, request: Request, names: Sequence[str]) -> None:
        form = _form(request.query.get("format") or "docker")
        references = [check_reference(name) for name in names]
        async with AsyncExitStack() as stack:
            chunks = await stack.enter_async_context(
                self._engine.images.save(references, form=form, caller=caller_of(request))
            )
            first = await anext(chunks, b"")
            send = await stack.enter_async_context(request.respond(200, _TAR))
            await send(first)
            async for chunk in chunks:
                await send(chunk)

    async def load(self, request: Request) -> None:
        quiet = request.query.flag("quiet", True)
        caller = caller_of(request)

        async def work(lines: ProgressLines) -> None:
            loaded = await self._engine.images.load(
                request.body_stream(), progress=untold if quiet else lines.tell, caller=caller
            )
            for one in loaded:
                for name in one.names:
                    lines.add(stream_line(f"Loaded image: {familiar(name)}\n"))
                if not one.names:
                    lines.add(stream_line(f"Loaded image ID: {one.image}\n"))

        await stream_progress(request, work, failure_words, always=True)

    async def export(self, request: Request) -> None:
        container = self._engine.containers.get(request.params["id"])
        words = {Phase.DEAD: "Dead", Phase.REMOVING: "being removed"}.get(container.state.phase)
        if words is not None:
            raise HttpError(409, f"You cannot export container {container.id} which is {words}")
        async with (
            self._engine.containers.export(container.id) as chunks,
            request.respond(200, {"Content-Type": "application/octet-stream"}) as send,
        ):
            async for chunk in chunks:
                await send(chunk)


def _form(text: str) -> Literal["docker", "oci"]:
    match text:
        case "docker" | "oci":
            return text
        case _:
            raise HttpError(400, f"invalid format {text[:80]!r}: it is docker or oci")
