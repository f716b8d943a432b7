"""What is told of a container besides its runs: its settings, its health, its restarts; and the fold of that.

These facts have views of their own, beside the container's state: most containers have none of them, and the state
of those that have stays small, since health and restarts change often and settings are large.
"""

from __future__ import annotations

from typing import Literal

import attrs

from lading.events.ids import ChainId
from lading.events.settings import ContainerSettings, Resources, RestartPolicy

__all__ = [
    "Configured",
    "Health",
    "HealthChanged",
    "Rebased",
    "RestartCancelled",
    "RestartScheduled",
    "SupervisionState",
    "Updated",
]

Health = Literal["", "starting", "healthy", "unhealthy"]
"""Docker's words; empty without a health check."""


@attrs.frozen
class Configured:
    """The container, which was just created, has these settings."""

    settings: ContainerSettings


@attrs.frozen
class Updated:
    """Its limits and its restart policy are these from now on."""

    resources: Resources
    restart: RestartPolicy


@attrs.frozen
class HealthChanged:
    """Run ``run`` is in this health now. ``why``: the end of what the last probe said."""

    run: int
    health: Health
    why: str = ""


@attrs.frozen
class RestartScheduled:
    """The run that ended is followed by another one, ``delay`` nanoseconds after this was recorded.

    ``streak``: how many restarts in a row came after a run that was too short to count as healthy.
    ``why``: empty when the policy says so; otherwise what did (``unhealthy``, ``asked``).
    """

    delay: int
    streak: int
    why: str = ""


@attrs.frozen
class RestartCancelled:
    """The restart that was waited for does not take place: somebody stopped the container."""


@attrs.frozen
class Rebased:
    """The writable layer became the read-only layer ``chain`` on top of the others; a new one takes its place."""

    chain: ChainId


@attrs.frozen
class SupervisionState:
    """What supervision remembers of a container.

    ``restarts``: how often its policy restarted it since somebody started it. ``streak``: see
    ``RestartScheduled``. ``due``: when the next restart is, nanoseconds UTC, 0: none is scheduled. ``stopped``:
    somebody stopped or killed it since it was last started. ``oom``: the last run met its memory limit.
    """

    restarts: int = 0
    streak: int = 0
    due: int = 0
    stopped: bool = False
    oom: bool = False
    health: Health = ""
