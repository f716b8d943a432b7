"""A container's run, seen from the terminal that asked for it.

The order is that of Docker's client, so that nothing is lost: attach, begin to wait, and only then start.
Standard output and error stay apart. Signals go to the container; those that come before it runs are kept
for it. Standard input is read only if it was asked for, and its end is passed on as its end.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import attrs
import trio

from lading.engine.cli.client import CLIENT, Place, get_json, message_of, open_client, post, say_error, target
from lading.engine.cli.transfers import pull_image
from lading.engine.http.message import HttpError
from lading.engine.http.stdcopy import STDOUT, SYSTEM_ERROR, Demultiplexer
from lading.engine.nursery import open_bare_nursery
from lading.events.errors import HostError

if TYPE_CHECKING:
    from lading.engine.http.client import Client, ClientResponse
    from lading.engine.http.exchange import HijackedStream

__all__ = ["PullPolicy", "Run", "copy_raw", "copy_streams", "stream_chunks"]

PullPolicy = Literal["always", "missing", "never"]
"""When a run gets its image from the registry."""

_CHUNK = 1 << 16
_ENGINE_FAILED = 125
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_PATIENCE_OF_USERS = 3
"""After so many interrupts of a container that doesn't even run, the user means us."""


@attrs.define(eq=False)
class Run:
    """One ``lading run``. ``request`` is the body of the creation; ``platform`` goes with it and with a pull.

    ``keys``: what a user types on a terminal to leave the container running. ``made`` hears the container's id as
    soon as there is one.
    """

    place: Place
    name: str | None
    request: dict[str, Any]
    detach: bool
    pull: PullPolicy = "missing"
    platform: str | None = None
    keys: bytes = b"\x10\x11"
    made: Callable[[str], None] = lambda _: None
    _client: Client = attrs.field(init=False)
    _id: str = ""
    _started: bool = False
    _held: list[int] = attrs.field(factory=list)

    async def main(self) -> int:
        """All of it; the exit code. Raises ``HttpError`` or ``HostError`` where there was no start to fail."""
        async with open_client(self.place) as self._client:
            if self.detach:
                await self._create()
                return await self._start_detached()
            async with self._forwarding_signals():
                await self._create()
                return await self._run_attached()

    async def create(self) -> int:
        """Only make the container and print its id. Raises as ``main``."""
        async with open_client(self.place) as self._client:
            await self._create()
        print(self._id, flush=True)
        return 0

    async def _create(self) -> None:
        """With its image, which is pulled if it isn't there, as Docker's client does it."""
        if self.pull == "always":
            await self._pull()
        try:
            answer = await self._ask_for_it()
        except HttpError as error:
            absent = error.status == 404 and error.message.startswith(("No such image", "image with reference"))
            if self.pull != "missing" or not absent:
                raise
            say_error(f"Unable to find image '{self.request['Image']}' locally")
            await self._pull()
            answer = await self._ask_for_it()
        self._id = str(answer["Id"])
        self.made(self._id)
        for warning in answer.get("Warnings") or ():
            say_error(f"warning: {warning}")

    async def _ask_for_it(self) -> dict[str, Any]:
        body = json.dumps(self.request).encode()
        kind = CLIENT | {"Content-Type": "application/json"}
        where = target("containers", "create", name=self.name, platform=self.platform)
        async with await self._client.request("POST", where, headers=kind, body=body) as reply:
            await reply.check()
            answer: dict[str, Any] = await reply.json()
        return answer

    async def _pull(self) -> None:
        """Its progress goes to standard error: standard output is the container's."""
        await pull_image(self._client, self.request["Image"], platform=self.platform, out=sys.stderr)

    async def _start_detached(self) -> int:
        try:
            await post(self._client, "containers", self._id, "start")
        except HttpError as error:
            return await self._explain(error)
        print(self._id, flush=True)
        return 0

    async def _run_attached(self) -> int:
        attach = target("containers", self._id, "attach", stream=1, stdout=1, stderr=1, **self._stdin_query())
        async with self._client.hijack("POST", attach, headers=CLIENT) as stream, open_bare_nursery() as nursery:
            condition = "removed" if self._auto_remove else "next-exit"
            where = target("containers", self._id, "wait", condition=condition)
            waiting = await self._client.request("POST", where, headers=CLIENT)
            await waiting.check()
            try:
                await post(self._client, "containers", self._id, "start")
            except HttpError as error:
                await waiting.aclose()
                return await self._explain(error)
            self._started = True
            for number in self._held:
                await self._send_signal(number)
            if await self._talk(stream):
                await waiting.aclose()
                return 0
            code = await self._outcome(waiting)
            nursery.cancel_scope.cancel()
        return code

    async def _talk(self, stream: HijackedStream) -> bool:
        """Copy both ways, until the container's end (False) or until the user leaves it (True)."""
        from lading.engine.cli.sessions import talk

        async def resize(rows: int, columns: int) -> None:
            await post(self._client, "containers", self._id, "resize", h=rows, w=columns)

        tty, stdin = self.request.get("Tty", False), self.request["AttachStdin"]
        return await talk(stream, tty=tty, stdin=stdin, keys=self.keys, resize=resize)

    def _stdin_query(self) -> dict[str, int]:
        return {"stdin": 1} if self.request["AttachStdin"] else {}

    @property
    def _auto_remove(self) -> bool:
        return bool(self.request["HostConfig"]["AutoRemove"])

    async def _outcome(self, waiting: ClientResponse) -> int:
        answer = await waiting.json()
        error = (answer.get("Error") or {}).get("Message")
        code = answer.get("StatusCode")
        if error or type(code) is not int or not 0 <= code <= 255:
            say_error(error or "nobody saw how the container ended: its exit code is unknown")
            return _ENGINE_FAILED
        return code

    async def _explain(self, error: HttpError) -> int:
        """Tell why it did not start, and find the exit code that says so."""
        say_error(message_of(error))
        code = _code_of(error.message)
        try:
            state = (await get_json(self._client, "containers", self._id, "json"))["State"]
            code = state["ExitCode"] if state["ExitCode"] in (125, 126, 127) else code
        except (HttpError, KeyError) as worse:  # 404: it was to be removed, and the engine has done so
            if not isinstance(worse, HttpError) or worse.status != 404:
                say_error(f"and then: {message_of(worse)}")
        return code

    # -- signals and streams ----------------------------------------------------------------------------

    @asynccontextmanager
    async def _forwarding_signals(self) -> AsyncIterator[None]:
        """Pass signals on to the container while in the block."""
        with trio.open_signal_receiver(*_FORWARDED) as received:
            async with open_bare_nursery() as nursery:
                nursery.start_soon(self._forward, received)
                yield
                nursery.cancel_scope.cancel()

    async def _forward(self, received: AsyncIterator[int]) -> None:
        async for number in received:
            if self._started:
                await self._send_signal(number)
                continue
            self._held.append(number)
            if sum(held in (signal.SIGINT, signal.SIGTERM) for held in self._held) >= _PATIENCE_OF_USERS:
                raise KeyboardInterrupt

    async def _send_signal(self, number: int) -> None:
        try:
            await post(self._client, "containers", self._id, "kill", signal=signal.Signals(number).name)
        except (HttpError, HostError):
            return  # it just ended, or the engine did; waiting for it tells which


def _code_of(message: str) -> int:
    """The exit code for a start that failed, from the words that Docker's clients look for."""
    text = message.lower()
    if any(words in text for words in ("executable file not found", "no such file or directory")):
        return 127
    return 126 if any(words in text for words in ("permission denied", "is a directory")) else _ENGINE_FAILED


async def stream_chunks(stream: HijackedStream) -> AsyncIterator[bytes]:
    """What comes, until it ends or the engine goes."""
    try:
        while data := await stream.receive_some(_CHUNK):
            yield data
    except trio.BrokenResourceError:
        return  # the engine went; whoever waits for the container hears of it


async def copy_raw(source: AsyncIterator[bytes]) -> None:
    """Write what a terminal printed to standard output until it ends."""
    async for data in source:
        await trio.to_thread.run_sync(_write_all, 1, data, abandon_on_cancel=True)


async def copy_streams(source: AsyncIterator[bytes]) -> None:
    """Write a multiplexed stream to standard output and error until it ends.

    Written from a thread: a terminal that is held or a full pipe stops nothing but this. Raises ``Invalid`` for
    what is no such stream, and ``BrokenPipeError`` when nobody reads what we write.
    """
    pieces = Demultiplexer()
    async for data in source:
        # A frame may be as short as a line: what follows another of its stream goes out with it.
        for stream, run in itertools.groupby(pieces.feed(data), lambda piece: piece[0]):
            whole = b"".join(piece for _, piece in run)
            if stream == SYSTEM_ERROR:
                say_error(whole.decode("utf-8", "replace"))
            else:
                descriptor = 1 if stream == STDOUT else 2
                await trio.to_thread.run_sync(_write_all, descriptor, whole, abandon_on_cancel=True)
    pieces.finish()


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
