"""The keeper: the parent of the containers, so that they and the truth about them outlive the engine.

One small process for each store, single-threaded, with no database. For each run it executes the OCI runtime
once, in the foreground (``crun run``); pumps standard output and error into the container's output file;
feeds standard input; learns from the pid file and from /proc that the command was executed, and from the
runtime's own exit how it ended; and writes the exit record before it tells anybody.

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
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import trio

from lading.engine import wire
from lading.storage.inotify import Watch
from lading.storage.output import CHUNK, append_chunk
from lading.storage.procfs import boot_id, has_executed, set_child_subreaper, start_ticks

__all__ = ["Keeper", "main"]

_ENVIRON = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_DRAIN = 5.0
"""Seconds to wait for the end of output after the container's processes are gone."""
_GRACE = 10.0
"""Seconds in which the engine that started this keeper has to connect."""
_EXECUTED = 2.0
"""Seconds after which a live process counts as executed even though it still looks like the runtime."""


@attrs.define(eq=False)
class _Run:
    """One run of one container."""

    id: str
    run: int
    exit_path: str
    note_path: str
    log_path: str
    stop_signal: int
    stop_timeout: float
    runtime: int
    output_path: str
    stdin: trio.lowlevel.FdStream | None
    output: int = -1
    output_start: int = 0
    pid_known: trio.Event = attrs.field(factory=trio.Event)
    pid: int = 0
    ticks: int = 0
    started: bool = False
    over: trio.Event = attrs.field(factory=trio.Event)
    exit: dict[str, Any] | None = None
    wrote: int = 0
    first_error: bytes = b""
    watched: bool = False


class Keeper:
    """Runs, pumps, reaps and reports. ``serve`` is its whole life."""

    def __init__(self, run_dir: Path) -> None:
        self._dir = run_dir
        self._runs: dict[str, _Run] = {}
        self._send: Callable[[dict[str, Any]], None] | None = None
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
                        await self._feed(stream, message["id"], decoder.rest)
                    else:
                        await self._control(stream, decoder, message)
                    return

    async def _control(self, stream: trio.SocketStream, decoder: wire.Decoder, first: dict[str, Any]) -> None:
        """Serve the engine until its connection ends."""
        send, outbox = trio.open_memory_channel[dict[str, Any]](float("inf"))  # bounded by the number of runs
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, stream, outbox)
            self._send = send.send_nowait
            self._send(
                {"op": "hello", "pid": os.getpid(), "runs": [_describe(run) for run in self._runs.values()]}
            )
            try:
                self._handle(first)
                while data := await stream.receive_some(1 << 16):
                    for message in decoder.feed(data):
                        self._handle(message)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                self._send = None
                nursery.cancel_scope.cancel()
        self._engine_gone()

    async def _write(self, stream: trio.SocketStream, outbox: trio.MemoryReceiveChannel[dict[str, Any]]) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for message in outbox:
                parts = [wire.encode(message)]
                with contextlib.suppress(trio.WouldBlock):
                    while True:
                        parts.append(wire.encode(outbox.receive_nowait()))
                await stream.send_all(b"".join(parts))

    def _engine_gone(self) -> None:
        for run in self._runs.values():
            run.watched = False
            if run.exit is not None:
                _write_record(run.exit_path, run.exit, sync=True)
            elif self._on_exit == "stop":
                self._nursery.start_soon(self._stop, run)
        self._leave_if_idle()

    def _leave_if_idle(self) -> None:
        if self._send is None and all(run.exit is not None for run in self._runs.values()):
            self._scope.cancel()

    def _tell(self, message: dict[str, Any]) -> None:
        if self._send is not None:
            self._send(message)

    def _handle(self, message: dict[str, Any]) -> None:
        match message["op"]:
            case "run":
                self._nursery.start_soon(self._run, message)
            case "forget":
                run = self._runs.get(message["id"])
                if run is not None and run.run == message["run"] and run.exit is not None:
                    del self._runs[run.id]
                    for path in (run.note_path, run.exit_path):
                        with contextlib.suppress(OSError):
                            os.unlink(path)
            case "watch":
                run = self._runs.get(message["id"])
                if run is not None:
                    run.watched = message["on"]
                    if run.watched:  # what came before the request was heard counts, too
                        self._tell({"op": "wrote", "id": run.id})
            case "policy":
                self._on_exit = message["on_exit"]

    async def _feed(self, stream: trio.SocketStream, container: str, data: bytes) -> None:
        """Everything from ``stream`` into the container's standard input; its end ends the input."""
        run = self._runs.get(container)
        if run is None or run.stdin is None:
            return
        try:
            while True:
                if data:
                    await run.stdin.send_all(data)
                data = await stream.receive_some(CHUNK)
                if not data:
                    break
        except trio.BrokenResourceError:
            pass  # the container closed its input
        stdin, run.stdin = run.stdin, None
        await stdin.aclose()

    # -- one run ----------------------------------------------------------------------------------------

    async def _run(self, message: dict[str, Any]) -> None:
        out, err, stdin = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC), None
        theirs = [out[1], err[1]]
        try:
            if message["stdin"]:
                read, write = os.pipe2(os.O_CLOEXEC)
                theirs.append(read)
                stdin = trio.lowlevel.FdStream(write)
            else:
                theirs.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            try:
                runtime = _spawn(message["argv"], theirs[2], theirs[0], theirs[1])
            except OSError as error:
                self._tell(
                    {
                        "op": "failed",
                        "id": message["id"],
                        "run": message["run"],
                        "why": f"the runtime: {error}",
                    }
                )
                return
        finally:
            for fd in theirs:
                os.close(fd)
        run = _Run(
            message["id"],
            message["run"],
            message["exit"],
            message["note"],
            message["log"],
            message["stop_signal"],
            message["stop_timeout"],
            runtime,
            message["output"],
            stdin,
        )
        run.watched = message["watch"]
        self._runs[run.id] = run
        pidfd = os.pidfd_open(runtime)
        try:
            async with trio.open_nursery() as pumps:
                pumps.start_soon(self._pump, run, 1, out[0])
                pumps.start_soon(self._pump, run, 2, err[0])
                pumps.start_soon(self._see_start, run)
                await trio.lowlevel.wait_readable(pidfd)
                code = os.waitstatus_to_exitcode(os.waitpid(runtime, 0)[1])  # noqa: ASYNC222  # a zombie by now
                if code < 0:
                    code = await self._adopt(run, code)
                run.over.set()
                pumps.cancel_scope.deadline = trio.current_time() + _DRAIN
        finally:
            os.close(pidfd)
            if run.output >= 0:
                os.close(run.output)
        if run.stdin is not None:
            await run.stdin.aclose()
        await self._finish(run, code)

    async def _adopt(self, run: _Run, code: int) -> int:
        """The runtime itself was killed: its container is our child now (we are a subreaper). Wait for that."""
        if run.pid == 0 or start_ticks(run.pid) != run.ticks:
            return 128 - code
        pidfd = os.pidfd_open(run.pid)
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(run.pid, 0)[1])  # noqa: ASYNC222  # a zombie by now
        except ChildProcessError:
            return 128 - code
        return status if status >= 0 else 128 - status

    async def _pump(self, run: _Run, stream: int, fd: int) -> None:
        async with trio.lowlevel.FdStream(fd) as pipe:
            while data := await pipe.receive_some(CHUNK):
                if run.wrote == 0 and stream == 2:
                    run.first_error = data[:4096]
                run.wrote += len(data)
                with contextlib.suppress(OSError):  # a full disk loses output, never the container
                    _append(run, stream, data)
                if run.watched:
                    self._tell({"op": "wrote", "id": run.id})

    async def _see_start(self, run: _Run) -> None:
        """Tell that the run started once its command was executed, which the pid file comes just before."""
        with trio.CancelScope() as until_over:

            async def stop_when_over() -> None:
                await run.over.wait()
                until_over.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop_when_over)
                await run.pid_known.wait()
                give_up = trio.current_time() + _EXECUTED
                pause = 0.0005
                while (executed := has_executed(run.pid, run.runtime)) is False:
                    if trio.current_time() > give_up:
                        executed = True
                        break
                    await trio.sleep(pause)
                    pause *= 2
                if executed:
                    self._started(run)
                nursery.cancel_scope.cancel()

    def _started(self, run: _Run) -> None:
        if not run.started:
            run.started = True
            self._tell({"op": "started", "id": run.id, "run": run.run, "pid": run.pid, "ticks": run.ticks})

    async def _finish(self, run: _Run, code: int) -> None:
        if not run.started:
            self._read_pid(run)
            why = _failure(run, code)
            if why is not None:
                with contextlib.suppress(OSError):  # what the runtime said is no output
                    os.truncate(run.output_path, run.output_start)
                del self._runs[run.id]
                self._tell({"op": "failed", "id": run.id, "run": run.run, "why": why})
                self._leave_if_idle()
                return
            self._started(run)
        run.exit = {"run": run.run, "code": code, "at": time.time_ns(), "pid": run.pid, "ticks": run.ticks}
        run.exit["boot"] = boot_id()
        if self._send is None:
            _write_record(run.exit_path, run.exit, sync=True)
        else:
            _write_record(run.note_path, run.exit, sync=False)
        self._tell({"op": "exited", "id": run.id, "run": run.run, "code": code, "at": run.exit["at"]})
        self._leave_if_idle()

    async def _stop(self, run: _Run) -> None:
        with trio.move_on_after(_DRAIN):
            await run.pid_known.wait()
        for number in (run.stop_signal, signal.SIGKILL):
            if run.pid and start_ticks(run.pid) == run.ticks:
                os.kill(run.pid, number)
            with trio.move_on_after(run.stop_timeout if run.stop_timeout >= 0 else float("inf")):
                await run.over.wait()
                return

    # -- pid files --------------------------------------------------------------------------------------

    async def _watch_pid_files(self, watch: Watch, pids: Path) -> None:
        while True:
            await trio.lowlevel.wait_readable(watch.fd)
            for name in watch.read():
                run = self._runs.get(name)
                if run is not None:
                    self._read_pid(run)

    def _read_pid(self, run: _Run) -> None:
        if run.pid:
            return
        path = self._dir / "pids" / run.id
        with contextlib.suppress(FileNotFoundError, ValueError):
            run.pid = int(path.read_bytes())
            run.ticks = start_ticks(run.pid)
            path.unlink()
            run.pid_known.set()


def _spawn(argv: list[str], stdin: int, stdout: int, stderr: int) -> int:
    """Execute ``argv`` in a session of its own with these three descriptors and no others."""
    return os.posix_spawn(
        argv[0],
        argv,
        _ENVIRON,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, stdin, 0),
            (os.POSIX_SPAWN_DUP2, stdout, 1),
            (os.POSIX_SPAWN_DUP2, stderr, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[
            signal.SIGPIPE,
            signal.SIGXFSZ,
            signal.SIGINT,
            signal.SIGTERM,
        ],  # what Python ignores or handles
    )


def _failure(run: _Run, code: int) -> str | None:
    """Why the command was never executed, or None if it was.

    Errors before execve are in the runtime's log and leave no pid file. A failing execve itself happens
    after the runtime let go: its child says so on standard error, in one line, and exits 1 or 255.
    """
    if run.pid:
        said = run.first_error.decode("utf-8", "replace").strip()
        if code in (1, 255) and run.wrote == len(run.first_error) and "\n" not in said:
            if said.startswith('{"msg":"exec container process'):
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    return str(json.loads(said)["msg"])
            if said.startswith("exec /"):
                return said
        return None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        lines = Path(run.log_path).read_text().strip().splitlines()
        errors = [entry for line in lines if (entry := json.loads(line)).get("level") in ("error", "fatal")]
        return str(errors[-1]["msg"])
    said = run.first_error.decode("utf-8", "replace").strip()
    return said or f"the runtime ended with {code} and said nothing"


def _append(run: _Run, stream: int, data: bytes) -> None:
    """Write one chunk of output; the file is made by the first."""
    if run.output < 0:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        run.output = os.open(run.output_path, flags, 0o600)
        run.output_start = os.fstat(run.output).st_size
    append_chunk(run.output, stream, time.time_ns(), data)


def _describe(run: _Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "run": run.run,
        "pid": run.pid if run.started else 0,
        "ticks": run.ticks,
        "exit": run.exit,
    }


def _write_record(path: str, record: dict[str, Any], *, sync: bool) -> None:
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


def main() -> None:
    """``python -m lading.engine.keeper RUN_DIR``: writes one byte to standard output when it listens."""
    run_dir = Path(sys.argv[1])
    lock = os.open(run_dir / "keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # a keeper that is just leaving holds it for a moment
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    set_child_subreaper()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # four descriptors for each container
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def ready() -> None:
        os.write(1, b"+")
        devnull = os.open(os.devnull, os.O_RDWR)
        os.dup2(devnull, 1)
        os.close(devnull)

    trio.run(Keeper(run_dir).serve, ready)


if __name__ == "__main__":
    main()
