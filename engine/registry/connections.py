"""Connections to any host, kept and used again, and single exchanges on them; no retry, redirect or credentials.

httpx and httpcore are imported here and only here; whoever opens a `Registry` imports this module.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx
import trio

from lading.engine.registry.settings import RegistrySettings, host_name, is_loopback
from lading.engine.registry.trust import tls_context
from lading.engine.release import release
from lading.events.errors import Invalid, RegistryError, RegistryUnavailable

__all__ = ["Answer", "Connections", "Content", "TooLong"]

Content = bytes | Callable[[], AsyncIterator[bytes]]
"""A request's body: bytes, or what gives them as a stream, each time that it is called.

The streams are no async generators: those must be read to their end, and a request may end before its body does.
"""

_READ = 1 << 20
"""Bytes asked of a socket at once. httpcore's own 64 KiB halve the throughput."""

_WRITE = 256 << 10

_POOL: dict[str, Any] = {"max_connections": None, "max_keepalive_connections": 16, "keepalive_expiry": 30.0}


class TooLong(Exception):
    """A body has more bytes than it may."""


class Answer:
    """A response, its body not read yet. Must be closed, or read to its end; both may be done twice."""

    def __init__(self, response: httpx.Response, what: str, host: str) -> None:
        self._response = response
        self._what = what
        self._host = host
        self._parts: AsyncIterator[bytes] | None = None
        self.status = response.status_code
        self.headers = response.headers
        self.url = str(response.request.url)

    @property
    def length(self) -> int | None:
        """What ``Content-Length`` says, if it says anything."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    async def part(self) -> bytes:
        """The next bytes of the body, as they came; empty at its end. Raises ``RegistryUnavailable``."""
        if self._parts is None:
            self._parts = self._response.aiter_raw()
        with _told(self._what, self._host):
            async for part in self._parts:
                if part:
                    return part
        return b""

    async def read(self, limit: int, timeout: float) -> bytes:
        """The whole body. ``TooLong`` if it has more than ``limit`` bytes; closed in any case."""
        body = bytearray()
        try:
            if self.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
                raise RegistryError(self._host, self._what, "the answer is compressed, which was not asked for")
            if (self.length or 0) > limit and self._response.request.method != "HEAD":
                raise TooLong
            with trio.move_on_after(timeout) as scope:
                while part := await self.part():
                    body += part
                    if len(body) > limit:
                        raise TooLong
            if scope.cancelled_caught:
                raise RegistryUnavailable(
                    self._host, self._what, f"the answer took longer than {timeout:g} s", 0, "", "timeout"
                )
        finally:
            await self.aclose()
        return bytes(body)

    async def drain(self) -> None:
        """Close it; read what little is left first, so that the connection can be used again."""
        try:
            if (self.length or 0) <= 64 << 10:
                await self.read(64 << 10, 2.0)
        except (TooLong, RegistryError):
            pass
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the connection, unless the body was read to its end. Not to be cancelled half-way."""
        parts, self._parts = self._parts, None
        with trio.CancelScope(shield=True):
            if parts is not None and not self._response.is_closed:
                # The generators between us and the socket must come to an end, which only reading makes them do.
                stream: _Stream = self._response.extensions["network_stream"]
                stream.stopped = True
                with suppress(httpcore.NetworkError, httpcore.ProtocolError):
                    async for _ in parts:
                        pass
                stream.stopped = False
            await self._response.aclose()


class Connections:
    """A pool for each way of connecting. An async context manager."""

    def __init__(self, settings: RegistrySettings) -> None:
        self.settings = settings
        self._transports: dict[str, _Transport] = {}
        self._schemes: dict[str, str] = {}
        self._looking: dict[str, trio.Lock] = {}
        self._headers = {"User-Agent": f"lading/{release()}", "Accept-Encoding": "identity", "Accept": "*/*"}

    async def aclose(self) -> None:
        """Close every connection; requests that are under way break."""
        transports, self._transports = list(self._transports.values()), {}
        with trio.CancelScope(shield=True):
            for transport in transports:
                await transport.aclose()

    async def open(
        self,
        method: str,
        url: str,
        *,
        what: str,
        headers: Mapping[str, str] | None = None,
        content: Content | None = None,
        patience: float = 1.0,
    ) -> Answer:
        """Send one request and wait for the answer's head.

        ``what``: what is being done, for errors. ``patience``: how many stall timeouts the answer may take once
        the request is sent. Raises ``RegistryUnavailable``; never anything of httpx.
        """
        target = httpx.URL(url)
        host = target.netloc.decode()
        stall = self.settings.stall_timeout * patience
        timeout = httpx.Timeout(stall, connect=self.settings.connect_timeout, pool=None)
        sent = self._headers | dict(headers or {})
        if callable(content):  # httpx leaves these to whoever makes the stream
            sent["Host"] = host
            if "Content-Length" not in sent:
                sent["Transfer-Encoding"] = "chunked"
        request = httpx.Request(
            method,
            target,
            headers=sent,
            content=None if callable(content) else content,
            stream=_Outgoing(content()) if callable(content) else None,
            extensions={"timeout": timeout.as_dict()},
        )
        whole = float("inf") if callable(content) else self.settings.connect_timeout + 2 * stall
        with trio.move_on_after(whole), _told(what, host):
            response = await self._transport(target.scheme, host).handle_async_request(request)
            response.request = request
            return Answer(response, what, host)
        raise RegistryUnavailable(host, what, f"no answer within {whole:g} s", 0, "", "timeout")

    async def scheme(self, host: str) -> str:
        """How ``host``, an insecure one, is spoken to: TLS if it can, as Docker does; found out once."""
        async with self._looking.setdefault(host, trio.Lock()):
            known = self._schemes.get(host)
            if known is not None:
                return known
            try:
                answer = await self.open("GET", f"https://{host}/v2/", what="look for TLS")
                await answer.drain()
            except RegistryUnavailable as error:
                if error.fact == "refused":
                    return "http"  # for now: it may not be up yet
                if error.fact not in ("tls", "cut", "garbled"):
                    raise
                self._schemes[host] = "http"
            else:
                self._schemes[host] = "https"
            return self._schemes[host]

    def _transport(self, scheme: str, host: str) -> _Transport:
        """One for each host, since trust and proxies are matters of the host.

        httpx's own client is not used: redirects, credentials and cookies are no business of anybody but us.
        """
        key = f"{scheme}://{host}"
        transport = self._transports.get(key)
        if transport is None:
            context = None
            if scheme == "https":
                verify = not self.settings.is_insecure(host)
                context = tls_context(host, self.settings.certificates, verify=verify)
            transport = self._transports[key] = _Transport(context, self._proxy(scheme, host))
        return transport

    def _proxy(self, scheme: str, host: str) -> httpx.Proxy | None:
        """What the environment says; this machine needs none to speak to itself."""
        if not self.settings.proxies or is_loopback(host) or proxy_bypass(host):
            return None
        proxies = getproxies()
        url = proxies.get(scheme) or proxies.get("all")
        if not url:
            return None
        try:
            return httpx.Proxy(url if "://" in url else f"http://{url}")
        except (ValueError, httpx.InvalidURL):
            raise Invalid(f"{scheme}_proxy", "in the environment", "it is not http://host:port") from None


class _Transport(httpx.AsyncBaseTransport):
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


class _Outgoing(httpx.AsyncByteStream):
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
        return _Stream(await self._trio.connect_tcp(host, port, timeout, local_address, socket_options))

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
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
            return _Stream(await self._inner.start_tls(ssl_context, server_hostname, timeout))
        except BaseException:  # httpcore forgets the socket when it is cancelled here
            with trio.CancelScope(shield=True):
                await self._inner.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        try:
            return self._inner.get_extra_info(info)
        except ValueError:  # asked whether it is readable, once it is closed
            return True


@contextmanager
def _told(what: str, host: str) -> Iterator[None]:
    """The failures of httpcore in our words."""
    try:
        yield
    except httpcore.TimeoutException as error:
        stage = (
            "connecting took too long"
            if isinstance(error, httpcore.ConnectTimeout)
            else "nothing came for too long"
        )
        raise RegistryUnavailable(host, what, stage, 0, "", "timeout") from None
    except httpcore.ConnectError as error:
        raise _no_connection(what, host, error) from None
    except httpcore.ProxyError as error:
        raise RegistryUnavailable(host, what, f"the proxy refuses: {str(error)[:100]}", 0, "", "refused") from None
    except httpcore.NetworkError:
        raise RegistryUnavailable(host, what, "the connection was cut", 0, "", "cut") from None
    except httpcore.RemoteProtocolError as error:
        cut = "disconnected" in str(error) or "closed connection" in str(error)
        why = "the connection was cut" if cut else f"it does not speak HTTP: {str(error)[:100]}"
        raise RegistryUnavailable(host, what, why, 0, "", "cut" if cut else "garbled") from None
    except (httpcore.ProtocolError, httpcore.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise RegistryUnavailable(
            host, what, f"no request can be made: {str(error)[:100]}", 0, "", "garbled"
        ) from None


def _no_connection(what: str, host: str, error: BaseException) -> RegistryUnavailable:
    causes = _causes(error)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return RegistryUnavailable(
                host,
                what,
                f"its certificate is not to be trusted: {cause.verify_message}",
                0,
                f"put the certificate of its authority into /etc/lading/certs.d/{host}/ca.crt, "
                "or list it as insecure if nobody else can be on the way to it",
                "tls",
            )
        if isinstance(cause, ssl.SSLError):
            return RegistryUnavailable(
                host,
                what,
                f"TLS failed: {(cause.reason or str(cause)).replace('_', ' ').lower()[:100]}",
                0,
                "if it speaks plain HTTP, list it as insecure in /etc/lading/registries.toml",
                "tls",
            )
        if isinstance(cause, socket.gaierror):
            return RegistryUnavailable(
                host, what, f"the name {host_name(host)} is not known", 0, "check the name", "unresolved"
            )
    said = next(
        (cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror), "none is made"
    )
    if any(isinstance(cause, trio.BrokenResourceError) for cause in causes):
        return RegistryUnavailable(host, what, "the connection was cut before anything was said", 0, "", "cut")
    return RegistryUnavailable(host, what, f"no connection: {said}", 0, "", "refused")


def _causes(error: BaseException) -> list[BaseException]:
    """``error`` and what led to it, some of which may be for several addresses of a host."""
    found: list[BaseException] = []
    waiting: list[BaseException] = [error]
    while waiting and len(found) < 30:
        each = waiting.pop(0)
        found.append(each)
        if (cause := each.__cause__ or each.__context__) is not None:
            waiting.append(cause)
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
    return found
