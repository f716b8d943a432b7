"""What images an archive has, from its documents and what its layers turned out to be. Nothing in it is believed.

Two forms, which Docker 25 and later write into one archive: Docker's, whose ``manifest.json`` names configs,
layers and tags, and the OCI image layout (image-spec, image-layout.md), whose ``index.json`` names manifests by
digest.

* Where there is a ``manifest.json``, the images and their names are those of it, as for ``docker load``; an OCI
  manifest of the same config is kept with the image if the archive has all of its blobs. Otherwise ``index.json``
  decides.
* Names in an index are the annotation ``io.containerd.image.name``, or ``org.opencontainers.image.ref.name`` if
  that is a whole reference: a tag alone names nothing outside of its layout.
* An index (in the layout's index, or several manifests of one name for different platforms in it) is one image:
  the one for the platform that is asked for.
* The same image under several names is one image with several names.

Every blob that is named by a digest is hashed, and every layer must have the diff id that the config has for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from lading.events.errors import DigestMismatch, ImageInvalid, Invalid
from lading.events.ids import Digest, ImageId
from lading.events.imageconfig import parse_config
from lading.events.manifest import (
    OCI_INDEX,
    Descriptor,
    Index,
    Manifest,
    Platform,
    choose_platform,
    pair_layers,
    parse_manifest,
)
from lading.events.member import LayerFacts, clean_member
from lading.events.reference import parse_reference
from lading.events.strictjson import parse

__all__ = ["NAME_ANNOTATION", "REF_ANNOTATION", "ArchivedImage", "read_images"]

NAME_ANNOTATION: Final = "io.containerd.image.name"
REF_ANNOTATION: Final = "org.opencontainers.image.ref.name"

_IMAGES_LIMIT: Final = 1000
_LAYERS_LIMIT: Final = 1000
_NAMES_LIMIT: Final = 1000
_DEPTH_LIMIT: Final = 4
_LINKS_LIMIT: Final = 40
_HEX: Final = frozenset("0123456789abcdef")


@attrs.frozen
class ArchivedImage:
    """One image of an archive, complete and checked.

    ``names``: full names with tags, in the archive's order. ``layers``: the members that are its layers, the
    lowest first, links resolved. ``manifest``: the OCI or Docker manifest with which these blobs came, or None.
    """

    image: ImageId
    config: bytes
    names: tuple[str, ...]
    layers: tuple[str, ...]
    manifest: bytes | None = None
    manifest_digest: Digest | None = None


def read_images(
    documents: Mapping[str, bytes],
    layers: Mapping[str, LayerFacts],
    links: Mapping[str, str],
    platform: Platform,
    broken: Mapping[str, ImageInvalid] | None = None,
) -> tuple[ArchivedImage, ...]:
    """The images of an archive, in its order, or :class:`ImageInvalid`.

    ``documents``: the members that are JSON. ``links``: the members that are links, with the member that they lead
    to. ``broken``: members that could not be read, and why, which only matters to an image that needs them. Names
    are clean. ``NotFound`` if an index has nothing for ``platform``.
    """
    archive = _Archive(documents, layers, links, broken or {}, platform)
    if "manifest.json" in documents:
        return _merged(archive.docker_images())
    if "index.json" in documents:
        return _merged(archive.layout_images())
    for name in ("manifest.json", "index.json"):
        if name in archive.broken:
            raise ImageInvalid(f"{name} can't be read: {archive.broken[name]}") from archive.broken[name]
    if "repositories" in documents:
        raise ImageInvalid(
            "the archive was written by Docker before 1.10 and has no manifest.json: load it with a newer Docker "
            "and save it again"
        )
    raise ImageInvalid(
        "it is no image archive: it has neither a manifest.json nor an index.json (to make an image of a file "
        "system's files, import them)"
    )


def _merged(images: Iterable[ArchivedImage]) -> tuple[ArchivedImage, ...]:
    """Each image once, and each name on one image."""
    found: dict[ImageId, ArchivedImage] = {}
    holders: dict[str, ImageId] = {}
    for image in images:
        for name in image.names:
            if holders.setdefault(name, image.image) != image.image:
                raise ImageInvalid(f"two images of the archive are both called {name}")
        known = found.get(image.image)
        if known is None:
            found[image.image] = image
            continue
        kept = image if known.manifest is None and image.manifest is not None else known
        found[image.image] = attrs.evolve(kept, names=tuple(dict.fromkeys(known.names + image.names)))
    return tuple(found.values())


@attrs.frozen
class _Archive:
    documents: Mapping[str, bytes]
    layers: Mapping[str, LayerFacts]
    links: Mapping[str, str]
    broken: Mapping[str, ImageInvalid]
    platform: Platform

    # Docker's form

    def docker_images(self) -> list[ArchivedImage]:
        """What ``manifest.json`` says (moby, ``tarexport``: ``manifestItem``)."""
        value = self._json("manifest.json")
        if not isinstance(value, list) or not value or len(value) > _IMAGES_LIMIT:
            raise ImageInvalid(f"manifest.json is not a list of 1 to {_IMAGES_LIMIT} images")
        manifests = self._manifests()
        return [self._docker_image(item, f"manifest.json[{at}]", manifests) for at, item in enumerate(value)]

    def _docker_image(self, item: Any, where: str, manifests: Mapping[str, bytes]) -> ArchivedImage:
        if not isinstance(item, dict):
            raise ImageInvalid(f"{where} is not an object")
        for field in item:
            for exact in ("Config", "RepoTags", "Layers"):
                if field != exact and field.casefold() == exact.casefold():
                    raise ImageInvalid(f"{where} has the field {field[:40]!r}, which some take for {exact}")
        member = item.get("Config")
        if not isinstance(member, str):
            raise ImageInvalid(f"{where} has no Config")
        names = tuple(_tag(tag, where) for tag in _texts(item, "RepoTags", where, _NAMES_LIMIT))
        layers = tuple(self._layer(layer, where) for layer in _texts(item, "Layers", where, _LAYERS_LIMIT))
        config = self._document(member, "the config", where)
        digest = _digest(config)
        stem = member.rpartition("/")[2].removesuffix(".json")
        if _is_hex(stem) and digest != f"sha256:{stem}":
            raise DigestMismatch(f"the config {member}", f"sha256:{stem}", digest)
        self._check(config, layers)
        manifest = manifests.get(digest)
        if manifest is not None and not self._fits(manifest, layers):
            manifest = None
        return ArchivedImage(
            ImageId(digest), config, names, layers, manifest, None if manifest is None else _digest(manifest)
        )

    def _manifests(self) -> dict[str, bytes]:
        """The manifests that the index leads to, by their config's digest; what is wrong with it is no matter."""
        found: dict[str, bytes] = {}
        if "index.json" not in self.documents:
            return found
        pending = [(self.documents["index.json"], OCI_INDEX, 0)]
        seen: set[str] = set()
        while pending:
            content, media_type, depth = pending.pop()
            try:
                parsed = parse_manifest(content, media_type)
            except ImageInvalid:
                continue
            if isinstance(parsed, Manifest):
                found.setdefault(parsed.config.digest, content)
            elif depth < _DEPTH_LIMIT:
                for each in parsed.manifests:
                    below = self.documents.get(_blob(each.digest))
                    if below is not None and each.digest not in seen and _digest(below) == each.digest:
                        seen.add(each.digest)
                        pending.append((below, each.media_type, depth + 1))
        return found

    def _fits(self, content: bytes, layers: tuple[str, ...]) -> bool:
        """Whether the blobs of the manifest ``content`` are these very layers."""
        manifest = parse_manifest(content)
        assert isinstance(manifest, Manifest)
        here = tuple((self.layers[layer].digest, self.layers[layer].compressed_size) for layer in layers)
        return here == tuple((each.digest, each.size) for each in manifest.layers)

    # the OCI image layout

    def layout_images(self) -> list[ArchivedImage]:
        """What ``index.json`` says."""
        if "oci-layout" in self.documents:
            layout = self._json("oci-layout")
            version = layout.get("imageLayoutVersion") if isinstance(layout, dict) else None
            if version != "1.0.0":
                raise ImageInvalid(f"the archive is an OCI image layout of version {str(version)[:20]}, not 1.0.0")
        index = parse_manifest(self.documents["index.json"], OCI_INDEX)
        if not isinstance(index, Index):
            raise ImageInvalid("index.json is an image and not an index")
        named: dict[str, list[Descriptor]] = {}
        for each in index.manifests:
            named.setdefault(_annotated_name(each), []).append(each)
        images = []
        for name, alike in named.items():
            for each in self._one_for_each_platform(alike):
                images.append(self._layout_image(each, (name,) if name else (), 0))
        if not images:
            raise ImageInvalid("index.json has no images")
        return images

    def _one_for_each_platform(self, alike: list[Descriptor]) -> list[Descriptor]:
        platforms = [each.platform for each in alike]
        if len(alike) > 1 and None not in platforms and len(set(platforms)) == len(platforms):
            return [choose_platform(Index(OCI_INDEX, tuple(alike)), self.platform)]
        return list({each.digest: each for each in alike}.values())

    def _layout_image(self, descriptor: Descriptor, names: tuple[str, ...], depth: int) -> ArchivedImage:
        content = self._blob_document(descriptor, "the manifest")
        parsed = parse_manifest(content, descriptor.media_type)
        if isinstance(parsed, Index):
            if depth >= _DEPTH_LIMIT:
                raise ImageInvalid(f"its indexes are nested more than {_DEPTH_LIMIT} deep")
            return self._layout_image(choose_platform(parsed, self.platform), names, depth + 1)
        config = self._blob_document(parsed.config, "the config")
        layers = []
        for each in parsed.layers:
            member = self._layer(_blob(each.digest), f"manifest {descriptor.digest}")
            facts = self.layers[member]
            if facts.digest != each.digest:
                raise DigestMismatch(f"the layer {member}", each.digest, facts.digest)
            if facts.compressed_size != each.size:
                raise ImageInvalid(f"the layer {member} is {facts.compressed_size} bytes long, not {each.size}")
            layers.append(member)
        self._check(config, tuple(layers))
        return ArchivedImage(
            ImageId(parsed.config.digest), config, names, tuple(layers), content, descriptor.digest
        )

    def _blob_document(self, descriptor: Descriptor, what: str) -> bytes:
        member = _blob(descriptor.digest)
        content = self._document(member, what, "the layout")
        if (actual := _digest(content)) != descriptor.digest:
            raise DigestMismatch(f"{what} {member}", descriptor.digest, actual)
        if len(content) != descriptor.size:
            raise ImageInvalid(f"{what} {member} is {len(content)} bytes long, not {descriptor.size}")
        return content

    # both

    def _json(self, member: str) -> Any:
        try:
            return parse(self.documents[member])
        except ValueError as error:
            raise ImageInvalid(f"{member} is no JSON document: {error}") from None

    def _resolve(self, member: str, where: str) -> str:
        """The clean name of a member, links followed."""
        name = clean_member(member)
        for _ in range(_LINKS_LIMIT):
            if name is None:
                break
            if name not in self.links:
                return name
            name = clean_member(self.links[name])
        if name is None:
            raise ImageInvalid(f"{where} names {member[:200]!r}, which leads out of the archive")
        raise ImageInvalid(f"{where} names {member[:200]!r}, whose links lead nowhere")

    def _document(self, member: str, what: str, where: str) -> bytes:
        name = self._resolve(member, where)
        if name in self.documents:
            return self.documents[name]
        if name in self.broken:
            raise ImageInvalid(f"{what} {name[:200]} can't be read: {self.broken[name]}") from self.broken[name]
        raise ImageInvalid(f"the archive lacks {what} {name[:200]}, which {where} names")

    def _layer(self, member: str, where: str) -> str:
        name = self._resolve(member, where)
        if name in self.layers:
            return name
        if name in self.broken:
            raise ImageInvalid(f"the layer {name[:200]} can't be read: {self.broken[name]}") from self.broken[name]
        if name in self.documents:
            raise ImageInvalid(f"the layer {name[:200]}, which {where} names, is a JSON document")
        raise ImageInvalid(f"the archive lacks the layer {name[:200]}, which {where} names")

    def _check(self, config: bytes, layers: tuple[str, ...]) -> None:
        """Every layer has the diff id that the config has for it, and is what its own name says."""
        for member, diff_id in pair_layers(layers, parse_config(config).diff_ids):
            facts = self.layers[member]
            if facts.diff_id != diff_id:
                raise DigestMismatch(f"the layer {member}", diff_id, facts.diff_id)
            head, _, name = member.rpartition("/")
            if head == "blobs/sha256" and _is_hex(name) and facts.digest != f"sha256:{name}":
                raise DigestMismatch(f"the layer {member}", f"sha256:{name}", facts.digest)


def _is_hex(name: str) -> bool:
    """Whether a member of this name has to be what the name says."""
    return len(name) == 64 and _HEX.issuperset(name)


def _blob(digest: Digest) -> str:
    return "blobs/" + digest.replace(":", "/")


def _digest(content: bytes) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")


def _texts(item: dict[str, Any], field: str, where: str, limit: int) -> list[str]:
    value = item.get(field)
    if value is None:  # Go writes an empty list in this way
        return []
    if not isinstance(value, list) or len(value) > limit or not all(type(each) is str for each in value):
        raise ImageInvalid(f"{field} of {where} is not a list of at most {limit} strings")
    return value


def _tag(text: str, where: str) -> str:
    try:
        reference = parse_reference(text)
    except Invalid as error:
        raise ImageInvalid(f"{where} has an invalid name: {error}") from error
    if reference.tag is None or reference.digest is not None:
        raise ImageInvalid(f"{where} has the name {text[:200]!r}, which is not a name with a tag")
    return reference.name


def _annotated_name(descriptor: Descriptor) -> str:
    """The full name in a descriptor's annotations, or empty."""
    if name := descriptor.annotations.get(NAME_ANNOTATION):
        return _tag(name, f"{descriptor.digest} in index.json")
    name = descriptor.annotations.get(REF_ANNOTATION, "")
    if "/" not in name and ":" not in name:
        return ""
    try:
        return _tag(name, "index.json")
    except ImageInvalid:
        return ""
