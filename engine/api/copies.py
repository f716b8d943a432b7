"""Files into and out of containers over HTTP, and what a container changed.

Source: Docker Engine API v1.47, ContainerArchive, ContainerArchiveInfo, PutContainerArchive, ContainerChanges; the
words of refusals are moby's (``daemon/archive.go``), since clients look for some of them.
"""

from __future__ import annotations

import base64
import json
import stat
from contextlib import AsyncExitStack
from typing import Final

from lading.engine.api.words import stamp
from lading.engine.containers.container import Container
from lading.engine.engine import Engine
from lading.engine.files.copying import PathStat
from lading.engine.http.message import HttpError, Reply, Request, Response
from lading.engine.http.router import Router
from lading.events.errors import Invalid, NotFound

__all__ = ["add_copy_routes", "go_mode"]

_STAT: Final = "X-Docker-Container-Path-Stat"

_KINDS: Final = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_FIRST: Final = -62_135_596_800 * 10**9
_LAST: Final = 253_402_300_799 * 10**9
"""What Go's JSON can say of times: the years 1 to 9999."""
_BITS: Final = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


def go_mode(mode: int) -> int:
    """``st_mode`` as Go's ``io/fs.FileMode`` has it."""
    return _KINDS.get(stat.S_IFMT(mode), 0) | (mode & 0o777) | sum(go for own, go in _BITS if mode & own)


def add_copy_routes(router: Router, engine: Engine) -> None:
    """Route ``archive`` and ``changes`` of containers."""
    copies = _Copies(engine)
    router.add("HEAD", "/containers/{id}/archive", copies.head)
    router.add("GET", "/containers/{id}/archive", copies.get)
    router.add("PUT", "/containers/{id}/archive", copies.put)
    router.add("GET", "/containers/{id}/changes", copies.changes)


class _Copies:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def head(self, request: Request) -> Reply:
        container, path = self._asked(request)
        try:
            return Response(200, {_STAT: _encoded(await container.stat_path(path))})
        except NotFound as error:
            raise _missing(error, request, path) from None

    async def get(self, request: Request) -> None:
        container, path = self._asked(request)
        async with AsyncExitStack() as stack:
            try:
                archive = await stack.enter_async_context(container.get_archive(path))
            except NotFound as error:
                raise _missing(error, request, path) from None
            first = await anext(archive.chunks, b"")
            headers = {"Content-Type": "application/x-tar", _STAT: _encoded(archive.stat)}
            send = await stack.enter_async_context(request.respond(200, headers))
            await send(first)
            async for chunk in archive.chunks:
                await send(chunk)

    async def put(self, request: Request) -> Reply:
        container, path = self._asked(request)
        try:
            await container.put_archive(
                path,
                request.body_stream(),
                no_overwrite_dir_non_dir=request.query.flag("noOverwriteDirNonDir"),
                copy_uid_gid=request.query.flag("copyUIDGID"),
            )
        except NotFound as error:
            raise _missing(error, request, path) from None
        except Invalid as error:
            raise HttpError(400, error.why if error.field == "path" else str(error)) from None
        return Response(200)

    async def changes(self, request: Request) -> None:
        container = self._engine.containers.get(request.params["id"])
        async with (
            container.changes() as changes,
            request.respond(200, {"Content-Type": "application/json"}) as send,
        ):
            begin = b"["
            async for page in changes:
                lines = (
                    json.dumps({"Path": change.path.decode("utf-8", "replace"), "Kind": change.kind.value})
                    for change in page
                )
                await send(begin + ",".join(lines).encode())
                begin = b","
            await send(b"null\n" if begin == b"[" else b"]\n")

    def _asked(self, request: Request) -> tuple[Container, str]:
        container = self._engine.containers.get(request.params["id"])
        path = request.query.get_bytes("path").decode("utf-8", "surrogateescape")
        if not path:
            raise HttpError(400, "bad parameter: 'path' cannot be empty")
        if "\0" in path:
            raise HttpError(400, "bad parameter: 'path' has a NUL byte in it")
        return container, path


def _missing(error: NotFound, request: Request, path: str) -> Exception:
    if error.kind != "path":
        return error
    shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return HttpError(404, f"Could not find the file {shown} in container {request.params['id']}")


def _encoded(told: PathStat) -> str:
    fields = {
        "name": _text(told.name),
        "size": told.size,
        "mode": go_mode(told.mode),
        "mtime": stamp(min(max(told.mtime, _FIRST), _LAST)),
        "linkTarget": _text(told.link_target),
    }
    return base64.b64encode(json.dumps(fields).encode()).decode()


def _text(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
