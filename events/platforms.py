"""Platforms: what they are called, and which of an image's suit a machine.

The rules are containerd's (its package ``platforms``: ``database.go`` and ``compare.go``), which Docker uses:
names are normalised (``aarch64`` is ``arm64``, ``arm64/v8`` is ``arm64``, ``arm`` is ``arm/v7``), and a machine
runs what is made for its predecessors, the nearest first.
"""

from __future__ import annotations

import re

import attrs

from lading.events.errors import Invalid

__all__ = ["Platform", "normal_platform", "parse_platform", "suitable"]

_PART = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SYSTEMS = frozenset(("darwin", "freebsd", "linux", "macos", "netbsd", "openbsd", "windows"))
_MACHINES = frozenset(
    (
        "386",
        "amd64",
        "arm",
        "arm64",
        "loong64",
        "mips64le",
        "ppc64le",
        "riscv64",
        "s390x",
        "wasm",
        "mips",
        "mipsle",
    )
)
_ARM64_MINORS = {
    "v8": (("v8", 0),),
    **{f"v8.{minor}": (("v8", minor),) for minor in range(10)},
    "v9": (("v9", 0), ("v8", 5)),
    **{f"v9.{minor}": (("v9", minor), ("v8", min(minor + 5, 9))) for minor in range(8)},
}
"""An arm64 variant, and up to which minor version of which major ones its machines run."""


@attrs.frozen
class Platform:
    """What an image is made for, in Go's words (OCI image-spec, image-index.md, ``platform``)."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def parse_platform(text: str, *, architecture: str = "") -> Platform:
    """``os/architecture[/variant]``, or an architecture alone for Linux's, in normal form; otherwise ``Invalid``.

    ``architecture``: the host's, with which ``linux`` alone is a platform, too.
    """
    parts = text.split("/")
    if not 1 <= len(parts) <= 3 or any(_PART.fullmatch(part) is None for part in parts):
        raise Invalid("platform", text, "a platform is os/architecture[/variant], as in linux/arm64")
    if len(parts) == 1:
        if parts[0].lower() in _SYSTEMS:
            if not architecture:
                raise Invalid(
                    "platform", text, "it lacks the architecture: give os/architecture, as in linux/amd64"
                )
            parts = [parts[0], architecture]
        else:
            parts = ["linux", parts[0]]
            if normal_platform(Platform(*parts)).architecture not in _MACHINES:
                raise Invalid("platform", text, "it is neither an operating system nor an architecture known here")
    return normal_platform(Platform(*parts))


def normal_platform(platform: Platform) -> Platform:
    """``platform`` with the one name that each part has."""
    os = platform.os.lower()
    machine, variant = platform.architecture.lower(), platform.variant.lower()
    match machine:
        case "i386":
            machine, variant = "386", ""
        case "x86_64" | "x86-64" | "amd64":
            machine, variant = "amd64", "" if variant == "v1" else variant
        case "aarch64" | "arm64":
            machine = "arm64"
            if variant in ("8", "v8", "v8.0"):
                variant = ""
            elif variant in ("9", "9.0", "v9.0"):
                variant = "v9"
        case "armhf":
            machine, variant = "arm", "v7"
        case "armel":
            machine, variant = "arm", "v6"
        case "arm":
            variant = {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"}.get(variant, variant)
    return Platform("darwin" if os == "macos" else os, machine, variant)


def suitable(platform: Platform) -> list[Platform]:
    """What a machine of ``platform`` can run, in normal form, the best first, itself among it."""
    platform = normal_platform(platform)
    os, machine, variant = platform.os, platform.architecture, platform.variant
    found = [platform]
    match machine:
        case "amd64":
            found += [Platform(os, machine, f"v{older}") for older in _below(variant, 1)]
            found.append(Platform(os, "386"))
        case "arm":
            found += [Platform(os, machine, f"v{older}") for older in _below(variant, 5)]
        case "arm64":
            for major, newest in _ARM64_MINORS.get(variant or "v8", ()):
                for minor in range(newest, -1, -1):
                    found.append(Platform(os, machine, f"{major}.{minor}" if minor else major))
            found += suitable(Platform(os, "arm", "v8"))
    return list(dict.fromkeys(normal_platform(one) for one in found))


def _below(variant: str, lowest: int) -> range:
    """The versions under ``variant``, downwards."""
    digits = variant.removeprefix("v")
    if len(digits) != 1 or digits not in "0123456789":
        return range(0)
    return range(int(digits) - 1, lowest - 1, -1)
