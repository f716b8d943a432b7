"""Images, layers and names: their facts, their states, and how the one follows from the other.

A layer is known by its chain id and never changes. An image is known by its config's digest and never
changes. A name points at one image at a time: ``domain/path:tag``, which may move, or ``domain/path@digest``,
which says that the registry there has the image as the manifest (or index) with this digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from lading.events.ids import ChainId, Digest, ImageId

__all__ = [
    "ArchiveForm",
    "ArchiveState",
    "GoingState",
    "ImageAdded",
    "ImageConfig",
    "ImageRemoved",
    "ImageState",
    "LayerAdded",
    "LayerArchived",
    "LayerPacked",
    "LayerRemoveRequested",
    "LayerRemoved",
    "LayerSealed",
    "LayerState",
    "ManifestAdded",
    "ManifestsState",
    "Pushed",
    "SealedState",
    "TagState",
    "Tagged",
    "Untagged",
]

ArchiveForm = Literal["blob", "split", "pack"]
"""What makes a layer's archive again: the compressed archive itself, as it came; its headers, with the contents
that the unpacked layer has (``storage/split``); or packing the layer (``storage/pack``), which made it."""


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
class LayerSealed:
    """The layer, which was just added, was the writable layer of ``container`` and has not been read since.

    Its diff id, its chain id and so the ids of its images are drawn at random: the real ones are found out when
    somebody needs an archive of it, and belong to another layer and image, made then.
    """

    chain: ChainId
    container: str


@attrs.frozen
class SealedState:
    """Whose writable layer it was, and when it was sealed (nanoseconds UTC)."""

    container: str
    sealed_at: int


@attrs.frozen
class ImageAdded:
    """An image is complete: its config is in the blob store and all its layers are usable.

    ``layers``: chain ids, lowest first. ``created``: RFC 3339, from the config. ``origin``: how it came
    here (``import``, ``load``, ``pull``, ``commit``), ``comment``: what its maker said.
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
class Untagged:
    """``name`` (full form), which pointed at ``image``, is no name any more."""

    name: str
    image: ImageId


@attrs.frozen
class ImageRemoved:
    """An image without a name is gone. Its config goes to the trash; its layers have facts of their own."""

    image: ImageId


@attrs.frozen
class LayerArchived:
    """How the archive of layer ``chain`` can be made again, byte for byte.

    ``blob``, ``blob_size`` and ``media_type`` are of the compressed archive that is kept (form ``blob``), else
    empty. ``disk_bytes``: what keeping it takes, as ``du`` counts.
    """

    chain: ChainId
    form: ArchiveForm
    blob: str
    blob_size: int
    media_type: str
    disk_bytes: int


@attrs.frozen
class LayerPacked:
    """The archive of layer ``chain``, compressed to be pushed, had this digest and size. It is not kept.

    A registry that has a blob with this digest needs not be sent it again.
    """

    chain: ChainId
    digest: Digest
    size: int
    media_type: str


@attrs.frozen
class LayerRemoveRequested:
    """Nothing uses layer ``chain`` any more: it is moved into the trash."""

    chain: ChainId


@attrs.frozen
class LayerRemoved:
    """Layer ``chain`` is in the trash."""

    chain: ChainId


@attrs.frozen
class ManifestAdded:
    """``image`` is what manifest ``digest`` describes, which is kept as a blob of ``disk_bytes`` (``du``)."""

    image: ImageId
    digest: Digest
    media_type: str
    disk_bytes: int


@attrs.frozen
class Pushed:
    """The registry of ``name`` (full form) has ``image`` as the manifest ``digest`` of ``size`` bytes."""

    image: ImageId
    name: str
    digest: Digest
    size: int


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


@attrs.frozen
class ArchiveState:
    """How a layer's archive can be made again; ``packed`` and the rest: as it was last compressed to be pushed."""

    form: ArchiveForm
    blob: str
    blob_size: int
    media_type: str
    disk_bytes: int
    packed: str = ""
    packed_size: int = 0
    packed_type: str = ""


@attrs.frozen
class ManifestsState:
    """The manifests that are kept for an image, in the order in which they came, and what they take on disk."""

    digests: tuple[Digest, ...]
    media_types: tuple[str, ...]
    disk_bytes: int


@attrs.frozen
class GoingState:
    """A layer that is being moved into the trash, and since when (nanoseconds UTC)."""

    chain: ChainId
    since: int
