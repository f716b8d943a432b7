"""Blobs from a registry that cuts, stalls and lies: the right bytes, or a clear error, and soon."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
from faultserver import FaultServer, Reply, digest_of, fault_server, ranged
from registries import QUICK, blob_of, fetched, layer, name

from lading.engine.registry import Registry
from lading.events.errors import (
    DigestMismatch,
    ImageInvalid,
    NotFound,
    RegistryError,
    RegistryUnavailable,
    Unauthorized,
)
from lading.events.ids import Digest

CONTENT = bytes(range(256)) * 40
WHOLE = ranged(CONTENT)


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    with trio.fail_after(20):
        async with fault_server() as server:
            yield server


def ranges(server: FaultServer, content: bytes = CONTENT) -> list[str]:
    return [seen.headers.get("range", "") for seen in server.asked(blob_of(content))]


@pytest.mark.parametrize("length", [None, -1], ids=["length", "chunked"])
async def test_a_whole_blob_comes_as_it_is(server: FaultServer, length: int | None) -> None:
    assert await fetched(server, CONTENT, ranged(CONTENT, length=length)) == CONTENT
    assert await fetched(server, b"", ranged(b"", length=length)) == b""
    assert ranges(server) == [""]


@pytest.mark.parametrize("length", [None, -1], ids=["length", "chunked"])
@pytest.mark.parametrize("at", [0, 1, 4999, len(CONTENT) - 1])
async def test_a_cut_transfer_goes_on_where_it_ended(server: FaultServer, at: int, length: int | None) -> None:
    """M9."""
    assert await fetched(server, CONTENT, ranged(CONTENT, cut=at, length=length), WHOLE) == CONTENT
    assert ranges(server) == ["", f"bytes={at}-" if at else ""]


@pytest.mark.parametrize("at", [0, 1, 4999])
async def test_a_stalled_transfer_goes_on_where_it_ended(server: FaultServer, at: int) -> None:
    assert await fetched(server, CONTENT, ranged(CONTENT, stall=at), WHOLE) == CONTENT
    assert ranges(server) == ["", f"bytes={at}-" if at else ""]


@pytest.mark.parametrize("cut", [5000, 9000])
async def test_a_registry_without_ranges_is_heard_from_the_beginning(server: FaultServer, cut: int) -> None:
    """M9: 200 to a request with a Range."""
    again = Reply(200, {}, CONTENT, cut=cut)
    assert await fetched(server, CONTENT, ranged(CONTENT, cut=4000), again, Reply(200, {}, CONTENT)) == CONTENT
    assert ranges(server) == ["", "bytes=4000-", f"bytes={cut}-"]


@pytest.mark.parametrize(
    "said",
    [
        "bytes 0-{last}/{size}",
        "bytes 3999-{last}/{size}",
        "bytes 4001-{last}/{size}",
        "bytes 4000-{size}/{size}",
        "bytes 4000-4999/{size}",
        "bytes 4000-{last}/{last}",
        "bytes ٤٠٠٠-{last}/{size}".encode().decode("latin-1"),
        "bytes 4000-/{size}",
        "4000-{last}/{size}",
        "",
    ],
)
async def test_another_range_than_asked_for_is_not_believed(server: FaultServer, said: str) -> None:
    """M9: the next attempt asks for the whole, and what is known of it is passed over."""
    said = said.format(size=len(CONTENT), last=len(CONTENT) - 1)
    wrong = Reply(206, {"Content-Range": said}, CONTENT[4000:])
    assert await fetched(server, CONTENT, ranged(CONTENT, cut=4000), wrong, WHOLE) == CONTENT
    assert ranges(server) == ["", "bytes=4000-", ""]


async def test_a_range_of_unknown_size_is_believed(server: FaultServer) -> None:
    fine = Reply(206, {"Content-Range": f"bytes 4000-{len(CONTENT) - 1}/*"}, CONTENT[4000:])
    assert await fetched(server, CONTENT, ranged(CONTENT, cut=4000), fine) == CONTENT


async def test_a_range_that_can_not_be_had_is_given_up(server: FaultServer) -> None:
    assert await fetched(server, CONTENT, ranged(CONTENT, cut=4000), Reply(416), WHOLE) == CONTENT
    assert ranges(server) == ["", "bytes=4000-", ""]


async def test_a_range_that_was_not_asked_for_is_an_error(server: FaultServer) -> None:
    with pytest.raises(RegistryError, match="206"):
        await fetched(server, CONTENT, Reply(206, {"Content-Range": "bytes 0-1/2"}, CONTENT))


async def test_bytes_that_changed_meanwhile_are_found_out(server: FaultServer) -> None:
    """M1, M9: the digest of the whole decides."""
    other = ranged(CONTENT[:-1] + b"!")
    with pytest.raises(DigestMismatch) as caught:
        await fetched(server, CONTENT, ranged(CONTENT, cut=4000), other)
    assert caught.value.expected == digest_of(CONTENT)
    assert caught.value.actual == digest_of(CONTENT[:-1] + b"!")
    assert digest_of(CONTENT) in caught.value.blob
    assert server.address in caught.value.blob


@pytest.mark.parametrize("flipped", [0, 5000, len(CONTENT) - 1])
async def test_a_flipped_byte_is_found_out(server: FaultServer, flipped: int) -> None:
    """M1."""
    wrong = bytearray(CONTENT)
    wrong[flipped] ^= 1
    with pytest.raises(DigestMismatch):
        await fetched(server, CONTENT, ranged(bytes(wrong)))


@pytest.mark.parametrize(
    "answer",
    [
        ranged(CONTENT + b"!"),
        ranged(CONTENT + b"!", length=-1),
        Reply(200, {}, CONTENT, endless=True, length=-1),
        Reply(200, {}, CONTENT, endless=True),
        Reply(200, {}, CONTENT, endless=True, length=10**18),
        ranged(CONTENT[:-1]),
        ranged(b""),
    ],
    ids=["longer", "longer, chunked", "endless, chunked", "endless", "endless, with length", "shorter", "empty"],
)
async def test_a_blob_of_another_size_is_refused(server: FaultServer, answer: Any) -> None:
    """M2, M7: and never more than its size is given out (``fetched`` checks)."""
    with pytest.raises(ImageInvalid, match=str(len(CONTENT))):
        await fetched(server, CONTENT, answer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "fact"),
    [
        (ranged(CONTENT, cut=0), "cut"),
        (ranged(CONTENT, cut=0, length=-1), "cut"),
        (ranged(CONTENT[:-1], length=-1), "cut"),
        (ranged(CONTENT, stall=0), "timeout"),
        (Reply(silent=True), "timeout"),
        (Reply(raw=b""), "cut"),
        (Reply(raw=b"SSH-2.0-x\r\n\r\n"), "garbled"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\nA: " + b"a" * 200_000), "garbled"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"), "garbled"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"), "garbled"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "garbled"),
        (Reply(503), "status"),
        (Reply(500, {}, b"{", endless=True), "status"),
        (Reply(429, {"Retry-After": "0"}), "status"),
    ],
)
async def test_a_registry_that_never_gets_better_is_given_up(server: FaultServer, answer: Any, fact: str) -> None:
    with trio.fail_after(5), pytest.raises(RegistryUnavailable) as caught:
        await fetched(server, CONTENT, answer)
    assert caught.value.fact == fact
    assert caught.value.registry == server.address
    assert digest_of(CONTENT) in str(caught.value)
    assert len(server.seen) <= QUICK.attempts


async def test_a_fault_that_passes_is_waited_out(server: FaultServer) -> None:
    assert await fetched(server, CONTENT, Reply(502), Reply(429, {"Retry-After": "0"}), WHOLE) == CONTENT
    assert await fetched(server, CONTENT, Reply(500), Reply(raw=b""), WHOLE) == CONTENT


@pytest.mark.slow
async def test_retry_after_is_kept(server: FaultServer) -> None:
    settings = attrs.evolve(QUICK, longest_delay=0.25)
    started = trio.current_time()
    assert await fetched(server, CONTENT, Reply(429, {"Retry-After": "1"}), WHOLE, settings=settings) == CONTENT
    assert trio.current_time() - started >= 1


async def test_nobody_waits_for_hours(server: FaultServer) -> None:
    with trio.fail_after(1), pytest.raises(RegistryUnavailable, match="too many requests"):
        await fetched(server, CONTENT, Reply(429, {"Retry-After": "3600"}), WHOLE)
    assert len(server.seen) == 1


async def test_failures_are_counted_anew_after_progress(server: FaultServer) -> None:
    """Ten cuts are more than the attempts that a transfer without progress has."""
    content = bytes(1_000_000)
    assert await fetched(server, content, ranged(content, cut=100_000)) == content
    assert len(server.seen) == 10


async def test_single_bytes_are_no_progress(server: FaultServer) -> None:
    with pytest.raises(RegistryUnavailable):
        await fetched(server, CONTENT, ranged(CONTENT, cut=1))
    assert len(server.seen) == QUICK.attempts


async def test_a_trickle_is_no_progress_either(server: FaultServer) -> None:
    with trio.fail_after(5), pytest.raises(RegistryUnavailable, match="bytes came in"):
        await fetched(server, CONTENT, ranged(CONTENT, drip=0.02))


@pytest.mark.parametrize(
    ("status", "kind"), [(404, NotFound), (403, Unauthorized), (400, RegistryError), (204, RegistryError)]
)
async def test_a_refusal_is_told_at_once(server: FaultServer, status: int, kind: type[Exception]) -> None:
    body = b'{"errors": [{"code": "X", "message": "because\\n of\\u0007 this"}]}'
    with pytest.raises(kind) as caught:
        await fetched(server, CONTENT, Reply(status, {}, b"" if status == 204 else body), WHOLE)
    assert len(server.seen) == 1
    if isinstance(caught.value, RegistryError):
        assert caught.value.status == status
        assert status == 204 or "because of? this" in str(caught.value)
    else:
        assert digest_of(CONTENT) in str(caught.value)


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"[]", b'{"errors": 5}', b'{"errors": [5, {"message": 5}]}', b"\xff"]
)
async def test_any_error_body_will_do(server: FaultServer, body: bytes) -> None:
    with pytest.raises(RegistryError, match="it answered 418"):
        await fetched(server, CONTENT, Reply(418, {}, body))


async def test_a_compressed_answer_is_not_taken_for_the_blob(server: FaultServer) -> None:
    with pytest.raises(RegistryError, match="compressed"):
        await fetched(server, CONTENT, Reply(200, {"Content-Encoding": "gzip"}, CONTENT))


async def test_an_offset_begins_in_the_middle(server: FaultServer) -> None:
    server.on(blob_of(CONTENT), WHOLE)
    async with Registry(QUICK) as registry:
        for known in (None, hashlib.sha256(CONTENT[:5000])):
            async with registry.blob(name(server), layer(CONTENT), 5000, hasher=known) as blob:
                assert b"".join([part async for part in blob]) == CONTENT[5000:]
                assert blob.position == len(CONTENT)
        async with registry.blob(name(server), layer(CONTENT), 5000, hasher=hashlib.sha256(b"other")) as blob:
            assert await anext(blob) == CONTENT[5000:]
            with pytest.raises(DigestMismatch):
                await anext(blob)
        async with registry.blob(name(server), layer(CONTENT), len(CONTENT)) as blob:
            assert [part async for part in blob] == []
        with pytest.raises(ValueError, match="offset"):
            registry.blob(name(server), layer(CONTENT), len(CONTENT) + 1)
    assert ranges(server) == ["bytes=5000-"] * 3


async def test_the_digest_may_be_left_to_somebody_else(server: FaultServer) -> None:
    server.on(blob_of(CONTENT), ranged(CONTENT[:-1] + b"!"))
    async with Registry(QUICK) as registry, registry.blob(name(server), layer(CONTENT), verify=False) as blob:
        assert b"".join([part async for part in blob]) == CONTENT[:-1] + b"!"


async def test_leaving_early_leaves_nothing_behind(server: FaultServer) -> None:
    """By a break, and by a cancel while nothing comes; the connection is closed, and another blob comes."""
    big = bytes(8 << 20)
    server.on(blob_of(big), ranged(big))
    server.on(blob_of(CONTENT), ranged(CONTENT, stall=10))
    patient = attrs.evolve(QUICK, stall_timeout=60.0)
    async with Registry(patient) as registry:
        async with registry.blob(name(server), layer(big)) as blob:
            async for _ in blob:
                break
        with trio.move_on_after(0.1) as scope:
            async with registry.blob(name(server), layer(CONTENT)) as blob:
                async for _ in blob:
                    pass
        assert scope.cancelled_caught
        server.on(blob_of(CONTENT), WHOLE)
        assert await registry.small_blob(name(server), layer(CONTENT)) == CONTENT


async def test_connections_are_used_again(server: FaultServer) -> None:
    server.on("GET /v2/", Reply(200))
    server.on(blob_of(CONTENT), WHOLE)
    async with Registry(QUICK) as registry:
        for _ in range(5):
            await registry.small_blob(name(server), layer(CONTENT))
    assert server.connections == 2  # one of them to find out whether it speaks TLS


async def test_a_small_blob_is_small(server: FaultServer) -> None:
    """M7."""
    async with Registry(QUICK) as registry:
        big = attrs.evolve(layer(CONTENT), size=(4 << 20) + 1)
        with pytest.raises(ImageInvalid, match="more than"):
            await registry.small_blob(name(server), big)
    assert server.seen == []


async def test_foreign_layers_are_not_fetched_from_elsewhere(server: FaultServer) -> None:
    """M8: their ``urls`` are not asked, by nobody and with nothing."""
    async with fault_server() as elsewhere:
        foreign = attrs.evolve(layer(CONTENT), urls=(f"{elsewhere.url}/x",))
        async with Registry(QUICK) as registry:
            with pytest.raises(NotFound):
                await registry.small_blob(name(server), foreign)
        assert elsewhere.seen == []


async def test_nobody_listens(server: FaultServer) -> None:
    async with Registry(QUICK) as registry:
        gone = attrs.evolve(name(server), domain="127.0.0.1:1")
        with trio.fail_after(3), pytest.raises(RegistryUnavailable) as caught:
            await registry.small_blob(gone, layer(CONTENT))
        assert caught.value.fact == "refused"
        assert "127.0.0.1:1" in str(caught.value)
        unknown = attrs.evolve(name(server), domain="registry.invalid")
        with trio.fail_after(5), pytest.raises(RegistryUnavailable) as caught:
            await registry.small_blob(unknown, layer(CONTENT))
        assert caught.value.fact == "unresolved"


async def test_every_digest_is_checked_before_it_is_in_an_address(server: FaultServer) -> None:
    """M4: a descriptor can only be had from ``parse_manifest``; the methods that take a digest check it."""
    async with Registry(QUICK) as registry:
        for call in (registry.has_blob, lambda ref, digest: registry.mount(ref, digest, "c/d")):
            with pytest.raises(Exception, match="digest"):
                await call(name(server), Digest("sha256:../../x"))
    assert server.seen == []
