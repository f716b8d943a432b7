"""What a record from elsewhere must be before it is believed: an import or a restored backup is a stranger's word.

The chain proves that a history is one piece, not that an engine wrote it. Here the engine's own promises are
checked again, above all those that later make a path or a signal of a name: ids are ids, digests are digests, and
an event is in the stream that it belongs to. Whether it can have happened there, the fold says (``views``).
"""

from __future__ import annotations

from typing import assert_never

from lading.events.claims import Claim, ClaimReleased, ClaimTaken, claim_stream
from lading.events.compaction import LogCompacted
from lading.events.container import (
    Configured,
    Created,
    Exited,
    HealthChanged,
    KillRequested,
    Paused,
    Rebased,
    Removed,
    RemoveFailed,
    RemoveRequested,
    Renamed,
    RestartCancelled,
    RestartScheduled,
    Started,
    StartFailed,
    StartRequested,
    StopRequested,
    Unpaused,
    Updated,
)
from lading.events.envelope import Record
from lading.events.errors import Invalid
from lading.events.execs import ExecCreated, ExecEvent, exec_stream
from lading.events.facts import ImageEvent, TransferEvent
from lading.events.ids import (
    check_command_id,
    check_container_id,
    check_container_name,
    check_digest,
    container_stream,
    image_stream,
    layer_stream,
    tag_stream,
)
from lading.events.image import (
    ImageAdded,
    ImageRemoved,
    LayerAdded,
    LayerArchived,
    LayerPacked,
    LayerRemoved,
    LayerRemoveRequested,
    LayerSealed,
    ManifestAdded,
    Pushed,
    Tagged,
    Untagged,
)
from lading.events.reference import parse_reference
from lading.events.settings import ContainerSettings
from lading.events.signals import signal_number
from lading.events.store import ENGINE_STREAM, StoreCreated
from lading.events.transfer import (
    LeaseReleased,
    LeaseTaken,
    PullFailed,
    PullFinished,
    PullProgressed,
    PullRequested,
    lease_stream,
    pull_stream,
)
from lading.events.volume import VolumeCreated, VolumeEvent, VolumeFilled, check_volume_name, volume_stream

__all__ = ["check_foreign"]

_LONGEST = 64


def check_foreign(record: Record, store: str) -> None:
    """Raise ``Invalid`` for a record that no engine of the store called ``store`` can have written."""
    stream = _stream(record, store)
    if record.stream != stream:
        raise Invalid("stream", record.stream, f"a record of this event is in stream {stream}")
    for name, text in (("command", record.command), ("event id", record.event_id)):
        if len(text) > _LONGEST:
            raise Invalid(name, text, f"it is longer than {_LONGEST} characters")
    if isinstance(record.event, StoreCreated) != (record.position == 1):
        raise Invalid("record", record.position, "a history begins with the making of its store, and has one")


def _stream(record: Record, store: str) -> str:
    """The stream that the event belongs to, once everything in it that names something is checked."""
    event = record.event
    match event:
        case StoreCreated():
            if event.store != store:
                raise Invalid("store", event.store, f"the history says that it is of store {store}")
            return ENGINE_STREAM
        case _ if isinstance(event, ImageEvent):
            return _image_stream(event)
        case _ if isinstance(event, TransferEvent):
            return _transfer_stream(event, record.stream)
        case _ if isinstance(event, ExecEvent):
            return _exec_stream(event, record.stream)
        case _ if isinstance(event, VolumeEvent):
            return _volume_stream(event, record.stream)
        case ClaimTaken() | ClaimReleased():
            check_container_id(event.holder.removeprefix("container/"))
            return claim_stream(Claim(event.kind, event.name))
        case LogCompacted():
            for digest in (event.chain, event.state, event.digest):
                check_digest(f"sha256:{digest}")
            return ENGINE_STREAM
        case Created():
            check_container_name(event.name)
            for digest in (event.spec.image, *event.spec.layers):
                check_digest(digest)
            return container_stream(check_container_id(event.container))
        case StopRequested() | KillRequested():
            signal_number(event.signal)
        case Renamed():
            check_container_name(event.old)
            check_container_name(event.new)
        case Removed():
            check_container_name(event.name)
        case Rebased():
            check_digest(event.chain)
        case Configured():
            _check_settings(event.settings)
        case StartRequested() | Started() | StartFailed() | Exited() | RemoveRequested() | RemoveFailed():
            pass
        case Paused() | Unpaused() | Updated() | HealthChanged() | RestartScheduled() | RestartCancelled():
            pass
        case _:
            assert_never(event)
    return container_stream(check_container_id(record.stream.removeprefix("container/")))


def _check_settings(settings: ContainerSettings) -> None:
    for mount in settings.mounts:
        if mount.kind == "volume":
            check_volume_name(mount.source)
    if settings.forked_from:
        check_container_id(settings.forked_from)


def _exec_stream(event: ExecEvent, stream: str) -> str:
    identifier = stream.partition("/")[2]
    check_container_id(identifier)  # the same form
    if isinstance(event, ExecCreated):
        check_container_id(event.container)
        identifier = event.exec
    return exec_stream(identifier)


def _volume_stream(event: VolumeEvent, stream: str) -> str:
    name = event.name if isinstance(event, VolumeCreated) else stream.partition("/")[2]
    if isinstance(event, VolumeFilled):
        check_container_id(event.container)
    return volume_stream(check_volume_name(name))


def _image_stream(event: ImageEvent) -> str:
    match event:
        case LayerAdded():
            for digest in (event.diff_id, event.parent or event.chain):
                check_digest(digest)
            return layer_stream(check_digest(event.chain))
        case LayerArchived():
            check_digest(event.blob or event.chain)
            return layer_stream(check_digest(event.chain))
        case LayerPacked():
            check_digest(event.digest)
            return layer_stream(check_digest(event.chain))
        case LayerSealed():
            check_container_id(event.container)
            return layer_stream(check_digest(event.chain))
        case LayerRemoveRequested() | LayerRemoved():
            return layer_stream(check_digest(event.chain))
        case ImageAdded():
            for digest in (*event.layers, *event.diff_ids):
                check_digest(digest)
            return image_stream(check_digest(event.image))
        case ImageRemoved():
            return image_stream(check_digest(event.image))
        case ManifestAdded():
            check_digest(event.digest)
            return image_stream(check_digest(event.image))
        case Pushed():
            check_digest(event.digest)
            _check_name(event.name)
            return image_stream(check_digest(event.image))
        case Tagged():
            check_digest(event.previous or event.image)
        case Untagged():
            pass
        case _:
            assert_never(event)
    check_digest(event.image)
    _check_name(event.name)
    return tag_stream(event.name)


def _transfer_stream(event: TransferEvent, stream: str) -> str:
    identifier = stream.partition("/")[2]
    check_command_id(identifier)
    match event:
        case PullRequested() | PullProgressed() | PullFinished() | PullFailed():
            if isinstance(event, PullRequested):
                _check_name(event.reference)
            elif isinstance(event, PullFinished):
                check_digest(event.image)
                check_digest(event.digest)
            return pull_stream(identifier)
        case LeaseTaken() | LeaseReleased():
            for chain in event.layers if isinstance(event, LeaseTaken) else ():
                check_digest(chain)
            return lease_stream(identifier)
        case _:
            assert_never(event)


def _check_name(name: str) -> None:
    if parse_reference(name).full != name:
        raise Invalid("tag", name, "it is not the full form of a name")
