"""Proving who we are: answers to a registry's challenges, and the tokens that they need.

Sources: distribution's ``spec/auth/token.md`` and ``spec/auth/oauth.md``; RFC 7617 (Basic), RFC 6750 (Bearer).

Where credentials go: to the registry that they are for, and to the one place that this registry named for getting
tokens (its *realm*), if it said so on a channel that can be trusted as far as the registry itself. Nowhere else:
a realm is never followed to another origin, and must be https unless the registry is an insecure one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import attrs
import trio

from lading.engine.registry.challenge import Challenge, parse_challenges
from lading.engine.registry.credentials import Credentials
from lading.engine.registry.settings import host_name, is_loopback, written_address
from lading.events.errors import RegistryError, Unauthorized
from lading.events.strictjson import parse_object

if TYPE_CHECKING:
    from lading.engine.registry.connections import Answer, Connections

__all__ = ["Authorizer", "is_forbidden", "origin"]

_TOKEN_LIMIT = 1 << 20
_TOKEN_PATIENCE = 60.0
_DEFAULT_LIFE = 60.0
_EARLY = 10.0
_CACHE_LIMIT = 1000


@attrs.frozen
class _Header:
    """An ``Authorization`` and until when (trio's clock) it is worth sending."""

    value: str
    until: float


class Authorizer:
    """The ``Authorization`` headers that worked, for each registry, user and scope, and how to get another."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._headers: dict[tuple[str, Credentials | None, tuple[str, ...]], _Header] = {}

    def known(self, base: str, credentials: Credentials | None, scopes: Sequence[str]) -> str | None:
        """The header to send to the registry at ``base`` without being asked, or None."""
        found = self._headers.get((base, credentials, tuple(scopes)))
        return found.value if found is not None and trio.current_time() < found.until else None

    async def answer(
        self, base: str, challenged: Answer, credentials: Credentials | None, scopes: Sequence[str], what: str
    ) -> str:
        """The header that answers ``challenged``, a 401 of the registry at ``base`` (``scheme://host``).

        ``scopes``: what is asked for, as in ``repository:library/nginx:pull``. Raises ``Unauthorized`` if there is
        no answer to it, ``RegistryError`` for a realm that must not or can't be asked.
        """
        host = urlsplit(base).netloc
        challenges = parse_challenges(challenged.headers.get_list("www-authenticate"))
        for challenge in challenges:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                header = await self._bearer(base, challenge, credentials, scopes, what)
                break
            if challenge.scheme == "basic":
                if credentials is None or not credentials.username:
                    raise Unauthorized(
                        host, what, "it wants a user and a password", 401, f"run `lading login {host}`"
                    )
                header = _Header(credentials.basic, float("inf"))
                break
        else:
            raise Unauthorized(host, what, "it refuses, and does not say (or not clearly) what it wants", 401)
        if len(self._headers) >= _CACHE_LIMIT:
            self._headers.clear()
        self._headers[base, credentials, tuple(scopes)] = header
        return header.value

    async def _bearer(
        self, base: str, challenge: Challenge, credentials: Credentials | None, scopes: Sequence[str], what: str
    ) -> _Header:
        if credentials is not None and credentials.registry_token:
            return _Header(f"Bearer {_printable(credentials.registry_token, base, what)}", float("inf"))
        realm = challenge.parameters["realm"]
        self._check_realm(base, realm, what)
        service = challenge.parameters.get("service", "")
        wanted = list(scopes) or challenge.parameters.get("scope", "").split()
        fields = [("service", service)] if service else []
        started = trio.current_time()
        if credentials is not None and credentials.identity_token:
            form = [
                *(("grant_type", "refresh_token"), ("client_id", "lading"), *fields),
                *(("scope", " ".join(wanted)), ("refresh_token", credentials.identity_token)),
            ]
            answer = await self._connections.open(
                "POST",
                realm,
                what=what,
                headers={"Content-Type": "application/x-www-form-urlencoded"},
                content=urlencode(form).encode(),
            )
        else:
            headers = {}
            if credentials is not None and credentials.username:
                headers["Authorization"] = credentials.basic
                fields.append(("account", credentials.username))
            query = urlencode([*fields, *(("scope", scope) for scope in wanted)])
            url = realm if not query else f"{realm}{'&' if '?' in realm else '?'}{query}"
            answer = await self._connections.open("GET", url, what=what, headers=headers)
        return await self._token(base, answer, started, credentials, what)

    async def _token(
        self, base: str, answer: Answer, started: float, credentials: Credentials | None, what: str
    ) -> _Header:
        from lading.engine.registry.connections import TooLong

        host, realm_host = urlsplit(base).netloc, urlsplit(answer.url).netloc
        try:
            body = await answer.read(_TOKEN_LIMIT, _TOKEN_PATIENCE)
        except TooLong:
            raise RegistryError(realm_host, what, f"the token has more than {_TOKEN_LIMIT} bytes") from None
        if answer.status in (400, 401, 403):  # oauth.md has 400 for a wrong grant
            if credentials is None:
                why, hint = "its token service refuses those who are not logged in", f"run `lading login {host}`"
            else:
                why, hint = (
                    f"{realm_host} refuses the user and password or token",
                    f"run `lading login {host}` again",
                )
            raise Unauthorized(host, what, why, answer.status, hint)
        if answer.status != 200:
            raise RegistryError(
                host, what, f"its token service {realm_host} answered {answer.status}", answer.status
            )
        try:
            found = parse_object(body)
            token = found.get("token") or found.get("access_token")
            life = found.get("expires_in") or _DEFAULT_LIFE
            if not isinstance(token, str) or type(life) not in (int, float):
                raise ValueError("it has no token, or no sensible lifetime")
        except ValueError as error:
            raise RegistryError(realm_host, what, f"its answer is not a token: {error}") from None
        life = min(max(float(life), 0.0), 86_400.0)
        return _Header(f"Bearer {_printable(token, base, what)}", started + max(life - _EARLY, life / 2))

    def _check_realm(self, base: str, realm: str, what: str) -> None:
        """See the module's text. The text of a refused realm is shown; it is the registry's, not ours."""
        host = urlsplit(base).netloc
        try:
            parts = urlsplit(realm)
            realm_host, user = parts.netloc, parts.username
            parts.port  # noqa: B018  # raises
        except ValueError:
            parts, realm_host, user = urlsplit(""), "", None
        insecure = base.startswith("http://") or self._connections.settings.is_insecure(host)
        why = ""
        if parts.scheme not in ("https", "http") or not realm_host or not realm.isascii():
            why = "it is not an address on the web"
        elif parts.scheme == "http" and not insecure:
            why = "it is not https, so credentials and tokens could be read on the way"
        elif user is not None or parts.fragment:
            why = "it has a user or a fragment in it"
        elif is_forbidden(realm_host, host):
            why = "it is an address that only this machine or its network has"
        if why:
            raise RegistryError(host, what, f"it sends us to {realm[:100]!r} for a token: {why}")


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of ``url``: what an ``Authorization`` must not leave."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or (443 if scheme == "https" else 80)


def is_forbidden(host: str, asked_by: str) -> bool:
    """Whether ``host`` is link-local (where clouds answer with their machines' secrets), or loopback although the
    registry ``asked_by`` is not.
    """
    if is_loopback(host):
        return not is_loopback(asked_by)
    address = written_address(host_name(host))
    if address is None:
        return False
    return address.is_link_local or address.is_unspecified or address.is_multicast


def _printable(token: Any, base: str, what: str) -> str:
    """``token`` if it can be put into a header."""
    if not token.isascii() or not token.isprintable() or " " in token or len(token) > 256 << 10:
        raise RegistryError(urlsplit(base).netloc, what, "the token has characters that no token has")
    return str(token)
