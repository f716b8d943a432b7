"""Every event there is, as one union."""

from __future__ import annotations

from typing import TypeAlias

from lading.events.claims import ClaimReleased, ClaimTaken
from lading.events.compaction import LogCompacted
from lading.events.container import ContainerEvent
from lading.events.image import ImageAdded, LayerAdded, Tagged
from lading.events.store import StoreCreated

__all__ = ["Event"]

Event: TypeAlias = (
    ContainerEvent | ImageAdded | LayerAdded | Tagged | ClaimTaken | ClaimReleased | StoreCreated | LogCompacted
)
