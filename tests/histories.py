"""Whole histories that are valid, for hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import attrs
from hypothesis import strategies as st
from strategies import EVENTS, Draw, container_ids, exit_codes, hexes, process_ids, specs, texts, times

from lading.events.container import (
    LIFECYCLE,
    ContainerEvent,
    ContainerState,
    Created,
    Exited,
    Phase,
    Removed,
    RemoveFailed,
    Renamed,
    Started,
    StartFailed,
    StartRequested,
    evolve,
)
from lading.events.envelope import Proposed
from lading.events.execs import EXEC_LIFECYCLE, ExecCreated, ExecState, evolve_exec, exec_stream
from lading.events.ids import container_stream, image_stream, layer_stream, tag_stream
from lading.events.image import (
    ImageAdded,
    ImageRemoved,
    LayerAdded,
    LayerArchived,
    LayerPacked,
    LayerRemoved,
    LayerRemoveRequested,
    LayerSealed,
    ManifestAdded,
    Tagged,
    Untagged,
)
from lading.events.store import ENGINE_STREAM, StoreCreated
from lading.events.transfer import (
    LeaseReleased,
    LeaseTaken,
    PullFailed,
    PullFinished,
    PullProgressed,
    PullRequested,
)
from lading.events.upkeep import Health, HealthChanged
from lading.events.volume import VolumeCreated, VolumeFilled, VolumeRemoved, VolumeRemoveRequested, volume_stream


def next_event(draw: Draw, kind: type[Any], state: ContainerState, free: Sequence[str]) -> ContainerEvent:
    """An event of type ``kind`` that fits ``state``: its runs, names and so on are the right ones."""
    if kind is StartRequested:
        return StartRequested(state.run + 1)
    if kind is Started:
        return Started(state.run, draw(process_ids))
    if kind is StartFailed:
        return StartFailed(state.run, draw(exit_codes), draw(texts))
    if kind is Exited:
        return Exited(state.run, draw(st.none() | exit_codes), draw(times), draw(texts), draw(st.booleans()))
    if kind is HealthChanged:
        return HealthChanged(state.run, draw(st.sampled_from(get_args(Health))), draw(texts))
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
        event = draw(EVENTS[draw(st.sampled_from((*kinds, LayerSealed)))])
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

    def execution() -> Proposed | None:
        """A command in a container goes on, or another begins."""
        which = draw(st.sampled_from((None, *execs))) if execs else None
        if which is None:
            if not states or (which := draw(hexes(64))) in execs or exec_stream(which) in versions:
                return None
            event = draw(EVENTS[ExecCreated])
            event = attrs.evolve(event, exec=which, container=draw(st.sampled_from(sorted(states))))
            known = None
        else:
            known = execs.pop(which)
            event = draw(EVENTS[draw(st.sampled_from(list(EXEC_LIFECYCLE[known.phase])))])
        after = evolve_exec(known, event, 1)
        if after is not None:
            execs[which] = after
        return propose(exec_stream(which), event)

    def volume() -> Proposed | None:
        name = draw(st.sampled_from(NAMES))
        if name in volumes:
            kind = draw(st.sampled_from((VolumeFilled, VolumeRemoveRequested, VolumeRemoved)))
            if kind is VolumeRemoved:
                volumes.remove(name)
            return propose(volume_stream(name), draw(EVENTS[kind]))
        volumes.append(name)
        return propose(volume_stream(name), attrs.evolve(draw(EVENTS[VolumeCreated]), name=name))

    execs: dict[str, ExecState] = {}
    volumes: list[str] = []
    going: list[str] = []
    under_way: list[str] = []
    often = (container, container, container, layer, image, tag)
    seldom = (untag, unneeded, kept, transfer, execution, volume)
    for _ in range(draw(st.integers(0, most))):
        makers = draw(
            st.lists(
                st.sampled_from((*often, *seldom)),
                min_size=1,
                max_size=3,
            )
        )
        member = tuple(made for make in makers if (made := make()) is not None)
        if member:
            members.append(member)
    return members
