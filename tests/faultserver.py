"""An HTTP server on loopback that misbehaves as it is told, and remembers what it was sent."""

from __future__ import annotations

import hashlib
import re
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import attrs
import h11
import trio
from certificates import Certificates

REASON = b"Of Some Kind"


@attrs.frozen
class Seen:
    """A request. Names of headers are in lower case. ``target``: path and query as sent."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)


@attrs.frozen
class Reply:
    """An answer, and what is wrong with it.

    ``length``: what Content-Length says; None: the truth; -1: nothing, it is chunked. ``cut``: the connection ends
    after so many bytes of the body; ``stall``: nothing more comes after so many. ``silent``: nothing comes at all.
    ``endless``: the body is repeated for ever. ``drip``: seconds between single bytes. ``raw``: these bytes
    instead of any HTTP, then the end.
    """

    status: int = 200
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = b""
    length: int | None = None
    cut: int | None = None
    stall: int | None = None
    silent: bool = False
    endless: bool = False
    drip: float = 0.0
    raw: bytes | None = None


Answer = Reply | Callable[[Seen], Reply]


@attrs.define
class FaultServer:
    """``answers``: for ``"METHOD path"``, in the order they are given, the last one for ever. Others get 404."""

    address: str = ""
    scheme: str = "http"
    answers: dict[str, list[Answer]] = attrs.field(factory=lambda: defaultdict(list))
    seen: list[Seen] = attrs.field(factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}"

    def on(self, request: str, *answers: Answer) -> None:
        """Answer ``request`` (``"GET /v2/a/manifests/1"``) so from now on."""
        self.answers[request] = list(answers)

    def asked(self, request: str) -> list[Seen]:
        """Every ``request`` so far."""
        return [each for each in self.seen if f"{each.method} {each.path}" == request]

    def everything_sent(self) -> str:
        """All that any client told this server, for finding secrets in it."""
        return "\n".join(f"{each.method} {each.target} {dict(each.headers)} {each.body!r}" for each in self.seen)

    def _reply(self, seen: Seen) -> Reply:
        self.seen.append(seen)
        answers = self.answers.get(f"{seen.method} {seen.path}", [])
        if not answers:
            return Reply(404, {}, b'{"errors": [{"code": "UNKNOWN", "message": "nothing of this name"}]}')
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return answer if isinstance(answer, Reply) else answer(seen)

    async def serve(self, stream: trio.abc.Stream) -> None:
        """One connection, for as long as it is of use."""
        self.connections += 1
        try:
            while (seen := await _request(stream)) is not None and await _send(stream, seen, self._reply(seen)):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            pass  # a client that went away, or spoke TLS
        finally:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def fault_server(
    certificates: Certificates | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[FaultServer]:
    """A server that listens; with ``certificates``, for TLS."""
    server = FaultServer()
    listeners = await trio.open_tcp_listeners(0, host=host)
    server.address = f"{host}:{listeners[0].socket.getsockname()[1]}"
    handler: Callable[[Any], Any] = server.serve
    if certificates is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates.server, certificates.key)
        handler = partial(_serve_tls, server, context)
        server.scheme = "https"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handler, listeners)
        yield server
        nursery.cancel_scope.cancel()


async def _serve_tls(server: FaultServer, context: ssl.SSLContext, stream: trio.SocketStream) -> None:
    secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    try:
        await secured.do_handshake()
    except trio.BrokenResourceError:
        await trio.aclose_forcefully(stream)
        return
    await server.serve(secured)


async def _request(stream: trio.abc.Stream) -> Seen | None:
    connection = h11.Connection(h11.SERVER)
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                raise AssertionError("nobody here sends Expect")
            connection.receive_data(await stream.receive_some(1 << 20))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            headers = {name.decode(): value.decode() for name, value in head.headers}
            return Seen(head.method.decode(), head.target.decode(), headers, bytes(body))
        else:
            return None


async def _send(stream: trio.abc.Stream, seen: Seen, reply: Reply) -> bool:
    """Whether the connection can be used again."""
    if reply.raw is not None:
        await stream.send_all(reply.raw)
        return False
    if reply.silent:
        await trio.sleep_forever()
    chunked = reply.length == -1
    headers = dict(reply.headers)
    if chunked:
        headers["Transfer-Encoding"] = "chunked"
    elif not reply.endless or reply.length is not None:
        headers["Content-Length"] = str(len(reply.body) if reply.length is None else reply.length)
    head = f"HTTP/1.1 {reply.status} ".encode() + REASON + b"\r\n"
    head += b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items()) + b"\r\n"
    await stream.send_all(head)
    if seen.method == "HEAD":
        return True
    while reply.endless:
        await stream.send_all(_chunk(reply.body) if chunked else reply.body)
    ends = [end for end in (reply.cut, reply.stall) if end is not None]
    body = reply.body[: min(ends)] if ends else reply.body
    if reply.drip:
        for byte in body:
            await stream.send_all(bytes((byte,)))
            await trio.sleep(reply.drip)
    elif chunked:
        await stream.send_all((_chunk(body) if body else b"") + (b"" if ends else b"0\r\n\r\n"))
    else:
        await stream.send_all(body)
    if reply.stall is not None:
        await trio.sleep_forever()
    return not ends and reply.length in (None, -1, len(reply.body))


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


# -- what registries do ------------------------------------------------------------------------------------


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def ranged(content: bytes, **wrong: Any) -> Callable[[Seen], Reply]:
    """An answer with ``content``, or the end of it if that is what is asked for; with what is ``wrong``."""

    def answer(seen: Seen) -> Reply:
        found = re.fullmatch(r"bytes=([0-9]+)-", seen.headers.get("range", ""))
        if found is None:
            return Reply(200, {}, content, **wrong)
        start = int(found[1])
        said = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        return Reply(206, said, content[start:], **wrong)

    return answer


def guarded(authorization: str, challenge: str, answer: Answer) -> Callable[[Seen], Reply]:
    """``answer`` for those who send ``authorization``, and 401 with ``challenge`` for everybody else."""

    def guard(seen: Seen) -> Reply:
        if seen.headers.get("authorization") == authorization:
            return answer if isinstance(answer, Reply) else answer(seen)
        body = b'{"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}'
        return Reply(401, {"WWW-Authenticate": challenge}, body)

    return guard
