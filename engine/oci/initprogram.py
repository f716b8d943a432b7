"""The small first process that ``init`` asks for: it reaps what is orphaned and passes signals on."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import stat
from typing import Final

from lading.events.errors import HostError

__all__ = ["INIT_PLACE", "find_init", "is_static"]

INIT_PLACE: Final = "/sbin/docker-init"
"""Where it is in the container, as with Docker."""

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/libexec/podman"
_NAMES: Final = ("catatonit", "tini-static", "docker-init", "tini")
_HINT: Final = "apt-get install catatonit (or tini: its tini-static), or don't ask for init"


@functools.cache
def find_init() -> str:
    """The host's path of a statically linked init: the image's libraries are not its own.

    Raises ``HostError``, which says what to install; one that was found is remembered.
    """
    for name in _NAMES:
        path = shutil.which(name, path=_PATH)
        if path is not None and is_static(path):
            return os.path.realpath(path)
    raise HostError("find an init program:", ", ".join(_NAMES), errno.ENOENT, _HINT)


def is_static(path: str) -> bool:
    """Whether ``path`` is an ELF file that names no interpreter (elf(5), PT_INTERP)."""
    try:
        with open(path, "rb") as file:
            header = file.read(64)
            if header[:4] != b"\x7fELF" or not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return False
            wide, order = header[4] == 2, "little" if header[5] == 1 else "big"
            at = (32, 8, 54, 56) if wide else (28, 4, 42, 44)  # e_phoff, its size, e_phentsize, e_phnum
            offset = int.from_bytes(header[at[0] : at[0] + at[1]], order)  # type: ignore[arg-type]
            size, count = (int.from_bytes(header[at[i] : at[i] + 2], order) for i in (2, 3))  # type: ignore[arg-type]
            file.seek(offset)
            table = file.read(min(size * count, 1 << 16))
    except OSError:
        return False
    kinds = (int.from_bytes(table[at : at + 4], order) for at in range(0, len(table), size or 1))  # type: ignore[arg-type]
    return 3 not in kinds
