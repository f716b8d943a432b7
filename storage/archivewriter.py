"""Image archives, written as they are read by whoever takes them: nothing of an archive is kept on disk before.

Two forms. Docker's is what Docker writes since release 25: ``manifest.json`` (and ``repositories``, for what is
older still) beside a whole OCI image layout, whose layers are plain tars; everything from Docker 1.10 on, podman
and skopeo load it. The OCI form is the layout alone, its layers as they were pulled where they are kept so, with
the manifest that they came with.

The same images give the same bytes: members stand in a fixed order and are from 1970. Every blob is there once,
however many images share it. Sources: OCI image-spec image-layout.md; moby, ``tarexport``; containerd,
``images/archive``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from lading.events.errors import DigestMismatch, HostError, StoreCorrupt
from lading.events.ids import Digest
from lading.events.imagearchive import NAME_ANNOTATION, REF_ANNOTATION
from lading.events.imageconfig import parse_config
from lading.events.manifest import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    encode_index,
    encode_manifest,
    pair_layers,
    parse_manifest,
)
from lading.events.reference import parse_reference
from lading.storage.pieces import gathered
from lading.storage.tarheader import END, header, padding

__all__ = ["KeptBlob", "SavedImage", "SavedLayer", "write_docker_archive", "write_oci_layout"]

_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'
_READ: Final = 1024 * 1024


@attrs.frozen
class KeptBlob:
    """A layer's archive as it came, in the file ``path``."""

    media_type: str
    digest: Digest
    size: int
    path: Path


@attrs.frozen
class SavedLayer:
    """A layer to write: what its plain archive is, how to get it (once for each archive that is written, and only
    when it is its turn), and as what it is kept, if it is.
    """

    diff_id: Digest
    size: int
    open: Callable[[], Iterator[bytes]]
    blob: KeptBlob | None = None


@attrs.frozen
class SavedImage:
    """An image to write. ``names``: full names with tags. ``layers``: the lowest first. ``manifest``: the one with
    which it came.
    """

    config: bytes
    names: tuple[str, ...]
    layers: tuple[SavedLayer, ...]
    manifest: bytes | None = None


@attrs.frozen
class _Blob:
    """A member whose name is its digest."""

    size: int
    open: Callable[[], Iterator[bytes]]


def write_docker_archive(images: Sequence[SavedImage]) -> Iterator[bytes]:
    """An archive of ``images`` in Docker's form, in pieces of about a quarter to one MiB.

    Every blob is compared with its size and digest while it is written: :class:`StoreCorrupt` or
    :class:`DigestMismatch` when it is another, :class:`HostError` when a file can't be read, and whatever a
    layer's iterator raises; what was written by then is no archive. :class:`ImageInvalid` when a config has not
    as many diff ids as the image has layers.
    """
    blobs: dict[Digest, _Blob] = {}
    index: list[Descriptor] = []
    manifests: list[dict[str, Any]] = []
    repositories: dict[str, dict[str, str]] = {}
    for image in images:
        pair_layers(image.layers, parse_config(image.config).diff_ids)
        config = _document(blobs, OCI_CONFIG, image.config)
        layers = [_plain(blobs, layer) for layer in image.layers]
        made = _document(blobs, OCI_MANIFEST, encode_manifest(config, layers))
        index += _named(made, image.names)
        references = [parse_reference(name) for name in image.names]
        manifests.append(
            {
                "Config": _member(config.digest),
                "RepoTags": [reference.familiar for reference in references] or None,
                "Layers": [_member(layer.digest) for layer in layers],
            }
        )
        for reference in references:
            if layers and reference.tag is not None:
                top = layers[-1].digest.partition(":")[2]
                repositories.setdefault(reference.repository, {})[reference.tag] = top
    documents = {"oci-layout": _LAYOUT, "index.json": encode_index(index), "manifest.json": _json(manifests)}
    if repositories:
        documents["repositories"] = _json(repositories)
    return gathered(_archive(documents, blobs))


def write_oci_layout(images: Sequence[SavedImage]) -> Iterator[bytes]:
    """An archive of ``images`` as an OCI image layout, in pieces of about a quarter to one MiB; errors as above.

    A layer is written as it is kept, or plain if it is not. The manifest is the image's own if it names just these
    blobs, and made from them otherwise.
    """
    blobs: dict[Digest, _Blob] = {}
    index: list[Descriptor] = []
    for image in images:
        pair_layers(image.layers, parse_config(image.config).diff_ids)
        config = _document(blobs, OCI_CONFIG, image.config)
        layers = [_as_kept(blobs, layer) for layer in image.layers]
        content, media_type = encode_manifest(config, layers), OCI_MANIFEST
        if image.manifest is not None:
            own = parse_manifest(image.manifest)
            if isinstance(own, Manifest) and _blobs_of(own) == [_blob(each) for each in (config, *layers)]:
                content, media_type = image.manifest, own.media_type
        index += _named(_document(blobs, media_type, content), image.names)
    return gathered(_archive({"oci-layout": _LAYOUT, "index.json": encode_index(index)}, blobs))


def _blob(descriptor: Descriptor) -> tuple[Digest, int]:
    return descriptor.digest, descriptor.size


def _blobs_of(manifest: Manifest) -> list[tuple[Digest, int]]:
    return [_blob(each) for each in (manifest.config, *manifest.layers)]


def _document(blobs: dict[Digest, _Blob], media_type: str, content: bytes) -> Descriptor:
    digest = Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")
    blobs.setdefault(digest, _Blob(len(content), lambda: iter((content,))))
    return Descriptor(media_type, digest, len(content))


def _plain(blobs: dict[Digest, _Blob], layer: SavedLayer) -> Descriptor:
    blobs.setdefault(layer.diff_id, _Blob(layer.size, layer.open))
    return Descriptor(OCI_LAYER, layer.diff_id, layer.size)


def _as_kept(blobs: dict[Digest, _Blob], layer: SavedLayer) -> Descriptor:
    kept = layer.blob
    if kept is None:
        return _plain(blobs, layer)
    path = kept.path
    blobs.setdefault(kept.digest, _Blob(kept.size, lambda: _file(path)))
    return Descriptor(kept.media_type, kept.digest, kept.size)


def _named(manifest: Descriptor, names: Sequence[str]) -> list[Descriptor]:
    """The manifest once for each name, with the annotations that containerd, Docker and skopeo look for."""
    named = []
    for name in names:
        annotations = {NAME_ANNOTATION: name, REF_ANNOTATION: parse_reference(name).tag or "latest"}
        named.append(attrs.evolve(manifest, annotations=annotations))
    return named or [manifest]


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _member(digest: Digest) -> str:
    return "blobs/" + digest.replace(":", "/")


def _archive(documents: dict[str, bytes], blobs: dict[Digest, _Blob]) -> Iterator[bytes]:
    """The documents first, so that a reader knows at once what it gets."""
    for name, content in documents.items():
        yield header(name.encode(), b"0", size=len(content)) + content + padding(len(content))
    yield header(b"blobs/", b"5", mode=0o755) + header(b"blobs/sha256/", b"5", mode=0o755)
    for digest in sorted(blobs):
        blob = blobs[digest]
        yield header(_member(digest).encode(), b"0", size=blob.size)
        yield from _checked(blob, digest)
        yield padding(blob.size)
    yield END


def _checked(blob: _Blob, digest: Digest) -> Iterator[bytes]:
    sha256 = hashlib.sha256()
    size = 0
    for piece in blob.open():
        size += len(piece)
        if size > blob.size:
            break
        sha256.update(piece)
        yield piece
    if size != blob.size:
        more = "more than" if size > blob.size else f"{size} and not"
        raise StoreCorrupt(0, f"the blob {digest} has {more} {blob.size} bytes; pull or load the image again")
    if (actual := f"sha256:{sha256.hexdigest()}") != digest:
        raise DigestMismatch("the stored blob", digest, actual)


def _file(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(_READ):
                yield piece
    except OSError as error:
        raise HostError(
            "read the blob", os.fspath(path), error.errno or 0, "pull or load the image again"
        ) from error
