"""Reading the fields of a JSON body: each has the type that it must have, or the answer is 400 and says which.

A missing field and null are the same: Go writes null for what is empty. Numbers are whole and of 64 bits; ``true``
is none. Nothing here knows what a field means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from lading.engine.http.message import HttpError

__all__ = [
    "flag",
    "integer",
    "mapping",
    "object_of",
    "objects",
    "only",
    "refuse",
    "text",
    "words",
]

Fields = Mapping[str, Any]

_MOST_ITEMS: Final = 10_000
_LONGEST_SHOWN: Final = 120


def refuse(why: str) -> HttpError:
    """A 400: the request can never be carried out as it is."""
    return HttpError(400, why if len(why) <= 1000 else f"{why[:1000]}...")


def _get(source: Fields, name: str, what: str, fits: Callable[[Any], bool]) -> Any:
    value = source.get(name)
    if value is not None and not fits(value):
        raise refuse(f"invalid {name}: it must be {what}")
    return value


def object_of(source: Fields, name: str) -> Fields:
    """An object, empty if it isn't there."""
    value: Fields | None = _get(source, name, "an object", lambda value: isinstance(value, dict))
    return value or {}


def text(source: Fields, name: str) -> str:
    """A string, empty if it isn't there. One with a NUL byte, which nothing can take, is refused."""
    value: str = _get(source, name, "a string", lambda value: isinstance(value, str)) or ""
    if "\0" in value:
        raise refuse(f"invalid {name}: it has a NUL byte")
    return value


def flag(source: Fields, name: str) -> bool:
    """True or false; false if it isn't there."""
    return _get(source, name, "true or false", lambda value: isinstance(value, bool)) or False


def integer(
    source: Fields, name: str, default: int = 0, *, bits: int = 64, what: str = "a whole number of 64 bits"
) -> int:
    """A whole number of ``bits`` with its sign, or ``default``."""

    def fits(value: object) -> bool:
        return type(value) is int and -(1 << bits - 1) <= value < 1 << bits - 1

    value = _get(source, name, what, fits)
    return default if value is None else int(value)


def words(source: Fields, name: str, *, plain: bool = False) -> tuple[str, ...] | None:
    """A list of strings, None if it isn't there. ``plain``: one string is a list of one, as Docker reads it."""
    value = source.get(name)
    if plain and isinstance(value, str):
        return (value,)
    _get(source, name, "a list of strings", _is_words)
    return None if value is None else tuple(value)


def objects(source: Fields, name: str) -> list[Fields]:
    """A list of objects, empty if it isn't there."""
    value: list[Fields] | None = _get(
        source,
        name,
        "a list of objects",
        lambda value: isinstance(value, list) and all(isinstance(each, dict) for each in value),
    )
    found = value or []
    if len(found) > _MOST_ITEMS:
        raise refuse(f"invalid {name}: it has more than {_MOST_ITEMS} members")
    return found


def mapping(source: Fields, name: str) -> Mapping[str, str]:
    """An object whose values are strings, empty if it isn't there."""
    value = object_of(source, name)
    if not _is_words(list(value.values())):
        raise refuse(f"invalid {name}: its values must be strings")
    return value


def only(source: Fields, where: str, known: frozenset[str]) -> None:
    """Raise `HttpError` 400 for a field of ``source`` that is not in ``known`` and says something."""
    for name, value in source.items():
        if name not in known and value:
            raise refuse(f"invalid {where}: it has no field {name[:_LONGEST_SHOWN]!r}")


def _is_words(value: object) -> bool:
    return isinstance(value, list) and len(value) <= _MOST_ITEMS and all(isinstance(word, str) for word in value)
