"""What is found on the host for one container: the facts that ``events.recovery`` decides on."""

from __future__ import annotations

import contextlib
import json

from lading.engine.keeper.link import KeptRun
from lading.engine.oci.runtime import cgroup_of
from lading.events.container import ContainerState
from lading.events.recovery import ExitSeen, Seen
from lading.events.spec import ProcessId
from lading.storage.cgroups import in_cgroup
from lading.storage.procfs import boot_id, is_alive
from lading.storage.store import Paths

__all__ = ["belongs", "drop_exit_record", "observe"]


def observe(paths: Paths, state: ContainerState, kept: KeptRun | None) -> Seen:
    """What the keeper (``kept``, if it has the container), its exit record on disk and /proc say."""
    process = None
    if kept is not None and kept.pid:
        process = ProcessId(boot_id(), kept.pid, kept.ticks)
    has_it = kept is not None and kept.run == state.run
    exit_seen = None
    if kept is not None and kept.ended.is_set() and kept.code is not None and process is not None:
        exit_seen = ExitSeen(kept.run, kept.code, kept.at, process, kept.oom)
    elif not has_it:
        exit_seen = _exit_record(paths, state.id)
    # else the keeper is about to tell, and a record that it has written just now is its supervisor's to hear of
    return Seen(
        boot=boot_id(),
        kept_run=0 if kept is None else kept.run,
        kept=process,
        exit=exit_seen,
        # A copy of a store, restored beside it, names the processes of the one that it was copied from.
        alive=state.process is not None and is_alive(state.process) and belongs(paths, state.id, state.process),
    )


def _exit_record(paths: Paths, container: str) -> ExitSeen | None:
    """The keeper's exit record, if there is a whole one: on disk, or its note in memory."""
    for path in (paths.container(container) / "exit", paths.run / "exits" / container):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(path.read_bytes())
            process = ProcessId(record["boot"], record["pid"], record["ticks"])
            return ExitSeen(record["run"], record["code"], record["at"], process, record.get("oom", False))
    return None


def belongs(paths: Paths, container: str, process: ProcessId) -> bool:
    """Whether ``process``, if it is alive, is in the cgroup of this store's ``container``.

    What is not was named by a log that was copied or made elsewhere, and is somebody else's.
    """
    return in_cgroup(process.pid, f"{cgroup_of(paths)}/{container}")


def drop_exit_record(paths: Paths, container: str) -> None:
    """Forget what ``observe`` read: it is in the log now."""
    for path in (paths.container(container) / "exit", paths.run / "exits" / container):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
