"""Backups: a store copied while its owner writes, to be made a store again elsewhere (``restoring``).

::

    DIR/                     0700
        log/data.mdb         the log and its views, of one instant
        layers/<hex>/        as in the store, unless it is a backup of the log only
        blobs/sha256/<hex>
        containers/<id>/     upper, output, exit
        volumes/<name>/      _data
        backup.json          what this is; written last

The log is copied first, in one read transaction, and then the files that it names. Layers and blobs never change;
a container's writable layer is copied while it may run, so its files are as they would be after a power cut. What
was removed in between is told. Without ``backup.json`` a backup was cut short, and is none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import attrs
import lmdb

from lading.events.container import LIVE
from lading.events.containerviews import VOLUMES
from lading.events.errors import BackupInvalid, HostError
from lading.events.moments import utc_time
from lading.events.reach import reach
from lading.events.views import ARCHIVES, CONTAINERS, LAYERS
from lading.storage.environment import open_log
from lading.storage.linux import sync_directory, syncfs
from lading.storage.log import Log
from lading.storage.outputfiles import copy_output
from lading.storage.recordlines import canonical
from lading.storage.store import locate, read_identity, read_log
from lading.storage.trees import remove_tree

__all__ = ["Manifest", "Told", "copy_log", "copy_tree", "make_backup", "read_manifest"]

_NAME = "lading-backup"
_VERSION = 1
_LONGEST = 64 << 20
_GONE = (": No such file or directory", "as it was replaced while being copied")
_OWN = ("upper", "exit")
"""What is copied of a container's directory, besides its output: overlayfs's own work directory is made anew."""

Told = Callable[[int, int], None]


@attrs.frozen
class Manifest:
    """What a backup says of itself.

    ``position`` and ``chain`` (hex): of the last record. ``time``: when it was begun, RFC 3339. ``files``: whether
    layers, blobs and containers' files are in it. ``log_bytes`` and ``log_sha256``: of ``log/data.mdb``.
    ``running``: the containers that ran then. ``missing``: those of which files were removed meanwhile.
    """

    store: str
    position: int
    chain: str
    time: str
    files: bool
    log_bytes: int
    log_sha256: str
    layers: int
    running: list[str]
    missing: list[str]

    @property
    def content(self) -> bytes:
        """The bytes of ``backup.json``."""
        return canonical({"format": _NAME, "version": _VERSION, **attrs.asdict(self)}) + b"\n"


def make_backup(
    root: Path, target: Path, now: int, *, files: bool = True, told: Told = lambda done, of: None
) -> Manifest:
    """Copy the store at ``root`` into the directory ``target``, which is new or empty. Its owner may be running.

    ``told`` hears how many of how many trees were copied. The copied log is verified at once. ``files`` needs
    root, for devices, owners and extended attributes. Raises ``HostError``, ``StoreCorrupt``; ``target`` is then
    as it was. A crash leaves a directory without ``backup.json``.
    """
    identity = read_identity(root)
    if files and os.geteuid() != 0:
        raise HostError("back up the files of", os.fspath(root), 1, "run it as root, or give --log-only")
    with _filling(target):
        copied = _copy_log(root, target)
        log = open_log(copied, readonly=True)
        try:
            verified = log.verify()
            running: list[str] = sorted(state.id for _, state in log.scan(CONTAINERS) if state.phase in LIVE)
            missing, layers = _copy_files(root, target, log, told) if files else ([], 0)
        finally:
            log.close()
        (copied / "lock.mdb").unlink(missing_ok=True)
        size, digest = _measure(copied / "data.mdb")
        chain, when = verified.chain.hex(), utc_time(now)
        last = verified.first + verified.records - 1
        manifest = Manifest(identity, last, chain, when, files, size, digest, layers, running, missing)
        _sync(target)
        _finish(target, manifest)
    return manifest


def copy_log(log: Log, directory: Path) -> None:
    """Copy the log as it is at this instant, without its free pages, to ``directory/data.mdb``."""
    try:
        log.db.copy(directory)
    except lmdb.Error as error:
        raise HostError(
            f"copy the log ({error}) to", os.fspath(directory), 0, "see whether its disk is full"
        ) from error


def copy_tree(source: Path, target: Path) -> list[str]:
    """``cp -a``: everything of ``source`` as ``target``, sharing blocks where the file system can.

    Gives what ``cp`` said of files that went away meanwhile; raises ``HostError`` for anything else it said.
    """
    command = ["cp", "-a", "--reflink=auto", "-T", "--", os.fspath(source), os.fspath(target)]
    environ = {"LC_ALL": "C", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environ, check=False)
    said = done.stderr.decode("utf-8", "replace").splitlines()
    if done.returncode != 0:
        for line in said or [f"cp ended with {done.returncode}"]:
            if not line.endswith(_GONE):
                raise HostError("copy", os.fspath(source), 0, line)
    return said


def read_manifest(directory: Path) -> Manifest:
    """What the backup in ``directory`` says of itself. ``BackupInvalid`` for one that is none, or not whole."""
    where = os.fspath(directory)
    try:
        fd = os.open(directory / "backup.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            content = file.read(_LONGEST)
    except FileNotFoundError:
        why = (
            "it has no backup.json: it was cut short, or is no backup" if directory.is_dir() else "it is not there"
        )
        raise BackupInvalid(where, why) from None
    except OSError as error:
        raise HostError("read", f"{where}/backup.json", error.errno or 0) from error
    try:
        return _parse(content)
    except (ValueError, TypeError, RecursionError) as error:
        raise BackupInvalid(where, f"its backup.json is none: {error}") from error


def _parse(content: bytes) -> Manifest:
    value = json.loads(content)
    if type(value) is not dict or value.pop("format", None) != _NAME:
        raise ValueError("it does not say that it is a backup's")
    version = value.pop("version", None)
    if type(version) is not int or version != _VERSION:
        raise ValueError(f"it has version {version!r:.20}; this release reads version {_VERSION}")
    manifest = Manifest(**value)
    texts: dict[str, tuple[object, str]] = {
        "store": (manifest.store, r"[0-9a-f]{32}"),
        "chain": (manifest.chain, r"[0-9a-f]{64}"),
        "log_sha256": (manifest.log_sha256, r"[0-9a-f]{64}"),
        "time": (manifest.time, r"[0-9T:.Z-]{30}"),
    }
    for name, (text, form) in texts.items():
        if type(text) is not str or re.fullmatch(form, text) is None:
            raise ValueError(f"its {name} is none")
    numbers = (manifest.position, manifest.log_bytes, manifest.layers)
    if any(type(number) is not int or number < 0 for number in numbers) or type(manifest.files) is not bool:
        raise ValueError("its numbers are none")
    lists = cast("tuple[Any, ...]", (manifest.running, manifest.missing))
    if any(type(each) is not list or any(type(name) is not str for name in each) for each in lists):
        raise ValueError("its lists are none")
    if manifest.content != content:
        raise ValueError("it was changed")
    return manifest


# -- copying --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _filling(target: Path) -> Iterator[None]:
    """``target`` as an empty directory; emptied again, or removed if it was not there, when the block fails."""
    made = not target.exists()
    try:
        target.mkdir(mode=0o700, exist_ok=True)
        if os.listdir(target):
            hint = "it has something in it: name a new directory, or an empty one"
            raise HostError("back up to", os.fspath(target), 0, hint)
        target.chmod(0o700)
    except OSError as error:
        raise HostError("back up to", os.fspath(target), error.errno or 0) from error
    try:
        yield
    except BaseException as error:
        _empty(target)
        if made:
            target.rmdir()
        if isinstance(error, OSError):
            raise HostError("back up to", os.fspath(target), error.errno or 0) from error
        raise


def _empty(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(descriptor):
            remove_tree(descriptor, os.fsencode(name))
    finally:
        os.close(descriptor)


def _copy_log(root: Path, target: Path) -> Path:
    (target / "log").mkdir(mode=0o700)
    log = read_log(root)
    try:
        copy_log(log, target / "log")
    finally:
        log.close()
    (target / "log" / "data.mdb").chmod(0o600)
    return target / "log"


def _copy_files(root: Path, target: Path, log: Log, told: Told) -> tuple[list[str], int]:
    """Copy what ``log`` names; the containers whose files were not all there any more, and the count of layers."""
    store, copy = locate(root.resolve()), locate(target)
    layers = [chain for chain, _ in log.scan(LAYERS)]
    splits = _splits(log)
    containers = [state for _, state in log.scan(CONTAINERS)]
    volumes = [name for name, _ in log.scan(VOLUMES)]
    total = len(layers) + len(containers) + len(volumes)
    for directory in (copy.layers, copy.splits, copy.blobs.parent, copy.blobs, copy.containers):
        directory.mkdir(mode=0o700)
    for digest in sorted(reach(log).blobs):
        name = digest.removeprefix("sha256:")
        if gone := copy_tree(store.blobs / name, copy.blobs / name):
            raise HostError("copy", os.fspath(store.blobs / name), 0, _removed(gone))
    for number, chain in enumerate(layers, 1):
        gone = copy_tree(store.layer(chain), copy.layer(chain))
        if chain in splits:
            gone += copy_tree(store.split(chain), copy.split(chain))
        if gone:
            raise HostError("copy", os.fspath(store.layer(chain)), 0, _removed(gone))
        told(number, total)
    missing: list[str] = []
    for number, state in enumerate(containers, len(layers) + 1):
        if state.run and not _copy_container(store.container(state.id), copy.container(state.id)):
            missing.append(state.id)
        told(number, total)
    if volumes:
        copy.volumes.mkdir(mode=0o700)
    for number, name in enumerate(volumes, total - len(volumes) + 1):
        copy.volume(name).mkdir(mode=0o701)
        if not (store.volume(name) / "_data").is_dir():
            raise HostError("copy", os.fspath(store.volume(name)), 0, "it was removed meanwhile; back up again")
        copy_tree(store.volume(name) / "_data", copy.volume(name) / "_data")
        told(number, total)
    return missing, len(layers)


def _splits(log: Log) -> set[str]:
    """The layers that have a split."""
    return {chain for chain, archive in log.scan(ARCHIVES) if archive.form == "split"}


def _removed(gone: list[str]) -> str:
    return f"{gone[0]}: an image was removed meanwhile, it seems; back up again"


def _copy_container(source: Path, target: Path) -> bool:
    """Whether it was there, from the beginning of the copy to its end."""
    if not source.is_dir():
        return False
    target.mkdir(mode=0o700)
    for name in _OWN:
        if os.path.lexists(source / name):
            copy_tree(source / name, target / name)
    with contextlib.suppress(FileNotFoundError):
        copy_output(source, target)
    return source.is_dir()


def _measure(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(descriptor)
    finally:
        os.close(descriptor)


def _finish(target: Path, manifest: Manifest) -> None:
    new = target / "backup.json.new"
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(manifest.content)
        file.flush()
        os.fsync(file.fileno())
    new.rename(target / "backup.json")
    sync_directory(target)
