"""Values to lists and back: any shape that the classes use, and nothing that isn't exactly of that shape."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Literal, NewType

import attrs
import pytest
from hypothesis import given
from strategies import container_states

from lading.events.container import ContainerState, Exited
from lading.events.shapes import from_plain, source_of, to_plain
from lading.events.spec import ProcessId

Id = NewType("Id", str)


class Colour(enum.StrEnum):
    """An enumeration on the wire."""

    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Point:
    """A value within a value."""

    x: int
    type: str
    list: bytes | None = None


@attrs.frozen
class Everything:
    """Each kind of field that has a wire form, and the kinds within one another."""

    flag: bool
    raw: bytes
    real: float
    word: Id
    mode: Literal["a", "b"]
    colour: Colour
    point: Point
    maybe: Point | None
    words: tuple[Id, ...]
    points: tuple[Point, ...]
    colours: tuple[Colour, ...]
    gaps: tuple[int | None, ...]
    rows: tuple[tuple[int, ...], ...]
    shades: tuple[tuple[Colour, ...], ...] | None
    labels: Mapping[str, str]


VALUE = Everything(
    flag=True,
    raw=b"\0",
    real=0.5,
    word=Id("w"),
    mode="a",
    colour=Colour.BLUE,
    point=Point(1, "t"),
    maybe=None,
    words=(Id("a"), Id("b")),
    points=(Point(1, "a", b"x"), Point(2, "b")),
    colours=(Colour.RED, Colour.RED),
    gaps=(1, None, 3),
    rows=((1, 2), (), (3,)),
    shades=((Colour.RED,), ()),
    labels={"b": "2", "a": "1"},
)
PLAIN: list[Any] = [
    *(True, b"\0", 0.5, "w", "a", "blue", [1, "t", None], None, ["a", "b"]),
    *([[1, "a", b"x"], [2, "b", None]], ["red", "red"], [1, None, 3], [[1, 2], [], [3]], [["red"], []]),
    {"a": "1", "b": "2"},
]


class Text(str):
    """Not exactly a string."""


class Number(int):
    """Not exactly an integer."""


def test_every_kind_of_field_both_ways() -> None:
    plain = to_plain(VALUE)
    assert plain == PLAIN
    assert [type(part) for part in plain] == [type(part) for part in PLAIN]
    assert type(plain[5]) is str
    assert list(plain[-1]) == ["a", "b"]
    assert from_plain(Everything, plain) == VALUE


@pytest.mark.parametrize(
    ("field", "strangers"),
    [
        ("flag", (1, 0, None, "True")),
        ("raw", ("x", bytearray(b"x"), memoryview(b"x"), None)),
        ("real", (1, True, "1.0", None)),
        ("word", (b"w", Text("w"), Colour.RED, None, 1)),
        ("mode", (b"a", Text("a"), None)),
        ("colour", ("green", "BLUE", b"blue", Text("blue"), Colour.BLUE, None, [], {}, 1)),
        ("point", (None, [], [1, "t"], [1, "t", None, None], (1, "t", None), [True, "t", None], Point(1, "t"))),
        ("maybe", (False, [], [1, "t"], [Number(1), "t", None], [1, "t", ""], 0)),
        ("words", (None, "ab", ("a", "b"), [b"a"], ["a", None], [Text("a")], {"a": "b"})),
        ("points", (None, [None], [[]], [[1, "t"]], [[1, "t", 1]], ([1, "t", None],))),
        ("colours", (None, ["green"], [None], "red", [["red"]])),
        ("gaps", ([True], ["1"], [1.0], None, [Number(1)])),
        ("rows", ([1], [[None]], [[True]], [(1,)], None)),
        ("shades", ([None], [["green"]], False, ["red"])),
        ("labels", (None, [], [["a", "b"]], {"a": 1}, {1: "a"}, {"a": None}, {Text("a"): "b"}, {"a": Text("b")})),
    ],
)
def test_what_is_not_exactly_of_the_field_s_type_is_refused(field: str, strangers: tuple[Any, ...]) -> None:
    """Subclasses too; the message names the class and the field, of an inner value its own."""
    place = [each.name for each in attrs.fields(Everything)].index(field)
    inner = "Point" if "point" in field or field == "maybe" else f"Everything.{field}"
    for stranger in strangers:
        with pytest.raises(ValueError, match=f"^({inner}|Everything.{field})"):
            pytest.fail(f"{stranger!r}: {from_plain(Everything, [*PLAIN[:place], stranger, *PLAIN[place + 1 :]])}")


@pytest.mark.parametrize("plain", [[], PLAIN[:-1], [*PLAIN, None], tuple(PLAIN), None, {}, "x" * 15, b"x" * 15])
def test_what_is_not_a_list_of_all_the_fields_is_refused(plain: Any) -> None:
    with pytest.raises(ValueError, match=r"^Everything: expected a list of 15 fields$"):
        from_plain(Everything, plain)


@given(container_states)
def test_states_both_ways(state: ContainerState) -> None:
    plain = to_plain(state)
    assert from_plain(ContainerState, plain) == state
    assert plain[3] == state.phase.value
    assert type(plain[3]) is str
    assert plain[7] is None or plain[7] == [state.process.boot, state.process.pid, state.process.start_ticks]  # type: ignore[union-attr]  # None was asked before


def test_an_enumeration_s_word_becomes_the_very_member() -> None:
    """So that it may be compared and looked up by identity."""
    assert from_plain(Everything, PLAIN).colour is Colour.BLUE


@pytest.mark.parametrize(
    "hint", [dict[str, str], list[int], tuple[int, int], int | str, object, Any, Mapping[str, int]]
)
def test_a_class_without_a_wire_form_is_refused(hint: Any) -> None:
    """When it is first used, by whoever wrote it; never by guessing."""
    cls = attrs.make_class("Odd", {"field": attrs.field(type=hint)}, frozen=True, slots=True)
    with pytest.raises(TypeError, match=r"Odd\.field: .* has no wire form"):
        to_plain(cls(1))
    with pytest.raises(TypeError, match=r"Odd\.field: .* has no wire form"):
        from_plain(cls, [1])


def test_the_generated_source_is_for_people() -> None:
    source = source_of(Exited)
    assert (
        "if type(exit_code) is not int:\n            raise _wrong('Exited.exit_code', 'int', exit_code)" in source
    )
    assert source.endswith("    return [value.run, value.exit_code, value.at, value.why, value.oom]\n")
    assert "_decode_ProcessId" not in source_of(ProcessId)
