"""A command in a running container (exec), as the keeper has it: the runtime's process, and ends of its streams.

The engine makes the pipes, and sends along with the request the ends that the command gets *and* copies of those
that it reads itself. So no byte of an exec passes through the keeper: a slow reader stalls only its own exec, by
the pipe's own back-pressure, and nothing can be lost between the start and the first read. The copies are for the
case that the reader goes, the engine with it or not: then the keeper reads them, and drops what comes, so that the
command neither stops nor gets SIGPIPE. A terminal's master goes the other way: the runtime sends it to the
keeper, which keeps it and sends the engine a copy.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from lading.engine.keeper.launch import check_room, launch, wait_orphan, wait_runtime, with_room
from lading.engine.keeper.run import write_record
from lading.engine.keeper.terminal import Console
from lading.storage.procfs import start_ticks

__all__ = ["Exec"]

Tell = Callable[[dict[str, Any], tuple[int, ...]], None]
"""Sends a message and copies of descriptors to the engine, if there is one."""

_CHUNK = 1 << 16


class Exec:
    """What message ``exec`` (``wire``) asks for. ``live`` is its whole life; ``exit`` is set at its end.

    ``fds`` are this one's now: what the command gets of standard input, output and error, as ``ask["streams"]``
    has letters of ``ioe`` (each of the latter two followed by the end to be read).
    """

    def __init__(self, ask: dict[str, Any], fds: list[int], tell: Tell) -> None:
        self.id: str = ask["id"]
        self.exit: dict[str, Any] | None = None
        self._ask = ask
        self._tell = tell
        self._pid_file = Path(ask["pid"])
        self._pid = self._ticks = 0
        self._executed = False
        self._stdio: dict[int, int] = {}
        self._rests: dict[str, int] = {}
        self._console: Console | None = None
        for letter in ask["streams"]:
            self._stdio["ioe".index(letter)] = fds.pop(0)
            if letter != "i":
                self._rests[letter] = fds.pop(0)
        self._dropping = False

    @property
    def failed(self) -> bool:
        """Whether the runtime failed, or was killed, so that it may have left something of its own behind."""
        return self.exit is not None and (bool(self.exit["why"]) or self.exit["code"] > 128)

    def describe(self) -> dict[str, Any]:
        """The exec in message ``hello``."""
        return {"id": self.id, "pid": self._pid, "ticks": self._ticks, "exit": self.exit}

    async def live(self, has_engine: Callable[[], bool]) -> None:
        """Launch, reap, and tell."""
        tty = self._ask["tty"]
        runtime, code, why = 0, 0, ""
        try:
            if tty:
                self._console = Console(tty["path"], (tty["rows"], tty["columns"]))
            devnull = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            try:
                check_room([devnull, *self._stdio.values()])
                runtime, pidfd = launch(
                    self._ask["argv"], [self._stdio.get(number, devnull) for number in range(3)]
                )
            finally:
                os.close(devnull)
        except OSError as error:  # no such runtime, or out of descriptors or processes
            why = f"the runtime can't be executed: {error}"
        finally:
            for fd in self._stdio.values():
                os.close(fd)
            self._stdio.clear()
        if runtime:
            try:
                code = await self._reap(runtime, pidfd)
            finally:
                os.close(pidfd)
            why = self._why_not_executed(code)
        elif self._console is not None:
            self._console.close()
        self.exit = {"code": code, "why": why, "at": time.time_ns(), "pid": self._pid}
        self._clear()
        if not has_engine():
            self.make_durable()
        self._tell({"op": "exec-exited", "id": self.id, "code": code, "why": why}, ())

    async def _reap(self, runtime: int, pidfd: int) -> int:
        if self._console is None:
            code = await wait_runtime(runtime, pidfd)
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._take_console, self._console)
                code = await wait_runtime(runtime, pidfd)
                self._console.give_up()
        if code < 0 or (code == 0 and self._ask["detaches"]):
            await self._take_pid()
            self._executed = self._pid != 0
            status = await wait_orphan(self._pid, self._ticks)
            return status if status is not None else 128 - code
        self._executed = code == 0 or self._pid != 0 or self._pid_file.exists()
        return code

    async def _take_console(self, console: Console) -> None:
        await console.receive()
        if console.master >= 0:
            await with_room(partial(self._tell, {"op": "exec-tty", "id": self.id, "fds": 1}, (console.master,)))
            self._tell_started()

    async def see_pid(self) -> bool:
        """Take its pid, once it has one, and tell; whether there is nothing more to see."""
        if self.exit is None:
            await self._take_pid()
        if self.exit is None:
            self._tell_started()
        return self._pid != 0 or self.exit is not None

    async def _take_pid(self) -> None:
        if not self._pid:
            with contextlib.suppress(FileNotFoundError, ValueError):
                pid = int(await with_room(self._pid_file.read_bytes))
                self._ticks = await with_room(partial(start_ticks, pid))
                self._pid = pid
                self._pid_file.unlink(missing_ok=True)

    def _tell_started(self) -> None:
        """Once its pid is known and, with a terminal, the engine has that."""
        if self._pid and (self._console is None or self._console.master >= 0):
            self._tell({"op": "exec-started", "id": self.id, "pid": self._pid, "ticks": self._ticks}, ())

    def _why_not_executed(self, code: int) -> str:
        """The runtime's words if the command was never executed, or empty. Only these codes can mean that."""
        if self._executed and code not in (1, 126, 127, 255):
            return ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
            lines = Path(self._ask["log"]).read_text().strip().splitlines()
            errors = [entry for line in lines if (entry := json.loads(line)).get("level") in ("error", "fatal")]
            return str(errors[-1]["msg"])
        return "" if self._executed else f"the runtime ended with {code} and said nothing"

    def _clear(self) -> None:
        for path in (self._ask["process"], self._ask["log"], self._pid_file):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def make_durable(self) -> None:
        """Note the exit, for the next engine: this process may leave before that comes."""
        if self.exit is not None:
            write_record(self._ask["note"], self.exit, sync=False)

    def resize(self, rows: int, columns: int) -> None:
        """Give its terminal, if it has one, this size."""
        if self._console is not None:
            self._console.resize(rows, columns)

    # -- what nobody reads ----------------------------------------------------------------------------------

    async def drop_output(self, letters: str = "oe") -> None:
        """Nobody reads what it prints on these streams: do, until no process can print there any more."""
        if self._console is not None and not self._dropping:
            self._dropping = True
            await self._console.ready.wait()
            if self._console.master >= 0:
                self._rests["o"] = await with_room(partial(os.dup, self._console.master))
        async with trio.open_nursery() as nursery:
            for letter in letters:
                if letter in self._rests:
                    nursery.start_soon(_drop, self._rests.pop(letter))

    def forget(self) -> bool:
        """It is over, in the log, and read as far as somebody wanted; True if something may still print there."""
        with contextlib.suppress(OSError):
            os.unlink(self._ask["note"])
        if self._console is not None:
            self._console.close()
        if self._rests:
            poll = select.poll()
            for fd in self._rests.values():
                poll.register(fd, 0)
            ended = {fd for fd, events in poll.poll(0) if events & select.POLLHUP}
            for fd in ended:
                os.close(fd)
            self._rests = {letter: fd for letter, fd in self._rests.items() if fd not in ended}
        return bool(self._rests)


async def _drop(fd: int) -> None:
    try:
        while True:
            try:
                if not os.read(fd, _CHUNK):
                    return
            except BlockingIOError:
                await trio.lowlevel.wait_readable(fd)
            except OSError:  # EIO: a terminal that nobody has open
                return
            else:
                await trio.lowlevel.checkpoint()
    finally:
        os.close(fd)
