"""Exchanges with one registry about one repository: who we are, redirects, trying again, and what a refusal means.

A redirect is followed by us: at most five times, never from https to http, and with the ``Authorization`` only as
long as scheme, host and port stay the registry's own. A request is tried again after a fault of the way or of the
registry (429, 5xx), with doubled delays and jitter, and not after a refusal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import trio

from lading.engine.registry.auth import Authorizer, is_forbidden, origin
from lading.engine.registry.credentials import Credentials
from lading.engine.registry.settings import Endpoint, RegistrySettings
from lading.events.errors import NotFound, RegistryError, RegistryUnavailable, Unauthorized
from lading.events.strictjson import parse_object

if TYPE_CHECKING:
    from lading.engine.registry.connections import Answer, Connections, Content

__all__ = ["Backoff", "Session"]

_REDIRECTS = 5
_REDIRECT = frozenset((301, 302, 303, 307, 308))
_AGAIN = frozenset((408, 429, 500, 502, 503, 504))
_ERROR_LIMIT = 1 << 20
_FEWER = {"tls": 1, "unresolved": 1, "garbled": 1, "refused": 2, "timeout": 3}
"""Attempts after these facts of ``RegistryUnavailable``, where further ones would only delay the bad news."""
_BLANK = re.compile(r"\s+")


class Backoff:
    """How long to wait before trying again. ``random``: gives floats in [0, 1)."""

    def __init__(self, settings: RegistrySettings, random: Callable[[], float]) -> None:
        self.attempts: int = settings.attempts
        self._first = settings.first_delay
        self._longest = settings.longest_delay
        self._random = random

    def delay(self, failures: int) -> float:
        """Seconds to wait after ``failures`` in a row: doubled each time, bounded, half of it by chance."""
        whole = min(self._first * 2.0 ** min(failures - 1, 30), self._longest)
        return whole / 2 + whole / 2 * self._random()

    def asked(self, answer: Answer) -> float | None:
        """What ``Retry-After`` asks for, in seconds; None if that is longer than anybody should wait."""
        text = answer.headers.get("retry-after", "").strip()
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            return 0.0  # a date would be by another clock
        return float(text) if float(text) <= self._longest * 4 else None


class Session:
    """``endpoint`` as the holder of ``credentials`` uses it for ``repository``.

    ``repository``: a path as in a reference; empty for none. ``actions``: ``pull`` or ``pull,push``. ``name``:
    what it is called in errors.
    """

    def __init__(
        self,
        connections: Connections,
        authorizer: Authorizer,
        backoff: Backoff,
        endpoint: Endpoint,
        repository: str,
        actions: str,
        credentials: Credentials | None,
        name: str = "",
    ) -> None:
        self._connections = connections
        self._authorizer = authorizer
        self.backoff = backoff
        self.endpoint = endpoint
        self.repository = repository
        self.name: str = name or repository
        self._credentials = credentials
        self._scopes: tuple[str, ...] = (f"repository:{repository}:{actions}",) if repository else ()
        self._secrets = set(credentials.secrets if credentials is not None else ())

    @property
    def host(self) -> str:
        return self.endpoint.host

    @property
    def settings(self) -> RegistrySettings:
        return self._connections.settings

    async def base(self) -> str:
        """``scheme://host`` of the registry."""
        scheme = self.endpoint.scheme or await self._connections.scheme(self.endpoint.host)
        return f"{scheme}://{self.endpoint.host}"

    async def send(
        self,
        method: str,
        path: str,
        *,
        what: str,
        expect: Container[int],
        missing: tuple[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: Content | None = None,
        once: bool = False,
        persist: bool = False,
        also: Sequence[str] = (),
        patience: float = 1.0,
    ) -> Answer:
        """The answer to a request whose status is one of ``expect``; to be closed by the caller.

        ``path``: after ``/v2/REPOSITORY/``, or a whole address that the registry gave. ``missing``: kind and name
        for the ``NotFound`` that a 404 becomes. ``content`` that is a stream is made anew for each attempt, with
        ``once`` there is only one. ``persist``: it worked before, so a refused connection, too, is tried again
        as often as may be. ``also``: further scopes. Raises ``NotFound``, ``Unauthorized``,
        ``RegistryUnavailable`` and, for any other status, ``RegistryError``.
        """
        failures = 0
        while True:
            wait = 0.0
            try:
                answer = await self._authorized(method, path, what, headers or {}, content, once, also, patience)
            except RegistryUnavailable as error:
                failures += 1
                most = self.backoff.attempts
                if not (persist and error.fact == "refused"):
                    most = min(most, _FEWER.get(error.fact, most))
                if once or failures >= most:
                    raise
            else:
                if answer.status in expect:
                    return answer
                asked = self.backoff.asked(answer)
                refusal = await self._refusal(answer, what, missing)
                failures += 1
                if once or refusal.status not in _AGAIN or asked is None or failures >= self.backoff.attempts:
                    raise refusal.error
                wait = asked
            await trio.sleep(max(wait, self.backoff.delay(failures)))

    async def _authorized(
        self,
        method: str,
        path: str,
        what: str,
        headers: Mapping[str, str],
        content: Content | None,
        once: bool,
        also: Sequence[str],
        patience: float,
    ) -> Answer:
        base = await self.base()
        url = path if "://" in path else f"{base}/v2/{self.repository + '/' if self.repository else ''}{path}"
        scopes = (*self._scopes, *also)
        header = self._authorizer.known(base, self._credentials, scopes)
        answer = await self._redirected(method, url, base, what, headers, content, header, patience)
        if answer.status != 401 or origin(answer.url) != origin(base):
            return answer
        if once and content is not None:
            return answer
        await answer.drain()
        header = await self._authorizer.answer(base, answer, self._credentials, scopes, what)
        return await self._redirected(method, url, base, what, headers, content, header, patience)

    async def _redirected(
        self,
        method: str,
        url: str,
        base: str,
        what: str,
        headers: Mapping[str, str],
        content: Content | None,
        header: str | None,
        patience: float,
    ) -> Answer:
        own = origin(base)
        for _ in range(_REDIRECTS + 1):
            sent = dict(headers)
            if header is not None and origin(url) == own:
                sent["Authorization"] = header
                self._secrets.add(header.partition(" ")[2])
            else:
                header = None  # and not again, should it be led back
            answer = await self._connections.open(
                method, url, what=what, headers=sent, content=content, patience=patience
            )
            if answer.status not in _REDIRECT or method not in ("GET", "HEAD"):
                return answer
            location = answer.headers.get("location", "")
            await answer.drain()
            url = self.resolve(url, location, what)
        raise RegistryError(self.host, what, f"it redirects more than {_REDIRECTS} times")

    def resolve(self, url: str, location: str, what: str) -> str:
        """What ``location``, an answer's header, means at ``url``; ``RegistryError`` if it must not be used."""
        why = ""
        try:
            target = urljoin(url, location)
            parts = urlsplit(target)
            user, _ = parts.username, parts.port
        except ValueError:
            target, parts, user = "", urlsplit(""), None
        if not location or parts.scheme not in ("http", "https") or not parts.hostname or not location.isascii():
            why = "that is not an address on the web"
        elif parts.scheme == "http" and url.startswith("https:"):
            why = "that is not https, although the registry is"
        elif user is not None:
            why = "that has a user in it"
        elif is_forbidden(parts.netloc, self.host):
            why = "that is an address that only this machine or its network has"
        if why:
            raise RegistryError(self.host, what, f"it sends us to {self._shown(location)!r}: {why}")
        return target

    # -- refusals ------------------------------------------------------------------------------------------

    async def _refusal(self, answer: Answer, what: str, missing: tuple[str, str] | None) -> _Refusal:
        said = await self._said(answer)
        status = answer.status
        tail = f": {said}" if said else ""
        if status == 404 and missing is not None:
            return _Refusal(status, NotFound(*missing))
        if status in (401, 403):
            if self._credentials is None:
                why = "it refuses this to those who are not logged in, or there is no such image"
                hint = f"check the name, or run `lading login {self.host}`"
            else:
                who = f" {self._credentials.username}" if self._credentials.username else ""
                why, hint = f"it refuses this to the user{who}", "check the name and the user's rights"
            return _Refusal(status, Unauthorized(self.host, what, why + tail, status, hint))
        if status == 429:
            hint = "wait, or log in if you have not"
            return _Refusal(
                status, RegistryUnavailable(self.host, what, "it has had too many requests" + tail, status, hint)
            )
        if status >= 500 or status == 408:
            return _Refusal(
                status,
                RegistryUnavailable(self.host, what, f"it answered {status}{tail}", status, "try again later"),
            )
        return _Refusal(status, RegistryError(self.host, what, f"it answered {status}{tail}", status))

    async def _said(self, answer: Answer) -> str:
        """What the registry's answer says of the error, for people: one short line without our secrets."""
        from lading.engine.registry.connections import TooLong

        try:
            body = await answer.read(_ERROR_LIMIT, self.settings.stall_timeout)
            errors = parse_object(body).get("errors")
        except (TooLong, RegistryError, ValueError):
            return ""
        words = []
        for each in errors[:3] if isinstance(errors, list) else ():
            if isinstance(each, dict):
                code, message = each.get("code"), each.get("message")
                words.append(str(message) if isinstance(message, str) and message else str(code or ""))
        return self._shown("; ".join(word for word in words if word))

    def _shown(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = _BLANK.sub(" ", text)
        return "".join(each if each.isprintable() else "?" for each in text)[:200].strip()


class _Refusal:
    def __init__(self, status: int, error: NotFound | RegistryError) -> None:
        self.status = status
        self.error = error
