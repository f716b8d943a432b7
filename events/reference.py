"""Image references: ``[domain/]path[:tag][@digest]``, their familiar and their full form.

Source: distribution/reference grammar. The familiar form leaves out ``docker.io/``, ``library/`` and
``:latest``; the log and the views hold the full form only.
"""

from __future__ import annotations

import re

import attrs

from lading.events.errors import Invalid
from lading.events.ids import Digest, check_digest

__all__ = ["Reference", "parse_reference"]

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_DEFAULT_DOMAIN = "docker.io"
_WHY = "a reference is [domain[:port]/]path[:tag][@sha256:...], its path in lower case"


@attrs.frozen
class Reference:
    """A parsed reference. ``tag`` is None only where a digest stands instead of it."""

    domain: str
    path: str
    tag: str | None
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """The full name with tag and no digest, e.g. ``docker.io/library/nginx:demo``."""
        return f"{self.domain}/{self.path}" + (f":{self.tag}" if self.tag else "")

    @property
    def full(self) -> str:
        """What the log calls it: ``domain/path@digest`` if it has a digest, else ``domain/path:tag``."""
        return f"{self.domain}/{self.path}@{self.digest}" if self.digest else self.name

    @property
    def repository(self) -> str:
        """The familiar name without a tag, as Docker shows it: ``nginx``, ``ghcr.io/a/b``."""
        if self.domain != _DEFAULT_DOMAIN:
            return f"{self.domain}/{self.path}"
        short = self.path.removeprefix("library/")
        return self.path if "/" in short else short

    @property
    def familiar(self) -> str:
        """The name as people write it: ``nginx:demo``."""
        tail = (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")
        return self.repository + tail


def parse_reference(text: str) -> Reference:
    """``text`` parsed and completed with Docker's defaults, or ``Invalid``.

    >>> parse_reference("nginx").name
    'docker.io/library/nginx:latest'
    """
    if len(text) > 512:
        raise Invalid("image reference", text, "it is longer than 512 characters")
    rest, at, digest_text = text.partition("@")
    digest = check_digest(digest_text) if at else None
    if _HEX64.fullmatch(rest):
        raise Invalid("image reference", text, "64 hexadecimal digits are an id, not a name")
    head, slash, tail = rest.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost" or head != head.lower()):
        domain, remainder = head, tail
    else:
        domain, remainder = _DEFAULT_DOMAIN, rest
    path, colon, tag_text = remainder.partition(":")
    if domain == _DEFAULT_DOMAIN and "/" not in path:
        path = f"library/{path}"
    tag: str | None = tag_text if colon else (None if digest else "latest")
    if (
        _DOMAIN.fullmatch(domain) is None
        or _PATH.fullmatch(path) is None
        or len(domain) + len(path) > 300
        or (tag is not None and _TAG.fullmatch(tag) is None)
    ):
        raise Invalid("image reference", text, _WHY)
    return Reference(domain, path, tag, digest)
