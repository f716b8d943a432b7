"""Every event there is, as one union."""

from __future__ import annotations

from typing import TypeAlias

from lading.events.claims import ClaimReleased, ClaimTaken
from lading.events.compaction import LogCompacted
from lading.events.container import ContainerEvent
from lading.events.execs import ExecEvent
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
from lading.events.store import StoreCreated
from lading.events.transfer import (
    LeaseReleased,
    LeaseTaken,
    PullFailed,
    PullFinished,
    PullProgressed,
    PullRequested,
)
from lading.events.volume import VolumeEvent

__all__ = ["Event", "ImageEvent", "TransferEvent"]

ImageEvent: TypeAlias = (
    LayerAdded
    | LayerSealed
    | LayerArchived
    | LayerPacked
    | LayerRemoveRequested
    | LayerRemoved
    | ImageAdded
    | ImageRemoved
    | ManifestAdded
    | Pushed
    | Tagged
    | Untagged
)
"""Everything that happens to images, layers and names."""

TransferEvent: TypeAlias = PullRequested | PullProgressed | PullFinished | PullFailed | LeaseTaken | LeaseReleased
"""Everything that is told of what is under way with them."""

Event: TypeAlias = (
    ContainerEvent
    | ExecEvent
    | VolumeEvent
    | ImageEvent
    | TransferEvent
    | ClaimTaken
    | ClaimReleased
    | StoreCreated
    | LogCompacted
)
