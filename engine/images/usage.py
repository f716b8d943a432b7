"""What images take on disk: recorded when they came, so that it is told at once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping

import attrs

from lading.events.errors import HostError
from lading.events.ids import ImageId
from lading.events.image import LayerState
from lading.events.views import ARCHIVES, CONTAINERS, IMAGES, LAYERS, MANIFESTS, Reader
from lading.storage.layers import blob_name
from lading.storage.store import Paths
from lading.storage.trees import measure, measure_tree

__all__ = ["DiskUsage", "ImageUsage", "disk_usage", "layer_bytes", "measure_writable"]


@attrs.frozen
class ImageUsage:
    """One image, in bytes as ``du`` counts: ``size`` of all that it needs; ``shared``: what of it other images
    need, too; ``unique``: what goes when it goes. ``containers``: how many were made from it.
    """

    image: ImageId
    names: tuple[str, ...]
    size: int
    shared: int
    containers: int

    @property
    def unique(self) -> int:
        """What no other image needs."""
        return self.size - self.shared


@attrs.frozen
class DiskUsage:
    """What the store's images take.

    ``layers``: unpacked layers; ``archives``: what makes their archives again; ``documents``: configs and
    manifests. Together they are what ``du`` says of ``layers/``, ``splits/`` and ``blobs/``, but for those
    directories themselves. ``reclaimable``: what a prune of all unused images would free.
    """

    images: tuple[ImageUsage, ...]
    layers: int
    archives: int
    documents: int
    reclaimable: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.layers + self.archives + self.documents


def layer_bytes(paths: Paths, layer: LayerState) -> int:
    """What ``layer`` takes on disk. It was counted when it came, but for what a container wrote if that was much:
    that is counted now; 0 if it is on its way out."""
    if layer.inodes:
        return layer.disk_bytes
    try:
        return measure(paths.layer(layer.chain)).disk_bytes
    except HostError:
        return 0


def disk_usage(reader: Reader, paths: Paths) -> DiskUsage:
    """What the views of ``reader`` say; only the length of configs is looked up. No ``du``, and no walk but that
    of ``layer_bytes``."""
    layers = {chain: layer_bytes(paths, layer) for chain, layer in reader.scan(LAYERS)}
    split, blobs, blob_of = _archives(reader)
    manifests = {image: state.disk_bytes for image, state in reader.scan(MANIFESTS)}
    images = [state for _, state in reader.scan(IMAGES)]
    users = Counter(chain for image in images for chain in image.layers)
    containers = Counter(state.spec.image for _, state in reader.scan(CONTAINERS))
    needed: set[str] = set()
    for _, container in reader.scan(CONTAINERS):
        needed.update(container.spec.layers)
    cost = {
        chain: size + split.get(chain, 0) + blobs.get(blob_of.get(chain, ""), 0) for chain, size in layers.items()
    }
    found, documents, unused = [], 0, 0
    for image in images:
        own = manifests.get(image.image, 0) + _blocks(paths, image.image)
        documents += own
        shared = sum(cost.get(chain, 0) for chain in set(image.layers) if users[chain] > 1)
        size = own + sum(cost.get(chain, 0) for chain in set(image.layers))
        found.append(ImageUsage(image.image, image.tags, size, shared, containers[image.image]))
        if containers[image.image]:
            needed.update(image.layers)
        else:
            unused += own
    unused += sum(size for chain, size in cost.items() if chain not in needed)
    archives = sum(split.values()) + sum(blobs.values())
    return DiskUsage(tuple(found), sum(layers.values()), archives, documents, unused)


def _archives(reader: Reader) -> tuple[Mapping[str, int], Mapping[str, int], Mapping[str, str]]:
    """What splits take by chain id, what blobs take by digest (each once), and which layer has which blob."""
    split: dict[str, int] = {}
    blobs: dict[str, int] = {}
    blob_of: dict[str, str] = {}
    for chain, archive in reader.scan(ARCHIVES):
        if archive.blob:
            blobs[archive.blob] = archive.disk_bytes
            blob_of[chain] = archive.blob
        else:
            split[chain] = archive.disk_bytes
    return split, blobs, blob_of


def _blocks(paths: Paths, digest: str) -> int:
    try:
        return blob_name(paths, digest).stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def measure_writable(paths: Paths, container: str) -> int:
    """Bytes on disk of what a container wrote; 0 if it never ran, or is on its way out."""
    try:
        upper = paths.container(container) / "upper"
        fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        return measure_tree(fd).disk_bytes - os.fstat(fd).st_blocks * 512  # the layer's root is no change
    except HostError:
        return 0
    finally:
        os.close(fd)
