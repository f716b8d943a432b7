"""Identifiers: what each one names, how it looks, and the one place that checks it.

Every pattern is matched whole and ASCII only: ``$`` would let a trailing newline through, and ``\\d`` or
``\\w`` would accept digits and letters of other scripts.
"""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from lading.events.errors import Invalid

__all__ = [
    "ChainId",
    "CommandId",
    "ContainerId",
    "Digest",
    "ImageId",
    "chain_id",
    "check_command_id",
    "check_container_id",
    "check_container_name",
    "check_digest",
    "container_stream",
    "image_stream",
    "layer_stream",
    "tag_stream",
]

ContainerId = NewType("ContainerId", str)
"""64 lower-case hexadecimal digits, drawn at random by the engine."""

Digest = NewType("Digest", str)
"""``sha256:`` and 64 lower-case hexadecimal digits (OCI image-spec, descriptor.md#digests)."""

ImageId = NewType("ImageId", str)
"""The digest of the image's config (image-spec, config.md#imageid)."""

ChainId = NewType("ChainId", str)
"""The digest that names a stack of layers (image-spec, config.md#layer-chainid)."""

CommandId = NewType("CommandId", str)
"""32 hexadecimal digits; correlates every event that one request led to."""

_HEX32 = re.compile(r"[0-9a-f]{32}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}")


def check_container_id(text: str) -> ContainerId:
    """``text`` as a container id, or ``Invalid``."""
    if _HEX64.fullmatch(text) is None:
        raise Invalid("container id", text, "an id is 64 lower-case hexadecimal digits")
    return ContainerId(text)


def check_digest(text: str) -> Digest:
    """``text`` as a digest, or ``Invalid``; do this before a digest gets near a path or a URL."""
    if _DIGEST.fullmatch(text) is None:
        raise Invalid("digest", text, "a digest is 'sha256:' and 64 lower-case hexadecimal digits")
    return Digest(text)


def check_container_name(text: str) -> str:
    """``text`` as a container name, by Docker's rule, or ``Invalid``."""
    if _NAME.fullmatch(text) is None:
        raise Invalid("container name", text, "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, two to 255 characters")
    return text


def check_command_id(text: str) -> CommandId:
    """``text`` as a command id, or ``Invalid``."""
    if _HEX32.fullmatch(text) is None:
        raise Invalid("command id", text, "an id is 32 lower-case hexadecimal digits")
    return CommandId(text)


def chain_id(parent: ChainId | None, diff_id: Digest) -> ChainId:
    """The chain id of layer ``diff_id`` on top of ``parent`` (image-spec, config.md#layer-chainid)."""
    if parent is None:
        return ChainId(diff_id)
    return ChainId("sha256:" + hashlib.sha256(f"{parent} {diff_id}".encode()).hexdigest())


def container_stream(container: str) -> str:
    """The stream that holds a container's whole life."""
    return f"container/{container}"


def image_stream(image: str) -> str:
    """The stream of an image, by its id."""
    return f"image/{image}"


def layer_stream(chain: str) -> str:
    """The stream of a layer, by its chain id."""
    return f"layer/{chain}"


def tag_stream(name: str) -> str:
    """The stream of a tag, by its full name ``domain/path:tag``."""
    return f"tag/{name}"
