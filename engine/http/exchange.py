"""One request and its reply on a connection: the body in, the reply out, each at the pace of the other side.

This is the server's half of RFC 9112 that lies between a parsed header and the next one. It owns no task
and no timeout but that for a stalled body. Cancelling a send leaves the connection unusable and marks it so
(`cut_off`): half a chunk is never followed by something else.
"""

from __future__ import annotations

import http
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import h11
import trio

from lading.engine.http.hangup import Watch
from lading.engine.http.message import HttpError, Response, Send, Stream

__all__ = ["HijackedStream", "ServerExchange", "response_head"]

_RECEIVE = 1 << 16
_IGNORED_BODY_LIMIT = 1 << 20


_REASONS = {status.value: status.phrase.encode("ascii") for status in http.HTTPStatus}


def response_head(status: int, fields: list[tuple[str, str]]) -> h11.Response:
    """Raises `h11.LocalProtocolError` if a field can't be sent."""
    return h11.Response(status_code=status, headers=fields, reason=_REASONS.get(status, b""))


class HijackedStream(trio.abc.HalfCloseableStream):
    """The two directions of a connection that was HTTP, with the bytes that were already read put back."""

    def __init__(
        self,
        stream: trio.SocketStream,
        early: bytes,
        content_type: str,
        before_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.content_type = content_type
        self.gone: bool = False
        self._before_close = before_close
        self._stream = stream
        self._early = early

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._early:
            await trio.lowlevel.checkpoint()
            some = self._early[:max_bytes]
            self._early = self._early[len(some) :]
            return some
        try:
            return await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError:
            self.gone = True
            raise

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            self.gone = True
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        self._before_close()
        await self._stream.aclose()


class ServerExchange:
    """Implements `lading.engine.http.message.Exchange`; made when a request header has been read."""

    def __init__(
        self,
        connection: h11.Connection,
        stream: trio.SocketStream,
        request: h11.Request,
        watch: Watch,
        common: list[tuple[str, str]],
        *,
        body_timeout: float = math.inf,
        linger: float = 0.0,
    ) -> None:
        self._h11 = connection
        self._stream = stream
        self._request = request
        self._watch = watch
        self._common = common
        self._body_timeout = body_timeout
        self._linger = linger
        self._body_done = False
        self._send_lock = trio.Lock()
        self._sending = False
        self._gone = False
        self._cut_off = False
        self._hijacked: HijackedStream | None = None
        self.scope: trio.CancelScope = trio.CancelScope()
        self.started: bool = False
        self._endless = False
        self._closing = False
        fields = {name for name, _ in request.headers}
        if b"content-length" not in fields and b"transfer-encoding" not in fields:
            self._next_event()

    def close_after_reply(self) -> None:
        """Let the reply finish, tell the client that it is the last, and cut it off now if it is endless."""
        self._closing = True
        if self._endless:
            self.scope.cancel()

    @property
    def gone(self) -> bool:
        """Whether reading from or writing to the client failed, so that its handler is not to blame."""
        return self._gone or (self._hijacked is not None and self._hijacked.gone)

    @property
    def cut_off(self) -> bool:
        """Whether the reply ended before its end, so that the connection must end abruptly too."""
        return self._cut_off or self._sending or self.gone

    @property
    def reusable(self) -> bool:
        """Whether the reply is complete and another request may follow it."""
        return (
            self._hijacked is None
            and not self._cut_off
            and not self._sending
            and self._h11.our_state is h11.DONE
            and self._h11.their_state is h11.DONE
        )

    async def receive_body(self) -> bytes:
        while not self._body_done:
            if self._hijacked is not None:
                raise RuntimeError("the connection was hijacked: read from the stream")
            if self._h11.they_are_waiting_for_100_continue:
                await self._send(
                    self._h11.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
                )
            event = self._next_event()
            if event is h11.NEED_DATA:
                await self._receive()
            elif isinstance(event, h11.Data):
                return bytes(event.data)
        await trio.lowlevel.checkpoint()
        return b""

    async def reply(self, reply: Response | Stream | None) -> None:
        """Send what the handler returned."""
        if reply is None:
            if not self.started:
                raise RuntimeError("the handler returned no reply and sent none")
            return
        try:
            if self.started:
                raise RuntimeError("the handler returned a second reply")
            if isinstance(reply, Response):
                await self._send_whole(reply)
                return
            async with self.respond(reply.status, reply.headers, reply.endless) as send:
                if self._request.method != b"HEAD":
                    async for chunk in reply.body:
                        await send(chunk)
        finally:
            if (aclose := getattr(reply.body, "aclose", None)) is not None:
                await aclose()

    def respond(
        self, status: int, headers: tuple[tuple[str, str], ...], endless: bool
    ) -> AbstractAsyncContextManager[Send]:
        return self._respond(status, headers, endless)

    @asynccontextmanager
    async def _respond(
        self, status: int, headers: tuple[tuple[str, str], ...], endless: bool
    ) -> AsyncIterator[Send]:
        head = self._head(status, headers)
        bodiless = self._request.method == b"HEAD" or status in (204, 304)
        self._begin(endless)
        await self._send(self._h11.send(head))

        async def send(chunk: bytes) -> None:
            async with self._send_lock:
                if bodiless or not chunk:
                    await trio.lowlevel.checkpoint()
                    return
                await self._send(self._h11.send(h11.Data(data=chunk)))

        try:
            yield send
        except BaseException:
            self._cut_off = True
            raise
        async with self._send_lock:
            await self._send(self._h11.send(h11.EndOfMessage()))

    @asynccontextmanager
    async def hijack(self, content_type: str, endless: bool) -> AsyncIterator[HijackedStream]:
        left = _IGNORED_BODY_LIMIT
        while chunk := await self.receive_body():
            left -= len(chunk)
            if left < 0:
                raise HttpError(413, "the request body is too large here")
        upgrade = b""
        for name, value in self._request.headers:
            if name == b"upgrade" and b"tcp" in (token.strip() for token in value.lower().split(b",")):
                upgrade = b"Connection: Upgrade\r\nUpgrade: tcp\r\n"
        self._begin(endless)
        line = b"HTTP/1.1 101 UPGRADED\r\n" if upgrade else b"HTTP/1.1 200 OK\r\n"
        # Written by hand, as h11 has no name for a reply that has no framing and yet does not close.
        kind = b"Content-Type: " + content_type.encode("ascii") + b"\r\n"
        await self._send(line + kind + upgrade + b"\r\n")
        early, _ = self._h11.trailing_data
        self._hijacked = HijackedStream(self._stream, early, content_type, self._watch.release)
        # A client may well close right behind its last byte of input: leave time to pass that on.
        self._watch.cancels(self.scope, linger=self._linger)
        try:
            yield self._hijacked
        except BaseException:
            self._cut_off = True
            raise

    async def _send_whole(self, response: Response) -> None:
        self._discard_received_body()
        bodiless = self._request.method == b"HEAD" or response.status in (204, 304)
        headers = response.headers
        if response.status != 204 and not any(name.lower() == "content-length" for name, _ in headers):
            headers += (("Content-Length", str(len(response.body))),)
        head = self._head(response.status, headers)
        self._begin(endless=False)
        data = self._h11.send(head)
        if not bodiless and response.body:
            data += self._h11.send(h11.Data(data=response.body))
        await self._send(data + self._h11.send(h11.EndOfMessage()))

    def _begin(self, endless: bool) -> None:
        if self.started:
            raise RuntimeError("the handler has already begun to reply")
        self.started = True
        self._endless = endless
        if endless and self._closing:
            self.scope.cancel()

    def _head(self, status: int, headers: tuple[tuple[str, str], ...]) -> h11.Response:
        fields = [*self._common, *headers]
        # What is left of the body would be taken for the next request; and nobody may be willing to send it.
        if self._closing or not self._body_done:
            fields.append(("Connection", "close"))
        return response_head(status, fields)

    def _discard_received_body(self) -> None:
        """Drop what has come of a body that the handler did not want, so that the connection can go on."""
        while not self._body_done and not self._h11.they_are_waiting_for_100_continue:
            try:
                if self._next_event() is h11.NEED_DATA:
                    return
            except HttpError:
                return

    def _next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            event = self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise HttpError(error.error_status_hint, f"bad request body: {error}") from None
        if isinstance(event, h11.EndOfMessage):
            self._body_done = True
        return event

    async def _receive(self) -> None:
        try:
            with trio.fail_after(self._body_timeout):
                self._h11.receive_data(await self._stream.receive_some(_RECEIVE))
        except trio.TooSlowError:
            raise HttpError(408, "the request body stopped coming") from None
        except trio.BrokenResourceError:
            self._gone = True
            raise

    async def _send(self, data: bytes) -> None:
        if self._sending:
            self._gone = True
            raise trio.BrokenResourceError("an earlier send was cut off")
        self._sending = True
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            self._gone = True
            raise
        self._sending = False
