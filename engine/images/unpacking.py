"""Archives taken apart in processes of their own (:mod:`lading.storage.worker`), a few at once.

A thread can't be cancelled, and what an archive may do to whoever reads it is not to be done to the engine: so
the bytes go through a pipe, or as an open file, to a confined worker, which is killed on a cancel. Workers are
kept for a while when they have done well, because layers come in numbers.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import signal
import socket
import struct
import subprocess
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import attrs
import msgpack
import trio

from lading.engine.nursery import open_bare_nursery, open_service_nursery
from lading.events.errors import EngineClosed, HostError
from lading.storage.layers import StagedLayer
from lading.storage.plan import DEFAULT_LIMITS, Limits
from lading.storage.worker import command, decode_error, decode_unpacked, pack_message

__all__ = ["Source", "Unpackers", "open_unpackers"]

Source = AsyncIterable[bytes] | BinaryIO | int
"""Where an archive's bytes come from. A descriptor, or a file that has one, goes to the worker as it is (so do its
bytes that are not read yet: what a buffer above it has read ahead of an unseekable file is lost); anything else is
written to a pipe."""

_IDLE: Final = 10.0
_PATIENCE: Final = 5.0
_PIPE: Final = 1 << 20
_LENGTH: Final = struct.Struct(">I")
_MOST: Final = 1 << 28  # bytes of a message; paths may take 64 MiB
_THREADS: Final = 2
_ALONE: Final = 16


@attrs.define(eq=False)
class _Worker:
    process: trio.Process
    connection: trio.socket.SocketType
    lifeline: int
    words: int  # a memfd for what it writes to standard error
    idle_since: float = 0.0

    async def run(
        self, job: Mapping[str, Any], fds: Sequence[int], progress: Callable[[int], None] | None
    ) -> Mapping[str, Any]:
        """The result of ``job``. Raises what it failed with, and ``HostError`` if the process ended instead."""
        message = pack_message(job)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sent = await self.connection.sendmsg([message], rights)
            while sent < len(message):
                sent += await self.connection.send(message[sent:])
            async with contextlib.aclosing(self._hear()) as messages:
                async for said in messages:
                    match said:
                        case {"read": int(read)}:
                            if progress is not None:
                                progress(read)
                        case {"done": dict(result)}:
                            return result
                        case {"failed": dict(error)}:
                            raise decode_error(error)
                        case _:
                            raise self._nonsense()
        raise await self._died()

    async def _hear(self) -> AsyncGenerator[object, None]:
        """What the worker says, until it says no more."""
        data = bytearray()
        while more := await self.connection.recv(1 << 16):
            data += more
            while len(data) >= _LENGTH.size:
                [size] = _LENGTH.unpack_from(data)
                if size > _MOST:
                    raise self._nonsense()
                end = _LENGTH.size + size
                if len(data) < end:
                    break
                try:
                    said = msgpack.unpackb(bytes(data[_LENGTH.size : end]))
                except Exception as error:
                    raise self._nonsense() from error
                del data[:end]
                yield said

    def _nonsense(self) -> HostError:
        # The archive may have got hold of it, so nothing that it says is taken for more than it can be.
        return HostError("unpack", "", 0, f"its worker (process {self.process.pid}) says what makes no sense")

    async def _died(self) -> HostError:
        with trio.move_on_after(_PATIENCE):
            await self.process.wait()
        self.process.kill()  # one that says no more and doesn't end
        code = await self.process.wait()
        if code < 0:
            why = f"its worker (process {self.process.pid}) was ended by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                why += ": the kernel does that when memory runs out, see its log; free some and try again"
        else:
            size = os.fstat(self.words).st_size
            words = os.pread(self.words, 400, max(0, size - 400)).decode("utf-8", "replace").strip()
            why = f"its worker (process {self.process.pid}) ended with code {code}: {words.rpartition(chr(10))[2]}"
        return HostError("unpack", "", 0, why)

    async def end(self) -> None:
        """Kill the process and wait until it is no more. Never cancelled; idempotent."""
        if self.lifeline < 0:
            return
        lifeline, self.lifeline = self.lifeline, -1
        self.process.kill()
        self.connection.close()
        os.close(lifeline)
        os.close(self.words)
        with trio.CancelScope(shield=True):
            await self.process.wait()


async def _start(within: str) -> _Worker:
    ours, theirs = socket.socketpair()
    lifeline, held = os.pipe2(os.O_CLOEXEC)
    words = os.memfd_create("lading-worker", os.MFD_CLOEXEC)
    try:
        process = await trio.lowlevel.open_process(
            command(theirs.fileno(), lifeline, within),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=words,
            pass_fds=(theirs.fileno(), lifeline),
            env={},
            cwd="/",
            process_group=0,
        )
    except BaseException as error:
        ours.close()
        os.close(held)
        os.close(words)
        if isinstance(error, OSError):
            raise HostError("start a worker for", "layers", error.errno or 0) from error
        raise
    finally:
        theirs.close()
        os.close(lifeline)
    return _Worker(process, trio.socket.from_stdlib_socket(ours), held, words)


class Unpackers:
    """At most ``workers`` worker processes at once (default: one for each processor, at least two).

    ``within``: a directory beneath which every staging directory is, and outside of which they shall not be able
    to make, change or remove anything. Those that have nothing to do are kept for ``idle`` seconds; :meth:`run`
    is the task that ends them then.
    """

    def __init__(self, workers: int | None = None, *, idle: float = _IDLE, within: Path | None = None) -> None:
        self._within = "" if within is None else os.path.realpath(within)
        self._limit = trio.CapacityLimiter(workers or max(2, len(os.sched_getaffinity(0))))
        self._alone = trio.CapacityLimiter(_ALONE)
        self._idle_time = idle
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._closed = False
        self._rested = trio.Event()

    async def unpack(
        self,
        source: Source,
        staging: Path,
        *,
        limits: Limits = DEFAULT_LIMITS,
        keep_raw: bool = True,
        split: bool = True,
        lower_links: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> StagedLayer:
        """Unpack ``source`` into ``staging/tree``, where ``staging`` is a directory of the caller's.

        With ``keep_raw`` the bytes of a compressed archive are in ``staging/raw``; with ``split`` what makes a
        plain one again is in ``staging/split``. ``lower_links``: see ``unpack``. ``progress`` is called with the
        bytes read so far, now and then. Nothing is synced.

        Raises ``ImageInvalid`` when the archive is to blame, ``HostError`` when the machine is (a worker that was
        killed, too), and what ``source`` raises. After that, or a cancel, the worker is gone and ``staging`` has
        something in it that is for the caller to remove.
        """
        tree, raw, parts = staging / "tree", staging / "raw", staging / "split"
        with contextlib.ExitStack() as stack:
            try:
                tree.mkdir(mode=0o755)
                tree.chmod(0o755)
                fds = [_open(stack, tree, os.O_RDONLY | os.O_DIRECTORY)]
                if keep_raw:
                    fds.append(_open(stack, raw, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
                if split:
                    parts.mkdir(mode=0o700)
                    fds.append(_open(stack, parts, os.O_RDONLY | os.O_DIRECTORY))
            except OSError as error:
                raise HostError("stage a layer in", os.fspath(staging), error.errno or 0) from error
            arguments = {
                "limits": attrs.asdict(limits),
                "lower_links": lower_links,
                "threads": _THREADS,
                "raw": keep_raw,
                "split": split,
            }
            found = decode_unpacked(await self.job("unpack", arguments, source, fds, progress=progress))
        plain = found.compression == "none"
        if plain and keep_raw:
            raw.unlink()
        return StagedLayer(tree, found, None if plain or not keep_raw else raw, parts if plain and split else None)

    async def job(
        self,
        name: str,
        arguments: Mapping[str, Any],
        source: Source,
        fds: Sequence[int] = (),
        *,
        progress: Callable[[int], None] | None = None,
        alone: bool = False,
    ) -> Mapping[str, Any]:
        """The result of the job ``name`` of ``lading.storage.worker.JOBS``, given ``source`` and ``fds``, in this
        order, as its descriptors. Errors, cancels and ``progress`` as for :meth:`unpack`.

        ``alone``: in a worker that does nothing else and may write anywhere until the job itself says where to;
        such ones don't count among the others, because their sources may be slow.
        """
        request = {**arguments, "job": name}
        async with self._alone if alone else self._limit, self._worker(alone) as worker:
            with contextlib.ExitStack() as stack:
                fd = _descriptor(source)
                if fd is not None:
                    return await worker.run(request, (fd, *fds), progress)
                assert not isinstance(source, int)
                read, write = os.pipe2(os.O_CLOEXEC)
                reader = stack.enter_context(os.fdopen(read, "rb", buffering=0))
                pipe = trio.lowlevel.FdStream(write)
                failures: list[Exception] = []
                result: Mapping[str, Any] | None = None
                try:
                    async with open_bare_nursery() as nursery:
                        nursery.start_soon(_pump, source, pipe, failures, nursery.cancel_scope)
                        result = await worker.run(request, (reader.fileno(), *fds), progress)
                        nursery.cancel_scope.cancel()
                finally:
                    # Only now: an end of the stream before its source's error was told would look like a cut.
                    with trio.CancelScope(shield=True):
                        await pipe.aclose()
                if result is None:
                    raise failures[0]
                return result

    async def warm(self, workers: int = 1) -> None:
        """Have ``workers`` ready: starting one takes some 60 ms, which can pass while a manifest is on its way."""
        while not self._closed and len(self._idle) < min(workers, int(self._limit.total_tokens)):
            self._rest(await _start(self._within))

    async def run(self) -> None:
        """End the workers that have been idle for long enough, for ever."""
        while True:
            while self._idle:
                oldest = self._idle[0]
                await trio.sleep_until(oldest.idle_since + self._idle_time)
                if oldest in self._idle:
                    self._idle.remove(oldest)
                    await oldest.end()
            self._rested = trio.Event()
            await self._rested.wait()

    async def aclose(self) -> None:
        """End every worker, at work or not; whoever waits for one gets ``EngineClosed``. Idempotent."""
        self._closed = True
        with trio.CancelScope(shield=True):
            while self._idle:
                await self._idle.pop().end()
            for worker in list(self._busy):
                worker.process.kill()
                await worker.process.wait()

    @asynccontextmanager
    async def _worker(self, alone: bool) -> AsyncIterator[_Worker]:
        worker = await _start("") if alone else await self._take()
        self._busy.add(worker)
        try:
            yield worker
        except BaseException as error:
            await worker.end()
            if self._closed and isinstance(error, HostError):
                raise EngineClosed from None
            raise
        finally:
            self._busy.discard(worker)
        if self._closed or alone:
            await worker.end()
        else:
            self._rest(worker)

    async def _take(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.process.poll() is None:
                return worker
            await worker.end()
        if self._closed:
            raise EngineClosed
        return await _start(self._within)

    def _rest(self, worker: _Worker) -> None:
        worker.idle_since = trio.current_time()
        self._idle.append(worker)
        self._rested.set()


@asynccontextmanager
async def open_unpackers(
    workers: int | None = None, *, idle: float = _IDLE, within: Path | None = None
) -> AsyncIterator[Unpackers]:
    """``Unpackers`` with the task that ends idle ones; all are ended when the block is left."""
    unpackers = Unpackers(workers, idle=idle, within=within)
    async with open_service_nursery() as nursery:
        nursery.start_soon(unpackers.run)
        try:
            yield unpackers
        finally:
            await unpackers.aclose()


def _open(stack: contextlib.ExitStack, path: Path, flags: int) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, fd)
    return fd


def _descriptor(source: Source) -> int | None:
    """What to hand over of ``source``; None if its bytes have to be carried."""
    if isinstance(source, int):
        return source
    if isinstance(source, AsyncIterable):
        return None
    try:
        fd = source.fileno()
    except (OSError, AttributeError):
        return None
    if source.seekable():
        os.lseek(fd, source.tell(), os.SEEK_SET)  # what was read ahead into a buffer is not read yet
    return fd


async def _pump(
    source: AsyncIterable[bytes] | BinaryIO,
    pipe: trio.lowlevel.FdStream,
    failures: list[Exception],
    scope: trio.CancelScope,
) -> None:
    """Carry ``source`` into ``pipe``; what it raises goes into ``failures`` and cancels ``scope``."""
    with contextlib.suppress(OSError):  # more than this user may have
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)
    pieces = source if isinstance(source, AsyncIterable) else _read(source)
    try:
        async with _closing(pieces):
            async for piece in pieces:
                try:
                    await pipe.send_all(piece)
                except trio.BrokenResourceError:
                    return  # the worker hung up, and says why
    except Exception as error:
        failures.append(error)
        scope.cancel()
    else:
        await pipe.aclose()


@asynccontextmanager
async def _closing(pieces: AsyncIterable[bytes]) -> AsyncIterator[None]:
    """A generator that is left early is closed, and not when somebody collects it."""
    try:
        yield
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


async def _read(file: BinaryIO) -> AsyncGenerator[bytes, None]:
    while piece := await trio.to_thread.run_sync(file.read, io.DEFAULT_BUFFER_SIZE * 32):
        yield piece
