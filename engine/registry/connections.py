"""Connections to any host, kept and used again, and single exchanges on them; no retry, redirect or credentials.

httpx and httpcore are imported here and in ``transport`` alone; whoever opens a `Registry` imports this module.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx
import trio

from lading.engine.registry.settings import RegistrySettings, host_name, is_loopback
from lading.engine.registry.transport import Outgoing, Stream, Transport
from lading.engine.registry.trust import tls_context
from lading.engine.release import release
from lading.events.errors import Invalid, RegistryError, RegistryUnavailable

__all__ = ["Answer", "Connections", "Content", "TooLong"]

Content = bytes | Callable[[], AsyncIterator[bytes]]
"""A request's body: bytes, or what gives them as a stream, each time that it is called.

The streams are no async generators: those must be read to their end, and a request may end before its body does.
"""


class TooLong(Exception):
    """A body has more bytes than it may."""


class Answer:
    """A response, its body not read yet. Must be closed, or read to its end; both may be done twice."""

    def __init__(self, response: httpx.Response, what: str, host: str) -> None:
        self._response = response
        self._what = what
        self._host = host
        self._parts: AsyncIterator[bytes] | None = None
        self.status: int = response.status_code
        self.headers: httpx.Headers = response.headers
        self.url: str = str(response.request.url)

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
                stream: Stream = self._response.extensions["network_stream"]
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
        self._transports: dict[str, Transport] = {}
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
            stream=Outgoing(content()) if callable(content) else None,
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

    def _transport(self, scheme: str, host: str) -> Transport:
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
            transport = self._transports[key] = Transport(context, self._proxy(scheme, host))
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
