"""Real images made by hand, without any network: layers, configs, manifests, archives and layouts.

Written from the specifications (OCI image-spec 1.1, Docker's image spec 1.2 and registry schema 2) with the
standard library's tarfile, so that it shares no mistake with the code under test.

An ``Image`` is its layers and its config. ``imagefiles.py`` puts it on disk, ``pushing.py`` into a registry;
``flatten`` says what its tree must look like.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import attrs
import zstandard

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"
MEDIA = {
    "oci": {
        "index": f"{OCI}.index.v1+json",
        "manifest": f"{OCI}.manifest.v1+json",
        "config": f"{OCI}.config.v1+json",
        "plain": f"{OCI}.layer.v1.tar",
        "gzip": f"{OCI}.layer.v1.tar+gzip",
        "zstd": f"{OCI}.layer.v1.tar+zstd",
    },
    "docker": {
        "index": f"{DOCKER}.distribution.manifest.list.v2+json",
        "manifest": f"{DOCKER}.distribution.manifest.v2+json",
        "config": f"{DOCKER}.container.image.v1+json",
        "plain": f"{DOCKER}.image.rootfs.diff.tar",
        "gzip": f"{DOCKER}.image.rootfs.diff.tar.gzip",
    },
}
"""Media types by dialect and by what they name. Docker's has no zstd."""

MTIME = 1_600_000_000
CREATED = "2024-01-02T03:04:05.000000006Z"


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def dumps(document: Any) -> bytes:
    """JSON as we write it; nobody may depend on how."""
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


# -- layers -----------------------------------------------------------------------------------------------------


@attrs.frozen
class Member:
    """One entry of a layer's archive. ``target``: where a link leads."""

    path: str
    kind: bytes = tarfile.REGTYPE
    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    target: str = ""
    mtime: float = MTIME
    xattrs: Mapping[str, str] = attrs.field(factory=dict)


def file(path: str, content: bytes | str = b"", mode: int = 0o644, **more: Any) -> Member:
    raw = content.encode() if isinstance(content, str) else content
    return Member(path, content=raw, mode=mode, **more)


def directory(path: str, mode: int = 0o755, **more: Any) -> Member:
    return Member(path, tarfile.DIRTYPE, mode=mode, **more)


def symlink(path: str, target: str, **more: Any) -> Member:
    return Member(path, tarfile.SYMTYPE, mode=0o777, target=target, **more)


def link(path: str, target: str, **more: Any) -> Member:
    """A hard link to the member ``target``, a path from the root without a leading slash."""
    return Member(path, tarfile.LNKTYPE, target=target, **more)


def whiteout(path: str) -> Member:
    """``path`` of the layers below is gone (OCI image-spec, layer.md#whiteouts)."""
    where = PurePosixPath(path)
    return file(str(where.with_name(f".wh.{where.name}")))


def opaque(path: str) -> Member:
    """Nothing of ``path``'s content in the layers below is seen (layer.md#opaque-whiteout)."""
    return file(f"{path}/.wh..wh..opq")


def pack(members: Iterable[Member], form: int = tarfile.PAX_FORMAT) -> bytes:
    """``members`` as a plain tar archive, in this order."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as tar:
        for member in members:
            info = tarfile.TarInfo(member.path)
            info.type, info.mode, info.mtime = member.kind, member.mode, member.mtime
            info.uid, info.gid, info.linkname = member.uid, member.gid, member.target
            info.size = len(member.content)
            info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in member.xattrs.items()}
            tar.addfile(info, io.BytesIO(member.content))
    return raw.getvalue()


@attrs.frozen
class Layer:
    """A layer: ``tar`` is the plain archive, ``form`` (plain, gzip or zstd) how it is kept and sent."""

    tar: bytes = attrs.field(repr=False)
    form: str = "plain"

    @cached_property
    def blob(self) -> bytes:
        match self.form:
            case "plain":
                return self.tar
            case "gzip":
                return gzip.compress(self.tar, 6, mtime=0)
            case "zstd":
                return zstandard.ZstdCompressor(level=3).compress(self.tar)
        raise ValueError(self.form)

    @cached_property
    def diff_id(self) -> str:
        return sha256(self.tar)

    @cached_property
    def digest(self) -> str:
        return sha256(self.blob)


def layer(*members: Member, form: str = "plain") -> Layer:
    return Layer(pack(members), form)


# -- images -----------------------------------------------------------------------------------------------------


@attrs.frozen
class Image:
    """An image: ``config`` is the whole document that its id is the digest of."""

    layers: tuple[Layer, ...]
    document: Mapping[str, Any]
    dialect: str = "oci"

    @cached_property
    def config(self) -> bytes:
        return dumps(self.document)

    @cached_property
    def id(self) -> str:
        return sha256(self.config)

    @cached_property
    def manifest(self) -> bytes:
        media = MEDIA[self.dialect]
        return dumps(
            {
                "schemaVersion": 2,
                "mediaType": media["manifest"],
                "config": {"mediaType": media["config"], "digest": self.id, "size": len(self.config)},
                "layers": [
                    {"mediaType": media[each.form], "digest": each.digest, "size": len(each.blob)}
                    for each in self.layers
                ],
            }
        )

    @property
    def media_type(self) -> str:
        return MEDIA[self.dialect]["manifest"]

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return sha256(self.manifest)

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.manifest)}

    @property
    def platform(self) -> dict[str, str]:
        return {key: self.document[key] for key in ("os", "architecture", "variant") if key in self.document}

    @property
    def blobs(self) -> dict[str, bytes]:
        """Config and layers by digest."""
        return {self.id: self.config} | {each.digest: each.blob for each in self.layers}


def image(
    *layers: Layer,
    env: Sequence[str] = ("PATH=/bin:/usr/bin",),
    cmd: Sequence[str] = (),
    entrypoint: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    user: str = "",
    volumes: Sequence[str] = (),
    ports: Sequence[str] = (),
    workdir: str = "",
    stop_signal: str = "",
    architecture: str = "amd64",
    variant: str = "",
    dialect: str = "oci",
    **more: Any,
) -> Image:
    """An image of ``layers``, the lowest first. ``more``: further keys of the config document."""
    config = {
        "Env": list(env),
        "Cmd": list(cmd),
        "Entrypoint": list(entrypoint),
        "Labels": dict(labels or {}),
        "User": user,
        "Volumes": {each: {} for each in volumes},
        "ExposedPorts": {each: {} for each in ports},
        "WorkingDir": workdir,
        "StopSignal": stop_signal,
    }
    history = [{"created": CREATED, "created_by": f"step {at}"} for at, _ in enumerate(layers)]
    document = {
        "created": CREATED,
        "architecture": architecture,
        **({"variant": variant} if variant else {}),
        "os": "linux",
        "config": {key: value for key, value in config.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [each.diff_id for each in layers]},
        "history": [*history, {"created": CREATED, "created_by": "CMD", "empty_layer": True}],
        **more,
    }
    return Image(layers, document, dialect)


@attrs.frozen
class Index:
    """Several platforms' images under one name."""

    images: tuple[Image, ...]
    dialect: str = "oci"

    @property
    def media_type(self) -> str:
        return MEDIA[self.dialect]["index"]

    @cached_property
    def manifest(self) -> bytes:
        manifests = [{**each.descriptor, "platform": each.platform} for each in self.images]
        return dumps({"schemaVersion": 2, "mediaType": self.media_type, "manifests": manifests})

    @property
    def digest(self) -> str:
        return sha256(self.manifest)

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.manifest)}

    @property
    def blobs(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for each in self.images:
            found |= each.blobs
        return found

    @property
    def manifests(self) -> dict[str, bytes]:
        """The images' manifests by digest."""
        return {each.digest: each.manifest for each in self.images}


def storied(base: Path, count: int, form: str = "gzip", *, dialect: str = "oci", **config: Any) -> Image:
    """An image of ``count`` layers: ``base``, a root file system's archive, and a story over it.

    Each layer above adds a file, changes ``etc/hello``, takes away the file of the layer below, writes over a
    directory with an opaque one, and puts a directory where there was a file.
    """
    layers = [Layer(base.read_bytes(), form)]
    for at in range(1, count):
        members = [
            directory("story", mode=0o750, uid=1000, gid=50),
            file(f"story/{at}", f"layer {at}\n", mode=0o640, uid=1000, gid=50),
            file("etc/hello", f"hello from layer {at}\n"),
            directory("pile"),
            opaque("pile"),
            file(f"pile/{at}", b"x" * at),
            link(f"pile/{at}-again", f"pile/{at}"),
            symlink("latest", f"/story/{at}"),
        ]
        if at > 1:
            members.append(whiteout(f"story/{at - 1}"))
            members += [directory(f"turns/{at - 1}"), file(f"turns/{at - 1}/inside", "was a file")]
        members.append(file(f"turns/{at}", "will be a directory"))
        layers.append(layer(*members, form=form))
    return image(*layers, dialect=dialect, **({"cmd": ["cat", "/etc/hello"]} | config))


def flatten(image: Image) -> dict[str, tuple[str, int, int, int, bytes]]:
    """The tree that ``image`` is: kind, mode, uid, gid, and content or target, by path from the root.

    Directories that no layer names but that something lies in are left out.
    """
    tree: dict[str, tuple[str, int, int, int, bytes]] = {}

    def drop(path: str, itself: bool = True) -> None:
        for each in [name for name in tree if name.startswith(f"{path}/") or (itself and name == path)]:
            del tree[each]

    for each in image.layers:
        with tarfile.open(fileobj=io.BytesIO(each.tar)) as tar:
            members = tar.getmembers()
            for member in members:  # what hides, hides what is below, wherever in the archive it stands
                where = PurePosixPath(member.name)
                if where.name == ".wh..wh..opq":
                    drop(str(where.parent), itself=False)
                elif where.name.startswith(".wh."):
                    drop(str(where.with_name(where.name[4:])))
            for member in members:
                path = str(PurePosixPath(member.name))
                if PurePosixPath(path).name.startswith(".wh.") or path == ".":
                    continue
                if not member.isdir():
                    drop(path)
                for parent in PurePosixPath(path).parents:
                    if tree.get(str(parent), ("directory",))[0] != "directory":
                        del tree[str(parent)]
                owned = (member.mode, member.uid, member.gid)
                if member.islnk():
                    tree[path] = tree[str(PurePosixPath(member.linkname))]
                elif member.issym():
                    tree[path] = ("symlink", *owned, member.linkname.encode())
                elif member.isdir():
                    tree[path] = ("directory", *owned, b"")
                else:
                    content = tar.extractfile(member)
                    assert content is not None
                    tree[path] = ("file", *owned, content.read())
    return tree
