"""Pulls and leases: what is under way with images, so that nothing it needs is taken meanwhile.

A pull has a stream of its own, from the request to its outcome; its image's facts are in the same append as
``PullFinished``. A lease keeps layers that nothing else may use yet, or any more, while somebody works with them.
Both end with the engine that began them: what a crash leaves is ended when the store is opened again.
"""

from __future__ import annotations

from typing import Literal

import attrs

from lading.events.ids import ChainId, Digest, ImageId

__all__ = [
    "LeasePurpose",
    "LeaseReleased",
    "LeaseState",
    "LeaseTaken",
    "PullFailed",
    "PullFinished",
    "PullProgressed",
    "PullRequested",
    "PullState",
    "lease_stream",
    "pull_stream",
]

LeasePurpose = Literal["pull", "push", "save", "load", "build", "commit", "export"]


@attrs.frozen
class PullRequested:
    """Somebody asked for ``reference`` (full form) from its registry, for ``platform`` (``linux/amd64``)."""

    reference: str
    platform: str


@attrs.frozen
class PullProgressed:
    """The pull needs ``layers`` layers that are not here, ``total`` bytes; ``done`` and ``fetched`` of them are.

    Told when the manifest is known, and from then on now and then.
    """

    layers: int
    done: int
    total: int
    fetched: int


@attrs.frozen
class PullFinished:
    """The reference is ``image``; the registry calls it ``digest``. ``fetched``: bytes that came for it."""

    image: ImageId
    digest: Digest
    fetched: int


@attrs.frozen
class PullFailed:
    """The pull came to nothing, and left nothing."""

    why: str


@attrs.frozen
class LeaseTaken:
    """``layers``, with all that is below them, stay until the lease is released."""

    purpose: LeasePurpose
    layers: tuple[ChainId, ...]


@attrs.frozen
class LeaseReleased:
    """The lease keeps nothing any more: what it was for is done, or was given up."""

    purpose: LeasePurpose


@attrs.frozen
class PullState:
    """A pull that is under way. ``since``: nanoseconds UTC; the numbers are those of ``PullProgressed``."""

    reference: str
    platform: str
    since: int
    layers: int = 0
    done: int = 0
    total: int = 0
    fetched: int = 0


@attrs.frozen
class LeaseState:
    """A lease that is held, and since when (nanoseconds UTC)."""

    purpose: LeasePurpose
    layers: tuple[ChainId, ...]
    since: int


def pull_stream(pull: str) -> str:
    """The stream of a pull, by its id."""
    return f"pull/{pull}"


def lease_stream(lease: str) -> str:
    """The stream of a lease, by its id."""
    return f"lease/{lease}"
