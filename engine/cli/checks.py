"""What ``lading doctor`` looks at. Each check answers for itself and none is kept from running by another.

Everything that is tried is tried aside: in a temporary directory beside the root, with a run directory and a
cgroup of its own, all of it taken away again. The store is only read, and its lock is never touched: to take
it, even for a moment, could make an engine fail that opens the store just then.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import trio

from lading.engine.cli.client import Place, answers, message_of
from lading.engine.oci.config import Host
from lading.engine.oci.runtime import cgroup_of, find_runtime
from lading.events.container import LIVE
from lading.events.errors import HostError, LadingError
from lading.events.views import CONTAINERS
from lading.storage import linux
from lading.storage.cgroups import cgroup_mode, cgroup_mounts, remove_cgroup
from lading.storage.overlay import mount_overlay, unmount
from lading.storage.store import Paths, locate, read_log

__all__ = ["Check", "State", "examine"]

_RUNTIMES = ("crun", "runc")
_AS_ROOT = "run it as root: sudo lading doctor"
_SECCOMP = Path("/proc/sys/kernel/seccomp/actions_avail")


class State(enum.StrEnum):
    """How a check ended. ``NOTE`` is worth knowing and keeps nothing from working."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


@attrs.frozen
class Check:
    """One thing that was looked at: what was found, and, in one line, what to do about it if anything."""

    name: str
    state: State
    found: str
    todo: str = ""


def examine(place: Place) -> list[Check]:
    """Every check, in the order in which to repair things."""
    checks: list[Check] = []
    single: tuple[tuple[str, Callable[[], Check]], ...] = (
        ("user", _user),
        ("kernel", _kernel),
        ("root", lambda: _root(place)),
        ("overlayfs", lambda: _overlay(place)),
        ("mount API", _mount_api),
        ("cgroups", _cgroups),
    )
    later: tuple[tuple[str, Callable[[], Check]], ...] = (
        ("seccomp", _seccomp),
        ("store", lambda: _store(place)),
        ("socket", lambda: _socket(place)),
        ("keeper", lambda: _keeper(place)),
    )
    checks.extend(_guarded(name, look) for name, look in single)
    checks.extend(_runtimes(place))
    checks.extend(_guarded(name, look) for name, look in later)
    return checks


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except PermissionError as error:
        return Check(
            name, State.WRONG, message_of(error), _AS_ROOT if os.geteuid() else "see what denies it to root"
        )
    except (LadingError, OSError, ValueError) as error:
        return Check(name, State.WRONG, message_of(error), getattr(error, "hint", "") or "see the message")


# -- the machine ----------------------------------------------------------------------------------------


def _user() -> Check:
    if os.geteuid() != 0:
        return Check("user", State.WRONG, f"user {os.geteuid()}", "mounts and namespaces need root: use sudo")
    return Check("user", State.OK, "root")


def _kernel() -> Check:
    found = f"{platform.release()} {platform.machine()}"
    try:
        os.close(linux.openat2(b"/", os.O_PATH))
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        return Check("kernel", State.WRONG, f"{found}: no openat2", "use Linux 5.6 or later")
    return Check("kernel", State.OK, found)


def _root(place: Place) -> Check:
    root = Path(place.root)
    if not root.exists():
        if root.parent.is_dir():
            return Check("root", State.OK, f"{root} (not made yet)")
        return Check("root", State.WRONG, f"{root.parent} is missing", f"mkdir -p {root.parent}")
    if not root.is_dir():
        return Check("root", State.WRONG, f"{root} is not a directory", "choose another --root")
    status = os.statvfs(root)
    free = status.f_bavail * status.f_frsize
    found = f"{root}, {free / 1e9:.1f} GB and {status.f_favail} inodes free"
    if os.statvfs(root).f_flag & os.ST_RDONLY:
        return Check("root", State.WRONG, f"{root} is on a read-only file system", "remount it, or choose another")
    if free < 100_000_000 or (status.f_files and status.f_favail < 1000):
        return Check("root", State.WRONG, found, "make room: the log and the layers need it")
    return Check("root", State.OK, found)


def _beside(place: Place) -> Path:
    """The directory to try things in: on the root's own file system, and not in the store if that can be."""
    root = Path(place.root)
    if root.is_dir() and os.path.ismount(root):
        return root
    for parent in root.parents:
        if parent.is_dir():
            return parent
    raise AssertionError("there is always /")


@contextlib.contextmanager
def _aside(place: Place) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix=".lading-doctor-", dir=_beside(place)))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _overlay(place: Place) -> Check:
    with _aside(place) as directory:
        lower, upper, work, target = (directory / name for name in ("lower", "upper", "work", "merged"))
        for each in (lower, upper, work, target):
            each.mkdir()
        (lower / "below").write_text("below")
        mount_overlay(target, [lower], upper, work)
        try:
            (target / "below").write_text("above")
            (target / "new").write_text("new")
            copied = (lower / "below").read_text() == "below" and (upper / "below").read_text() == "above"
            if not copied or not (upper / "new").exists():
                raise HostError("write through an overlay in", os.fspath(directory), 0, "use ext4 or xfs")
        finally:
            unmount(target)
        return Check("overlayfs", State.OK, f"a mount in {directory.parent} works")


def _mount_api() -> Check:
    try:
        descriptor = linux.fsopen(b"overlay")
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        return Check("mount API", State.NOTE, "mount(2): layers share one page of options, as before Linux 5.2")
    try:
        # Whether it takes layers one by one (Linux 6.5) shows in how it answers to one.
        linux.fsconfig_set_string(descriptor, b"lowerdir+", b"/")
    except OSError:
        return Check("mount API", State.OK, "fsopen, layers in one option string")
    finally:
        os.close(descriptor)
    return Check("mount API", State.OK, "fsopen, layers one by one")


def _cgroups() -> Check:
    mode = cgroup_mode()
    controllers: set[str] = set()
    for mount in cgroup_mounts():
        listed = mount / "cgroup.controllers"
        if listed.exists():
            controllers.update(listed.read_text().split())
    with contextlib.suppress(OSError), open("/proc/cgroups", encoding="ascii") as file:
        for line in file:
            name, hierarchy, _, enabled = line.split()[:4] if not line.startswith("#") else ("", "0", "", "0")
            if hierarchy != "0" and enabled == "1":
                controllers.add(name)
    if mode == "none":
        todo = "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
        return Check("cgroups", State.WRONG, "no hierarchy is mounted", todo)
    return Check("cgroups", State.OK, f"{mode}: {', '.join(sorted(controllers)) or 'no controllers'}")


def _seccomp() -> Check:
    if not _SECCOMP.exists():
        return Check("seccomp", State.WRONG, "not in this kernel", "use a kernel with CONFIG_SECCOMP_FILTER")
    actions = _SECCOMP.read_text().split()
    if "errno" not in actions:
        todo = "use a kernel with CONFIG_SECCOMP_FILTER"
        return Check("seccomp", State.WRONG, f"without filters: {' '.join(actions)}", todo)
    return Check("seccomp", State.OK, "filters work")


def _runtimes(place: Place) -> list[Check]:
    """Each runtime, with the reason if it is refused; none at all is wrong, one is enough."""
    checks: list[Check] = []
    try:
        with _aside(place) as directory:
            paths = locate(directory)
            try:
                (paths.run / "bundles").mkdir(mode=0o700, parents=True)
                checks.extend(_runtime(name, paths) for name in _RUNTIMES)
            finally:
                shutil.rmtree(paths.run, ignore_errors=True)
                remove_cgroup(cgroup_of(paths))
    except (LadingError, OSError) as error:
        todo = _AS_ROOT if os.geteuid() else "see the message"
        return [Check(name, State.WRONG, message_of(error), todo) for name in _RUNTIMES]
    if any(check.state is State.OK for check in checks):
        return checks
    todo = "install a runtime that works here: apt-get install crun runc"
    return [attrs.evolve(check, state=State.WRONG, todo=todo) for check in checks]


def _runtime(name: str, paths: Paths) -> Check:
    try:
        runtime = find_runtime(paths, Host.probe(), name)
    except (LadingError, OSError) as error:
        why = error.path if isinstance(error, HostError) else message_of(error)
        return Check(name, State.NOTE, f"refused: {why.removeprefix(f'{name}: ')}")
    return Check(name, State.OK, f"{runtime.version} at {runtime.path}")


# -- the store ------------------------------------------------------------------------------------------


def _store(place: Place) -> Check:
    root = Path(place.root)
    if not (root / "store.json").exists():
        return Check("store", State.OK, "none yet: the first engine makes it")
    log = read_log(root)
    try:
        records = log.head()
    finally:
        log.close()
    form = json.loads((root / "store.json").read_bytes())["format"]
    owner = _holder(root / "lock")
    who = f"owned by process {owner}" if owner else "owned by nobody now"
    return Check("store", State.OK, f"format {form}, {records} records, {who}")


def _holder(lock: Path) -> int:
    """The process that holds an flock on ``lock``, as /proc/locks tells it (proc(5)); 0 for none."""
    try:
        status = lock.stat()
        written = lock.read_text("ascii", "replace").strip()
    except FileNotFoundError:
        return 0
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    with open("/proc/locks", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if words[1] != "FLOCK":
                continue
            where, _, inode = words[5].rpartition(":")
            # Some file systems (btrfs, overlay) show stat(2) another device: the holder's own word serves too.
            if inode == str(status.st_ino) and (where == device or words[4] == written):
                return int(words[4])
    return 0


def _socket(place: Place) -> Check:
    if trio.run(answers, place.socket):
        return Check("socket", State.OK, f"{place.socket} answers")
    if os.path.exists(place.socket):
        return Check("socket", State.NOTE, f"{place.socket} is dead: the next engine replaces it")
    return Check("socket", State.OK, f"{place.socket} is not there: a command starts an engine when it needs one")


def _keeper(place: Place) -> Check:
    root = Path(place.root)
    if not root.is_dir():
        return Check("keeper", State.OK, "none: there is no store")
    keeper = _holder(locate(root.resolve()).run / "keeper.lock")
    running = 0
    if (root / "store.json").exists():
        log = read_log(root)
        try:
            running = sum(state.phase in LIVE for _, state in log.scan(CONTAINERS))
        finally:
            log.close()
    if keeper:
        return Check("keeper", State.OK, f"process {keeper}, {running} containers run")
    if running:
        todo = "see keeper.err in the root for why it ended; the next engine finds out what became of them"
        return Check("keeper", State.NOTE, f"none, though the log has {running} running containers", todo)
    return Check("keeper", State.OK, "none: nothing runs")
