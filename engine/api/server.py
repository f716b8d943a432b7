"""The Docker Engine API, and routes of our own: which handler answers what, and how errors are said in HTTP.

Stock Docker clients of API v1.24 to v1.47 can use it, within what this release has; what it hasn't is refused.
Whoever can connect to the socket owns every container, which amounts to owning the machine: the socket is its
maker's alone, mode 0600.

Source: Docker Engine API v1.47, "Versioning" and "Errors"; the words are moby's where clients look for them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import trio

from lading.engine.api.archives import add_archive_routes
from lading.engine.api.commits import add_commit_routes
from lading.engine.api.containers import add_container_routes
from lading.engine.api.copies import add_copy_routes
from lading.engine.api.events import add_event_route
from lading.engine.api.execs import add_exec_routes
from lading.engine.api.failures import error_response
from lading.engine.api.gauges import KERNEL, add_gauge_routes
from lading.engine.api.history import add_history_route
from lading.engine.api.images import add_image_routes
from lading.engine.api.lifecycle import add_lifecycle_routes
from lading.engine.api.prunes import add_prune_routes
from lading.engine.api.pulls import add_pull_routes
from lading.engine.api.request import API_MAXIMUM, check_version
from lading.engine.api.retention import add_retention_routes
from lading.engine.api.streams import add_stream_routes
from lading.engine.api.system import add_system_routes
from lading.engine.api.usage import add_usage_route
from lading.engine.api.volumes import add_volume_routes
from lading.engine.api.waits import add_wait_route
from lading.engine.engine import Engine
from lading.engine.http import server as http_server
from lading.engine.http.message import Handler, Reply, Request
from lading.engine.http.router import Router
from lading.engine.http.unix_socket import listen_unix
from lading.engine.release import release

__all__ = ["api_handler", "serve_api", "serve_listener"]


async def serve_api(
    engine: Engine,
    path: str | os.PathLike[str],
    *,
    task_status: trio.TaskStatus[Sequence[http_server.Listener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``engine`` at the Unix socket ``path`` (made with mode 0600, removed at the end) until cancelled.

    Started when clients can connect. Raises ``InUse``, ``Invalid`` or ``HostError`` if the socket can't be made.
    """
    await serve_listener(engine, listen_unix(path, mode=0o600), task_status=task_status)


async def serve_listener(
    engine: Engine,
    listener: http_server.Listener,
    *,
    task_status: trio.TaskStatus[Sequence[http_server.Listener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``engine`` to whoever ``listener`` lets in, until cancelled; closes it."""
    await http_server.serve(
        [listener],
        api_handler(engine),
        on_error=error_response,
        headers={
            "Api-Version": "{}.{}".format(*API_MAXIMUM),
            "Docker-Experimental": "false",
            "Ostype": "linux",
            "Server": f"Lading/{release()} (linux)",
        },
        task_status=task_status,
    )


def api_handler(engine: Engine) -> Handler:
    """The whole API as one handler."""
    router = _VersionedRouter()
    add_system_routes(router, engine)
    add_image_routes(router, engine)
    add_pull_routes(router, engine)
    add_archive_routes(router, engine)
    add_container_routes(router, engine)
    add_copy_routes(router, engine)
    add_commit_routes(router, engine)
    add_lifecycle_routes(router, engine)
    add_gauge_routes(router, engine, KERNEL)
    add_prune_routes(router, engine)
    add_usage_route(router, engine)
    add_stream_routes(router, engine)
    add_volume_routes(router, engine)
    add_exec_routes(router, engine)
    add_wait_route(router, engine)
    add_event_route(router, engine)
    add_history_route(router, engine)
    add_retention_routes(router, engine)
    return router


class _VersionedRouter(Router):
    """A router whose handlers are reached only by versions that they speak."""

    def add(self, method: str, pattern: str, handler: Handler) -> None:
        async def checked(request: Request) -> Reply:
            check_version(request)
            return await handler(request)

        super().add(method, pattern, checked)
