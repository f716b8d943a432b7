"""Manifests from a registry: the right bytes or none, and the one for this platform."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import attrs
import pytest
import trio
from faultserver import FaultServer, Reply, digest_of, fault_server
from registries import CONFIG, QUICK, hold, layer, manifest_of, name, served

from lading.engine.registry import ManifestFacts, Registry
from lading.events.errors import DigestMismatch, ImageInvalid, NotFound, RegistryUnavailable
from lading.events.ids import Digest
from lading.events.manifest import (
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Platform,
    encode_index,
)

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    with trio.fail_after(20):
        async with fault_server() as server:
            yield server


def put(server: FaultServer, content: bytes, media_type: str = OCI_MANIFEST, *tags: str) -> Descriptor:
    """Make the server have a manifest under its digest and ``tags``."""
    for each in (digest_of(content), *tags):
        server.on(f"GET /v2/a/b/manifests/{each}", served(content, media_type))
    return Descriptor(media_type, Digest(digest_of(content)), len(content))


def index(server: FaultServer, manifests: Sequence[Descriptor], *tags: str) -> Descriptor:
    return put(server, encode_index(manifests), OCI_INDEX, *tags)


async def test_a_manifest_comes_by_tag_and_by_digest(server: FaultServer) -> None:
    manifest = hold(server, b"layer")
    async with Registry(QUICK) as registry:
        found = await registry.manifest(name(server))
        assert (found.content, found.media_type, found.digest) == (manifest, OCI_MANIFEST, digest_of(manifest))
        pinned = attrs.evolve(name(server), digest=found.digest)
        assert await registry.manifest(pinned) == found
    by_tag, by_digest = (
        server.asked("GET /v2/a/b/manifests/1"),
        server.asked(f"GET /v2/a/b/manifests/{found.digest}"),
    )
    assert (len(by_tag), len(by_digest)) == (1, 1)
    assert OCI_INDEX in by_tag[0].headers["accept"]
    assert DOCKER_MANIFEST in by_tag[0].headers["accept"]


async def test_another_digest_than_asked_for_is_refused(server: FaultServer) -> None:
    """M1."""
    manifest = hold(server)
    wanted = Digest(digest_of(b"other"))
    server.on(f"GET /v2/a/b/manifests/{wanted}", served(manifest))
    server.on("GET /v2/a/b/manifests/2", Reply(200, {"Docker-Content-Digest": wanted}, manifest))
    server.on("GET /v2/a/b/manifests/3", Reply(200, {"Docker-Content-Digest": "sha512:abc"}, manifest))
    async with Registry(QUICK) as registry:
        for wrong in (attrs.evolve(name(server), digest=wanted), name(server, "2")):
            with pytest.raises(DigestMismatch) as caught:
                await registry.manifest(wrong)
            assert caught.value.expected == wanted
            assert caught.value.actual == digest_of(manifest)
        assert (await registry.manifest(name(server, "3"))).digest == digest_of(manifest)


@pytest.mark.parametrize(
    "answer",
    [
        Reply(200, {}, b" " * 65536, endless=True),
        Reply(200, {}, b" " * 65536, endless=True, length=-1),
        Reply(200, {}, b"{}", length=1 << 40, stall=2),
        Reply(200, {}, b" " * ((4 << 20) + 1)),
    ],
)
async def test_an_endless_manifest_is_cut_off(server: FaultServer, answer: Reply) -> None:
    """M7."""
    server.on("GET /v2/a/b/manifests/1", answer)
    async with Registry(QUICK) as registry:
        with trio.fail_after(5), pytest.raises(ImageInvalid, match="more than"):
            await registry.manifest(name(server))


async def test_a_manifest_that_trickles_is_given_up(server: FaultServer) -> None:
    server.on("GET /v2/a/b/manifests/1", Reply(200, {}, b"{" * 1000, drip=0.02))
    async with Registry(attrs.evolve(QUICK, stall_timeout=0.05)) as registry:
        with trio.fail_after(5), pytest.raises(RegistryUnavailable, match="took longer"):
            await registry.manifest(name(server))


@pytest.mark.parametrize("fault", [Reply(503), Reply(raw=b""), Reply(429), Reply(silent=True)])
async def test_a_fault_is_waited_out(server: FaultServer, fault: Reply) -> None:
    manifest = hold(server)
    server.on("GET /v2/a/b/manifests/1", fault, served(manifest))
    async with Registry(QUICK) as registry:
        assert (await registry.manifest(name(server))).content == manifest


async def test_a_cut_manifest_is_asked_for_again(server: FaultServer) -> None:
    manifest = hold(server)
    server.on("GET /v2/a/b/manifests/1", attrs.evolve(served(manifest), cut=10), served(manifest))
    async with Registry(QUICK) as registry:
        assert (await registry.manifest(name(server))).content == manifest


async def test_what_is_not_there_is_not_found(server: FaultServer) -> None:
    async with Registry(QUICK) as registry:
        with pytest.raises(NotFound) as caught:
            await registry.manifest(name(server, "none"))
    assert str(caught.value) == f"no such image: {server.address}/a/b:none"


async def test_the_head_of_a_manifest_says_what_it_is(server: FaultServer) -> None:
    manifest = manifest_of([b"layer"])
    server.on("HEAD /v2/a/b/manifests/1", served(manifest))
    server.on("HEAD /v2/a/b/manifests/2", Reply(200, {}, manifest))
    server.on("HEAD /v2/a/b/manifests/3", Reply(200, {"Docker-Content-Digest": "sha256:../x"}, manifest))
    async with Registry(QUICK) as registry:
        facts = await registry.head_manifest(name(server))
        assert facts == ManifestFacts(OCI_MANIFEST, digest_of(manifest), len(manifest))
        assert await registry.head_manifest(name(server, "2")) == ManifestFacts("", "", len(manifest))
        with pytest.raises(ImageInvalid):
            await registry.head_manifest(name(server, "3"))
        with pytest.raises(NotFound):
            await registry.head_manifest(name(server, "none"))


async def test_the_image_for_the_platform_is_found(server: FaultServer) -> None:
    amd64, arm64 = put(server, manifest_of([b"amd"])), put(server, manifest_of([b"arm"]))
    top = index(server, [attrs.evolve(amd64, platform=AMD64), attrs.evolve(arm64, platform=ARM64)], "1")
    async with Registry(QUICK) as registry:
        for platform, chosen, content in ((AMD64, amd64, b"amd"), (ARM64, arm64, b"arm")):
            found = await registry.image(name(server), platform)
            assert found.manifest.layers == (layer(content),)
            assert found.manifest.config == Descriptor(OCI_CONFIG, Digest(digest_of(CONFIG)), len(CONFIG))
            assert found.fetched.digest == chosen.digest
            assert found.top.digest == top.digest
        with pytest.raises(NotFound, match="linux/riscv64"):
            await registry.image(name(server), Platform("linux", "riscv64"))
        single = await registry.image(attrs.evolve(name(server), digest=amd64.digest), ARM64)
        assert single.top == single.fetched


@pytest.mark.parametrize(("depth", "fine"), [(1, True), (4, True), (5, False), (12, False)])
async def test_indexes_within_indexes_come_to_an_end(server: FaultServer, depth: int, fine: bool) -> None:
    """M5."""
    each = put(server, manifest_of([b"deep"]))
    for _ in range(depth):
        each = index(server, [each], "1")
    async with Registry(QUICK) as registry:
        if fine:
            assert (await registry.image(name(server), AMD64)).manifest.layers == (layer(b"deep"),)
        else:
            with pytest.raises(ImageInvalid, match="indexes within"):
                await registry.image(name(server), AMD64)
    assert len(server.seen) <= 7


async def test_an_index_that_names_itself_is_no_loop(server: FaultServer) -> None:
    """M5: only a registry that lies could do it, and is found out by the digest."""
    own = Digest(digest_of(b"whatever"))
    content = encode_index([Descriptor(OCI_INDEX, own, 1)])
    for each in ("1", own):
        server.on(f"GET /v2/a/b/manifests/{each}", Reply(200, {"Content-Type": OCI_INDEX}, content))
    async with Registry(QUICK) as registry:
        with pytest.raises(DigestMismatch):
            await registry.image(name(server), AMD64)


async def test_what_an_index_says_of_a_manifest_is_true(server: FaultServer) -> None:
    """M2, M5."""
    real = put(server, manifest_of([b"x"]))
    async with Registry(QUICK) as registry:
        for wrong in (attrs.evolve(real, size=real.size + 1), attrs.evolve(real, media_type=OCI_INDEX)):
            index(server, [wrong], "1")
            with pytest.raises(ImageInvalid):
                await registry.image(name(server), AMD64)


async def test_a_content_type_does_not_make_an_image_of_an_index(server: FaultServer) -> None:
    """M5 (GHSA-5j5w-g665-5m35)."""
    put(server, encode_index([]), OCI_MANIFEST, "1")
    async with Registry(QUICK) as registry:
        with pytest.raises(ImageInvalid, match="but says"):
            await registry.image(name(server), AMD64)


async def test_a_login_is_checked_where_it_counts(server: FaultServer) -> None:
    async with Registry(QUICK) as registry:
        server.on("GET /v2/", Reply(200))
        await registry.check(server.address, None)
        assert server.asked("GET /v2/")[-1].target == "/v2/"
