"""Which release this is."""

from __future__ import annotations

from importlib import metadata

__all__ = ["release"]


def release() -> str:
    """The version of this package."""
    return metadata.version("lading")
