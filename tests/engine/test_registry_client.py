"""The registry client against distribution's registry: what is pushed is pulled, whoever asks and however."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import trio
from faultserver import fault_server
from registries import CONFIG, QUICK, hold, layer
from registry import PASSWORD, USER, LocalRegistry

from lading.engine.registry import Credentials, Registry, RegistrySettings
from lading.events.errors import NotFound, RegistryError, RegistryUnavailable, Unauthorized
from lading.events.ids import Digest
from lading.events.manifest import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Platform,
    encode_index,
    encode_manifest,
)
from lading.events.reference import Reference, parse_reference

REAL = attrs.evolve(QUICK, stall_timeout=10.0)
CONTENT = random.Random(1).randbytes(3 << 20)
AMD64 = Platform("linux", "amd64")


def name(server: LocalRegistry, path: str, tag: str = "1") -> Reference:
    return parse_reference(f"{server.address}/{path}:{tag}")


async def parts() -> AsyncIterator[bytes]:
    for start in range(0, len(CONTENT), 100_000):
        yield CONTENT[start : start + 100_000]


async def push(registry: Registry, reference: Reference, auth: Credentials | None = None) -> Digest:
    """An image of one layer; its digest."""
    config = Descriptor(OCI_CONFIG, layer(CONFIG).digest, len(CONFIG))
    await registry.upload(reference, config.digest, config.size, CONFIG, auth=auth)
    await registry.upload(reference, layer(CONTENT).digest, len(CONTENT), parts, auth=auth)
    manifest = encode_manifest(config, [layer(CONTENT)])
    return await registry.put_manifest(reference, manifest, OCI_MANIFEST, auth=auth)


async def pull(registry: Registry, reference: Reference, auth: Credentials | None = None) -> Digest:
    """The same image, all of which is as it was; its digest."""
    found = await registry.image(reference, AMD64, auth=auth)
    assert await registry.small_blob(reference, found.manifest.config, auth=auth) == CONFIG
    assert await registry.small_blob(reference, found.manifest.layers[0], auth=auth) == CONTENT
    return found.top.digest


async def test_what_is_pushed_is_pulled(local_registry: LocalRegistry) -> None:
    reference = name(local_registry, "round/trip")
    async with Registry(REAL) as registry:
        assert await registry.has_blob(reference, layer(CONTENT).digest) is None
        digest = await push(registry, reference)
        assert await registry.has_blob(reference, layer(CONTENT).digest) == len(CONTENT)
        assert await pull(registry, reference) == digest
        facts = await registry.head_manifest(reference)
        assert (facts.media_type, facts.digest) == (OCI_MANIFEST, digest)
        assert await pull(registry, attrs.evolve(reference, tag=None, digest=digest)) == digest


@pytest.mark.slow
async def test_a_digest_that_is_known_late(local_registry: LocalRegistry) -> None:
    reference = name(local_registry, "late")
    async with Registry(REAL) as registry:
        for source in (CONTENT, parts, parts()):
            assert await registry.upload_stream(reference, source) == (layer(CONTENT).digest, len(CONTENT))
        assert await registry.small_blob(reference, layer(CONTENT)) == CONTENT
        empty = layer(b"")
        await registry.upload(reference, empty.digest, 0, b"")
        assert await registry.small_blob(reference, empty) == b""


async def test_the_registry_checks_the_digest_too(local_registry: LocalRegistry) -> None:
    reference = name(local_registry, "wrong")
    wrong = Digest("sha256:" + hashlib.sha256(b"other").hexdigest())
    async with Registry(REAL) as registry:
        with pytest.raises(RegistryError) as caught:
            await registry.upload(reference, wrong, len(CONTENT), CONTENT)
        assert caught.value.status == 400
        assert await registry.has_blob(reference, wrong) is None


@pytest.mark.slow
async def test_a_blob_of_a_neighbour_is_mounted(local_registry: LocalRegistry) -> None:
    async with Registry(REAL) as registry:
        await push(registry, name(local_registry, "mount/from"))
        reference = name(local_registry, "mount/to")
        assert await registry.mount(reference, layer(CONTENT).digest, "mount/from")
        assert await registry.has_blob(reference, layer(CONTENT).digest) == len(CONTENT)
        assert not await registry.mount(reference, layer(b"nobody has it").digest, "mount/from")


async def test_an_index_is_pushed_and_pulled(local_registry: LocalRegistry) -> None:
    reference = name(local_registry, "index")
    async with Registry(REAL) as registry:
        digest = await push(registry, reference)
        size = (await registry.head_manifest(reference)).size
        content = encode_index([Descriptor(OCI_MANIFEST, digest, size, AMD64)])
        top = await registry.put_manifest(reference, content, OCI_INDEX)
        assert await pull(registry, reference) == top


async def test_ranges_are_what_registries_do(local_registry: LocalRegistry) -> None:
    reference = name(local_registry, "ranges")
    async with Registry(REAL) as registry:
        await push(registry, reference)
        async with registry.blob(reference, layer(CONTENT), 1_000_000) as blob:
            assert b"".join([part async for part in blob]) == CONTENT[1_000_000:]


async def test_what_is_not_there(local_registry: LocalRegistry) -> None:
    async with Registry(REAL) as registry:
        with pytest.raises(NotFound, match="no such image"):
            await registry.manifest(name(local_registry, "nothing/here"))
        with pytest.raises(NotFound, match="no such blob"):
            await registry.small_blob(name(local_registry, "nothing/here"), layer(b"x"))


@pytest.mark.slow
async def test_many_at_a_time(local_registry: LocalRegistry) -> None:
    reference = name(local_registry, "many")
    async with Registry(REAL) as registry:
        await push(registry, reference)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(pull, registry, reference)


def trusting(server: LocalRegistry, tmp_path: Path) -> RegistrySettings:
    """Settings that know the server's authority, and believe nobody else."""
    assert server.certificates is not None
    (tmp_path / server.address).mkdir()
    (tmp_path / server.address / "ca.crt").write_bytes(server.certificates.authority.read_bytes())
    return attrs.evolve(REAL, loopback=False, certificates=(str(tmp_path),))


@pytest.mark.slow
async def test_a_user_and_tls(tmp_path: Path) -> None:
    with LocalRegistry(tmp_path / "registry", auth=True, tls=True) as server:
        reference, somebody = name(server, "private"), Credentials(USER, PASSWORD)
        async with Registry(trusting(server, tmp_path)) as registry:
            await registry.check(server.address, somebody)
            digest = await push(registry, reference, somebody)
            assert await pull(registry, reference, somebody) == digest
            for nobody in (None, Credentials(USER, "wr0ng-password"), Credentials("stranger", PASSWORD)):
                for refused in (push(registry, reference, nobody), pull(registry, reference, nobody)):
                    with pytest.raises(Unauthorized):
                        await refused
                with pytest.raises(Unauthorized):
                    await registry.check(server.address, nobody)
        async with Registry(attrs.evolve(REAL, loopback=False)) as registry:
            with pytest.raises(RegistryUnavailable) as caught:
                await pull(registry, reference, somebody)
            assert caught.value.fact == "tls"
        async with Registry(REAL) as registry:  # as Docker: loopback needs no authority
            assert await pull(registry, reference, somebody) == digest


@pytest.mark.slow
async def test_a_registry_that_is_restarted_in_the_middle(tmp_path: Path) -> None:
    """The pull goes on where it was when the registry is back."""
    settings = attrs.evolve(REAL, attempts=8, first_delay=0.05, longest_delay=0.2)
    content = random.Random(2).randbytes(32 << 20)
    with LocalRegistry(tmp_path) as server:
        reference = name(server, "restart")
        async with Registry(settings) as registry:
            await registry.upload(reference, layer(content).digest, len(content), content)
            async with registry.blob(reference, layer(content)) as blob, trio.open_nursery() as nursery:
                got = await anext(blob)
                server.stop()
                nursery.start_soon(trio.to_thread.run_sync, server.start)
                got += b"".join([part async for part in blob])
            assert got == content


async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """For plain HTTP it is asked for the whole address, for TLS to connect; not for whom ``no_proxy`` names."""
    settings = attrs.evolve(QUICK, proxies=True, insecure=("plain.invalid",))
    async with fault_server() as proxy:
        manifest = hold(proxy)
        monkeypatch.setenv("http_proxy", f"http://user:passw0rd@{proxy.address}")
        monkeypatch.setenv("https_proxy", proxy.address)
        monkeypatch.setenv("no_proxy", "direct.invalid")
        async with Registry(settings) as registry:
            found = await registry.manifest(parse_reference("plain.invalid/a/b:1"))
            assert found.content == manifest
            with pytest.raises(RegistryUnavailable, match="proxy"):
                await registry.manifest(parse_reference("secure.invalid/a/b:1"))
            with pytest.raises(RegistryUnavailable) as caught:
                await registry.manifest(parse_reference("direct.invalid/a/b:1"))
            assert caught.value.fact == "unresolved"
            assert (await registry.manifest(parse_reference(f"{proxy.address}/a/b:1"))).content == manifest
    assert [f"{seen.method} {seen.target}" for seen in proxy.seen if "invalid" in seen.target] == [
        "CONNECT plain.invalid:443",
        "GET http://plain.invalid/v2/a/b/manifests/1",
        "CONNECT secure.invalid:443",
        "CONNECT secure.invalid:443",
    ]
    assert proxy.seen[1].headers["proxy-authorization"].startswith("Basic ")
    assert "proxy-authorization" not in proxy.seen[-1].headers


@pytest.mark.slow
def test_nobody_pays_for_httpx_who_speaks_to_no_registry() -> None:
    script = (
        "import sys, lading, lading.engine.registry, lading.engine.cli.main\n"
        "lading.engine.registry.Registry()\n"
        "assert not {'httpx', 'httpcore', 'anyio', 'certifi'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
