"""The process in which archives that nobody trusts are taken apart: started by the engine, one job at a time.

It has an empty environment, a network namespace of its own with nothing in it, few capabilities, low limits on
memory, file size and descriptors, and no descriptors but those that it is given. It ends when its parent does: one
thread waits for the end of a pipe whose other end only the parent has (PDEATHSIG would go with a thread).

Messages are a length (4 bytes, big endian) and a msgpack map. A request has the ``job``'s name, its arguments
and, as SCM_RIGHTS, its descriptors, which the job closes or leaves to the end of the job. What comes back is any
number of ``{"read": bytes}`` and one ``{"done": result}`` or ``{"failed": error}``; after an error the process
ends. A job is a line in :data:`JOBS`.

Run as ``worker.main(socket, lifeline)`` by the command that :func:`command` gives. It is started often, so it
imports little: neither trio nor the event classes.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final

import attrs
import msgpack

from lading.events import errors
from lading.events.errors import HostError, ImageInvalid, LadingError
from lading.storage.confinement import confine, write_only_beneath
from lading.storage.decode import PIECE
from lading.storage.heap import share_arena
from lading.storage.plan import Limits
from lading.storage.room import Room
from lading.storage.unpack import Borrowed, Unpacked, unpack

__all__ = [
    "JOBS",
    "MEMORY",
    "FdSource",
    "Talk",
    "command",
    "decode_error",
    "decode_unpacked",
    "encode_error",
    "encode_unpacked",
    "main",
    "pack_message",
    "unpack_job",
]

JOBS: dict[str, str] = {
    "archive": "lading.storage.archivejob:archive_job",
    "extract": "lading.storage.extractjob:extract_job",
    "unpack": "lading.storage.worker:unpack_job",
}
"""Where each job's function is: ``(arguments, descriptors, talk) -> result``, called in the worker."""

MEMORY: Final = 1 << 30
"""Bytes of address space for a worker. What it uses is a tenth of that, but for a zstd window."""

_FILES: Final = 256
_PROGRESS: Final = 0.1
_LENGTH: Final = struct.Struct(">I")
_MOST_FDS: Final = 16
_STACK: Final = 512 * 1024

Job = Callable[[Mapping[str, Any], list[int], "Talk"], Mapping[str, Any]]

# The worker is started with nothing but its own import path, and lading.events as an empty package: its __init__
# imports every event class, which would double the time.
_START: Final = (
    "import sys,types,importlib.machinery as m;"
    "sys.path[:0]=sys.argv[4:];"
    "s=m.PathFinder.find_spec('lading.events',m.PathFinder.find_spec('lading').submodule_search_locations);"
    "p=types.ModuleType('lading.events');p.__path__=s.submodule_search_locations;sys.modules['lading.events']=p;"
    "from lading.storage.worker import main;"
    "main(int(sys.argv[1]),int(sys.argv[2]),sys.argv[3])"
)


def command(requests: int, lifeline: int, within: str = "") -> list[str]:
    """The command that starts a worker with these descriptors: a socket, and a pipe's end that only ever ends.

    ``within``: the absolute path of the directory beneath which all its jobs write; empty: it isn't known.
    """
    path = [entry for entry in sys.path if entry.startswith("/")]
    return [sys.executable, "-I", "-S", "-B", "-c", _START, str(requests), str(lifeline), within, *path]


class Talk:
    """The worker's end of the conversation, for a job to say how far it is."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._next = 0.0

    def progress(self, read: int) -> None:
        """``read`` bytes have been read. Said now and then only, so call it often. Ends the process if nobody
        listens any more."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _PROGRESS
            self.say({"read": read})

    def say(self, message: Mapping[str, Any]) -> None:
        """Send one message."""
        try:
            self._connection.sendall(pack_message(message))
        except OSError:
            os._exit(1)

    def hear(self) -> tuple[Mapping[str, Any], list[int]] | None:
        """The next request and its descriptors; None when there will be none."""
        data, fds, _flags, _address = socket.recv_fds(self._connection, 1 << 16, _MOST_FDS)
        while data and (len(data) < _LENGTH.size or len(data) < _LENGTH.size + _LENGTH.unpack_from(data)[0]):
            more = self._connection.recv(1 << 16)
            if not more:
                return None
            data += more
        return (msgpack.unpackb(data[_LENGTH.size :]), list(fds)) if data else None


def pack_message(message: Mapping[str, Any]) -> bytes:
    """``message`` as it is sent."""
    body: bytes = msgpack.packb(message)
    return _LENGTH.pack(len(body)) + body


class FdSource:
    """Reads a descriptor, blocking or not, and counts what it read."""

    def __init__(self, fd: int) -> None:
        self.count: int = 0
        self._fd = fd
        # What comes is copied out of it: pieces made as long as they might be and then cut to what came, which
        # is little from a pipe, leave holes in the heap that none fits into.
        self._buffer = memoryview(bytearray(PIECE))

    def read(self, n: int, /) -> bytes:
        """1 to ``n`` bytes, at most ``PIECE``, or none at the end."""
        while True:
            try:
                got = os.readv(self._fd, (self._buffer[:n],))
            except BlockingIOError:
                waiting = select.poll()
                waiting.register(self._fd, select.POLLIN)
                waiting.poll()
            else:
                self.count += got
                return bytes(self._buffer[:got])


class _FdTee:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._room = Room(fd)

    def write(self, data: bytes, /) -> None:
        self._room.take(len(data))
        written = os.write(self._fd, data)
        while written < len(data):
            written += os.write(self._fd, memoryview(data)[written:])


def unpack_job(arguments: Mapping[str, Any], fds: list[int], talk: Talk) -> Mapping[str, Any]:
    """``unpack`` of ``fds[0]`` into the directory ``fds[1]``.

    ``arguments``: ``limits``, ``lower_links``, ``threads``; ``raw`` and ``split``, if true: one more descriptor
    each, in this order, of a file for the bytes as they came and of an empty directory for the split. The result
    is :func:`decode_unpacked`'s.
    """
    limits = Limits(**arguments["limits"])
    source = FdSource(fds[0])
    further = iter(fds[2:])
    tee = _FdTee(next(further)) if arguments["raw"] else None
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (max(limits.file_bytes, limits.stream_bytes), resource.RLIM_INFINITY)
    )
    splitter: Any = None
    if arguments["split"]:
        splitter = import_module("lading.storage.split").SplitWriter(next(further))
    try:
        unpacked = unpack(
            source,
            fds[1],
            limits=limits,
            stop=lambda: talk.progress(source.count),
            split=splitter,
            tee=tee,
            lower_links=arguments["lower_links"],
            threads=arguments["threads"],
        )
        if splitter is not None and unpacked.compression == "none":
            splitter.finish()
    finally:
        if splitter is not None:
            splitter.close()
    return encode_unpacked(unpacked)


def encode_unpacked(unpacked: Unpacked) -> dict[str, Any]:
    """``unpacked`` as a message may have it."""
    return attrs.asdict(unpacked, value_serializer=_plain)


def _plain(_owner: object, _field: object, value: Any) -> Any:
    return (
        [attrs.astuple(item) if attrs.has(type(item)) else item for item in value]
        if type(value) is tuple
        else value
    )


def decode_unpacked(found: Mapping[str, Any]) -> Unpacked:
    """What ``encode_unpacked`` gave. ``HostError`` if it can't have."""
    try:
        borrowed = tuple(Borrowed(*each) for each in found["borrowed"])
        return Unpacked(**{**found, "implied": tuple(found["implied"]), "borrowed": borrowed})
    except (KeyError, TypeError) as error:
        raise HostError("unpack", "", 0, f"its worker's result makes no sense ({error})") from error


def encode_error(error: Exception) -> dict[str, Any]:
    """``error``, with its facts, as a message may have it. One that is not ours becomes a ``HostError``."""
    match error:
        case LadingError():
            pass
        case MemoryError():
            hint = f"its worker may use {MEMORY >> 20} MiB, which this archive exceeds"
            error = HostError("unpack", "", errno.ENOMEM, hint)
        case OSError():
            error = HostError("unpack", "", error.errno or 0)
        case _:
            raise error
    kind: type = type(error)
    values: Sequence[Any] = error.args
    if attrs.has(kind):
        values = [getattr(error, field.name) for field in attrs.fields(kind)]
    return {
        "class": type(error).__name__,
        "values": [value if isinstance(value, int | str | bytes) else str(value) for value in values],
    }


def decode_error(message: Mapping[str, Any]) -> LadingError:
    """The error of ``encode_error``."""
    kind = getattr(errors, str(message.get("class")), None)
    if isinstance(kind, type) and issubclass(kind, LadingError):
        with contextlib.suppress(KeyError, TypeError):
            return kind(*message["values"])
    return ImageInvalid(f"its worker failed with {message}")


def main(requests: int, lifeline: int, within: str) -> None:
    """Do jobs until there are no more, or until one fails. Never returns."""
    gc.disable()  # a job leaves no cycles
    share_arena()  # before there is another thread
    talk = Talk(socket.socket(fileno=requests))
    code = 0
    try:
        _confine(within)  # before there is another thread
        threading.stack_size(_STACK)
        threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
        while (heard := talk.hear()) is not None:
            request, fds = heard
            module, _, function = JOBS[request["job"]].partition(":")
            job: Job = getattr(import_module(module), function)
            try:
                result = job(request, fds, talk)
            except Exception as error:
                talk.say({"failed": encode_error(error)})
                break
            talk.say({"done": result})
            for fd in fds:
                with contextlib.suppress(OSError):  # the job may have closed it
                    os.close(fd)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 70
    # Threads may be waiting for bytes that never come, and nothing is buffered.
    os._exit(code)


def _end_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(1)


def _confine(within: str) -> None:
    os.umask(0)
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    confine()
    if within:
        write_only_beneath(os.fsencode(within))
