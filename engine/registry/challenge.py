"""What a registry wants of a stranger: the ``WWW-Authenticate`` header (RFC 9110, section 11.6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import attrs

__all__ = ["Challenge", "parse_challenges"]

_LIMIT = 16 << 10
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"[ \t,]*({_TOKEN})(?:[ \t]+|(?=,)|$)")
_PARAMETER = re.compile(
    rf'[ \t,]*({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\x20-\x7e])*)"|({_TOKEN}))'
    r"[ \t]*(?=,|$)"
)
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")


@attrs.frozen
class Challenge:
    """One way to prove oneself. ``scheme`` and the names of ``parameters`` are in lower case."""

    scheme: str
    parameters: Mapping[str, str] = attrs.field(factory=dict)


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges in ``headers``, in their order; what breaks the grammar, or says one thing twice, is none.

    >>> parse_challenges(['Bearer realm="https://auth.example/token",service="x"'])[0].parameters["service"]
    'x'
    """
    found: list[Challenge] = []
    for header in headers:
        if len(header) <= _LIMIT:
            found += _challenges(header)
    return tuple(found)


def _challenges(header: str) -> list[Challenge]:
    found: list[Challenge] = []
    at = 0
    while at < len(header.rstrip(" \t,")):
        start = _SCHEME.match(header, at)
        if start is None:
            return []
        at = start.end()
        parameters: dict[str, str] = {}
        while (pair := _PARAMETER.match(header, at)) is not None:
            name = pair[1].lower()
            if name in parameters:
                return []
            parameters[name] = pair[3] if pair[2] is None else re.sub(r"\\(.)", r"\1", pair[2])
            at = pair.end()
        if not parameters and (lone := _TOKEN68.match(header, at)) is not None and "=" in lone[0]:
            at = lone.end()
        found.append(Challenge(start[1].lower(), parameters))
    return found
