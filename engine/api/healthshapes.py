"""A container's health in the shape that Docker's clients read.

Source: Docker Engine API v1.47, Health and HealthcheckResult; moby ``daemon/container/health.go`` (v27).
"""

from __future__ import annotations

from typing import Any

from lading.engine.api.words import stamp
from lading.engine.containers.health import HealthLog
from lading.events.container import LIVE, ContainerState
from lading.events.settings import ContainerSettings
from lading.events.upkeep import Health, SupervisionState

__all__ = ["health_of", "health_shape"]


def health_of(state: ContainerState, settings: ContainerSettings, supervision: SupervisionState) -> Health:
    """The container's health; empty without a check, and before its first run.

    One that doesn't run is unhealthy, as in Docker.
    """
    if settings.health is None or not state.started_at:
        return ""
    if state.phase not in LIVE:
        return "unhealthy"
    return supervision.health or "starting"


def health_shape(health: Health, known: HealthLog | None = None) -> dict[str, Any]:
    """``Health`` of ``State``; nothing without a check. ``known``: what this engine has seen of its probes."""
    if not health:
        return {}
    shown = [
        {
            "Start": stamp(probe.start),
            "End": stamp(probe.end),
            "ExitCode": probe.exit_code,
            "Output": probe.output,
        }
        for probe in (known.probes if known else ())
    ]
    return {"Health": {"Status": health, "FailingStreak": known.pulse.failing if known else 0, "Log": shown}}
