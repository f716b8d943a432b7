"""What is used: worked out over the views of the log whenever it is asked, and counted nowhere.

A layer is used by the images that have it, by the containers that were made on it, and by leases; and whatever
uses a layer uses all below it. A blob is used as an image's config, as a layer's archive, as a manifest, or by a
name that has its digest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import attrs

from lading.events.image import LayerState
from lading.events.view import Reader
from lading.events.views import ARCHIVES, CONTAINERS, IMAGES, LAYERS, LEASES, MANIFESTS, TAGS

__all__ = ["Reach", "reach", "unreached"]


@attrs.frozen
class Reach:
    """What is used: layers by chain id, blobs by digest."""

    layers: frozenset[str]
    blobs: frozenset[str]


def reach(reader: Reader, without: Iterable[str] = (), gone: Collection[str] = ()) -> Reach:
    """What the views reach; as if the images ``without`` and the containers ``gone`` (ids) weren't there."""
    left_out = frozenset(without)
    layers: set[str] = set()
    blobs: set[str] = set()
    for image, state in reader.scan(IMAGES):
        if image not in left_out:
            layers.update(state.layers)
            blobs.add(image)
    for image, manifests in reader.scan(MANIFESTS):
        if image not in left_out:
            blobs.update(manifests.digests)
    for name, tag in reader.scan(TAGS):
        digest = name.partition("@")[2]
        if digest and tag.image not in left_out:
            blobs.add(digest)
    for key, container in reader.scan(CONTAINERS):
        if key not in gone:
            layers.update(container.spec.layers)
    known = dict(reader.scan(LAYERS))
    for _, lease in reader.scan(LEASES):
        for top in lease.layers:
            layers.update(_with_lower(top, known))
    for chain, archive in reader.scan(ARCHIVES):
        if archive.blob and chain in layers:
            blobs.add(archive.blob)
    return Reach(frozenset(layers), frozenset(blobs))


def _with_lower(top: str, known: dict[str, LayerState]) -> list[str]:
    """The layer ``top`` and every one below it."""
    found, chain = [], top
    while chain:
        found.append(chain)
        chain = known[chain].parent if chain in known else ""
    return found


def unreached(reader: Reader, reached: Reach) -> list[LayerState]:
    """The layers that ``reached`` leaves out, those on top before those below them."""
    left = {chain: layer for chain, layer in reader.scan(LAYERS) if chain not in reached.layers}
    depth: dict[str, int] = {}
    for chain in left:
        depth[chain] = len(_with_lower(chain, left))
    return sorted(left.values(), key=lambda layer: (-depth[layer.chain], layer.chain))
