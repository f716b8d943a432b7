"""Bringing the log and the host to agree when a store is opened.

Three passes, each of which does nothing the second time: what the keeper, the exit records and /proc tell is
folded in (``events.recovery``); what was under way is taken up again, by the supervisors and removals of
normal running; and what is on disk and not in the log is deleted.
"""

from __future__ import annotations

import contextlib

from lading.engine.containers.containers import Containers
from lading.engine.containers.observe import belongs, drop_exit_record, observe
from lading.engine.containers.pausing import found_running
from lading.engine.containers.remains import end_remains
from lading.engine.containers.removal import remove_container
from lading.engine.containers.restarts import follow_up
from lading.engine.containers.supervisor import Supervisor
from lading.engine.core import Caller, Core, new_caller
from lading.engine.files.freezing import let_go
from lading.engine.files.sealing import put_back_stranded
from lading.engine.images.garbage import finish_removals
from lading.engine.keeper.link import KeptRun
from lading.engine.oci.bundle import clear_bundle
from lading.engine.volumes.volumes import finish_volume_removals
from lading.events.commands import StartContainer
from lading.events.container import LIVE, ContainerEvent, ContainerState, Exited, Phase, StartFailed, StopRequested
from lading.events.containerviews import VOLUMES
from lading.events.envelope import Proposed, Record
from lading.events.errors import HostError
from lading.events.ids import container_stream
from lading.events.policy import at_opening
from lading.events.recovery import recover
from lading.events.signals import signal_number
from lading.events.spec import ProcessId
from lading.events.transfer import LeaseReleased, PullFailed, lease_stream, pull_stream
from lading.events.views import CONTAINERS, LEASES, PULLS, SETTINGS
from lading.storage.overlay import mounts_below, unmount
from lading.storage.procfs import boot_id, is_alive
from lading.storage.store import Paths

__all__ = ["recover_store"]


async def recover_store(core: Core, containers: Containers) -> None:
    """Do all of the above. Raises ``HostError`` if the host can't be brought to agree."""
    caller = new_caller("recovery")
    states = [state for _, state in core.log.scan(CONTAINERS)]
    kept = await core.link.connect(start=False)
    put_back_stranded(core)
    let_go(core.paths, states)
    core.execs.adopt(caller)
    for state in states:
        await _recover_container(core, containers, state, kept.pop(state.id, None), caller)
    await core.execs.settle()
    for stray in kept.values():
        core.nursery.start_soon(_end_stray, core, stray)
    await _end_transfers(core, caller)
    await finish_removals(core, caller)
    await finish_volume_removals(core, caller)
    await _sweep(core, {state.id for state in states})
    core.trash.filled()


async def _recover_container(
    core: Core, containers: Containers, state: ContainerState, kept: KeptRun | None, caller: Caller
) -> None:
    if state.phase not in LIVE and state.phase is not Phase.REMOVING:
        if kept is not None:
            core.link.forget(kept)
        if state.phase is Phase.STOPPED and state.spec.auto_remove:
            core.nursery.start_soon(containers.auto_remove(state.id, caller))
        elif state.phase is Phase.RESTARTING:
            containers.restart_later(state.id)
        elif state.phase is Phase.STOPPED and _runs_again(core, state):
            await containers.begin(state.id, StartContainer(), caller)
        return
    seen = observe(core.paths, state, kept)
    missing = list(recover(state, seen))
    missing += _follow_up(core, state, missing)
    going_on = kept is not None and not kept.ended.is_set() and kept.run == state.run
    if missing and not going_on and _may_have_remains(core, state):
        await end_remains(core.paths, await core.runtime(), state.id, state.process)
    if missing:
        execs = [] if going_on else await core.execs.closing(state.id)
        await core.journal.append(
            [*execs, *(Proposed(container_stream(state.id), event) for event in missing)],
            actor=caller.actor,
            command=caller.command,
        )
        core.execs.closed(state.id)
    history = core.log.read_stream(container_stream(state.id), max(0, state.version - 1))
    cause = history[-1].position if history else 0  # its last record may have been compacted away
    state = core.state(state.id)
    if kept is not None and going_on:
        await _agree_on_freezing(core, state, caller)
        supervisor = Supervisor(core, state, caller, cause)
        core.nursery.start_soon(supervisor.adopt, kept, containers)
        if state.phase is Phase.STOPPING:
            _resume_stop(core, supervisor, state)
    else:
        if kept is not None:
            core.link.forget(kept)
        clear_bundle(core.paths, state.id)
        drop_exit_record(core.paths, state.id)
        if missing and state.spec.auto_remove:
            core.nursery.start_soon(containers.auto_remove(state.id, caller))
        elif state.phase is Phase.RESTARTING:
            containers.restart_later(state.id)
    if state.phase is Phase.REMOVING:
        core.nursery.start_soon(_finish_removal, core, state, caller, cause)


def _follow_up(core: Core, state: ContainerState, missing: list[ContainerEvent]) -> list[ContainerEvent]:
    """The restart that follows the exit that nobody recorded, if that container has a policy for it."""
    if core.log.get(SETTINGS, state.id) is None:
        return []
    for event in missing:
        if isinstance(event, Exited | StartFailed):
            return follow_up(core, state, event)
    return []


def _runs_again(core: Core, state: ContainerState) -> bool:
    """Whether a container that is down is one of those that always run when their engine does."""
    settings = core.log.get(SETTINGS, state.id)
    ran = state.started_at != 0
    return settings is not None and at_opening(settings.restart, core.supervision(state.id), ran)


async def _agree_on_freezing(core: Core, state: ContainerState, caller: Caller) -> None:
    events = found_running(core.paths, state)
    if events:
        await core.journal.append(
            [Proposed(container_stream(state.id), event) for event in events],
            actor=caller.actor,
            command=caller.command,
        )


async def _finish_removal(core: Core, state: ContainerState, caller: Caller, cause: int) -> None:
    with contextlib.suppress(HostError):  # recorded as RemoveFailed
        await remove_container(core, state.id, caller, cause)


async def _end_stray(core: Core, stray: KeptRun) -> None:
    """End a run that the keeper has and the log has not: that of a store which was here before, and deleted."""
    process = ProcessId(boot_id(), stray.pid, stray.ticks) if stray.pid else None
    await end_remains(core.paths, await core.runtime(), stray.id, process)
    await stray.ended.wait()
    core.link.forget(stray)


def _may_have_remains(core: Core, state: ContainerState) -> bool:
    """After a reboot there is nothing to look for, and perhaps no runtime to look with."""
    if state.process is not None:
        alive = is_alive(state.process) and belongs(core.paths, state.id, state.process)
        return alive or core.paths.bundle(state.id).exists()
    return core.paths.bundle(state.id).exists()


def _resume_stop(core: Core, supervisor: Supervisor, state: ContainerState) -> None:
    """Take up the stop that the log asks for last; its clock starts again."""
    # The request may have been compacted away: then as the container itself asks to be stopped.
    asked = StopRequested(state.spec.stop_signal, state.spec.stop_timeout)
    records: list[Record] = core.log.read_stream(container_stream(state.id), max(0, state.version - 100))
    for record in records:
        if isinstance(record.event, StopRequested):
            asked = record.event
    core.nursery.start_soon(supervisor.stop, signal_number(asked.signal), float(asked.timeout))


def _created(paths: Paths) -> set[str]:
    """The containers that a runtime remembers."""
    return {state.name for name in ("crun", "runc") for state in (paths.run / name).glob("*") if state.is_dir()}


async def _sweep(core: Core, known: set[str]) -> None:
    """Delete what no record names: orphans of a crash between making and recording, or recording and deleting."""
    paths = core.paths
    bundles = paths.run / "bundles"
    live = set(core.live)
    for name in _created(paths):
        if name not in live and name not in known:  # a trial of a runtime that was cut short
            await end_remains(paths, await core.runtime(), name, None)
    for mount in mounts_below(bundles):
        if mount.relative_to(bundles).parts[0] not in live:
            unmount(mount)
    for directory in bundles.iterdir():
        if directory.name not in live:
            clear_bundle(paths, directory.name)
    for directory in paths.containers.iterdir():
        if directory.name not in known:
            paths.discard(directory)
    volumes = {name for name, _ in core.log.scan(VOLUMES)}
    for directory in paths.volumes.iterdir():
        if directory.name not in volumes:
            paths.discard(directory)
    mounted = paths.run / "volumes"
    used = {mount.source for container in live for mount in core.settings(container).mounts}
    for mount in mounts_below(mounted):
        if mount.relative_to(mounted).parts[0] not in used:
            unmount(mount)
    for directory in paths.staging.iterdir():
        paths.discard(directory)


async def _end_transfers(core: Core, caller: Caller) -> None:
    """End the pulls and leases of an engine that is no more: nothing of theirs was visible."""
    ends = [
        Proposed(pull_stream(pull), PullFailed("the engine ended before it was finished; pull it again"))
        for pull, _ in core.log.scan(PULLS)
    ]
    ends += [Proposed(lease_stream(lease), LeaseReleased(state.purpose)) for lease, state in core.log.scan(LEASES)]
    if ends:
        await core.journal.append(ends, actor=caller.actor, command=caller.command)
