"""What is written as an archive is read again as the same images, by this engine and by others."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from archives import Archive, Made, Read, image, sha

from lading.events.errors import DigestMismatch, HostError, ImageInvalid, StoreCorrupt
from lading.events.ids import Digest
from lading.events.manifest import OCI_LAYER_GZIP
from lading.storage.archivewriter import (
    KeptBlob,
    SavedImage,
    SavedLayer,
    write_docker_archive,
    write_oci_layout,
)
from lading.storage.pack import pack
from lading.storage.splitread import read_split

FORMS = pytest.mark.parametrize("write", [write_docker_archive, write_oci_layout])
Write = Callable[[list[SavedImage]], Iterator[bytes]]


def saved_layer(data: bytes, opened: list[str] | None = None) -> SavedLayer:
    def pieces() -> Iterator[bytes]:
        if opened is not None:
            opened.append(sha(data))
        for at in range(0, len(data), 1000):
            yield data[at : at + 1000]

    return SavedLayer(Digest(f"sha256:{sha(data)}"), len(data), pieces)


def saved(made: Made, *names: str, opened: list[str] | None = None) -> SavedImage:
    return SavedImage(made.config, names, tuple(saved_layer(layer, opened) for layer in made.layers))


def kept(made: Made, where: Path, archive: Archive, *names: str) -> SavedImage:
    """As it was pulled: gzip blobs, and the manifest that names them."""

    def packed(data: bytes) -> bytes:
        return gzip.compress(data, mtime=0)

    layers = []
    for layer in saved(made).layers:
        data = packed(b"".join(layer.open()))
        (where / sha(data)).write_bytes(data)
        blob = KeptBlob(OCI_LAYER_GZIP, Digest(f"sha256:{sha(data)}"), len(data), where / sha(data))
        layers.append(attrs.evolve(layer, blob=blob))
    return SavedImage(made.config, names, tuple(layers), archive.manifest(made, packed, OCI_LAYER_GZIP))


@FORMS
def test_what_is_written_is_read_as_the_same(
    read: Read, place: Any, base: bytes, top: bytes, write: Write
) -> None:
    first, second = image(base, top), image(base, comment="é")
    names = "docker.io/library/a:1", "r.example:5000/b/c:2.0"
    data = b"".join(write([saved(first, *names), saved(second)]))
    contents, (one, two) = read(data)
    assert (one.image, one.config, one.names) == (f"sha256:{first.id}", first.config, names)
    assert (two.image, two.config, two.names) == (f"sha256:{second.id}", second.config, ())
    assert one.manifest is not None
    for member, layer in zip(one.layers, first.layers, strict=True):
        found = contents.layers[member]
        assert found.split is not None
        pieces = read_split(place.root / found.directory, place.root / found.split)
        assert b"".join(pieces) == layer


@FORMS
def test_the_same_images_give_the_same_bytes_and_share_their_layers(base: bytes, top: bytes, write: Write) -> None:
    opened: list[str] = []
    images = [saved(image(base, top), "docker.io/library/a:1", opened=opened), saved(image(base), opened=opened)]
    data = b"".join(write(images))
    assert sorted(opened) == sorted([sha(base), sha(top)])
    assert b"".join(write(images)) == data
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = archive.getmembers()
        names = archive.getnames()
    assert len(names) == len(set(names))
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    documents = {"manifest.json", "repositories"} if write is write_docker_archive else set()
    assert {name for name in names if "blobs" not in name} == documents | {"oci-layout", "index.json"}


def test_what_docker_reads_is_there(base: bytes, top: bytes) -> None:
    made = image(base, top)
    data = b"".join(write_docker_archive([saved(made, "docker.io/library/a:1", "r.example/b:2")]))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:

        def content(name: str) -> Any:
            file = archive.extractfile(name)
            assert file is not None
            return json.loads(file.read())

        (item,) = content("manifest.json")
        assert item == {
            "Config": f"blobs/sha256/{made.id}",
            "RepoTags": ["a:1", "r.example/b:2"],
            "Layers": [f"blobs/sha256/{sha(base)}", f"blobs/sha256/{sha(top)}"],
        }
        assert content("repositories") == {"a": {"1": sha(top)}, "r.example/b": {"2": sha(top)}}
        assert content("oci-layout") == {"imageLayoutVersion": "1.0.0"}
        annotations = [entry["annotations"] for entry in content("index.json")["manifests"]]
        assert annotations == [
            {"io.containerd.image.name": "docker.io/library/a:1", "org.opencontainers.image.ref.name": "1"},
            {"io.containerd.image.name": "r.example/b:2", "org.opencontainers.image.ref.name": "2"},
        ]


def test_a_layout_has_the_blobs_and_the_manifest_that_are_kept(
    read: Read, place: Any, tmp_path: Path, archive: Archive, base: bytes, top: bytes
) -> None:
    given = kept(image(base, top), tmp_path, archive, "docker.io/library/a:1")
    contents, (found,) = read(b"".join(write_oci_layout([given])))
    assert found.manifest == given.manifest
    for member, layer in zip(found.layers, given.layers, strict=True):
        assert layer.blob is not None
        assert (place.root / str(contents.layers[member].blob)).read_bytes() == layer.blob.path.read_bytes()
    # In Docker's form the layers are plain, whatever they are kept as.
    place.refresh()
    contents, (plain,) = read(b"".join(write_docker_archive([given])))
    assert plain.image == found.image
    assert {layer.blob for layer in contents.layers.values()} == {None}
    # A manifest that names other blobs than there are is not handed on.
    place.refresh()
    one_plain = attrs.evolve(given, layers=(saved_layer(base), *given.layers[1:]))
    contents, (mixed,) = read(b"".join(write_oci_layout([one_plain])))
    assert mixed.image == found.image
    assert mixed.manifest != given.manifest
    assert sorted(layer.unpacked.compression for layer in contents.layers.values()) == ["gzip", "none"]


@FORMS
def test_no_images_and_no_layers(read: Read, place: Any, write: Write) -> None:
    made = image()
    _, (found,) = read(b"".join(write([saved(made, "docker.io/library/empty:1")])))
    assert (found.image, found.layers) == (f"sha256:{made.id}", ())
    place.refresh()
    with pytest.raises(ImageInvalid):
        read(b"".join(write([])))


@FORMS
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda layer, data: attrs.evolve(layer, size=layer.size + 1), StoreCorrupt, "and not"),
        (lambda layer, data: attrs.evolve(layer, size=layer.size - 1), StoreCorrupt, "more than"),
        (lambda layer, data: attrs.evolve(layer, open=lambda: iter((data[::-1],))), DigestMismatch, "stored blob"),
        (lambda layer, data: attrs.evolve(layer, open=lambda: iter(())), StoreCorrupt, "has 0 and not"),
    ],
)
def test_a_layer_that_is_not_what_it_should_be_ends_the_archive(
    base: bytes,
    write: Write,
    change: Callable[[SavedLayer, bytes], SavedLayer],
    error: type[Exception],
    words: str,
) -> None:
    given = attrs.evolve(saved(image(base)), layers=(change(saved_layer(base), base),))
    with pytest.raises(error, match=words):
        b"".join(write([given]))


def test_a_blob_file_that_is_gone_or_changed_ends_the_archive(
    tmp_path: Path, archive: Archive, base: bytes
) -> None:
    given = kept(image(base), tmp_path, archive)
    assert given.layers[0].blob is not None
    path = given.layers[0].blob.path
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(DigestMismatch):
        b"".join(write_oci_layout([given]))
    path.unlink()
    with pytest.raises(HostError, match="read the blob"):
        b"".join(write_oci_layout([given]))


@FORMS
def test_a_config_for_other_layers_is_refused_before_anything_is_written(
    base: bytes, top: bytes, write: Write
) -> None:
    given = attrs.evolve(saved(image(base, top)), layers=(saved_layer(base),))
    with pytest.raises(ImageInvalid, match="has 1 layers"):
        write([given])


# other engines


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def needs(tool: str) -> Any:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


SKOPEO = "skopeo", "--insecure-policy"


@pytest.fixture
def whole(tmp_path: Path, tar: Any) -> Made:
    """An image that other engines will take: with a real tree, made by us."""
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/motd").write_bytes(b"hello\n")
    (tree / "etc" / ("long" * 40)).write_bytes(b"x" * 5000)
    os.link(tree / "etc/motd", tree / "motd")
    (tree / "link").symlink_to("etc/motd")
    base = b"".join(pack(tree, whiteouts=True))
    (tree / "motd").unlink()
    os.mknod(tree / "motd", stat.S_IFCHR, 0)
    shutil.rmtree(tree / "etc")
    return image(base, b"".join(pack(tree, whiteouts=True)), config={"Cmd": ["/bin/sh"], "Env": ["A=1"]})


@needs("skopeo")
@pytest.mark.slow
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_skopeo_copies_what_we_write_and_we_read_what_it_writes(
    whole: Made, tmp_path: Path, read: Read, place: Any, form: str
) -> None:
    names = "docker.io/library/a:1", "r.example/b:2"
    write = write_docker_archive if form == "docker-archive" else write_oci_layout
    (tmp_path / "ours.tar").write_bytes(b"".join(write([saved(whole, *names), saved(image(whole.layers[0]))])))
    source = f"{form}:{tmp_path}/ours.tar:" + ("a:1" if form == "docker-archive" else "1")
    assert run(*SKOPEO, "inspect", "--raw", "--config", source).encode().strip() == whole.config
    for kind, target in (("oci", "oci-archive:x.tar:r.example/x:3"), ("docker", "docker-archive:x.tar:x:3")):
        target = target.replace("x.tar", f"{tmp_path}/{kind}.tar")
        run(*SKOPEO, "copy", source, target)
        place.refresh()
        contents, (found,) = read((tmp_path / f"{kind}.tar").read_bytes())
        # Docker's config becomes OCI's there, by being parsed and written again.
        assert json.loads(found.config)["rootfs"] == json.loads(whole.config)["rootfs"]
        assert found.config == whole.config or (form, kind) == ("docker-archive", "oci")
        assert found.names == (("r.example/x:3",) if kind == "oci" else ("docker.io/library/x:3",))
        assert [contents.layers[name].unpacked.diff_id for name in found.layers] == [
            f"sha256:{sha(layer)}" for layer in whole.layers
        ]


@needs("skopeo")
@pytest.mark.slow
def test_skopeo_takes_kept_blobs_as_they_are(
    whole: Made, tmp_path: Path, archive: Archive, read: Read, place: Any
) -> None:
    given = kept(whole, tmp_path, archive, "docker.io/library/a:1")
    (tmp_path / "ours.tar").write_bytes(b"".join(write_oci_layout([given])))
    source = f"oci-archive:{tmp_path}/ours.tar:1"
    assert run(*SKOPEO, "inspect", "--raw", source).encode() == given.manifest
    run(*SKOPEO, "copy", "--preserve-digests", source, f"oci:{tmp_path}/layout:1")
    for layer in given.layers:
        assert layer.blob is not None
        assert (tmp_path / "layout/blobs" / layer.blob.digest.replace(":", "/")).read_bytes() == (
            layer.blob.path.read_bytes()
        )
    # As a directory in a tar, made by somebody else, from the current directory.
    run("tar", "-C", tmp_path / "layout", "-cf", tmp_path / "again.tar", ".")
    _, (found,) = read((tmp_path / "again.tar").read_bytes())
    assert found.manifest == given.manifest


@needs("umoci")
@pytest.mark.slow
def test_umoci_unpacks_what_we_write(whole: Made, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    layout.mkdir()
    data = b"".join(write_oci_layout([saved(whole, "docker.io/library/a:1")]))
    subprocess.run(["tar", "-C", layout, "-x"], input=data, check=True)
    run("umoci", "raw", "unpack", "--image", f"{layout}:1", tmp_path / "rootfs")
    assert (tmp_path / "rootfs/etc/motd").read_bytes() == b"hello\n"
    assert sorted(os.listdir(tmp_path / "rootfs")) == ["etc", "link"]


@needs("buildah")
@pytest.mark.slow
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_buildah_loads_what_we_write_and_we_load_what_it_saves(
    whole: Made, tmp_path: Path, read: Read, form: str
) -> None:
    write = write_docker_archive if form == "docker-archive" else write_oci_layout
    (tmp_path / "ours.tar").write_bytes(b"".join(write([saved(whole, "docker.io/library/a:1")])))
    (tmp_path / "policy.json").write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
    buildah = ("buildah", "--root", tmp_path / "r", "--runroot", tmp_path / "rr", "--storage-driver", "vfs")
    policy = ("--signature-policy", tmp_path / "policy.json")
    pulled = run(*buildah, "pull", *policy, f"{form}:{tmp_path}/ours.tar").strip()
    assert pulled == whole.id
    run(*buildah, "push", *policy, "--disable-compression", pulled, f"docker-archive:{tmp_path}/its.tar:x:3")
    contents, (found,) = read((tmp_path / "its.tar").read_bytes())
    assert (found.image, found.names) == (f"sha256:{whole.id}", ("docker.io/library/x:3",))
    assert len(contents.layers) == 2
