"""What follows an exit, and how healthy a container is: pure functions of what is recorded.

Restarts wait longer and longer while runs are short: 0.1 s, 0.2 s, 0.4 s ... up to a minute. A run of ten seconds
is a healthy one, and the next wait is the shortest again (moby, ``restartmanager``).
"""

from __future__ import annotations

from typing import Final

import attrs

from lading.events.settings import HealthCheck, RestartPolicy
from lading.events.upkeep import Health, RestartScheduled, SupervisionState

__all__ = ["HEALTHY_RUN", "LONGEST_DELAY", "SHORTEST_DELAY", "Pulse", "after_exit", "after_probe", "at_opening"]

SHORTEST_DELAY: Final = 100_000_000
LONGEST_DELAY: Final = 60_000_000_000
HEALTHY_RUN: Final = 10_000_000_000
"""Nanoseconds, all three."""


def after_exit(
    policy: RestartPolicy, known: SupervisionState, exit_code: int | None, ran: int, *, why: str = ""
) -> RestartScheduled | None:
    """The restart that follows an exit with ``exit_code`` (None: unknown) after ``ran`` nanoseconds, if any.

    What somebody stopped stays stopped. An exit that nobody saw is a failure. ``why``: somebody or something else
    than the policy wants the restart, whatever the policy says.
    """
    if not why:
        if known.stopped or policy.name == "no":
            return None
        if policy.name == "on-failure" and (
            exit_code == 0 or (policy.maximum and known.restarts >= policy.maximum)
        ):
            return None
    streak = 0 if ran >= HEALTHY_RUN else known.streak + 1
    return RestartScheduled(min(SHORTEST_DELAY << min(max(streak - 1, 0), 20), LONGEST_DELAY), streak, why)


def at_opening(policy: RestartPolicy, known: SupervisionState, ran: bool) -> bool:
    """Whether a container that is down runs again when its store is opened; ``ran``: it has ever run.

    As Docker's when its daemon starts: ``always``, even if somebody had stopped it; ``unless-stopped`` otherwise.
    """
    return ran and (policy.name == "always" or (policy.name == "unless-stopped" and not known.stopped))


@attrs.frozen
class Pulse:
    """What the probes of a run say: its health, and how many failed in a row."""

    health: Health = "starting"
    failing: int = 0


def after_probe(check: HealthCheck, known: Pulse, succeeded: bool, since_start: int) -> Pulse:
    """The pulse after a probe that began ``since_start`` nanoseconds after the run.

    A failure in the start period doesn't count, unless the container was healthy by then; one success ends the
    period (Docker, HEALTHCHECK).
    """
    if succeeded:
        return Pulse("healthy", 0)
    if known.health == "starting" and since_start < check.start_period:
        return known
    failing = known.failing + 1
    return Pulse("unhealthy" if failing >= max(check.retries, 1) else known.health, failing)
