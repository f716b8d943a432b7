"""The LMDB environment, handled with care: transactions, growth, and what happens when a write fails.

LMDB's map may only be changed while no transaction is open in the process, and after some failed writes every
transaction fails until the environment is opened again. So transactions go through a gate here that can be
closed for a moment: nobody outside needs to know.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from lading.events.errors import EngineClosed, StoreBroken, StoreCorrupt
from lading.storage.keys import TABLES

__all__ = ["Database", "open_database", "why_failed"]

T = TypeVar("T")

_MAPS = (1 << 40, 1 << 36, 1 << 32, 1 << 28)
"""Sizes of the map to try: address space costs nothing until it is used, but a process may be short of it."""
_READERS = 512
_PAGES_SPARE = 64
_DEPTH = 8
_ROOM = 32 << 20
"""Bytes free on a disk that no failed write is blamed on the lack of."""
_STEP = 4 << 20
_CLEAR_EVERY = 256
"""Commits between two looks for readers whose process died: each holds back every page freed since it began."""


class Database:
    """An open environment with the log's tables. One thread may write; any may read."""

    def __init__(self, path: Path, env: lmdb.Environment, readonly: bool) -> None:
        self.path = path
        self.readonly = readonly
        self.tables: Mapping[str, Any] = {}
        self._env: lmdb.Environment | None = env
        self._gate = threading.Condition()
        self._inside = 0
        self._shut = False
        self._why = ""
        self._length = 0
        self._commits = 0
        self._page = env.stat()["psize"]

    # -- transactions ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def read(self) -> Iterator[lmdb.Transaction]:
        """A read transaction: a snapshot of every table. Keep it short: it holds back every page freed meanwhile.

        Raises ``EngineClosed``, ``StoreBroken`` when the environment could not be opened again after a failed
        write, and ``StoreCorrupt`` for a page that LMDB can't make sense of.
        """
        env = self._enter()
        try:
            try:
                transaction = env.begin()
            except lmdb.MapResizedError:  # by the process that writes
                self._leave()
                self._closed_gate(lambda env: env.set_mapsize(0))
                env = self._enter()
                transaction = env.begin()
            with transaction:
                yield transaction
        except lmdb.Error as error:
            raise StoreCorrupt(0, f"{self.path} can't be read: {error}; restore it from a backup") from error
        finally:
            self._leave()

    def write(self, work: Callable[[lmdb.Transaction], tuple[T, int, int]]) -> T:
        """``work`` in a write transaction that is on disk when this returns, with what it returned.

        ``work`` returns its result, and how many entries and bytes it wrote. The map grows when it is full, and
        then ``work`` is done again from the start. Any other failure leaves nothing of it and raises
        ``lmdb.Error``, or what ``work`` raised.
        """
        while True:
            env = self._enter()
            try:
                with env.begin(write=True) as transaction:
                    result, entries, size = work(transaction)
                    self._lengthen(env, entries, size)
                break
            except lmdb.MapFullError:
                pass
            finally:
                self._leave()
            self._closed_gate(lambda env: env.set_mapsize(2 * env.info()["map_size"]))
        self._commits += 1
        if self._commits % _CLEAR_EVERY == 0:
            env.reader_check()
        return result

    # -- the environment ------------------------------------------------------------------------------------

    def make_tables(self, create: bool, only: Sequence[str] = TABLES) -> None:
        """Open the tables called ``only``, with ``create`` making those that are missing, in one transaction."""
        env = self._enter()
        try:
            if create:
                with env.begin(write=True) as txn:
                    self.tables = {name: env.open_db(name.encode(), txn=txn) for name in only}
            else:
                self.tables = {name: env.open_db(name.encode(), create=False) for name in only}
        finally:
            self._leave()

    def copy(self, directory: Path) -> None:
        """Copy the file as it is at this instant, without its free pages, to ``directory/data.mdb``.

        A read transaction for as long as that takes. Raises ``lmdb.Error``.
        """
        env = self._enter()
        try:
            env.copy(os.fspath(directory), compact=True)
        finally:
            self._leave()

    def drop_table(self, txn: lmdb.Transaction, name: str) -> None:
        """Delete a table that no release knows any more, if it is there."""
        assert self._env is not None
        with contextlib.suppress(lmdb.NotFoundError):
            txn.drop(self._env.open_db(name.encode(), txn=txn, create=False))

    def reopen_to_read(self) -> None:
        """After a failed write: open the environment again, to read only, because reading may fail too by now.

        Reads raise ``StoreBroken`` from here on if even that fails.
        """

        def reopen(env: lmdb.Environment) -> None:
            env.close()
            self._env = None
            self.readonly = True
            self._env = _open(self.path, readonly=True, create=False)
            self.tables = {name: self._env.open_db(name.encode(), create=False) for name in TABLES}

        try:
            self._closed_gate(reopen)
        except (lmdb.Error, OSError) as error:
            self._why = str(error)

    def close(self) -> None:
        """Close the environment. Every use of it raises ``EngineClosed`` after. Idempotent."""
        with contextlib.suppress(EngineClosed, StoreBroken):
            self._closed_gate(lambda env: env.close())
        self._env = None

    def clear_readers(self) -> int:
        """Free the slots of readers whose process died; how many there were."""
        env = self._enter()
        try:
            return int(env.reader_check())
        finally:
            self._leave()

    def last_page(self) -> int:
        """The number of the last page in use."""
        env = self._enter()
        try:
            return int(env.info()["last_pgno"])
        finally:
            self._leave()

    # -- the gate -------------------------------------------------------------------------------------------

    def _enter(self) -> lmdb.Environment:
        with self._gate:
            while self._shut:
                self._gate.wait()
            if self._env is None:
                raise StoreBroken(self._why) if self._why else EngineClosed
            self._inside += 1
            return self._env

    def _leave(self) -> None:
        with self._gate:
            self._inside -= 1
            if self._shut and not self._inside:
                self._gate.notify_all()

    def _closed_gate(self, work: Callable[[lmdb.Environment], Any]) -> None:
        """``work`` while no transaction is open in this process."""
        with self._gate:
            while self._shut:
                self._gate.wait()
            if self._env is None:
                raise StoreBroken(self._why) if self._why else EngineClosed
            self._shut = True
            while self._inside:
                self._gate.wait()
            try:
                work(self._env)
            finally:
                self._shut = False
                self._gate.notify_all()

    def _lengthen(self, env: lmdb.Environment, entries: int, size: int) -> None:
        """Have the file longer than the coming commit of so many ``entries`` and bytes can make it.

        LMDB never writes a page that was taken and given back in one commit, not even to lengthen the file: a
        sound file could be shorter than its meta page says, and opening could not tell it from a cut one. The
        length costs no disk: what is not written is a hole.
        """
        last = env.info()["last_pgno"]
        # A put copies at most the pages down to its leaf; all puts together at most every page there is, once.
        copied = min(_DEPTH * entries, last + entries // 8)
        need = (last + 1 + copied + size // 1024 + _PAGES_SPARE) * self._page
        if need > self._length:
            self._length = need + _STEP
            file = self.path / "data.mdb"
            if os.path.getsize(file) < self._length:
                os.truncate(file, self._length)


def why_failed(path: Path, error: lmdb.Error) -> str:
    """What made a write fail, in words. LMDB says "Input/output error" for a write that a full disk cut short."""
    with contextlib.suppress(OSError):
        room = os.statvfs(path)
        if room.f_bavail * room.f_frsize < _ROOM:
            return f"no space left on the disk of {path} ({error}); make room, then open the store again"
    return f"{error}; see what the kernel says of the disk of {path}, then open the store again"


def open_database(path: Path, readonly: bool, create: bool) -> Database:
    """The environment in directory ``path``, without its tables yet. Raises ``lmdb.Error``."""
    return Database(path, _open(path, readonly, create), readonly)


def _open(path: Path, readonly: bool, create: bool) -> lmdb.Environment:
    old = os.umask(0o077)
    try:
        for size in _MAPS:
            try:
                return lmdb.open(
                    os.fspath(path),
                    map_size=size,
                    max_dbs=len(TABLES) + 1,  # and one that an earlier format had
                    mode=0o600,
                    readonly=readonly,
                    create=create,
                    max_readers=_READERS,
                )
            except (lmdb.MemoryError, MemoryError):
                if size == _MAPS[-1]:
                    raise
        raise AssertionError("unreachable")
    finally:
        os.umask(old)
