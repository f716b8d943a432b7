"""Images of ``images.py`` into a registry, with http.client alone (OCI distribution-spec 1.1, Pushing)."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPResponse
from urllib.parse import urlsplit

from images import Image, Index


class Refused(Exception):
    """The registry answered otherwise than the specification has it."""


class Registry:
    """A connection to the registry at ``address`` (host:port). Close it, or leave it as a context manager."""

    def __init__(self, address: str) -> None:
        self._http = HTTPConnection(address, timeout=30)

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(
        self, method: str, target: str, body: bytes = b"", kind: str = "", expected: tuple[int, ...] = (200,)
    ) -> tuple[HTTPResponse, bytes]:
        """The answer and its body. ``kind``: the media type sent with a body, or asked for without one."""
        headers = {"Content-Type" if body else "Accept": kind} if kind else {}
        self._http.request(method, target, body or None, headers)
        answer = self._http.getresponse()
        content = answer.read()
        if answer.status not in expected:
            raise Refused(f"{method} {target}: {answer.status} {content[:300]!r}")
        return answer, content

    def put_blob(self, repository: str, digest: str, content: bytes) -> None:
        """In one piece (Pushing a blob monolithically, POST then PUT), unless it is there."""
        answer, _ = self.ask("HEAD", f"/v2/{repository}/blobs/{digest}", expected=(200, 404))
        if answer.status == 200:
            return
        answer, _ = self.ask("POST", f"/v2/{repository}/blobs/uploads/", expected=(202,))
        where = urlsplit(answer.headers["Location"])
        query = f"{where.query}&" if where.query else ""
        target = f"{where.path}?{query}digest={digest}"
        self.ask("PUT", target, content, "application/octet-stream", (201,))

    def put_manifest(self, repository: str, reference: str, content: bytes, media_type: str) -> str:
        """The digest that the registry gave it."""
        target = f"/v2/{repository}/manifests/{reference}"
        answer, _ = self.ask("PUT", target, content, media_type, (201,))
        digest: str = answer.headers["Docker-Content-Digest"]
        return digest

    def get_manifest(self, repository: str, reference: str, accept: str) -> bytes:
        return self.ask("GET", f"/v2/{repository}/manifests/{reference}", kind=accept)[1]

    def get_blob(self, repository: str, digest: str) -> bytes:
        return self.ask("GET", f"/v2/{repository}/blobs/{digest}")[1]


def push_image(address: str, name: str, image: Image | Index) -> str:
    """Put ``image`` into the registry at ``address`` (host:port) as ``name`` (repository:tag): its digest."""
    repository, _, tag = name.rpartition(":")
    with Registry(address) as registry:
        for digest, content in image.blobs.items():
            registry.put_blob(repository, digest, content)
        if isinstance(image, Index):
            for each in image.images:
                registry.put_manifest(repository, each.digest, each.manifest, each.media_type)
        digest = registry.put_manifest(repository, tag, image.manifest, image.media_type)
    if digest != image.digest:
        raise Refused(f"{name}: the registry says {digest}, not {image.digest}")
    return digest
