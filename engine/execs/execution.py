"""Running a command in a running container, from Python: to its end, or for the time of a block."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

from lading.engine.execs.live import LiveExec
from lading.engine.execs.streams import ExecInput, ExecOutput
from lading.engine.retry import deciding, first_result
from lading.events.execs import ExecCreated, ExecId, ExecSpec

if TYPE_CHECKING:
    from lading.engine.core import Caller, Core

__all__ = ["ExecResult", "ExecStream", "exec_spec", "execute", "open_exec"]

_KILLED = 137


@attrs.frozen
class ExecResult:
    """A command that is over.

    ``exit_code`` as in ``ExecExited``: None is unknown, or that it never ran, and ``why`` says so; 126 and 127: it
    can't be executed, ``why`` has the runtime's words, and there is no output. ``truncated``: there was more
    output. ``timed_out``: it was killed because it took too long.
    """

    exec: ExecId
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    truncated: bool = False
    timed_out: bool = False
    why: str = ""


@attrs.define(eq=False)
class ExecStream:
    """A command that runs, with its streams.

    ``stdin`` sends to it (``send_eof`` or ``aclose`` is its end), None if it was not asked for. ``stdout`` and
    ``stderr`` are async iterables of bytes; with a terminal everything comes as ``stdout``. Whoever doesn't read
    one holds up the command once the pipe is full, and nothing else: ``aclose`` what you don't want.
    """

    _live: LiveExec
    _core: Core
    stdin: ExecInput | None
    stdout: ExecOutput
    stderr: ExecOutput

    @property
    def id(self) -> ExecId:
        """Its id in the history."""
        return self._live.id

    @property
    def pid(self) -> int:
        """The host's pid of its process, 0 if it has none (yet, or any more)."""
        return self._live.pid

    def resize(self, rows: int, columns: int) -> None:
        """Give its terminal this size. Nothing happens without one, or once it is over."""
        if not self._live.ended.is_set():
            self._core.execs.resize(self._live.id, rows, columns)

    async def kill(self, signal: str | int = "SIGKILL") -> bool:
        """Send ``signal`` to its process, by a name or number; False if that is gone. Raises ``Invalid``."""
        return await self._live.kill(signal)

    async def wait(self) -> int | None:
        """Its exit code once it is over, as ``ExecResult`` has it. A cancel of this alone leaves it running."""
        return await self._live.wait()


async def execute(
    core: Core,
    container: str,
    spec: ExecSpec,
    caller: Caller,
    *,
    stdin: bytes | None = None,
    timeout: float | None = None,
    capture: int,
) -> ExecResult:
    """``Container.exec``, for a ``spec`` that is whole."""
    if caller.once:
        async with deciding(core, caller):
            first = first_result(core, caller, ExecCreated)
            live = await core.execs.run(container, spec, caller) if first is None else None
        if live is None:
            assert first is not None
            assert isinstance(first.event, ExecCreated)
            return await _executed_before(core, first.event.exec)
    else:
        live = await core.execs.run(container, spec, caller)
    budget = [capture]
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    timed_out = False
    try:
        with trio.move_on_after(float("inf") if timeout is None else timeout) as limit:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_collect, live.streams.stderr, parts[1], budget)
                if live.streams.stdin is not None:
                    nursery.start_soon(_feed, live.streams.stdin, stdin or b"")
                await _collect(live.streams.stdout, parts[0], budget)
                await live.ended.wait()
                if live.streams.stdin is not None:
                    live.streams.stdin.close()
        timed_out = limit.cancelled_caught
    finally:
        if not live.ended.is_set():
            await core.execs.end(live)
        core.execs.leave(live)
    out, err = (b"".join(part) for part in parts)
    if live.why and live.exit_code in (126, 127):
        out = err = b""  # the runtime's words
    code = _KILLED if timed_out and live.exit_code is None else live.exit_code
    return ExecResult(live.id, code, out, err, budget[0] < 0, timed_out, live.why)


@asynccontextmanager
async def open_exec(
    core: Core, container: str, spec: ExecSpec, caller: Caller, size: tuple[int, int]
) -> AsyncIterator[ExecStream]:
    """``Container.exec_stream``, for a ``spec`` that is whole."""
    live = await core.execs.run(container, spec, caller, size=size)
    streams = live.streams
    try:
        yield ExecStream(live, core, streams.stdin, streams.stdout, streams.stderr)
    finally:
        if not live.ended.is_set():
            await core.execs.end(live)
        core.execs.leave(live)


def exec_spec(
    args: Sequence[str],
    *,
    env: Sequence[str] = (),
    working_dir: str | None = None,
    user: str | None = None,
    privileged: bool = False,
    tty: bool = False,
    stdin: bool = False,
) -> ExecSpec:
    """What is to run; the container's own where nothing is asked."""
    return ExecSpec(
        args=tuple(args),
        env=tuple(env),
        working_dir=working_dir or "",
        user=user or "",
        tty=tty,
        stdin=stdin,
        stderr=not tty,
        privileged=privileged,
    )


async def _executed_before(core: Core, exec_id: ExecId) -> ExecResult:
    """The outcome of a first try; its output went to whoever read it then."""
    if core.execs.inspect(exec_id).phase != "exited":
        await core.execs.get(exec_id).wait()
    view = core.execs.inspect(exec_id)
    return ExecResult(exec_id, view.exit_code, b"", b"", truncated=True, why=view.why)


async def _collect(stream: ExecOutput, parts: list[bytes], budget: list[int]) -> None:
    """Read to the end; what is over the budget, which both streams share, is dropped."""
    async for data in stream:
        left, budget[0] = max(budget[0], 0), budget[0] - len(data)
        if left:
            parts.append(bytes(data[:left]))


async def _feed(stream: ExecInput, data: bytes) -> None:
    try:
        await stream.send_all(data)
        await stream.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return  # it ended without reading everything
