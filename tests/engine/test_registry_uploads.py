"""Pushing to a registry that cuts, forgets and leads astray."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import attrs
import pytest
import trio
from faultserver import FaultServer, Reply, Seen, digest_of, fault_server, guarded
from registries import QUICK, hold, manifest_of, name

from lading.engine.registry import Credentials, Registry
from lading.events.errors import DigestMismatch, Invalid, RegistryError, RegistryUnavailable, Unauthorized
from lading.events.ids import Digest
from lading.events.manifest import OCI_MANIFEST

CONTENT = b"0123456789" * 1000
DIGEST = Digest(digest_of(CONTENT))
BEGIN = "POST /v2/a/b/blobs/uploads/"
PUT = "PUT /v2/a/b/blobs/uploads/1"
PATCH = "PATCH /v2/a/b/blobs/uploads/1"
GIVE_UP = "DELETE /v2/a/b/blobs/uploads/1"
USER = Credentials("somebody", "passw0rd-of-theirs")


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    """It takes every upload."""
    with trio.fail_after(20):
        async with fault_server() as server:
            server.on("GET /v2/", Reply(200))
            server.on(BEGIN, Reply(202, {"Location": "/v2/a/b/blobs/uploads/1?state=x%3D"}))
            server.on(PUT, Reply(201, {"Docker-Content-Digest": DIGEST}))
            server.on(PATCH, Reply(202, {"Location": "/v2/a/b/blobs/uploads/1?state=y"}))
            server.on(GIVE_UP, Reply(204))
            yield server


async def parts() -> AsyncIterator[bytes]:
    for start in range(0, len(CONTENT), 1000):
        yield CONTENT[start : start + 1000]


async def test_a_known_blob_goes_in_one_piece(server: FaultServer) -> None:
    async with Registry(QUICK) as registry:
        for source in (CONTENT, parts, parts()):
            await registry.upload(name(server), DIGEST, len(CONTENT), source)
    for seen in server.asked(PUT):
        assert seen.body == CONTENT
        assert seen.query == {"state": ["x="], "digest": [DIGEST]}
        assert seen.headers["content-length"] == str(len(CONTENT))
        assert seen.headers["content-type"] == "application/octet-stream"
    assert len(server.asked(PUT)) == 3
    assert server.asked(GIVE_UP) == []


async def test_a_stream_gets_its_digest_at_its_end(server: FaultServer) -> None:
    async with Registry(QUICK) as registry:
        for source in (CONTENT, parts, parts()):
            assert await registry.upload_stream(name(server), source) == (DIGEST, len(CONTENT))
    assert [seen.body for seen in server.asked(PATCH)] == [CONTENT] * 3
    assert server.asked(PATCH)[0].headers["transfer-encoding"] == "chunked"
    assert [seen.query for seen in server.asked(PUT)] == [{"state": ["y"], "digest": [DIGEST]}] * 3


async def test_an_empty_blob_is_a_blob(server: FaultServer) -> None:
    empty = Digest(digest_of(b""))
    server.on(PUT, Reply(201))
    async with Registry(QUICK) as registry:
        await registry.upload(name(server), empty, 0, b"")
        assert await registry.upload_stream(name(server), b"") == (empty, 0)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Reply(raw=b""), Reply(500), Reply(404), Reply(416), Reply(silent=True)])
async def test_a_source_that_can_be_read_again_is(server: FaultServer, fault: Reply) -> None:
    """Once, it fails; the upload is begun anew, and the failed one given up."""
    settings = attrs.evolve(QUICK, stall_timeout=0.02)
    async with Registry(settings) as registry:
        server.on(PUT, fault, Reply(201))
        await registry.upload(name(server), DIGEST, len(CONTENT), parts)
        server.on(PATCH, fault, Reply(202, {"Location": "1"}))
        assert await registry.upload_stream(name(server), parts) == (DIGEST, len(CONTENT))
    assert len(server.asked(BEGIN)) == 4
    assert len(server.asked(GIVE_UP)) == 2
    assert [seen.body for seen in server.asked(PATCH)] == [CONTENT] * 2


@pytest.mark.parametrize("fault", [Reply(raw=b""), Reply(500)])
async def test_one_that_can_not_is_not(server: FaultServer, fault: Reply) -> None:
    async with Registry(QUICK) as registry:
        server.on(PUT, fault, Reply(201))
        with pytest.raises(RegistryUnavailable):
            await registry.upload(name(server), DIGEST, len(CONTENT), parts())
        server.on(PATCH, fault, Reply(202))
        with pytest.raises(RegistryUnavailable):
            await registry.upload_stream(name(server), parts())
    assert len(server.asked(BEGIN)) == 2


@pytest.mark.parametrize("fault", [Reply(400), Reply(403), Reply(413), Reply(307, {"Location": "/elsewhere"})])
async def test_a_refusal_is_final(server: FaultServer, fault: Reply) -> None:
    server.on(PUT, fault)
    async with Registry(QUICK) as registry:
        with pytest.raises(RegistryError) as caught:
            await registry.upload(name(server), DIGEST, len(CONTENT), parts)
    assert caught.value.status == fault.status
    assert len(server.asked(BEGIN)) == 1
    assert [seen.method for seen in server.seen if seen.path == "/elsewhere"] == []


async def test_faults_end_after_as_many_attempts(server: FaultServer) -> None:
    server.on(PUT, Reply(raw=b""))
    async with Registry(QUICK) as registry:
        with pytest.raises(RegistryUnavailable):
            await registry.upload(name(server), DIGEST, len(CONTENT), CONTENT)
    assert len(server.asked(PUT)) == QUICK.attempts


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
async def test_a_source_of_another_size_is_told(server: FaultServer, size: int) -> None:
    async with Registry(QUICK) as registry:
        for source in (CONTENT, parts, parts()):
            with pytest.raises(Invalid, match="should have"):
                await registry.upload(name(server), DIGEST, size, source)
    assert server.asked(PUT) == []  # none that was whole


async def test_what_a_source_raises_is_what_the_caller_gets(server: FaultServer) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield CONTENT[:1000]
        raise ZeroDivisionError

    async with Registry(QUICK) as registry:
        for source in (broken, broken()):
            with pytest.raises(ZeroDivisionError):
                await registry.upload(name(server), DIGEST, len(CONTENT), source)
        with pytest.raises(ZeroDivisionError):
            await registry.upload_stream(name(server), broken)


async def test_a_cancelled_upload_closes_its_source(server: FaultServer) -> None:
    asked, closed = trio.Event(), trio.Event()

    async def slow() -> AsyncIterator[bytes]:
        try:
            yield CONTENT[:1000]
            asked.set()
            await trio.sleep_forever()
        finally:
            closed.set()

    async with Registry(QUICK) as registry, trio.open_nursery() as nursery:
        nursery.start_soon(registry.upload, name(server), DIGEST, len(CONTENT), slow)
        await asked.wait()
        nursery.cancel_scope.cancel()
    assert closed.is_set()
    assert server.asked(PUT) == []


async def test_another_digest_than_was_sent_is_told(server: FaultServer) -> None:
    server.on(PUT, Reply(201, {"Docker-Content-Digest": digest_of(b"other")}))
    async with Registry(QUICK) as registry:
        with pytest.raises(DigestMismatch):
            await registry.upload(name(server), DIGEST, len(CONTENT), CONTENT)


async def test_an_upload_to_another_host_gets_no_credentials(server: FaultServer) -> None:
    """M8."""
    async with fault_server() as other:
        begin = Reply(202, {"Location": f"{other.url}/up?sig=1"})
        server.on(BEGIN, guarded(USER.basic, 'Basic realm="x"', begin))
        other.on("PUT /up", Reply(201))
        async with Registry(QUICK) as registry:
            await registry.upload(name(server), DIGEST, len(CONTENT), parts, auth=USER)
    (seen,) = other.seen
    assert seen.body == CONTENT
    assert seen.query == {"sig": ["1"], "digest": [DIGEST]}
    assert "authorization" not in seen.headers


@pytest.mark.parametrize("location", ["", "file:///x", "http://169.254.169.254/x", "http://u:p@127.0.0.1/"])
async def test_an_upload_to_nowhere_is_not_begun(server: FaultServer, location: str) -> None:
    server.on(BEGIN, Reply(202, {"Location": location}))
    async with Registry(QUICK) as registry:
        with pytest.raises(RegistryError, match="it sends us to"):
            await registry.upload(name(server), DIGEST, len(CONTENT), CONTENT)


async def test_a_registry_wants_to_know_who_pushes(server: FaultServer) -> None:
    for request in (BEGIN, PUT):
        server.on(request, guarded(USER.basic, 'Basic realm="x"', server.answers[request][0]))
    async with Registry(QUICK) as registry:
        await registry.upload(name(server), DIGEST, len(CONTENT), parts(), auth=USER)
        with pytest.raises(Unauthorized):
            await registry.upload(name(server), DIGEST, len(CONTENT), parts())
    assert len(server.asked(BEGIN)) == 3
    assert len(server.asked(PUT)) == 1


async def test_a_blob_is_mounted_or_not(server: FaultServer) -> None:
    async with Registry(QUICK) as registry:
        server.on(BEGIN, Reply(201))
        assert await registry.mount(name(server), DIGEST, "c/d")
        server.on(BEGIN, Reply(202, {"Location": "/v2/a/b/blobs/uploads/1"}))
        assert not await registry.mount(name(server), DIGEST, "c/d")
        server.on(BEGIN, Reply(403))
        with pytest.raises(Unauthorized):
            await registry.mount(name(server), DIGEST, "c/d")
    assert server.asked(BEGIN)[0].query == {"mount": [DIGEST], "from": ["c/d"]}
    assert len(server.asked(GIVE_UP)) == 1


async def test_a_mount_asks_for_both_repositories(server: FaultServer) -> None:
    challenge = f'Bearer realm="{server.url}/token",service="s"'
    server.on("GET /token", Reply(200, {}, b'{"token": "t0ken"}'))
    server.on(BEGIN, guarded("Bearer t0ken", challenge, Reply(201)))
    async with Registry(QUICK) as registry:
        assert await registry.mount(name(server), DIGEST, "c/d")
    (seen,) = server.asked("GET /token")
    assert seen.query["scope"] == ["repository:a/b:pull,push", "repository:c/d:pull"]


async def test_whether_a_blob_is_there(server: FaultServer) -> None:
    head = f"HEAD /v2/a/b/blobs/{DIGEST}"
    async with Registry(QUICK) as registry:
        assert await registry.has_blob(name(server), DIGEST) is None
        server.on(head, Reply(200, {}, CONTENT))
        assert await registry.has_blob(name(server), DIGEST) == len(CONTENT)
        server.on(head, Reply(200, {}, CONTENT, length=-1))
        assert await registry.has_blob(name(server), DIGEST) == -1


async def test_a_manifest_is_put_under_its_tag(server: FaultServer) -> None:
    manifest = manifest_of([CONTENT])
    put = "PUT /v2/a/b/manifests/1"
    async with Registry(QUICK) as registry:
        server.on(put, Reply(503), Reply(201, {"Docker-Content-Digest": digest_of(manifest)}))
        assert await registry.put_manifest(name(server), manifest, OCI_MANIFEST) == digest_of(manifest)
        server.on(put, Reply(201, {"Docker-Content-Digest": digest_of(b"")}))
        with pytest.raises(DigestMismatch):
            await registry.put_manifest(name(server), manifest, OCI_MANIFEST)
        by_digest = attrs.evolve(name(server), tag=None, digest=Digest(digest_of(manifest)))
        server.on(f"PUT /v2/a/b/manifests/{digest_of(manifest)}", Reply(201))
        await registry.put_manifest(by_digest, manifest, OCI_MANIFEST)
        with pytest.raises(Invalid):
            await registry.put_manifest(attrs.evolve(name(server), tag=None), manifest, OCI_MANIFEST)

    def same(seen: Seen) -> bool:
        return seen.body == manifest and seen.headers["content-type"] == OCI_MANIFEST

    assert all(same(seen) for seen in server.seen if seen.method == "PUT")
    assert len(server.seen) >= 4


async def test_a_big_blob_passes_in_pieces(server: FaultServer) -> None:
    big = hashlib.sha256(b"seed").digest() * 100_000
    server.on(PUT, Reply(201))
    async with Registry(QUICK) as registry:
        await registry.upload(name(server), Digest(digest_of(big)), len(big), big)
    assert server.asked(PUT)[0].body == big
    assert hold(server) != b""
