"""What archives say, however their writers say it, is read in one way or refused."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lading.events.errors import ImageInvalid, LadingError
from lading.events.ids import Digest
from lading.events.imagearchive import ArchivedImage, read_images
from lading.events.manifest import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST
from lading.events.member import LayerFacts, clean_member
from lading.events.platforms import Platform

AMD64 = Platform("linux", "amd64")


def digest(data: bytes) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")


def dump(value: object) -> bytes:
    return json.dumps(value).encode()


LAYER = LayerFacts(digest(b"packed"), 100, digest(b"plain"), 1000)
CONFIG = dump({"os": "linux", "rootfs": {"type": "layers", "diff_ids": [LAYER.diff_id]}})
MANIFEST = dump(
    {
        "schemaVersion": 2,
        "config": {"mediaType": OCI_CONFIG, "digest": digest(CONFIG), "size": len(CONFIG)},
        "layers": [{"mediaType": OCI_LAYER_GZIP, "digest": LAYER.digest, "size": LAYER.compressed_size}],
    }
)


def blob(name: str | bytes) -> str:
    return "blobs/" + (name if isinstance(name, str) else digest(name)).replace(":", "/")


def images(documents: dict[str, bytes], layer: str, **kw: Any) -> tuple[ArchivedImage, ...]:
    return read_images(documents, {layer: LAYER}, kw.pop("links", {}), AMD64, kw.pop("broken", None))


def docker(config: str, layer: str, tag: str = "a:1") -> bytes:
    return dump([{"Config": config, "RepoTags": [tag], "Layers": [layer]}])


def test_configs_and_layers_may_be_called_anything() -> None:
    for config, layer in (
        ("sha256:" + "0" * 64, "0" * 64 + ".tar.gz"),
        ("config.json", f"{'1' * 64}/layer.tar"),
        (digest(CONFIG).removeprefix("sha256:") + ".json", "layer.tar"),
        (blob(CONFIG), f"blobs/sha256/{'2' * 64}.tar.gz"),
        ("./config.json", "./a//b/"),
    ):
        clean = {str(clean_member(config)): CONFIG, "manifest.json": docker(config, layer)}
        (found,) = images(clean, str(clean_member(layer)))
        assert (found.image, found.names) == (digest(CONFIG), ("docker.io/library/a:1",))


def test_names_come_from_the_manifest_and_its_oci_twin_is_kept_where_it_fits() -> None:
    index = dump(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [
                {
                    "mediaType": OCI_MANIFEST,
                    "digest": digest(MANIFEST),
                    "size": len(MANIFEST),
                    "annotations": {"io.containerd.image.name": "docker.io/library/other:2"},
                },
                {"mediaType": OCI_MANIFEST, "digest": digest(b"not here"), "size": 5},
            ],
        }
    )
    layer = blob(LAYER.digest)
    documents = {blob(CONFIG): CONFIG, blob(MANIFEST): MANIFEST, "index.json": index}
    both = {**documents, "manifest.json": docker(blob(CONFIG), layer)}
    (found,) = images(both, layer)
    assert (found.names, found.manifest) == (("docker.io/library/a:1",), MANIFEST)
    assert found.manifest_digest == digest(MANIFEST)
    # Without it, a missing image of the index counts.
    with pytest.raises(ImageInvalid, match="lacks the manifest"):
        images(documents, layer)
    # A manifest that is not what its name says, or has other blobs, is as good as none.
    for harmed in (MANIFEST + b" ", MANIFEST.replace(b'"size": 100', b'"size": 101')):
        content = {**both, blob(MANIFEST): harmed}
        if b"101" in harmed:
            content[blob(harmed)] = harmed
            content["index.json"] = index.replace(digest(MANIFEST).encode(), digest(harmed).encode())
        (found,) = images(content, layer)
        assert found.manifest is None


def test_an_image_of_several_tags_is_one() -> None:
    items = [json.loads(docker("c.json", "l", tag))[0] for tag in ("a:1", "b:1", "a:1")]
    (found,) = images({"c.json": CONFIG, "manifest.json": dump(items)}, "l")
    assert found.names == ("docker.io/library/a:1", "docker.io/library/b:1")


def test_member_names() -> None:
    for name, clean in (
        ("a", "a"),
        ("./a//b/.", "a/b"),
        ("..", None),
        ("a/../b", None),
        ("/a", None),
        ("", None),
        (".", None),
        ("...", "..."),
    ):
        assert clean_member(name) == clean


keys = st.sampled_from(
    (
        *(
            "schemaVersion",
            "mediaType",
            "config",
            "layers",
            "manifests",
            "digest",
            "size",
            "annotations",
            "platform",
        ),
        *("Config", "RepoTags", "Layers", "rootfs", "diff_ids", "type", "os", "imageLayoutVersion"),
    )
)
leaves = st.one_of(
    st.none(),
    st.integers(-1, 3),
    st.sampled_from(
        (
            *("c.json", "l", "l2", "layers", "a:1", "../x", "/", "", "1.0.0", "linux", "\ud7ff", "loop"),
            *(OCI_INDEX, OCI_MANIFEST, OCI_CONFIG, LAYER.digest, digest(CONFIG), digest(MANIFEST)),
        )
    ),
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5), max_leaves=25
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(("manifest.json", "index.json", "oci-layout", "c.json")), values))
def test_documents_of_any_shape_are_read_or_refused(found: dict[str, Any]) -> None:
    documents = {name: dump(value) for name, value in found.items()}
    content = {blob(CONFIG): CONFIG, blob(MANIFEST): MANIFEST, "c.json": CONFIG, **documents}
    try:
        for each in images(content, "l", links={"loop": "loop", "l2": "l"}, broken={"x": ImageInvalid("x")}):
            assert digest(each.config) == each.image
    except LadingError:
        pass
