"""Making a store of what comes from elsewhere, an import or a backup: aside, and then at once or not at all.

Everything is built in ``ROOT/staging``. What gives the store a name comes last: until ``store.json`` is there, the
directory has no store, and whoever opens it begins a new one and deletes the rest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import attrs

from lading.events.errors import HostError
from lading.storage.linux import sync_directory, syncfs
from lading.storage.store import Paths, locate, own_root, write_identity
from lading.storage.trees import remove_tree

__all__ = ["Making", "making_store"]

_FILES = ("layers", "splits", "blobs", "containers", "volumes")
_EMPTY = {
    *_FILES,
    *("lading.sock", "lock", "log", "lost+found", "serve.lock", "serve.log", "skeleton", "staging", "trash"),
    "store.json.new",
}
"""What a directory may have in it that has no store: what somebody left who did not get as far."""


@attrs.frozen
class Making:
    """A store that is being made: ``paths`` of where it will be, ``work`` where to build ``log`` and the rest."""

    paths: Paths
    work: Path

    def publish(self, identity: str) -> None:
        """Make the store, called ``identity``, of what is in ``work``: ``log/data.mdb``, and layers, ... if there.

        Durable when it returns; a crash before that leaves no store. ``HostError`` when the machine refuses.
        """
        root = self.paths.root
        try:
            descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                syncfs(descriptor)
            finally:
                os.close(descriptor)
            for name in _FILES:
                if (self.work / name).is_dir():
                    with contextlib.suppress(FileNotFoundError):
                        _remove_empty(root / name)
                    (self.work / name).rename(root / name)
            self.paths.log.mkdir(mode=0o700, exist_ok=True)
            (self.paths.log / "lock.mdb").unlink(missing_ok=True)
            (self.work / "log" / "data.mdb").rename(self.paths.log / "data.mdb")
            sync_directory(self.paths.log)
            sync_directory(root)
            write_identity(root, identity)
        except OSError as error:
            raise HostError("publish the store in", os.fspath(root), error.errno or 0) from error


@contextlib.contextmanager
def making_store(root: Path) -> Iterator[Making]:
    """Own ``root``, which has no store (and is made if it isn't there; its parent must be), while one is made.

    Leaving the block by an error removes what was made in it, and ``root`` if that was. Raises ``InUse``, or
    ``HostError`` where a store, or anything of one, is already.
    """
    _check_empty(root)
    made = not root.exists()
    locked = (root / "lock").exists()
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        root = root.resolve(strict=True)
        root.chmod(0o700)
        lock = own_root(root)
    except OSError as error:
        raise HostError("make a store in", os.fspath(root), error.errno or 0, "choose another --root") from error
    try:
        _check_empty(root)
        making = Making(locate(root), root / "staging" / secrets.token_hex(8))
        try:
            making.paths.staging.mkdir(mode=0o700, exist_ok=True)
            making.work.mkdir(mode=0o700)
            yield making
        except OSError as error:
            raise HostError("make a store in", os.fspath(root), error.errno or 0) from error
        finally:
            _clear(making)
    except BaseException:
        _undo(root, made, locked)
        raise
    finally:
        os.close(lock)


def _check_empty(root: Path) -> None:
    if (root / "store.json").exists():
        hint = "a store is there already; name an empty directory, or one that isn't there, with --root"
        raise HostError("make a store in", os.fspath(root), errno.EEXIST, hint)
    for name, known in ((".", _EMPTY), *((name, {"sha256"}) for name in (*_FILES, "blobs/sha256"))):
        with contextlib.suppress(FileNotFoundError):
            if found := sorted(set(os.listdir(root / name)) - known):
                what = os.path.normpath(f"{name}/{found[0]}")
                hint = f"no store is there, but {what} is: see what that is, or name another --root"
                raise HostError("make a store in", os.fspath(root), errno.ENOTEMPTY, hint)


def _remove_empty(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        (directory / "sha256").rmdir()
    directory.rmdir()


def _clear(making: Making) -> None:
    descriptor = os.open(making.paths.staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(HostError):  # then it is an orphan, which the next engine deletes
            remove_tree(descriptor, os.fsencode(making.work.name))
    finally:
        os.close(descriptor)


def _undo(root: Path, made: bool, locked: bool) -> None:
    """Take away the directories that are empty now, and what only we made."""
    if (root / "store.json").exists():
        return
    with contextlib.suppress(OSError):
        (root / "staging").rmdir()
    if not locked:
        (root / "lock").unlink(missing_ok=True)
    if made:
        with contextlib.suppress(OSError):
            root.rmdir()
