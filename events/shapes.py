"""How a frozen value becomes a list of plain values, and back, checked.

A class's fields, in the order they are written down, are its wire form: ``msgpack`` sees a list, without
names. So a field may never be moved, removed or given another type; a change is a new schema version with
an upcaster (``codec``). Decoding trusts nothing: a wrong length or type is a ``ValueError``.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs

__all__ = ["from_plain", "layout", "to_plain"]

T = TypeVar("T")
_Convert = Callable[[Any], Any]


def to_plain(value: attrs.AttrsInstance) -> list[Any]:
    """``value`` as a list of None, bool, int, str, bytes, lists and string maps sorted by key."""
    plain: list[Any] = []
    for name, convert in _encoders(type(value)):
        field = getattr(value, name)
        plain.append(field if convert is None else convert(field))
    return plain


def from_plain(cls: type[T], plain: Sequence[Any]) -> T:
    """The instance of ``cls`` that ``to_plain`` made ``plain`` of, or ``ValueError``."""
    decoders: tuple[_Convert, ...] = _decoders(cls)  # type: ignore[arg-type]  # typeshed: a class is hashable
    if type(plain) is not list or len(plain) != len(decoders):
        raise ValueError(f"{cls.__name__}: expected a list of {len(decoders)} fields")
    return cls(*[convert(field) for convert, field in zip(decoders, plain, strict=True)])


def layout(cls: type[attrs.AttrsInstance]) -> list[Any]:
    """The names of ``cls``'s fields in wire order; for a field that has fields itself, ``{name: its layout}``."""
    fields = [(name, _value(hint)) for name, hint in _fields(cls)]
    return [name if inner is None else {name: layout(inner)} for name, inner in fields]


def _value(hint: Any) -> type[attrs.AttrsInstance] | None:
    """The class of ours that ``hint``, or ``hint`` without its None, is."""
    for each in (hint, *map(_bare, typing.get_args(hint))):
        if isinstance(each, type) and attrs.has(each) and typing.get_origin(hint) is not tuple:
            return each
    return None


@functools.cache
def _encoders(cls: type[attrs.AttrsInstance]) -> tuple[tuple[str, _Convert | None], ...]:
    return tuple((name, _encoder(hint)) for name, hint in _fields(cls))


@functools.cache
def _decoders(cls: Any) -> tuple[_Convert, ...]:
    return tuple(_decoder(hint, f"{cls.__name__}.{name}") for name, hint in _fields(cls))


def _fields(cls: type[Any]) -> list[tuple[str, Any]]:
    hints = typing.get_type_hints(cls)
    return [(field.name, _bare(hints[field.name])) for field in attrs.fields(cls)]


def _bare(hint: Any) -> Any:
    """``hint`` without the names that mean nothing on the wire: NewType and Literal are their base types."""
    while isinstance(hint, typing.NewType):
        hint = hint.__supertype__
    if typing.get_origin(hint) is typing.Literal:
        return type(typing.get_args(hint)[0])
    return hint


def _encoder(hint: Any) -> _Convert | None:
    origin, args = typing.get_origin(hint), tuple(_bare(arg) for arg in typing.get_args(hint))
    if origin is list:
        return None
    if origin is tuple:
        inner = _encoder(args[0])
        return list if inner is None else lambda items: [inner(item) for item in items]
    if origin is Mapping:
        return lambda mapping: dict(sorted(mapping.items()))
    if origin in (types.UnionType, typing.Union):
        some = _encoder(next(arg for arg in args if arg is not types.NoneType))
        return None if some is None else lambda value: None if value is None else some(value)
    if attrs.has(hint):
        return to_plain
    return str.__str__ if issubclass(hint, str) and hint is not str else None


def _decoder(hint: Any, where: str) -> _Convert:
    origin, args = typing.get_origin(hint), tuple(_bare(arg) for arg in typing.get_args(hint))
    if origin is list:
        return _checked(list, where)
    if origin is tuple:
        return _tuple_decoder(_decoder(args[0], where), where)
    if origin is Mapping:
        return _mapping_decoder(where)
    if origin in (types.UnionType, typing.Union):
        some = _decoder(next(arg for arg in args if arg is not types.NoneType), where)
        return lambda value: None if value is None else some(value)
    if attrs.has(hint):
        return functools.partial(from_plain, hint)
    if issubclass(hint, str) and hint is not str:  # an enumeration: the constructor refuses strangers
        return typing.cast("_Convert", hint)

    return _checked(hint, where)


def _checked(cls: type[Any], where: str) -> _Convert:
    def check(value: Any) -> Any:
        if type(value) is not cls:
            raise ValueError(f"{where}: expected {cls.__name__}, got {type(value).__name__}")
        return value

    return check


def _tuple_decoder(inner: _Convert, where: str) -> _Convert:
    def decode(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise ValueError(f"{where}: expected a list, got {type(value).__name__}")
        return tuple([inner(item) for item in value])

    return decode


def _mapping_decoder(where: str) -> _Convert:
    def decode(value: Any) -> dict[str, str]:
        if type(value) is not dict or any(type(x) is not str for pair in value.items() for x in pair):
            raise ValueError(f"{where}: expected a map of strings")
        return value

    return decode
