"""What the registry client's tests share: quick settings, references, small images on a `FaultServer`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from faultserver import Answer, FaultServer, Reply, digest_of, ranged

from lading.engine.registry import Registry, RegistrySettings
from lading.events.manifest import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    encode_manifest,
)
from lading.events.reference import Reference, parse_reference

QUICK = RegistrySettings(
    certificates=(),
    proxies=False,
    attempts=3,
    connect_timeout=2.0,
    stall_timeout=0.15,
    first_delay=0.001,
    longest_delay=0.01,
)
"""Everything fails within a second."""

CONFIG = json.dumps(
    {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}}
).encode()


def name(server: FaultServer, tag: str = "1", path: str = "a/b") -> Reference:
    return parse_reference(f"{server.address}/{path}:{tag}")


def layer(content: bytes) -> Descriptor:
    return Descriptor(OCI_LAYER, digest_of(content), len(content))


def blob_of(content: bytes, path: str = "a/b") -> str:
    """The request for it."""
    return f"GET /v2/{path}/blobs/{digest_of(content)}"


def manifest_of(layers: Sequence[bytes]) -> bytes:
    return encode_manifest(
        Descriptor(OCI_CONFIG, digest_of(CONFIG), len(CONFIG)), [layer(each) for each in layers]
    )


def served(content: bytes, media_type: str = OCI_MANIFEST) -> Reply:
    """A manifest, as registries send it."""
    return Reply(200, {"Content-Type": media_type, "Docker-Content-Digest": digest_of(content)}, content)


def hold(server: FaultServer, *layers: bytes) -> bytes:
    """Make the server have an image ``a/b:1``; its manifest."""
    manifest = manifest_of(layers)
    server.on("GET /v2/", Reply(200, {}, b"{}"))
    server.on("GET /v2/a/b/manifests/1", served(manifest))
    server.on(f"GET /v2/a/b/manifests/{digest_of(manifest)}", served(manifest))
    for each in (CONFIG, *layers):
        server.on(blob_of(each), ranged(each))
    return manifest


async def fetched(
    server: FaultServer, content: bytes, *answers: Answer, settings: RegistrySettings = QUICK
) -> bytes:
    """What a client makes of a blob that is answered with ``answers``."""
    server.on(blob_of(content), *answers)
    got = bytearray()
    async with Registry(settings) as registry, registry.blob(name(server), layer(content)) as blob:
        async for part in blob:
            got += part
            assert len(got) <= len(content)
    return bytes(got)
