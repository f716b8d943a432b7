"""The engine's end of the connection to its keeper. What of it concerns execs is in ``keeper.execlink``.

The link finds the keeper that is there, or starts one; it notices when the keeper is gone and says so to
every run that the keeper had. It decides nothing: outcomes are for the supervisors to record.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import trio

from lading.engine.keeper import wire
from lading.engine.keeper.execlink import ExecLink
from lading.engine.keeper.fdpass import Descriptors, Sender, close_all
from lading.engine.nursery import open_bare_nursery, open_service_nursery
from lading.events.errors import HostError
from lading.storage.output import CHUNK
from lading.storage.store import Paths

__all__ = ["ContainerInput", "KeptRun", "Link", "open_link"]

_MOMENT = 0.05
_PATIENCE = 10.0
"""Seconds that a new keeper has to come up."""


@attrs.define(eq=False)
class KeptRun:
    """One run as the keeper tells of it.

    ``begun`` is set when it started, failed or was lost; ``ended`` when it exited, failed or was lost.
    ``pid`` and ``ticks`` are set by a start; ``failed`` says why there was none; ``code`` and ``at`` are the
    exit, ``oom`` that something in it was killed for want of memory. ``lost``: the keeper is gone and what
    became of the run has to be found out.
    """

    id: str
    run: int
    begun: trio.Event = attrs.field(factory=trio.Event)
    ended: trio.Event = attrs.field(factory=trio.Event)
    pid: int = 0
    ticks: int = 0
    failed: str | None = None
    code: int | None = None
    at: int = 0
    oom: bool = False
    lost: bool = False


class Link:
    """Runs things in the keeper. Use ``open_link``."""

    def __init__(self, paths: Paths, on_exit: str, nursery: trio.Nursery) -> None:
        self._paths = paths
        self._nursery = nursery
        self._on_exit = on_exit
        self._runs: dict[str, KeptRun] = {}
        self._stream: trio.SocketStream | None = None
        self._sender: Sender | None = None
        self._connecting = trio.Lock()
        self._output: dict[str, trio.Event] = {}
        self._watchers: dict[str, int] = {}
        self._asked: set[str] = set()  # those of which the keeper will tell, once
        self.keeper_pid: int = 0
        self.execs: ExecLink = ExecLink(self._post, self._post_later)
        self._later: list[dict[str, Any]] = []

    async def connect(self, *, start: bool = True) -> dict[str, KeptRun]:
        """Be connected; returns what the keeper had when it was found. Without ``start``, only look for one.

        Raises ``HostError`` if a keeper can't be started.
        """
        async with self._connecting:
            if self._stream is not None:
                return dict(self._runs)
            deadline = trio.current_time() + _PATIENCE
            while True:
                if await self._try_connect():
                    return dict(self._runs)
                if not start:
                    return {}
                if trio.current_time() > deadline:
                    raise HostError(
                        "reach the keeper at",
                        os.fspath(self._paths.keeper_socket),
                        0,
                        f"see {self._paths.root}/keeper.err for why it does not stay up",
                    )
                await self._spawn()

    async def run(self, message: dict[str, Any]) -> KeptRun:
        """Have the keeper run this (``wire``, op ``run``)."""
        if self._sender is None:
            await self.connect()
        kept = KeptRun(message["id"], message["run"])
        self._runs[kept.id] = kept
        watch = kept.id in self._watchers
        (self._asked.add if watch else self._asked.discard)(kept.id)
        self._post({"op": "run", "watch": watch, **message})
        return kept

    @property
    def connected(self) -> bool:
        """Whether there is a keeper to post to."""
        return self._sender is not None

    def resize(self, container: str, rows: int, columns: int) -> None:
        """Give the container's terminal this size; nothing happens if it has none."""
        self._post({"op": "resize", "id": container, "rows": rows, "columns": columns})

    def forget(self, kept: KeptRun) -> None:
        """The exit is in the log: the keeper needs to remember it no longer."""
        if self._runs.get(kept.id) is kept:
            del self._runs[kept.id]
            self._post({"op": "forget", "id": kept.id, "run": kept.run})

    async def wait_output(self, container: str, seen: trio.Event, after: int) -> None:
        """Return when the container printed since ``output_mark`` gave ``seen``, or its run ended.

        ``after``: how much of its output was read (``OutputCursor.position``). What was printed since then, and
        before the keeper hears of this, counts, too.
        """
        self._watchers[container] = self._watchers.get(container, 0) + 1
        try:
            if container not in self._asked:
                self._asked.add(container)
                self._post({"op": "watch", "id": container, "on": True, "after": after})
            await seen.wait()
        finally:
            self._watchers[container] -= 1
            if not self._watchers[container]:
                del self._watchers[container]

    def output_mark(self, container: str) -> trio.Event:
        """The event that the container's next output, or the end of its run, sets."""
        return self._output.setdefault(container, trio.Event())

    async def open_stdin(self, container: str) -> ContainerInput:
        """The container's standard input. Raises ``OSError`` if there is no keeper."""
        stream = await _dial(self._paths.keeper_socket)
        await stream.send_all(wire.encode({"op": "stdin", "id": container}))
        return ContainerInput(stream)

    # -- the connection ---------------------------------------------------------------------------------

    def _post(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send ``message`` with ``fds``, which are the link's to close from now on."""
        if self._sender is not None:
            self._sender.post(wire.encode(message), fds)
        else:
            close_all(fds)

    def _post_later(self, message: dict[str, Any]) -> None:
        """Send ``message`` a moment later, with others of its kind: nobody waits for what it does."""
        if self._sender is None:  # hung up, or the keeper is gone: there is nobody to tell, and no task to begin
            return
        if not self._later:
            self._nursery.start_soon(self._send_later)
        self._later.append(message)

    async def _send_later(self) -> None:
        await trio.sleep(_MOMENT)
        self._flush()

    def _flush(self) -> None:
        later, self._later = self._later, []
        for message in later:
            self._post(message)

    async def _try_connect(self) -> bool:
        try:
            stream = await _dial(self._paths.keeper_socket)
        except OSError:
            return False
        decoder = wire.Decoder()
        brought = Descriptors(stream)
        try:
            await stream.send_all(wire.encode({"op": "policy", "on_exit": self._on_exit}))
            while True:
                data = await brought.receive()
                if not data:
                    await stream.aclose()
                    return False
                messages = list(decoder.feed(data))
                if messages:
                    break
        except trio.BrokenResourceError:
            await stream.aclose()
            return False
        hello = messages.pop(0)
        self.keeper_pid = hello["pid"]
        for run in hello["runs"]:
            kept = self._runs[run["id"]] = KeptRun(run["id"], run["run"])
            if run["pid"]:
                kept.pid, kept.ticks = run["pid"], run["ticks"]
                kept.begun.set()
            if run["exit"] is not None:
                kept.code, kept.at = run["exit"]["code"], run["exit"]["at"]
                kept.oom = run["exit"].get("oom", False)
                kept.ended.set()
        self.execs.found(hello["execs"])
        self._stream = stream
        self._sender = sender = Sender(stream)
        self._nursery.start_soon(self._read, stream, sender, decoder, brought)
        for message in messages:
            self._handle(message, brought)
        return True

    async def _spawn(self) -> None:
        """Start a keeper, as a child of nobody in particular, and wait until it listens."""
        with open(self._paths.root / "keeper.err", "ab") as errors:
            process = subprocess.Popen(  # noqa: ASYNC220  # trio's would end it with us; this one outlives us
                [sys.executable, "-m", "lading.engine.keeper", os.fspath(self._paths.run)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd="/",
                start_new_session=True,
            )
        assert process.stdout is not None
        async with trio.lowlevel.FdStream(os.dup(process.stdout.fileno())) as ready:
            process.stdout.close()
            with trio.move_on_after(_PATIENCE):
                await ready.receive_some(1)
        process.wait()  # it has forked the keeper, which is no child of ours, and is gone

    async def _read(
        self, stream: trio.SocketStream, sender: Sender, decoder: wire.Decoder, brought: Descriptors
    ) -> None:
        try:
            async with open_bare_nursery() as nursery:
                nursery.start_soon(sender.run)
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    while data := await brought.receive():
                        for message in decoder.feed(data):
                            self._handle(message, brought)
                nursery.cancel_scope.cancel()
        finally:
            brought.close()
            sender.close()
        await trio.aclose_forcefully(stream)
        self._lost()

    def _lost(self) -> None:
        self._stream = self._sender = None
        self.keeper_pid = 0
        self._asked.clear()
        runs, self._runs = self._runs, {}
        for kept in runs.values():
            kept.lost = True
            self._end(kept)
        self.execs.lost()

    def _end(self, kept: KeptRun) -> None:
        kept.begun.set()
        kept.ended.set()
        self.wake(kept.id)

    def wake(self, container: str) -> None:
        """Set the event that ``output_mark`` gave: there is output, or the end of it."""
        self._asked.discard(container)
        mark = self._output.pop(container, None)
        if mark is not None:
            mark.set()

    def _handle(self, message: dict[str, Any], brought: Descriptors) -> None:
        if message["op"].startswith("exec-"):
            with suppress(OSError):  # a terminal found no room here: who waits for it sees that it isn't there
                self.execs.handle(message, brought.take(message.get("fds", 0)))
            return
        kept = self._runs.get(message["id"])
        if kept is None or kept.run != message.get("run", kept.run):
            return
        match message["op"]:
            case "started":
                kept.pid, kept.ticks = message["pid"], message["ticks"]
                kept.begun.set()
            case "failed":
                del self._runs[kept.id]
                kept.failed = message["why"]
                self._end(kept)
            case "exited":
                kept.code, kept.at, kept.oom = message["code"], message["at"], message.get("oom", False)
                self._end(kept)
            case "wrote":
                self.wake(kept.id)

    async def _leave(self) -> None:
        """Hang up. A keeper with nothing to keep goes away; wait until it has."""
        if self._stream is None:
            return
        pid, idle = self.keeper_pid, all(kept.ended.is_set() for kept in self._runs.values())
        self._flush()
        sender, self._sender = self._sender, None
        if sender is not None:
            with trio.move_on_after(_PATIENCE):
                await sender.drain()
            sender.close()
        await self._stream.aclose()
        if idle and pid:
            with trio.move_on_after(_PATIENCE):
                await _wait_gone(pid)


class ContainerInput(trio.abc.AsyncResource):
    """A container's standard input. Closing it leaves the input open; only ``end`` ends it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes) -> None:
        """Send ``data``, as fast as the container takes it. ``trio.BrokenResourceError`` if it takes no more."""
        for at in range(0, len(data), CHUNK):
            await self._stream.send_all(wire.encode({"op": "data", "data": data[at : at + CHUNK]}))

    async def end(self) -> None:
        """End the input after what was sent, and close."""
        async with self._stream:
            await self._stream.send_all(wire.encode({"op": "end"}))

    async def aclose(self) -> None:
        """Hang up."""
        await self._stream.aclose()


@asynccontextmanager
async def open_link(paths: Paths, on_exit: str) -> AsyncIterator[Link]:
    """A link for the store at ``paths``; not connected yet. Leaving hangs up and leaves the runs to the keeper."""
    async with open_service_nursery() as nursery:
        link = Link(paths, on_exit, nursery)
        try:
            yield link
        finally:
            with trio.CancelScope(shield=True):
                await link._leave()


async def _dial(path: Path) -> trio.SocketStream:
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await sock.connect(os.fspath(path))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


async def _wait_gone(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)
