"""The directories of volumes: made, filled with what an image has, and looked into.

::

    ROOT/volumes/<name>/_data     what containers mount
    ROOT/volumes/<name>/filling   what an image has there, while it is copied
    ROOT/volumes/<name>/filled    the same, whole, while it is moved into _data, entry by entry

A name in these functions was checked (``check_volume_name``) before it came here.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from lading.events.errors import HostError, Invalid
from lading.storage import linux
from lading.storage.copying import copy_directory_metadata
from lading.storage.copytree import copy_tree
from lading.storage.linux import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_XDEV,
    openat2,
    sync_directory,
    syncfs,
)
from lading.storage.store import Paths
from lading.storage.trees import measure_tree, remove_tree

__all__ = ["data_of", "fill_volume", "make_volumes", "measure_volume", "open_subpath", "pin", "pin_subpath"]

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WALKS: Final = 3
_WITHIN: Final = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV


def data_of(paths: Paths, name: str) -> Path:
    """What containers mount of the volume ``name``."""
    return paths.volume(name) / "_data"


def make_volumes(paths: Paths, names: Iterable[str]) -> None:
    """Make the directories of new volumes, durably; call before the events that name them.

    One that is there is left from a crash or from an append that was refused, and taken as it is if it is empty.
    Raises ``HostError``, with none of those left that were made.
    """
    made = []
    try:
        for name in names:
            top = paths.volume(name)
            try:
                top.mkdir(mode=0o701)
            except FileExistsError:
                paths.discard(top)
                top.mkdir(mode=0o701)
            made.append(top)
            (top / "_data").mkdir(mode=0o755)
            sync_directory(top)
        sync_directory(paths.volumes)
    except OSError as error:
        for top in made:
            paths.discard(top)
        where = error.filename or paths.volumes
        raise HostError("make a volume's directory", os.fspath(where), error.errno or 0) from error


def fill_volume(source: int, volume: Path, pause: Callable[[], None] = lambda: None) -> bool:
    """Copy what is in the open directory ``source`` into ``volume`` (its directory), durably, if it is empty.

    Whether that was done; False: it has something in it, or there is nothing to copy. The directory gets the look
    (owner, mode) of ``source`` also if that is empty. ``pause``: as in ``copy_tree``. To be called by one task
    at a time for a volume. A crash leaves it empty, or ``filled`` beside it, which the next call goes on
    from; what is in it then is never overwritten. Raises ``OSError``.
    """
    top = os.open(volume, _DIRECTORY)
    try:
        data = os.open("_data", _DIRECTORY, dir_fd=top)
        try:
            return _fill(source, top, data, pause)
        finally:
            os.close(data)
    finally:
        os.close(top)


def _fill(source: int, top: int, data: int, pause: Callable[[], None]) -> bool:
    remove_tree(top, b"filling")
    try:
        filled = os.open("filled", _DIRECTORY, dir_fd=top)
    except FileNotFoundError:
        if _entries(data):
            return False
        if not _entries(source):
            copy_directory_metadata(source, data)
            return False
        os.mkdir("filling", 0o700, dir_fd=top)
        filled = os.open("filling", _DIRECTORY, dir_fd=top)
        try:
            copy_tree(source, filled, pause)
            syncfs(filled)
            os.rename("filling", "filled", src_dir_fd=top, dst_dir_fd=top)
            os.fsync(top)
        except BaseException:
            os.close(filled)
            remove_tree(top, b"filling")
            raise
    try:
        time = os.fstat(filled).st_mtime_ns
        for name in _entries(filled):
            with contextlib.suppress(FileExistsError):  # moved by who crashed, or written by a container since
                linux.rename_noreplace(name, name, source_fd=filled, target_fd=data)
        copy_directory_metadata(filled, data)
        os.utime(data, ns=(time, time))
        syncfs(data)
    finally:
        os.close(filled)
    remove_tree(top, b"filled")
    return True


def _entries(directory: int) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(directory)]


def open_subpath(paths: Paths, name: str, subpath: str) -> int:
    """A descriptor (O_PATH) of ``subpath`` in the volume ``name``, whatever a container puts in its way meanwhile.

    A symlink in it leads where it leads within the volume. Raises ``Invalid`` if it leads out of it, or is not
    there.
    """
    words = "it must lead to a directory or file within the volume"
    if not subpath or subpath.startswith("/") or "\0" in subpath:
        raise Invalid("volume subpath", subpath, "it is a relative path within the volume")
    directory = os.open(data_of(paths, name), os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return openat2(os.fsencode(subpath), os.O_PATH, resolve=_WITHIN, dir_fd=directory)
    except OSError as error:
        match error.errno:
            case errno.EXDEV | errno.ELOOP:
                why = f"it leads out of volume {name}: {words}"
            case errno.ENOENT | errno.ENOTDIR:
                why = f"it does not exist in volume {name}: {words}"
            case _:
                why = f"it can't be opened in volume {name}: {os.strerror(error.errno or 0)}"
        raise Invalid("volume subpath", subpath, why) from error
    finally:
        os.close(directory)


def pin_subpath(paths: Paths, name: str, subpath: str, place: str) -> None:
    """Mount ``subpath`` of the volume ``name`` at ``place``, which is made: a path that nobody else can change.

    Raises ``Invalid`` as above, and ``OSError``.
    """
    pin(open_subpath(paths, name, subpath), place)


def pin(fd: int, place: str) -> None:
    """Mount what ``fd`` (O_PATH, closed here) is at ``place``, which is made, without what is mounted below it."""
    try:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            os.mkdir(place, 0o700)
        else:
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        tree = linux.open_tree(fd)
        try:
            linux.move_mount(tree, os.fsencode(place))
        finally:
            os.close(tree)
        linux.mount(b"none", os.fsencode(place), b"none", linux.MS_PRIVATE)
    finally:
        os.close(fd)


def measure_volume(paths: Paths, name: str) -> int:
    """What is in the volume ``name``, in bytes on disk, as ``du`` counts; 0 if its directory isn't there.

    -1, which is Docker's for "not known", if a container changes it faster than it can be walked.
    """
    try:
        fd = os.open(data_of(paths, name), _DIRECTORY)
    except FileNotFoundError:
        return 0
    try:
        for _ in range(_WALKS):
            with contextlib.suppress(HostError):
                return measure_tree(fd).disk_bytes
        return -1
    finally:
        os.close(fd)
