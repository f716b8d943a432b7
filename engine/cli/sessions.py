"""What goes back and forth between this terminal and a hijacked connection: output out, input in, the size along.

With a terminal on the other side everything is raw; without one, standard output and error stay apart.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import trio

from lading.engine.cli.attach import copy_raw, copy_streams, stream_chunks
from lading.engine.cli.client import CLIENT, get_json, message_of, post, say_error, target
from lading.engine.cli.terminal import DetachKeys, following_size, is_terminal, own_size, raw_terminal
from lading.engine.nursery import open_bare_nursery
from lading.events.errors import HostError

if TYPE_CHECKING:
    from lading.engine.http.client import Client
    from lading.engine.http.exchange import HijackedStream

__all__ = ["run_attach", "run_exec", "talk"]

_CHUNK = 1 << 16
_UNKNOWN = 255


async def run_exec(client: Client, container: str, request: dict[str, Any], *, detach: bool, keys: bytes) -> int:
    """Create, start and follow an exec; its exit code, 0 if it was left. Raises ``HttpError``."""
    tty = request["Tty"]
    size = list(own_size()) if tty else None
    if tty and request["AttachStdin"]:
        _demand_terminal()
    kind = CLIENT | {"Content-Type": "application/json"}
    body = json.dumps(request).encode()
    where = target("containers", container, "exec")
    async with await client.request("POST", where, headers=kind, body=body) as reply:
        await reply.check()
        exec_id = (await reply.json())["Id"]
    start = {"Detach": detach, "Tty": tty} | ({"ConsoleSize": size} if size and any(size) else {})
    where, body = target("exec", exec_id, "start"), json.dumps(start).encode()
    if detach:
        async with await client.request("POST", where, headers=kind, body=body) as reply:
            await reply.check()
        return 0

    async def resize(rows: int, columns: int) -> None:
        await post(client, "exec", exec_id, "resize", h=rows, w=columns)

    async with client.hijack("POST", where, headers=kind, body=body) as stream:
        left = await talk(stream, tty=tty, stdin=request["AttachStdin"], keys=keys, resize=resize)
    if left:
        return 0
    code = (await get_json(client, "exec", exec_id, "json"))["ExitCode"]
    if code is None:
        say_error("the connection to the command was lost, and it goes on")
    return _UNKNOWN if code is None else int(code)


async def run_attach(client: Client, container: str, *, stdin: bool, keys: bytes) -> int:
    """Follow a container that runs; its exit code, 0 if it was left. Raises ``HttpError``."""
    shown = await get_json(client, "containers", container, "json")
    config, identifier = shown["Config"], shown["Id"]
    if not shown["State"]["Running"]:
        say_error("cannot attach to a stopped container: start it first")
        return 1
    stdin, tty = stdin and config["OpenStdin"], config["Tty"]
    if stdin and tty:
        _demand_terminal()

    async def resize(rows: int, columns: int) -> None:
        await post(client, "containers", identifier, "resize", h=rows, w=columns)

    asked = {"stream": 1, "stdout": 1, "stderr": 1} | ({"stdin": 1} if stdin else {})
    waiting = await client.request("POST", target("containers", identifier, "wait"), headers=CLIENT)
    await waiting.check()
    async with client.hijack(
        "POST", target("containers", identifier, "attach", **asked), headers=CLIENT
    ) as stream:
        rows, columns = own_size()
        if tty and rows and columns:
            await resize(rows + 1, columns + 1)  # so that the program notices, and shows again what it has shown
        if await talk(stream, tty=tty, stdin=stdin, keys=keys, resize=resize):
            await waiting.aclose()
            return 0
    answer = await waiting.json()
    code: int = answer["StatusCode"]
    return code


async def talk(
    stream: HijackedStream,
    *,
    tty: bool,
    stdin: bool,
    keys: bytes,
    resize: Callable[[int, int], Awaitable[object]],
) -> bool:
    """Copy both ways until the other side ends (False) or the user types ``keys`` (True).

    With ``tty`` the user's own terminal, if standard input is one, is raw meanwhile, and its size is passed on to
    ``resize``.
    """
    left = False
    over = trio.Event()

    async def copy_input() -> None:
        nonlocal left
        if await _copy_input(stream, DetachKeys(keys if tty else b"")):
            left = True
            over.set()

    async def copy_output() -> None:
        await (copy_raw if tty else copy_streams)(stream_chunks(stream))
        over.set()

    async with open_bare_nursery() as nursery:
        nursery.start_soon(copy_output)
        with raw_terminal() if stdin and tty else nullcontext():
            if stdin:
                nursery.start_soon(copy_input)
            if tty:
                async with following_size(resize):
                    await over.wait()
            else:
                await over.wait()
        nursery.cancel_scope.cancel()
    return left


async def _copy_input(stream: HijackedStream, keys: DetachKeys) -> bool:
    """Standard input to the other side; True if the user typed the keys. Its end is passed on as an end."""
    try:
        while data := await trio.to_thread.run_sync(os.read, 0, _CHUNK, abandon_on_cancel=True):
            data, left = keys.feed(data)
            if data:
                await stream.send_all(data)
            if left:
                return True
        await stream.send_eof()
    except trio.BrokenResourceError:
        return False  # nobody reads it any more
    except OSError as error:
        say_error(f"standard input can't be read: {message_of(error)}")
        await stream.send_eof()
    return False


def _demand_terminal() -> None:
    if not is_terminal():
        raise HostError("use a terminal:", "", 0, "standard input is none; leave out -t, or -i")
