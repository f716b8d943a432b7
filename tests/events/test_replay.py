"""Replaying stored records gives what projecting them one by one gives, and refuses what that refuses."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from histories import histories
from hypothesis import given, settings
from hypothesis import strategies as st
from plainviews import MemoryViews

from lading.events.codec import GENESIS, encode_record
from lading.events.container import Created, Exited, Renamed, Started, StartRequested
from lading.events.envelope import UNKNOWN, Proposed, Record
from lading.events.errors import Refused, StoreCorrupt
from lading.events.ids import ContainerId
from lading.events.replay import Replay
from lading.events.spec import ContainerSpec, ProcessId
from lading.events.views import CLAIMS, CONTAINERS, project

Page = list[tuple[int, bytes]]

SPEC = ContainerSpec("sha256:" + "1" * 64, "app", (), ("/bin/true",))
ONE, TWO = ContainerId("1" * 64), ContainerId("2" * 64)


def recorded(events: Sequence[Proposed]) -> tuple[list[Record], Page]:
    """``events`` as records, whatever the lifecycle says of them, and as they are stored."""
    versions: dict[str, int] = {}
    records, page, chain = [], [], GENESIS
    for position, proposed in enumerate(events, 1):
        version = versions[proposed.stream] = versions.get(proposed.stream, 0) + 1
        envelope = (position, proposed.stream, version, "e" * 32, 1000 + position, UNKNOWN, "c" * 32, 0)
        record = Record(*envelope, proposed.event, b"")
        stored, chain = encode_record(record, chain)
        records.append(attrs.evolve(record, chain=chain))
        page.append((position, stored))
    return records, page


def projected(records: Sequence[Record]) -> tuple[MemoryViews, int]:
    """The plain way: the views, and the position of the first record that can't have happened, or 0."""
    views = MemoryViews()
    for record in records:
        try:
            project(record, views)
        except Refused:
            return views, record.position
    return views, 0


def states(views: MemoryViews | Replay) -> dict[tuple[str, str], Any]:
    return {(view.name, key): state for view, key, state in views.items()}


@st.composite
def pasts(draw: Any) -> list[Proposed]:
    """A valid history, or one with events repeated, left out, or told of another stream."""
    events = [proposed for member in draw(histories()) for proposed in member]
    for _ in range(draw(st.integers(0, 2)) if events else 0):
        at = draw(st.integers(0, len(events) - 1))
        what = draw(st.sampled_from(("again", "never", "elsewhere")))
        if what == "again":
            events.insert(draw(st.integers(at, len(events))), events[at])
        elif what == "elsewhere":
            events[at] = attrs.evolve(events[at], stream=draw(st.sampled_from(events)).stream)
        elif len(events) > 1:
            del events[at]
    return events


@pytest.mark.slow
@settings(max_examples=100)
@given(pasts(), st.booleans(), st.integers(1, 9))
def test_replay_is_projection(events: list[Proposed], checked: bool, size: int) -> None:
    """Over any past, in pages of any size; where the one refuses a record, the other names its position."""
    records, page = recorded(events)
    views, refused = projected(records)
    replay = Replay(checked=checked)

    def feed() -> None:
        for at in range(0, len(page), size):
            replay.feed(page[at : at + size])

    if refused:
        with pytest.raises(StoreCorrupt, match="it can't have happened there") as corrupt:
            feed()
        assert corrupt.value.position == refused
        return
    feed()
    assert states(replay) == states(views)
    assert replay.position == len(page)
    if checked:
        assert replay.chain == (records[-1].chain if records else GENESIS)


def of(container: ContainerId, *events: Any) -> list[Proposed]:
    return [Proposed(f"container/{container}", event) for event in events]


def test_a_name_goes_with_its_container_and_no_other() -> None:
    """Free again after a rename or the end; kept by who took it since."""
    past = [
        *of(ONE, Created(ONE, "web", SPEC), StartRequested(1), Started(1, ProcessId("b", 1, 2))),
        *of(ONE, Exited(1, 0, 5), Renamed("web", "old")),
        *of(TWO, Created(TWO, "web", SPEC)),
    ]
    replay = Replay()
    replay.feed(recorded(past)[1])
    assert [(view.name, key) for view, key, _ in replay.items()] == [
        *(("container", ONE), ("container", TWO)),
        *(("claim", "container-name/old"), ("claim", "container-name/web")),
    ]
    state = replay.get(CLAIMS, "container-name/web")
    assert state is not None
    assert state.holder == f"container/{TWO}"
    assert replay.get(CONTAINERS, "nobody") is None


def test_a_taken_name_is_refused() -> None:
    past = [*of(ONE, Created(ONE, "web", SPEC)), *of(TWO, Created(TWO, "web", SPEC))]
    with pytest.raises(StoreCorrupt, match="position 2: it can't have happened there: the container name 'web'"):
        Replay().feed(recorded(past)[1])


PAST = recorded([*of(ONE, Created(ONE, "web", SPEC), StartRequested(1)), *of(TWO, Created(TWO, "api", SPEC))])


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize(("drop", "missing"), [(0, 1), (1, 2)])
def test_a_missing_record_is_told(checked: bool, drop: int, missing: int) -> None:
    page = PAST[1][:drop] + PAST[1][drop + 1 :]
    with pytest.raises(StoreCorrupt, match="missing") as corrupt:
        Replay(checked=checked).feed(page)
    assert corrupt.value.position == missing


def test_a_changed_record_is_told_where_chains_are_checked() -> None:
    position, stored = PAST[1][1]
    changed = (position, stored.replace(b"e" * 32, b"f" * 32))
    Replay().feed([PAST[1][0], changed])
    with pytest.raises(StoreCorrupt, match="position 2: its hash"):
        Replay(checked=True).feed([PAST[1][0], changed])


def test_what_was_touched_is_told_with_its_last_position() -> None:
    """Every state that differs from before, and none that doesn't, whichever way the record went."""
    replay = Replay(traced=True)
    replay.feed(PAST[1])
    assert replay.touched is not None
    told = {(view.name, key): position for (view, key), position in replay.touched.items()}
    assert told == {
        ("container", ONE): 2,
        ("claim", "container-name/web"): 1,
        ("container", TWO): 3,
        ("claim", "container-name/api"): 3,
    }
    replay.touched.clear()
    more = recorded([*of(ONE, Created(ONE, "web", SPEC), StartRequested(1), Renamed("web", "x"))])[1][2:]
    replay.position = 2
    replay.feed(more)
    told = {(view.name, key): position for (view, key), position in replay.touched.items()}
    assert told == dict.fromkeys(
        (("container", ONE), ("claim", "container-name/web"), ("claim", "container-name/x")), 3
    )


def test_it_can_begin_anywhere() -> None:
    """With the states, position and chain of there, it goes on as if it had come by itself."""
    whole, part = Replay(checked=True), Replay(checked=True)
    whole.feed(PAST[1])
    first = Replay(checked=True)
    first.feed(itertools.islice(PAST[1], 1))
    for entry in first.items():
        part.put(*entry)
    part.position, part.chain = first.position, first.chain
    part.feed(PAST[1][1:])
    assert states(part) == states(whole)
    assert (part.position, part.chain) == (whole.position, whole.chain)
