"""Claims: names that only one thing may have at a time, such as a container's name or a port of the host.

A claim is decided where nothing can come between: inside the write transaction that appends the event which
takes it. A container's name is claimed by the container's own events (``Created``, ``Renamed``, ``Removed``);
whatever has no such events is claimed by ``ClaimTaken`` and freed by ``ClaimReleased``, in the same append as
the intent that needs it, so that both are recorded or neither is.
"""

from __future__ import annotations

from typing import Literal

import attrs

__all__ = ["Claim", "ClaimKind", "ClaimReleased", "ClaimState", "ClaimTaken", "claim_stream", "container_name"]

ClaimKind = Literal["container-name", "volume-name", "network-name", "host-port"]
"""``host-port`` has names such as ``0.0.0.0:8080/tcp``."""


@attrs.frozen
class Claim:
    """The right to be the only one called ``name`` among all of ``kind``."""

    kind: str
    name: str

    @property
    def key(self) -> str:
        """Its key in the view of claims."""
        return f"{self.kind}/{self.name}"


@attrs.frozen
class ClaimTaken:
    """``holder`` (a stream, e.g. ``container/<id>``) has ``name`` from now on. Refused while another one has
    it.
    """

    kind: ClaimKind
    name: str
    holder: str


@attrs.frozen
class ClaimReleased:
    """``holder`` gives ``name`` back. Refused if it isn't the one that has it."""

    kind: ClaimKind
    name: str
    holder: str


@attrs.frozen
class ClaimState:
    """Whose it is: the stream of the holder."""

    holder: str


def container_name(name: str) -> Claim:
    """The claim of a container that is called ``name``."""
    return Claim("container-name", name)


def claim_stream(claim: Claim) -> str:
    """The stream that has the history of who held ``claim``."""
    return f"claim/{claim.key}"
