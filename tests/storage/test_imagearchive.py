"""What every known writer of image archives writes is read, and comes out as the same image."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import zstandard
from archives import AMD64, Archive, Read, descriptor, dump, image, sha

from lading.events.errors import HostError, NotFound
from lading.events.manifest import OCI_INDEX, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST
from lading.events.platforms import Platform
from lading.storage.archivejob import decode_contents, encode_contents
from lading.storage.splitread import read_split

# what there is to read


@pytest.mark.parametrize("form", ["docker", "podman", "hybrid"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_every_form_gives_the_same_image(
    archive: Archive, read: Read, place: Any, base: bytes, top: bytes, form: str, pack: Callable[[bytes], bytes]
) -> None:
    made, other = image(base, top), image(base, comment="another")
    getattr(archive, form)(made, "a:1", "b:2")
    getattr(archive, form)(other)
    contents, (first, second) = read(pack(archive.packed()))
    assert first.image == f"sha256:{made.id}"
    assert first.config == made.config
    assert first.names == ("docker.io/library/a:1", "docker.io/library/b:2")
    assert (second.image, second.names) == (f"sha256:{other.id}", ())
    assert second.layers == first.layers[:1]
    assert (first.manifest is not None) == (form == "hybrid")
    for member, layer in zip(first.layers, made.layers, strict=True):
        found = contents.layers[member]
        assert found.blob is None
        assert found.split is not None
        assert b"".join(read_split(place.root / found.directory, place.root / found.split)) == layer
    tree = place.root / contents.layers[first.layers[1]].directory
    assert (tree / "etc/motd").read_bytes() == b"again"


@pytest.mark.parametrize(("pack", "media_type"), [(gzip.compress, OCI_LAYER_GZIP), (bytes, OCI_LAYER)])
def test_a_layout_keeps_its_manifest_and_its_blobs(
    archive: Archive,
    read: Read,
    place: Any,
    base: bytes,
    top: bytes,
    pack: Callable[[bytes], bytes],
    media_type: str,
) -> None:
    def packed(data: bytes) -> bytes:
        return gzip.compress(data, mtime=0) if pack is gzip.compress else data

    made = image(base, top)
    archive.layout(made, "docker.io/library/x:1", pack=packed, media_type=media_type)
    contents, (found,) = read(archive)
    assert found.names == ("docker.io/library/x:1",)
    assert found.manifest == archive.manifest(made, packed, media_type)
    assert found.manifest_digest == f"sha256:{sha(found.manifest)}"
    for member, layer in zip(found.layers, made.layers, strict=True):
        kept = contents.layers[member]
        assert kept.unpacked.diff_id == f"sha256:{sha(layer)}"
        if packed(layer) != layer:
            assert kept.split is None
            assert (place.root / str(kept.blob)).read_bytes() == packed(layer)
            assert sorted(os.listdir(place.root / kept.directory / "..")) == ["blob", "tree"]


def test_a_layer_is_found_through_links(archive: Archive, read: Read, tar: Any, base: bytes) -> None:
    made = image(base, base, base)
    archive.docker(made, "a:1")
    item = json.loads(archive.members["manifest.json"])[0]
    stored, soft, hard = item["Layers"]
    for name in (soft, hard):
        del archive.members[name]
    archive.links = {
        "1": tar.s(soft.encode(), b"../" + stored.encode()),
        "2": tar.lnk(hard.encode(), b"./" + soft.encode()),
        "3": tar.s(b"unused", b"/etc/passwd"),
    }
    _, (found,) = read(archive)
    assert found.layers == (stored,) * 3


def test_members_may_come_in_any_order_with_any_spelling_and_twice(
    archive: Archive, read: Read, place: Any, tar: Any, base: bytes, top: bytes
) -> None:
    archive.docker(image(base, top), "a:1")
    members = list(archive.members.items())
    for order in (members, members[::-1]):
        place.refresh()
        data = b"".join(tar.d(b"./") + tar.f(f"./{name}".encode()[:100], content) for name, content in order)
        contents, (found,) = read(data + data + tar.END)
        assert found.names == ("docker.io/library/a:1",)
        assert len(contents.layers) == len(os.listdir(place.root)) == 2


def test_both_halves_of_a_hybrid_give_the_same_images(
    archive: Archive, read: Read, place: Any, base: bytes, top: bytes
) -> None:
    archive.hybrid(image(base, top), "a:1", "b:1").hybrid(image(top), "c:1")
    _, by_manifest = read(archive)
    del archive.members["manifest.json"]
    place.refresh()
    _, by_index = read(archive)
    assert by_manifest == by_index
    assert len(by_index) == 2


def test_an_index_is_one_image_for_the_platform_that_is_asked_for(
    archive: Archive, read: Read, place: Any, base: bytes, top: bytes
) -> None:
    amd, arm = image(base), image(top, architecture="arm64")
    entries = [
        descriptor(OCI_MANIFEST, archive.manifest(made), platform={"os": "linux", "architecture": machine})
        for made, machine in ((amd, "amd64"), (arm, "arm64"))
    ]
    attestation = {
        "mediaType": OCI_MANIFEST,
        "digest": "sha256:" + "0" * 64,
        "size": 5,
        "platform": {"os": "unknown", "architecture": "unknown"},
    }
    nested = dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries, attestation]})
    archive.blob(nested)
    archive.index(
        descriptor(OCI_INDEX, nested, annotations={"org.opencontainers.image.ref.name": "r.example/a:1"})
    )
    data = archive.packed()
    for platform, made in ((AMD64, amd), (Platform("linux", "arm64"), arm)):
        place.refresh()
        _, (found,) = read(data, platform=platform)
        assert (found.image, found.names) == (f"sha256:{made.id}", ("r.example/a:1",))
    place.refresh()
    with pytest.raises(NotFound, match="linux/s390x"):
        read(data, platform=Platform("linux", "s390x"))
    # The same without an index between.
    del archive.members["index.json"]
    place.refresh()
    _, (found,) = read(archive.index(*entries), platform=Platform("linux", "arm64"))
    assert found.image == f"sha256:{arm.id}"


def test_names_in_a_layout_are_whole_references(archive: Archive, read: Read, base: bytes) -> None:
    made = image(base)
    content = archive.layout(made, "docker.io/library/a:1", "docker.io/library/b:1").manifest(made)
    for reference in ("latest", "r.example/c:2", "1.0/x@y"):
        archive.index(
            descriptor(OCI_MANIFEST, content, annotations={"org.opencontainers.image.ref.name": reference})
        )
    _, (found,) = read(archive)
    assert found.names == ("docker.io/library/a:1", "docker.io/library/b:1", "r.example/c:2")


def test_what_no_image_needs_is_no_error(archive: Archive, read: Read, tar: Any, base: bytes) -> None:
    archive.add("README", b"text" * 500)
    archive.add("x.tar.xz", b"\xfd7zXZ\0" + bytes(100))
    archive.add("cut.tar", tar.f(b"a", b"x" * 600)[:700])
    archive.add("huge.json", b"{" + b" " * 5_000_000)
    archive.add("empty", b"")
    archive.links["fifo"] = tar.header(b"p", b"6") + tar.d(b"../dir") + tar.f(b"caf\xe9", b"{}")
    contents, (found,) = read(archive.docker(image(base), "a:1"))
    assert set(contents.broken) == {"x.tar.xz", "cut.tar", "huge.json"}
    assert found.names == ("docker.io/library/a:1",)


def test_progress_is_told_and_may_end_it(archive: Archive, read: Read, base: bytes) -> None:
    told: list[tuple[str, int, int]] = []
    archive.docker(image(base), "a:1")
    _, (found,) = read(archive, progress=lambda *args: told.append(args))
    assert told[-1][1] >= 0
    assert (found.layers[0], len(base), len(base)) in told

    class Cancelled(Exception):
        pass

    def cancel(*_: object) -> None:
        raise Cancelled

    with pytest.raises((Cancelled, HostError)):
        read(archive, progress=cancel)


def test_contents_go_through_a_message(archive: Archive, read: Read, base: bytes) -> None:
    archive.add("cut.tar", gzip.compress(b"no tar"))
    contents, _ = read(archive.hybrid(image(base), "a:1"))
    again = decode_contents(msgpack.unpackb(msgpack.packb(encode_contents(contents))))
    assert again.documents == contents.documents
    assert again.layers == contents.layers
    assert {name: str(error) for name, error in again.broken.items()} == {
        name: str(error) for name, error in contents.broken.items()
    }
