"""Every hypothesis strategy: values of the core, one event of each type, and whole histories that are valid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import attrs
from hypothesis import strategies as st

from lading.events.claims import ClaimKind, ClaimReleased, ClaimTaken
from lading.events.compaction import LogCompacted
from lading.events.container import (
    LIFECYCLE,
    ContainerEvent,
    ContainerState,
    Created,
    Exited,
    KillRequested,
    Phase,
    Removed,
    RemoveFailed,
    RemoveRequested,
    Renamed,
    Started,
    StartFailed,
    StartRequested,
    StopRequested,
    evolve,
)
from lading.events.envelope import Actor, Proposed, Record
from lading.events.ids import container_stream, image_stream, layer_stream, tag_stream
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
    ManifestAdded,
    Pushed,
    Tagged,
    Untagged,
)
from lading.events.spec import ContainerSpec, ProcessId
from lading.events.store import ENGINE_STREAM, StoreCreated
from lading.events.transfer import (
    LeasePurpose,
    LeaseReleased,
    LeaseTaken,
    PullFailed,
    PullFinished,
    PullProgressed,
    PullRequested,
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
    Exited: st.builds(Exited, run=counts, exit_code=st.none() | exit_codes, at=times, why=texts),
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


def next_event(draw: Draw, kind: type[Any], state: ContainerState, free: Sequence[str]) -> ContainerEvent:
    """An event of type ``kind`` that fits ``state``: its runs, names and so on are the right ones."""
    if kind is StartRequested:
        return StartRequested(state.run + 1)
    if kind is Started:
        return Started(state.run, draw(process_ids))
    if kind is StartFailed:
        return StartFailed(state.run, draw(exit_codes), draw(texts))
    if kind is Exited:
        return Exited(state.run, draw(st.none() | exit_codes), draw(times), draw(texts))
    if kind is Renamed:
        return Renamed(state.name, draw(st.sampled_from(free)))
    if kind is Removed:
        return Removed(state.name)
    event: ContainerEvent = draw(EVENTS[kind])
    return event


NAMES = ("ant", "bee", "cat", "dog", "elk", "fox")
TAGS = ("docker.io/library/a:1", "docker.io/library/b:1", "docker.io/library/a:2")


@st.composite
def histories(draw: Draw, most: int = 25) -> list[tuple[Proposed, ...]]:
    """Members for one log, from its first record on, every one of which is allowed where it stands."""
    members: list[tuple[Proposed, ...]] = [(Proposed(ENGINE_STREAM, StoreCreated("0" * 32, 1), 0),)]
    states: dict[str, ContainerState] = {}
    versions: dict[str, int] = {}
    images: list[str] = []
    layers: list[str] = []
    tags: dict[str, str] = {}

    def propose(stream: str, event: Any) -> Proposed:
        expect = draw(st.sampled_from((None, versions.get(stream, 0))))
        versions[stream] = versions.get(stream, 0) + 1
        return Proposed(stream, event, expect)

    def container() -> Proposed | None:
        free = [name for name in NAMES if all(state.name != name for state in states.values())]
        which = draw(st.sampled_from((None, *states))) if states else None
        if which is None:
            if not free:
                return None
            which = draw(container_ids)
            if which in states or container_stream(which) in versions:
                return None
            event: ContainerEvent = Created(which, draw(st.sampled_from(free)), draw(specs))
            states[which] = evolve(None, event, 1)
            return propose(container_stream(which), event)
        state = states[which]
        kinds = [kind for kind in LIFECYCLE[state.phase] if kind is not Renamed or free]
        if state.process is not None:  # an outcome of its removal comes after the process's end
            kinds = [kind for kind in kinds if kind not in (Removed, RemoveFailed)]
        event = next_event(draw, draw(st.sampled_from(kinds)), state, free)
        states[which] = evolve(state, event, 1)
        if states[which].phase is Phase.DELETED:
            del states[which]
        return propose(container_stream(which), event)

    def layer() -> Proposed:
        event = draw(EVENTS[LayerAdded])
        # So that the sizes of an image's layers never add up to more than 64 bits, which can't be stored.
        event = attrs.evolve(event, disk_bytes=event.disk_bytes >> 8)
        layers.append(event.chain)
        return propose(layer_stream(event.chain), event)

    def image() -> Proposed | None:
        event = draw(EVENTS[ImageAdded])
        if event.image in images:
            return None
        chosen = draw(st.lists(st.sampled_from(layers), unique=True)) if layers else []
        event = ImageAdded(event.image, tuple(chosen), event.diff_ids, event.config, *["x"] * 5)
        images.append(event.image)
        return propose(image_stream(event.image), event)

    def tag() -> Proposed | None:
        if not images:
            return None
        name, target = draw(st.sampled_from(TAGS)), draw(st.sampled_from(images))
        event = Tagged(name, target, tags.get(name, ""))
        tags[name] = target
        return propose(tag_stream(name), event)

    def untag() -> Proposed | None:
        if not tags:
            return None
        name = draw(st.sampled_from(sorted(tags)))
        return propose(tag_stream(name), Untagged(name, tags.pop(name)))

    def unneeded() -> Proposed | None:
        """An image goes without its name, or a layer."""
        free = sorted(set(images) - set(tags.values()))
        if free and draw(st.booleans()):
            images.remove(which := draw(st.sampled_from(free)))
            return propose(image_stream(which), ImageRemoved(which))
        if not layers:
            return None
        layers.remove(chain := draw(st.sampled_from(layers)))
        while chain in layers:
            layers.remove(chain)
        going.append(chain)
        return propose(layer_stream(chain), LayerRemoveRequested(chain))

    def kept() -> Proposed | None:
        kinds = [
            LayerArchived,
            LayerPacked,
            *([LayerRemoved] if going else []),
            *([ManifestAdded] if images else []),
        ]
        event = draw(EVENTS[draw(st.sampled_from(kinds))])
        if isinstance(event, ManifestAdded):
            event = attrs.evolve(event, image=draw(st.sampled_from(images)))
            return propose(image_stream(event.image), event)
        if isinstance(event, LayerRemoved):
            event = LayerRemoved(going.pop())
        elif layers:
            event = attrs.evolve(event, chain=draw(st.sampled_from(layers)))
        return propose(layer_stream(event.chain), event)

    def transfer() -> Proposed | None:
        """A pull or a lease goes on, or another begins."""
        which = draw(st.sampled_from((None, *under_way))) if under_way else None
        if which is None:
            kind = draw(st.sampled_from((PullRequested, LeaseTaken)))
            which = f"{'pull' if kind is PullRequested else 'lease'}/{draw(hexes(32))}"
            if which in versions:
                return None
            under_way.append(which)
            event = draw(EVENTS[kind])
            if isinstance(event, PullRequested):
                event = attrs.evolve(event, reference=draw(st.sampled_from(TAGS)))
            return propose(which, event)
        kinds = (PullProgressed, PullFinished, PullFailed) if which.startswith("pull/") else (LeaseReleased,)
        kind = draw(st.sampled_from(kinds))
        if kind is not PullProgressed:
            under_way.remove(which)
        return propose(which, draw(EVENTS[kind]))

    going: list[str] = []
    under_way: list[str] = []
    often = (container, container, container, layer, image, tag)
    for _ in range(draw(st.integers(0, most))):
        makers = draw(st.lists(st.sampled_from((*often, untag, unneeded, kept, transfer)), min_size=1, max_size=3))
        member = tuple(made for make in makers if (made := make()) is not None)
        if member:
            members.append(member)
    return members
