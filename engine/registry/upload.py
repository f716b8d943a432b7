"""Pushing: blobs first, then the manifest that names them (distribution-spec v1.1, "Push").

A blob whose digest is known goes in two requests (``POST``, ``PUT`` with the bytes); one whose digest is known
only at its end in three (``POST``, ``PATCH`` with the bytes, ``PUT``). A cut upload is begun anew if its source
can be read again. What a failed one leaves at the registry is deleted there if it still answers; after a cancel,
the registry's own purging does that.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Self, TypeVar

import trio

from lading.engine.registry.session import Session
from lading.events.errors import DigestMismatch, Invalid, LadingError, RegistryError, RegistryUnavailable
from lading.events.ids import Digest, check_digest

if TYPE_CHECKING:
    from lading.engine.registry.connections import Answer

__all__ = ["Source", "has_blob", "mount", "put_manifest", "upload", "upload_stream"]

Source = bytes | AsyncIterable[bytes] | Callable[[], AsyncIterable[bytes]]
"""A blob's bytes: at once, as a stream that can be read once, or as what gives such a stream for each attempt."""

_PIECE = 1 << 20
_COMMIT_PATIENCE = 10.0
"""Stall timeouts that a registry may take to store what it got."""

_CLEANING = 3.0


async def has_blob(session: Session, digest: Digest) -> int | None:
    """The size of blob ``digest`` if the repository has it (-1 if it does not say), otherwise None."""
    answer = await session.send(
        "HEAD",
        f"blobs/{check_digest(digest)}",
        what=f"look for blob {digest} of {session.name}",
        expect=(200, 404),
    )
    length = answer.length
    await answer.aclose()
    if answer.status == 404:
        return None
    return -1 if length is None else length


async def mount(session: Session, digest: Digest, from_repository: str) -> bool:
    """Make blob ``digest`` of ``from_repository``, at the same registry, one of the repository; whether it did.

    Not doing it is no error: the registry may not have it there, or not say so.
    """
    what = f"mount blob {check_digest(digest)} of {from_repository} in {session.name}"
    answer = await session.send(
        "POST",
        f"blobs/uploads/?mount={digest}&from={from_repository}",
        what=what,
        expect=(201, 202),
        also=(f"repository:{from_repository}:pull",),
        content=b"",
    )
    await answer.drain()
    if answer.status == 201:
        return True
    await _abandon(session, _location(session, answer, what))
    return False


async def upload(session: Session, digest: Digest, size: int, source: Source) -> None:
    """Store the ``size`` bytes of ``source`` as blob ``digest``. The registry checks the digest, too.

    Raises ``Invalid`` if ``source`` has another size, and what `Session.send` does.
    """
    what = f"push blob {check_digest(digest)} to {session.name}"

    async def put(location: str, body: _Body) -> None:
        answer = await session.send(
            "PUT",
            _with_query(location, f"digest={digest}"),
            what=what,
            expect=(201,),
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
            content=lambda: body,
            once=True,
            patience=_COMMIT_PATIENCE,
        )
        await answer.drain()
        _check_said(answer, digest, what)

    await _push(session, source, what, put, size, digest)


async def upload_stream(session: Session, source: Source) -> tuple[Digest, int]:
    """Store whatever ``source`` gives as a blob; its digest and size. Raises what `Session.send` does."""
    what = f"push a blob to {session.name}"

    async def patch_and_put(location: str, body: _Body) -> tuple[Digest, int]:
        answer = await session.send(
            "PATCH",
            location,
            what=what,
            expect=(202,),
            headers={"Content-Type": "application/octet-stream"},
            content=lambda: body,
            once=True,
            patience=_COMMIT_PATIENCE,
        )
        await answer.drain()
        digest = Digest(f"sha256:{body.hasher.hexdigest()}")
        answer = await session.send(
            "PUT",
            _with_query(_location(session, answer, what), f"digest={digest}"),
            what=what,
            expect=(201,),
            content=b"",
            once=True,
            patience=_COMMIT_PATIENCE,
        )
        await answer.drain()
        _check_said(answer, digest, what)
        return digest, body.size

    return await _push(session, source, what, patch_and_put)


T = TypeVar("T")


async def _push(
    session: Session,
    source: Source,
    what: str,
    send: Callable[[str, _Body], Awaitable[T]],
    size: int | None = None,
    digest: Digest | None = None,
) -> T:
    """Begin an upload and ``send`` its body; all of it again, if it failed in a way that may pass."""
    failures = 0
    while True:
        location = await _begin(session, what)
        body = _Body(source, size, digest)
        try:
            return await send(location, body)
        except LadingError as error:
            failures += 1
            await body.aclose()
            await _abandon(session, location)
            if isinstance(source, AsyncIterable) or failures >= session.backoff.attempts or not _may_pass(error):
                raise
        finally:
            await body.aclose()
        await trio.sleep(session.backoff.delay(failures))


async def put_manifest(session: Session, tag_or_digest: str, content: bytes, media_type: str) -> Digest:
    """Store ``content`` as the repository's manifest ``tag_or_digest``; its digest."""
    what = f"push manifest {session.name}:{tag_or_digest}"
    answer = await session.send(
        "PUT",
        f"manifests/{tag_or_digest}",
        what=what,
        expect=(200, 201, 202),
        headers={"Content-Type": media_type},
        content=content,
        patience=_COMMIT_PATIENCE,
    )
    await answer.drain()
    digest = Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")
    _check_said(answer, digest, what)
    return digest


async def _begin(session: Session, what: str) -> str:
    answer = await session.send("POST", "blobs/uploads/", what=what, expect=(202,), content=b"")
    await answer.drain()
    return _location(session, answer, what)


def _location(session: Session, answer: Answer, what: str) -> str:
    """Where the upload goes on; it may be relative, and have a query of its own."""
    return session.resolve(answer.url, answer.headers.get("location", ""), what)


def _with_query(location: str, query: str) -> str:
    return f"{location}{'&' if '?' in location else '?'}{query}"


async def _abandon(session: Session, location: str) -> None:
    """Tell the registry that nothing more will come; it does not matter whether that works."""
    with trio.move_on_after(_CLEANING):
        try:
            answer = await session.send(
                "DELETE", location, what="give up an upload", expect=range(200, 600), once=True
            )
            await answer.drain()
        except LadingError:
            pass


def _may_pass(error: LadingError) -> bool:
    if isinstance(error, RegistryUnavailable):
        return error.fact not in ("tls", "unresolved")
    # 404: it forgot the upload. 416: it has another part of it than we think. 401: the token ended meanwhile.
    return isinstance(error, RegistryError) and error.status in (401, 404, 408, 416)


def _check_said(answer: Answer, digest: Digest, what: str) -> None:
    said = answer.headers.get("docker-content-digest", "")
    if said.startswith("sha256:") and said != digest:
        raise DigestMismatch(f"what the registry stored ({what})", digest, said[:100])


class _Body:
    """A source as a request's body, counted and hashed on the way: an async iterator of parts.

    ``size`` and ``digest``, if known: what it should have; the size is compared, the digest left to the registry.
    What the source raises passes through the request as it is.
    """

    def __init__(self, source: Source, size: int | None, digest: Digest | None) -> None:
        stream = _pieces(source) if isinstance(source, bytes) else source
        self._source = aiter(stream if isinstance(stream, AsyncIterable) else stream())
        self._expected = size
        self._digest = digest
        self.size = 0
        self.hasher = hashlib.sha256()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            part = await anext(self._source)
        except StopAsyncIteration:
            if self._expected is not None and self.size != self._expected:
                raise self._other_size() from None
            raise
        self.size += len(part)
        if self._expected is not None and self.size > self._expected:
            raise self._other_size()
        if self._digest is None:
            self.hasher.update(part)
        return part

    async def aclose(self) -> None:
        """The request is over: so is the source, if it is a generator."""
        close = getattr(self._source, "aclose", None)
        if close is not None:
            with trio.CancelScope(shield=True):
                await close()

    def _other_size(self) -> Invalid:
        return Invalid("blob", self._digest, f"it should have {self._expected} bytes, and has another number")


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _PIECE):
        yield content[start : start + _PIECE]
