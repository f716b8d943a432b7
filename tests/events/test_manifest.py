"""Manifests and indexes: one reading or none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import digests, texts

from lading.events.errors import ImageInvalid, NotFound
from lading.events.manifest import (
    CONFIG_TYPES,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    LAYER_TYPES,
    MANIFEST_LIMIT,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
    choose_platform,
    encode_index,
    encode_manifest,
    is_foreign,
    layer_compression,
    pair_layers,
    parse_manifest,
)

D = "sha256:" + "d" * 64
E = "sha256:" + "e" * 64
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


def descriptor(media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": D, "size": 5} | more


def image(**more: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG),
        "layers": [descriptor(OCI_LAYER_GZIP, digest=E)],
    } | more


def index(**more: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor(OCI_MANIFEST)]} | more


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}


def parsed(document: Any, content_type: str = "") -> Manifest | Index:
    return parse_manifest(json.dumps(document).encode(), content_type)


def refusal(document: Any, content_type: str = "") -> str:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(ImageInvalid) as caught:
        parse_manifest(raw, content_type)
    return str(caught.value)


def test_an_image_manifest_has_a_config_and_layers() -> None:
    assert parsed(image()) == Manifest(
        OCI_MANIFEST, Descriptor(OCI_CONFIG, D, 5), (Descriptor(OCI_LAYER_GZIP, E, 5),)
    )


def test_an_index_has_manifests_with_their_platforms() -> None:
    platform = {"os": "Linux", "architecture": "aarch64", "variant": "v8", "os.version": "1", "features": ["x"]}
    found = parsed(index(manifests=[descriptor(OCI_MANIFEST, platform=platform, annotations={"a": "b"})]))
    assert found == Index(
        OCI_INDEX, (Descriptor(OCI_MANIFEST, D, 5, Platform("linux", "arm64"), annotations={"a": "b"}),)
    )


@pytest.mark.parametrize(
    ("said", "came_as", "result"),
    [
        (OCI_MANIFEST, "", OCI_MANIFEST),
        ("", OCI_MANIFEST, OCI_MANIFEST),
        ("", DOCKER_MANIFEST, DOCKER_MANIFEST),
        ("", "", OCI_MANIFEST),
        ("", "text/plain", OCI_MANIFEST),
        (DOCKER_MANIFEST, "application/json; charset=utf-8", DOCKER_MANIFEST),
        (DOCKER_MANIFEST, DOCKER_MANIFEST.upper() + " ; q=1", DOCKER_MANIFEST),
        (OCI_MANIFEST, DOCKER_MANIFEST, None),
        (DOCKER_MANIFEST, OCI_MANIFEST, None),
        (OCI_INDEX, "", None),
        ("", OCI_INDEX, None),
        ("", DOCKER_LIST, None),
        ("application/vnd.oci.artifact.manifest.v1+json", OCI_MANIFEST, None),
    ],
)
def test_the_media_type_is_said_once_or_twice_the_same(said: str, came_as: str, result: str | None) -> None:
    """M5: a document isn't reinterpreted by a header, nor a header by a document."""
    document = image(mediaType=said) if said else without(image(), "mediaType")
    if result is None:
        refusal(document, came_as)
    else:
        assert parsed(document, came_as).media_type == result


@pytest.mark.parametrize("type_", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_an_index_is_not_called_an_image(type_: str) -> None:
    refusal(index(mediaType=type_))
    refusal(without(index(), "mediaType"), type_)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (image(manifests=[]), "neither an image nor an index"),
        (index(layers=[]), "neither an image nor an index"),
        (index(config=descriptor(OCI_CONFIG)), "neither an image nor an index"),
        (image(Layers=[]), "'Layers'"),
        (image() | {"manifest\u017f": []}, "'manifests'"),
        (image(Manifests=[]), "'Manifests'"),
        (image(layers=[descriptor(OCI_LAYER, Digest=E)]), "'Digest'"),
        (image(config=descriptor(OCI_CONFIG, SIZE=1)), "'SIZE'"),
        (index(manifests=[descriptor(OCI_MANIFEST, platform={"OS": "linux"})]), "'OS'"),
        (image(schemaVersion=1), "schema 1"),
        ({"schemaVersion": 1, "fsLayers": [], "history": []}, "schema 1"),
        (image(fsLayers=[]), "schema 1"),
        (image(signatures=[]), "schema 1"),
        (image(schemaVersion=3), "schemaVersion"),
        (image(schemaVersion="2"), "schemaVersion"),
        (image(schemaVersion=2.0), "schemaVersion"),
        (image(schemaVersion=True), "schemaVersion"),
        (without(image(), "schemaVersion"), "schemaVersion"),
        (image(mediaType=7), "mediaType"),
        ({"schemaVersion": 2}, "not a container image"),
        (image(config=None), "not a container image"),
        (without(image(), "config"), "not a container image"),
        (image(config=descriptor("application/vnd.oci.empty.v1+json")), "not a container image"),
        (image(config=descriptor("application/vnd.cncf.helm.config.v1+json")), "not a container image"),
        (image(layers=[descriptor("application/vnd.in-toto+json")]), "not supported"),
        (image(layers=[descriptor(OCI_LAYER + "+gzip+encrypted")]), "not supported"),
        (image(layers=[descriptor("")]), "not supported"),
        (image(layers={}), "not a list"),
        (image(layers=[[]]), "not an object"),
        (image(layers=["x"]), "not an object"),
        (image(config=[]), "not an object"),
        (image(layers=[descriptor(OCI_LAYER)] * 1001), "1001 layers"),
        (index(manifests=[descriptor(OCI_MANIFEST)] * 1001), "1001 manifests"),
        (image(config=descriptor(OCI_CONFIG, size=MANIFEST_LIMIT + 1)), "longer"),
        (image(layers=[descriptor(OCI_LAYER, urls="x")]), "urls"),
        (image(layers=[descriptor(OCI_LAYER, urls=[1])]), "urls"),
        (image(layers=[descriptor(OCI_LAYER, annotations={"a": 1})]), "annotations"),
        (image(layers=[descriptor(OCI_LAYER, annotations=["a"])]), "annotations"),
        (image(layers=[descriptor(OCI_LAYER, mediaType=["a"])]), "mediaType"),
        (index(manifests=[descriptor(OCI_MANIFEST, platform="linux")]), "platform"),
        (index(manifests=[descriptor(OCI_MANIFEST, platform={"os": 1})]), "platform"),
        ([], "object"),
        ("x", "object"),
    ],
)
def test_anything_that_could_be_read_in_two_ways_is_refused(document: Any, why: str) -> None:
    """M5, M6."""
    assert why in refusal(document)


@pytest.mark.parametrize("suffix", ["json", "prettyjws"])
def test_schema_1_is_known_by_its_content_type_too(suffix: str) -> None:
    assert "schema 1" in refusal(image(), f"application/vnd.docker.distribution.manifest.v1+{suffix}")
    assert "schema 1" in refusal(image(mediaType=f"application/vnd.docker.distribution.manifest.v1+{suffix}"))


@pytest.mark.parametrize("size", [-1, 2**63, 2**64, 10**400, 1.0, "5", True, None])
def test_a_size_is_a_whole_number_of_63_bits(size: Any) -> None:
    """M2."""
    assert "size" in refusal(image(layers=[descriptor(OCI_LAYER, size=size)]))


@pytest.mark.parametrize("size", [0, 1, 2**63 - 1])
def test_a_layer_may_have_any_such_size(size: int) -> None:
    found = parsed(image(layers=[descriptor(OCI_LAYER, size=size)]))
    assert isinstance(found, Manifest)
    assert found.layers[0].size == size


@pytest.mark.parametrize(
    ("digest", "why"),
    [
        ("sha256:../../../../x", "64 lower-case"),
        ("sha256:" + "d" * 63, "64 lower-case"),
        ("sha256:" + "D" * 64, "64 lower-case"),
        ("sha256:" + "d" * 64 + "\n", "64 lower-case"),
        ("sha256:", "64 lower-case"),
        ("SHA256:" + "d" * 64, "64 lower-case"),
        ("md5:" + "d" * 32, "64 lower-case"),
        ("sha512:" + "d" * 128, "only sha256 is supported"),
        ("sha256:" + "٣" * 64, "64 lower-case"),
        ("", "64 lower-case"),
        (None, "no digest"),
        (5, "no digest"),
    ],
)
def test_a_digest_is_checked_before_anything_is_made_of_it(digest: Any, why: str) -> None:
    """M4."""
    for document in (
        image(config=descriptor(OCI_CONFIG, digest=digest)),
        image(layers=[descriptor(OCI_LAYER, digest=digest)]),
        index(manifests=[descriptor(OCI_MANIFEST, digest=digest)]),
    ):
        assert why in refusal(document)


GOOD = json.dumps(image()).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xef\xbb\xbf" + GOOD,
        GOOD + b"x",
        GOOD + GOOD,
        GOOD[:-1] + b', "layers": []}',
        GOOD[:-1] + b', "x": NaN}',
        GOOD[:-1] + b', "x": 1e999}',
        GOOD[:-1] + b', "x": "\\ud800"}',
        GOOD[:-1] + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        GOOD[:-1] + b', "x": ' + b"[" * 65 + b"]" * 65 + b"}",
        GOOD[:-1] + b', "x": "\xff"}',
        GOOD[:-1] + b', "x": ' + b"1" * 5000 + b"}",
        GOOD.decode().encode("utf-16"),
        GOOD[:-1] + b', "x": "' + b"a" * MANIFEST_LIMIT + b'"}',
    ],
    ids=lambda raw: f"{len(raw)} {raw[-24:]!r}",
)
def test_what_is_not_plain_json_is_refused(raw: bytes) -> None:
    """M6, M7."""
    refusal(raw)


def test_what_go_writes_for_nothing_is_nothing() -> None:
    found = parsed(image(layers=None, annotations=None, subject=None))
    assert isinstance(found, Manifest)
    assert found.layers == ()
    assert parsed(index(manifests=None)) == Index(OCI_INDEX, ())
    nulls = {"urls": None, "annotations": None, "platform": None}
    assert parsed(image(config=descriptor(OCI_CONFIG, **nulls))) == parsed(image())


@pytest.mark.parametrize("type_", sorted(CONFIG_TYPES))
def test_every_name_that_registries_have_given_to_configs_is_known(type_: str) -> None:
    assert isinstance(parsed(image(config=descriptor(type_))), Manifest)


@pytest.mark.parametrize("type_", sorted(LAYER_TYPES))
def test_every_known_layer_says_how_it_is_compressed(type_: str) -> None:
    found = parsed(image(layers=[descriptor(type_, urls=["https://elsewhere.example/x"])]))
    assert isinstance(found, Manifest)
    last = type_.replace("+", ".").rpartition(".")[2]
    assert layer_compression(found.layers[0]) == ("" if last == "tar" else last)
    assert is_foreign(found.layers[0]) == ("foreign" in type_ or "nondistributable" in type_)


def test_layers_and_diff_ids_are_as_many() -> None:
    """M3."""
    assert pair_layers(["a", "b"], [D, E]) == (("a", D), ("b", E))
    assert pair_layers([], []) == ()
    for layers, diff_ids in ((["a"], []), ([], [D]), (["a"], [D, E])):
        with pytest.raises(ImageInvalid, match="diff ids"):
            pair_layers(layers, diff_ids)


def offers(*platforms: str | None, **more: Any) -> Index:
    made = []
    for number, text in enumerate(platforms):
        platform = None
        if text is not None:
            os, architecture, *variant = text.split("/")
            platform = Platform(os, architecture, *variant)
        made.append(Descriptor(OCI_MANIFEST, "sha256:" + f"{number:064x}", 1, platform, **more))
    return Index(OCI_INDEX, tuple(made))


@pytest.mark.parametrize(
    ("offered", "machine", "chosen"),
    [
        (["linux/arm64", "linux/amd64"], "linux/amd64", 1),
        (["linux/arm/v5", "linux/arm/v6", "linux/arm/v7"], "linux/arm/v7", 2),
        (["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", 1),
        (["linux/arm/v5", "linux/arm/v7"], "linux/arm/v6", 0),
        (["linux/arm/v7"], "linux/arm/v6", None),
        (["linux/arm/v7", "linux/arm64"], "linux/arm64", 1),
        (["linux/arm/v7"], "linux/arm64", 0),
        (["linux/arm64", "linux/arm64/v8.1"], "linux/arm64/v9", 1),
        (["linux/arm64/v9"], "linux/arm64", None),
        (["linux/386", "linux/amd64"], "linux/amd64", 1),
        (["linux/386"], "linux/amd64", 0),
        (["linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/amd64/v4"], "linux/amd64/v3", 2),
        (["linux/amd64/v2"], "linux/amd64", None),
        (["windows/amd64"], "linux/amd64", None),
        (["unknown/unknown"], "linux/amd64", None),
        ([None], "linux/amd64", 0),
        ([None, "linux/amd64"], "linux/amd64", 1),
        ([None, "linux/arm64"], "linux/amd64", 0),
        (["linux/amd64", "linux/amd64"], "linux/amd64", 0),
        ([], "linux/amd64", None),
    ],
)
def test_the_best_that_a_machine_can_run_is_chosen(
    offered: list[str | None], machine: str, chosen: int | None
) -> None:
    found, platform = offers(*offered), Platform(*machine.split("/"))
    if chosen is None:
        with pytest.raises(NotFound) as caught:
            choose_platform(found, platform)
        assert str(platform) in str(caught.value)
    else:
        assert choose_platform(found, platform) is found.manifests[chosen]


def test_attestations_and_strangers_are_never_chosen() -> None:
    amd64 = Platform("linux", "amd64")
    marked = offers("linux/amd64", annotations={"vnd.docker.reference.type": "attestation-manifest"})
    strange = Index(OCI_INDEX, (Descriptor("application/vnd.example+json", D, 1, amd64),))
    for each in (marked, strange):
        with pytest.raises(NotFound):
            choose_platform(each, amd64)


descriptors = st.builds(
    Descriptor,
    media_type=st.sampled_from((OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD)),
    digest=digests,
    size=st.integers(0, 2**63 - 1),
    platform=st.none() | st.builds(Platform, os=st.just("linux"), architecture=st.sampled_from(("amd64", "386"))),
    annotations=st.dictionaries(texts.filter(str.isascii), texts, max_size=3),
)


@given(descriptors, st.lists(descriptors, max_size=4))
def test_what_is_written_is_read_again(config: Descriptor, layers: list[Descriptor]) -> None:
    config = Descriptor(OCI_CONFIG, config.digest, 3)
    content = encode_manifest(config, layers)
    assert parse_manifest(content, OCI_MANIFEST) == Manifest(OCI_MANIFEST, config, tuple(layers))
    assert content == encode_manifest(config, layers)
    content = encode_index(layers, {"b": "1", "a": "2"})
    assert content == encode_index(layers, {"a": "2", "b": "1"})
    assert parse_manifest(content) == Index(OCI_INDEX, tuple(layers))


def test_dockers_types_are_written_as_ocis() -> None:
    layers = [Descriptor(DOCKER_LAYER + tail, E, 1) for tail in ("", ".gzip", ".zstd")]
    found = parse_manifest(encode_manifest(Descriptor(DOCKER_CONFIG, D, 3), layers))
    assert isinstance(found, Manifest)
    assert found.config.media_type == OCI_CONFIG
    assert [layer.media_type for layer in found.layers] == [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD]


def quiet(raw: bytes, content_type: str = "") -> None:
    try:
        parse_manifest(raw, content_type)
    except ImageInvalid as error:
        str(error).encode()  # the message can be sent to anybody


@given(st.binary(max_size=300), st.text(max_size=50))
def test_no_bytes_do_more_than_being_refused(raw: bytes, content_type: str) -> None:
    quiet(raw, content_type)
    quiet(GOOD[: len(raw)] + raw + GOOD[len(raw) :])


names = st.sampled_from(
    ("schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "platform", "urls", "os")
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | texts, inner, max_size=4),
    max_leaves=20,
)


@given(
    st.dictionaries(names, json_values, max_size=6),
    st.sampled_from(("image", "index", "config", "layer", "entry")),
)
def test_no_document_does_more_than_being_refused(fields: Mapping[str, Any], where: str) -> None:
    fields = dict(fields)
    document = {
        "image": image() | fields,
        "index": index() | fields,
        "config": image(config=descriptor(OCI_CONFIG) | fields),
        "layer": image(layers=[descriptor(OCI_LAYER) | fields]),
        "entry": index(manifests=[descriptor(OCI_MANIFEST) | fields]),
    }[where]
    quiet(json.dumps(document).encode())
