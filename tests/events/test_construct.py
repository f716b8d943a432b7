"""Instances made by assignment are in nothing different from those that the class makes itself."""

from __future__ import annotations

import copy
import pickle
import weakref
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import EVENTS, container_states, records

from lading.events.construct import constructor

values = st.one_of(*EVENTS.values(), container_states, records)


def parts(value: Any) -> list[Any]:
    return [getattr(value, field.name) for field in attrs.fields(type(value))]


@given(values)
def test_what_is_made_is_what_the_class_makes(value: Any) -> None:
    made = constructor(type(value))(*parts(value))
    assert type(made) is type(value)
    assert made == value
    assert repr(made) == repr(value)
    assert copy.copy(made) == value == pickle.loads(pickle.dumps(made)) == attrs.evolve(made)
    assert weakref.ref(made)() is made


@given(values)
def test_what_is_made_is_frozen(value: Any) -> None:
    made = constructor(type(value))(*parts(value))
    for field in attrs.fields(type(value)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(made, field.name, None)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            delattr(made, field.name)
    with pytest.raises(AttributeError):
        made.something = 1
    assert made == value


@attrs.frozen
class Named:
    """Fields called like what the generated code itself could use."""

    new: int
    cls: int
    instance: int
    type: int
    _private: int


def test_no_field_s_name_is_in_the_way() -> None:
    assert constructor(Named)(1, 2, 3, 4, 5) == Named(1, 2, 3, 4, 5)
    assert constructor(Named)(1, 2, 3, type=4, private=5) == Named(1, 2, 3, 4, 5)


def test_every_field_must_be_given() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'private'"):
        constructor(Named)(1, 2, 3, 4)  # type: ignore[call-arg]  # that is the point


@attrs.frozen
class Checked:
    """Its own ``__init__`` validates."""

    field: int = attrs.field(validator=attrs.validators.instance_of(int))


@attrs.frozen
class Converted:
    """Its own ``__init__`` converts."""

    field: int = attrs.field(converter=int)


@attrs.frozen
class Finished:
    """Its own ``__init__`` calls a method at the end."""

    field: int

    def __attrs_post_init__(self) -> None:
        raise AssertionError


@attrs.frozen
class Inherited(Named):
    """Some of its slots are another class's."""

    more: int


@attrs.frozen
class Derived:
    """A field that is no parameter."""

    field: int = attrs.field(init=False, default=1)


@pytest.mark.parametrize("cls", [Checked, Converted, Finished, Inherited, Derived])
def test_a_class_that_does_more_than_assign_is_refused(cls: type[Any]) -> None:
    with pytest.raises(TypeError, match="can't be made by assigning its fields"):
        constructor(cls)
