"""Reading an image archive as a worker's job (:mod:`lading.storage.worker`), and its result as a message."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from typing import Any

import attrs

from lading.events.errors import ImageInvalid
from lading.storage.imagearchive import ArchiveContents, ArchivedLayer, ArchiveLimits, read_archive
from lading.storage.plan import Limits
from lading.storage.worker import FdSource, Talk, decode_error, decode_unpacked, encode_error, encode_unpacked

__all__ = ["archive_job", "decode_contents", "encode_contents", "limits_argument"]


def archive_job(arguments: Mapping[str, Any], fds: list[int], talk: Talk) -> Mapping[str, Any]:
    """``read_archive`` of ``fds[0]`` into the empty directory ``fds[1]``.

    ``arguments``: ``limits`` (as :func:`limits_argument` gives them), ``threads``. The result is
    :func:`decode_contents`'s.
    """
    given = arguments["limits"]
    limits = ArchiveLimits(**{**given, "layer": Limits(**given["layer"]), "archive": Limits(**given["archive"])})
    source = FdSource(fds[0])
    most = max(limits.layer.file_bytes, limits.layer.stream_bytes, limits.archive.stream_bytes)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    def progress(_name: str, _taken: int, _size: int) -> None:
        talk.progress(source.count)

    return encode_contents(read_archive(source, fds[1], limits, progress=progress, threads=arguments["threads"]))


def encode_contents(contents: ArchiveContents) -> dict[str, Any]:
    """``contents`` as a message may have it."""
    return {
        "documents": dict(contents.documents),
        "layers": {
            name: [layer.directory, layer.split, layer.blob, encode_unpacked(layer.unpacked)]
            for name, layer in contents.layers.items()
        },
        "links": dict(contents.links),
        "broken": {name: encode_error(error) for name, error in contents.broken.items()},
    }


def decode_contents(found: Mapping[str, Any]) -> ArchiveContents:
    """What :func:`encode_contents` gave."""
    broken = {name: decode_error(message) for name, message in found["broken"].items()}
    return ArchiveContents(
        found["documents"],
        {
            name: ArchivedLayer(directory, split, blob, decode_unpacked(unpacked))
            for name, (directory, split, blob, unpacked) in found["layers"].items()
        },
        found["links"],
        {
            name: error if isinstance(error, ImageInvalid) else ImageInvalid(str(error))
            for name, error in broken.items()
        },
    )


def limits_argument(limits: ArchiveLimits) -> dict[str, Any]:
    """``limits`` as an argument of the job."""
    return attrs.asdict(limits)
