"""Images from and to registries over HTTP: pull, import, push, login, and what a registry says of a name.

Source: Docker Engine API v1.47, ImageCreate, ImagePush, SystemAuth, DistributionInspect; moby's image router and
``distribution`` package (v27) for words and order. A client that hangs up cancels its pull or push.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import attrs

from lading.engine.api.failures import failure_words, pull_failure
from lading.engine.api.images import named
from lading.engine.api.progress import ProgressLines, aux_line, status_line, stream_progress
from lading.engine.api.request import caller_of, check_reference
from lading.engine.engine import Engine
from lading.engine.http.message import HttpError, Reply, Request, Response
from lading.engine.http.router import Router
from lading.engine.images.platform import host_platform
from lading.engine.registry.credentials import Credentials, credentials_from_header
from lading.events.dockerfilechanges import apply_changes
from lading.events.errors import Invalid, LadingError, NotFound
from lading.events.ids import check_digest
from lading.events.manifest import Platform
from lading.events.reference import Reference, parse_reference

__all__ = ["add_pull_routes"]

_JSON: Final = {"Content-Type": "application/json"}
_AUTH_LIMIT: Final = 1 << 16
_HUB: Final = "docker.io"


def add_pull_routes(router: Router, engine: Engine) -> None:
    """Route what talks to registries, and imports, which Docker has at the same place as pulls."""
    pulls = _Pulls(engine)
    router.add("POST", "/images/create", pulls.create)
    router.add("POST", "/images/{name:path}/push", pulls.push)
    router.add("GET", "/distribution/{name:path}/json", pulls.distribution)
    router.add("POST", "/auth", pulls.auth)


class _Pulls:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def create(self, request: Request) -> Reply:
        """A pull (``fromImage``) or an import (``fromSrc``)."""
        if request.query.get("fromImage"):
            await self._pull(request)
            return None
        return await self._import(request)

    async def _pull(self, request: Request) -> None:
        query = request.query
        credentials, caller = _credentials(request), caller_of(request)
        asked = _asked(query.get("fromImage"), query.get("tag"))
        every = asked.tag is None and asked.digest is None
        platform = query.get("platform") if request.version is None or request.version >= (1, 32) else ""

        async def work(lines: ProgressLines) -> None:
            reference = asked.repository if every else asked.familiar
            try:
                names = await self._tags_there(asked, credentials) if every else [reference]
                for reference in names:
                    await self._engine.images.pull(
                        reference, platform=platform or None, auth=credentials, progress=lines.tell, caller=caller
                    )
            except LadingError as error:
                raise pull_failure(error, reference) from None

        # The first line says whom we ask; only with the second does it turn out that there is such an image.
        await stream_progress(request, work, failure_words, held=1)

    async def _tags_there(self, repository: Reference, credentials: Credentials) -> list[str]:
        registry = await self._engine.core.registry()
        tags = await registry.tags(repository, auth=credentials)
        if not tags:
            raise NotFound("image", repository.repository)
        return [attrs.evolve(repository, tag=tag).familiar for tag in sorted(tags)]

    async def _import(self, request: Request) -> Reply:
        """Answered when the image is there, so that a failure is an error and not a line of text."""
        query = request.query
        source = query.get("fromSrc")
        if source != "-":
            what = f"an import from {source[:200]!r}" if source else "this"
            raise HttpError(501, f"{what} is not supported in this release: send the archive (fromSrc=-)")
        _check_platform(query.get("platform"))
        image = await self._engine.images.import_rootfs(
            request.body_stream(),
            named(query.get("repo"), query.get("tag")),
            config=apply_changes(query.get_all("changes")),
            comment=query.get("message") or "Imported from -",
            caller=caller_of(request),
        )
        return Response(200, _JSON, json.dumps({"status": image.image}).encode() + b"\r\n")

    async def push(self, request: Request) -> None:
        """One tag, or without ``tag`` every tag of the repository."""
        name, tag = check_reference(request.params["name"]), request.query.get("tag")
        names = [named(name, tag) or ""] if tag else self._tags_of(name)
        credentials, caller = await _credentials_or_body(request), caller_of(request)

        async def work(lines: ProgressLines) -> None:
            for each in names:
                self._check_tag(each, lines)
                pushed = await self._engine.images.push(each, auth=credentials, progress=lines.tell, caller=caller)
                tag = parse_reference(each).tag
                lines.add(aux_line({"Tag": tag, "Digest": pushed.digest, "Size": pushed.size}))

        await stream_progress(request, work, failure_words)

    def _tags_of(self, name: str) -> list[str]:
        wanted = parse_reference(name)
        if wanted.digest is not None or ":" in name.rpartition("/")[2]:
            return [name]
        repository = f"{wanted.domain}/{wanted.path}:"
        tags = (tag for image in self._engine.images.list() for tag in image.tags)
        found = sorted(tag for tag in tags if tag.startswith(repository))
        return found or [wanted.name]

    def _check_tag(self, name: str, lines: ProgressLines) -> None:
        """Refuse what isn't here as Docker does: after it said where it would go."""
        reference = parse_reference(name)
        try:
            self._engine.images.resolve(name)
        except NotFound:
            lines.add(status_line(f"The push refers to repository [{reference.domain}/{reference.path}]"))
            words = f"An image does not exist locally with the tag: {reference.repository}"
            raise HttpError(404, words) from None

    async def distribution(self, request: Request) -> Reply:
        reference = parse_reference(check_reference(request.params["name"]))
        found = await self._engine.images.distribution(reference.full, auth=_credentials(request))
        descriptor = {"mediaType": found.media_type, "digest": found.digest, "size": found.size}
        return Response.json({"Descriptor": descriptor, "Platforms": list(map(_platform, found.platforms))})

    async def auth(self, request: Request) -> Reply:
        """Whether a registry takes these credentials. It gives no identity token: those go on being used."""
        said = await request.json(_AUTH_LIMIT)
        domain = _domain(str(said.get("serveraddress") or ""))
        registry = await self._engine.core.registry()
        await registry.check(domain, _from_json(said))
        return Response.json({"Status": "Login Succeeded", "IdentityToken": ""})


def _platform(platform: Platform) -> dict[str, str]:
    variant = {"variant": platform.variant} if platform.variant else {}
    return {"architecture": platform.architecture, "os": platform.os, **variant}


def _domain(address: str) -> str:
    """The registry's name in what clients call a server's address: with a scheme and a path, or not at all."""
    bare = address.removeprefix("https://").removeprefix("http://").partition("/")[0]
    if bare in ("", f"index.{_HUB}", f"registry-1.{_HUB}"):
        return _HUB
    return parse_reference(f"{bare}/any").domain if "." in bare or ":" in bare or bare == "localhost" else bare


def _asked(image: str, tag: str) -> Reference:
    """What a pull asks for; its ``tag`` may be a digest, and no tag is every tag (moby, postImagesCreate)."""
    bare = image.removesuffix(":")
    reference = parse_reference(check_reference(bare))
    if not tag:
        named = reference.digest is not None or ":" in bare.rpartition("/")[2]
        return reference if named else attrs.evolve(reference, tag=None)
    without = attrs.evolve(reference, tag=None, digest=None)
    if ":" in tag:
        return attrs.evolve(without, digest=check_digest(tag))
    return parse_reference(check_reference(f"{without.repository}:{tag}"))


def _check_platform(platform: str) -> None:
    system, _, machine = platform.lower().partition("/")
    if platform and (system != "linux" or machine not in ("", host_platform().architecture)):
        raise HttpError(501, f"platform {platform[:80]!r} is not supported: imports are for {host_platform()}")


# -- credentials ----------------------------------------------------------------------------------------


def _credentials(request: Request) -> Credentials:
    """Those of the header ``X-Registry-Auth``. What is none is as good as none, as in Docker.

    Never those of whoever runs the engine: who asks, asks for themselves.
    """
    try:
        return credentials_from_header(request.headers.get("x-registry-auth", "")) or Credentials()
    except Invalid:
        return Credentials()


async def _credentials_or_body(request: Request) -> Credentials:
    """For a push: of the header, or, as old clients send it, of the body."""
    if "x-registry-auth" in request.headers:
        return _credentials(request)
    return _from_json(await request.json(_AUTH_LIMIT, default={}))


def _from_json(said: dict[str, Any]) -> Credentials:
    """Docker's AuthConfig, as the body of a request. Raises ``Invalid``."""
    return credentials_from_header(base64.urlsafe_b64encode(json.dumps(said).encode()).decode()) or Credentials()
