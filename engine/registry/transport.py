"""How httpx's requests reach a socket: httpcore on trio, with other sizes, and streams that end when told to.

Imported with ``connections`` alone.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any

import httpcore
import httpx
import trio

__all__ = ["Outgoing", "Stream", "Transport"]

_READ = 256 << 10
"""Bytes asked of a socket at once, of which httpcore and h11 hold some four copies for each connection. httpcore's
own 64 KiB halve the throughput, and a MiB adds nothing to it."""

_WRITE = 256 << 10

_POOL: dict[str, Any] = {"max_connections": None, "max_keepalive_connections": 16, "keepalive_expiry": 30.0}


class Transport(httpx.AsyncBaseTransport):
    """httpx's transport, with reads of another size; httpcore's exceptions pass."""

    def __init__(self, context: ssl.SSLContext | None, proxy: httpx.Proxy | None = None) -> None:
        if proxy is None:
            self._pool: httpcore.AsyncConnectionPool = httpcore.AsyncConnectionPool(
                ssl_context=context, network_backend=_Backend(), **_POOL
            )
        else:
            self._pool = httpcore.AsyncHTTPProxy(
                proxy_url=httpcore.URL(
                    scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=b"/"
                ),
                proxy_auth=proxy.raw_auth,
                ssl_context=context,
                network_backend=_Backend(),
                **_POOL,
            )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        response = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        assert isinstance(response.stream, AsyncIterable)
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response.stream),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class Outgoing(httpx.AsyncByteStream):
    """A request's body from an iterator that is no generator: a request may end before its body does."""

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self._parts = parts

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: AsyncIterable[bytes]) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        close = getattr(self._stream, "aclose", None)
        if close is not None:
            await close()


class _Backend(httpcore.AsyncNetworkBackend):
    def __init__(self) -> None:
        self._trio = httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return Stream(await self._trio.connect_tcp(host, port, timeout, local_address, socket_options))

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class Stream(httpcore.AsyncNetworkStream):
    """``stopped``: reading fails from now on, though the connection is open."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self.stopped = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self.stopped:
            raise httpcore.ReadError("nobody wants more")
        return await self._inner.read(_READ, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """In pieces, so that the timeout is one of no progress."""
        if len(buffer) <= _WRITE:
            await self._inner.write(buffer, timeout)
            return
        view = memoryview(buffer)
        for start in range(0, len(view), _WRITE):
            await self._inner.write(view[start : start + _WRITE], timeout)  # type: ignore[arg-type]  # trio's fine

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return Stream(await self._inner.start_tls(ssl_context, server_hostname, timeout))
        except BaseException:  # httpcore forgets the socket when it is cancelled here
            with trio.CancelScope(shield=True):
                await self._inner.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        try:
            return self._inner.get_extra_info(info)
        except ValueError:  # asked whether it is readable, once it is closed
            return True
