"""Whether the log and the host agree: what the one says and the other hasn't.

Looked at from outside, with or without an engine, and nothing is changed. While an engine runs, containers
start and end between two looks: only what differs twice, with the same state in the log, is a difference.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import attrs

from lading.engine.containers.observe import belongs
from lading.engine.oci.runtime import cgroup_of
from lading.events.container import ContainerState, Phase
from lading.events.containerviews import VOLUMES
from lading.events.reach import reach
from lading.events.views import ARCHIVES, CONTAINERS, IMAGES, LAYERS
from lading.storage.cgroups import cgroup_mounts, processes_in
from lading.storage.log import Log
from lading.storage.overlay import mounts_below
from lading.storage.procfs import is_alive
from lading.storage.store import Paths

__all__ = ["Difference", "differences_from_host"]

_PAUSE = 0.5
_MAKING = frozenset({Phase.STARTING, Phase.REMOVING})
"""Phases in which a container's directory, mount and process come or go."""


Kind = Literal["process", "mount", "directory", "layer", "split", "blob", "image", "volume"]


@attrs.frozen
class Difference:
    """Something that the log and the host tell differently. ``todo``: what brings them to agree."""

    kind: Kind
    what: str
    why: str
    todo: str


def differences_from_host(paths: Paths, log: Log) -> list[Difference]:
    """Every difference between ``log`` and the host, in the order of their kinds. Blocks for a moment if any is
    found.

    Raises ``OSError`` if /proc, /sys or the store can't be read: run it as root.
    """
    first = _look(paths, log)
    if not first:
        return []
    time.sleep(_PAUSE)
    second = _look(paths, log)
    return [difference for difference in second if difference in first]


def _look(paths: Paths, log: Log) -> list[Difference]:
    states = dict(log.scan(CONTAINERS))
    found = [
        *_processes(paths, states),
        *_mounts(paths, states),
        *_directories(paths, states),
        *_layers(paths, log),
        *_blobs(paths, log),
        *_volumes(paths, log),
    ]
    after = dict(log.scan(CONTAINERS))
    changed = {key for key in states.keys() | after.keys() if states.get(key) != after.get(key)}
    return [difference for difference in found if difference.what not in changed]


def _processes(paths: Paths, states: dict[str, ContainerState]) -> Iterator[Difference]:
    top = cgroup_of(paths)
    for key, state in states.items():
        if state.process is not None and not _runs(paths, state):
            yield Difference(
                "process",
                key,
                f"the log has it {state.phase} as process {state.process.pid}, which is gone",
                "open the store: the engine records how it ended",
            )
    for key in sorted({name.name for mount in cgroup_mounts() for name in _entries(mount / top.lstrip("/"))}):
        known = states.get(key)
        if known is not None and (known.process is not None or known.phase in _MAKING):
            continue
        pids = processes_in(f"{top}/{key}")
        if pids:
            shown = ", ".join(map(str, sorted(pids)[:5]))
            where = "doesn't know it" if known is None else f"has it {known.phase}"
            yield Difference("process", key, f"processes {shown} run, and the log {where}", "open the store")


def _runs(paths: Paths, state: ContainerState) -> bool:
    """Whether its process is alive, and this store's: a copy of a log names the processes of the original."""
    return state.process is not None and is_alive(state.process) and belongs(paths, state.id, state.process)


def _mounts(paths: Paths, states: dict[str, ContainerState]) -> Iterator[Difference]:
    bundles = paths.run / "bundles"
    mounted = {mount.relative_to(bundles).parts[0] for mount in mounts_below(bundles)}
    for key, state in states.items():
        if _runs(paths, state) and key not in mounted:
            yield Difference("mount", key, "it runs, and its root is not mounted", "stop it and start it again")
    for key in sorted(mounted):
        known = states.get(key)
        if key.startswith(("export-", "copy-")):  # a container that is being read, or copied into
            continue
        if known is None or (known.process is None and known.phase not in _MAKING):
            where = "doesn't know it" if known is None else f"has it {known.phase}"
            yield Difference("mount", key, f"its root is mounted, and the log {where}", "open the store")


def _directories(paths: Paths, states: dict[str, ContainerState]) -> Iterator[Difference]:
    there = {entry.name for entry in _entries(paths.containers)}
    for key, state in states.items():
        if state.started_at and key not in there and state.phase not in _MAKING:
            todo = "restore it from a backup, or remove the container"
            yield Difference("directory", key, "it ran, and its writable layer is missing", todo)
    for key in sorted(there - states.keys()):
        yield Difference("directory", key, "it has a directory, and the log doesn't know it", "open the store")


def _layers(paths: Paths, log: Log) -> Iterator[Difference]:
    known = {paths.layer(chain).name for chain, _ in log.scan(LAYERS)}
    split = {paths.split(chain).name for chain, archive in log.scan(ARCHIVES) if archive.form == "split"}
    places: tuple[tuple[Kind, Path, set[str]], ...] = (
        ("layer", paths.layers, known),
        ("split", paths.splits, split),
    )
    for what, directory, wanted in places:
        there = {entry.name for entry in _entries(directory)}
        for name in sorted(wanted - there):
            yield Difference(what, f"sha256:{name}", "its directory is missing", "restore it from a backup")
        for name in sorted(there - wanted):
            yield Difference(what, f"sha256:{name}", "it is there, and the log doesn't know it", "open the store")


def _blobs(paths: Paths, log: Log) -> Iterator[Difference]:
    for digest in sorted(reach(log).blobs):
        if not (paths.blobs / digest.removeprefix("sha256:")).exists():
            yield Difference("blob", digest, "it is missing", "restore it from a backup")
    layers = {chain for chain, _ in log.scan(LAYERS)}
    for image, state in log.scan(IMAGES):
        for chain in state.layers:
            if chain not in layers:
                yield Difference("image", image, f"its layer {chain} is in no record", "pull or load it again")


def _volumes(paths: Paths, log: Log) -> Iterator[Difference]:
    there = {entry.name for entry in _entries(paths.volumes)}
    known = dict(log.scan(VOLUMES))
    for name in sorted(known.keys() - there):
        if not known[name].removing:
            yield Difference("volume", name, "its directory is missing", "restore it from a backup, or remove it")
    for name in sorted(there - known.keys()):
        yield Difference("volume", name, "it has a directory, and the log doesn't know it", "open the store")


def _entries(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
