"""One run of one container, as the keeper has it: the runtime's process, the pipes, the start and the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from lading.engine.keeper import wire
from lading.engine.keeper.launch import launch, open_pipes, wait_gone, wait_orphan, wait_runtime, with_room
from lading.engine.keeper.output import RunOutput
from lading.engine.keeper.terminal import Console
from lading.storage.cgroups import kill_all, oom_kills, thaw_process
from lading.storage.output import CHUNK
from lading.storage.procfs import boot_id, has_executed, start_ticks

__all__ = ["Run", "write_record"]

_DRAIN = 5.0
"""Seconds to wait for the end of output after the container's processes are gone."""
_EXECUTED = 2.0
"""Seconds after which a live process counts as executed even though it still looks like the runtime."""


class Run:
    """What message ``run`` (``wire``) asks for. ``live`` is its whole life; ``exit`` is set at its end.

    ``tell`` sends to the engine, if there is one.
    """

    def __init__(self, message: dict[str, Any], run_dir: Path, tell: Callable[[dict[str, Any]], None]) -> None:
        self.id: str = message["id"]
        self.number: int = message["run"]
        self.output: RunOutput = RunOutput(message, tell)
        self.exit: dict[str, Any] | None = None
        self._ask = message
        self._tell = tell
        self._pid_file = run_dir / "pids" / self.id
        self._runtime = self._pid = self._ticks = 0
        self._pid_known = trio.Event()
        self._started = False
        self._over = trio.Event()
        self._stdin: trio.lowlevel.FdStream | None = None
        self._feeding = trio.Lock()
        self._console: Console | None = None
        self._cgroup: str = message["cgroup"]
        self._leaves: bool = message["leaves"]
        self._oom = False

    def describe(self) -> dict[str, Any]:
        """The run in message ``hello``."""
        pid = self._pid if self._started else 0
        return {"id": self.id, "run": self.number, "pid": pid, "ticks": self._ticks, "exit": self.exit}

    async def live(self, has_engine: Callable[[], bool]) -> None:
        """Launch, pump, reap, and tell. Returns with ``exit`` set, or None if the command was never executed."""
        tty = self._ask.get("tty")
        with_stdin = self._ask["stdin"] and not tty
        try:
            if tty:
                self._console = Console(tty["path"], (tty["rows"], tty["columns"]))
            pipes, theirs = open_pipes(with_stdin)
            try:
                self._runtime, pidfd = launch(self._ask["argv"], theirs)
            except OSError:
                for fd in pipes[0 if with_stdin else 1 :]:
                    os.close(fd)
                raise
            finally:
                for fd in theirs:
                    os.close(fd)
        except OSError as error:  # no such runtime, or out of descriptors or processes
            if self._console is not None:
                self._console.close()
            self._fail(f"the runtime can't be executed: {error}")
            return
        if with_stdin:
            self._stdin = trio.lowlevel.FdStream(pipes[0])
        try:
            code = await self._pump_and_reap(pidfd, pipes[1], pipes[2])
        finally:
            os.close(pidfd)
            if self._console is not None:
                self._console.close()
        await self._end_input()
        if not self._started:
            await self.take_pid()
            why = self._why_not_executed(code)
            if why is not None:
                self.output.take_back()
                self.output.close()
                self._fail(why)
                return
            self._tell_started()
        self.output.close()
        now = time.time_ns()
        self.exit = {
            "run": self.number,
            "code": code,
            "at": now,
            "pid": self._pid,
            "ticks": self._ticks,
            "boot": boot_id(),
            "oom": self._oom,
        }
        if has_engine():
            write_record(self._ask["note"], self.exit, sync=False)
        else:
            self.make_durable()
        self._tell({"op": "exited", "id": self.id, "run": self.number, "code": code, "at": now, "oom": self._oom})

    def make_durable(self) -> None:
        """Write the exit record to disk: nobody is there to take it."""
        assert self.exit is not None
        write_record(self._ask["exit"], self.exit, sync=True)

    def forget(self) -> None:
        """Drop the exit record: it is in the log."""
        for path in (self._ask["note"], self._ask["exit"]):
            with contextlib.suppress(OSError):
                os.unlink(path)

    async def take_pid(self) -> None:
        """Take the pid from the pid file, if it is there."""
        if not self._pid:
            with contextlib.suppress(FileNotFoundError, ValueError):
                pid = int(await with_room(self._pid_file.read_bytes))
                self._ticks = await with_room(partial(start_ticks, pid))
                self._pid = pid
                self._pid_file.unlink(missing_ok=True)
                self._pid_known.set()

    async def feed(self, stream: trio.SocketStream, decoder: wire.Decoder) -> None:
        """What ``stream`` brings into standard input, in pieces that are not mixed with another feeder's."""
        data = b""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # it takes no more
            while True:
                for message in decoder.feed(data):
                    if self._console is not None and self._ask["stdin"]:  # a terminal has no end to be told of
                        if message["op"] == "data":
                            await self._console.send_all(message["data"])
                        continue
                    if self._stdin is None or message["op"] == "end":
                        await self._end_input()
                        return
                    async with self._feeding:
                        await self._stdin.send_all(message["data"])
                data = await stream.receive_some(CHUNK)
                if not data:
                    return

    def resize(self, rows: int, columns: int) -> None:
        """Give its terminal, if it has one, this size."""
        if self._console is not None:
            self._console.resize(rows, columns)

    async def _end_input(self) -> None:
        if self._stdin is not None:
            await self._stdin.aclose()

    async def stop(self) -> None:
        """Stop it as its recipe says: the engine went, and wanted it gone then."""
        with trio.move_on_after(_DRAIN):
            await self._pid_known.wait()
        timeout = self._ask["stop_timeout"]
        for number in (self._ask["stop_signal"], signal.SIGKILL):
            if self._pid and await with_room(partial(start_ticks, self._pid)) == self._ticks:
                os.kill(self._pid, number)
                thaw_process(self._pid)
            with trio.move_on_after(timeout if timeout >= 0 else float("inf")):
                await self._over.wait()
                return

    # -- the run --------------------------------------------------------------------------------------------

    async def _pump_and_reap(self, pidfd: int, out: int, err: int) -> int:
        """Everything between launch and end; the exit code."""
        async with trio.open_nursery() as pumps:
            pumps.start_soon(self.output.pump, 1, out, self._over)
            pumps.start_soon(self.output.pump, 2, err, self._over)
            pumps.start_soon(self._see_start)
            if self._cgroup and not self._leaves:
                pumps.start_soon(self._end_others_first)
            if self._console is not None:
                pumps.start_soon(self._console.receive)
                pumps.start_soon(self._console.pump, partial(self.output.take, 1), self._over.is_set, CHUNK)
            code = await wait_runtime(self._runtime, pidfd)
            if self._console is not None:
                self._console.give_up()
            if code < 0 or (code == 0 and self._leaves):
                code = await self._adopt(code)
            if self._leaves and self._cgroup:
                await self._end_others()
            self._over.set()
            pumps.cancel_scope.deadline = trio.current_time() + _DRAIN
        return code

    async def _adopt(self, code: int) -> int:
        """The runtime is gone and its container is our child now (we are a subreaper): wait for that."""
        await self.take_pid()
        status = await wait_orphan(self._pid, self._ticks)
        return status if status is not None else 128 - code

    async def _end_others_first(self) -> None:
        """When the first process has ended, end what the runtime waits for: it reaps them, and leaves after."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_over, nursery.cancel_scope)
            await self._pid_known.wait()
            await wait_gone(self._pid)
            await self._end_others()
            nursery.cancel_scope.cancel()

    async def _end_others(self) -> None:
        """The first process has ended: look how it fared, and end what else is in the cgroup, if anything is."""
        self._oom = oom_kills(self._cgroup) > 0
        pause = 0.0005
        others: set[int] = set()
        with trio.move_on_after(_DRAIN):
            while others := others | kill_all(self._cgroup):
                others = {pid for pid in others if not _is_reaped(pid)}
                await trio.sleep(pause)
                pause *= 2

    # -- the start ------------------------------------------------------------------------------------------

    async def _see_start(self) -> None:
        """Tell that the run started once its command was executed, which the pid file comes just before."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_over, nursery.cancel_scope)
            await self._pid_known.wait()
            give_up = trio.current_time() + _EXECUTED
            pause = 0.0005
            argv = self._ask["argv"] if self._leaves else ()
            look = partial(has_executed, self._pid, self._runtime, argv)
            while (executed := await with_room(look)) is False:
                if trio.current_time() > give_up:
                    executed = True
                    break
                await trio.sleep(pause)
                pause *= 2
            if executed:
                self._tell_started()
            nursery.cancel_scope.cancel()

    async def _until_over(self, scope: trio.CancelScope) -> None:
        await self._over.wait()
        scope.cancel()

    def _tell_started(self) -> None:
        if not self._started:
            self._started = True
            self._tell(
                {"op": "started", "id": self.id, "run": self.number, "pid": self._pid, "ticks": self._ticks}
            )

    def _fail(self, why: str) -> None:
        self._tell({"op": "failed", "id": self.id, "run": self.number, "why": why})

    def _why_not_executed(self, code: int) -> str | None:
        """Why the command was never executed, or None if it was.

        Errors before execve are in the runtime's log and leave no pid file. A failing execve itself happens
        after the runtime let go: its child says so on standard error, in one line, and exits 1 or 255.
        """
        said = self.output.first_error.decode("utf-8", "replace").strip()
        if self._pid:
            if code in (1, 255) and self.output.total == len(self.output.first_error) and "\n" not in said:
                if said.startswith('{"msg":"exec container process'):
                    with contextlib.suppress(ValueError, KeyError, TypeError):
                        return str(json.loads(said)["msg"])
                if said.startswith("exec /"):
                    return said
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
            lines = Path(self._ask["log"]).read_text().strip().splitlines()
            errors = [entry for line in lines if (entry := json.loads(line)).get("level") in ("error", "fatal")]
            return str(errors[-1]["msg"])
        return said or f"the runtime ended with {code} and said nothing"


def _is_reaped(pid: int) -> bool:
    """Reap ``pid`` if it is a dead child of ours; False if it has yet to die. Who else has it, has to reap it."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def write_record(path: str, record: dict[str, Any], *, sync: bool) -> None:
    """Put ``record`` at ``path``, whole or not at all; with ``sync``, on disk."""
    with contextlib.suppress(OSError):  # a full disk: the engine, if there, is told all the same
        with open(f"{path}.new", "w") as file:
            json.dump(record, file)
        os.rename(f"{path}.new", path)
        if sync:
            _sync_file(path)


def _sync_file(path: str) -> None:
    for each in (path, os.path.dirname(path)):
        with contextlib.suppress(OSError):
            fd = os.open(each, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
