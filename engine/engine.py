"""The engine: one open store."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

import trio

from lading.engine.containers.containers import Containers
from lading.engine.core import Caller, Core, new_caller
from lading.engine.history.follow import History
from lading.engine.history.journal import Journal, open_journal
from lading.engine.history.retention import clear_compacted, compact
from lading.engine.images.images import Images
from lading.engine.images.prune import Chosen, PrunedAll, prune_containers
from lading.engine.images.trash import Trash
from lading.engine.images.unpacking import open_unpackers
from lading.engine.images.usage import DiskUsage, disk_usage
from lading.engine.keeper.link import open_link
from lading.engine.nursery import open_service_nursery
from lading.engine.oci.config import Host
from lading.engine.oci.runtime import cgroup_of
from lading.engine.queries import PastEngine, past_engine, resolve_moment
from lading.engine.recovery import recover_store
from lading.engine.registry import RegistrySettings
from lading.engine.release import release
from lading.engine.volumes.volumes import PrunedVolumes, Volumes
from lading.events.compaction import LogCompacted
from lading.events.container import LIVE
from lading.events.envelope import Actor, Proposed
from lading.events.errors import HostError, LadingError
from lading.events.store import ENGINE_STREAM, StoreCreated
from lading.events.views import CONTAINERS
from lading.storage.cgroups import remove_cgroup
from lading.storage.environment import FORMAT
from lading.storage.plan import DEFAULT_LIMITS, Limits
from lading.storage.rundir import mount_run, unmount_run
from lading.storage.store import Store, open_store, seal_identity

__all__ = ["Engine", "open_engine"]


_PATIENCE = 10.0


class Engine:
    """An open engine: ``images``, ``containers``, ``volumes``, the history in ``log``. From ``open_engine``."""

    def __init__(self, core: Core, store: Store) -> None:
        self.core = core
        self.store = store
        self.images: Images = Images(core)
        self.containers: Containers = Containers(core, self.images)
        self.volumes: Volumes = Volumes(core)
        self.log: History = History(core.journal)

    @property
    def root(self) -> Path:
        """The store's directory."""
        return self.store.paths.root

    async def at(self, when: int | str | datetime) -> PastEngine:
        """The queries of the engine as they were at ``when``: a position, an aware datetime, or words (``2h
        ago``).

        At an instant means after the last record whose time is at or before it, in log order, however the clock
        stepped. Costs by the distance from the nearest snapshot, not by the log's length, in a thread. Raises
        ``Invalid``, and ``NotInHistory`` for what is not in the log yet or was compacted away.
        """
        log = self.core.log
        position = resolve_moment(log, when, self.core.journal.clock())
        return await trio.to_thread.run_sync(past_engine, log, position)

    def disk_usage(self) -> DiskUsage:
        """What the images take on disk, each of them and all together; at once, from what was recorded."""
        return disk_usage(self.core.log, self.store.paths)

    async def prune(
        self,
        *,
        all: bool = False,  # Docker's word
        until: int | None = None,
        labels: Sequence[str] = (),
        not_labels: Sequence[str] = (),
        volumes: bool = False,
        dry_run: bool = False,
        actor: Actor | None = None,
        caller: Caller | None = None,
    ) -> PrunedAll:
        """Remove the containers that don't run, and then the images that nothing uses, as ``images.prune`` does.

        ``volumes``: and the volumes that nobody named and nothing uses; ``until`` is not about them.

        The choice holds for both. ``dry_run``: only tell what would go. A cancel leaves the rest as it is.
        """
        caller = caller or new_caller(actor=actor)
        chosen = Chosen(until, labels, not_labels)
        gone, freed = await prune_containers(self.containers, caller, chosen, dry_run=dry_run)
        left = PrunedVolumes([], 0)
        if volumes:
            left = await self.volumes.prune(
                labels=labels, not_labels=not_labels, dry_run=dry_run, gone=gone if dry_run else (), caller=caller
            )
        images = await self.images.prune(
            all=all,
            until=until,
            labels=labels,
            not_labels=not_labels,
            dry_run=dry_run,
            gone=gone if dry_run else (),
            caller=caller,
        )
        return PrunedAll(gone, images, freed + left.reclaimed + images.reclaimed, left.names)

    async def compact(
        self, before: int | str | datetime, *, actor: Actor | None = None, caller: Caller | None = None
    ) -> LogCompacted:
        """Move the history up to ``before`` (as in ``at``) into an archive segment, and go on with the rest.

        What the old records led to stays, and so does every query; ``at`` before that moment, and following
        from there, is refused from now on. The segment is in ``ROOT/archive``, from where it may be moved:
        ``lading verify`` and ``lading import-log`` read it. Where an append would be cut in two, a
        little less is moved. A cancel leaves the history whole, here or there. Raises ``Invalid``,
        ``NotInHistory``, ``StoreCorrupt`` and ``HostError``.
        """
        core = self.core
        last = resolve_moment(core.log, before, core.journal.clock())
        return await compact(core, self.store.identity, last, caller or new_caller(actor=actor))


@asynccontextmanager
async def open_engine(
    root: str | os.PathLike[str] = "/var/lib/lading",
    *,
    on_exit: Literal["leave", "stop"] = "leave",
    runtime: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    registries: RegistrySettings | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> AsyncIterator[Engine]:
    """Own the store at ``root`` (made if it isn't there) and run its containers.

    On entering, the log is brought to agree with the host: running containers are adopted, ended ones get their
    exit status, orphans are deleted. On leaving, however that comes, everything acknowledged is on disk and the
    containers go on (``on_exit="leave"``) or are stopped (``"stop"``; then they stop even if this process is
    killed). ``runtime``: crun or runc, where not the first that works is wanted. ``progress`` is called with
    the position reached and the last one while the views are made again, once for each release that makes them
    otherwise. ``registries``: how registries are spoken to; by default as ``/etc/lading/registries.toml`` says.
    ``limits``: how much one layer may ask for.

    Raises ``InUse`` when another process owns the store, ``StoreNewer``, ``StoreCorrupt``, and ``HostError`` with
    a hint when the host can't do it. A supervisor that can't write the log ends the block with ``StoreBroken``.
    """
    if os.geteuid() != 0:
        raise HostError("open the engine at", os.fspath(root), 1, "run it as root: mounts and namespaces need it")
    if on_exit not in ("leave", "stop"):
        raise ValueError(f"on_exit is 'leave' or 'stop', not {on_exit!r}")
    store = await trio.to_thread.run_sync(open_store, Path(root), _from_thread(progress))
    try:
        mount_run(store.paths.run)
        async with open_journal(store.log) as journal:
            if store.created:
                await _begin(store, journal)
            async with (
                open_link(store.paths, on_exit) as link,
                open_unpackers(within=store.paths.staging) as unpackers,
                open_service_nursery() as nursery,
            ):
                trash = Trash(store.paths)
                core = Core(store.paths, store.log, journal, link, trash, Host.probe(), nursery, unpackers)
                core.wanted_runtime, core.registries, core.limits = runtime, registries, limits
                engine = Engine(core, store)
                nursery.start_soon(trash.run)
                if store.log.first > 1:
                    nursery.start_soon(clear_compacted, core)
                await recover_store(core, engine.containers)
                try:
                    yield engine
                finally:
                    with trio.CancelScope(shield=True):
                        await _close(engine, on_exit)
    finally:
        try:
            _tidy(store)
        finally:
            store.close()


def _from_thread(progress: Callable[[int, int], None] | None) -> Callable[[int, int], None] | None:
    """``progress``, to be called from a worker thread."""
    return None if progress is None else lambda at, of: trio.from_thread.run_sync(progress, at, of)


async def _begin(store: Store, journal: Journal) -> None:
    """The first record of a new store."""
    caller = new_caller()
    event = StoreCreated(store.identity, FORMAT, release())
    await journal.append([Proposed(ENGINE_STREAM, event, 0)], actor=caller.actor, command=caller.command)
    seal_identity(store)


async def _close(engine: Engine, on_exit: str) -> None:
    core = engine.core
    if on_exit == "stop":
        async with trio.open_nursery() as nursery:
            for container in list(core.live):
                nursery.start_soon(_stop, engine, container)
    # A run that has ended is cleared away, and removed if it asked for that; one that goes on is left alone.
    with trio.move_on_after(_PATIENCE):
        for container, supervisor in list(core.live.items()):
            if supervisor.ended.is_set():
                await supervisor.done.wait()
                if supervisor.auto_remove:
                    await core.wait_removed(container)
    core.closing = True
    await core.close_registry()


async def _stop(engine: Engine, container: str) -> None:
    try:
        await engine.containers.get(container).stop()
    except LadingError:
        return  # it ended, or is removed, by itself


def _tidy(store: Store) -> None:
    """Leave no cgroup and no run directory behind when nothing runs."""
    states = store.log.scan(CONTAINERS)
    if not any(state.phase in LIVE or state.process is not None for _, state in states):
        remove_cgroup(cgroup_of(store.paths))
        remove_cgroup("/lading", below=False)  # other stores may have theirs in it
        unmount_run(store.paths.run)
