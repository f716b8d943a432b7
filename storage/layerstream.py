"""One layer as a stream: decompressed, hashed on both sides, bounded, and read ahead in threads.

Reading, hashing, decompressing and writing all let go of the interpreter, so with ``threads`` they overlap: the
stages of the pipe are generators, and any of them may run in a thread of its own, a few pieces ahead of whoever
asks. Without threads nothing runs but what is asked for.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Final, Protocol

from lading.events.errors import BadLayer, HostError
from lading.storage.causes import host_hint
from lading.storage.decode import PIECE, SNIFF, find_decoder
from lading.storage.pieces import gathered
from lading.storage.plan import DEFAULT_LIMITS, Limits
from lading.storage.tar import ByteSource

__all__ = ["Ahead", "ByteSource", "LayerStream", "Tee", "decompressed"]

_DEPTH: Final = 6
"""Pieces that wait between two stages."""

_RAW_DEPTH: Final = 2
"""Compressed ones, of which each makes several."""


class Tee(Protocol):
    """Where the raw bytes of a compressed layer go as well."""

    def write(self, data: bytes, /) -> object:
        """Keep all of ``data``."""
        ...


class Ahead:
    """The pieces of ``items``, made in a thread, at most ``depth`` of them ahead.

    What ``items`` raises is raised by ``next``, after the items before it. After :meth:`close` the thread ends by
    itself once ``items`` gives its next one; it is a daemon, so a read that never returns holds nobody up.
    """

    def __init__(self, items: Iterator[bytes], depth: int = _DEPTH) -> None:
        self._items = items
        self._ready: deque[bytes] = deque()
        self._depth = depth
        self._change = threading.Condition(threading.Lock())
        self._closed = self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._change:
            while not self._ready:
                if self._ended:
                    if self._error is not None:
                        raise self._error
                    raise StopIteration
                self._change.wait()
            item = self._ready.popleft()
            self._change.notify()
            return item

    def close(self, wait: bool = False) -> None:
        """Ask for no more; with ``wait``, return once nothing is read any more."""
        with self._change:
            self._closed = True
            self._change.notify()
        if wait:
            self._thread.join()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._items:
                with self._change:
                    while len(self._ready) >= self._depth and not self._closed:
                        self._change.wait()
                    if self._closed:
                        return
                    self._ready.append(item)
                    self._change.notify()
                del item  # not a piece more than is needed
        except BaseException as caught:  # for the reader to raise
            error = caught
        finally:
            with self._change:
                self._ended, self._error = True, error
                self._change.notify()


class LayerStream:
    """The plain bytes of the layer that ``source`` gives, compressed or not.

    ``stop`` is called before each :meth:`read`; what it raises goes through. ``tee`` gets the bytes as they came
    if they are compressed (plain ones never). ``threads``: 0, 1 (reading and decoding in one) or 2 (one each).
    When :meth:`read` has given b"", ``digest`` and ``compressed_size`` are of the bytes as they came and
    ``diff_id`` and ``size`` of the plain ones, all of them to the very end.

    Raises :class:`ImageInvalid` for a wrong or unsupported format and past ``limits``, :class:`HostError` when
    ``source`` or ``tee`` raise OSError, and whatever else they raise.
    """

    def __init__(
        self,
        source: ByteSource,
        *,
        limits: Limits = DEFAULT_LIMITS,
        stop: Callable[[], None] = lambda: None,
        tee: Tee | None = None,
        threads: int = 0,
    ) -> None:
        self.compression: str = ""
        self.compressed_size: int = 0
        self.size: int = 0
        self._source = source
        self._limits = limits
        self._stop = stop
        self._tee = tee
        self._threads = threads
        self._raw_hash = hashlib.sha256()
        self._plain_hash = self._raw_hash  # the same bytes need hashing only once
        self._pieces: Iterator[bytes] | None = None
        self._stages: list[Ahead] = []

    @property
    def digest(self) -> str:
        """Of the bytes as they came, ``sha256:<hex>``."""
        return f"sha256:{self._raw_hash.hexdigest()}"

    @property
    def diff_id(self) -> str:
        """Of the plain bytes, ``sha256:<hex>``."""
        return f"sha256:{self._plain_hash.hexdigest()}"

    def read(self, n: int = -1, /) -> bytes:
        """The next plain bytes, as many as come, or b"" at the end; ``n`` is only a wish."""
        self._stop()
        if self._pieces is None:
            self._pieces = self._begin()
        return next(self._pieces, b"")

    def begin(self) -> str:
        """Read enough to tell the ``compression``, and tell it."""
        if self._pieces is None:
            self._stop()
            self._pieces = self._begin()
        return self.compression

    def close(self, wait: bool = False) -> None:
        """Let the threads end, and with ``wait`` see them end. ``source`` is left to the caller."""
        for stage in reversed(self._stages):  # each waits for the one before it
            stage.close()
        for stage in self._stages if wait else ():
            stage.close(wait)

    def _begin(self) -> Iterator[bytes]:
        start = b""
        while len(start) < SNIFF and (more := self._read()):
            start += more
        self.compression, decoder = find_decoder(start, self._limits.zstd_window)
        raw = self._raw(start)
        if decoder is None:
            self._tee = None
            plain = self._checked_plain(raw)
        else:
            self._plain_hash = hashlib.sha256()
            if self._threads > 1:
                raw = self._ahead(raw, _RAW_DEPTH)
            plain = self._checked(gathered(decoder(raw)))  # a member or frame may have a few bytes only
        return self._ahead(plain) if self._threads else plain

    def _ahead(self, pieces: Iterator[bytes], depth: int = _DEPTH) -> Iterator[bytes]:
        stage = Ahead(pieces, depth)
        self._stages.append(stage)
        return stage

    def _read(self) -> bytes:
        try:
            return self._source.read(PIECE)
        except OSError as error:
            raise HostError("read", "the layer", error.errno or 0) from error

    def _raw(self, piece: bytes) -> Iterator[bytes]:
        while piece:
            self.compressed_size += len(piece)
            self._check_size(self.compressed_size)
            if self._tee is not None:
                try:
                    self._tee.write(piece)
                except OSError as error:
                    code = error.errno or 0
                    raise HostError("keep", "the layer's blob", code, host_hint(code)) from error
            self._raw_hash.update(piece)
            yield piece
            piece = self._read()

    def _checked_plain(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.size += len(piece)
            self._check_size(self.size)
            yield piece

    def _checked(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        limits = self._limits
        for piece in pieces:
            self.size += len(piece)
            self._check_size(self.size)
            if self.size > limits.expansion_free and self.size > limits.expansion * self.compressed_size:
                raise BadLayer(
                    f"it is a bomb: {self.compressed_size} bytes expand to more than {limits.expansion} times that"
                )
            self._plain_hash.update(piece)
            yield piece

    def _check_size(self, size: int) -> None:
        if size > self._limits.stream_bytes:
            raise BadLayer(f"it is larger than the limit of {self._limits.stream_bytes} bytes")


def decompressed(path: Path) -> Iterator[bytes]:
    """The plain archive of the one in the file ``path``, decoded in a thread ahead of whoever reads it.

    Nothing is hashed: that is for the reader. Raises ``ImageInvalid`` for what is no archive, and ``HostError``.
    The thread has ended when the iterator is exhausted or closed.
    """
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115  # closed below
    except OSError as error:
        raise HostError("read the blob", os.fspath(path), error.errno or 0) from error
    with file:
        start = file.read(PIECE)
        _, decoder = find_decoder(start, DEFAULT_LIMITS.zstd_window)
        raw = chain((start,), iter(lambda: file.read(PIECE), b""))
        ahead = Ahead(raw if decoder is None else gathered(decoder(raw)))
        try:
            yield from ahead
        finally:
            ahead.close(wait=True)
