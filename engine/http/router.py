"""Choose a handler by method and path.

A pattern is a path in which ``{name}`` stands for one segment and ``{name:path}`` for one or more, slashes
included: ``/images/{name:path}/json`` fits ``/images/localhost:5000/a/b/json``. Where several patterns fit,
the one with the more exact segments wins, read from the left, in whatever order they were added.

A leading ``/v1.41`` is taken off before matching and kept as ``request.version``; whether that version is
supported is for the handlers to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs

from lading.engine.http.message import Handler, HttpError, Reply, Request

__all__ = ["Router"]

_VERSION = re.compile(r"/v([0-9]{1,3})\.([0-9]{1,3})(?=/)")
_PARAMETER = re.compile(r"\{([a-z_]+)(:path)?\}")


@attrs.frozen
class _Route:
    pattern: str
    matcher: re.Pattern[str]
    rank: tuple[int, ...]
    handlers: dict[str, Handler] = attrs.field(factory=dict)


def _compile(pattern: str) -> _Route:
    if not pattern.startswith("/"):
        raise ValueError(f"route {pattern!r} must begin with a slash")
    rank: list[int] = []
    expression = ""
    for segment in pattern[1:].split("/"):
        parameter = _PARAMETER.fullmatch(segment)
        if parameter is None:
            if "{" in segment or "}" in segment:
                raise ValueError(f"route {pattern!r} has a malformed parameter: {segment!r}")
            rank.append(0)
            expression += "/" + re.escape(segment)
        elif parameter[2]:
            rank.append(2)
            expression += f"/(?P<{parameter[1]}>[^/].*)"
        else:
            rank.append(1)
            expression += f"/(?P<{parameter[1]}>[^/]+)"
    return _Route(pattern, re.compile(expression, re.DOTALL), tuple(rank))


class Router:
    """A `Handler` made of others. No route for the path is a 404, none for the method a 405 with Allow.

    HEAD is a method like any other: it fits only where it was added.
    """

    def __init__(self) -> None:
        self._routes: dict[str, _Route] = {}
        # By first segment, or "" if that is a parameter: a lookup then tries a handful of patterns, not all.
        self._by_head: dict[str, list[_Route]] = {}

    def add(self, method: str, pattern: str, handler: Handler) -> None:
        """Raises ValueError for a malformed pattern or a route that is already there."""
        route = self._routes.get(pattern)
        if route is None:
            route = self._routes[pattern] = _compile(pattern)
            head = "" if route.rank[0] else pattern.split("/", 2)[1]
            routes = self._by_head.setdefault(head, [])
            routes.append(route)
            routes.sort(key=lambda route: route.rank)
        if method in route.handlers:
            raise ValueError(f"there already is a route {method} {pattern}")
        route.handlers[method] = handler

    def route(self, method: str, pattern: str) -> Callable[[Handler], Handler]:
        """`add` as a decorator."""

        def decorate(handler: Handler) -> Handler:
            self.add(method, pattern, handler)
            return handler

        return decorate

    async def __call__(self, request: Request) -> Reply:
        path = request.path
        if version := _VERSION.match(path):
            request.version = (int(version[1]), int(version[2]))
            path = path[version.end() :]
        head = path.split("/", 2)[1]
        allowed: set[str] = set()
        for routes in (self._by_head.get(head, ()), self._by_head.get("", ()) if head else ()):
            for route in routes:
                if (match := route.matcher.fullmatch(path)) is None:
                    continue
                if handler := route.handlers.get(request.method):
                    request.params = match.groupdict()
                    return await handler(request)
                allowed.update(route.handlers)
        if allowed:
            message = f"{request.method} is not allowed here"
            raise HttpError(405, message, {"Allow": ", ".join(sorted(allowed))})
        raise HttpError(404, "page not found")
