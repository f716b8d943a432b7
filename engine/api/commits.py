"""Images and containers made of containers over HTTP: commit, which is Docker's, and fork, which is not.

Source: Docker Engine API v1.47, ImageCommit; moby ``daemon/commit.go`` for what its body means.

``POST /lading/containers/{id}/fork`` takes ``{"Count": 3, "Names": ["a", "b", "c"], "Start": true, "Cmd":
["sh"]}``, each of which may be left out, and answers ``{"Containers": [{"Id": ..., "Name": ...}, ...]}``.
"""

from __future__ import annotations

import json
from typing import Any, Final

from lading.engine.api.request import caller_of, check_reference
from lading.engine.engine import Engine
from lading.engine.http.message import HttpError, Reply, Request, Response
from lading.engine.http.router import Router
from lading.events.dockerfilechanges import RunConfig
from lading.events.errors import ImageInvalid, WrongPhase
from lading.events.imageconfig import parse_config
from lading.events.strictjson import parse_object

__all__ = ["add_commit_routes"]

_BODY: Final = 4 << 20
_RUN: Final = (
    *("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal"),
    *("Shell", "OnBuild", "Healthcheck"),
)
_FORK: Final = frozenset(("Count", "Names", "Start", "Cmd"))


def add_commit_routes(router: Router, engine: Engine) -> None:
    """Route ``commit`` and ``fork``."""
    commits = _Commits(engine)
    router.add("POST", "/commit", commits.commit)
    router.add("POST", "/lading/containers/{id}/fork", commits.fork)


class _Commits:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def commit(self, request: Request) -> Reply:
        query = request.query
        container = self._engine.containers.get(query.get("container"))
        repository, tag = query.get("repo"), query.get("tag")
        name = f"{repository}:{tag}" if repository and tag else repository
        config = _run_config(await request.body(_BODY))
        try:
            image = await container.commit(
                check_reference(name) or None,
                author=query.get("author"),
                message=query.get("comment"),
                changes=query.get_all("changes"),
                pause=query.flag("pause", True),
                config=config,
                caller=caller_of(request),
            )
        except WrongPhase as error:
            how = "Dead" if error.phase == "dead" else "being removed"
            raise HttpError(409, f"You cannot commit container {container.id} which is {how}") from None
        return Response.json({"Id": image.image}, 201)

    async def fork(self, request: Request) -> Reply:
        container = self._engine.containers.get(request.params["id"])
        asked = await request.json(_BODY, default={})
        for field in asked:
            if field not in _FORK:
                raise HttpError(400, f"unknown field {field[:40]!r}: there are {', '.join(sorted(_FORK))}")
        names, command = _words(asked, "Names"), _words(asked, "Cmd")
        count, start = asked.get("Count"), asked.get("Start") or False
        if count is None:
            count = 1 if names is None else len(names)
        if type(count) is not int or type(start) is not bool:
            raise HttpError(400, "Count must be a whole number, and Start true or false")
        forks = await container.fork(count, names=names, start=start, command=command, caller=caller_of(request))
        made = [{"Id": each.id, "Name": each.name} for each in forks]
        return Response.json({"Containers": made}, 201)


def _words(asked: dict[str, Any], field: str) -> list[str] | None:
    value = asked.get(field)
    if value is not None and not (isinstance(value, list) and all(isinstance(each, str) for each in value)):
        raise HttpError(400, f"{field} must be a list of strings")
    return value


def _run_config(body: bytes) -> RunConfig | None:
    """The body, a container's config as Docker has it; None if there is none."""
    if body.strip() in (b"", b"null"):
        return None
    try:
        given = parse_object(body)
        run = {name: given[name] for name in _RUN if name in given}
        rootfs = {"type": "layers", "diff_ids": []}
        parsed = parse_config(json.dumps({"config": run, "rootfs": rootfs}).encode())
    except (ValueError, ImageInvalid) as error:
        raise HttpError(400, f"the request body is not a container's config: {error}") from None
    if not run:
        return None
    return RunConfig(parsed.config, parsed.on_build, parsed.healthcheck, parsed.shell)
