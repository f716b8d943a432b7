"""The user's own terminal, handed over to a terminal in a container: raw while it lasts, and as it was after.

In raw mode (termios(3), cfmakeraw) every key goes to the other side, which decides what it means: ctrl-c is
three, and the terminal there makes SIGINT of it. The keys that detach are the only ones that are kept back.
"""

from __future__ import annotations

import os
import re
import signal
import termios
import tty
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from lading.engine.http.message import HttpError
from lading.engine.nursery import open_bare_nursery
from lading.events.errors import HostError, Invalid

__all__ = ["DETACH_KEYS", "DetachKeys", "following_size", "is_terminal", "own_size", "parse_keys", "raw_terminal"]

DETACH_KEYS = "ctrl-p,ctrl-q"
"""Docker's."""

_CONTROL = "abcdefghijklmnopqrstuvwxyz[\\]^_"


def parse_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q`` as the bytes that are typed; empty for none. Raises ``Invalid`` (Docker's syntax)."""
    keys = bytearray()
    for word in text.split(",") if text else ():
        if len(word) == 1 and word.isascii():
            keys += word.encode()
        elif re.fullmatch(r"ctrl-.", word) and word[5] in "@" + _CONTROL:
            keys.append(0 if word[5] == "@" else _CONTROL.index(word[5]) + 1)
        else:
            raise Invalid("detach keys", text, "they are single characters or ctrl- and one of a-z @ [ \\ ] ^ _")
    return bytes(keys)


class DetachKeys:
    """Looks for the keys in what is typed. A beginning of them is kept back until it is clear that it is none."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """What of ``typed`` is to be sent on, and whether the keys have come: nothing after them counts."""
        if not self._keys:
            return typed, False
        data, self._held = self._held + typed, b""
        at = data.find(self._keys)
        if at >= 0:
            return data[:at], True
        for length in range(min(len(self._keys) - 1, len(data)), 0, -1):
            if data.endswith(self._keys[:length]):
                self._held = data[-length:]
                return data[:-length], False
        return data, False


def is_terminal() -> bool:
    """Whether standard input is one."""
    return os.isatty(0)


def own_size() -> tuple[int, int]:
    """Rows and columns of the terminal that the user looks at; (0, 0) if there is none."""
    for descriptor in (1, 0, 2):
        try:
            size = os.get_terminal_size(descriptor)
        except OSError:
            continue
        return size.lines, size.columns
    return 0, 0


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Standard input in raw mode for the time of the block; restored however that ends, short of SIGKILL."""
    if not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@asynccontextmanager
async def following_size(resize: Callable[[int, int], Awaitable[object]]) -> AsyncIterator[None]:
    """Tell ``resize`` the rows and columns of the user's terminal, now and whenever they change, in the block."""

    async def tell() -> None:
        rows, columns = own_size()
        if rows and columns:
            try:
                await resize(rows, columns)
            except (HttpError, HostError):
                return  # it is over, or not there yet

    async def follow() -> None:
        async for _ in changes:
            await tell()

    with trio.open_signal_receiver(signal.SIGWINCH) as changes:
        await tell()
        async with open_bare_nursery() as nursery:
            nursery.start_soon(follow)
            yield
            nursery.cancel_scope.cancel()
