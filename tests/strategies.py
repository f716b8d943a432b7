"""Every hypothesis strategy: values of the core, one event of each type, and whole histories that are valid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from hypothesis import strategies as st

from lading.events.claims import ClaimKind, ClaimReleased, ClaimTaken
from lading.events.compaction import LogCompacted
from lading.events.container import (
    ContainerState,
    Created,
    Exited,
    KillRequested,
    Paused,
    Phase,
    Removed,
    RemoveFailed,
    RemoveRequested,
    Renamed,
    Started,
    StartFailed,
    StartRequested,
    StopRequested,
    Unpaused,
)
from lading.events.envelope import Actor, Record
from lading.events.execs import (
    ExecCreated,
    ExecExited,
    ExecRequested,
    ExecSpec,
)
from lading.events.image import (
    ArchiveForm,
    ImageAdded,
    ImageConfig,
    ImageRemoved,
    LayerAdded,
    LayerArchived,
    LayerPacked,
    LayerRemoved,
    LayerRemoveRequested,
    LayerSealed,
    ManifestAdded,
    Pushed,
    Tagged,
    Untagged,
)
from lading.events.settings import (
    ContainerSettings,
    Device,
    HealthCheck,
    Mount,
    MountKind,
    Resources,
    RestartName,
    RestartPolicy,
    Ulimit,
)
from lading.events.spec import ContainerSpec, ProcessId
from lading.events.store import StoreCreated
from lading.events.transfer import (
    LeasePurpose,
    LeaseReleased,
    LeaseTaken,
    PullFailed,
    PullFinished,
    PullProgressed,
    PullRequested,
)
from lading.events.upkeep import (
    Configured,
    Health,
    HealthChanged,
    Rebased,
    RestartCancelled,
    RestartScheduled,
    Updated,
)
from lading.events.volume import (
    VolumeCreated,
    VolumeFilled,
    VolumeRemoved,
    VolumeRemoveRequested,
)

Draw = Callable[[st.SearchStrategy[Any]], Any]


def hexes(digits: int) -> st.SearchStrategy[str]:
    """``digits`` lower-case hexadecimal digits."""
    return st.binary(min_size=digits // 2, max_size=digits // 2).map(bytes.hex)


def tuples(of: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(of, max_size=4).map(tuple)


texts = st.text(max_size=20)
labels = st.dictionaries(texts, texts, max_size=4)
container_ids = hexes(64)
digests = hexes(64).map("sha256:".__add__)
container_names = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,30}", fullmatch=True)
signals = st.sampled_from(("SIGTERM", "SIGKILL", "SIGHUP", "35"))
counts = st.integers(0, 2**64 - 1)
times = st.integers(0, 2**63 - 1)
small = st.integers(-(2**63), 2**63 - 1)
exit_codes = st.integers(0, 255)

process_ids = st.builds(ProcessId, boot=texts, pid=st.integers(1, 2**22), start_ticks=counts)
specs = st.builds(
    ContainerSpec,
    image=digests,
    image_name=texts,
    layers=tuples(digests),
    args=tuples(texts),
    entrypoint=tuples(texts),
    cmd=tuples(texts),
    env=tuples(texts),
    working_dir=texts,
    user=texts,
    hostname=texts,
    labels=labels,
    network=st.sampled_from(("host", "none")),
    open_stdin=st.booleans(),
    stdin_once=st.booleans(),
    auto_remove=st.booleans(),
    stop_signal=signals,
    stop_timeout=small,
    read_only=st.booleans(),
)
image_configs = st.builds(
    ImageConfig,
    entrypoint=tuples(texts),
    cmd=tuples(texts),
    env=tuples(texts),
    working_dir=texts,
    user=texts,
    labels=labels,
    exposed_ports=tuples(texts),
    volumes=tuples(texts),
    stop_signal=texts,
)
resources = st.builds(
    Resources,
    memory=times,
    memory_swap=small,
    swappiness=st.integers(-1, 100),
    oom_kill_disable=st.booleans(),
    nano_cpus=times,
    cpuset_cpus=texts,
    pids=small,
    read_bps=tuples(texts),
)
restart_policies = st.builds(RestartPolicy, name=st.sampled_from(get_args(RestartName)), maximum=times)
mounts = st.builds(
    Mount,
    kind=st.sampled_from(get_args(MountKind)),
    source=container_names,
    target=texts,
    read_only=st.booleans(),
    copy=st.booleans(),
    size=times,
    options=tuples(texts),
    anonymous=st.booleans(),
)
container_settings = st.builds(
    ContainerSettings,
    tty=st.booleans(),
    resources=resources,
    restart=restart_policies,
    health=st.none() | st.builds(HealthCheck, test=tuples(texts), interval=times, retries=times),
    deadline=times,
    mounts=st.lists(mounts, max_size=2).map(tuple),
    cap_add=tuples(texts),
    seccomp=texts,
    masked=st.none() | tuples(texts),
    devices=st.lists(st.builds(Device, path=texts, target=texts), max_size=2).map(tuple),
    ulimits=st.lists(st.builds(Ulimit, name=texts, soft=small, hard=small), max_size=2).map(tuple),
    sysctls=labels,
    oom_score=st.integers(-1000, 1000),
    log_size=times,
    forked_from=st.just("") | container_ids,
)
exec_specs = st.builds(
    ExecSpec,
    args=tuples(texts),
    env=tuples(texts),
    working_dir=texts,
    user=texts,
    tty=st.booleans(),
    stdin=st.booleans(),
    privileged=st.booleans(),
)
actors = st.builds(
    Actor,
    uid=st.none() | st.integers(0, 2**32 - 1),
    gid=st.none() | st.integers(0, 2**32 - 1),
    pid=st.none() | st.integers(1, 2**22),
    client=texts,
)
claim_kinds = st.sampled_from(get_args(ClaimKind))

EVENTS: dict[type[Any], st.SearchStrategy[Any]] = {
    StoreCreated: st.builds(StoreCreated, store=hexes(32), format=counts, release=texts),
    ClaimTaken: st.builds(ClaimTaken, kind=claim_kinds, name=texts, holder=texts),
    ClaimReleased: st.builds(ClaimReleased, kind=claim_kinds, name=texts, holder=texts),
    LogCompacted: st.builds(
        LogCompacted, first=counts, last=counts, chain=hexes(64), state=hexes(64), archive=texts, digest=hexes(64)
    ),
    Created: st.builds(Created, container=container_ids, name=container_names, spec=specs),
    StartRequested: st.builds(StartRequested, run=counts),
    Started: st.builds(Started, run=counts, process=process_ids),
    StartFailed: st.builds(StartFailed, run=counts, exit_code=exit_codes, why=texts),
    StopRequested: st.builds(StopRequested, signal=signals, timeout=small),
    KillRequested: st.builds(KillRequested, signal=signals),
    Exited: st.builds(
        Exited, run=counts, exit_code=st.none() | exit_codes, at=times, why=texts, oom=st.booleans()
    ),
    Paused: st.builds(Paused),
    Unpaused: st.builds(Unpaused),
    Configured: st.builds(Configured, settings=container_settings),
    Updated: st.builds(Updated, resources=resources, restart=restart_policies),
    HealthChanged: st.builds(HealthChanged, run=counts, health=st.sampled_from(get_args(Health)), why=texts),
    RestartScheduled: st.builds(RestartScheduled, delay=st.integers(0, 2**40), streak=times, why=texts),
    RestartCancelled: st.builds(RestartCancelled),
    Rebased: st.builds(Rebased, chain=digests),
    ExecCreated: st.builds(ExecCreated, exec=hexes(64), container=container_ids, run=counts, spec=exec_specs),
    ExecRequested: st.builds(ExecRequested),
    ExecExited: st.builds(ExecExited, exit_code=st.none() | exit_codes, why=texts),
    VolumeCreated: st.builds(
        VolumeCreated, name=container_names, labels=labels, options=labels, anonymous=st.booleans()
    ),
    VolumeFilled: st.builds(VolumeFilled, container=container_ids),
    VolumeRemoveRequested: st.builds(VolumeRemoveRequested),
    VolumeRemoved: st.builds(VolumeRemoved),
    LayerSealed: st.builds(LayerSealed, chain=digests, container=container_ids),
    Renamed: st.builds(Renamed, old=container_names, new=container_names),
    RemoveRequested: st.builds(RemoveRequested, force=st.booleans()),
    RemoveFailed: st.builds(RemoveFailed, why=texts),
    Removed: st.builds(Removed, name=container_names),
    LayerAdded: st.builds(
        LayerAdded,
        chain=digests,
        diff_id=digests,
        parent=st.just("") | digests,
        size=times,
        disk_bytes=times,
        inodes=times,
        opaque=st.booleans(),
    ),
    ImageAdded: st.builds(
        ImageAdded,
        image=digests,
        layers=tuples(digests),
        diff_ids=tuples(digests),
        config=image_configs,
        created=texts,
        architecture=texts,
        os=texts,
        origin=texts,
        comment=texts,
    ),
    Tagged: st.builds(Tagged, name=texts, image=digests, previous=st.just("") | digests),
    Untagged: st.builds(Untagged, name=texts, image=digests),
    ImageRemoved: st.builds(ImageRemoved, image=digests),
    LayerArchived: st.builds(
        LayerArchived,
        chain=digests,
        form=st.sampled_from(get_args(ArchiveForm)),
        blob=st.just("") | digests,
        blob_size=times,
        media_type=texts,
        disk_bytes=times,
    ),
    LayerPacked: st.builds(LayerPacked, chain=digests, digest=digests, size=times, media_type=texts),
    LayerRemoveRequested: st.builds(LayerRemoveRequested, chain=digests),
    LayerRemoved: st.builds(LayerRemoved, chain=digests),
    ManifestAdded: st.builds(
        ManifestAdded, image=digests, digest=digests, media_type=texts, disk_bytes=st.integers(0, 2**50)
    ),
    Pushed: st.builds(Pushed, image=digests, name=texts, digest=digests, size=times),
    PullRequested: st.builds(PullRequested, reference=texts, platform=texts),
    PullProgressed: st.builds(PullProgressed, layers=small, done=small, total=times, fetched=times),
    PullFinished: st.builds(PullFinished, image=digests, digest=digests, fetched=times),
    PullFailed: st.builds(PullFailed, why=texts),
    LeaseTaken: st.builds(LeaseTaken, purpose=st.sampled_from(get_args(LeasePurpose)), layers=tuples(digests)),
    LeaseReleased: st.builds(LeaseReleased, purpose=st.sampled_from(get_args(LeasePurpose))),
}
"""A strategy for each type of event, with every field free."""

container_states = st.builds(
    ContainerState,
    id=container_ids,
    name=container_names,
    spec=specs,
    phase=st.sampled_from(Phase),
    version=counts,
    created_at=times,
    run=counts,
    process=st.none() | process_ids,
    started_at=times,
    finished_at=times,
    exit_code=st.none() | exit_codes,
    error=texts,
)

records = st.builds(
    Record,
    position=st.integers(1, 2**63),
    stream=texts,
    version=st.integers(1, 2**63),
    event_id=hexes(32),
    time=times,
    actor=actors,
    command=hexes(32),
    cause=counts,
    event=st.one_of(*EVENTS.values()),
    chain=st.just(b""),
)
"""Records as the log would make them, except that their chain is not computed."""
