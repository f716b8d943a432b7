"""Manifests and indexes: what an image consists of, as registries and archives say it, read without trust.

Sources: OCI image-spec v1.1 (manifest.md, image-index.md, descriptor.md, media-types.md) and Docker's "Image
Manifest V 2, Schema 2". A document is read in one way or refused: it is an image or an index and never both
(GHSA-5j5w-g665-5m35), no name is there twice or in another case, and a digest is checked before anybody can make
a path or an address of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import attrs

from lading.events.errors import ImageInvalid, Invalid, NotFound
from lading.events.ids import Digest, check_digest
from lading.events.platforms import Platform, normal_platform, parse_platform, suitable
from lading.events.strictjson import parse_object

__all__ = [
    "ACCEPTED",
    "CONFIG_TYPES",
    "DOCKER_LIST",
    "DOCKER_MANIFEST",
    "INDEX_TYPES",
    "LAYER_TYPES",
    "MANIFEST_LIMIT",
    "MANIFEST_TYPES",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_LAYER",
    "OCI_LAYER_GZIP",
    "OCI_LAYER_ZSTD",
    "OCI_MANIFEST",
    "Compression",
    "Descriptor",
    "Index",
    "Manifest",
    "Platform",
    "check_image_digest",
    "choose_platform",
    "encode_index",
    "encode_manifest",
    "is_foreign",
    "layer_compression",
    "pair_layers",
    "parse_manifest",
    "parse_platform",
]

MANIFEST_LIMIT = 4 << 20
"""Bytes that a manifest, an index or a config has at most."""

_LAYERS_LIMIT = 1000
_MANIFESTS_LIMIT = 1000
_TEXT_LIMIT = 64 << 10
_PLATFORM_TEXT_LIMIT = 255

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
_OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"
_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"

MANIFEST_TYPES = frozenset((DOCKER_MANIFEST, OCI_MANIFEST))
INDEX_TYPES = frozenset((DOCKER_LIST, OCI_INDEX))
ACCEPTED = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
"""The media types to ask a registry for."""

CONFIG_TYPES = frozenset((_DOCKER_CONFIG, OCI_CONFIG, "application/octet-stream", "application/json", "text/html"))
"""What a config may be called. The last three are what early registries made of it (docker/docker#22378)."""

Compression = Literal["", "gzip", "zstd"]

LAYER_TYPES: Mapping[str, Compression] = {
    **dict.fromkeys((OCI_LAYER, _OCI_FOREIGN, _DOCKER_LAYER, _DOCKER_FOREIGN), ""),
    **{base + "+gzip": "gzip" for base in (OCI_LAYER, _OCI_FOREIGN)},
    **{base + "+zstd": "zstd" for base in (OCI_LAYER, _OCI_FOREIGN)},
    **{base + ".gzip": "gzip" for base in (_DOCKER_LAYER, _DOCKER_FOREIGN)},
    **{base + ".zstd": "zstd" for base in (_DOCKER_LAYER, _DOCKER_FOREIGN)},
}
"""The media types of layers, with how each says that it is compressed."""

_TO_OCI: Mapping[str, str] = {
    _DOCKER_CONFIG: OCI_CONFIG,
    DOCKER_MANIFEST: OCI_MANIFEST,
    DOCKER_LIST: OCI_INDEX,
    **{_DOCKER_LAYER + tail: OCI_LAYER + tail.replace(".", "+") for tail in ("", ".gzip", ".zstd")},
    **{_DOCKER_FOREIGN + tail: _OCI_FOREIGN + tail.replace(".", "+") for tail in ("", ".gzip", ".zstd")},
}
_NAMES = (
    *("schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations"),
    *("fsLayers", "history", "signatures", "digest", "size", "platform", "urls", "data", "os", "architecture"),
    *("variant", "os.version", "os.features"),
)
_EXACT = {name.casefold(): name for name in _NAMES}


@attrs.frozen
class Descriptor:
    """A reference to a blob by its content (descriptor.md). ``size``: bytes of the blob as stored, below 2**63.

    ``urls``: other places to get it from, which are never asked: a layer comes from where its manifest does.
    """

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    annotations: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Manifest:
    """One image: its config, and its layers, the lowest first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


@attrs.frozen
class Index:
    """The same image for several platforms; ``manifests`` may also be further indexes."""

    media_type: str
    manifests: tuple[Descriptor, ...]


# -- reading -------------------------------------------------------------------------------------------------


def parse_manifest(content: bytes, content_type: str = "") -> Manifest | Index:
    """The image manifest or index that ``content`` is; otherwise ``ImageInvalid``.

    ``content_type``: what came with it, if anything did (a header with parameters is fine). It must agree with the
    document's own ``mediaType`` where both are there and known.
    """
    document = _read(content)
    media_type = _media_type(document, content_type)
    if "config" in document or "layers" in document:
        return _manifest(document, media_type or OCI_MANIFEST)
    return _index(document, media_type or OCI_INDEX)


def _read(content: bytes) -> dict[str, Any]:
    if len(content) > MANIFEST_LIMIT:
        raise ImageInvalid(f"the manifest is longer than {MANIFEST_LIMIT} bytes")
    try:
        document = parse_object(content)
    except ValueError as error:
        raise ImageInvalid(f"the manifest is no JSON document: {error}") from None
    _check_names(document, "the manifest")
    return document


def _media_type(document: dict[str, Any], content_type: str) -> str:
    """The one type that is said and known, or empty; it fits the fields."""
    said = document.get("mediaType", "")
    if not isinstance(said, str):
        raise ImageInvalid("the manifest's mediaType is not a string")
    came_as = content_type.partition(";")[0].strip().lower()
    version = document.get("schemaVersion")
    if came_as.startswith(_SCHEMA_1) or said.startswith(_SCHEMA_1) or (type(version) is int and version == 1):
        raise ImageInvalid(
            "the manifest is of Docker's schema 1, which is obsolete and not supported: "
            "ask the image's publisher to push it again with a current tool"
        )
    if type(version) is not int or version != 2:
        raise ImageInvalid(f"the manifest's schemaVersion is not 2 but {str(version)[:20]}")
    known = MANIFEST_TYPES | INDEX_TYPES
    if said and said not in known:
        raise ImageInvalid(f"it is not a container image: its media type is {said[:100]!r}")
    if came_as in known and said and came_as != said:
        raise ImageInvalid(f"the manifest came as {came_as} but says that it is {said}")
    image, index = "layers" in document or "config" in document, "manifests" in document
    if image and index:
        raise ImageInvalid("the manifest has both layers and manifests, so it is neither an image nor an index")
    if "fsLayers" in document or "signatures" in document:
        raise ImageInvalid("the manifest has fields of Docker's schema 1 among others")
    if not image and not index:
        raise ImageInvalid("it is not a container image: the manifest has neither a config nor manifests")
    media_type = said or (came_as if came_as in known else "")
    if media_type and media_type not in (MANIFEST_TYPES if image else INDEX_TYPES):
        raise ImageInvalid(
            f"the manifest is called {media_type}, but has the fields of an {'image' if image else 'index'}"
        )
    return media_type


def _manifest(document: dict[str, Any], media_type: str) -> Manifest:
    if document.get("config") is None:
        raise ImageInvalid("it is not a container image: the manifest has no config")
    config = _descriptor(document["config"], "config")
    if config.media_type and config.media_type not in CONFIG_TYPES:
        raise ImageInvalid(f"it is not a container image: its config is {config.media_type[:100]!r}")
    layers = _descriptors(document, "layers", _LAYERS_LIMIT)
    for number, layer in enumerate(layers):
        if layer.media_type not in LAYER_TYPES:
            raise ImageInvalid(
                f"layer {number} has the media type {layer.media_type[:100]!r}, which is not supported"
            )
    if config.size > MANIFEST_LIMIT:
        raise ImageInvalid(f"the image's config is longer than {MANIFEST_LIMIT} bytes")
    return Manifest(media_type, config, layers)


def _index(document: dict[str, Any], media_type: str) -> Index:
    return Index(media_type, _descriptors(document, "manifests", _MANIFESTS_LIMIT))


def _descriptors(document: dict[str, Any], name: str, limit: int) -> tuple[Descriptor, ...]:
    value = document.get(name)
    if value is None:  # Go writes an empty list in this way
        return ()
    if not isinstance(value, list):
        raise ImageInvalid(f"the manifest's {name} is not a list")
    if len(value) > limit:
        raise ImageInvalid(f"the manifest has {len(value)} {name}, and more than {limit} are not accepted")
    return tuple(_descriptor(each, f"{name}[{number}]") for number, each in enumerate(value))


def _descriptor(value: Any, where: str) -> Descriptor:
    if not isinstance(value, dict):
        raise ImageInvalid(f"{where} in the manifest is not an object")
    _check_names(value, where)
    size = value.get("size")
    if type(size) is not int or not 0 <= size < 1 << 63:
        raise ImageInvalid(f"{where} in the manifest has no size from 0 to 2**63 - 1, but {str(size)[:40]}")
    digest = value.get("digest")
    if not isinstance(digest, str):
        raise ImageInvalid(f"{where} in the manifest has no digest")
    urls = value.get("urls") or []
    if not isinstance(urls, list) or len(urls) > 100:
        raise ImageInvalid(f"urls of {where} in the manifest is not a short list")
    annotations = value.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise ImageInvalid(f"annotations of {where} in the manifest is not an object")
    return Descriptor(
        _text(value.get("mediaType", ""), f"mediaType of {where}"),
        check_image_digest(digest, where),
        size,
        _platform(value.get("platform"), where),
        tuple(_text(url, f"urls of {where}") for url in urls),
        {key: _text(each, f"annotations of {where}") for key, each in annotations.items()},
    )


def check_image_digest(text: str, where: str) -> Digest:
    """``text``, found at ``where`` of an image, as a digest, or ``ImageInvalid``."""
    try:
        return check_digest(text)
    except Invalid:
        algorithm = text.partition(":")[0]
        if algorithm in ("sha384", "sha512", "blake3"):
            raise ImageInvalid(f"{where} has a {algorithm} digest; only sha256 is supported") from None
        raise ImageInvalid(
            f"{where} has the digest {text[:100]!r}, which is not 'sha256:' and 64 lower-case hexadecimal digits"
        ) from None


def _platform(value: Any, where: str) -> Platform | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ImageInvalid(f"platform of {where} in the manifest is not an object")
    _check_names(value, f"platform of {where}")
    parts = [
        _text(value.get(name) or "", f"platform of {where}", _PLATFORM_TEXT_LIMIT)
        for name in ("os", "architecture", "variant")
    ]
    return normal_platform(Platform(*parts)) if any(parts) else None


def _text(value: Any, where: str, limit: int = _TEXT_LIMIT) -> str:
    if not isinstance(value, str) or len(value) > limit:
        raise ImageInvalid(f"{where} in the manifest is not a string of at most {limit} characters")
    return value


def _check_names(value: dict[str, Any], where: str) -> None:
    """Go's decoder takes ``Layers`` for ``layers``; whoever checked this document may have read another one."""
    for name in value:
        exact = _EXACT.get(name.casefold(), name)
        if exact != name:
            raise ImageInvalid(f"{where} has the field {name[:40]!r}, which readers take for {exact!r} or don't")


# -- using ---------------------------------------------------------------------------------------------------


def layer_compression(layer: Descriptor) -> Compression:
    """How ``layer`` is compressed, by its media type. The bytes decide in the end: see ``storage/decode.py``."""
    return LAYER_TYPES[layer.media_type]


def is_foreign(layer: Descriptor) -> bool:
    """Whether the layer's publisher asked registries not to hand it on."""
    return layer.media_type.startswith((_OCI_FOREIGN, _DOCKER_FOREIGN))


T = TypeVar("T")


def pair_layers(layers: Sequence[T], diff_ids: Sequence[Digest]) -> tuple[tuple[T, Digest], ...]:
    """Each of the image's layers with the diff id that its config has for it, or ``ImageInvalid``."""
    if len(layers) != len(diff_ids):
        raise ImageInvalid(f"the image has {len(layers)} layers, but its config has diff ids for {len(diff_ids)}")
    return tuple(zip(layers, diff_ids, strict=True))


def choose_platform(index: Index, platform: Platform) -> Descriptor:
    """The manifest (or further index) in ``index`` that suits a machine of ``platform`` best.

    Attestations (``unknown/unknown``) and what is neither an image nor an index are passed over; one that does not
    say its platform is taken if none that does is suitable. Raises ``NotFound``.
    """
    order = {each: rank for rank, each in enumerate(suitable(platform))}
    best: tuple[int, Descriptor] | None = None
    offered: list[str] = []
    for each in index.manifests:
        if each.media_type not in MANIFEST_TYPES | INDEX_TYPES or _is_attestation(each):
            continue
        rank = len(order) if each.platform is None else order.get(each.platform)
        if each.platform is not None:
            offered.append(str(each.platform))
        if rank is not None and (best is None or rank < best[0]):
            best = rank, each
    if best is None:
        has = ", ".join(list(dict.fromkeys(offered))[:20]) or "none"
        raise NotFound("platform of the image", f"{platform} (there are: {has})")
    return best[1]


def _is_attestation(each: Descriptor) -> bool:
    if each.annotations.get("vnd.docker.reference.type") == "attestation-manifest":
        return True
    return each.platform is not None and (each.platform.os == "unknown" or each.platform.architecture == "unknown")


# -- writing -------------------------------------------------------------------------------------------------


def encode_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """An OCI image manifest: the same bytes for the same input. Docker's media types become OCI's."""
    return _canonical(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _encoded(config),
            "layers": [_encoded(layer) for layer in layers],
        }
    )


def encode_index(manifests: Sequence[Descriptor], annotations: Mapping[str, str] | None = None) -> bytes:
    """An OCI image index: the same bytes for the same input. The manifests' own media types are kept."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [_encoded(each, convert=False) for each in manifests],
    }
    if annotations:
        document["annotations"] = dict(annotations)
    return _canonical(document)


def _encoded(each: Descriptor, *, convert: bool = True) -> dict[str, Any]:
    """Without ``urls``: what we hand on is where its manifest is."""
    media_type = _TO_OCI.get(each.media_type, each.media_type) if convert else each.media_type
    shown: dict[str, Any] = {"mediaType": media_type, "digest": each.digest, "size": each.size}
    if each.platform is not None:
        shown["platform"] = {"os": each.platform.os, "architecture": each.platform.architecture}
        if each.platform.variant:
            shown["platform"]["variant"] = each.platform.variant
    if each.annotations:
        shown["annotations"] = dict(each.annotations)
    return shown


def _canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
