"""Records as bytes. Tags, schema versions and field order are the log's wire format: they only ever grow.

A record is one msgpack array::

    [1, position, stream, version, event id, time, [uid, gid, pid, client], command, cause,
     tag, schema, [field, ...]]

The stored value is these bytes followed by 32 bytes of chain: sha256(previous chain || record bytes); the
chain before the first record is 32 zero bytes. ``tests/golden`` keeps bytes of every schema ever released.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import attrs
import msgpack
from msgpack import packb, unpackb

from lading.events import claims, compaction, container, execs, image, store, transfer, upkeep, volume
from lading.events.construct import constructor
from lading.events.envelope import Actor, Record
from lading.events.errors import StoreCorrupt
from lading.events.facts import Event
from lading.events.shapes import decoder, encoder, from_plain, to_plain
from lading.events.spec import ContainerSpec

__all__ = [
    "GENESIS",
    "RELEASES",
    "SCHEMAS",
    "check_chain",
    "decode_entry",
    "decode_record",
    "decode_state",
    "encode_record",
    "encode_state",
    "event_tag",
    "record_of",
    "record_time",
    "upcast",
]

GENESIS = bytes(32)
"""The chain before the first record."""

_CHAIN = 32
_FORMAT = 1
_PARTS = 12

SCHEMAS: dict[str, tuple[type[Any], int]] = {
    "store.created": (store.StoreCreated, 2),
    "container.created": (container.Created, 1),
    "container.start-requested": (container.StartRequested, 1),
    "container.started": (container.Started, 1),
    "container.start-failed": (container.StartFailed, 1),
    "container.stop-requested": (container.StopRequested, 1),
    "container.kill-requested": (container.KillRequested, 1),
    "container.exited": (container.Exited, 2),
    "container.renamed": (container.Renamed, 1),
    "container.remove-requested": (container.RemoveRequested, 1),
    "container.remove-failed": (container.RemoveFailed, 1),
    "container.removed": (container.Removed, 1),
    "container.paused": (container.Paused, 1),
    "container.unpaused": (container.Unpaused, 1),
    "container.configured": (upkeep.Configured, 1),
    "container.updated": (upkeep.Updated, 1),
    "container.health-changed": (upkeep.HealthChanged, 1),
    "container.restart-scheduled": (upkeep.RestartScheduled, 1),
    "container.restart-cancelled": (upkeep.RestartCancelled, 1),
    "container.rebased": (upkeep.Rebased, 1),
    "exec.created": (execs.ExecCreated, 1),
    "exec.requested": (execs.ExecRequested, 1),
    "exec.exited": (execs.ExecExited, 1),
    "volume.created": (volume.VolumeCreated, 1),
    "volume.filled": (volume.VolumeFilled, 1),
    "volume.remove-requested": (volume.VolumeRemoveRequested, 1),
    "volume.removed": (volume.VolumeRemoved, 1),
    "layer.sealed": (image.LayerSealed, 1),
    "layer.added": (image.LayerAdded, 1),
    "image.added": (image.ImageAdded, 1),
    "tag.set": (image.Tagged, 1),
    "tag.removed": (image.Untagged, 1),
    "image.removed": (image.ImageRemoved, 1),
    "image.manifest-added": (image.ManifestAdded, 1),
    "image.pushed": (image.Pushed, 1),
    "layer.archived": (image.LayerArchived, 1),
    "layer.packed": (image.LayerPacked, 1),
    "layer.remove-requested": (image.LayerRemoveRequested, 1),
    "layer.removed": (image.LayerRemoved, 1),
    "pull.requested": (transfer.PullRequested, 1),
    "pull.progressed": (transfer.PullProgressed, 1),
    "pull.finished": (transfer.PullFinished, 1),
    "pull.failed": (transfer.PullFailed, 1),
    "lease.taken": (transfer.LeaseTaken, 1),
    "lease.released": (transfer.LeaseReleased, 1),
    "claim.taken": (claims.ClaimTaken, 1),
    "claim.released": (claims.ClaimReleased, 1),
    "log.compacted": (compaction.LogCompacted, 1),
}
"""Tag -> the class that holds it today, and that class's schema version."""

_SINCE_0_3 = (
    "tag.removed",
    "image.removed",
    "image.manifest-added",
    "image.pushed",
    "layer.archived",
    "layer.packed",
    "layer.remove-requested",
    "layer.removed",
    "pull.requested",
    "pull.progressed",
    "pull.finished",
    "pull.failed",
    "lease.taken",
    "lease.released",
)

_SINCE_0_4 = (
    "container.exited",
    "container.paused",
    "container.unpaused",
    "container.configured",
    "container.updated",
    "container.health-changed",
    "container.restart-scheduled",
    "container.restart-cancelled",
    "container.rebased",
    "exec.created",
    "exec.requested",
    "exec.exited",
    "volume.created",
    "volume.filled",
    "volume.remove-requested",
    "volume.removed",
    "layer.sealed",
)

RELEASES: dict[str, str] = dict.fromkeys(SCHEMAS, "0.1.0") | {
    "store.created": "0.2.0",
    "claim.taken": "0.2.0",
    "claim.released": "0.2.0",
    "log.compacted": "0.2.0",
    **dict.fromkeys(_SINCE_0_3, "0.3.0"),
    **dict.fromkeys(_SINCE_0_4, "0.4.0"),
}
"""Tag -> the first release that writes today's schema of it: what an older release says is needed."""

UPCASTERS: dict[tuple[str, int], Callable[[list[Any]], list[Any]]] = {
    ("store.created", 1): lambda fields: [*fields, ""],  # the release was not recorded
    ("container.exited", 1): lambda fields: [*fields, False],  # nobody looked
}
"""(tag, schema) -> how its fields become those of schema + 1."""


_actor = constructor(Actor)
_record = constructor(Record)
_TAG_OF = {cls: (tag, schema) for tag, (cls, schema) in SCHEMAS.items()}


def event_tag(event: Event) -> str:
    """The wire tag of ``event``, e.g. ``container.started``."""
    return _TAG_OF[type(event)][0]


def encode_record(record: Record, previous: bytes) -> tuple[bytes, bytes]:
    """``(stored bytes, chain)`` of ``record`` after a record whose chain is ``previous``.

    ``record.chain`` is not looked at: it is what this computes.
    """
    event = record.event
    tag, schema = _TAG_OF[type(event)]
    actor = record.actor
    body = packb(
        (
            _FORMAT,
            record.position,
            record.stream,
            record.version,
            record.event_id,
            record.time,
            (actor.uid, actor.gid, actor.pid, actor.client),
            record.command,
            record.cause,
            tag,
            schema,
            encoder(type(event))(event),
        )
    )
    chain = hashlib.sha256(previous + body).digest()
    return body + chain, chain


def decode_record(stored: bytes, position: int, previous: bytes | None = None) -> Record:
    """The record stored at ``position``; with ``previous``, its chain is checked too.

    Raises ``StoreCorrupt`` naming the position for anything that is not exactly what was written.
    """
    if previous is not None:
        check_chain(stored, position, previous)
    return record_of(decode_entry(stored, position), stored)


def check_chain(stored: bytes, position: int, previous: bytes) -> bytes:
    """The chain of the record stored at ``position``; ``StoreCorrupt`` unless it follows from ``previous``."""
    chain = hashlib.sha256(previous + stored[:-_CHAIN]).digest()
    if stored[-_CHAIN:] != chain:
        raise StoreCorrupt(position, "its hash does not follow from the record before it")
    return chain


def record_of(entry: Sequence[Any], stored: bytes) -> Record:
    """The record of what ``decode_entry`` gave for ``stored``."""
    _, position, stream, version, event_id, time, actor, command, cause, _, _, event = entry
    uid, gid, pid, client = actor
    who = _actor(uid, gid, pid, client)
    return _record(position, stream, version, event_id, time, who, command, cause, event, stored[-_CHAIN:])


def decode_entry(stored: bytes, position: int) -> list[Any]:
    """The array of the record stored at ``position``, every part of it checked, the last one the event itself.

    As strict as ``decode_record``. For replaying millions: of most records a fold needs no more than
    ``stream, version, time, event = entry[2], entry[3], entry[5], entry[11]``. Written out by hand, unlike
    what ``shapes`` generates, because every record has it.
    """
    try:
        entry: list[Any] = unpackb(stored[:-_CHAIN])
        if type(entry) is not list or len(entry) != _PARTS:
            raise ValueError(f"expected an array of {_PARTS}")
        form, at, stream, version, event_id, time, actor, command, cause, tag, schema, fields = entry
        if not (
            type(form) is int
            and type(at) is int
            and type(stream) is str
            and type(version) is int
            and type(event_id) is str
            and type(time) is int
            and type(actor) is list
            and type(command) is str
            and type(cause) is int
            and type(tag) is str
            and type(schema) is int
            and type(fields) is list
        ):
            raise ValueError(f"it has parts of the types {', '.join(type(part).__name__ for part in entry)}")
        if form != _FORMAT or at != position:
            raise ValueError(f"it says format {form}, position {at}")
        uid, gid, pid, client = actor
        if not (
            (uid is None or type(uid) is int)
            and (gid is None or type(gid) is int)
            and (pid is None or type(pid) is int)
            and type(client) is str
        ):
            raise ValueError(
                f"its actor has parts of the types {', '.join(type(part).__name__ for part in actor)}"
            )
        cls, today = SCHEMAS[tag]
        entry[11] = decoder(cls)(fields if schema == today else upcast(tag, schema, fields))
    except (ValueError, TypeError, KeyError, msgpack.exceptions.UnpackException) as error:
        raise StoreCorrupt(position, f"it can't be decoded: {error}") from error
    return entry


def record_time(stored: bytes) -> int:
    """The time of a stored record, without decoding the rest of it. ``ValueError`` if it has none."""
    entry = msgpack.unpackb(stored[:-_CHAIN])
    if type(entry) is not list or len(entry) != _PARTS or type(entry[5]) is not int:
        raise ValueError("the record has no time")
    return entry[5]


def upcast(tag: str, schema: int, fields: list[Any]) -> list[Any]:
    """``fields`` of ``tag`` at ``schema``, brought to today's schema step by step."""
    today = SCHEMAS[tag][1]
    if schema > today:
        raise ValueError(f"{tag} has schema {schema}, and this release reads up to {today}")
    for step in range(schema, today):
        fields = UPCASTERS[tag, step](fields)
    return fields


def encode_state(state: attrs.AttrsInstance) -> bytes:
    """A view's value as bytes: the same form as an event's fields, without an envelope."""
    if type(state) is container.ContainerState:
        return _container_bytes(state)
    return cast("bytes", packb(to_plain(state)))


def _container_bytes(state: container.ContainerState) -> bytes:
    """What ``packb(to_plain(state))`` gives. Of a container's state, most is the recipe, which never changes.

    So that is packed once for all the states in which it is the same object, and put between what is before and
    after it. Each part is packed as an array, whose first byte (``0x90`` and the length, which is below 16) is
    left out.
    """
    spec = state.spec
    known = _PACKED.get(id(spec))
    if known is None or known[0] is not spec:
        if len(_PACKED) >= _MOST_PACKED:
            _PACKED.clear()
        known = _PACKED[id(spec)] = spec, packb(encoder(type(spec))(spec))
    process = state.process
    before = packb((state.id, state.name))
    after = packb(
        (
            str(state.phase),
            state.version,
            state.created_at,
            state.run,
            None if process is None else (process.boot, process.pid, process.start_ticks),
            state.started_at,
            state.finished_at,
            state.exit_code,
            state.error,
        )
    )
    return b"".join((_TWELVE, before[1:], known[1], after[1:]))


_PACKED: dict[int, tuple[ContainerSpec, bytes]] = {}
_MOST_PACKED = 4096
_TWELVE = b"\x9c"
"""The head of an array of twelve: the fields of a container's state."""


def decode_state(cls: type[Any], stored: bytes) -> Any:
    """The inverse of ``encode_state``; ``ValueError`` for anything that it can't have made of a ``cls``."""
    return from_plain(cls, unpackb(stored))
