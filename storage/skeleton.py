"""The skeleton: the lowest layer of every container, with what the runtime mounts over.

An image from scratch has no /proc, /dev or /etc/hosts; the runtime would make them in the writable layer of
each of its containers. Below the image's own layers they are shared, and anything an image has there wins.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["make_skeleton"]

_DIRECTORIES = ("dev", "proc", "sys", "etc")
_FILES = ("etc/hostname", "etc/hosts", "etc/resolv.conf")


def make_skeleton(directory: Path) -> None:
    """Have the skeleton at ``directory``; whole after any crash, since what is missing is made again."""
    directory.mkdir(mode=0o755, exist_ok=True)
    for name in _DIRECTORIES:
        (directory / name).mkdir(mode=0o755, exist_ok=True)
    for name in _FILES:
        with contextlib.suppress(FileExistsError), open(directory / name, "x"):
            pass
