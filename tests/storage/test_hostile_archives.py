"""Nothing that only looks like an image archive is believed, and nothing in one gets further than it may."""

from __future__ import annotations

import gzip
import io
import json
import os
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from archives import AMD64, Archive, Read, descriptor, dump, image, reader, sha
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lading.events.errors import DigestMismatch, HostError, ImageInvalid, LadingError
from lading.events.imagearchive import read_images
from lading.events.manifest import OCI_INDEX
from lading.storage.imagearchive import ArchiveLimits, read_archive
from lading.storage.plan import Limits
from lading.storage.trees import remove_tree

# what is refused


def docker_with(archive: Archive, base: bytes, change: Callable[[dict[str, Any]], object]) -> Archive:
    archive.docker(image(base), "a:1")
    (item,) = json.loads(archive.members["manifest.json"])
    change(item)
    archive.members["manifest.json"] = dump([item])
    return archive


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda item: item.update(Config="nothing.json"),
            r"lacks the config nothing.json, which manifest.json\[0\]",
        ),
        (lambda item: item.update(Layers=["nothing"]), "lacks the layer nothing"),
        (lambda item: item.update(Layers=[]), "has 0 layers, but its config has diff ids for 1"),
        (lambda item: item.update(Layers=item["Layers"] * 2), "has 2 layers"),
        (lambda item: item.update(Layers=[item["Config"]]), "is a JSON document"),
        (lambda item: item.update(Config="../x.json"), "leads out of the archive"),
        (lambda item: item.update(Config="/etc/passwd"), "leads out of the archive"),
        (lambda item: item.update(Config=item["Layers"][0]), "lacks the config"),
        (lambda item: item.update(Config=7), "has no Config"),
        (lambda item: item.update(Layers="x"), "Layers of .* is not a list"),
        (lambda item: item.update(Layers=[None]), "Layers of .* is not a list"),
        (lambda item: item.update(RepoTags=["A:1"]), "invalid name"),
        (lambda item: item.update(RepoTags=["a\n:1"]), "invalid name"),
        (lambda item: item.update(RepoTags=["a@sha256:" + "0" * 64]), "not a name with a tag"),
        (lambda item: item.update(layers=[]), "which some take for Layers"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_by_its_fault(
    archive: Archive, read: Read, base: bytes, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    with pytest.raises(ImageInvalid, match=words):
        read(docker_with(archive, base, change))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[]", "not a list of 1 to"),
        (b"{}", "not a list"),
        (b"[1]", "not an object"),
        (b"[{", "no JSON document"),
        (b'[{"Config":1,"Config":2}]', "no JSON document"),
        (b"[" * 100_000, "no JSON document"),
        (b"\xff", "neither a manifest.json"),
    ],
)
def test_a_manifest_that_is_none_is_refused(
    archive: Archive, read: Read, base: bytes, content: bytes, words: str
) -> None:
    archive.docker(image(base)).members["manifest.json"] = content
    del archive.members["repositories"]
    with pytest.raises(ImageInvalid, match=words):
        read(archive)


def test_layers_that_are_not_those_of_the_config_are_named(
    archive: Archive, read: Read, base: bytes, top: bytes
) -> None:
    archive.docker(image(base, top))
    (item,) = json.loads(archive.members["manifest.json"])
    archive.members["manifest.json"] = dump([{**item, "Layers": item["Layers"][::-1]}])
    with pytest.raises(DigestMismatch) as caught:
        read(archive)
    assert caught.value.blob == f"the layer {item['Layers'][1]}"
    assert (caught.value.expected, caught.value.actual) == (f"sha256:{sha(base)}", f"sha256:{sha(top)}")


@pytest.mark.parametrize("what", ["config", "layer", "manifest"])
def test_a_blob_with_other_contents_than_its_name_says_is_refused(
    archive: Archive, read: Read, base: bytes, what: str
) -> None:
    made = image(base)
    content = archive.layout(made).manifest(made)
    original = {"config": made.config, "layer": base, "manifest": content}[what]
    name = f"blobs/sha256/{sha(original)}"
    archive.members[name] = base.replace(b"#!", b"!#") if what == "layer" else original.replace(b" ", b"  ", 1)
    with pytest.raises(DigestMismatch, match=sha(original)):
        read(archive)


def test_a_config_under_another_digest_than_its_own_is_refused(archive: Archive, read: Read, base: bytes) -> None:
    archive.docker(made := image(base))
    archive.members[f"{made.id}.json"] = made.config + b" "
    with pytest.raises(DigestMismatch, match="the config"):
        read(archive)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"oci-layout": b'{"imageLayoutVersion": "2.0.0"}'}, "version 2.0.0, not 1.0.0"),
        ({"index.json": b"{}"}, "schemaVersion"),
        ({"index.json": b'{"schemaVersion": 2, "manifests": []}'}, "no images"),
        ({"index.json": b'{"schemaVersion": 2, "manifests": [], "layers": [], "config": {}}'}, "both layers and"),
    ],
)
def test_a_layout_that_is_none_is_refused(
    archive: Archive, read: Read, base: bytes, changes: dict[str, bytes], words: str
) -> None:
    archive.layout(image(base))
    archive.members.update(changes)
    with pytest.raises(ImageInvalid, match=words):
        read(archive)


def test_a_layout_with_a_wrong_size_a_missing_blob_or_no_end_is_refused(
    archive: Archive, read: Read, place: Any, base: bytes
) -> None:
    made = image(base)
    archive.layout(made)
    whole = dict(archive.members)
    index = json.loads(whole["index.json"])
    index["manifests"][0]["size"] += 1
    archive.members["index.json"] = dump(index)
    with pytest.raises(ImageInvalid, match="bytes long, not"):
        read(archive)
    for content in (base, made.config, archive.manifest(made)):
        archive.members = {name: data for name, data in whole.items() if data != content}
        place.refresh()
        with pytest.raises(ImageInvalid, match="lacks the"):
            read(archive)
    nested = dump({"schemaVersion": 2, "manifests": json.loads(whole["index.json"])["manifests"]})
    archive.members = dict(whole)
    for _ in range(6):
        archive.blob(nested)
        nested = dump({"schemaVersion": 2, "manifests": [descriptor(OCI_INDEX, nested)]})
    archive.members["index.json"] = nested
    place.refresh()
    with pytest.raises(ImageInvalid, match="nested more than"):
        read(archive)


def test_two_images_of_one_name_are_refused(archive: Archive, read: Read, base: bytes, top: bytes) -> None:
    archive.docker(image(base), "a:1").docker(image(top), "a:1")
    with pytest.raises(ImageInvalid, match=r"both called docker\.io/library/a:1"):
        read(archive)


@pytest.mark.parametrize("name", [b"../x", b"/x", b"a/../../x", b"a/..", b""])
def test_a_member_that_leads_out_of_the_archive_is_refused(read: Read, tar: Any, name: bytes) -> None:
    with pytest.raises(ImageInvalid, match="leads out of it"):
        read(tar.f(name, b"{}") + tar.END)


@pytest.mark.parametrize("text", [b"/etc/passwd", b"../../x", b"../../../etc/shadow", b"loop", b"", b"."])
def test_a_link_that_leads_nowhere_is_refused_where_it_is_needed(
    archive: Archive, read: Read, tar: Any, base: bytes, text: bytes
) -> None:
    docker_with(archive, base, lambda item: item.update(Layers=["d/loop"]))
    archive.links["x"] = tar.s(b"d/loop", text)
    with pytest.raises(ImageInvalid, match=r"leads out of the archive|lead nowhere|lacks the layer"):
        read(archive)


def test_two_different_members_of_one_name_are_refused(
    read: Read, place: Any, tar: Any, base: bytes, top: bytes
) -> None:
    pairs = [(b"{}", b"[]"), (base, top), (b"{}", base), (base, b"{}")]
    for first, second in pairs:
        place.refresh()
        with pytest.raises(ImageInvalid, match="two different members"):
            read(tar.f(b"x", first) + tar.f(b"./x", second) + tar.END)


def test_a_layer_that_can_not_be_unpacked_is_named_with_its_fault(
    archive: Archive, read: Read, place: Any, tar: Any
) -> None:
    bad = tar.f(b"../escape", b"x") + tar.END
    with pytest.raises(
        ImageInvalid, match=r"can't be read: bad layer archive at entry b'\.\./escape': a path with"
    ):
        read(archive.docker(image(bad)))
    assert os.listdir(place.root) == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "neither a manifest"),
        (b"no tar at all" * 99, "damaged or no tar"),
        (bytes(1024), "neither a manifest"),
    ],
)
def test_what_is_no_archive_is_refused(read: Read, data: bytes, words: str) -> None:
    with pytest.raises(ImageInvalid, match=words):
        read(data)


def test_an_archive_that_is_cut_off_is_refused_wherever(archive: Archive, base: bytes) -> None:
    data = archive.docker(image(base)).packed()
    for at in range(1, data.index(b'"Layers"'), 97):
        with tempfile.TemporaryDirectory() as staging, pytest.raises(ImageInvalid):
            reader(Path(staging))(data[:at])


def test_an_archive_before_docker_1_10_is_told_as_such(archive: Archive, read: Read, base: bytes) -> None:
    archive.docker(image(base))
    del archive.members["manifest.json"]
    with pytest.raises(ImageInvalid, match=r"before 1\.10"):
        read(archive)


def test_a_file_system_is_told_from_an_image(read: Read, base: bytes) -> None:
    with pytest.raises(ImageInvalid, match="import them"):
        read(base)


# limits


def test_every_limit_holds(archive: Archive, read: Read, place: Any, tar: Any, base: bytes, top: bytes) -> None:
    archive.docker(image(base, top), "a:1")
    for limits, words in (
        (ArchiveLimits(members=3), "more than 3 members"),
        (ArchiveLimits(layers=1), "more than 1 layers"),
        (ArchiveLimits(name_bytes=100), "longer than 100 bytes"),
        (ArchiveLimits(documents_bytes=100), "longer than 100 bytes"),
        (ArchiveLimits(document_bytes=50), "longer than the 50 bytes"),
        (ArchiveLimits(layer=Limits(entries=4)), "more than the limit of"),
        (ArchiveLimits(layer=Limits(stream_bytes=len(base) + len(top) - 1)), "larger than the limit"),
        (ArchiveLimits(archive=Limits(stream_bytes=4000)), "larger than the limit"),
    ):
        place.refresh()
        with pytest.raises(ImageInvalid, match=words):
            read(archive, limits)
    place.refresh()
    read(archive, ArchiveLimits(layer=Limits(stream_bytes=len(base) + len(top))))


def test_many_small_bombs_share_one_limit(archive: Archive, place: Any, tar: Any) -> None:
    bomb = gzip.compress(tar.f(b"zeros", bytes(8 * 2**20)) + b"junk", mtime=0)
    for number in range(30):
        archive.add(f"layer{number}", bomb)
    contents = read_archive(
        io.BytesIO(archive.packed()), place.root, ArchiveLimits(layer=Limits(stream_bytes=20 * 2**20))
    )
    why = [str(error) for error in contents.broken.values()]
    assert sum("larger than the limit" in each for each in why) >= 27
    assert sum("cut off" in each for each in why) in (1, 2, 3)
    assert os.listdir(place.root) == []


@pytest.mark.slow
def test_memory_stays_small(archive: Archive, read: Read, tar: Any) -> None:
    made = image(tar.f(b"large", bytes(80 * 2**20)) + tar.END)
    data = gzip.compress(archive.docker(made, "a:1").packed(), 1)
    tracemalloc.start()
    try:
        read(data)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("pack", [bytes, lambda data: gzip.compress(data, 0)])
def test_a_full_disk_is_told_as_such(
    archive: Archive, tmpfs: Callable[[str], Path], tar: Any, pack: Callable[[bytes], bytes]
) -> None:
    for content in (tar.f(b"large", os.urandom(2**20)), b"".join(tar.f(b"%d" % n, b"x") for n in range(400))):
        archive.add("layer.tar", pack(content + tar.END))
        with pytest.raises(HostError, match="No space left"):
            reader(tmpfs("size=300k"))(archive)
        archive.members.clear()


@pytest.mark.parametrize("fd", [False, True])
def test_a_staging_directory_that_is_none_is_told(tmp_path: Path, fd: bool) -> None:
    with pytest.raises(HostError, match="staging"):
        read_archive(io.BytesIO(), 10_000 if fd else tmp_path / "nowhere")


# fuzz


def attempt(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as where:
        staging = Path(where, "outer", "staging")
        staging.mkdir(parents=True)
        try:
            contents = read_archive(io.BytesIO(data), staging, ArchiveLimits(layer=Limits(file_bytes=2**24)))
            read_images(contents.documents, contents.facts, contents.links, AMD64, contents.broken)
        except LadingError:
            pass
        assert os.listdir(where) == ["outer"]
        assert os.listdir(Path(where, "outer")) == ["staging"]
        fd = os.open(Path(where, "outer"), os.O_RDONLY)
        try:
            remove_tree(fd, b"staging")
        finally:
            os.close(fd)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=3000))
@example(b"\x1f\x8b")
@example(b"\x28\xb5\x2f\xfd")
def test_any_bytes_are_refused_by_name(data: bytes) -> None:
    attempt(data)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), form=st.sampled_from(["docker", "podman", "hybrid", "layout"]))
def test_any_harm_to_a_valid_archive_is_refused_by_name(
    tar: Any, base: bytes, top: bytes, data: st.DataObject, form: str
) -> None:
    archive = Archive(tar)
    getattr(archive, form)(image(base, top), "a:1")
    whole = bytearray(archive.packed())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "swap"])):
            case "flip":
                whole[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del whole[at : at + data.draw(st.integers(1, 600))]
            case "insert":
                whole[at:at] = data.draw(st.binary(max_size=20))
            case _:
                block = at // 512 * 512
                whole[block : block + 512], whole[:512] = whole[:512], whole[block : block + 512]
        if not whole:
            break
    attempt(bytes(whole))
