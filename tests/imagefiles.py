"""Images of ``images.py`` as files: docker-archives, OCI layouts and their archives."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

from images import MTIME, Image, Index, dumps, sha256

REF_NAME = "org.opencontainers.image.ref.name"


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(content), MTIME, 0o644
    tar.addfile(info, io.BytesIO(content))


def _add_directory(tar: tarfile.TarFile, name: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mtime, info.mode = tarfile.DIRTYPE, MTIME, 0o755
    tar.addfile(info)


def write_docker_archive(path: Path, images: Mapping[str, Image], *, form: str = "flat") -> Path:
    """What ``docker load`` takes: ``images`` by name (``name:tag``, several with commas between, or nothing).

    ``form``: ``flat`` as skopeo and podman write it (layers as ``<diff id>.tar``, the config after them, the
    manifest last); ``legacy`` as Docker before 25 (a directory for each layer, a layer seen before a symlink to
    the first); ``blobs`` as Docker from 25 on, an OCI layout with a ``manifest.json``. A layer is stored in its
    own form.
    """
    seen: dict[str, str] = {}
    manifest = []
    repositories: dict[str, dict[str, str]] = {}
    with tarfile.open(path, "w") as tar:
        if form == "blobs":
            for name in ("blobs/", "blobs/sha256/"):
                _add_directory(tar, name)
        for names, image in images.items():
            places = []
            top = ""
            for at, layer in enumerate(image.layers):
                key = layer.digest if form == "blobs" else layer.diff_id
                top = sha256(f"{top}{image.id}{at}{layer.diff_id}".encode())[7:]  # any 64 digits of its own
                place = {
                    "flat": f"{layer.diff_id[7:]}.tar",
                    "legacy": f"{top}/layer.tar",
                    "blobs": f"blobs/sha256/{layer.digest[7:]}",
                }[form]
                if form == "legacy":
                    _add_directory(tar, f"{top}/")
                    _add(tar, f"{top}/VERSION", b"1.0")
                    _add(tar, f"{top}/json", dumps({"id": top, "os": "linux"}))
                if key not in seen:
                    _add(tar, place, layer.blob)
                elif form == "legacy":
                    info = tarfile.TarInfo(place)
                    info.type, info.linkname, info.mtime = tarfile.SYMTYPE, f"../{seen[key]}", MTIME
                    tar.addfile(info)
                seen.setdefault(key, place)
                places.append(place)
            config = f"blobs/sha256/{image.id[7:]}" if form == "blobs" else f"{image.id[7:]}.json"
            _add(tar, config, image.config)
            tags = names.split(",") if names else []
            for tag in tags:
                repository, _, last = tag.rpartition(":")
                repositories.setdefault(repository, {})[last] = top
            manifest.append({"Config": config, "RepoTags": tags or None, "Layers": places})
        if form == "blobs":
            index = _layout(images)
            for digest, content in index[1].items():
                _add(tar, f"blobs/sha256/{digest[7:]}", content)
            _add(tar, "index.json", index[0])
        _add(tar, "manifest.json", json.dumps(manifest).encode())
        if form == "blobs":
            _add(tar, "oci-layout", dumps({"imageLayoutVersion": "1.0.0"}))
        else:
            _add(tar, "repositories", dumps(repositories))
    return path


def _layout(images: Mapping[str, Image | Index]) -> tuple[bytes, dict[str, bytes]]:
    """``index.json``, and every manifest and index below it by digest."""
    manifests: dict[str, bytes] = {}
    listed = []
    for names, image in images.items():
        if isinstance(image, Index):
            manifests |= image.manifests
        manifests[image.digest] = image.manifest
        for name in names.split(","):
            annotations = {"annotations": {REF_NAME: name}} if name else {}
            listed.append({**image.descriptor, **annotations})
    return dumps({"schemaVersion": 2, "manifests": listed}), manifests


def _layout_files(images: Mapping[str, Image | Index]) -> dict[str, bytes]:
    index, manifests = _layout(images)
    blobs = dict(manifests)
    for image in images.values():
        blobs |= image.blobs
    files = {f"blobs/sha256/{digest[7:]}": content for digest, content in sorted(blobs.items())}
    return files | {"index.json": index, "oci-layout": dumps({"imageLayoutVersion": "1.0.0"})}


def write_oci_layout(path: Path, images: Mapping[str, Image | Index]) -> Path:
    """``images`` by reference name (several with commas between, or nothing) as a directory (image-layout.md)."""
    (path / "blobs/sha256").mkdir(parents=True)
    for name, content in _layout_files(images).items():
        (path / name).write_bytes(content)
    return path


def write_oci_archive(path: Path, images: Mapping[str, Image | Index]) -> Path:
    """The same layout as a tar archive."""
    with tarfile.open(path, "w") as tar:
        for name in ("blobs/", "blobs/sha256/"):
            _add_directory(tar, name)
        for name, content in _layout_files(images).items():
            _add(tar, name, content)
    return path
