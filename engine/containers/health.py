"""Health checks: a command run in the container now and then, and what its exits say.

A change of health is an event. The probes themselves are not: they come for as long as the container runs, and the
last few are kept in memory for those who ask why.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final

import attrs
import trio

from lading.engine.core import Core, new_caller
from lading.engine.nursery import open_bare_nursery
from lading.events.container import HealthChanged, Phase
from lading.events.envelope import Proposed
from lading.events.errors import EngineClosed, LadingError, NotFound, WrongPhase
from lading.events.ids import container_stream
from lading.events.policy import Pulse, after_probe
from lading.events.settings import HealthCheck
from lading.events.views import CONTAINERS

if TYPE_CHECKING:
    from lading.engine.containers.supervisor import Supervisor

__all__ = ["HealthLog", "Probe", "watch_health"]

_KEPT: Final = 5
_OUTPUT: Final = 4096
"""As many probes, and as many bytes of what each says, as Docker keeps."""

_FAILED: Final = 1
_SHELL: Final = ("/bin/sh", "-c")


@attrs.frozen
class Probe:
    """One probe: when it began and ended (nanoseconds UTC), its exit code (-1: too slow), and its output."""

    start: int
    end: int
    exit_code: int
    output: str


@attrs.define(eq=False)
class HealthLog:
    """What is remembered of a container's probes, until its next run or its removal."""

    pulse: Pulse
    probes: deque[Probe] = attrs.field(factory=lambda: deque(maxlen=_KEPT))


async def watch_health(core: Core, supervisor: Supervisor, check: HealthCheck) -> None:
    """The task that probes the run of ``supervisor`` until it ends; a cancel leaves no probe behind.

    A container that becomes unhealthy is restarted if its settings say so.
    """
    if not check.test or check.test[0] == "NONE":
        return
    known = core.supervision(supervisor.id).health
    log = core.health[supervisor.id] = HealthLog(Pulse(known or "starting"))
    async with open_bare_nursery() as nursery:
        nursery.start_soon(_probe_for_ever, core, supervisor, check, log)
        await supervisor.ended.wait()
        nursery.cancel_scope.cancel()


async def _probe_for_ever(core: Core, supervisor: Supervisor, check: HealthCheck, log: HealthLog) -> None:
    words = check.test[1:] if check.test[0] == "CMD" else (*_SHELL, *check.test[1:])
    began = core.state(supervisor.id).started_at
    while True:
        early = log.pulse.health == "starting" and time.time_ns() - began < check.start_period
        await trio.sleep((check.start_interval if early and check.start_interval else check.interval) / 1e9)
        state = core.log.get(CONTAINERS, supervisor.id)
        if state is None:
            return
        if state.phase is not Phase.RUNNING:
            continue  # paused: nothing in it can answer
        probe = await _probe(core, supervisor, words, check)
        log.probes.append(probe)
        before, log.pulse = log.pulse, after_probe(check, log.pulse, probe.exit_code == 0, probe.start - began)
        if log.pulse.health != before.health:
            if not await _tell(core, supervisor, log.pulse, probe):
                log.pulse = Pulse(before.health, log.pulse.failing)  # for the next probe to tell, if there is one
            elif log.pulse.health == "unhealthy" and core.settings(supervisor.id).restart_unhealthy:
                await supervisor.replace("unhealthy", new_caller("health"))


async def _probe(core: Core, supervisor: Supervisor, words: tuple[str, ...], check: HealthCheck) -> Probe:
    start = time.time_ns()
    try:
        code, output = await core.execs.probe(supervisor.id, words, timeout=check.timeout / 1e9, limit=_OUTPUT)
    except LadingError as error:
        code, output = _FAILED, str(error).encode()
    if code is None:
        code = -1
        output = output or f"Health check exceeded timeout ({check.timeout / 1e9:g}s)".encode()
    return Probe(start, time.time_ns(), code, output.decode("utf-8", "replace"))


async def _tell(core: Core, supervisor: Supervisor, pulse: Pulse, probe: Probe) -> bool:
    """Record the change; False if it can't be recorded now: paused, ended, or on its way out."""
    event = HealthChanged(supervisor.run_number, pulse.health, probe.output.strip()[-500:])
    caller = new_caller("health")
    try:
        await core.journal.append(
            [Proposed(container_stream(supervisor.id), event)], actor=caller.actor, command=caller.command
        )
    except (WrongPhase, NotFound, EngineClosed):
        return False
    return True
