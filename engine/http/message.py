"""Requests and replies as values: what a handler of the HTTP server sees and gives back.

Nothing here does I/O. A `Request` reaches its connection through an `Exchange`, which the server implements.

A handler is ``async def handler(request) -> Reply`` and answers in one of four ways: it returns a `Response`;
it returns a `Stream`; it enters ``request.respond(...)`` and sends piece by piece; or it enters
``request.hijack(...)`` and owns the connection. After the last two it returns None. It may instead raise an
`HttpError`.

Sources: RFC 9110 and 9112; for the value of a flag, Docker Engine's ``httputils.BoolValue``.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

import attrs
import trio

from lading.engine.http.unix_socket import Peer
from lading.events.strictjson import parse_object

__all__ = [
    "MULTIPLEXED_STREAM",
    "RAW_STREAM",
    "Exchange",
    "Handler",
    "HeaderItems",
    "Headers",
    "HttpError",
    "Query",
    "Reply",
    "Request",
    "Response",
    "Send",
    "Stream",
    "header_pairs",
    "path_and_query",
]

RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"
BODY_LIMIT = 1 << 20
_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")

HeaderItems = Mapping[str, str] | Iterable[tuple[str, str]]
Send = Callable[[bytes], Awaitable[None]]


def header_pairs(items: HeaderItems) -> tuple[tuple[str, str], ...]:
    """Header fields in the one form that replies keep them in."""
    return tuple(items.items() if isinstance(items, Mapping) else items)


@attrs.define(auto_exc=True, eq=False, str=False, slots=False)
class HttpError(Exception):
    """An answer with an error ``status``; the body is Docker's ``{"message": ...}``.

    Handlers raise it for what is wrong with the request as HTTP; the client raises it for such an answer.
    """

    status: int
    message: str
    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=header_pairs)

    def __str__(self) -> str:
        return f"{self.message} (HTTP status {self.status})"

    def response(self) -> Response:
        return Response.error(self.status, self.message, self.headers)


class Headers(Mapping[str, str]):
    """Header fields by name, in any case. Repeated fields are joined by commas (RFC 9110, 5.3)."""

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._fields: dict[str, list[str]] = {}
        for name, value in raw:
            self._fields.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._fields[name.lower()])

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def get_all(self, name: str) -> tuple[str, ...]:
        return tuple(self._fields.get(name.lower(), ()))

    def tokens(self, name: str) -> tuple[str, ...]:
        """The comma-separated tokens of a field such as Connection, in lower case."""
        return tuple(token.strip().lower() for token in self.get(name, "").split(",") if token.strip())

    def __repr__(self) -> str:
        # Values are left out: X-Registry-Auth is a password, and a repr ends up in logs.
        return f"<Headers {', '.join(self._fields)}>"


class Query:
    """The query of a target, decoded on access: a value that is not UTF-8 is a 400 when read as text."""

    def __init__(self, raw: str = "") -> None:
        self._values: dict[str, list[bytes]] = {}
        for part in raw.split("&"):
            if part:
                name, _, value = part.replace("+", " ").partition("=")
                key = unquote_to_bytes(name).decode("utf-8", "replace")
                self._values.setdefault(key, []).append(unquote_to_bytes(value))

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def get(self, name: str, default: str = "") -> str:
        """The first value of ``name``."""
        values = self._values.get(name)
        return self._text(name, values[0]) if values else default

    def get_all(self, name: str) -> tuple[str, ...]:
        return tuple(self._text(name, value) for value in self._values.get(name, ()))

    def get_bytes(self, name: str, default: bytes = b"") -> bytes:
        """The first value of ``name`` as sent; for paths, which need not be UTF-8."""
        values = self._values.get(name)
        return values[0] if values else default

    def flag(self, name: str, default: bool = False) -> bool:
        """Docker's boolean: empty, 0, no, false and none are false, anything else is true."""
        if name not in self._values:
            return default
        return self.get(name).strip().lower() not in ("", "0", "no", "false", "none")

    def integer(self, name: str, default: int, *, least: int = 0, most: int = 2**63 - 1) -> int:
        """A decimal number from ``least`` to ``most``; absent or empty is ``default``, the rest a 400."""
        text = self.get(name).strip()
        if not text:
            return default
        digits = text.removeprefix("-")
        if len(digits) > 19 or not (digits.isascii() and digits.isdigit()):
            raise HttpError(400, f"query parameter {name!r} must be a whole number")
        if not least <= int(text) <= most:
            raise HttpError(400, f"query parameter {name!r} must be from {least} to {most}")
        return int(text)

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object, as in ``filters=``; absent or empty is {}, anything else that is not one a 400."""
        raw = self.get_bytes(name)
        return _object(raw, f"query parameter {name!r}") if raw.strip() else {}

    @staticmethod
    def _text(name: str, value: bytes) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise HttpError(400, f"query parameter {name!r} is not UTF-8") from None


def path_and_query(target: str) -> tuple[str, Query]:
    """The decoded path and the query of a request target in origin or absolute form (RFC 9112, 3.2).

    Raises `HttpError` 400 for other forms, bad escapes, and control characters in the path.
    """
    if target[:7].lower() == "http://":
        target = "/" + target[7:].partition("/")[2]
    if not target.startswith("/"):
        raise HttpError(400, "the request target must be a path")
    raw, _, query = target.partition("#")[0].partition("?")
    if "%" not in raw:
        return raw, Query(query)
    if _BAD_ESCAPE.search(raw):
        raise HttpError(400, "the path has a % that is not followed by two hexadecimal digits")
    try:
        path = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise HttpError(400, "the path is not UTF-8") from None
    if any(ord(char) < 0x20 or char == "\x7f" for char in path):
        raise HttpError(400, "the path has a control character in it")
    return path, Query(query)


def _object(raw: bytes, what: str) -> dict[str, Any]:
    try:
        return parse_object(raw)
    except ValueError as error:
        raise HttpError(400, f"{what} is not valid: {error}") from None


@attrs.frozen
class Response:
    """A whole reply. Content-Length, Date and what the connection needs are added."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=header_pairs)
    body: bytes = b""

    @classmethod
    def json(cls, value: object, status: int = 200, headers: HeaderItems = ()) -> Response:
        body = json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        return cls(status, (("Content-Type", "application/json"), *header_pairs(headers)), body)

    @classmethod
    def text(cls, text: str, status: int = 200, headers: HeaderItems = ()) -> Response:
        typed = ("Content-Type", "text/plain; charset=utf-8")
        return cls(status, (typed, *header_pairs(headers)), text.encode())

    @classmethod
    def error(cls, status: int, message: str, headers: HeaderItems = ()) -> Response:
        """Docker's error body."""
        return cls.json({"message": message}, status, headers)


@attrs.frozen
class Stream:
    """A reply whose body is made while it is sent. Headers go out at once, and each chunk as it comes.

    The server closes ``body`` (``aclose``) whatever happens. If it raises, the reply is cut off so that the
    client can tell: no last chunk is sent. ``endless`` is for what goes on until the client leaves, such as
    events: it gets no grace when the server stops.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = attrs.field(converter=header_pairs)
    body: AsyncIterable[bytes]
    endless: bool = False


class Exchange(Protocol):
    """What a request needs of its connection."""

    async def receive_body(self) -> bytes:
        """Some bytes of the body, b"" at its end."""
        ...

    def respond(
        self, status: int, headers: tuple[tuple[str, str], ...], endless: bool
    ) -> AbstractAsyncContextManager[Send]: ...

    def hijack(
        self, content_type: str, endless: bool
    ) -> AbstractAsyncContextManager[trio.abc.HalfCloseableStream]: ...


class _BodyStream:
    # A class and not a generator: trio warns of generators that are left before their end.
    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __aiter__(self) -> _BodyStream:
        return self

    async def __anext__(self) -> bytes:
        if chunk := await self._exchange.receive_body():
            return chunk
        raise StopAsyncIteration


@attrs.define(eq=False)
class Request:
    """One request, from the end of its header on. Only its handler's task and children may use it.

    ``path`` is percent-decoded and may hold any text; ``params`` and ``version`` are what the router found.
    """

    method: str
    target: str
    path: str
    query: Query
    headers: Headers
    peer: Peer
    http_version: str
    _exchange: Exchange = attrs.field(repr=False)
    params: Mapping[str, str] = attrs.field(factory=dict)
    version: tuple[int, int] | None = None

    async def body(self, limit: int = BODY_LIMIT) -> bytes:
        """The whole body. Raises `HttpError` 413 if it has more than ``limit`` bytes, without reading on."""
        if int(self.headers.get("content-length", 0)) > limit:
            raise HttpError(413, f"the request body has more than {limit} bytes")
        whole = bytearray()
        async for chunk in self.body_stream():
            whole += chunk
            if len(whole) > limit:
                raise HttpError(413, f"the request body has more than {limit} bytes")
        return bytes(whole)

    def body_stream(self) -> AsyncIterator[bytes]:
        """The body in chunks of at most 64 KiB, as it comes; nothing is read ahead.

        Iterating raises `HttpError` 400 if the framing is wrong and 408 if the client stalls.
        """
        return _BodyStream(self._exchange)

    async def json(self, limit: int = BODY_LIMIT, *, default: dict[str, Any] | None = None) -> dict[str, Any]:
        """The body as one JSON object. An empty body is ``default`` if there is one; the rest is a 400."""
        raw = await self.body(limit)
        if default is not None and not raw.strip():
            return default
        return _object(raw, "the request body")

    def respond(
        self, status: int = 200, headers: HeaderItems = (), *, endless: bool = False
    ) -> AbstractAsyncContextManager[Send]:
        """Answer piece by piece: ``async with request.respond() as send: await send(chunk)``.

        Headers are out when the block begins, each chunk when its ``send`` returns; several tasks may send.
        Leaving the block ends the body, leaving it by an exception cuts it off. ``endless``: see `Stream`.
        """
        return self._exchange.respond(status, header_pairs(headers), endless)

    def hijack(
        self, content_type: str = RAW_STREAM, *, endless: bool = False
    ) -> AbstractAsyncContextManager[trio.abc.HalfCloseableStream]:
        """Take the connection over: the block gets both directions of it as a stream.

        With ``Upgrade: tcp`` in the request the answer is 101, else a 200 without framing (Docker Engine API,
        "Hijacking"). Read the body first. A client that half-closes is still read from as an end of file and
        may be written to; one that is gone cancels the block after the server's ``linger``.
        """
        return self._exchange.hijack(content_type, endless)


Reply = Response | Stream | None
Handler = Callable[[Request], Awaitable[Reply]]
