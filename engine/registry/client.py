"""The registry client: every registry, through one object that keeps its connections and tokens."""

from __future__ import annotations

import hashlib
import random as chance
import re
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import attrs
import trio

from lading.engine.registry import upload as pushing
from lading.engine.registry.auth import Authorizer
from lading.engine.registry.credentials import Credentials
from lading.engine.registry.session import Backoff, Session
from lading.engine.registry.settings import Endpoint, RegistrySettings
from lading.engine.registry.transfer import Blob, Hasher
from lading.events.errors import (
    DigestMismatch,
    ImageInvalid,
    Invalid,
    NotFound,
    RegistryError,
    RegistryUnavailable,
)
from lading.events.ids import Digest
from lading.events.manifest import (
    ACCEPTED,
    INDEX_TYPES,
    MANIFEST_LIMIT,
    Descriptor,
    Index,
    Manifest,
    Platform,
    check_image_digest,
    choose_platform,
    parse_manifest,
)
from lading.events.reference import Reference
from lading.events.strictjson import parse_object

if TYPE_CHECKING:
    from lading.engine.registry.connections import Answer, Connections

__all__ = ["FetchedImage", "FetchedManifest", "ManifestFacts", "Registry"]

_INDEX_DEPTH = 4
_TAGS_PAGE, _TAGS = 1000, 10_000
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}")
_NEXT = re.compile(r"<([^<>]{1,2000})>[ \t]*;[ \t]*rel=\"?next\"?")
_CREDENTIAL_LOOKUP = Callable[[str], Awaitable[Credentials | None]]


@attrs.frozen
class FetchedManifest:
    """A manifest or index as it came. ``digest``: of ``content``. ``media_type``: its Content-Type, bare."""

    content: bytes
    media_type: str
    digest: Digest


@attrs.frozen
class ManifestFacts:
    """What a registry says of a manifest without sending it. ``digest`` is empty if it does not say it."""

    media_type: str
    digest: str
    size: int


@attrs.frozen
class FetchedImage:
    """One platform's image. ``top``: what the reference itself names, an index or ``fetched``.

    ``top.digest`` is what the reference is pinned to (``name@digest``, Docker's RepoDigests).
    """

    manifest: Manifest
    fetched: FetchedManifest
    top: FetchedManifest


class Registry:
    """Manifests and blobs of any registry. An async context manager; leaving it closes the connections.

    ``credentials``: asked for a host's credentials (as `CredentialStore.get`), where a call is given none.
    ``random``: floats in [0, 1), for the jitter of delays. Mirrors are asked before the registry itself, for
    reading, with their own credentials. Every method may raise ``NotFound``, ``Unauthorized``,
    ``RegistryUnavailable`` or ``RegistryError``; a cancel leaves nothing but an unfinished upload at the registry,
    which purges those.
    """

    def __init__(
        self,
        settings: RegistrySettings | None = None,
        *,
        credentials: _CREDENTIAL_LOOKUP | None = None,
        random: Callable[[], float] = chance.random,
    ) -> None:
        self.settings: RegistrySettings = settings or RegistrySettings()
        self._lookup = credentials
        self._backoff = Backoff(self.settings, random)
        self._connections: Connections | None = None
        self._authorizer: Authorizer | None = None

    async def __aenter__(self) -> Self:
        from lading.engine.registry.connections import Connections  # which imports httpx

        self._connections = Connections(self.settings)
        self._authorizer = Authorizer(self._connections)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connections is not None:
            await self._connections.aclose()

    # -- reading -------------------------------------------------------------------------------------------

    async def manifest(self, reference: Reference, *, auth: Credentials | None = None) -> FetchedManifest:
        """The manifest or index that ``reference`` names, by its digest if it has one.

        Its bytes are as the digest says; nobody has parsed them. Raises ``DigestMismatch``, and ``ImageInvalid``
        for more than 4 MiB.
        """
        for session in await self._sessions(reference, auth):
            try:
                return await self._manifest(session, reference)
            except (RegistryError, NotFound, ImageInvalid):
                if not session.endpoint.mirror:
                    raise
        raise AssertionError("the last session is the registry itself")

    async def head_manifest(self, reference: Reference, *, auth: Credentials | None = None) -> ManifestFacts:
        """What the registry itself (no mirror) says of the manifest that ``reference`` names."""
        session = await self._session(reference, "pull", auth)
        answer = await self._ask_manifest(session, reference, "HEAD")
        await answer.aclose()
        return ManifestFacts(
            _bare(answer.headers.get("content-type", "")),
            check_image_digest(said, "the registry's answer")
            if (said := answer.headers.get("docker-content-digest", ""))
            else "",
            answer.length or 0,
        )

    async def image(
        self, reference: Reference, platform: Platform, *, auth: Credentials | None = None
    ) -> FetchedImage:
        """The manifest for ``platform`` of what ``reference`` names, through indexes within indexes, four at most.

        Raises ``NotFound`` if there is none for it, ``ImageInvalid`` for what is not an image.
        """
        top = fetched = await self.manifest(reference, auth=auth)
        parsed = parse_manifest(fetched.content, fetched.media_type)
        for _ in range(_INDEX_DEPTH):
            if isinstance(parsed, Manifest):
                return FetchedImage(parsed, fetched, top)
            chosen = choose_platform(parsed, platform)
            fetched = await self.manifest(attrs.evolve(reference, tag=None, digest=chosen.digest), auth=auth)
            if len(fetched.content) != chosen.size:
                raise ImageInvalid(
                    f"manifest {chosen.digest} has {len(fetched.content)} bytes, and its index says {chosen.size}"
                )
            parsed = parse_manifest(fetched.content, fetched.media_type)
            if isinstance(parsed, Index) != (chosen.media_type in INDEX_TYPES):
                raise ImageInvalid(f"manifest {chosen.digest} is not the {chosen.media_type} that its index says")
        if isinstance(parsed, Manifest):
            return FetchedImage(parsed, fetched, top)
        raise ImageInvalid(f"the image has more than {_INDEX_DEPTH} indexes within one another")

    def blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        offset: int = 0,
        *,
        hasher: Hasher | None = None,
        verify: bool = True,
        auth: Credentials | None = None,
    ) -> Blob:
        """The bytes of a blob of the reference's repository, see `Blob`; the request comes with the first part.

        A descriptor's ``urls`` are not asked.
        """
        return Blob(lambda: self._sessions(reference, auth), descriptor, offset, hasher, verify)

    async def small_blob(
        self, reference: Reference, descriptor: Descriptor, *, auth: Credentials | None = None
    ) -> bytes:
        """A blob of at most 4 MiB, such as a config, as a whole and as its digest says."""
        if descriptor.size > MANIFEST_LIMIT:
            raise ImageInvalid(f"blob {descriptor.digest} has more than {MANIFEST_LIMIT} bytes")
        parts = []
        async with self.blob(reference, descriptor, auth=auth) as blob:
            async for part in blob:
                parts.append(part)
        return b"".join(parts)

    async def tags(self, reference: Reference, *, auth: Credentials | None = None) -> list[str]:
        """Every tag of the reference's repository, as the registry itself lists them (distribution-spec, "Listing
        Tags"). Raises ``RegistryError`` for an answer that is no list of tags, or one of more than 10,000.
        """
        what = f"list the tags of {reference.repository}"
        session = await self._session(reference, "pull", auth)
        path, found = f"tags/list?n={_TAGS_PAGE}", dict[str, None]()
        for _ in range(_TAGS // _TAGS_PAGE):
            answer = await session.send(
                "GET", path, what=what, expect=(200,), missing=("image", reference.repository)
            )
            link = _NEXT.match(answer.headers.get("link", ""))
            found |= dict.fromkeys(await self._tags(session, answer, what))
            if link is None:
                return list(found)
            path = session.resolve(f"{await session.base()}/v2/{session.repository}/tags/list", link[1], what)
        raise RegistryError(session.host, what, f"there are more than {_TAGS}", 0, "name the ones that you want")

    async def _tags(self, session: Session, answer: Answer, what: str) -> list[str]:
        from lading.engine.registry.connections import TooLong

        try:
            listed = parse_object(await answer.read(MANIFEST_LIMIT, 4 * self.settings.stall_timeout)).get("tags")
            tags = [] if listed is None else listed
            if not isinstance(tags, list) or not all(isinstance(tag, str) and _TAG.fullmatch(tag) for tag in tags):
                raise ValueError("it is no list of tags")
        except (TooLong, ValueError):
            raise RegistryError(session.host, what, "its answer is no list of tags") from None
        return tags

    async def check(self, domain: str, credentials: Credentials | None) -> None:
        """Whether the registry of ``domain`` is one, and takes ``credentials``; for ``lading login``."""
        connections, authorizer = self._open()
        endpoint = self.settings.endpoint(domain)
        session = Session(connections, authorizer, self._backoff, endpoint, "", "", credentials)
        answer = await session.send("GET", "", what="log in", expect=(200,))
        await answer.drain()

    # -- writing -------------------------------------------------------------------------------------------

    async def has_blob(
        self, reference: Reference, digest: Digest, *, auth: Credentials | None = None
    ) -> int | None:
        """The size of a blob that the repository has (-1 if the registry does not say), or None."""
        return await pushing.has_blob(await self._session(reference, "pull,push", auth), digest)

    async def mount(
        self, reference: Reference, digest: Digest, from_repository: str, *, auth: Credentials | None = None
    ) -> bool:
        """Make a blob of ``from_repository`` (a path, same registry) one of ``reference``'s; whether it did."""
        return await pushing.mount(await self._session(reference, "pull,push", auth), digest, from_repository)

    async def upload(
        self,
        reference: Reference,
        digest: Digest,
        size: int,
        source: pushing.Source,
        *,
        auth: Credentials | None = None,
    ) -> None:
        """Store a blob whose digest and size are known. Tried again if ``source`` can be read again."""
        await pushing.upload(await self._session(reference, "pull,push", auth), digest, size, source)

    async def upload_stream(
        self, reference: Reference, source: pushing.Source, *, auth: Credentials | None = None
    ) -> tuple[Digest, int]:
        """Store a blob whose digest and size are known at its end: what they are."""
        return await pushing.upload_stream(await self._session(reference, "pull,push", auth), source)

    async def put_manifest(
        self, reference: Reference, content: bytes, media_type: str, *, auth: Credentials | None = None
    ) -> Digest:
        """Store a manifest under the reference's tag, or under its digest if it has none; its digest."""
        session = await self._session(reference, "pull,push", auth)
        target = reference.tag or reference.digest
        if target is None:
            raise Invalid("image reference", reference.name, "it has neither a tag nor a digest to push to")
        return await pushing.put_manifest(session, target, content, media_type)

    # -- inside --------------------------------------------------------------------------------------------

    def _open(self) -> tuple[Connections, Authorizer]:
        if self._connections is None or self._authorizer is None:
            raise RuntimeError("the registry client is used in `async with`")
        return self._connections, self._authorizer

    async def _sessions(self, reference: Reference, auth: Credentials | None) -> Sequence[Session]:
        """For reading: the mirrors of the domain, then the registry itself."""
        mirrors = [
            await self._made(endpoint, reference, "pull", await self._credentials(endpoint.host))
            for endpoint in self.settings.mirror_endpoints(reference.domain)
        ]
        return [*mirrors, await self._session(reference, "pull", auth)]

    async def _session(self, reference: Reference, actions: str, auth: Credentials | None) -> Session:
        endpoint = self.settings.endpoint(reference.domain)
        if auth is None:
            auth = await self._credentials(reference.domain)
        return await self._made(endpoint, reference, actions, auth)

    async def _made(
        self, endpoint: Endpoint, reference: Reference, actions: str, credentials: Credentials | None
    ) -> Session:
        connections, authorizer = self._open()
        return Session(
            connections,
            authorizer,
            self._backoff,
            endpoint,
            reference.path,
            actions,
            credentials,
            reference.repository,
        )

    async def _credentials(self, domain: str) -> Credentials | None:
        return None if self._lookup is None else await self._lookup(domain)

    async def _ask_manifest(self, session: Session, reference: Reference, method: str) -> Answer:
        name = _shown(reference)
        return await session.send(
            method,
            f"manifests/{reference.digest or reference.tag}",
            what=f"fetch the manifest of {name}",
            expect=(200,),
            missing=("image", name),
            headers={"Accept": ", ".join(ACCEPTED)},
        )

    async def _manifest(self, session: Session, reference: Reference) -> FetchedManifest:
        from lading.engine.registry.connections import TooLong

        failures = 0
        while True:
            answer = await self._ask_manifest(session, reference, "GET")
            try:
                content = await answer.read(MANIFEST_LIMIT, 4 * self.settings.stall_timeout)
                break
            except TooLong:
                raise ImageInvalid(
                    f"the manifest of {_shown(reference)} at {session.host} has more than {MANIFEST_LIMIT} bytes"
                ) from None
            except RegistryUnavailable as error:
                failures += 1
                if error.fact != "cut" or failures >= self._backoff.attempts:
                    raise
            await trio.sleep(self._backoff.delay(failures))
        digest = Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")
        said = answer.headers.get("docker-content-digest", "")
        wanted = reference.digest or (said if said.startswith("sha256:") else digest)
        if digest != wanted:
            raise DigestMismatch(f"the manifest of {_shown(reference)} from {session.host}", wanted[:100], digest)
        return FetchedManifest(content, _bare(answer.headers.get("content-type", "")), digest)


def _shown(reference: Reference) -> str:
    return reference.familiar


def _bare(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
