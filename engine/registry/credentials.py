"""Credentials for registries: the values, and the headers of Docker's API that carry them.

No secret is in a ``repr``, an error or a log.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import attrs

from lading.events.errors import Invalid
from lading.events.strictjson import parse_object

__all__ = ["Credentials", "auth_key", "credentials_from_header", "credentials_from_table", "split_auth"]

_HEADER_LIMIT = 64 << 10


@attrs.frozen
class Credentials:
    """A user's name and password; or a token that the registry's own service exchanges (``identity_token``); or
    one that is sent as it is (``registry_token``).
    """

    username: str = ""
    password: str = attrs.field(default="", repr=False)
    identity_token: str = attrs.field(default="", repr=False)
    registry_token: str = attrs.field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.password or self.identity_token or self.registry_token)

    @property
    def basic(self) -> str:
        """The value of an ``Authorization`` header for HTTP's Basic scheme (RFC 7617), in UTF-8."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What nobody may read in a message."""
        found = [self.password, self.identity_token, self.registry_token]
        if self.password:
            found.append(self.basic.removeprefix("Basic "))
        return tuple(secret for secret in found if len(secret) >= 4)


def auth_key(domain: str) -> str:
    """The name that Docker's configuration and credential helpers have for the registry of ``domain``.

    That of Docker Hub is older than its present API (moby, ``registry.IndexServer``).
    """
    return f"https://index.{domain}/v1/" if domain == "docker.io" else domain


def credentials_from_header(value: str) -> Credentials | None:
    """What the API's ``X-Registry-Auth`` says: base64url of JSON; None for nothing. Otherwise ``Invalid``."""
    if not value:
        return None
    return _from_object(_decoded(value, "X-Registry-Auth"), "X-Registry-Auth") or None


def credentials_from_table(value: str) -> dict[str, Credentials]:
    """What the API's ``X-Registry-Config`` says, by the registries' names as they are given there."""
    if not value:
        return {}
    table = _decoded(value, "X-Registry-Config")
    found = {}
    for name, each in table.items():
        if not isinstance(each, dict):
            raise _wrong("X-Registry-Config", "its values must be objects")
        if credentials := _from_object(each, "X-Registry-Config"):
            found[name] = credentials
    return found


def split_auth(text: str) -> tuple[str, str]:
    """User and password in the ``auth`` of a Docker configuration: base64 of ``user:password``; or ValueError."""
    user, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    if not colon or not user:
        raise ValueError("it is not user:password")
    return user, password.rstrip("\0")


def _decoded(value: str, header: str) -> dict[str, Any]:
    if len(value) > _HEADER_LIMIT:
        raise _wrong(header, "it is too long")
    try:
        text = value.rstrip("=").translate(_TO_URL)
        raw = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        return parse_object(raw) if raw else {}
    except (ValueError, binascii.Error):
        raise _wrong(header, "it must be JSON in base64url") from None


_TO_URL = str.maketrans("+/", "-_")


def _from_object(value: dict[str, Any], header: str) -> Credentials:
    fields = {"username": "", "password": "", "identitytoken": "", "registrytoken": "", "auth": ""}
    for name in fields:
        each = value.get(name) or ""
        if not isinstance(each, str):
            raise _wrong(header, f"{name} must be a string")
        fields[name] = each
    if fields["auth"] and not fields["username"]:
        try:
            fields["username"], fields["password"] = split_auth(fields["auth"])
        except ValueError:
            raise _wrong(header, "auth must be base64 of user:password") from None
    return Credentials(fields["username"], fields["password"], fields["identitytoken"], fields["registrytoken"])


def _wrong(header: str, why: str) -> Invalid:
    """Without the value, which is secret."""
    return Invalid("header", header, why)
