"""A container's life, as a handle on it has it: what can be asked of it from its first start to its removal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from signal import SIGKILL
from typing import TYPE_CHECKING

import trio

from lading.engine.containers.pausing import pause, unpause
from lading.engine.containers.removal import remove_container
from lading.engine.containers.updating import update
from lading.engine.containers.waiting import WaitCondition, wait_removed, wait_run
from lading.engine.core import Caller, new_caller
from lading.engine.retry import deciding, end_of_run, first_result, start_error
from lading.events.commands import KillContainer, RenameContainer, StartContainer, StopContainer
from lading.events.container import (
    ContainerState,
    KillRequested,
    Paused,
    RemoveRequested,
    Renamed,
    StartRequested,
    StopRequested,
    Unpaused,
    Updated,
    status,
)
from lading.events.envelope import Actor
from lading.events.errors import NotFound, WrongPhase
from lading.events.ids import ContainerId
from lading.events.settings import Resources, RestartPolicy
from lading.events.signals import signal_number

if TYPE_CHECKING:
    from lading.engine.containers.containers import Containers

__all__ = ["Lifecycle", "Outcome"]


class Lifecycle:
    """The part of a ``Container`` that begins, ends and changes it. See there for what holds for all of it."""

    def __init__(self, containers: Containers, container: ContainerId) -> None:
        self.id = container
        self._containers = containers

    def __repr__(self) -> str:
        return f"<Container {self.id[:12]}>"

    @property
    def state(self) -> ContainerState:
        """What the log says of it now."""
        return self._containers.core.state(self.id)

    @property
    def name(self) -> str:
        """Its name now."""
        return self.state.name

    @property
    def status(self) -> str:
        """Docker's word for its phase: created, running, paused, restarting, exited, removing, dead."""
        return status(self.state)

    @property
    def pid(self) -> int:
        """The host's pid of its first process, 0 if it has none."""
        process = self.state.process
        return process.pid if process else 0

    async def start(self, *, actor: Actor | None = None, caller: Caller | None = None) -> None:
        """Run it; returns once its command was executed. Raises ``CannotStart`` with Docker's exit code.

        A container that is to be removed at its end is gone when that is raised.
        """
        caller = caller or new_caller(actor=actor)
        core = self._containers.core
        async with deciding(core, caller):
            first = first_result(core, caller, StartRequested)
            if first is None:
                supervisor = await self._containers.begin(self.id, StartContainer(), caller)
        if first is not None:
            assert isinstance(first.event, StartRequested)
            running = core.live.get(self.id)
            if running is None or running.run_number != first.event.run:
                error = start_error(core, self.id, first.event.run)
                if error is not None:
                    raise error
                return
            supervisor = running
        await supervisor.begun.wait()
        if supervisor.error is not None:
            if supervisor.auto_remove:
                await self._containers.core.wait_removed(self.id)
            raise supervisor.error

    async def stop(
        self,
        timeout: int | None = None,
        signal: str | None = None,
        *,
        actor: Actor | None = None,
        caller: Caller | None = None,
    ) -> int | None:
        """Send ``signal`` (its stop signal), then SIGKILL after ``timeout`` seconds (its stop timeout; negative:
        never); its exit code once it is down.

        A cancel does not take the stop back.
        """
        core = self._containers.core
        caller = caller or new_caller(actor=actor)
        async with deciding(core, caller):
            first = first_result(core, caller, StopRequested)
            if first is None:
                supervisor = await self._containers.supervisor(self.id)
                await self._containers.command(self.id, StopContainer(timeout, signal), caller)
        if first is not None:
            try:
                return await self.wait()
            except NotFound:  # it was removed since
                end = end_of_run(core, self.id)
                return end.exit_code if end else None
        if supervisor is None:
            return None
        spec = core.state(self.id).spec
        number = signal_number(signal or spec.stop_signal)
        core.nursery.start_soon(supervisor.stop, number, spec.stop_timeout if timeout is None else timeout)
        await supervisor.ended.wait()
        return supervisor.exit_code

    async def restart(
        self,
        timeout: int | None = None,
        signal: str | None = None,
        *,
        actor: Actor | None = None,
        caller: Caller | None = None,
    ) -> None:
        """Stop it as ``stop`` does, if it runs, and run it again; returns once its command was executed.

        Raises ``CannotStart``. A cancel does not take it back. If the engine dies before the run has ended, it
        stays down: ask again.
        """
        core = self._containers.core
        caller = caller or new_caller(actor=actor)
        async with deciding(core, caller):
            first = first_result(core, caller, StopRequested, StartRequested)
            supervisor = await self._containers.supervisor(self.id)
            if first is None and supervisor is not None:
                supervisor.again = caller
                with suppress(WrongPhase):  # it ended just now, and goes on by what was set above
                    await self._containers.command(self.id, StopContainer(timeout, signal), caller)
                    spec = core.state(self.id).spec
                    number = signal_number(signal or spec.stop_signal)
                    left = spec.stop_timeout if timeout is None else timeout
                    core.nursery.start_soon(supervisor.stop, number, left)
        if first is None and supervisor is None:
            await self.start(caller=caller)
            return
        if supervisor is not None:
            await supervisor.done.wait()
            supervisor = core.live.get(self.id)
        if supervisor is not None:
            await supervisor.begun.wait()
            if supervisor.error is not None:
                raise supervisor.error

    async def pause(self, *, actor: Actor | None = None, caller: Caller | None = None) -> None:
        """Freeze every process of it. A cancel comes before or after it. Raises ``HostError`` if it can't be."""
        caller = caller or new_caller(actor=actor)
        core = self._containers.core
        async with deciding(core, caller):
            if first_result(core, caller, Paused) is None:
                await self._containers.supervisor(self.id)
                await pause(self._containers, self.id, caller)

    async def unpause(self, *, actor: Actor | None = None, caller: Caller | None = None) -> None:
        """Let its processes go on. A cancel comes before or after it."""
        caller = caller or new_caller(actor=actor)
        core = self._containers.core
        async with deciding(core, caller):
            if first_result(core, caller, Unpaused) is None:
                await unpause(self._containers, self.id, caller)

    async def update(
        self,
        resources: Resources | None = None,
        restart: RestartPolicy | None = None,
        *,
        actor: Actor | None = None,
        caller: Caller | None = None,
    ) -> None:
        """Give it other limits (at once, if it runs) or another restart policy; None leaves that as it is.

        Raises ``Invalid`` for what can't be, and ``HostError`` if the kernel refuses a limit; then nothing has
        changed. A cancel comes before or after it.
        """
        caller = caller or new_caller(actor=actor)
        core = self._containers.core
        async with deciding(core, caller):
            if first_result(core, caller, Updated) is None:
                await update(self._containers, self.id, resources, restart, caller)

    async def kill(
        self, signal: str = "SIGKILL", *, actor: Actor | None = None, caller: Caller | None = None
    ) -> None:
        """Send ``signal`` to its first process. Does not wait for what comes of it."""
        caller = caller or new_caller(actor=actor)
        core = self._containers.core
        async with deciding(core, caller):
            if first_result(core, caller, KillRequested) is not None:
                return
            supervisor = await self._containers.supervisor(self.id)
            await self._containers.command(self.id, KillContainer(signal), caller)
        if supervisor is not None:
            number = signal_number(signal)
            if number == SIGKILL:
                supervisor.kill()
            else:
                supervisor.signal(number)

    async def wait(self, condition: WaitCondition = "not-running") -> int | None:
        """Its exit code. None: unknown, or it never ran.

        ``not-running``: once it doesn't run, at once if it doesn't. ``next-exit``: once the run that is under
        way, or else the next one, has ended. ``removed``: once it is gone, with the exit code of its last run.
        A cancel leaves nothing.
        """
        core = self._containers.core
        if condition == "removed":
            return await wait_removed(core, self.state)
        if condition == "next-exit":
            return await wait_run(core, self.state)
        supervisor = await self._containers.supervisor(self.id)
        if supervisor is None:
            return self.state.exit_code
        await supervisor.ended.wait()
        return supervisor.exit_code

    async def remove(
        self,
        *,
        force: bool = False,
        volumes: bool = False,
        actor: Actor | None = None,
        caller: Caller | None = None,
    ) -> None:
        """Delete it with its writable layer and its output; ``force`` kills its process first.

        ``volumes``: and with those of its volumes that nobody named and no other container mounts.

        Returns when it is gone. A cancel does not take the removal back. Raises ``HostError`` if something on the
        host would not go; remove it again then.
        """
        core = self._containers.core
        caller = caller or new_caller(actor=actor)
        async with deciding(core, caller):
            first = first_result(core, caller, RemoveRequested)
            if first is None:
                await self._containers.supervisor(self.id)
                records = await self._containers.request_removal(self.id, caller, force=force, volumes=volumes)
        if first is not None:
            await core.wait_removed(self.id)
            return
        outcome = Outcome()
        core.nursery.start_soon(outcome.run, partial(remove_container, core, self.id, caller, records[0].position))
        await outcome.wait()

    # -- files ------------------------------------------------------------------------------------------------

    async def rename(self, name: str, *, actor: Actor | None = None, caller: Caller | None = None) -> None:
        """Give it another name. Raises ``AlreadyExists`` or ``Invalid``."""
        caller = caller or new_caller(actor=actor)
        core = self._containers.core
        async with deciding(core, caller):
            if first_result(core, caller, Renamed) is None:
                await self._containers.command(self.id, RenameContainer(name), caller)


class Outcome:
    """The end of a task in the engine's own nursery, for a caller who may be cancelled while waiting for it."""

    def __init__(self) -> None:
        self._done = trio.Event()
        self._error: Exception | None = None

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work`` and keep what it raises for ``wait``."""
        try:
            await work()
        except Exception as error:
            self._error = error
        self._done.set()

    async def wait(self) -> None:
        """Return when it is done, or raise what it raised."""
        await self._done.wait()
        if self._error is not None:
            raise self._error
