"""The messages between the engine and its keeper: msgpack maps, each after its length as a big-endian u32.

Engine to keeper::

    {op: "run", id, run, argv, log, output, exit, note, stdin, stop_signal, stop_timeout, watch, tty?, cgroup,
     leaves, log_size, log_files}     bytes of a file of output, and how many (0: one, of any size)
    {op: "forget", id, run}       the exit is in the log: drop the run
    {op: "watch", id, on, after}  tell once, as soon as there is more output than so many bytes; or don't
    {op: "policy", on_exit}       "leave" or "stop" the containers when the engine goes
    {op: "resize", id, rows, columns}                     the terminal of a run or an exec
    {op: "exec", id, argv, process, log, pid, note, streams, fds, tty, detaches}    see ``keeper.exec``
    {op: "exec-drop", id, streams}          nobody reads these of its output (letters of "oe") any more
    {op: "exec-done", id}         its exit is in the log, and nobody reads any more: drop it

Keeper to engine::

    {op: "hello", pid, runs: [{id, run, pid, ticks, exit?}], execs: [{id, pid, ticks, exit?}]}     once, first
    {op: "started", id, run, pid, ticks}
    {op: "failed", id, run, why}
    {op: "exited", id, run, code, at, oom}
    {op: "wrote", id}
    {op: "exec-tty", id, fds}     with its terminal's master
    {op: "exec-started", id, pid, ticks}
    {op: "exec-exited", id, code, why}        why: the runtime's words if the command was never executed

``tty`` is null, or {path, rows, columns, detaches}: where the runtime sends the terminal's master, the size that
it gets (0, 0: none), and whether the runtime leaves once it has started the command. ``fds``: how many descriptors
come with the message (``fdpass``).

``cgroup`` is where it may be seen that something was killed for want of memory (``oom``), and what there still is
when the container's first process has ended; that is killed, too. Empty: nobody looks. With ``leaves`` the runtime
leaves once the command runs, so that the cgroup stays, and the keeper waits for that first process itself.

A connection whose first message is ``{op: "stdin", id}`` feeds that container's standard input, with the pipe's
own back-pressure: ``{op: "data", data}`` as often as wanted, and ``{op: "end"}``. That it is closed means nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgpack

from lading.events.errors import HostError

__all__ = ["Decoder", "encode"]

_LENGTH = struct.Struct(">I")
_MOST = 16 << 20


def encode(message: dict[str, Any]) -> bytes:
    """``message`` as it goes over the socket."""
    body: bytes = msgpack.packb(message)
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Bytes in, messages out; keeps at most one unfinished message."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The messages that ``data`` completes. ``HostError`` if it can't be a message."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > _MOST:
                raise HostError("read from the keeper", "", 0, f"a message of {length} bytes is not one of ours")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            message = msgpack.unpackb(bytes(self._buffer[_LENGTH.size : end]))
            del self._buffer[:end]
            yield message
