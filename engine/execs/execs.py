"""Commands in running containers (exec): from the request to the outcome in the log.

The engine decides and records, the keeper executes (``keeper.exec``). An exec is registered here before its
creation is appended, and until its outcome is on disk. Two rules keep the log true:

* Whoever sets ``claimed`` records the outcome, and nobody else: its own end (``_record``), or its container's
  supervisor, which takes over all that is left (``closing``) and appends it before the container's own exit.
* Appends are carried out in the order in which they were asked for, and the look whether a container still takes
  execs is in one step with the asking. So none can slip in behind its container's exit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from lading.engine.execs.live import ExecView, LiveExec, noted_exit, verdict
from lading.engine.execs.sessions import kill_session, session_of
from lading.engine.execs.spec import RunConfig, read_run_config, render_process, write_process
from lading.engine.execs.streams import ExecOutput, open_streams
from lading.engine.history.journal import Answer
from lading.engine.keeper.execlink import KeptExec
from lading.engine.oci.runtime import Runtime, cgroup_of
from lading.events.container import ContainerState, Phase
from lading.events.envelope import Proposed
from lading.events.errors import EngineClosed, HostError, LadingError, NotFound, WrongPhase
from lading.events.execs import (
    ExecCreated,
    ExecExited,
    ExecId,
    ExecPhase,
    ExecRequested,
    ExecSpec,
    ExecState,
    exec_stream,
)
from lading.events.spec import ProcessId
from lading.events.views import EXECS
from lading.storage.procfs import boot_id, send_signal

if TYPE_CHECKING:
    from lading.engine.core import Caller, Core

__all__ = ["ExecView", "Execs", "LiveExec"]

_PAUSE = 0.005
_PATIENCE = 10.0
"""Seconds for the processes of execs to be gone once their container is, or once they were killed."""


@attrs.frozen
class _Asked:
    """What was looked up and checked for an exec."""

    state: ContainerState
    spec: ExecSpec
    runtime: Runtime
    document: bytes
    size: tuple[int, int]


class Execs:
    """Every exec of the store."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._live: dict[str, LiveExec] = {}
        self._of: dict[str, dict[str, LiveExec]] = {}
        self._configs: dict[str, RunConfig] = {}

    # -- queries: they never wait ---------------------------------------------------------------------------

    def inspect(self, exec_id: str) -> ExecView:
        """The exec with this whole id; ``NotFound``. One that is over is known as long as the history is kept."""
        live = self._live.get(exec_id)
        state = self._core.log.get(EXECS, ExecId(exec_id))
        if state is not None:
            return ExecView(state.exec, state.container, state.spec, str(state.phase), live.pid if live else 0)
        created = None
        for record in self._core.log.read_stream(exec_stream(exec_id)):
            match record.event:
                case ExecCreated():
                    created = record.event
                case ExecExited(exit_code=code, why=why) if created is not None:
                    return ExecView(created.exec, created.container, created.spec, "exited", 0, code, why)
        raise NotFound("exec instance", exec_id)

    def ids(self, container: str) -> list[ExecId]:
        """The execs of ``container`` that are not over, in the order they were made."""
        return [live.id for live in self._of.get(container, {}).values() if live.settled.is_set()]

    def has(self, container: str) -> bool:
        """Whether anything is kept of ``container``, of execs that are not over above all."""
        return container in self._of or container in self._configs

    def get(self, exec_id: str) -> LiveExec:
        """The exec that is not over; ``NotFound``."""
        live = self._live.get(exec_id)
        if live is None:
            raise NotFound("exec instance", exec_id)
        return live

    # -- commands -------------------------------------------------------------------------------------------

    def check(self, container: str) -> ContainerState:
        """The state of ``container``, which must run, and not be paused: ``WrongPhase``, ``NotFound``."""
        core = self._core
        core.check_open()
        state = core.state(container)
        if state.phase is Phase.PAUSED:
            raise WrongPhase(container, str(state.phase), "execute a command in", "unpause it first")
        supervisor = core.live.get(container)
        if state.phase not in (Phase.RUNNING, Phase.STOPPING) or supervisor is None or supervisor.closing:
            phase = "ending" if state.phase is Phase.RUNNING else str(state.phase)
            raise WrongPhase(container, phase, "execute a command in", "start it first")
        return state

    async def create(self, container: str, spec: ExecSpec, caller: Caller) -> LiveExec:
        """Record that ``spec`` is to run in ``container``; ``start`` it then.

        An empty ``working_dir`` is the container's. Raises ``WrongPhase``, ``NotFound``, ``Invalid``. A cancel
        comes before or after it.
        """
        asked = await self._prepare(container, spec)
        return await self._append_created(asked, caller, start=False)

    async def run(
        self, container: str, spec: ExecSpec, caller: Caller, *, size: tuple[int, int] = (0, 0)
    ) -> LiveExec:
        """``create`` and ``start`` in one append. A cancel comes before it, or kills the command."""
        asked = await self._prepare(container, spec, size)
        live = await self._append_created(asked, caller, start=True)
        await self._launch(live, asked, read=True)
        return live

    async def start(
        self, exec_id: str, caller: Caller, *, size: tuple[int, int] = (0, 0), detach: bool = False
    ) -> LiveExec:
        """Start a created exec, with its streams unless ``detach``: then its output is dropped.

        Raises ``NotFound``, ``WrongPhase`` (it was started, its container doesn't run), ``Invalid``. A cancel
        comes before it, or kills the command.
        """
        live = self.get(exec_id)
        if not live.requested:
            asked = await self._prepare(live.container, live.spec, size)
        if live.requested or live.claimed:
            raise WrongPhase(live.container, "already running", f"start exec {exec_id[:12]} again in")
        live.requested = True
        try:
            records = await self._core.journal.append(
                [Proposed(exec_stream(live.id), ExecRequested())], actor=caller.actor, command=caller.command
            )
        except BaseException:
            live.requested = False  # nothing was appended
            raise
        live.caller, live.cause = caller, records[-1].position
        await self._launch(live, asked, read=not detach)
        return live

    async def _prepare(self, container: str, spec: ExecSpec, size: tuple[int, int] = (0, 0)) -> _Asked:
        """Whether it can be, and what the runtime gets. No other task runs between this and what comes next."""
        runtime = await self._core.runtime()
        state = self.check(container)
        config = self._configs.get(container)
        if config is None or config.run != state.run:
            config = self._configs[container] = read_run_config(self._core.paths, state)
        if not spec.working_dir:
            spec = attrs.evolve(spec, working_dir=config.cwd)
        settings = self._core.settings(container)
        document = render_process(self._core.paths, state, settings, config, spec, size)
        return _Asked(state, spec, runtime, document, size)

    async def _append_created(self, asked: _Asked, caller: Caller, *, start: bool) -> LiveExec:
        state, spec = asked.state, asked.spec
        live = LiveExec(ExecId(secrets.token_hex(32)), state.id, state.run, spec, caller, requested=start)
        stream = exec_stream(live.id)
        events = [Proposed(stream, ExecCreated(live.id, state.id, state.run, spec), 0)]
        if start:
            events.append(Proposed(stream, ExecRequested()))
        self._add(live)
        try:
            records = await self._core.journal.append(events, actor=caller.actor, command=caller.command)
        except BaseException:
            live.claimed = True  # nothing was appended
            self._drop(live)
            raise
        finally:
            live.settled.set()
        live.cause = records[-1].position
        return live

    async def _launch(self, live: LiveExec, asked: _Asked, *, read: bool) -> None:
        """Have the keeper run it; what goes wrong is its outcome. Its streams are there on return.

        A cancel ends it.
        """
        if live.claimed:
            return  # its container has ended since, and has said so of it
        try:
            self._start_in_keeper(live, asked, read=read)
        except (LadingError, OSError) as error:
            live.claimed = True
            await self._append_end(live, None, f"it could not be started: {error}")
            return
        if not live.spec.tty or not read or live.kept is None:
            return
        try:
            await live.kept.begun.wait()
        except BaseException:
            await self.end(live)
            self.leave(live)
            raise
        if live.kept.master < 0 and not live.kept.ended.is_set():
            await self.end(live)
            self.leave(live)
            raise HostError("take the terminal of exec", live.id, errno.EMFILE)
        if live.kept.master >= 0:
            master, live.kept.master = live.kept.master, -1
            live.streams.take_master(master, stdin=live.spec.stdin)
            live.streams.stdout.on_close = partial(self._core.link.execs.drop_output, live.id, "o")
            if live.kept.ended.is_set():
                live.streams.end_soon()

    def _start_in_keeper(self, live: LiveExec, asked: _Asked, *, read: bool) -> None:
        link, paths, spec = self._core.link, self._core.paths, live.spec
        if not link.connected:
            raise HostError("reach the keeper at", os.fspath(paths.keeper_socket), 0, "it is gone")
        base = f"{paths.run}/execs/{live.id}"
        console = f"{paths.run}/execs/{live.id[:16]}.tty" if spec.tty else ""
        write_process(f"{base}.json", asked.document)
        pipes = read and not spec.tty
        live.streams, letters, fds = open_streams(
            stdin=pipes and spec.stdin, stdout=pipes and spec.stdout, stderr=pipes and spec.stderr
        )
        tty = None
        if console:
            rows, columns = asked.size
            tty = {"path": console, "rows": rows, "columns": columns}
        for letter, output in (("o", live.streams.stdout), ("e", live.streams.stderr)):
            output.on_close = partial(link.execs.drop_output, live.id, letter)
        live.reading, live.runc = read, asked.runtime.detaches
        live.kept = link.execs.start(
            {
                "id": live.id,
                "argv": asked.runtime.exec(live.container, f"{base}.json", f"{base}.pid", f"{base}.log", console),
                "process": f"{base}.json",
                "log": f"{base}.log",
                "pid": f"{base}.pid",
                "note": f"{paths.run}/exits/{live.id}",
                "streams": letters,
                "detaches": asked.runtime.detaches,
                "tty": tty,
            },
            fds,
            partial(self._on_end, live),
        )
        if not read:
            link.execs.drop_output(live.id)

    def resize(self, exec_id: str, rows: int, columns: int) -> None:
        """Give the terminal of a running exec this size. Raises ``NotFound``."""
        self.get(exec_id)
        self._core.link.execs.resize(exec_id, rows, columns)

    def leave(self, live: LiveExec) -> None:
        """Nobody reads or feeds it any more. It goes on, and what it prints is dropped. Idempotent."""
        live.streams.end_soon()
        live.streams.close()
        if live.reading and live.kept is not None:
            live.reading = False
            if live.ended.is_set():
                self._core.link.execs.done(live.kept)
            else:
                self._core.link.execs.drop_output(live.id)

    async def end(self, live: LiveExec) -> None:
        """Kill it, with what it has started in its session, and wait for its end, whatever is cancelled.

        A frozen process ends once it is thawed: it is not waited for for longer than some seconds.
        """
        with trio.CancelScope(shield=True), trio.move_on_after(_PATIENCE):
            if live.kept is not None:
                await live.kept.begun.wait()
            session = session_of(live.pid)
            await live.kill()
            await live.ended.wait()
            while session and kill_session(  # noqa: ASYNC110  # nobody tells
                session, f"{cgroup_of(self._core.paths)}/{live.container}"
            ):
                await trio.sleep(_PAUSE)

    async def probe(
        self, container: str, args: Sequence[str], *, timeout: float, limit: int
    ) -> tuple[int | None, bytes]:
        """Run ``args`` in ``container`` without a trace in the log: exit code, and up to ``limit`` bytes of
        output.

        For health checks. Standard output and error come as one. None: it was killed after ``timeout`` seconds, or
        its container ended. Raises ``WrongPhase``, ``NotFound``, ``Invalid``, ``HostError``. A cancel kills it.
        """
        asked = await self._prepare(container, ExecSpec(tuple(args), working_dir=""))
        state = asked.state
        live = LiveExec(ExecId(secrets.token_hex(32)), state.id, state.run, asked.spec, None, requested=True)
        self._start_in_keeper(live, asked, read=True)
        assert live.kept is not None
        said = bytearray()
        timed_out = True
        try:
            with trio.move_on_after(timeout):
                async with trio.open_nursery() as nursery:
                    for output in (live.streams.stdout, live.streams.stderr):
                        nursery.start_soon(_gather, output, said, limit)
                    await live.ended.wait()
                timed_out = False
        finally:
            await self.end(live)
            self.leave(live)
        return None if timed_out else live.exit_code, bytes(said[:limit])

    # -- the end --------------------------------------------------------------------------------------------

    def _on_end(self, live: LiveExec) -> None:
        """The keeper told of its end, or is gone."""
        live.streams.end_soon()
        assert live.kept is not None
        if live.id not in self._live:  # a probe
            live.exit_code, live.why = verdict(live)
            self._ended(live)
        elif not live.kept.lost and not live.claimed:
            # One that is lost goes on without a keeper until its container is ended, which then tells of it.
            live.claimed = True  # and asked for at once: nothing can be appended in between
            with contextlib.suppress(EngineClosed):  # the next engine does it
                self._post_end(live, *verdict(live))

    def _post_end(self, live: LiveExec, code: int | None, why: str) -> None:
        assert live.caller is not None  # it is no probe
        self._core.journal.post(
            [Proposed(exec_stream(live.id), ExecExited(code, why))],
            partial(self._recorded, live, code, why),
            actor=live.caller.actor,
            command=live.caller.command,
            cause=live.cause,
        )

    def _recorded(self, live: LiveExec, code: int | None, why: str, answer: Answer) -> None:
        if isinstance(answer, LadingError):  # no append of ours is refused: the store is broken
            if not self._core.closing:
                self._core.nursery.start_soon(_fail, answer)
            return
        live.exit_code, live.why = code, why
        self._ended(live)

    async def _append_end(self, live: LiveExec, code: int | None, why: str) -> None:
        assert live.caller is not None  # it is no probe
        await self._core.journal.append(
            [Proposed(exec_stream(live.id), ExecExited(code, why))],
            actor=live.caller.actor,
            command=live.caller.command,
            cause=live.cause,
        )
        live.exit_code, live.why = code, why
        self._ended(live)

    def _ended(self, live: LiveExec) -> None:
        """Its outcome is on disk."""
        self._drop(live)
        live.ended.set()
        if live.kept is not None and live.kept.lost:
            self._clear(live.id)
        if live.kept is not None and not live.reading:
            self._core.link.execs.done(live.kept)

    def _clear(self, exec_id: str) -> None:
        """Take away what a keeper that is gone has left of the exec."""
        run = self._core.paths.run
        for kind in ("json", "log", "pid"):
            (run / "execs" / f"{exec_id}.{kind}").unlink(missing_ok=True)
        (run / "execs" / f"{exec_id[:16]}.tty").unlink(missing_ok=True)

    async def closing(self, container: str) -> list[Proposed]:
        """The outcomes, not recorded yet, of the execs of ``container``, whose run is over: to be appended by the
        caller before the exit itself; then it calls ``closed``.

        Nothing is waited for where there are no execs. Else for the ends of their processes, which went with the
        container's, for some seconds at most: what isn't heard of by then is unknown.
        """
        self._configs.pop(container, None)
        mine = self._of.get(container)
        if not mine:
            return []
        with trio.move_on_after(_PATIENCE):
            for live in list(mine.values()):
                await live.settled.wait()
                if live.kept is not None and not live.claimed:
                    await live.kept.ended.wait()
        ends = []
        for live in list(mine.values()):
            if not live.settled.is_set() or live.claimed:
                continue
            live.claimed = live.taken_over = True
            live.exit_code, live.why = verdict(live)
            ends.append(Proposed(exec_stream(live.id), ExecExited(live.exit_code, live.why)))
        return ends

    def closed(self, container: str) -> None:
        """What ``closing`` gave is on disk."""
        for live in list(self._of.get(container, {}).values()):
            if live.taken_over:
                self._ended(live)

    # -- recovery -------------------------------------------------------------------------------------------

    def adopt(self, caller: Caller) -> None:
        """Take over the execs that the log has and the keeper, or its notes, may know of. Records nothing."""
        kept = self._core.link.execs.kept
        known = dict(self._core.log.scan(EXECS))
        for exec_id, state in known.items():
            self._adopt(state, kept.get(exec_id), caller)
        for exec_id, stray in list(kept.items()):
            if exec_id not in known:  # over, as the log has it; or a probe of an engine that is no more
                self._core.nursery.start_soon(self._end_stray, stray)

    def _adopt(self, state: ExecState, kept: KeptExec | None, caller: Caller) -> None:
        live = LiveExec(state.exec, state.container, state.run, state.spec, caller)
        live.settled.set()
        self._add(live)
        if state.phase is ExecPhase.RUNNING:
            live.requested = True
            live.kept = kept or noted_exit(self._core.paths, state.exec)
            live.kept.on_end = partial(self._on_end, live)

    async def settle(self) -> None:
        """Record the ends of the adopted ones that are known to be over, or that nobody knows of."""
        for live in list(self._live.values()):
            if live.kept is not None and live.kept.ended.is_set() and not live.claimed:
                live.claimed = True
                await self._append_end(live, *verdict(live))
        names = {f"{live.id}" for live in self._live.values()} | {name[:16] for name in self._live}
        for path in (self._core.paths.run / "execs").iterdir():
            if path.name.partition(".")[0] not in names:
                path.unlink(missing_ok=True)

    async def _end_stray(self, kept: KeptExec) -> None:
        await kept.begun.wait()
        if not kept.ended.is_set():
            send_signal(ProcessId(boot_id(), kept.pid, kept.ticks), 9)
            await kept.ended.wait()
        self._core.link.execs.done(kept)

    # -- the register ---------------------------------------------------------------------------------------

    def _add(self, live: LiveExec) -> None:
        self._live[live.id] = live
        self._of.setdefault(live.container, {})[live.id] = live

    def _drop(self, live: LiveExec) -> None:
        self._live.pop(live.id, None)
        mine = self._of.get(live.container)
        if mine is not None:
            mine.pop(live.id, None)
            if not mine:
                del self._of[live.container]


async def _fail(error: LadingError) -> None:
    raise error


async def _gather(output: ExecOutput, said: bytearray, limit: int) -> None:
    async for data in output:
        said += data[: max(limit - len(said), 0)]
