"""What a container changed of its image's files, found by looking at its own layers.

A container's own layers are its writable one and those that it had before (``Rebased``); the base is all below
them. Only names that an own layer has are looked up in the base; a directory of the base is listed where an opaque
one hides it. The rules are those of ``docker diff`` (moby, pkg/archive, ChangesDirs): a directory is changed if
anything in it is, or its owner or mode; anything else if its mode, owner, device, time or size is; what was in a
directory that is gone, or hidden, is not told of one by one.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from lading.events.errors import HostError
from lading.storage.beneath import is_whiteout
from lading.storage.merged import find, is_opaque, open_directory
from lading.storage.trees import printable

__all__ = ["Change", "ChangeKind", "changes"]

_GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class ChangeKind(enum.Enum):
    """Docker's numbers."""

    MODIFIED = 0
    ADDED = 1
    DELETED = 2


@attrs.frozen
class Change:
    """What happened to ``path``, which is absolute in the container."""

    path: bytes
    kind: ChangeKind


@attrs.define
class _Level:
    """A directory of the own layers. ``told``: a change in it was, and so was the directory itself."""

    path: bytes
    told: bool
    pending: list[bytes]
    layers: list[int]
    hidden: bool  # what the base has in it is not to be seen


def changes(own: Sequence[int], base: Sequence[int]) -> Iterator[Change]:
    """The changes that ``own`` made to ``base`` (root descriptors, the topmost first), sorted by path.

    Somebody may be at work in the first of ``own``: what vanishes meanwhile is passed over. Memory is the names of
    the directories on the way down. Raises ``HostError``.
    """
    return _Walk(own, base).run()


class _Walk:
    def __init__(self, own: Sequence[int], base: Sequence[int]) -> None:
        self._own, self._base = list(own), list(base)
        self._levels: list[_Level] = []

    def run(self) -> Iterator[Change]:
        path = b""
        try:
            self._enter(b"", list(self._own), False, told=True)
            while self._levels:
                level = self._levels[-1]
                if not level.pending:
                    self._levels.pop()
                    continue
                name = level.pending.pop()
                path = level.path + b"/" + name
                yield from self._look(level, path, name)
        except OSError as error:
            raise HostError("find what changed at", printable(path), error.errno or 0) from error

    def _look(self, level: _Level, path: bytes, name: bytes) -> Iterator[Change]:
        real = path[1:]
        old = find(self._base, real)
        now: os.stat_result | None = None
        beneath: list[int] = []
        hidden = level.hidden
        for layer in level.layers:
            found = self._lstat(layer, real)
            if found is None:
                continue
            if now is None:
                now = found
            if is_whiteout(found) or not stat.S_ISDIR(found.st_mode):
                hidden = True
                break
            beneath.append(layer)
            if self._opaque(layer, real):
                hidden = True
                break
        if now is None or is_whiteout(now):
            if old is not None and (now is not None or level.hidden):
                yield from self._tell(Change(path, ChangeKind.DELETED))
            return
        if old is None:
            yield from self._tell(Change(path, ChangeKind.ADDED))
        elif _differ(old.status, now):
            yield from self._tell(Change(path, ChangeKind.MODIFIED))
        if stat.S_ISDIR(now.st_mode):
            both = old is not None and stat.S_ISDIR(old.status.st_mode)
            told = old is None or _differ(old.status, now)
            self._enter(real, beneath, hidden or not both, told=told, listed=hidden and both)

    def _enter(self, real: bytes, layers: list[int], hidden: bool, *, told: bool, listed: bool = False) -> None:
        names: set[bytes] = set()
        for layer in layers:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                names.update(_names(layer, real))
        if listed:
            names.update(self._base_names(real))
        path = b"/" + real if real else b""
        self._levels.append(_Level(path, told, sorted(names, reverse=True), layers, hidden))

    def _tell(self, change: Change) -> Iterator[Change]:
        """The directories above it first, if they were not told of yet."""
        for level in self._levels:
            if not level.told:
                level.told = True
                yield Change(level.path, ChangeKind.MODIFIED)
        yield change

    def _base_names(self, real: bytes) -> set[bytes]:
        """What the base shows in its directory ``real``."""
        shown: set[bytes] = set()
        for layer in self._base:
            found = self._lstat(layer, real)
            if found is not None and not stat.S_ISDIR(found.st_mode):
                break
            if found is not None:
                shown.update(_names(layer, real))
                if self._opaque(layer, real):
                    break
        return {name for name in shown if find(self._base, real + b"/" + name if real else name) is not None}

    def _lstat(self, layer: int, real: bytes) -> os.stat_result | None:
        """What this one layer has at ``real``, its own symlinks not followed."""
        above, _, name = real.rpartition(b"/")
        try:
            fd = open_directory(layer, above)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
        try:
            return os.lstat(name, dir_fd=fd)
        except FileNotFoundError:
            return None
        finally:
            os.close(fd)

    def _opaque(self, layer: int, real: bytes) -> bool:
        try:
            fd = open_directory(layer, real)
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise
        try:
            return is_opaque(fd)
        finally:
            os.close(fd)


def _names(layer: int, real: bytes) -> list[bytes]:
    fd = open_directory(layer, real)
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]
    finally:
        os.close(fd)


def _differ(old: os.stat_result, new: os.stat_result) -> bool:
    if (old.st_mode, old.st_uid, old.st_gid, old.st_rdev) != (new.st_mode, new.st_uid, new.st_gid, new.st_rdev):
        return True
    if stat.S_ISDIR(new.st_mode):
        return False
    return (old.st_mtime_ns, old.st_size) != (new.st_mtime_ns, new.st_size)
