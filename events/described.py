"""A record as a JSON object, and back: what the API sends, ``--json`` prints, and clients read.

The names are the fields' own. The stored form (``codec``) has none; this one is for people and programs.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Mapping
from typing import Any

import attrs

from lading.events.codec import SCHEMAS, event_tag
from lading.events.envelope import Actor, Record
from lading.events.errors import Invalid
from lading.events.ids import CommandId
from lading.events.moments import utc_time
from lading.events.shapes import from_plain

__all__ = ["as_dict", "from_dict"]


def as_dict(record: Record) -> dict[str, Any]:
    """Every field of ``record``: names as in ``Record``, the event as ``type`` and ``data``, the chain in hex.

    ``utc`` is ``time`` in RFC 3339. The values are None, bool, int, str, lists and dicts.
    """
    return {
        "position": record.position,
        "stream": record.stream,
        "version": record.version,
        "event_id": record.event_id,
        "time": record.time,
        "utc": utc_time(record.time),
        "actor": _plain(record.actor),
        "command": record.command,
        "cause": record.cause,
        "type": event_tag(record.event),
        "data": _plain(record.event),
        "chain": record.chain.hex(),
    }


def from_dict(shown: Mapping[str, Any]) -> Record:
    """The record that ``as_dict`` made ``shown`` of; ``Invalid`` for anything else."""
    try:
        cls = SCHEMAS[shown["type"]][0]
        return Record(
            _whole(shown["position"]),
            _text(shown["stream"]),
            _whole(shown["version"]),
            _text(shown["event_id"]),
            _whole(shown["time"]),
            from_plain(Actor, _ordered(Actor, shown["actor"])),
            CommandId(_text(shown["command"])),
            _whole(shown["cause"]),
            from_plain(cls, _ordered(cls, shown["data"])),
            bytes.fromhex(shown["chain"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Invalid("record", str(dict(shown))[:200], f"it has not the form of one: {error}") from error


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is no whole number")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r} is no text")
    return value


def _plain(value: Any) -> Any:
    cls: Any = type(value)
    if cls in (str, int, bool, type(None)):
        return value
    if attrs.has(cls):
        return {name: _plain(getattr(value, name)) for name in _names(cls)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.hex() if isinstance(value, bytes) else value


@functools.cache
def _names(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in attrs.fields(cls))


def _ordered(cls: Any, named: Any) -> list[Any]:
    """The fields of ``named`` in the order of the class, as ``from_plain`` takes them."""
    if type(named) is not dict or len(named) != len(_names(cls)):
        raise ValueError(f"{cls.__name__} has the fields {', '.join(_names(cls))}")
    return [_field(inner, named[name]) for name, inner in _nested(cls)]


def _field(inner: Any, value: Any) -> Any:
    if inner is None or value is None:
        return value
    return [_ordered(inner, each) for each in value] if type(value) is list else _ordered(inner, value)


@functools.cache
def _nested(cls: Any) -> tuple[tuple[str, Any], ...]:
    """Each field's name, with the class of ours that it is or holds, or None."""
    hints = typing.get_type_hints(cls)
    options = ((name, (hints[name], *typing.get_args(hints[name]))) for name in _names(cls))
    return tuple((name, next((one for one in some if attrs.has(one)), None)) for name, some in options)
