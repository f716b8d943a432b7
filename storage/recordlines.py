"""A stored record as one line of JSON, and back to exactly the same bytes.

::

    {"position":7,"stream":"container/4f..","version":2,"event_id":"..","time":1767225600000000000,
     "utc":"2026-01-01T00:00:00.000000000Z","actor":{"uid":0,"gid":0,"pid":4711,"client":"lading-cli"},
     "command":"..","cause":0,"type":"container.start-requested","schema":1,"data":{"run":1},"chain":".."}

(in one line, in this order, without spaces, in ASCII). An event whose schema has a layout is ``data``, with its
fields by name; any other is ``fields``, the list as it is stored: nothing is ever upcast. Bytes are
``{"$bytes": base64}``; in a map, whose keys are free, a key that begins with ``$`` gets another in front.

Nothing is decoded into classes here: an event of a schema that this release does not know passes unharmed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgpack

from lading.events.codec import GENESIS, SCHEMAS
from lading.events.moments import utc_time
from lading.events.shapes import layout

__all__ = ["Layouts", "as_line", "canonical", "check_layouts", "from_line", "layouts_today"]

Layouts: TypeAlias = Mapping[tuple[str, int], list[Any]]
"""(tag, schema) -> the names of its fields in order; one that has fields itself is ``{name: its layout}``."""

_FORM = 1
_CHAIN = len(GENESIS)
_DEPTH = 32
_ENTRY = (int, int, str, int, str, int, list, str, int, str, int, list)
_ACTOR = ("uid", "gid", "pid", "client")


def layouts_today() -> Layouts:
    """The layouts of this release's schemas."""
    return {(tag, schema): layout(cls) for tag, (cls, schema) in SCHEMAS.items()}


def canonical(value: Any) -> bytes:
    """``value`` as JSON in the one form that all our files have: ASCII, no spaces. ``ValueError`` for NaN."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def check_layouts(layouts: Layouts) -> None:
    """Raise ``ValueError`` for a layout that is none: other than distinct names, or too deep."""
    for names in layouts.values():
        _check_layout(names, 0)


def _check_layout(names: Any, depth: int) -> None:
    if type(names) is not list or depth > _DEPTH:
        raise ValueError("a layout is a list of names")
    seen = []
    for each in names:
        if type(each) is dict and len(each) == 1:
            [(name, inner)] = each.items()
            _check_layout(inner, depth + 1)
        else:
            name = each
        if type(name) is not str:
            raise ValueError("a layout is a list of names")
        seen.append(name)
    if len(set(seen)) != len(seen):
        raise ValueError("a layout has a name twice")


def as_line(stored: bytes, layouts: Layouts) -> bytes:
    """The line, with its newline, for a record's stored bytes (record || chain).

    Raises ``ValueError`` for bytes that no record is, or that would not come out the same again.
    """
    body, chain = stored[:-_CHAIN], stored[-_CHAIN:]
    try:
        entry = msgpack.unpackb(body, strict_map_key=True)
        same = msgpack.packb(entry) == body
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise ValueError(f"it can't be decoded: {error}") from error
    if not same or type(entry) is not list or tuple(map(type, entry)) != _ENTRY or entry[0] != _FORM:
        raise ValueError("it is not a record in the form that this release writes")
    _, position, stream, version, event_id, time, actor, command, cause, tag, schema, fields = entry
    if len(actor) != len(_ACTOR):
        raise ValueError("its actor is not one")
    names = layouts.get((tag, schema))
    event = {"fields": _to_json(fields)} if names is None else {"data": _to_named(fields, names)}
    return (
        canonical(
            {
                "position": position,
                "stream": stream,
                "version": version,
                "event_id": event_id,
                "time": time,
                "utc": utc_time(time),
                "actor": {name: _to_json(value) for name, value in zip(_ACTOR, actor, strict=True)},
                "command": command,
                "cause": cause,
                "type": tag,
                "schema": schema,
                **event,
                "chain": chain.hex(),
            }
        )
        + b"\n"
    )


def from_line(value: Mapping[str, Any], layouts: Layouts, previous: bytes) -> bytes:
    """The stored bytes of the record that ``value`` (parsed JSON) is, after one whose chain is ``previous``.

    Raises ``ValueError`` for what no record is. The chain is computed, not read: compare ``as_line`` of what this
    gives with the line, and every character of it is checked.
    """
    try:
        names = layouts.get((value["type"], value["schema"]))
        fields = _from_json(value["fields"]) if names is None else _from_named(value["data"], names)
        body = msgpack.packb(
            (
                _FORM,
                *(value[name] for name in ("position", "stream", "version", "event_id", "time")),
                [_from_json(value["actor"][name]) for name in _ACTOR],
                *(value[name] for name in ("command", "cause", "type", "schema")),
                fields,
            )
        )
    except KeyError as error:
        raise ValueError(f"it has no {error.args[0]}") from error
    except (TypeError, OverflowError) as error:
        raise ValueError(f"it can't be a record: {error}") from error
    except UnicodeEncodeError as error:
        raise ValueError("a text in it is half of a surrogate pair") from error
    return bytes(body) + hashlib.sha256(previous + body).digest()


# -- fields ---------------------------------------------------------------------------------------------


def _to_named(values: Any, names: list[Any]) -> dict[str, Any]:
    if type(values) is not list or len(values) != len(names):
        raise ValueError(f"its event has not the {len(names)} fields of its schema")
    named: dict[str, Any] = {}
    for value, each in zip(values, names, strict=True):
        if type(each) is str:
            named[each] = _to_json(value)
        else:
            [(name, inner)] = each.items()
            named[name] = None if value is None else _to_named(value, inner)
    return named


def _from_named(named: Any, names: list[Any]) -> list[Any]:
    if type(named) is not dict or len(named) != len(names):
        raise ValueError(f"its event has not the {len(names)} fields of its schema")
    values: list[Any] = []
    for each in names:
        if type(each) is str:
            values.append(_from_json(named[each]))
        else:
            [(name, inner)] = each.items()
            values.append(None if named[name] is None else _from_named(named[name], inner))
    return values


def _to_json(value: Any, depth: int = 0) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, str, float):
        return value
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if depth < _DEPTH:
        if kind is list:
            return [_to_json(each, depth + 1) for each in value]
        if kind is dict and all(type(key) is str for key in value):
            return {
                f"${key}" if key.startswith("$") else key: _to_json(each, depth + 1) for key, each in value.items()
            }
    raise ValueError(f"a {kind.__name__} in it can't be written as JSON, or is too deep")


def _from_json(value: Any, depth: int = 0) -> Any:
    kind = type(value)
    if depth > _DEPTH:
        raise ValueError("it is too deep")
    if kind is list:
        return [_from_json(each, depth + 1) for each in value]
    if kind is not dict:
        return value
    if value.keys() == {"$bytes"}:
        try:
            return base64.b64decode(value["$bytes"], validate=True)
        except (TypeError, binascii.Error) as error:
            raise ValueError(f"its bytes are not base64: {error}") from error
    return {_free_key(key): _from_json(each, depth + 1) for key, each in value.items()}


def _free_key(key: str) -> str:
    if key.startswith("$"):
        if not key.startswith("$$"):
            raise ValueError(f"it has a value called {key[:40]!r}, which this release doesn't know")
        return key[1:]
    return key
