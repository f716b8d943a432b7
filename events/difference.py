"""What changed between two moments of a store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import attrs

from lading.events.views import CLAIMS, CONTAINERS, IMAGES, TAGS, Reader, View

__all__ = ["Change", "FieldChange", "differences"]

_NAMES: dict[View[Any], str] = {CONTAINERS: "container", IMAGES: "image", TAGS: "tag", CLAIMS: "claim"}
_SILENT = frozenset({"version"})
"""Fields that change with every event and tell nothing of their own."""


@attrs.frozen
class FieldChange:
    """A field that has another value; a nested value is one field."""

    field: str
    before: Any
    after: Any


@attrs.frozen
class Change:
    """What became of one container, image, tag or claim. ``fields`` of one that was there and still is."""

    kind: Literal["container", "image", "tag", "claim"]
    what: Literal["added", "removed", "changed"]
    key: str
    name: str
    before: Any
    after: Any
    fields: tuple[FieldChange, ...] = ()


def differences(before: Reader, after: Reader) -> Iterator[Change]:
    """The changes that lead from ``before`` to ``after``, by kind and key.

    Net changes: what came and went in between leaves none. A container's name is no claim of its own here.
    """
    for view in _NAMES:
        old, new = dict(before.scan(view)), dict(after.scan(view))
        for key in sorted(old.keys() | new.keys()):
            if view is CLAIMS and key.startswith("container-name/"):
                continue
            change = _change(view, key, old.get(key), new.get(key))
            if change is not None:
                yield change


def _change(view: View[Any], key: str, before: Any, after: Any) -> Change | None:
    kind: Any = _NAMES[view]
    name = _name(key, after if after is not None else before)
    if before is None:
        return Change(kind, "added", key, name, None, after)
    if after is None:
        return Change(kind, "removed", key, name, before, None)
    fields = tuple(
        FieldChange(field.name, getattr(before, field.name), getattr(after, field.name))
        for field in attrs.fields(type(after))
        if field.name not in _SILENT and getattr(before, field.name) != getattr(after, field.name)
    )
    return Change(kind, "changed", key, name, before, after, fields) if fields else None


def _name(key: str, state: Any) -> str:
    tags = getattr(state, "tags", None)
    if tags is not None:
        return tags[0] if tags else key
    name = getattr(state, "name", key)
    return name if isinstance(name, str) else key
