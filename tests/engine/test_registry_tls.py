"""TLS: whom a registry's client believes, and what it says of those it does not."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import attrs
import pytest
import trio
from certificates import Certificates, make_certificates
from faultserver import FaultServer, Reply, fault_server
from registries import QUICK, blob_of, hold, layer, name

from lading.engine.registry import Credentials, Registry, RegistrySettings
from lading.events.errors import RegistryError, RegistryUnavailable
from lading.events.reference import parse_reference

USER = Credentials("somebody", "passw0rd-of-theirs")
CONTENT = b"layer" * 1000


def challenge(realm: str) -> str:
    return f'Bearer realm="{realm}",service="registry.example"'


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    """One that speaks plain HTTP."""
    with trio.fail_after(20):
        async with fault_server() as server:
            yield server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def strict(tmp_path: Path) -> Callable[[FaultServer, Path | None], RegistrySettings]:
    """Settings that trust no loopback address, and one authority for the server if given."""

    def strict(server: FaultServer, authority: Path | None = None) -> RegistrySettings:
        if authority is not None:
            (tmp_path / server.address).mkdir()
            (tmp_path / server.address / "ca.crt").write_bytes(authority.read_bytes())
        return attrs.evolve(QUICK, loopback=False, certificates=(str(tmp_path),))

    return strict


async def test_a_known_authority_is_trusted(
    certificates: Certificates, strict: Callable[[FaultServer, Path | None], RegistrySettings]
) -> None:
    async with fault_server(certificates) as server:
        manifest = hold(server, CONTENT)
        async with Registry(strict(server, certificates.authority)) as registry:
            assert (await registry.manifest(name(server))).content == manifest
            assert await registry.small_blob(name(server), layer(CONTENT)) == CONTENT


async def test_an_unknown_authority_is_not(
    certificates: Certificates, tmp_path: Path, strict: Callable[..., RegistrySettings]
) -> None:
    other = make_certificates(tmp_path / "other")
    async with fault_server(certificates) as server:
        hold(server, CONTENT)
        for settings in (strict(server), strict(server, other.authority)):
            async with Registry(settings) as registry:
                with trio.fail_after(2), pytest.raises(RegistryUnavailable) as caught:
                    await registry.manifest(name(server), auth=USER)
            assert caught.value.fact == "tls"
            assert f"certs.d/{server.address}/ca.crt" in str(caught.value)
        assert server.seen == []


async def test_a_certificate_for_another_host_is_not(
    certificates: Certificates, strict: Callable[..., RegistrySettings]
) -> None:
    async with fault_server(certificates, "127.0.0.2") as server:
        hold(server)
        async with Registry(strict(server, certificates.authority)) as registry:
            with pytest.raises(RegistryUnavailable, match=r"not valid for '127\.0\.0\.2'"):
                await registry.manifest(name(server), auth=USER)
        assert server.seen == []


async def test_plain_http_is_not_spoken_unless_it_is_allowed(
    server: FaultServer, strict: Callable[..., RegistrySettings]
) -> None:
    manifest = hold(server)
    async with Registry(strict(server)) as registry:
        with trio.fail_after(2), pytest.raises(RegistryUnavailable):
            await registry.manifest(name(server), auth=USER)
    assert server.seen == []
    async with Registry(attrs.evolve(strict(server), insecure=(server.address,))) as registry:
        assert (await registry.manifest(name(server))).content == manifest


async def test_a_cancelled_handshake_leaves_no_socket() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    reference = parse_reference(f"127.0.0.1:{listener.socket.getsockname()[1]}/a/b:1")
    async with listener, Registry(attrs.evolve(QUICK, stall_timeout=60.0)) as registry:
        before = len(os.listdir("/proc/self/fd"))
        with trio.move_on_after(0.1) as scope:
            await registry.manifest(reference)
        assert scope.cancelled_caught
        assert len(os.listdir("/proc/self/fd")) == before


async def test_an_insecure_registry_may_have_any_certificate(certificates: Certificates) -> None:
    async with fault_server(certificates) as server:
        manifest = hold(server)
        async with Registry(QUICK) as registry:
            assert (await registry.manifest(name(server))).content == manifest


async def test_a_secure_registry_names_no_insecure_place(
    certificates: Certificates, server: FaultServer, strict: Callable[..., RegistrySettings]
) -> None:
    """M8: neither for a blob nor for a token."""
    async with fault_server(certificates) as secure:
        hold(secure, CONTENT)
        secure.on(blob_of(CONTENT), Reply(307, {"Location": f"{server.url}/x"}))
        secure.on("GET /v2/a/b/manifests/1", Reply(401, {"WWW-Authenticate": challenge(f"{server.url}/token")}))
        async with Registry(strict(secure, certificates.authority)) as registry:
            with pytest.raises(RegistryError, match="not https"):
                await registry.small_blob(name(secure), layer(CONTENT), auth=USER)
            with pytest.raises(RegistryError, match="not https"):
                await registry.manifest(name(secure), auth=USER)
    assert server.seen == []
