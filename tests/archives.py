"""Image archives made by hand, as each of the known writers makes them, and as none would."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from lading.events.imagearchive import ArchivedImage, read_images
from lading.events.manifest import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from lading.events.platforms import Platform
from lading.storage.imagearchive import ArchiveContents, ArchiveLimits, read_archive

__all__ = ["AMD64", "Archive", "Made", "Read", "descriptor", "dump", "image", "reader", "sha"]

AMD64 = Platform("linux", "amd64")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def dump(value: object) -> bytes:
    return json.dumps(value).encode()


@attrs.frozen
class Made:
    """An image to be written by hand: its layers (plain tars, the lowest first) and its config."""

    layers: tuple[bytes, ...]
    config: bytes

    @property
    def id(self) -> str:
        return sha(self.config)


def image(*layers: bytes, **config: Any) -> Made:
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{sha(layer)}" for layer in layers]}
    return Made(layers, dump({"architecture": "amd64", "os": "linux", "rootfs": rootfs, **config}))


def descriptor(media_type: str, content: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{sha(content)}", "size": len(content), **more}


class Archive:
    """Members, in order, for a tar."""

    def __init__(self, tar: Any) -> None:
        self._tar = tar
        self.members: dict[str, bytes] = {}
        self.links: dict[str, bytes] = {}

    def add(self, name: str, content: bytes) -> None:
        self.members.setdefault(name, content)

    def blob(self, content: bytes) -> str:
        name = f"blobs/sha256/{sha(content)}"
        self.add(name, content)
        return name

    def packed(self) -> bytes:
        files = [self._tar.f(name.encode(), content) for name, content in self.members.items()]
        return b"".join([*files, *self.links.values(), self._tar.END])

    # the writers

    def docker(self, made: Made, *tags: str) -> Archive:
        """Docker 1.10 to 24: a directory for each layer."""
        names = []
        for number, layer in enumerate(made.layers):
            where = sha(b"%d" % number + layer)
            self.add(f"{where}/VERSION", b"1.0")
            self.add(f"{where}/json", dump({"id": where}))
            self.add(f"{where}/layer.tar", layer)
            names.append(f"{where}/layer.tar")
        self.add(f"{made.id}.json", made.config)
        self._manifest({"Config": f"{made.id}.json", "RepoTags": list(tags) or None, "Layers": names})
        self.add("repositories", dump({"x": {"latest": "y"}}))
        return self

    def podman(self, made: Made, *tags: str) -> Archive:
        """containers/image: a tar for each layer, and a symlink to it where Docker had one."""
        names = []
        for layer in made.layers:
            self.add(f"{sha(layer)}.tar", layer)
            self.links[sha(layer)] = self._tar.s(
                f"{sha(b'id' + layer)}/layer.tar".encode()[:100], f"../{sha(layer)}.tar".encode()
            )
            names.append(f"{sha(layer)}.tar")
        self.add(f"{made.id}.json", made.config)
        self._manifest({"Config": f"{made.id}.json", "RepoTags": list(tags), "Layers": names})
        return self

    def hybrid(self, made: Made, *tags: str) -> Archive:
        """Docker 25 and later."""
        layers = [self.blob(layer) for layer in made.layers]
        self._manifest({"Config": self.blob(made.config), "RepoTags": list(tags), "Layers": layers})
        return self.layout(made, *[f"docker.io/library/{tag}" for tag in tags])

    def layout(
        self,
        made: Made,
        *names: str,
        pack: Callable[[bytes], bytes] = bytes,
        media_type: str = OCI_LAYER,
        **more: Any,
    ) -> Archive:
        """An OCI image layout."""
        content = self.manifest(made, pack, media_type)
        self.add("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        for name in names or ("",):
            annotations = {"annotations": {"io.containerd.image.name": name}} if name else {}
            self.index(descriptor(OCI_MANIFEST, content, **annotations, **more))
        return self

    def manifest(self, made: Made, pack: Callable[[bytes], bytes] = bytes, media_type: str = OCI_LAYER) -> bytes:
        layers = [pack(layer) for layer in made.layers]
        for layer in layers:
            self.blob(layer)
        self.blob(made.config)
        content = dump(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": descriptor(OCI_CONFIG, made.config),
                "layers": [descriptor(media_type, layer) for layer in layers],
            }
        )
        self.blob(content)
        return content

    def index(self, *entries: dict[str, Any]) -> Archive:
        known = json.loads(self.members.pop("index.json", b'{"schemaVersion": 2, "manifests": []}'))
        known["manifests"] += entries
        self.members["index.json"] = dump(known)
        return self

    def _manifest(self, entry: dict[str, Any]) -> None:
        known = json.loads(self.members.pop("manifest.json", b"[]"))
        self.members["manifest.json"] = dump([*known, entry])


Read = Callable[..., tuple[ArchiveContents, tuple[ArchivedImage, ...]]]


def reader(staging: Path) -> Read:
    """What reads an archive (made or as bytes) into ``staging`` and tells its contents and its images."""

    def read(
        data: Any, limits: ArchiveLimits | None = None, platform: Platform = AMD64, **kw: Any
    ) -> tuple[ArchiveContents, tuple[ArchivedImage, ...]]:
        source = io.BytesIO(data if isinstance(data, bytes) else data.packed())
        contents = read_archive(source, staging, limits or ArchiveLimits(), **kw)
        return contents, read_images(contents.documents, contents.facts, contents.links, platform, contents.broken)

    return read
