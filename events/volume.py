"""Volumes: directories that outlive the containers which write to them.

A volume is known by its name. Its directory is there before ``VolumeCreated`` says so, and is in the trash before
``VolumeRemoved`` does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias, assert_never

import attrs

from lading.events.errors import AlreadyExists, Invalid, NotFound

__all__ = [
    "VolumeCreated",
    "VolumeEvent",
    "VolumeFilled",
    "VolumeRemoveRequested",
    "VolumeRemoved",
    "VolumeState",
    "check_volume_name",
    "evolve_volume",
    "volume_stream",
]

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}")


@attrs.frozen
class VolumeCreated:
    """The volume exists, and is empty. ``options``: of the ``local`` driver. ``anonymous``: nobody named it."""

    name: str
    labels: Mapping[str, str]
    options: Mapping[str, str]
    anonymous: bool


@attrs.frozen
class VolumeFilled:
    """It has got what the image of ``container`` has where it was mounted first; that happens once."""

    container: str


@attrs.frozen
class VolumeRemoveRequested:
    """Intent: it will go, with all that is in it."""


@attrs.frozen
class VolumeRemoved:
    """Outcome: it is gone, and its name is free."""


VolumeEvent: TypeAlias = VolumeCreated | VolumeFilled | VolumeRemoveRequested | VolumeRemoved


@attrs.frozen
class VolumeState:
    """A volume as it is now. ``removing``: it is on its way out, and nothing can use it any more."""

    name: str
    labels: Mapping[str, str]
    options: Mapping[str, str]
    anonymous: bool
    created_at: int
    filled: bool = False
    removing: bool = False


def evolve_volume(state: VolumeState | None, event: VolumeEvent, name: str, time: int) -> VolumeState | None:
    """The state of the volume ``name`` after ``event``, recorded at ``time``; None: it is gone.

    Raises ``AlreadyExists`` or ``NotFound`` for an event that can't happen there.
    """
    if isinstance(event, VolumeCreated):
        if state is not None:
            raise AlreadyExists("volume", name, name)
        return VolumeState(event.name, event.labels, event.options, event.anonymous, time)
    if state is None:
        raise NotFound("volume", name)
    match event:
        case VolumeFilled():
            return attrs.evolve(state, filled=True)
        case VolumeRemoveRequested():
            return attrs.evolve(state, removing=True)
        case VolumeRemoved():
            return None
        case _:
            assert_never(event)


def check_volume_name(text: str) -> str:
    """``text`` as a volume's name, by Docker's rule, or ``Invalid``; do this before it gets near a path."""
    if _NAME.fullmatch(text) is None:
        raise Invalid(
            "volume name",
            text,
            "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, two to 255 characters; a path of the host is absolute",
        )
    return text


def volume_stream(name: str) -> str:
    """The stream of a volume."""
    return f"volume/{name}"
