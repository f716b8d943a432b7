"""Which images a list shows, and under which of their names.

Source: Docker Engine API v1.47, ImageList; moby ``daemon/images/image_list.go`` (v27): the most recent first, an
image without a name where no ``reference`` is asked for, several ``before`` and ``since`` all at once.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from typing import Final

from lading.engine.api.imageshapes import familiar
from lading.engine.api.request import Filters, boolean_filter, check_reference
from lading.engine.api.words import parse_past
from lading.engine.queries import ImageQueries, created_at, labels_fit
from lading.events.image import ImageState
from lading.events.reference import parse_reference

__all__ = ["LISTING_FILTERS", "ImageListing"]

LISTING_FILTERS: Final = ("reference", "dangling", "label", "before", "since", "until")


class ImageListing:
    """One list request at ``now`` (nanoseconds UTC), checked when it is made: `HttpError` 400, ``NotFound``."""

    def __init__(self, images: ImageQueries, filters: Filters, now: int) -> None:
        self._images = images
        self._labels = filters.get("label", ())
        self._patterns = filters.get("reference")
        self._dangling = boolean_filter(filters, "dangling")
        bounds = {
            name: [created_at(images.resolve(check_reference(value))) for value in filters.get(name, ())]
            for name in ("before", "since")
        }
        bounds["before"] += [parse_past(value, "until", now) for value in filters.get("until", ())]
        self._before = min(bounds["before"], default=None)
        self._since = max(bounds["since"], default=None)

    def images(self) -> Iterator[tuple[ImageState, Sequence[str]]]:
        """What to show, in order, with the full names to show it under."""
        found = sorted(self._images.list(), key=created_at, reverse=True)
        for image in found:
            created = created_at(image)
            if self._before is not None and created >= self._before:
                continue
            if self._since is not None and created <= self._since:
                continue
            if not labels_fit(self._labels, image.config.labels):
                continue
            names = image.tags if self._patterns is None else [name for name in image.tags if self._fits(name)]
            if self._patterns is not None and not names:
                continue
            if self._dangling is None or self._dangling == all("@" in name for name in names):
                yield image, names

    def _fits(self, name: str) -> bool:
        return any(_matches(pattern, name) for pattern in self._patterns or ())


def _matches(pattern: str, name: str) -> bool:
    """Whether a shell pattern fits the familiar name with or without its tag; ``*`` stops at a slash."""
    names = (familiar(name), parse_reference(name).repository)
    parts = pattern.replace("[^", "[!").split("/")
    for shown in names:
        pieces = shown.split("/")
        if len(pieces) == len(parts) and all(map(fnmatch.fnmatchcase, pieces, parts)):
            return True
    return False
