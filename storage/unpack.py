"""Unpacking a layer: a tar stream in, the upper directory of an overlay out.

The work is a plan first (:mod:`lading.storage.plan`), then its execution (:mod:`lading.storage.treewriter`)
beneath one directory descriptor. A layer is unpacked alone: what depends on the layers below it is told in the
result, for :mod:`lading.storage.settle`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from lading.storage.layerstream import LayerStream, Tee
from lading.storage.plan import DEFAULT_LIMITS, Limits, plan
from lading.storage.tar import ByteSource, TarReader
from lading.storage.treewriter import Borrowed, Splitter, TreeWriter

if TYPE_CHECKING:
    from pathlib import Path  # workers start without it

__all__ = ["Borrowed", "Splitter", "Unpacked", "unpack"]


@attrs.frozen
class Unpacked:
    """What was unpacked; every number and digest covers the stream to its last byte.

    ``diff_id`` and ``size`` are of the uncompressed stream, ``digest`` and ``compressed_size`` of the stream as
    it came, ``compression`` is ``none``, ``gzip`` or ``zstd``. ``entries`` counts the archive's entries;
    ``inodes`` and ``disk_bytes`` what the directory has at the end, itself included, as ``du`` would say.
    ``opaque_root``: the layer hides everything beneath it, which the kernel does not do for a layer's root, so
    whoever mounts the layer must leave out the lower ones. ``implied``: the real paths of directories that have
    no entry of their own, parents first; ``borrowed``: hard links that were left out. Both are usually empty; if
    not, settle the layer.
    """

    diff_id: str
    size: int
    digest: str
    compressed_size: int
    compression: str
    entries: int
    inodes: int
    disk_bytes: int
    opaque_root: bool
    implied: tuple[bytes, ...] = ()
    borrowed: tuple[Borrowed, ...] = ()


def unpack(
    source: ByteSource,
    into: Path | int,
    *,
    limits: Limits = DEFAULT_LIMITS,
    stop: Callable[[], None] | None = None,
    split: Splitter | None = None,
    tee: Tee | None = None,
    lower_links: bool = False,
    threads: int = 0,
    wait: bool = False,
) -> Unpacked:
    """Unpack the layer that ``source`` gives, plain, gzip or zstd, into the empty directory ``into``.

    ``into`` is a path or a descriptor (which stays open) of a directory that nobody else can reach meanwhile.
    Owners are numeric and set exactly, so this needs root; modes do not depend on the umask. Nothing outside
    ``into`` is created, changed or read. ``stop`` is called between entries and between pieces of data; what it
    raises goes through. ``split`` is told what makes a plain archive again and left alone for a compressed one,
    of which ``tee`` gets the bytes as they came. A hard link to what this layer hasn't got is refused or, with
    ``lower_links``, left for ``settle``. ``threads`` as for ``LayerStream``; on an error one may stay until
    ``source`` gives something, except with ``wait``.

    Raises :class:`ImageInvalid` (mostly :class:`BadLayer`) when the archive is to blame, :class:`HostError`
    when the machine is, and what ``source`` or ``stop`` raise. After any exception, a crash too, ``into`` holds
    part of the layer and is for the caller to remove. Nothing is synced: do that before the layer is made
    visible. The caller compares ``diff_id`` and ``digest`` with what they should be before it trusts a byte.
    """
    check = stop or _go_on
    stream = LayerStream(source, limits=limits, stop=check, tee=tee, threads=threads)
    try:
        if split is not None and stream.begin() != "none":
            split = None
        reader = TarReader(stream, raw=None if split is None else split.raw, max_header=limits.header_bytes)
        with TreeWriter(into, limits, split, lower_links) as tree:
            for entry in reader:
                check()
                tree.execute(plan(entry, limits), entry.name, reader)
            usage = tree.finish()
    finally:
        stream.close(wait)
    return Unpacked(
        stream.diff_id,
        stream.size,
        stream.digest,
        stream.compressed_size,
        stream.compression,
        tree.entries,
        usage.inodes,
        usage.disk_bytes,
        tree.opaque_root,
        tree.implied,
        tuple(tree.borrowed),
    )


def _go_on() -> None:
    pass
