"""A container's health in the shape that Docker's clients read.

Source: Docker Engine API v1.47, Health and HealthcheckResult; moby ``daemon/container/health.go`` (v27).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from lading.engine.api.words import stamp
from lading.events.container import LIVE, ContainerState
from lading.events.settings import ContainerSettings
from lading.events.upkeep import Health, SupervisionState

__all__ = ["ProbeResult", "health_of", "health_shape"]

_MOST_SHOWN = 5


class ProbeResult(Protocol):
    """One probe: when it began and ended (nanoseconds UTC), its exit code (-1: it took too long), its output."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def exit_code(self) -> int: ...
    @property
    def output(self) -> str: ...


def health_of(state: ContainerState, settings: ContainerSettings, supervision: SupervisionState) -> Health:
    """The container's health; empty without a check, and before its first run.

    One that doesn't run is unhealthy, as in Docker.
    """
    if settings.health is None or not state.started_at:
        return ""
    if state.phase not in LIVE:
        return "unhealthy"
    return supervision.health or "starting"


def health_shape(health: Health, log: Sequence[ProbeResult] = ()) -> dict[str, Any]:
    """``Health`` of ``State``; nothing without a check. ``log``: the last probes, the oldest first."""
    if not health:
        return {}
    failing = 0
    for probe in reversed(log):
        if probe.exit_code == 0:
            break
        failing += 1
    shown = [
        {
            "Start": stamp(probe.start),
            "End": stamp(probe.end),
            "ExitCode": probe.exit_code,
            "Output": probe.output,
        }
        for probe in log[-_MOST_SHOWN:]
    ]
    return {"Health": {"Status": health, "FailingStreak": failing, "Log": shown}}
