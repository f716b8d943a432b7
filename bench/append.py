"""How many events a second become durable, and how long each waits: appenders at once, each in its own task.

Each appender appends the events of its own containers, one at a time, and waits until each is on disk. The
yardstick (``ratio``) is ``bare LMDB``: one thread that puts the very same bytes (record, indexes, view) into
the same tables, already encoded, with one commit for as many events as there are appenders. At one appender
``latency`` is compared with its commit, too. ``bare LMDB, records only`` puts the records and nothing else.

The peer is the ``eventsourcing`` library on SQLite (WAL, ``synchronous=FULL``, so durable as well): its recorder
saving stored events of the same bytes, already encoded: one at a time, a hundred in one call, and from 64
threads at once. ``./dev bench`` installs it.

All of them take turns three times, and the best of each counts: what else the disk does is nobody's merit.

    python bench/append.py [--seconds S] [--levels 1,16,...]
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
import lmdb
import trio
from _history import ACTOR, life
from _report import Report

from lading.engine.core import new_command_id
from lading.engine.history.journal import open_journal
from lading.events.claims import ClaimState
from lading.events.codec import decode_record, encode_state
from lading.events.container import Created, Removed
from lading.events.envelope import Proposed
from lading.events.replay import Replay
from lading.events.views import CONTAINERS
from lading.storage.environment import open_log

_MORE = 70_000
"""More events than will be asked for in a second."""
LEVELS = (1, 16, 64, 512, 4096)
Put = tuple[str, bytes, bytes | None]
"""(table, key, value), without a value to delete the key."""


@attrs.frozen
class Measured:
    """Events a second, and the seconds that each of them (or each call for several) took."""

    rate: float
    seconds: list[float]

    def quantiles(self) -> dict[str, float]:
        """Milliseconds."""
        cuts = statistics.quantiles(self.seconds, n=100)
        return {"p50_ms": cuts[49] * 1000, "p99_ms": cuts[98] * 1000}


def lives(appender: int) -> Iterator[Proposed]:
    """The events of one appender's containers, one life after the other."""
    for number in itertools.count():
        yield from life(number, f"{appender}-")


async def through_journal(directory: Path, appenders: int, seconds: float) -> Measured:
    """``appenders`` tasks, for so many seconds, into a new log in ``directory``."""
    log = open_log(directory, "be" * 16)
    took: list[float] = []
    over = False
    each = int(seconds * _MORE / appenders) + 60
    asked = [list(itertools.islice(lives(number), each)) for number in range(appenders)]

    gc.freeze()  # what is asked for is not the journal's to be looked through again and again

    async def appender(number: int) -> None:
        # What is asked for is made before; should it not do, more is made on the way.
        for proposed in itertools.chain(asked[number], itertools.islice(lives(number), each, None)):
            if over:
                return
            if proposed.expect == 0:
                command = new_command_id()  # one request for each life, as ``containers.run`` makes it
            began = time.perf_counter()
            await journal.append((proposed,), actor=ACTOR, command=command)
            took.append(time.perf_counter() - began)

    async with open_journal(log) as journal, trio.open_nursery() as nursery:
        for number in range(appenders):
            nursery.start_soon(appender, number)
        await trio.sleep(seconds / 10)
        took.clear()
        began = time.perf_counter()
        await trio.sleep(seconds)
        count, lasted = len(took), time.perf_counter() - began
        over = True
    log.close()
    return Measured(count / lasted, took[:count])


def puts_of(directory: Path, most: int) -> list[list[Put]]:
    """What the log in ``directory`` wrote into its tables for each of its first ``most`` events."""
    log = open_log(directory, readonly=True)
    replay, puts, after = Replay(), [], 0
    numbers: dict[str, int] = {}
    while len(puts) < most and (page := log.read_raw(after, 1000)):
        for position, stored in page:
            replay.feed([(position, stored)])
            record = decode_record(stored, position)
            place, version = position.to_bytes(8, "big"), record.version.to_bytes(8, "big")
            stream, event = record.stream.encode(), record.event
            key = stream.replace(b"/", b"\0")
            state = replay.get(CONTAINERS, record.stream.removeprefix("container/"))
            number = numbers.setdefault(record.stream, position).to_bytes(8, "big")
            one: list[Put] = [
                ("log", place, stored),
                ("stream", number + version, place),
                ("command", record.command.encode() + b"\0" + place, (1).to_bytes(8, "big")),
                ("view", key, None if state is None else encode_state(state)),
            ]
            if record.version == 1:
                one.append(("name", stream, place))
            if isinstance(event, Created | Removed):
                made = isinstance(event, Created)
                holder = encode_state(ClaimState(record.stream)) if made else None
                one.append(("view", b"claim\0container-name/" + event.name.encode(), holder))
            puts.append(one)
        after = page[-1][0]
    log.close()
    return puts


def bare(directory: Path, puts: Sequence[Sequence[Put]], batch: int, seconds: float) -> Measured:
    """``puts`` in commits of ``batch`` events, by LMDB alone, for so many seconds or until there are no more."""
    env = lmdb.open(str(directory), map_size=1 << 40, max_dbs=8)
    tables = {name: env.open_db(name.encode()) for name in ("log", "name", "stream", "command", "view", "meta")}
    took: list[float] = []
    count, began = 0, time.perf_counter()
    for at in range(0, len(puts), batch):
        start = time.perf_counter()
        with env.begin(write=True) as txn:
            for one in puts[at : at + batch]:
                for table, key, value in one:
                    if value is None:
                        txn.delete(key, db=tables[table])
                    else:
                        txn.put(key, value, db=tables[table], append=table == "log")
                count += 1
        end = time.perf_counter()
        took.append(end - start)
        if end - began > seconds:
            break
    lasted = time.perf_counter() - began
    env.close()
    return Measured(count / lasted, took)


def peer(directory: Path, puts: Sequence[Sequence[Put]], batch: int, threads: int, seconds: float) -> Measured:
    """The ``eventsourcing`` library's SQLite recorder, saving ``batch`` events a call from so many threads."""
    from uuid import uuid4

    from eventsourcing.persistence import StoredEvent
    from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

    datastore = SQLiteDatastore(str(directory / "events.db"), pool_size=threads, pool_timeout=60, lock_timeout=60)
    recorder = SQLiteApplicationRecorder(datastore)
    recorder.create_table()
    states = [stored for one in puts for table, _, stored in one if table == "log" and stored is not None]
    took: list[list[float]] = [[] for _ in range(threads)]
    until = time.perf_counter() + seconds

    def save(mine: list[float]) -> None:
        container = uuid4()
        for version in itertools.count(step=batch):
            events = [
                StoredEvent(container, number, "lading:Event", states[number % len(states)])
                for number in range(version, version + batch)
            ]
            start = time.perf_counter()
            recorder.insert_events(events)
            end = time.perf_counter()
            mine.append(end - start)
            if end > until:
                return

    began = time.perf_counter()
    workers = [threading.Thread(target=save, args=(mine,)) for mine in took]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    lasted = time.perf_counter() - began
    datastore.close()
    together = [each for mine in took for each in mine]
    return Measured(len(together) * batch / lasted, together)


def in_directory(measure: Callable[..., Measured], *arguments: Any) -> Measured:
    """``measure`` in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="lading-bench-") as name:
        return measure(Path(name), *arguments)


def one_round(level: int, seconds: float) -> Iterator[tuple[str, Measured]]:
    """Everybody once, one right after the other."""
    with tempfile.TemporaryDirectory(prefix="lading-bench-") as name:
        yield "lading", trio.run(through_journal, Path(name) / "log", level, seconds)
        puts = puts_of(Path(name) / "log", 100_000)
    yield "bare LMDB", in_directory(bare, puts, level, seconds)
    yield "bare LMDB, records only", in_directory(bare, [one[:1] for one in puts], level, seconds)
    if find_spec("eventsourcing") is None:
        return
    if level == 1:
        yield "eventsourcing", in_directory(peer, puts, 1, 1, seconds)
        yield "eventsourcing, 100 a call", in_directory(peer, puts, 100, 1, seconds)
    elif level == 64:
        yield "eventsourcing, 64 threads", in_directory(peer, puts, 1, 64, seconds)


def main(levels: Sequence[int], seconds: float) -> None:
    report = Report("append")
    if find_spec("eventsourcing") is None:
        report.missing("eventsourcing", "not installed; ./dev bench does it")
    for level in levels:
        best: dict[str, Measured] = {}
        for _ in range(3):
            for who, found in one_round(level, seconds):
                best[who] = max(found, best.get(who, found), key=lambda measured: measured.rate)
        yard = best["bare LMDB"]
        for who, each in best.items():
            report.add(
                "durable events",
                each.rate,
                "1/s",
                n=len(each.seconds),
                concurrency=level,
                peer=who,
                ratio=each.rate / yard.rate,
                **each.quantiles(),
            )
        if level == 1:
            p50, bound = best["lading"].quantiles()["p50_ms"], yard.quantiles()["p50_ms"]
            report.add("latency p50", p50, "ms", n=len(best["lading"].seconds), ratio=p50 / bound)
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2, help="for each measurement")
    parser.add_argument("--levels", default=",".join(map(str, LEVELS)), help="appenders at once")
    arguments = parser.parse_args()
    main([int(level) for level in arguments.levels.split(",")], arguments.seconds)
