"""How a frozen value becomes a list of plain values, and back, checked.

A class's fields, in the order they are written down, are its wire form: ``msgpack`` sees a list, without
names. So a field may never be moved, removed or given another type; a change is a new schema version with
an upcaster (``codec``). Decoding trusts nothing: a wrong length or type is a ``ValueError``.

Both directions are functions generated for each class at its first use. Replaying a log of millions does
nothing else, and interpreting a description of the fields, a closure for each, costs four times as much as
code that was written for the class. Generated, the code is still what one would write by hand, flat and in
the order of the fields; for ``Exited``::

    def decode(plain):
        if type(plain) is not list or len(plain) != 5:
            raise _unlike('Exited', 5)
        [run, exit_code, at, why, oom] = plain
        if type(run) is not int:
            raise _wrong('Exited.run', 'int', run)
        if exit_code is not None:
            if type(exit_code) is not int:
                raise _wrong('Exited.exit_code', 'int', exit_code)
        ...
        return _make(run, exit_code, at, why, oom)

    def encode(value):
        return [value.run, value.exit_code, value.at, value.why, value.oom]

The source is made of the classes' own names and types, never of anything that was read. ``type(x) is int``
and not ``isinstance``: True is no 1 on the wire. ``source_of`` shows it for any class.
"""

from __future__ import annotations

import builtins
import enum
import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import attrs

from lading.events.construct import constructor

__all__ = ["decoder", "encoder", "from_plain", "layout", "source_of", "to_plain"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
_LEAVES = (bool, bytes, float, int, str)
"""What msgpack has a type of its own for, taken as it is."""


def _once(function: F) -> F:
    """``functools.cache`` with the function's own type: to typeshed a class is not hashable."""
    return cast("F", functools.cache(function))


def to_plain(value: attrs.AttrsInstance) -> list[Any]:
    """``value`` as a list of None, bool, int, str, bytes, lists and string maps sorted by key."""
    return encoder(type(value))(value)


def from_plain(cls: type[T], plain: Sequence[Any]) -> T:
    """The instance of ``cls`` that ``to_plain`` made ``plain`` of, or ``ValueError``."""
    made: T = decoder(cls)(plain)
    return made


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


@_once
def encoder(cls: type[Any]) -> Callable[[Any], list[Any]]:
    """``to_plain`` for instances of ``cls`` alone."""
    encode: Callable[[Any], list[Any]] = _compiled(cls, *_encoder(cls), "encode")
    return encode


@_once
def decoder(cls: type[Any]) -> Callable[[Any], Any]:
    """``from_plain`` for ``cls`` alone."""
    return _compiled(cls, *_decoder(cls), "decode")


def source_of(cls: type[Any]) -> str:
    """The generated source of both directions, for people to read."""
    return f"{_decoder(cls)[0]}\n\n\n{_encoder(cls)[0]}\n"


def _compiled(cls: type[Any], source: str, names: dict[str, Any], function: str) -> Callable[[Any], Any]:
    exec(compile(source, f"<wire form of {cls.__qualname__}>", "exec"), names)
    made: Callable[[Any], Any] = names[function]
    return made


def _fields(cls: type[Any]) -> list[tuple[str, Any]]:
    hints = typing.get_type_hints(cls)
    return [(field.name, hints[field.name]) for field in attrs.fields(cls)]


def _bare(hint: Any) -> Any:
    """``hint`` without the names that mean nothing on the wire: NewType and Literal are their base types."""
    while isinstance(hint, typing.NewType):
        hint = hint.__supertype__
    if typing.get_origin(hint) is typing.Literal:
        return type(typing.get_args(hint)[0])
    return hint


def _taken_apart(hint: Any, where: str) -> tuple[Any, Any]:
    """``(kind, what it is of)``: a leaf, class or enumeration, or one of tuple, Mapping and None (optional)."""
    hint = _bare(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and args[1:] == (...,):
        return tuple, args[0]
    if origin is Mapping and args == (str, str):
        return Mapping, str
    if origin in (types.UnionType, typing.Union):
        some = [arg for arg in args if arg is not types.NoneType]
        if len(some) == 1 and len(args) == 2:
            return None, some[0]
    if hint in _LEAVES or attrs.has(hint) or (isinstance(hint, enum.EnumType) and issubclass(hint, str)):
        return hint, hint
    raise TypeError(f"{where}: {hint!r} has no wire form")


def _decoder(cls: type[Any]) -> tuple[str, dict[str, Any]]:
    fields, names = _fields(cls), {"_make": constructor(cls), "_unlike": _unlike, "_wrong": _wrong}
    given = ", ".join(_local(name) for name, _ in fields)
    lines = [
        "def decode(plain):",
        f"    if type(plain) is not list or len(plain) != {len(fields)}:",
        f"        raise _unlike({cls.__name__!r}, {len(fields)})",
        f"    [{given}] = plain",
    ]
    for name, hint in fields:
        where = f"{cls.__name__}.{name}"
        lines += ["    " + line for line in _decode(hint, _local(name), where, names)]
    lines.append(f"    return _make({given})")
    return "\n".join(lines), names


def _local(field: str) -> str:
    """The variable for ``field``. Only built-in names could be in the way: ours begin with an underscore."""
    return f"{field}_" if hasattr(builtins, field) else field.lstrip("_")


def _decode(hint: Any, var: str, where: str, names: dict[str, Any]) -> list[str]:
    """Lines that check what is in ``var`` and leave there what it stands for."""
    kind, inner = _taken_apart(hint, where)
    if kind is None:
        lines = _decode(inner, var, where, names)
        return [f"if {var} is not None:", *("    " + line for line in lines)]
    if kind is Mapping:
        names["_is_text_map"] = _is_text_map
        return [f"if not _is_text_map({var}):", f"    raise _wrong({where!r}, 'a map of strings', {var})"]
    if kind is tuple:
        each, made = f"{var}_each", f"{var}_made"
        lines = ["    " + line for line in _decode(inner, each, where, names)]
        known = [f"if type({var}) is not list:", f"    raise _wrong({where!r}, 'a list', {var})"]
        if _taken_apart(inner, where)[0] in _LEAVES:
            return [*known, f"for {each} in {var}:", *lines, f"{var} = tuple({var})"]
        loop = [f"for {each} in {var}:", *lines, f"    {made}.append({each})"]
        return [*known, f"{made} = []", *loop, f"{var} = tuple({made})"]
    if kind in _LEAVES:
        return [
            f"if type({var}) is not {kind.__name__}:",
            f"    raise _wrong({where!r}, {kind.__name__!r}, {var})",
        ]
    if attrs.has(kind):
        names[f"_decode_{kind.__name__}"] = decoder(kind)
        return [f"{var} = _decode_{kind.__name__}({var})"]
    members = f"_members_of_{kind.__name__}"
    names[members] = {member.value: member for member in kind}
    return [
        f"if type({var}) is not str or {var} not in {members}:",
        f"    raise _wrong({where!r}, {kind.__name__!r}, {var})",
        f"{var} = {members}[{var}]",
    ]


def _encoder(cls: type[Any]) -> tuple[str, dict[str, Any]]:
    names: dict[str, Any] = {}
    parts = [_encode(hint, f"value.{name}", f"{cls.__name__}.{name}", names) for name, hint in _fields(cls)]
    return f"def encode(value):\n    return [{', '.join(parts)}]", names


def _encode(hint: Any, term: str, where: str, names: dict[str, Any]) -> str:
    """An expression for what ``term`` is on the wire."""
    kind, inner = _taken_apart(hint, where)
    if kind is None:
        some = _encode(inner, term, where, names)
        return term if some == term else f"None if {term} is None else {some}"
    if kind is Mapping:
        names["_in_order"] = _in_order
        return f"_in_order({term})"
    if kind is tuple:
        each = "each_" if term == "each" else "each"
        some = _encode(inner, each, where, names)
        return f"[*{term}]" if some == each else f"[{some} for {each} in {term}]"
    if kind in _LEAVES:
        return term
    if attrs.has(kind):
        names[f"_encode_{kind.__name__}"] = encoder(kind)
        return f"_encode_{kind.__name__}({term})"
    names["_text"] = str.__str__
    return f"_text({term})"


def _in_order(mapping: Mapping[str, str]) -> dict[str, str]:
    return dict(mapping) if len(mapping) < 2 else dict(sorted(mapping.items()))


def _is_text_map(value: Any) -> bool:
    if type(value) is not dict:
        return False
    for key, text in value.items():  # noqa: SIM110  # a generator costs more than the rest of the field
        if type(key) is not str or type(text) is not str:
            return False
    return True


def _unlike(name: str, count: int) -> ValueError:
    return ValueError(f"{name}: expected a list of {count} fields")


def _wrong(where: str, expected: str, value: Any) -> ValueError:
    known = f", {value!r}" if type(value) is str and len(value) < 50 else ""
    return ValueError(f"{where}: expected {expected}, got {type(value).__name__}{known}")
