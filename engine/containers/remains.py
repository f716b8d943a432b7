"""Ending what is left of a run that no keeper has any more."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Collection
from functools import partial

import trio

from lading.engine.containers.freezer import is_frozen, thaw
from lading.engine.containers.observe import belongs
from lading.engine.oci.runtime import Runtime, cgroup_of
from lading.events.spec import ProcessId
from lading.storage.cgroups import processes_in, remove_cgroup
from lading.storage.procfs import processes_naming, send_signal
from lading.storage.store import Paths

__all__ = ["end_remains"]

_PATIENCE = 5.0


async def end_remains(paths: Paths, runtime: Runtime, container: str, process: ProcessId | None) -> None:
    """Kill the container's process, its runtime process and whatever is in its cgroup; forget its state.

    Returns when they are gone, or after some seconds in which the kernel would not end them. Idempotent.
    """
    if process is not None and not belongs(paths, container, process):
        process = None
    if process is not None:
        send_signal(process, signal.SIGKILL)
    if is_frozen(paths, container):
        thaw(paths, container)
    bundle = os.fspath(paths.bundle(container))
    with trio.move_on_after(_PATIENCE):
        # The runtime's own process cleans up and leaves once its container has died.
        if process is not None:
            with trio.move_on_after(1):
                await _poll(processes_naming, bundle)
        await trio.to_thread.run_sync(partial(_force, paths, runtime, container, bundle))
        cgroup = f"{cgroup_of(paths)}/{container}"
        await _poll(processes_in, cgroup)
        remove_cgroup(cgroup)


def _force(paths: Paths, runtime: Runtime, container: str, bundle: str) -> None:
    for pid in processes_naming(bundle):
        _kill(pid)
    subprocess.run(
        runtime.delete(container), stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
    )
    for pid in processes_in(f"{cgroup_of(paths)}/{container}"):
        _kill(pid)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def _poll(find: Callable[[str], Collection[int]], what: str) -> None:
    """Return when ``find`` finds no process any more: they are no children of ours, so nobody tells."""
    while await trio.to_thread.run_sync(find, what):  # noqa: ASYNC110
        await trio.sleep(0.01)
