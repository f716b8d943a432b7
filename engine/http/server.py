"""An HTTP/1.1 server for Unix sockets: h11 for the grammar, trio for the rest, nothing of containers.

What it promises of each connection (RFC 9112):

* requests are answered one at a time in the order they came; the next is not read before that;
* a handler runs inside a cancel scope that ends when its client is gone, whether it reads, waits or sends, and
  is not started for a client that has gone by then; one that only half-closed is still there;
* memory is bounded by `Limits` and what the handler itself holds: nothing is read ahead of the handler;
* whatever a client sends or a handler raises costs at most that connection.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Sequence
from email.utils import formatdate

import attrs
import h11
import trio

from lading.engine.http.exchange import ServerExchange, response_head
from lading.engine.http.hangup import Hangups, Watch
from lading.engine.http.message import (
    Handler,
    HeaderItems,
    Headers,
    HttpError,
    Request,
    Response,
    header_pairs,
    path_and_query,
)
from lading.engine.http.unix_socket import Peer, peer_of
from lading.events.errors import LadingError

__all__ = ["Limits", "serve"]

_log = logging.getLogger(__name__)
_SATURATED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_LINGER_RECEIVE = 1 << 16

Listener = trio.abc.Listener[trio.SocketStream]


@attrs.frozen
class Limits:
    """Sizes in bytes, times in seconds."""

    head: int = 16 * 1024
    """Request line and header together; more is a 431."""
    head_timeout: float = 30.0
    """From the first byte of a request (or, for the first one, from connecting) to the end of its header."""
    idle_timeout: float = 300.0
    """Between requests."""
    body_timeout: float = 300.0
    """Between two arrivals of parts of a body that a handler waits for."""
    linger: float = 1.0
    """For a client to read the last reply, or for a handler to pass on a hijacked stream's last input."""
    grace: float = 5.0
    """For requests to finish once the server is cancelled."""
    connections: int = 1000
    """At once. Beyond that, whoever has been idle longest makes room; if nobody is, newcomers wait."""
    backoff: float = 0.1
    """Between attempts to accept when the process or the machine is out of descriptors or memory."""


def _default_on_error(error: LadingError) -> Response:
    return Response.error(500, str(error))


async def serve(
    listeners: Sequence[Listener],
    handler: Handler,
    *,
    on_error: Callable[[LadingError], Response] = _default_on_error,
    headers: HeaderItems = (),
    limits: Limits | None = None,
    now: Callable[[], float] = time.time,
    task_status: trio.TaskStatus[Sequence[Listener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. Owns and closes ``listeners``.

    ``on_error`` makes the reply to a `LadingError` that a handler raises; an `HttpError` is its own reply,
    and any other exception is logged and answered by a 500. ``headers`` go on every reply but a hijacked
    one; ``now`` is for Date.

    Cancelled, it closes the listeners and all idle connections, gives running requests ``limits.grace``
    seconds (those that called themselves endless, none), cancels the rest and returns.
    """
    server = _Server(handler, on_error, header_pairs(headers), limits or Limits(), now)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run_connections)
        try:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(server.accept, listener)
                task_status.started(listeners)
        finally:
            server.stopping.set()


@attrs.define(eq=False)
class _Server:
    handler: Handler
    on_error: Callable[[LadingError], Response]
    headers: tuple[tuple[str, str], ...]
    limits: Limits
    now: Callable[[], float]
    stopping: trio.Event = attrs.field(factory=trio.Event)
    # Insertion order is age: the first has waited longest for a request.
    idle: dict[_Connection, trio.CancelScope] = attrs.field(factory=dict)
    busy: set[ServerExchange] = attrs.field(factory=set)
    _slots: trio.Semaphore = attrs.field(init=False)
    _hangups: Hangups = attrs.field(factory=Hangups)
    _nursery: trio.Nursery | None = None
    _date: tuple[int, str] = (-1, "")

    def __attrs_post_init__(self) -> None:
        self._slots = trio.Semaphore(self.limits.connections)

    def common_headers(self) -> list[tuple[str, str]]:
        second = int(self.now())
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True))
        return [("Date", self._date[1]), *self.headers]

    async def run_connections(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the connections' tasks, out of reach of cancellation until the grace is over."""
        try:
            with trio.CancelScope(shield=True) as lifetime:
                async with trio.open_nursery() as background:
                    background.start_soon(self._hangups.run)
                    async with trio.open_nursery() as connections:
                        self._nursery = connections
                        task_status.started()
                        await self.stopping.wait()
                        lifetime.deadline = trio.current_time() + self.limits.grace
                        for scope in self.idle.values():
                            scope.cancel()
                        for exchange in self.busy:
                            exchange.close_after_reply()
                    background.cancel_scope.cancel()
        finally:
            self._hangups.close()

    async def accept(self, listener: Listener) -> None:
        saturated = False
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in _SATURATED:
                        raise
                    if not saturated:
                        _log.warning("no new connections for now: %s", error)
                    saturated = True
                    self._evict()
                    await trio.sleep(self.limits.backoff)
                    continue
                saturated = False
                try:
                    try:
                        self._slots.acquire_nowait()
                    except trio.WouldBlock:
                        self._evict()
                        await self._slots.acquire()
                except trio.Cancelled:
                    await trio.aclose_forcefully(stream)
                    raise
                assert self._nursery is not None
                self._nursery.start_soon(self._run_connection, stream)

    def _evict(self) -> None:
        if self.idle:
            connection = next(iter(self.idle))
            self.idle.pop(connection).cancel()

    async def _run_connection(self, stream: trio.SocketStream) -> None:
        try:
            with self._hangups.watch(stream.socket.fileno()) as watch:
                await _Connection(self, stream, watch, peer_of(stream)).run()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except Exception:
            _log.exception("a connection failed")
        finally:
            await trio.aclose_forcefully(stream)
            self._slots.release()


@attrs.define(eq=False)
class _Connection:
    _server: _Server
    _stream: trio.SocketStream
    _watch: Watch
    _peer: Peer
    _h11: h11.Connection = attrs.field(init=False)
    _first: bool = True

    def __attrs_post_init__(self) -> None:
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=self._server.limits.head)

    async def run(self) -> None:
        """Serve requests until either side wants no more. The caller closes the stream."""
        while True:
            try:
                event = await self._next_head()
            except HttpError as error:
                await self._refuse(error)
                return
            if event is None or self._watch.gone:
                return
            exchange = ServerExchange(
                self._h11,
                self._stream,
                event,
                self._watch,
                self._server.common_headers(),
                body_timeout=self._server.limits.body_timeout,
                linger=self._server.limits.linger,
            )
            self._watch.cancels(exchange.scope)
            self._server.busy.add(exchange)
            try:
                with exchange.scope:
                    await self._answer(event, exchange)
            except Exception as error:
                # Only here if it came out of the handler together with a cancellation.
                if not (exchange.gone or self._watch.gone) or not _is_disconnection(error):
                    raise
                return
            finally:
                self._server.busy.discard(exchange)
                self._watch.cancels(None)
            if not exchange.reusable or self._server.stopping.is_set():
                if not exchange.cut_off and not exchange.scope.cancelled_caught:
                    await self._linger()
                return
            self._h11.start_next_cycle()
            self._first = False

    async def _next_head(self) -> h11.Request | None:
        """The next request's header; None if there is none. Raises `HttpError` if it is not acceptable."""
        limits = self._server.limits
        size = len(self._h11.trailing_data[0])
        patience = limits.head_timeout if self._first or size else limits.idle_timeout
        with trio.CancelScope(deadline=trio.current_time() + patience) as scope:
            if self._server.stopping.is_set():
                return None
            self._server.idle[self] = scope
            try:
                while True:
                    event = self._h11.next_event()
                    if isinstance(event, h11.Request):
                        return self._checked(event)
                    if isinstance(event, h11.ConnectionClosed):
                        return None
                    # Never read past the limit: h11 notices a header that is too long only while incomplete.
                    data = await self._stream.receive_some(max(limits.head + 1 - size, 1))
                    if data and not size:
                        # RFC 9112, 2.2: an empty line before the request line is to be ignored.
                        if not (data := data.lstrip(b"\r\n")):
                            continue
                        if not self._first:
                            scope.deadline = trio.current_time() + limits.head_timeout
                    size += len(data)
                    self._h11.receive_data(data)
            except h11.RemoteProtocolError as error:
                raise HttpError(error.error_status_hint, f"bad request: {error}") from None
            finally:
                evicted = self._server.idle.pop(self, None) is None
        if size and not evicted and not self._server.stopping.is_set():
            raise HttpError(408, "the request header stopped coming")
        return None

    def _checked(self, event: h11.Request) -> h11.Request:
        size = len(event.target) + sum(len(name) + len(value) + 4 for name, value in event.headers)
        if size > self._server.limits.head:
            raise HttpError(431, "the request header is too large")
        if event.http_version not in (b"1.0", b"1.1"):
            raise HttpError(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        names = {name for name, _ in event.headers}
        if b"transfer-encoding" in names and b"content-length" in names:
            # RFC 9112, 6.1: two framings in one request is how requests are smuggled past proxies.
            raise HttpError(400, "bad request: both Transfer-Encoding and Content-Length")
        return event

    async def _answer(self, event: h11.Request, exchange: ServerExchange) -> None:
        try:
            target = event.target.decode("ascii")
            path, query = path_and_query(target)
            request = Request(
                method=event.method.decode("ascii"),
                target=target,
                path=path,
                query=query,
                headers=Headers(event.headers),
                peer=self._peer,
                http_version=event.http_version.decode("ascii"),
                exchange=exchange,
            )
            await exchange.reply(await self._server.handler(request))
        except Exception as raised:
            error = _sole(raised)
            what = f"{event.method.decode('ascii')} {event.target.decode('ascii')[:200]}"
            if exchange.gone and _is_disconnection(error):
                _log.debug("%s: the client is gone: %r", what, error)
                return
            response = self._response_to(error, what)
            if exchange.started:
                _log.warning("%s: the reply was cut off by %r", what, error)
            else:
                await exchange.reply(response)

    def _response_to(self, error: Exception, what: str) -> Response:
        if isinstance(error, HttpError):
            return error.response()
        if isinstance(error, LadingError):
            try:
                return self._server.on_error(error)
            except Exception:
                _log.exception("%s: no reply could be made of %r", what, error)
        else:
            _log.error("%s: the handler crashed", what, exc_info=error)
        response = Response.error(500, f"internal error ({type(error).__name__}); the engine's log says more")
        return attrs.evolve(response, headers=(*response.headers, ("Connection", "close")))

    async def _refuse(self, error: HttpError) -> None:
        """Answer what can't be made a request of, as far as the client lets us, and end the connection."""
        response = error.response()
        fields = [
            *self._server.common_headers(),
            *response.headers,
            ("Content-Length", str(len(response.body))),
            ("Connection", "close"),
        ]
        head = self._h11.send(response_head(response.status, fields))
        with trio.move_on_after(self._server.limits.linger):
            await self._stream.send_all(head + response.body)
            await self._linger()

    async def _linger(self) -> None:
        """Say that we have finished, and wait a moment for the client to finish (RFC 9112, 9.6).

        Closing with its bytes unread would make its end report a reset connection, perhaps before the reply.
        """
        with trio.move_on_after(self._server.limits.linger):
            await self._stream.send_eof()
            while await self._stream.receive_some(_LINGER_RECEIVE):
                pass


def _sole(error: Exception) -> Exception:
    """What a nursery wrapped, if that is one exception."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _is_disconnection(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_disconnection(part) for part in error.exceptions)
    return isinstance(error, (trio.BrokenResourceError, trio.ClosedResourceError))
