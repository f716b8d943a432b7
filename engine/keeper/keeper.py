"""The keeper: the parent of the containers, so that they and the truth about them outlive the engine.

One small process for each store, single-threaded, with no database. For each run it executes the OCI runtime
once, in the foreground (``crun run``); pumps standard output and error into the container's output file;
feeds standard input; learns from the pid file and from /proc that the command was executed, and from the
runtime's own exit how it ended; and writes the exit record before it tells anybody. Commands that are run in a
container later are in ``keeper.exec``.

The exit record is written before anybody is told. While an engine is connected its log makes the exit durable,
and the record is a note in memory (``RUN/exits``) that survives the death of either process in between. When
there is no engine the record goes to the container's directory, synced: it survives a power cut.

The keeper leaves when no engine is connected and no run is alive. If it is killed, the runtime processes go
on without it; the engine finds their containers by (boot id, pid, start ticks).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from lading.engine.keeper import wire
from lading.engine.keeper.exec import Exec
from lading.engine.keeper.fdpass import Descriptors, Sender
from lading.engine.keeper.launch import reap_strays
from lading.engine.keeper.run import Run
from lading.storage.inotify import Watch
from lading.storage.procfs import set_child_subreaper

__all__ = ["Keeper", "main"]

_MOMENT = 0.02

_GRACE = 10.0
"""Seconds in which the engine that started this keeper has to connect."""


class Keeper:
    """Runs, pumps, reaps and reports. ``serve`` is its whole life."""

    def __init__(self, run_dir: Path) -> None:
        self._dir = run_dir
        self._runs: dict[str, Run] = {}
        self._execs: dict[str, Exec] = {}
        self._watched: list[Exec] = []
        self._watching = False
        self._sender: Sender | None = None
        self._on_exit = "leave"
        self._scope = trio.CancelScope()

    async def serve(self, ready: Callable[[], None]) -> None:
        """Listen, call ``ready``, and return when no engine is connected and nothing runs any more."""
        pids = self._dir / "pids"
        path = self._dir / "keeper.sock"
        path.unlink(missing_ok=True)
        listening = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        await listening.bind(os.fspath(path))
        path.chmod(0o600)
        listening.listen(16)
        listener = trio.SocketListener(listening)
        with Watch(os.fspath(pids)) as watch:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._watch_pid_files, watch, pids)
                    nursery.start_soon(functools.partial(trio.serve_listeners, self._connection, [listener]))
                    ready()
                    await trio.sleep(_GRACE)
                    self._leave_if_idle()
            path.unlink(missing_ok=True)

    # -- connections ------------------------------------------------------------------------------------

    async def _connection(self, stream: trio.SocketStream) -> None:
        decoder = wire.Decoder()
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await stream.receive_some(1 << 16):
                for message in decoder.feed(data):
                    if message["op"] == "stdin":
                        run = self._runs.get(message["id"])
                        if run is not None:
                            await run.feed(stream, decoder)
                    else:
                        await self._control(stream, decoder, message)
                    return

    async def _control(self, stream: trio.SocketStream, decoder: wire.Decoder, first: dict[str, Any]) -> None:
        """Serve the engine until its connection ends."""
        brought = Descriptors(stream)
        async with trio.open_nursery() as nursery:
            mine = self._sender = Sender(stream)
            nursery.start_soon(mine.run)
            runs = [run.describe() for run in self._runs.values()]
            execs = [each.describe() for each in self._execs.values()]
            self._tell({"op": "hello", "pid": os.getpid(), "runs": runs, "execs": execs})
            try:
                self._handle(first, brought)
                for message in decoder.feed(b""):
                    self._handle(message, brought)
                while data := await brought.receive():
                    for message in decoder.feed(data):
                        self._handle(message, brought)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                brought.close()
                mine.close()
                nursery.cancel_scope.cancel()
        if self._sender is mine:  # else the next engine came before this one's end was noticed
            self._sender = None
            self._engine_gone()

    def _engine_gone(self) -> None:
        for run in self._runs.values():
            run.output.unwatch()
            if run.exit is not None:
                run.make_durable()
            elif self._on_exit == "stop":
                self._nursery.start_soon(run.stop)
        for each in self._execs.values():
            each.make_durable()
            self._nursery.start_soon(each.drop_output)
        self._leave_if_idle()

    def _leave_if_idle(self) -> None:
        exits = [run.exit for run in self._runs.values()] + [each.exit for each in self._execs.values()]
        if self._sender is None and None not in exits:
            self._scope.cancel()

    def _tell(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        if self._sender is not None:
            self._sender.post(wire.encode(message), [os.dup(fd) for fd in fds])

    def _handle(self, message: dict[str, Any], brought: Descriptors) -> None:
        match message["op"]:
            case "run":
                new = self._runs[message["id"]] = Run(message, self._dir, self._tell)
                self._nursery.start_soon(self._run, new)
            case "exec":
                try:
                    fds = brought.take(message["fds"])
                except OSError as error:
                    why = f"its streams could not be taken: {error}"
                    self._tell({"op": "exec-exited", "id": message["id"], "code": 0, "why": why})
                    return
                each = self._execs[message["id"]] = Exec(message, fds, self._tell)
                self._nursery.start_soon(self._exec, each)
            case "exec-drop" if message["id"] in self._execs:
                self._nursery.start_soon(self._execs[message["id"]].drop_output, message["streams"])
            case "exec-done" if message["id"] in self._execs:
                each = self._execs.pop(message["id"])
                if each.forget():
                    self._nursery.start_soon(each.drop_output)
            case "resize":
                sized = self._runs.get(message["id"]) or self._execs.get(message["id"])
                if sized is not None:
                    sized.resize(message["rows"], message["columns"])
            case "forget":
                run = self._runs.get(message["id"])
                if run is not None and run.number == message["run"] and run.exit is not None:
                    del self._runs[run.id]
                    run.forget()
            case "watch":
                run = self._runs.get(message["id"])
                if run is not None and message["on"]:
                    run.output.watch(message["after"])
                elif run is not None:
                    run.output.unwatch()
            case "policy":
                self._on_exit = message["on_exit"]

    async def _exec(self, each: Exec) -> None:
        self._watched.append(each)
        if not self._watching:
            self._watching = True
            self._nursery.start_soon(self._watch_execs)
        await each.live(lambda: self._sender is not None)
        if each.failed:
            self._nursery.start_soon(reap_strays)
        self._leave_if_idle()

    async def _run(self, run: Run) -> None:
        await run.live(lambda: self._sender is not None)
        if run.exit is None:
            del self._runs[run.id]
            self._nursery.start_soon(reap_strays)
        self._leave_if_idle()

    # -- pid files --------------------------------------------------------------------------------------

    async def _watch_pid_files(self, watch: Watch, pids: Path) -> None:
        while True:
            await trio.lowlevel.wait_readable(watch.fd)
            for name in watch.read():
                run = self._runs.get(name)
                if run is not None:
                    await run.take_pid()

    async def _watch_execs(self) -> None:
        """Tell which execs have begun, now and then: most are over by then, and that is all there is to tell."""
        while self._watched:
            await trio.sleep(_MOMENT)
            for each in list(self._watched):
                if await each.see_pid():
                    self._watched.remove(each)
        self._watching = False


def main() -> None:
    """``python -m lading.engine.keeper RUN_DIR``: goes into the background; writes one byte when it listens."""
    run_dir = Path(sys.argv[1])
    if os.fork():
        os._exit(0)  # whoever started us need not stay to collect our exit status
    os.setsid()
    lock = os.open(run_dir / "keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # a keeper that is just leaving holds it for a moment
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    set_child_subreaper()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # four descriptors for each container
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # what was imported stays
    gc.set_threshold(10_000)

    def ready() -> None:
        os.write(1, b"+")
        devnull = os.open(os.devnull, os.O_RDWR)
        os.dup2(devnull, 1)
        os.close(devnull)

    trio.run(Keeper(run_dir).serve, ready)
