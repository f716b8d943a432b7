"""Whole histories as stored bytes, made without a store; and ways to spoil a file line by line."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack

from lading.events.codec import GENESIS, encode_record
from lading.events.container import Created, Exited, Started, StartRequested
from lading.events.envelope import Actor, Proposed, Record
from lading.events.ids import container_stream
from lading.events.image import LayerAdded
from lading.events.spec import ContainerSpec, ProcessId
from lading.events.store import ENGINE_STREAM, StoreCreated
from lading.storage.export import Header, write_export
from lading.storage.importing import import_history

STORE = "0" * 32
Stored = list[tuple[int, bytes]]

_DIGEST = "sha256:" + "1" * 64
_SPEC = ContainerSpec(_DIGEST, "app:1", (_DIGEST,), ("sh", "-c", "echo é\x1b[31m"), labels={"$x": "1", "a": "\n"})


def stored(members: Sequence[Sequence[Proposed]], store: str = STORE) -> Stored:
    """``members`` as one log would have them, for a store called ``store``."""
    made: Stored = []
    versions: dict[str, int] = {}
    chain = GENESIS
    for number, member in enumerate(members):
        for proposed in member:
            event: Any = proposed.event
            event = StoreCreated(store, event.format) if isinstance(event, StoreCreated) else event
            version = versions[proposed.stream] = versions.get(proposed.stream, 0) + 1
            position = len(made) + 1
            actor = Actor(0, 0, None, "test")
            when = 1_767_225_600_000_000_000 + number
            event_id, command = f"{position:032x}", f"{number:032x}"
            record = Record(position, proposed.stream, version, event_id, when, actor, command, 0, event, b"")
            whole, chain = encode_record(record, chain)
            made.append((position, whole))
    return made


def some_past(containers: int = 2, store: str = STORE) -> Stored:
    """A store, a layer and a few containers that ran."""
    members = [[Proposed(ENGINE_STREAM, StoreCreated(store, 1))]]
    members.append([Proposed(f"layer/{_DIGEST}", LayerAdded(_DIGEST, _DIGEST, "", 1, 2, 3, False))])
    for number in range(containers):
        container = f"{number:064x}"
        life: list[Any] = [
            Created(container, f"name{number}", _SPEC),
            StartRequested(1),
            Started(1, ProcessId("boot", 7, 2**64 - 1)),
            Exited(1, None, 0, "gone"),
        ]
        members += [[Proposed(container_stream(container), event)] for event in life]
    return stored(members, store)


def with_bodies(bodies: Sequence[Any], chain: bytes = GENESIS) -> Stored:
    """Records with these msgpack arrays, chained."""
    made = []
    for position, body in enumerate(bodies, 1):
        packed = body if isinstance(body, bytes) else msgpack.packb(body)
        chain = hashlib.sha256(chain + packed).digest()
        made.append((position, packed + chain))
    return made


def rechained(records: Stored, chain: bytes = GENESIS) -> Stored:
    """The bodies of ``records``, counted and chained anew, as somebody would who wants it not to be noticed."""
    bodies = [msgpack.unpackb(whole[:-32]) for _, whole in records]
    return with_bodies([[body[0], at, *body[2:]] for at, body in enumerate(bodies, 1)], chain)


def spoilt(data: bytes) -> Iterator[tuple[int, str, bytes]]:
    """``data``, each line deleted, doubled, cut and so on: the first wrong line, what was done, the data."""
    lines = data.splitlines(keepends=True)
    for at, line in enumerate(lines):
        number, before, after = at + 1, b"".join(lines[:at]), b"".join(lines[at + 1 :])
        yield number, f"line {number} deleted", before + after
        yield number + 1, f"line {number} doubled", before + line + line + after
        yield number, f"line {number} emptied", before + b"\n" + after
        yield number, f"line {number} halved", before + line[: len(line) // 2] + b"\n" + after
        yield number, f"line {number} joined to the next", before + line[:-1] + after
        yield number, f"cut off after line {at}", before
        yield number, f"cut off in line {number}", before + line[: len(line) // 2]
        if after:
            yield (
                number,
                f"lines {number} and {number + 1} swapped",
                before + lines[at + 1] + line + after[len(lines[at + 1]) :],
            )
    yield len(lines) + 1, "something after the end", data + b"\n"
    yield len(lines) + 1, "everything twice", data + data


def make_store(root: Path, past: Stored, store: str = STORE) -> None:
    """A store at ``root`` with this history."""
    out = io.BytesIO()
    write_export(out, Header(store), [past])
    out.seek(0)
    import_history(root, [("past", out)])
