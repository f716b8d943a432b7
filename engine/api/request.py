"""What every endpoint reads from a request in the same way: who asks, which version, filters, instants.

Source: Docker Engine API v1.47, "Versioning" and the ``filters`` parameter of the list endpoints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from lading.engine.api.words import parse_instant
from lading.engine.core import Caller, new_command_id
from lading.engine.http.message import MULTIPLEXED_STREAM, RAW_STREAM, HttpError, Request
from lading.events.envelope import Actor
from lading.events.errors import Invalid
from lading.events.ids import check_command_id

__all__ = [
    "API_MAXIMUM",
    "API_MINIMUM",
    "Filters",
    "boolean_filter",
    "caller_of",
    "check_reference",
    "check_version",
    "filters_of",
    "instant_of",
    "not_supported",
    "stream_type",
]

API_MINIMUM = (1, 24)
API_MAXIMUM = (1, 47)

_NOT_A_CLIENT = re.compile(r"[^A-Za-z0-9._/+-]")
_CLIENT = 64
_REFERENCE = 450

Filters = Mapping[str, tuple[str, ...]]


def check_version(request: Request) -> None:
    """Refuse, in Docker's words, a version outside of those that are served; no version means the newest."""
    version = request.version
    if version is None:
        return
    asked = "{}.{}".format(*version)
    if version > API_MAXIMUM:
        most = "{}.{}".format(*API_MAXIMUM)
        raise HttpError(400, f"client version {asked} is too new. Maximum supported API version is {most}")
    if version < API_MINIMUM:
        least = "{}.{}".format(*API_MINIMUM)
        raise HttpError(
            400,
            f"client version {asked} is too old. Minimum supported API version is {least}, "
            "please upgrade your client to a newer version",
        )


def check_reference(text: str) -> str:
    """``text``, if it is short enough to be an image's name; ``Invalid`` for what no view could have as a key."""
    if len(text.encode()) > _REFERENCE:
        raise Invalid("image reference", text, f"it is longer than {_REFERENCE} bytes")
    return text


def caller_of(request: Request) -> Caller:
    """The process at the other end, as the kernel and its User-Agent tell.

    With a new command id, or that of the header ``Lading-Command`` (32 lower-case hexadecimal digits): a client
    that heard no answer asks again with the same one, and nothing is done twice.
    """
    peer = request.peer
    words = request.headers.get("user-agent", "").split()
    client = _NOT_A_CLIENT.sub("", words[0])[:_CLIENT] if words else ""
    actor = Actor(peer.uid, peer.gid, peer.pid, client or "http")
    command = request.headers.get("lading-command")
    if command is None:
        return Caller(actor, new_command_id())
    return Caller(actor, check_command_id(command), once=True)


def stream_type(request: Request) -> str:
    """The content type of multiplexed output: it has a name of its own since API v1.42."""
    return RAW_STREAM if request.version is not None and request.version < (1, 42) else MULTIPLEXED_STREAM


def instant_of(request: Request, name: str) -> int:
    """The query parameter ``name`` as nanoseconds UTC, 0 if it isn't there; ``Invalid`` for anything else."""
    return parse_instant(request.query.get(name).strip(), name)


def filters_of(request: Request, known: Iterable[str]) -> Filters:
    """The filters of the query: ``{"name": ["a"]}``, or, as clients send it today, ``{"name": {"a": true}}``.

    Raises `HttpError` 400 for a filter that is not in ``known``: ignoring one would show what was not asked for.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, values in request.query.json("filters").items():
        if name not in known:
            raise HttpError(400, f"invalid filter {json.dumps(name)[:80]}")
        if isinstance(values, dict):
            values = [value for value, wanted in values.items() if wanted]
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise HttpError(400, f"invalid filter {name!r}: its values must be strings")
        if values:
            found[name] = tuple(values)
    return found


def boolean_filter(filters: Filters, name: str) -> bool | None:
    """The truth of filter ``name``, None if it isn't there; `HttpError` 400 for anything but true and false."""
    values = filters.get(name)
    if not values:
        return None
    said = {{"true": True, "1": True, "false": False, "0": False}.get(value.lower()) for value in values}
    if len(said) > 1 or None in said:
        raise HttpError(400, f"invalid filter '{name}={' '.join(values)[:80]}'")
    return said.pop()


def not_supported(what: str) -> HttpError:
    """The refusal of something that Docker has and this release hasn't."""
    return HttpError(501, f"{what} is not supported in this release")
