"""Images, layers and tags: their facts, their states, and how the one follows from the other.

A layer is known by its chain id and never changes. An image is known by its config's digest and never
changes. A tag is a name that points at one image at a time.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from lading.events.ids import ChainId, Digest, ImageId

__all__ = [
    "ImageAdded",
    "ImageConfig",
    "ImageState",
    "LayerAdded",
    "LayerState",
    "TagState",
    "Tagged",
]


@attrs.frozen
class ImageConfig:
    """What an image says about running it (OCI image-spec, config.md#properties, ``config``)."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    labels: Mapping[str, str] = attrs.field(factory=dict)
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""


@attrs.frozen
class LayerAdded:
    """A layer is unpacked, synced to disk and usable.

    ``parent`` is the chain id of the layer below, empty for the lowest. ``size``: bytes of the
    uncompressed archive. ``disk_bytes``: what the unpacked tree occupies, as ``du`` counts. ``opaque``: it
    hides every layer below it (a ``.wh..wh..opq`` in its root), which the kernel leaves to us.
    """

    chain: ChainId
    diff_id: Digest
    parent: str
    size: int
    disk_bytes: int
    inodes: int
    opaque: bool


@attrs.frozen
class ImageAdded:
    """An image is complete: its config is in the blob store and all its layers are usable.

    ``layers``: chain ids, lowest first. ``created``: RFC 3339, from the config. ``origin``: how it came
    here (``import``), ``comment``: what the importer said.
    """

    image: ImageId
    layers: tuple[ChainId, ...]
    diff_ids: tuple[Digest, ...]
    config: ImageConfig
    created: str
    architecture: str
    os: str
    origin: str
    comment: str


@attrs.frozen
class Tagged:
    """``name`` (full form) now points at ``image``; ``previous`` is the image it pointed at, or empty."""

    name: str
    image: ImageId
    previous: str


@attrs.frozen
class LayerState:
    """A layer as it is now."""

    chain: ChainId
    diff_id: Digest
    parent: str
    size: int
    disk_bytes: int
    inodes: int
    opaque: bool


@attrs.frozen
class ImageState:
    """An image as it is now. ``tags``: full names, sorted. ``added_at``: nanoseconds UTC."""

    image: ImageId
    layers: tuple[ChainId, ...]
    diff_ids: tuple[Digest, ...]
    config: ImageConfig
    created: str
    architecture: str
    os: str
    origin: str
    comment: str
    added_at: int
    size: int
    tags: tuple[str, ...] = ()


@attrs.frozen
class TagState:
    """Where a tag points now, and since when (nanoseconds UTC)."""

    name: str
    image: ImageId
    since: int
