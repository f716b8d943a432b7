"""Files of variables and of labels, and the file that gets a container's id.

Sources: docker/cli ``pkg/kvfile`` and ``cli/command/container/create.go`` (cidFile; v27).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Final

__all__ = ["IdFile", "read_pairs"]

_LIMIT: Final = 16 << 20
_BLANKS: Final = " \t"


def read_pairs(path: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """The lines of ``path``: ``NAME=VALUE`` each, without comments and empty lines.

    A name alone gets its value from ``environ``, and is left out where that has none; without ``environ`` it stays
    alone. Raises ``ValueError`` for what is no such file, and ``OSError``.
    """
    with open(path, "rb") as file:
        content = file.read(_LIMIT + 1)
    if len(content) > _LIMIT:
        raise ValueError(f"{path} is longer than {_LIMIT} bytes")
    found = []
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.removesuffix(b"\r").decode().lstrip(_BLANKS)
        except UnicodeDecodeError:
            raise ValueError(f"{path} is no UTF-8 text at line {number}") from None
        if not line or line.startswith("#"):
            continue
        name, equals, _ = line.partition("=")
        if not name:
            raise ValueError(f"no variable name on line '{line[:80]}' of {path}")
        if any(blank in name for blank in _BLANKS):
            raise ValueError(f"variable '{name[:80]}' contains whitespaces in {path}")
        if equals or environ is None:
            found.append(line)
        elif name in environ:
            found.append(f"{name}={environ[name]}")
    return found


class IdFile:
    """The file at ``path`` (empty: none) in which somebody will find a container's id.

    It is made on entering, and must not be there before: another container's may. Left without an id, it goes
    again. Raises ``FileExistsError`` and other ``OSError``.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = -1
        self._written = False

    def __enter__(self) -> IdFile:
        if self.path:
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        return self

    def write(self, identifier: str) -> None:
        """Write the id."""
        if self._file >= 0:
            os.write(self._file, identifier.encode())
            self._written = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file >= 0:
            os.close(self._file)
            if not self._written:
                with suppress(OSError):
                    os.unlink(self.path)
