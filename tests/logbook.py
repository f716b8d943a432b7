"""A log to append to by hand: short words for events, and ways to look at and to damage every table."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any

import attrs
import lmdb

from lading.events.container import Created, Removed, RemoveRequested, Renamed, StartFailed, StartRequested
from lading.events.envelope import Actor, Proposed, Record
from lading.events.errors import Refused
from lading.events.ids import CommandId, container_stream, tag_stream
from lading.events.image import LayerAdded, Tagged
from lading.events.spec import ContainerSpec
from lading.events.store import ENGINE_STREAM, StoreCreated
from lading.events.views import CONTAINERS, VIEWS
from lading.storage.log import Append, Log

IMAGE = "sha256:" + "1" * 64
SPEC = ContainerSpec(IMAGE, "app", (), ("true",))
ACTOR = Actor(1000, 1000, 4, "test")
BORN = Proposed(ENGINE_STREAM, StoreCreated("0" * 32, 1), 0)


def cid(number: int) -> str:
    return f"{number:064x}"


def made(number: int, name: str = "", expect: int | None = 0, **spec: Any) -> Proposed:
    event = Created(cid(number), name or f"name{number}", attrs.evolve(SPEC, **spec))
    return Proposed(container_stream(cid(number)), event, expect)


def does(number: int, event: Any, expect: int | None = None) -> Proposed:
    return Proposed(container_stream(cid(number)), event, expect)


def layer(number: int) -> Proposed:
    chain = f"sha256:{cid(number)}"
    return Proposed(f"layer/{chain}", LayerAdded(chain, chain, "", 1, 2, 3, False))


def member(*events: Proposed, time: int = 777) -> Append:
    ids = tuple(f"{at:032x}" for at in range(len(events)))
    return Append(events, ids, time, ACTOR, CommandId("c" * 32), 0)


def told(log: Log, *events: Proposed) -> tuple[Record, ...]:
    """Append ``events`` as one member, which must be allowed; each has a time of its own."""
    (answer,) = log.append([member(*events, time=777 + log.position)])
    assert not isinstance(answer, Refused), answer
    return answer


def dump(log: Log) -> dict[str, dict[bytes, bytes]]:
    """Every byte of every table, except for what names the store."""
    with log.db.read() as txn:
        return {name: dict(txn.cursor(db=table)) for name, table in log.db.tables.items()}


def put(log: Log, name: str, key: bytes, value: bytes | None) -> None:
    """Damage: change or (None) delete an entry behind the log's back."""
    table = log.db.tables[name]

    def damage(txn: lmdb.Transaction) -> tuple[None, int, int]:
        assert txn.delete(key, db=table) if value is None else txn.put(key, value, db=table)
        return None, 1, 0

    log.db.write(damage)


def u64(number: int) -> bytes:
    return struct.pack(">Q", number)


def grown(log: Log) -> Log:
    told(log, BORN, made(1, labels={"a": "b"}), made(2), layer(1))
    told(
        log, does(1, StartRequested(1)), does(2, Renamed("name2", "web")), made(3), does(3, RemoveRequested(False))
    )
    told(log, does(3, Removed("name3")), Proposed(tag_stream("t"), Tagged("t", IMAGE, "")), layer(1))
    return log


def append(log: Log, *events: Proposed, time: int) -> None:
    ids = tuple(f"{number:032x}" for number in range(len(events)))
    (answer,) = log.append([Append(events, ids, time, ACTOR, CommandId(f"{log.position:032x}"))])
    assert isinstance(answer, tuple), answer


def busy(log: Log, steps: int, seed: int = 1, reopen: Any = None) -> Iterator[Log]:
    """A log in which containers come and go, each step at its own time; yields the log after each."""
    chance = random.Random(seed)
    alive: list[int] = []
    number = 0
    append(log, BORN, time=1)
    for step in range(steps):
        if alive and chance.random() < 0.45:
            gone = alive.pop(chance.randrange(len(alive)))
            append(log, does(gone, RemoveRequested(False)), does(gone, Removed(f"name{gone}")), time=10 * step)
        elif alive and chance.random() < 0.3:
            again = chance.choice(alive)
            run = log.at(log.position).get(CONTAINERS, cid(again)).run + 1  # type: ignore[union-attr]
            append(log, does(again, StartRequested(run)), does(again, StartFailed(run, 127, "no")), time=10 * step)
        else:
            number += 1
            alive.append(number)
            append(log, made(number), time=10 * step)
        if reopen is not None and chance.random() < 0.2:
            log = reopen(log)
        yield log


def everything(reader: Any) -> dict[str, list[tuple[str, Any]]]:
    return {view.name: reader.scan(view) for view in VIEWS}
