"""The platform of this machine, as images call it."""

from __future__ import annotations

import functools
import os

from lading.events.platforms import Platform, parse_platform

__all__ = ["host_platform"]


@functools.cache
def host_platform() -> Platform:
    """What an image for this machine is made for."""
    return parse_platform(f"linux/{os.uname().machine}")
