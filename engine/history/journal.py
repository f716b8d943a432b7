"""The journal: the asynchronous face of the log, one writer thread with group commit.

Appends that wait while a commit is being synced go together into the next one, so a hundred concurrent
containers cost about as many syncs as one. The writer thread owns every write transaction; an LMDB write
transaction used from two threads reports success and then wedges the store.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar, cast

import attrs
import trio

from lading.engine.history.tail import Tail
from lading.events.construct import constructor
from lading.events.envelope import Actor, Proposed, Record
from lading.events.errors import EngineClosed, LadingError, StoreBroken
from lading.events.ids import CommandId
from lading.storage.log import Append, Log

__all__ = ["Journal", "open_journal"]

T = TypeVar("T")
Answer = tuple[Record, ...] | LadingError
"""The records of an append, once they are on disk, or why there are none."""

_append = constructor(Append)  # not ``Append`` itself: this is the hot path

_MOST = 1024
"""Appends in one transaction; more wait for the next, which bounds the time to an answer."""


@attrs.define(eq=False)
class _Waiting:
    append: Append
    task: trio.lowlevel.Task | None
    then: Callable[[Answer], None] | None = None
    answer: Answer | None = None


@attrs.define(eq=False)
class _Call:
    """Work of another kind for the writer thread."""

    work: Callable[[], object]
    done: trio.Event
    result: object = None
    error: BaseException | None = None


class Journal:
    """Appends to the log, and tells who waits that it has grown. Use ``open_journal``."""

    def __init__(self, log: Log, clock: Callable[[], int], new_id: Callable[[], str]) -> None:
        self.log = log
        self.tail: Tail = Tail(log.position)
        self.clock = clock
        self.new_id = new_id
        self._queue: queue.SimpleQueue[Sequence[_Waiting | _Call | None]] = queue.SimpleQueue()
        self._gathered: list[_Waiting] = []
        self._gathering = False
        self._with_writer = 0  # appends, and calls, that were handed over and not answered yet
        self._gatherer: trio.lowlevel.Task | None = None
        self._token = trio.lowlevel.current_trio_token()
        self._finished = trio.Event()
        self._closed = False
        self._broken = ""
        self._thread = threading.Thread(target=self._write, name="lading-journal", daemon=True)

    @property
    def position(self) -> int:
        """The position of the last record that is on disk."""
        return self.log.position

    async def append(
        self,
        events: Sequence[Proposed],
        *,
        actor: Actor,
        command: CommandId,
        cause: int = 0,
        once: bool = False,
    ) -> tuple[Record, ...]:
        """Append ``events``, all or none, and return their records once they are on disk.

        ``once``: if ``command`` appended something before, nothing is appended, and those records are returned;
        they have other event ids, and other streams for what is created, than were asked for.

        Raises what ``Log.append`` refuses with, ``StoreBroken``, or ``EngineClosed``. A cancel before this
        has begun appends nothing; after that the append is carried out and the cancel is delivered at the
        caller's next checkpoint.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        append = self._asked(events, actor, command, cause, once)
        waiting = _Waiting(append, trio.lowlevel.current_task())
        self._ask(waiting)
        # What an event inside a shielded scope would do, for half of what that costs; this is the hot path.
        await trio.lowlevel.wait_task_rescheduled(_not_now)
        if isinstance(waiting.answer, LadingError):
            raise waiting.answer
        assert waiting.answer is not None
        return waiting.answer

    def post(
        self,
        events: Sequence[Proposed],
        then: Callable[[Answer], None],
        *,
        actor: Actor,
        command: CommandId,
        cause: int = 0,
    ) -> None:
        """Ask for what ``append`` does, without a task that waits: ``then`` gets the answer, in the trio thread.

        It must not raise. Raises ``EngineClosed``.
        """
        self._ask(_Waiting(self._asked(events, actor, command, cause), None, then))

    def _asked(
        self, events: Sequence[Proposed], actor: Actor, command: CommandId, cause: int, once: bool = False
    ) -> Append:
        if self._closed:
            raise EngineClosed
        ids = tuple([self.new_id() for _ in events])
        return _append(tuple(events), ids, self.clock(), actor, command, cause, once)

    def _ask(self, waiting: _Waiting) -> None:
        self._gathered.append(waiting)
        if not self._with_writer and not self._gathering:
            self._hand_over()

    async def call(self, work: Callable[[], T]) -> T:
        """``work`` in the writer thread, between two commits: for what else writes to the log. Carried out if
        cancelled.

        Raises what ``work`` raises, and ``EngineClosed``.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            raise EngineClosed
        call = _Call(work, trio.Event())
        self._hand_over()  # what was asked for before it
        self._with_writer += 1
        self._queue.put((call,))
        with trio.CancelScope(shield=True):
            await call.done.wait()
        if call.error is not None:
            raise call.error
        return cast("T", call.result)

    async def wait_past(self, position: int) -> None:
        """Return once the log goes past ``position``; ``EngineClosed`` when it never will."""
        await self.tail.wait_past(position)
        await trio.lowlevel.checkpoint_if_cancelled()

    async def _gather(self) -> None:
        """The task that hands over, as one batch, what was asked for while the writer had something to do.

        More would only wait there for it. And when it has answered many at once, they will ask for more in the
        next tick: handed over one by one, the first would be committed alone, while the writer and those tasks
        fight for the interpreter. They run in the tick in which this is woken; after that, they have.
        """
        while not self._closed:
            if not self._with_writer:
                self._hand_over()  # an answer may have come before this task had begun
            self._gatherer = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(_not_now)
            await trio.lowlevel.cancel_shielded_checkpoint()
            self._hand_over()

    def _hand_over(self) -> None:
        gathered, self._gathered, self._gathering = self._gathered, [], False
        if gathered:
            self._with_writer += len(gathered)
            self._queue.put(gathered)

    def _write(self) -> None:
        backlog: deque[_Waiting | _Call | None] = deque()
        while True:
            if not backlog:
                backlog.extend(self._queue.get())
            with contextlib.suppress(queue.Empty):
                while True:
                    backlog.extend(self._queue.get_nowait())
            batch: list[_Waiting] = []
            while backlog and len(batch) < _MOST and isinstance(backlog[0], _Waiting):
                batch.append(cast("_Waiting", backlog.popleft()))
            if batch:
                self._commit(batch)
                continue
            other = backlog.popleft()
            if other is None:
                break
            self._do(cast("_Call", other))
        self._token.run_sync_soon(self._finished.set)

    def _commit(self, batch: list[_Waiting]) -> None:
        answers: Sequence[Answer]
        try:
            if self._broken:
                raise StoreBroken(self._broken)
            answers = self.log.append([waiting.append for waiting in batch])
        except Exception as error:
            # An error of its own for each caller: one object would collect all their tracebacks.
            self._broken = why = (
                error.why if isinstance(error, StoreBroken) else f"{type(error).__name__}: {error}"
            )
            answers = [_broken(why, error) for _ in batch]
        for waiting, answer in zip(batch, answers, strict=True):
            waiting.answer = answer
        self._token.run_sync_soon(self._deliver, batch)

    def _do(self, call: _Call) -> None:
        try:
            call.result = call.work()
        except BaseException as error:
            call.error = error
        self._token.run_sync_soon(self._done, call)

    def _done(self, call: _Call) -> None:
        call.done.set()
        self.tail.reach(self.position)
        self._with_writer -= 1
        self._deliver([])

    def _deliver(self, batch: list[_Waiting]) -> None:
        for waiting in batch:
            if isinstance(waiting.answer, tuple):
                self.tail.add(waiting.answer)
            if waiting.task is not None:
                trio.lowlevel.reschedule(waiting.task)
            elif waiting.then is not None and waiting.answer is not None:
                waiting.then(waiting.answer)
        self._with_writer -= len(batch)
        more_to_come = len(batch) > 1 or bool(self._gathered)
        if more_to_come and not self._with_writer and self._gatherer is not None:
            self._gathering = True
            gatherer, self._gatherer = self._gatherer, None
            trio.lowlevel.reschedule(gatherer)
        self.tail.tell()


def _not_now(raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
    """What a task that waits for its answer says to a cancel: it is carried out, and the cancel comes after."""
    return trio.lowlevel.Abort.FAILED


def _broken(why: str, cause: Exception) -> StoreBroken:
    error = StoreBroken(why)
    error.__cause__ = cause
    return error


def _random_ids() -> Iterator[str]:
    """Random 128-bit ids in hexadecimal; a hundred for each call to the kernel."""
    while True:
        pool = os.urandom(1600).hex()
        yield from (pool[at : at + 32] for at in range(0, len(pool), 32))


@asynccontextmanager
async def open_journal(
    log: Log,
    clock: Callable[[], int] = time.time_ns,
    new_id: Callable[[], str] | None = None,
) -> AsyncIterator[Journal]:
    """A journal on ``log``. Leaving waits until every append that was accepted is answered."""
    journal = Journal(log, clock, new_id or _random_ids().__next__)
    journal._thread.start()
    trio.lowlevel.spawn_system_task(journal._gather)
    try:
        yield journal
    finally:
        journal._closed = True
        journal._hand_over()
        if journal._gatherer is not None:
            trio.lowlevel.reschedule(journal._gatherer)
            journal._gatherer = None
        journal._queue.put((None,))
        with trio.CancelScope(shield=True):
            await journal._finished.wait()
        journal._thread.join()
        journal.tail.close()
