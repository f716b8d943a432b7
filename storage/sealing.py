"""A container's writable layer turned into a read-only one: by renaming it, whatever is in it.

It is a layer already, as overlayfs writes it (whiteouts, opaque directories); what only its upper directory may
say of itself (``trusted.overlay.origin``, ``impure``, ``uuid``) means nothing in a lower one. Files come first,
then the event that names them: between the two, a crash leaves a layer that no record names. It says itself whose
it was, in an attribute of its root, and the next opening puts it back (:func:`stranded`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from lading.events.errors import HostError
from lading.events.ids import Digest
from lading.storage.backup import copy_tree
from lading.storage.layers import blob_name
from lading.storage.linux import rename_noreplace, sync_directory, syncfs
from lading.storage.store import Paths
from lading.storage.trees import Usage, measure_tree

__all__ = [
    "UPPER_OF",
    "copy_upper",
    "has_changes",
    "keep_document",
    "measure_soon",
    "place_copy",
    "put_back",
    "seal",
    "stranded",
]

UPPER_OF: Final = "trusted.lading.upper"
"""The attribute with the container's id, on the root of a layer that was its writable one."""

_BUDGET: Final = 0.03


class _TooLong(Exception):
    """Nobody waits for the rest."""


def has_changes(paths: Paths, container: str) -> bool:
    """Whether there is anything in the writable layer. Raises ``HostError``."""
    upper = paths.container(container) / "upper"
    try:
        with os.scandir(upper) as entries:
            return next(entries, None) is not None
    except FileNotFoundError:
        return False
    except OSError as error:
        raise HostError("look into", os.fspath(upper), error.errno or 0) from error


def measure_soon(tree: Path, budget: float = _BUDGET) -> Usage:
    """What ``tree`` takes, if that is found out within ``budget`` seconds; otherwise no inodes and no bytes, which
    nothing has that is there: whoever wants to know counts."""
    end = time.monotonic() + budget

    def stop() -> None:
        if time.monotonic() > end:
            raise _TooLong

    try:
        fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError("measure", os.fspath(tree), error.errno or 0) from error
    try:
        with contextlib.suppress(_TooLong):
            return measure_tree(fd, stop)
        return Usage(0, 0)
    finally:
        os.close(fd)


def seal(paths: Paths, container: str, chain: str, *, sync: bool) -> Usage:
    """Make the writable layer of ``container``, which is not mounted, the layer ``chain``; what it takes (see
    ``measure_soon``).

    ``sync``: what is in it may not be on disk yet: an overlay that is unmounted syncs, unless it was volatile, or
    somebody had still a file of it open. Raises ``HostError``, with everything as it was.
    """
    upper, layer = paths.container(container) / "upper", paths.layer(chain)
    usage = measure_soon(upper)
    try:
        os.setxattr(upper, UPPER_OF, container.encode(), follow_symlinks=False)
        if sync:
            fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                syncfs(fd)
            finally:
                os.close(fd)
        rename_noreplace(os.fsencode(upper), os.fsencode(layer))
        try:
            sync_directory(paths.layers)
            sync_directory(upper.parent)
        except OSError:
            put_back(paths, container, chain)
            raise
    except OSError as error:
        raise HostError("seal the writable layer of", container[:12], error.errno or 0) from error
    return usage


def put_back(paths: Paths, container: str, chain: str) -> bool:
    """Undo ``seal``: the layer ``chain``, which no record names, is the writable one again.

    False if the container is gone, or has another one by now; then it goes to the trash.
    """
    layer, upper = paths.layer(chain), paths.container(container) / "upper"
    try:
        rename_noreplace(os.fsencode(layer), os.fsencode(upper))
    except (FileNotFoundError, FileExistsError):
        paths.discard(layer)
        return False
    sync_directory(upper.parent)
    sync_directory(paths.layers)
    return True


def stranded(paths: Paths, known: Collection[str]) -> Iterator[tuple[str, str]]:
    """The layers that no record names (``known``: chain ids) and that were a container's writable layer: chain id
    and container."""
    names = {chain.removeprefix("sha256:") for chain in known}
    for name in os.listdir(paths.layers):
        if name not in names:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                owner = os.getxattr(paths.layers / name, UPPER_OF, follow_symlinks=False).decode("ascii")
                yield f"sha256:{name}", owner


def copy_upper(paths: Paths, container: str, staging: Path) -> None:
    """Copy the writable layer of ``container``, sharing blocks where the file system can, to ``staging``.

    Something may be at work in it: what vanishes meanwhile is left out. Raises ``HostError``; ``staging`` is then
    for the caller to remove, as after a crash.
    """
    copy_tree(paths.container(container) / "upper", staging)
    with contextlib.suppress(OSError):
        os.removexattr(staging, UPPER_OF, follow_symlinks=False)  # of an earlier seal that was undone


def place_copy(paths: Paths, staging: Path, chain: str) -> Usage:
    """Put the tree ``staging`` in place as the layer ``chain``, durably; what it takes (see ``measure_soon``).

    Raises ``HostError``.
    """
    usage = measure_soon(staging)
    layer = paths.layer(chain)
    try:
        fd = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syncfs(fd)
        finally:
            os.close(fd)
        rename_noreplace(os.fsencode(staging), os.fsencode(layer))
        sync_directory(paths.layers)
    except OSError as error:
        raise HostError("put in place", os.fspath(layer), error.errno or 0) from error
    return usage


def keep_document(paths: Paths, digest: Digest, content: bytes) -> None:
    """Have ``content`` as the blob ``digest``, on disk. Raises ``HostError``."""
    where = blob_name(paths, digest)
    try:
        if where.exists():
            return
        new = paths.staging / secrets.token_hex(8)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        new.rename(where)
        sync_directory(paths.blobs)
    except OSError as error:
        raise HostError("write", os.fspath(where), error.errno or 0) from error
