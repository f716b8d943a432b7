"""What containers print and are fed, over HTTP: logs and attach.

Source: Docker Engine API v1.47, ContainerLogs and ContainerAttach ("Stream format", "Hijacking").
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import attrs
import trio

from lading.engine.api.request import instant_of, not_supported, stream_type
from lading.engine.api.words import stamp
from lading.engine.containers.output import LogChunk, OutputReader
from lading.engine.containers.supervisor import Supervisor
from lading.engine.containers.waiting import next_run, wait_begun
from lading.engine.core import Core
from lading.engine.engine import Engine
from lading.engine.http.message import RAW_STREAM, HttpError, Request, Send
from lading.engine.http.router import Router
from lading.engine.http.stdcopy import STDERR, frame, frame_lines
from lading.engine.keeper.link import ContainerInput
from lading.engine.nursery import open_bare_nursery
from lading.events.container import Phase
from lading.events.errors import EngineClosed

__all__ = ["add_stream_routes"]

_PENDING: Final = 16
"""Chunks that may wait to be sent: with 64 KiB in each at most a megabyte."""
_AT_ONCE: Final = 1 << 18
"""Bytes after which what waits goes in the next piece."""
_LOST: Final = b"[output is missing here: it was rotated away, found no room on the disk, or is damaged]\n"


def add_stream_routes(router: Router, engine: Engine) -> None:
    """Route logs and attach."""
    streams = _Streams(engine)
    router.add("GET", "/containers/{id}/logs", streams.logs)
    router.add("POST", "/containers/{id}/attach", streams.attach)
    router.add("GET", "/containers/{id}/attach/ws", streams.attach_by_websocket)


class _Streams:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._inputs = _Inputs(engine.core)

    async def logs(self, request: Request) -> None:
        query = request.query
        stdout, stderr = query.flag("stdout"), query.flag("stderr")
        if not stdout and not stderr:
            raise HttpError(400, "Bad parameters: you must choose at least one stream")
        since, until = instant_of(request, "since"), instant_of(request, "until")
        follow, tail = query.flag("follow"), _tail(query.get("tail"))
        container = self._engine.containers.get(request.params["id"])
        if container.state.phase in (Phase.REMOVING, Phase.DEAD):
            raise HttpError(409, "can not get logs from container which is dead or marked for removal")
        left = (until - time.time_ns()) / 1e9 if until else math.inf
        follow = follow and left > 0

        def open_reader() -> OutputReader:
            return container.logs(follow=follow, tail=tail, since=since, until=until, stdout=stdout, stderr=stderr)

        # Finding the last lines may read much: not in the way of everybody else.
        reader = open_reader() if tail is None else await trio.to_thread.run_sync(open_reader)
        tty = self._engine.core.settings(container.id).tty
        kind = RAW_STREAM if tty else stream_type(request)
        with reader:
            async with request.respond(200, {"Content-Type": kind}, endless=follow) as send:
                with trio.move_on_after(max(left, 0) if follow else math.inf):
                    await _pump(reader, _lines_of(tty, query.flag("timestamps")), send)

    async def attach(self, request: Request) -> None:
        query, core = request.query, self._engine.core
        state = self._engine.containers.get(request.params["id"]).state
        if state.phase in (Phase.REMOVING, Phase.DEAD):
            raise HttpError(409, f"container {state.id} is marked for removal and cannot be attached to")
        stream, logs = query.flag("stream"), query.flag("logs")
        streams = frozenset(number for number, name in ((1, "stdout"), (2, "stderr")) if query.flag(name))
        tty = core.settings(state.id).tty
        shape = _raw if tty else _framed
        # Opened before anybody can start the container, so whatever it prints comes after this place.
        with OutputReader(core, state.id, follow=stream, from_now=not logs, streams=streams) as reader:
            async with request.hijack(RAW_STREAM if tty else stream_type(request), endless=True) as client:
                if not stream:
                    if logs:
                        await _pump(reader, shape, client.send_all)
                    return
                try:
                    supervisor = await wait_begun(core, state.id, next_run(state))
                except EngineClosed:
                    return
                if supervisor is not None and supervisor.error is not None:
                    return  # what is in the file is the runtime's, and on its way out
                async with open_bare_nursery() as nursery:
                    if supervisor is not None and query.flag("stdin") and state.spec.open_stdin:
                        # Who leaves a terminal may come back to it: that is no end of its input, as in Docker.
                        once = state.spec.stdin_once and not tty
                        nursery.start_soon(self._feed, supervisor, once, client)
                    await _pump(reader, shape, client.send_all)
                    nursery.cancel_scope.cancel()

    async def attach_by_websocket(self, _request: Request) -> None:
        raise not_supported("attaching over a WebSocket")

    async def _feed(self, supervisor: Supervisor, once: bool, client: trio.abc.ReceiveStream) -> None:
        """What the client sends, to the container; the client's end ends the input of one made to be fed once."""
        try:
            while data := await client.receive_some():
                await self._inputs.send(supervisor, bytes(data))
        except trio.BrokenResourceError:
            return  # one of the two is gone
        finally:
            if once:
                await self._inputs.end(supervisor)


# -- output -------------------------------------------------------------------------------------------------


def _raw(chunk: LogChunk) -> bytes:
    """As a terminal has it."""
    return chunk.data


def _framed(chunk: LogChunk) -> bytes:
    """As it came from the container, in frames that end anywhere."""
    return frame(chunk.stream, chunk.data)


def _lines_of(tty: bool, timestamps: bool) -> Callable[[LogChunk], bytes]:
    """How logs are sent: a frame for each line, for clients that take frames for lines; of a terminal, none.

    A time goes in front of each line, and not of the later pieces of a long one. Where output is missing, a line
    of standard error says so.
    """

    def shape(chunk: LogChunk) -> bytes:
        prefix = f"{stamp(chunk.time)} ".encode() if timestamps else b""
        if tty:
            data = _stamped(chunk.data, prefix, chunk.starts) if timestamps else chunk.data
        else:
            data = frame_lines(chunk.stream, chunk.data, prefix, starts=chunk.starts)
        if chunk.lost:
            data = (prefix + _LOST if tty else frame(STDERR, prefix + _LOST)) + data
        return data

    return shape


def _stamped(data: bytes, prefix: bytes, starts: bool) -> bytes:
    inner = data[:-1].replace(b"\n", b"\n" + prefix) + data[-1:]
    return prefix + inner if starts else inner


def _tail(text: str) -> int | None:
    """``all``, and what is no number, means everything, as in Docker."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


async def _pump(reader: OutputReader, shape: Callable[[LogChunk], bytes], send: Send) -> None:
    """Send everything that ``reader`` gives; what has piled up meanwhile goes in one piece.

    One that reads slowly holds back only its own reader: nothing is kept for it but what is on disk anyway.
    """
    outbox, inbox = trio.open_memory_channel[bytes](_PENDING)

    async def read() -> None:
        async with outbox:
            async for chunk in reader.chunks():
                data = shape(chunk)
                try:
                    outbox.send_nowait(data)
                except trio.WouldBlock:
                    await outbox.send(data)

    async with open_bare_nursery() as nursery:
        nursery.start_soon(read)
        async for data in inbox:
            parts, size = [data], len(data)
            with suppress(trio.WouldBlock, trio.EndOfChannel):
                while size < _AT_ONCE:
                    parts.append(inbox.receive_nowait())
                    size += len(parts[-1])
            await send(b"".join(parts) if len(parts) > 1 else data)


# -- input --------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class _Input:
    """The standard input of one run. ``ended``: it got its end, and takes no more."""

    run: int
    stream: ContainerInput | None = None
    ended: bool = False
    lock: trio.Lock = attrs.field(factory=trio.Lock)


class _Inputs:
    """The standard inputs that somebody has fed, one stream for each run whoever and how many feed it.

    A stream stays open when its feeder leaves, unless the container was made to be fed once, until the run is
    over: what two feeders send at once is not mixed within a piece.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._open: dict[str, _Input] = {}

    async def send(self, supervisor: Supervisor, data: bytes) -> None:
        """``data`` into the run's input. Raises ``trio.BrokenResourceError`` when it takes no more."""
        one = self._of(supervisor)
        async with one.lock:
            if one.stream is None and not one.ended:
                await self._connect(one, supervisor)
            if one.stream is None:
                raise trio.BrokenResourceError
            await one.stream.send_all(data)

    async def end(self, supervisor: Supervisor) -> None:
        """The end of the run's input, even if nothing was sent. Finishes what it began, whatever is cancelled."""
        one = self._of(supervisor)
        with trio.CancelScope(shield=True), suppress(trio.BrokenResourceError):
            if one.stream is None and not one.ended and not supervisor.ended.is_set():
                await self._connect(one, supervisor)
            one.ended = True
            if one.stream is not None:
                stream, one.stream = one.stream, None
                await stream.end()

    def _of(self, supervisor: Supervisor) -> _Input:
        one = self._open.get(supervisor.id)
        if one is None or one.run != supervisor.run_number:
            one = self._open[supervisor.id] = _Input(supervisor.run_number)
            self._core.nursery.start_soon(self._drop, supervisor, one)
        return one

    async def _connect(self, one: _Input, supervisor: Supervisor) -> None:
        try:
            one.stream = await self._core.link.open_stdin(supervisor.id)
        except OSError:
            one.ended = True  # the keeper is gone, and with it the pipe

    async def _drop(self, supervisor: Supervisor, one: _Input) -> None:
        await supervisor.ended.wait()
        if self._open.get(supervisor.id) is one:
            del self._open[supervisor.id]
        one.ended = True
        if one.stream is not None:
            await trio.aclose_forcefully(one.stream)
