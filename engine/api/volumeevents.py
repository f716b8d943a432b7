"""What Docker tells of volumes, from the log: made, mounted by a container that starts, unmounted, gone.

Source: moby ``daemon/volumes.go`` and ``volume/service`` (v27), LogVolumeEvent, for actions and attributes.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from lading.events.container import Exited, Started
from lading.events.containerviews import SETTINGS
from lading.events.envelope import Record
from lading.events.settings import Mount
from lading.events.upkeep import Configured
from lading.events.volume import VolumeCreated, VolumeRemoved
from lading.storage.log import Log

__all__ = ["VolumeWord", "volume_words"]


@attrs.frozen
class VolumeWord:
    """Volume ``name`` was ``action``: create, mount, unmount, destroy."""

    action: str
    name: str
    attributes: dict[str, str]


def volume_words(log: Log, record: Record) -> list[VolumeWord]:
    """What Docker would have told of volumes at ``record``, which is of a volume or of a container."""
    match record.event:
        case VolumeCreated(name=name):
            return [VolumeWord("create", name, {"driver": "local"})]
        case VolumeRemoved():
            return [VolumeWord("destroy", record.stream.removeprefix("volume/"), {"driver": "local"})]
        case Started():
            return [_mounted(record, mount) for mount in _mounts(log, record.stream) if mount.kind == "volume"]
        case Exited():
            container = record.stream.removeprefix("container/")
            return [
                VolumeWord("unmount", mount.source, {"container": container, "driver": "local"})
                for mount in _mounts(log, record.stream)
                if mount.kind == "volume"
            ]
        case _:
            return []


def _mounted(record: Record, mount: Mount) -> VolumeWord:
    attributes = {
        "container": record.stream.removeprefix("container/"),
        "destination": mount.target,
        "driver": "local",
        "propagation": mount.propagation,
        "read/write": str(not mount.read_only).lower(),
    }
    return VolumeWord("mount", mount.source, attributes)


def _mounts(log: Log, stream: str) -> Sequence[Mount]:
    """What the container of ``stream`` mounts, which never changes; nothing if that was compacted away."""
    settings = log.get(SETTINGS, stream.removeprefix("container/"))
    if settings is not None:
        return settings.mounts
    for record in log.read_stream(stream, 1, 1):
        if isinstance(record.event, Configured):
            return record.event.settings.mounts
    return ()
