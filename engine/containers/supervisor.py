"""One task for each container that has a run under way.

It carries a start request to its outcome, follows the run until it ends, records how and what follows from that,
takes away what the run needed, and removes a container that asked to be removed. It is cancelled only when the
engine closes; at whatever await that happens, the log tells the next engine what is left to do, and it does the
same.

What a container asked for besides running (a health check, a deadline) are tasks beside it, which end with the
run.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from lading.engine.containers.freezer import is_frozen, thaw
from lading.engine.containers.health import watch_health
from lading.engine.containers.observe import drop_exit_record, observe
from lading.engine.containers.remains import end_remains
from lading.engine.containers.restarts import follow_up
from lading.engine.core import Caller, Core, new_caller
from lading.engine.keeper.link import KeptRun
from lading.engine.oci.bundle import clear_bundle, make_bundle
from lading.engine.oci.exitwords import classify_failure
from lading.engine.oci.runtime import cgroup_of
from lading.engine.volumes.mounting import mounted_bundle, release_volumes
from lading.events.commands import StopContainer
from lading.events.container import (
    ContainerEvent,
    ContainerState,
    Exited,
    Phase,
    Started,
    StartFailed,
    StartRequested,
    StopRequested,
)
from lading.events.envelope import Proposed, Record
from lading.events.errors import CannotStart, Conflict, EngineClosed, HostError, LadingError, NotFound, WrongPhase
from lading.events.ids import ContainerId, container_stream
from lading.events.recovery import recover
from lading.events.signals import signal_number
from lading.events.spec import ProcessId
from lading.events.views import SETTINGS
from lading.storage.procfs import boot_id, send_signal

if TYPE_CHECKING:
    from lading.engine.containers.containers import Containers

__all__ = ["Supervisor"]

logger: logging.Logger = logging.getLogger("lading")

_KILL = signal_number("SIGKILL")


class Supervisor:
    """The supervisor of one run.

    ``begun`` is set when the start has its outcome in the log, ``ended`` when the exit has, and ``done`` when
    nothing of the run is left on the host. ``error`` is why it did not start, ``exit_code`` how it ended.
    ``again``: when it ends, the next run begins at once, because somebody asked for a restart. ``closing``: its
    end is being recorded, and nothing more can be run in it.
    """

    def __init__(self, core: Core, state: ContainerState, caller: Caller, cause: int) -> None:
        self.id: ContainerId = state.id
        self.run_number: int = state.run
        self.begun: trio.Event = trio.Event()
        self.ended: trio.Event = trio.Event()
        self.done: trio.Event = trio.Event()
        self.error: CannotStart | None = None
        self.exit_code: int | None = None
        self.auto_remove: bool = state.spec.auto_remove
        self.process: ProcessId | None = state.process
        self.again: Caller | None = None
        self.closing: bool = False
        self._why_again = ""
        self._next: Record | None = None
        self._core = core
        self._spec = state.spec
        self._caller = caller
        self._cause = cause
        self._mounts = bool(core.settings(state.id).mounts)
        self._before = core.live.get(state.id)
        core.live[state.id] = self

    # -- the task ---------------------------------------------------------------------------------------

    async def start(self, state: ContainerState, containers: Containers) -> None:
        """The task: from ``StartRequested`` in the log to the end of the run."""
        core = self._core
        if self._before is not None:  # the run before this one has ended, and is being cleared away
            await self._before.done.wait()
            self._before = None
        try:
            runtime = await core.runtime()
            if self.id in core.holds:  # somebody copies into it, or is making a layer of what it wrote
                await core.holds.free(self.id)
            settings = core.settings(self.id)
            size = core.console_sizes.pop(self.id, (0, 0))
            if settings.mounts:
                bundle = await mounted_bundle(core, state, settings, runtime, self._caller, size)
            else:
                bundle = make_bundle(core.paths, state, settings, core.host, runtime, size=size)
            # A runtime that stays takes the cgroup away, with what it tells of memory, before anybody could look.
            # One in the host's pid namespace may have to be ended piece by piece; crun, if it stays, reaps them.
            limited, shared = settings.resources.memory > 0, settings.pid_mode == "host"
            leaves = limited or (shared and runtime.name != "crun") or (settings.tty and runtime.detaches)
            own = os.fspath(core.paths.container(self.id))
            console = f"{core.paths.run}/execs/{self.id[:16]}.tty" if settings.tty else ""
            tty = {"path": console, "rows": size[0], "columns": size[1], "detaches": runtime.detaches}
            pid_file = f"{core.paths.run}/pids/{self.id}"
            kept = await core.link.run(
                {
                    "id": self.id,
                    "run": self.run_number,
                    "argv": runtime.run(self.id, bundle, pid_file, f"{bundle}/log", console, detach=leaves),
                    "log": f"{bundle}/log",
                    "output": f"{own}/output",
                    "log_size": settings.log_size,
                    "log_files": settings.log_files,
                    "exit": f"{own}/exit",
                    "note": f"{core.paths.run}/exits/{self.id}",
                    "stdin": self._spec.open_stdin,
                    "stop_signal": signal_number(self._spec.stop_signal),
                    "stop_timeout": self._spec.stop_timeout,
                    "tty": tty if console else None,
                    "cgroup": f"{cgroup_of(core.paths)}/{self.id}" if limited or shared else "",
                    "leaves": leaves,
                }
            )
        except LadingError as error:
            await self._failed(125, str(error))
        else:
            await self._follow(kept, containers)
        await self._leave(containers)

    async def adopt(self, kept: KeptRun, containers: Containers) -> None:
        """The task for a run that the keeper already has."""
        if self.process is not None:
            self._attend(containers)
            self.begun.set()
        await self._follow(kept, containers)
        await self._leave(containers)

    async def _follow(self, kept: KeptRun, containers: Containers) -> None:
        if not self.begun.is_set():
            await kept.begun.wait()
            if kept.failed is not None:
                await self._failed(*classify_failure(kept.failed))
                return
            if kept.lost and not kept.pid:
                await self._lost_at_start()
                return
            self.process = ProcessId(boot_id(), kept.pid, kept.ticks)
            started = Started(self.run_number, self.process)
            if kept.ended.is_set() and not kept.lost:
                if self.again is None and self._core.log.get(SETTINGS, self.id) is None:
                    await self._record(started, Exited(self.run_number, kept.code, kept.at, oom=kept.oom))
                    self._over(kept.code)
                    self._core.link.forget(kept)
                else:
                    await self._record(started)
                    await self._record_exit(kept)
                return
            await self._record(started)
            self._attend(containers)
            self.begun.set()
        await kept.ended.wait()
        if kept.lost:
            await self._lost()
            return
        await self._record_exit(kept)

    def _attend(self, containers: Containers) -> None:
        """Begin what the container asked for besides running."""
        settings = self._core.settings(self.id)
        if settings.health is not None:
            self._core.nursery.start_soon(watch_health, self._core, self, settings.health)
        if settings.deadline:
            self._core.nursery.start_soon(self._keep_deadline, settings.deadline, containers)

    async def _keep_deadline(self, deadline: int, containers: Containers) -> None:
        """Stop the run ``deadline`` nanoseconds after it started."""
        left = (self._core.state(self.id).started_at + deadline - time.time_ns()) / 1e9
        with trio.move_on_after(max(left, 0)):
            await self.ended.wait()
            return
        try:
            await containers.command(self.id, StopContainer(), new_caller("deadline"))
        except (WrongPhase, NotFound, EngineClosed):
            return  # it has just ended, or the next engine does it
        await self.stop(signal_number(self._spec.stop_signal), self._spec.stop_timeout)

    async def _leave(self, containers: Containers) -> None:
        """Take away what the run needed, and the container itself if it asked for that."""
        await self._clear()
        if self._core.live.get(self.id) is self:
            del self._core.live[self.id]
        self.done.set()
        if self._spec.auto_remove:
            await containers.auto_remove(self.id, self._caller)()
        elif self._next is not None:
            containers.go_on(self.id, self._next)

    async def _clear(self) -> None:
        try:
            runtime = await self._core.runtime()
            # Its runtime process, if killed, could not clean up.
            if os.path.exists(f"{runtime.state}/{self.id}"):
                await end_remains(self._core.paths, runtime, self.id, self.process)
            if self._spec.auto_remove:
                clear_bundle(self._core.paths, self.id)  # a volatile mount: unmounting waits for no disk
            else:
                await trio.to_thread.run_sync(clear_bundle, self._core.paths, self.id)
            if self._mounts:
                await release_volumes(self._core, self.id)
        except HostError as error:  # the next removal or open tries again
            logger.warning("%s", error)

    # -- outcomes ---------------------------------------------------------------------------------------

    async def _record(
        self,
        *events: ContainerEvent,
        before: Sequence[Proposed] = (),
        expect: int | None = None,
        caller: Caller | None = None,
    ) -> tuple[Record, ...]:
        stream, caller = container_stream(self.id), caller or self._caller
        own = [Proposed(stream, event, expect if number == 0 else None) for number, event in enumerate(events)]
        return await self._core.journal.append(
            [*before, *own],
            actor=caller.actor,
            command=caller.command,
            cause=self._cause,
        )

    async def _record_exit(self, kept: KeptRun) -> None:
        """Record how the run ended, together with what follows from it."""
        await self._record_end(Exited(self.run_number, kept.code, kept.at, oom=kept.oom))
        self._over(kept.code)
        self._core.link.forget(kept)

    async def _record_end(self, end: Exited | StartFailed) -> None:
        """Record ``end`` and what follows from it, decided again if the container changed meanwhile.

        The ends of its execs come before it, in the same append.
        """
        self.closing = True
        execs = self._core.execs
        before = await execs.closing(self.id) if execs.has(self.id) else ()
        while True:
            state = self._core.state(self.id)
            following = self._following(state, end)
            try:
                caller = self.again if following else None
                records = await self._record(
                    end,
                    *following,
                    before=before,
                    expect=state.version if following else None,
                    caller=caller,
                )
            except Conflict:
                continue
            if before:
                execs.closed(self.id)
            self._next = records[-1] if following else None
            return

    def _following(self, state: ContainerState, end: Exited | StartFailed) -> list[ContainerEvent]:
        if self.again is None or state.phase is Phase.REMOVING or self._spec.auto_remove:
            return follow_up(self._core, state, end)
        if self._why_again:
            return follow_up(self._core, state, end, self._why_again)
        return [StartRequested(self.run_number + 1)]

    async def _failed(self, exit_code: int, why: str) -> None:
        await self._clear()
        await self._record_end(StartFailed(self.run_number, exit_code, why))
        self.error = CannotStart(self.id, exit_code, why)
        self._over(exit_code)

    async def _lost_at_start(self) -> None:
        """The keeper went before it could tell: whatever it had begun is ended."""
        await end_remains(self._core.paths, await self._core.runtime(), self.id, None)
        await self._failed(125, "its keeper ended while it was starting; start it again")

    async def _lost(self) -> None:
        """The keeper is gone: the exit it wrote down, or the truth that nobody knows."""
        core = self._core
        outcomes = recover(core.state(self.id), observe(core.paths, core.state(self.id), None))
        await end_remains(core.paths, await core.runtime(), self.id, self.process)
        for outcome in outcomes:
            if isinstance(outcome, Exited):
                await self._record_end(outcome)
        drop_exit_record(core.paths, self.id)
        self._over(core.state(self.id).exit_code)

    def _over(self, exit_code: int | None) -> None:
        self.exit_code = exit_code
        self.begun.set()
        self.ended.set()
        self._core.link.wake(self.id)

    # -- signals ----------------------------------------------------------------------------------------

    def signal(self, number: int) -> bool:
        """Send signal ``number`` to the container's first process; False if it is gone."""
        return self.process is not None and send_signal(self.process, number)

    def kill(self) -> None:
        """Kill the first process, and with it the container, frozen or not."""
        self.signal(_KILL)
        self.go_on()

    def go_on(self) -> None:
        """Thaw the container if it is frozen: a frozen process heeds no signal."""
        if is_frozen(self._core.paths, self.id):
            thaw(self._core.paths, self.id)

    async def stop(self, number: int, timeout: float) -> None:
        """The task of a stop: ``number`` now, SIGKILL after ``timeout`` seconds unless negative."""
        self.signal(number)
        self.go_on()
        with trio.move_on_after(timeout if timeout >= 0 else float("inf")):
            await self.ended.wait()
            return
        self.kill()

    async def replace(self, why: str, caller: Caller) -> None:
        """Stop the run, so that another one follows it, for ``why``."""
        self.again, self._why_again = caller, why
        try:
            spec = self._spec
            await self._core.journal.append(
                [Proposed(container_stream(self.id), StopRequested(spec.stop_signal, spec.stop_timeout))],
                actor=caller.actor,
                command=caller.command,
            )
        except (WrongPhase, NotFound, EngineClosed):
            return  # it has just ended, or the next engine does it
        await self.stop(signal_number(self._spec.stop_signal), self._spec.stop_timeout)
