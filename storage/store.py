"""The store: one directory that holds everything, owned by one process at a time.

::

    ROOT/                     0700
        lock                  held (flock) by the owner, whose pid it contains
        store.json            the store's identity and format; written once, after the log exists
        log/                  LMDB: data.mdb, lock.mdb
        blobs/sha256/<hex>    contents by digest
        layers/<hex>/         unpacked read-only layers by chain id
        splits/<hex>/         what makes such a layer's archive again (storage/split)
        containers/<id>/      upper, work: the writable layer; output, output.1 ...; exit: how it ended
        volumes/<name>/       _data: what containers mount; filling, filled: what an image brings (storage/volumes)
        archive/              the records that were compacted away, a file for each segment (storage/compact)
        skeleton/             the lowest layer of every container: what runtimes mount over
        staging/<random>/     what is being made; nothing here is in the log
        trash/<random>/       what is being deleted; nothing here is in the log any more
    RUN/                      /run/lading/<hash of the root's device and inode>, a tmpfs (storage/rundir):
        keeper.sock           the keeper's socket
        bundles/<id>/         config.json, private files, and the root's mount point, for one run
        exits/<id>            exit records while an engine is there to take them
        execs/<id>            what the runtime reads and writes of an exec; exits/<id> is its exit record, too
        pids/<id>             pid files
        volumes/<name>        a volume that is a tmpfs, while a container with it runs

Files come first, then the event that names them; removal is intent, rename into trash, outcome, delete. So
whatever is here and not in the log is an orphan of a crash, and ``sweep`` deletes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from pathlib import Path

import attrs

from lading.events.errors import HostError, InUse, StoreCorrupt, StoreNewer
from lading.storage.environment import FORMAT, open_log
from lading.storage.linux import sync_directory
from lading.storage.log import Log
from lading.storage.skeleton import make_skeleton
from lading.storage.walk import Progress

__all__ = ["Paths", "Store", "locate", "open_store", "own_root", "read_identity", "read_log", "write_identity"]

_RUN = Path("/run/lading")


@attrs.frozen
class Paths:
    """Where everything of one store is."""

    root: Path
    run: Path

    @property
    def log(self) -> Path:
        """The LMDB environment."""
        return self.root / "log"

    @property
    def blobs(self) -> Path:
        """Blobs by sha256."""
        return self.root / "blobs" / "sha256"

    @property
    def layers(self) -> Path:
        """Unpacked layers."""
        return self.root / "layers"

    @property
    def splits(self) -> Path:
        """What makes the archives of layers again that came uncompressed."""
        return self.root / "splits"

    @property
    def containers(self) -> Path:
        """The containers' directories."""
        return self.root / "containers"

    @property
    def volumes(self) -> Path:
        """The volumes' directories."""
        return self.root / "volumes"

    @property
    def staging(self) -> Path:
        """What is being made."""
        return self.root / "staging"

    @property
    def trash(self) -> Path:
        """What is being deleted."""
        return self.root / "trash"

    @property
    def archive(self) -> Path:
        """The segments of the log that were compacted away."""
        return self.root / "archive"

    @property
    def skeleton(self) -> Path:
        """The lowest layer of every container."""
        return self.root / "skeleton"

    @property
    def keeper_socket(self) -> Path:
        """Where the keeper listens."""
        return self.run / "keeper.sock"

    def layer(self, chain: str) -> Path:
        """The directory of the layer ``chain``."""
        return self.layers / chain.removeprefix("sha256:")

    def split(self, chain: str) -> Path:
        """The directory of the split of the layer ``chain``; there is none if its archive came compressed."""
        return self.splits / chain.removeprefix("sha256:")

    def container(self, container: str) -> Path:
        """The directory of ``container`` that outlives a reboot."""
        return self.containers / container

    def volume(self, name: str) -> Path:
        """The directory of the volume ``name``, which was checked; what containers mount is ``_data`` in it."""
        return self.volumes / name

    def bundle(self, container: str) -> Path:
        """The directory of ``container`` that lives as long as one run: bundle, mount point, private files."""
        return self.run / "bundles" / container

    def discard(self, path: Path) -> None:
        """Rename ``path`` into the trash, where it is invisible at once and deleted later; fine if absent."""
        with contextlib.suppress(FileNotFoundError):
            path.rename(self.trash / secrets.token_hex(8))


class Store:
    """An open store, owned by this process until ``close``."""

    def __init__(self, paths: Paths, log: Log, identity: str, lock: int, created: bool) -> None:
        self.paths = paths
        self.log = log
        self.identity = identity
        self.created = created
        self._lock = lock

    def close(self) -> None:
        """Close the log and give the store up. Idempotent."""
        if self._lock >= 0:
            self.log.close()
            os.close(self._lock)
            self._lock = -1


def locate(root: Path) -> Paths:
    """The paths of the store at ``root``, which must exist.

    The run directory is named by the root directory's device and inode, so that a copied store gets
    another one, and a renamed one keeps its own.
    """
    status = root.stat()
    name = hashlib.sha256(f"{status.st_dev}:{status.st_ino}".encode()).hexdigest()[:16]
    return Paths(root, _RUN / name)


def open_store(root: Path, progress: Progress | None = None) -> Store:
    """Own the store at ``root``, which is made if it isn't there (its parent must be).

    Raises ``InUse`` if another process owns it, ``StoreNewer``, ``StoreCorrupt``, ``HostError``. A crash at any
    point leaves a directory that opens: the identity file comes last, and without it there is no log.
    ``progress`` is called while the views are made again for this release.
    """
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        root = root.resolve(strict=True)
        root.chmod(0o700)
        lock = own_root(root)
    except OSError as error:
        raise HostError("open the store at", os.fspath(root), error.errno or 0, "choose another root") from error
    try:
        return _open_owned(root, lock, progress)
    except BaseException:
        os.close(lock)
        raise


def read_log(root: Path) -> Log:
    """The log of the store at ``root``, to read only; its owner may be running. ``HostError`` if there is none."""
    if not (root / "store.json").exists():
        raise HostError("read the log of", os.fspath(root), 2, "no store is there; name one with --root")
    return _its_own(root, _identity(root / "store.json"), open_log(root / "log", readonly=True))


def _its_own(root: Path, identity: str, log: Log) -> Log:
    if log.store != identity:
        log.close()
        raise StoreCorrupt(0, f"the log in {root} is not this store's: restore log and store.json from one backup")
    return log


def read_identity(root: Path) -> str:
    """The identity of the store at ``root``. ``HostError`` if there is none, ``StoreCorrupt``, ``StoreNewer``."""
    marker = root / "store.json"
    if not marker.exists():
        raise HostError("find a store at", os.fspath(root), 2, "no store is there; name one with --root")
    return _identity(marker)


def own_root(root: Path) -> int:
    """The descriptor that holds the lock of the store at ``root``. Raises ``InUse`` if another process has it."""
    lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise InUse(
            "store", os.fspath(root), (f"process {owner}",), "talk to it over its socket, or stop it first"
        ) from None
    # Whoever fails to make a store takes its lock file away again: a lock on a file without a name is none.
    if os.fstat(lock).st_nlink == 0:
        os.close(lock)
        return own_root(root)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _open_owned(root: Path, lock: int, progress: Progress | None) -> Store:
    paths = locate(root)
    try:
        for directory in (
            paths.log,
            paths.blobs,
            paths.layers,
            paths.splits,
            paths.containers,
            paths.volumes,
            paths.staging,
            paths.trash,
        ):
            directory.parent.mkdir(mode=0o700, exist_ok=True)
            directory.mkdir(mode=0o700, exist_ok=True)
        make_skeleton(paths.skeleton)
    except OSError as error:
        raise HostError("make the store's directories in", os.fspath(root), error.errno or 0) from error
    marker = root / "store.json"
    if marker.exists():
        identity = _identity(marker)
        if not (paths.log / "data.mdb").exists() or (paths.log / "data.mdb").stat().st_size == 0:
            raise StoreCorrupt(0, f"the store at {root} has lost its log; restore log/data.mdb from a backup")
        return Store(
            paths, _its_own(root, identity, open_log(paths.log, progress=progress)), identity, lock, created=False
        )
    # Without an identity no record was ever acknowledged: start over.
    for left in ("data.mdb", "lock.mdb"):
        (paths.log / left).unlink(missing_ok=True)
    identity = secrets.token_hex(16)
    return Store(paths, open_log(paths.log, identity), identity, lock, created=True)


def seal_identity(store: Store) -> None:
    """Write the store's identity, durably. Call once the first record is in the log of a created store."""
    write_identity(store.paths.root, store.identity)


def write_identity(root: Path, identity: str) -> None:
    """Give the store at ``root`` its ``identity``, durably: from now on a store is there. Call last."""
    new = root / "store.json.new"
    with new.open("w") as file:
        json.dump({"store": identity, "format": FORMAT}, file)
        file.flush()
        os.fsync(file.fileno())
    new.rename(root / "store.json")
    sync_directory(root)


def _identity(marker: Path) -> str:
    try:
        content = json.loads(marker.read_bytes())
        identity, form = content["store"], content["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreCorrupt(0, f"{marker} can't be read: {error}") from error
    if type(form) is not int or type(identity) is not str:
        raise StoreCorrupt(0, f"{marker} has neither a store nor a format")
    if form > FORMAT:
        raise StoreNewer(os.fspath(marker.parent), f"format {form}", "")
    return identity
