"""An HTTP/1.1 client for a Unix socket: what the command line talks to the engine with.

Each request has a connection of its own, so that requests can run at the same time, and a reply that is not read
to its end harms nobody. A connection ends with its reply, or with the block of `connect` at the latest.

Nothing here has a timeout: a request such as *wait* may take weeks. Cancel it, and the server sees us gone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import h11
import trio

from lading.engine.http.exchange import HijackedStream
from lading.engine.http.message import HeaderItems, Headers, HttpError, header_pairs
from lading.engine.http.unix_socket import connect_unix
from lading.events.errors import HostError
from lading.events.strictjson import parse, parse_object

__all__ = ["Client", "ClientResponse", "connect"]

_RECEIVE = 1 << 16
_ERROR_LIMIT = 1 << 20
_HEAD_LIMIT = 1 << 16

Body = bytes | AsyncIterable[bytes]


@asynccontextmanager
async def connect(path: str | os.PathLike[str]) -> AsyncIterator[Client]:
    """A `Client` of the server at ``path``. Raises `HostError`, with a hint, if it can't be reached.

    Whatever the block raises comes out as it is, not in a group.
    """
    first = await connect_unix(path)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        client = Client(os.fspath(path), nursery, first)
        try:
            yield client
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            failure = error
        finally:
            client._close()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class ClientResponse:
    """A reply whose header has come; its body is read once, by one task, with one of the three methods.

    Each raises `HostError` if the server goes away before the end of the body.
    """

    def __init__(self, call: _Call, head: h11.Response) -> None:
        self.status: int = head.status_code
        self.headers: Headers = Headers(head.headers)
        self._call = call

    async def read(self, limit: int = 64 << 20) -> bytes:
        """The whole body. Raises `HostError` if it has more than ``limit`` bytes."""
        whole = bytearray()
        async for chunk in self.stream():
            whole += chunk
            if len(whole) > limit:
                await self.aclose()
                raise self._call.failed(errno.EFBIG, f"it sent more than {limit} bytes")
        return bytes(whole)

    async def json(self, limit: int = 64 << 20) -> Any:
        """The body as JSON, of any kind. Raises `HostError` if it is not JSON."""
        raw = await self.read(limit)
        try:
            return parse(raw)
        except ValueError as error:
            raise self._call.failed(errno.EPROTO, f"it did not send JSON: {error}") from None

    def stream(self) -> AsyncIterator[bytes]:
        """The body as it comes, in chunks of at most 64 KiB that need not be those that were sent."""
        return _Chunks(self._call)

    async def check(self) -> ClientResponse:
        """This, if its status is a success; else raises the server's `HttpError` (``{"message": ...}``)."""
        if self.status < 400:
            return self
        raise HttpError(self.status, await self._message())

    async def _message(self) -> str:
        raw = await self.read(_ERROR_LIMIT)
        try:
            return str(parse_object(raw)["message"])
        except (ValueError, KeyError):
            return raw[:1000].decode("utf-8", "replace").strip() or "no message"

    async def aclose(self) -> None:
        """Drop what is left of the reply. The server sees the client gone."""
        self._call.close()
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> ClientResponse:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Client:
    """Makes requests; see `connect`. Any number of tasks may use it at once."""

    def __init__(self, path: str, nursery: trio.Nursery, first: trio.SocketStream) -> None:
        self.path = path
        self._nursery = nursery
        self._first: trio.SocketStream | None = first
        self._open: set[_Call] = set()

    async def request(
        self, method: str, target: str, *, headers: HeaderItems = (), body: Body = b""
    ) -> ClientResponse:
        """Send a request and return its reply as soon as the header is there, whatever its status.

        A ``body`` that is not bytes is sent in chunks while the reply is read; what it raises is raised from
        here or from reading the reply. Raises `HostError` if the server can't be reached or goes away.
        """
        call = await self._send(method, target, header_pairs(headers), body)
        try:
            while True:
                event = await call.next_event()
                if isinstance(event, h11.Response):
                    return ClientResponse(call, event)
        except BaseException:
            call.close()
            raise

    @asynccontextmanager
    async def hijack(
        self, method: str, target: str, *, headers: HeaderItems = (), body: bytes = b""
    ) -> AsyncIterator[HijackedStream]:
        """Ask the server for the bare connection; the block gets it as a stream with a ``content_type``.

        Raises `HttpError` if the server answers anything but 101 or 200.
        """
        upgrade = (("Connection", "Upgrade"), ("Upgrade", "tcp"))
        call = await self._send(method, target, (*header_pairs(headers), *upgrade), body)
        try:
            event = await call.next_event()
            while isinstance(event, h11.InformationalResponse) and event.status_code != 101:
                event = await call.next_event()
            if isinstance(event, h11.Response) and event.status_code != 200:
                await ClientResponse(call, event).check()
                raise HttpError(event.status_code, "the server did not hand the connection over")
            assert isinstance(event, (h11.InformationalResponse, h11.Response))
            kind = Headers(event.headers).get("content-type", "")
            yield HijackedStream(call.stream, call.h11.trailing_data[0], kind)
        finally:
            call.close()

    async def _send(self, method: str, target: str, headers: tuple[tuple[str, str], ...], body: Body) -> _Call:
        fields = [("Host", "localhost"), *headers]
        if not isinstance(body, bytes):
            fields.append(("Transfer-Encoding", "chunked"))
        elif body or method not in ("GET", "HEAD", "DELETE"):
            fields.append(("Content-Length", str(len(body))))
        request = h11.Request(method=method, target=target, headers=fields)
        if (stream := self._first) is not None:
            self._first = None
        else:
            stream = await connect_unix(self.path)
        call = _Call(self, stream)
        self._open.add(call)
        try:
            await call.send(request)
            if isinstance(body, bytes):
                if body:
                    await call.send(h11.Data(data=body))
                await call.send(h11.EndOfMessage())
            else:
                self._nursery.start_soon(call.upload, body)
        except BaseException:
            call.close()
            raise
        return call

    def _close(self) -> None:
        if self._first is not None:
            self._first.socket.close()
        for call in list(self._open):
            call.close()


class _Chunks:
    def __init__(self, call: _Call) -> None:
        self._call = call

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        event = await self._call.next_event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        self._call.over = True
        self._call.close()
        raise StopAsyncIteration


class _Call:
    """One request and its reply on a connection of their own."""

    def __init__(self, client: Client, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.h11: h11.Connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_LIMIT)
        self._client = client
        self._failure: Exception | None = None
        self.over = False

    def failed(self, number: int, hint: str) -> HostError:
        return HostError("talk to the engine at", self._client.path, number, hint)

    def close(self) -> None:
        self.stream.socket.close()
        self._client._open.discard(self)

    async def send(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        try:
            await self.stream.send_all(self.h11.send(event))
        except trio.BrokenResourceError:
            # The server stopped listening; it may well have said why.
            await trio.lowlevel.checkpoint()

    async def upload(self, body: AsyncIterable[bytes]) -> None:
        """Send a body chunk by chunk. Never raises: a failure is kept for whoever reads the reply."""
        try:
            async for chunk in body:
                if chunk:
                    await self.stream.send_all(self.h11.send(h11.Data(data=chunk)))
            await self.stream.send_all(self.h11.send(h11.EndOfMessage()))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except Exception as error:
            self._failure = error
            self.stream.socket.close()
        finally:
            if (aclose := getattr(body, "aclose", None)) is not None:
                await aclose()

    async def next_event(self) -> h11.Event:
        """The next part of the reply. Raises what the upload raised, or `HostError`."""
        if self.over:
            await trio.lowlevel.checkpoint()
            return h11.EndOfMessage()
        try:
            while True:
                event = self.h11.next_event()
                if event is h11.NEED_DATA:
                    self.h11.receive_data(await self.stream.receive_some(_RECEIVE))
                elif isinstance(event, h11.ConnectionClosed):
                    raise self.failed(errno.ECONNRESET, "it closed the connection without an answer")
                elif isinstance(event, h11.Event):
                    return event
                else:
                    raise self.failed(errno.EPROTO, "it changed the protocol unasked")
        except h11.RemoteProtocolError as error:
            hint = f"it is not an engine, or it was cut off: {error}"
            raise self.failed(errno.EPROTO, hint) from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            if self._failure is not None:
                raise self._failure from None
            raise self.failed(errno.ECONNRESET, "it went away; look at its log") from None
