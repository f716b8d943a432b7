"""A store made of a backup (``backup``), of which nothing is believed.

The log is compared with its checksum, and then opened and verified in a process of its own: LMDB trusts its file,
and would end this process with it. Only what the verified log names is taken out of the backup, each thing under
the name that the log has, and nothing that would be a link where the engine expects a file or a directory.

Layers are compared by how many files they have, blobs by their digest. That a layer's or a container's files hold
what they held when they were copied is for whoever kept the backup to know.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from lading.events.container import ContainerState
from lading.events.containerviews import VOLUMES
from lading.events.errors import BackupInvalid, HostError, LadingError
from lading.events.foreign import check_foreign
from lading.events.reach import reach
from lading.events.views import ARCHIVES, CONTAINERS, LAYERS
from lading.storage.backup import Manifest, Told, copy_tree, read_manifest
from lading.storage.environment import open_log
from lading.storage.newstore import making_store
from lading.storage.output import whole_end
from lading.storage.outputfiles import is_output_name
from lading.storage.trees import measure

__all__ = ["restore_backup"]

_CHUNK = 1 << 20
_KINDS: dict[str, Callable[[int], bool]] = {"upper": stat.S_ISDIR, "exit": stat.S_ISREG}
_PAGE = 1000


@attrs.frozen
class _Named:
    """What the verified log says: its last position and chain, and whatever of its store is in files."""

    records: int
    chain: str
    layers: list[tuple[str, int]]
    splits: list[str]
    blobs: list[str]
    containers: list[str]
    volumes: list[str]


def restore_backup(directory: Path, root: Path, told: Told = lambda done, of: None) -> Manifest:
    """Make the store at ``root`` (see ``making_store``) of the backup in ``directory``.

    ``told`` as in ``make_backup``. Raises ``BackupInvalid``, ``HostError``, and what ``making_store`` raises. An
    error, or a crash, leaves no store.
    """
    manifest = read_manifest(directory)
    if manifest.files and os.geteuid() != 0:
        raise HostError("restore the files of", os.fspath(directory), 1, "run it as root")
    with making_store(root) as making:
        (making.work / "log").mkdir(mode=0o700)
        _take_log(directory, manifest, making.work / "log")
        named = _verified(directory, manifest, making.work / "log")
        if manifest.files:
            _take_files(directory, named, making.work, told)
        making.publish(manifest.store)
    return manifest


def _take_log(directory: Path, manifest: Manifest, log: Path) -> None:
    source = directory / "log" / "data.mdb"
    size, digest = _copy_file(directory, source, log / "data.mdb")
    if (size, digest) != (manifest.log_bytes, manifest.log_sha256):
        raise BackupInvalid(
            os.fspath(directory), f"log/data.mdb is not what was copied: {size} bytes, sha256 {digest}"
        )


def _verified(directory: Path, manifest: Manifest, log: Path) -> _Named:
    """What the log in ``log`` names, once all of it is verified."""
    command = [sys.executable, "-P", "-m", "lading.storage.restoring", os.fspath(log), manifest.store]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    (log / "lock.mdb").unlink(missing_ok=True)
    where = os.fspath(directory)
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise BackupInvalid(where, f"its log is damaged: reading it ended with {name}")
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"it ended with {done.returncode}"]
        raise BackupInvalid(where, f"its log is wrong: {said[-1]}")
    named = _Named(**json.loads(done.stdout))
    if (named.records, named.chain) != (manifest.position, manifest.chain):
        raise BackupInvalid(
            where, f"its log ends at position {named.records} with another chain than backup.json says"
        )
    return named


def _take_files(directory: Path, named: _Named, work: Path, told: Told) -> None:
    where = os.fspath(directory)
    more = ("volumes",) if named.volumes else ()
    for path in ("layers", *(("splits",) if named.splits else ()), "blobs", "blobs/sha256", "containers", *more):
        if not _is(directory / path, stat.S_ISDIR):
            raise BackupInvalid(where, f"{path} is missing, or no directory")
        (work / path).mkdir(mode=0o700)
    for digest in named.blobs:
        blob = f"blobs/sha256/{digest.removeprefix('sha256:')}"
        if _copy_file(directory, directory / blob, work / blob)[1] != digest.removeprefix("sha256:"):
            raise BackupInvalid(where, f"{blob} is not what its name says")
    total = len(named.layers) + len(named.containers) + len(named.volumes)
    for number, (chain, inodes) in enumerate(named.layers, 1):
        layer = f"layers/{chain.removeprefix('sha256:')}"
        _take_tree(directory, layer, work, stat.S_ISDIR)
        if inodes and (found := measure(work / layer).inodes) != inodes:  # else nobody counted them
            raise BackupInvalid(where, f"{layer} has {found} files and had {inodes}")
        told(number, total)
    for chain in named.splits:
        _take_tree(directory, f"splits/{chain.removeprefix('sha256:')}", work, stat.S_ISDIR)
    for number, container in enumerate(named.containers, len(named.layers) + 1):
        own = f"containers/{container}"
        if _is(directory / own, stat.S_ISDIR):
            (work / own).mkdir(mode=0o700)
            for name, kind in _KINDS.items():
                if os.path.lexists(directory / own / name):
                    _take_tree(directory, f"{own}/{name}", work, kind)
            for name in filter(is_output_name, os.listdir(directory / own)):
                _take_tree(directory, f"{own}/{name}", work, stat.S_ISREG)
                _trim_output(work / own / name)
        told(number, total)
    for number, name in enumerate(named.volumes, total - len(named.volumes) + 1):
        (work / "volumes" / name).mkdir(mode=0o701)
        _take_tree(directory, f"volumes/{name}/_data", work, stat.S_ISDIR)
        told(number, total)


def _take_tree(directory: Path, path: str, work: Path, kind: Callable[[int], bool]) -> None:
    if not _is(directory / path, kind):
        raise BackupInvalid(os.fspath(directory), f"{path} is missing, or something else than it was")
    if gone := copy_tree(directory / path, work / path):
        raise BackupInvalid(os.fspath(directory), f"{path} was changed while it was copied: {gone[0]}")
    if not _is(work / path, kind):
        raise BackupInvalid(os.fspath(directory), f"{path} was changed while it was copied")


def _trim_output(path: Path) -> None:
    """Cut off a chunk that was being written when it was copied."""
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, whole_end(fd)[0])
    finally:
        os.close(fd)


def _is(path: Path, kind: Callable[[int], bool]) -> bool:
    try:
        return kind(os.lstat(path).st_mode)
    except OSError:
        return False


def _copy_file(directory: Path, source: Path, target: Path) -> tuple[int, str]:
    """Copy a regular file; its size and sha256."""
    try:
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        why = f"{source.relative_to(directory)} can't be read: {os.strerror(error.errno or 0)}"
        raise BackupInvalid(os.fspath(directory), why) from error
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BackupInvalid(os.fspath(directory), f"{source.relative_to(directory)} is no file")
        digest, size = hashlib.sha256(), 0
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as out:
            while data := file.read(_CHUNK):
                digest.update(data)
                size += len(data)
                out.write(data)
    return size, digest.hexdigest()


# -- the process that reads the log ---------------------------------------------------------------------


def _name_everything(path: Path, store: str) -> dict[str, Any]:
    log = open_log(path)
    try:
        verified = log.verify()
        after = 0
        while page := log.read(after, _PAGE):
            for record in page:
                check_foreign(record, store)
            after = page[-1].position
        states: list[tuple[str, ContainerState]] = log.scan(CONTAINERS)
        return {
            "records": verified.first + verified.records - 1,
            "chain": verified.chain.hex(),
            "layers": [(chain, state.inodes) for chain, state in log.scan(LAYERS)],
            "splits": [chain for chain, archive in log.scan(ARCHIVES) if archive.form == "split"],
            "blobs": sorted(reach(log).blobs),
            "containers": [container for container, _ in states],
            "volumes": [name for name, _ in log.scan(VOLUMES)],
        }
    finally:
        log.close()


def _say_everything(root: str, name: str) -> None:
    try:
        print(json.dumps(_name_everything(Path(root), name)))
    except LadingError as error:
        sys.exit(" ".join(str(error).split()))


if __name__ == "__main__":
    _say_everything(sys.argv[1], sys.argv[2])
