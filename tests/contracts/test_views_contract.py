"""The views in memory and the views in LMDB are the same: any history gives both the same states."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from histories import histories
from hypothesis import given, settings
from hypothesis import strategies as st
from plainviews import MemoryViews

from lading.events.claims import ClaimState
from lading.events.container import Created
from lading.events.envelope import UNKNOWN, Proposed, Record
from lading.events.errors import Conflict, Refused
from lading.events.ids import check_container_name, container_stream, tag_stream
from lading.events.image import Tagged, TagState
from lading.events.reference import parse_reference
from lading.events.spec import ContainerSpec
from lading.events.views import CLAIMS, TAGS, VIEWS, project
from lading.storage.environment import open_log
from lading.storage.log import Append, Log

Members = list[tuple[Proposed, ...]]
Tables = dict[str, dict[str, Any]]


def of_memory(views: MemoryViews) -> Tables:
    tables: Tables = {view.name: {} for view in VIEWS}
    for view, key, state in views.items():
        tables[view.name][key] = state
    return tables


def of_log(log: Log) -> Tables:
    return {view.name: dict(log.scan(view)) for view in VIEWS}


def appends(members: Members) -> list[Append]:
    return [
        Append(
            member, tuple(f"{number:016x}{at:016x}" for at in range(len(member))), 1000 + number, UNKNOWN, "c" * 32
        )
        for number, member in enumerate(members)
    ]


def append_in_groups(log: Log, members: Members, sizes: Sequence[int]) -> list[tuple[Record, ...] | Refused]:
    """Append ``members`` in batches of ``sizes``, and the rest in one."""
    waiting, answers = appends(members), []
    for size in (*sizes, len(waiting)):
        answers += log.append(waiting[:size])
        waiting = waiting[size:]
    return answers


class Memory:
    """Append conditions as the log's documentation states them, over views in memory: slow and plain."""

    def __init__(self) -> None:
        self.views = MemoryViews()
        self.records: list[Record] = []
        self.versions: dict[str, int] = {}

    def append(self, member: Append) -> tuple[Record, ...] | Refused:
        views, versions, made = MemoryViews(), dict(self.versions), []
        for entry in self.views.items():
            views.put(*entry)
        for proposed, event_id in zip(member.events, member.ids, strict=True):
            version = versions.get(proposed.stream, 0)
            if proposed.expect not in (None, version):
                return Conflict(proposed.stream, proposed.expect, version)
            versions[proposed.stream] = version + 1
            position = len(self.records) + len(made) + 1
            envelope = (position, proposed.stream, version + 1, event_id, member.time, member.actor)
            made.append(Record(*envelope, member.command, member.cause, proposed.event, b""))
            try:
                project(made[-1], views)
            except Refused as refusal:
                return refusal
        self.views, self.versions = views, versions
        self.records += made
        return tuple(made)


def plain(answer: tuple[Record, ...] | Refused) -> Any:
    if isinstance(answer, Refused):
        return type(answer), str(answer)
    return [attrs.evolve(record, chain=b"") for record in answer]


@st.composite
def quarrels(draw: Any) -> Members:
    """A history with some of its members told again elsewhere, and some with a wrong expectation."""
    members = draw(histories(most=15))
    for _ in range(draw(st.integers(0, 6))):
        again = draw(st.sampled_from(members))
        expect = draw(st.sampled_from((None, 0, 1, 5)))
        again = (attrs.evolve(again[0], expect=expect), *again[1:])
        members.insert(draw(st.integers(0, len(members))), again)
    return members


@pytest.mark.slow
@settings(max_examples=30)
@given(histories(), st.lists(st.integers(1, 5), max_size=8))
def test_any_valid_history_gives_the_same_states(members: Members, sizes: list[int]) -> None:
    """In LMDB, in memory, after reopening and after a rebuild."""
    with tempfile.TemporaryDirectory() as directory:
        log = open_log(Path(directory) / "log", "x" * 32)
        answers = append_in_groups(log, members, sizes)
        views = MemoryViews()
        for answer in answers:
            assert not isinstance(answer, Refused)
            for record in answer:
                project(record, views)
        expected = of_memory(views)
        assert of_log(log) == expected
        for view in VIEWS:
            for key, state in expected[view.name].items():
                assert log.get(view, key) == state
            assert log.get(view, "nothing called so") is None
        log.close()
        log = open_log(Path(directory) / "log")
        assert of_log(log) == expected
        assert log.verify().records == sum(map(len, members))
        log.rebuild()
        assert of_log(log) == expected
        log.close()


@pytest.mark.slow
@settings(max_examples=30)
@given(quarrels(), st.lists(st.integers(1, 5), max_size=8))
def test_log_decides_as_the_plain_twin_does(members: Members, sizes: list[int]) -> None:
    """Which members are refused, with which words, and what is known after: grouped in any way."""
    with tempfile.TemporaryDirectory() as directory:
        log = open_log(Path(directory) / "log", "x" * 32)
        twin = Memory()
        answers = append_in_groups(log, members, sizes)
        assert [plain(answer) for answer in answers] == [plain(twin.append(append)) for append in appends(members)]
        assert of_log(log) == of_memory(twin.views)
        assert [attrs.evolve(record, chain=b"") for record in log.read()] == twin.records
        log.verify()
        log.close()


@pytest.mark.slow
@settings(max_examples=20)
@given(quarrels(), st.lists(st.integers(1, 5), max_size=8))
def test_grouping_leaves_no_trace_in_the_log(members: Members, sizes: list[int]) -> None:
    """One commit for all or one for each: the same records with the same chain."""
    with tempfile.TemporaryDirectory() as directory:
        chains = []
        for name, grouping in (("one", [1] * len(members)), ("some", sizes)):
            log = open_log(Path(directory) / name, "x" * 32)
            append_in_groups(log, members, grouping)
            chains.append([record.chain for record in log.read()])
            log.close()
        assert chains[0] == chains[1]


@pytest.mark.parametrize("key", ["", "nobody", "x" * 600, "\udcff" * 64, "\0"], ids=lambda key: f"{key[:6]!a}")
def test_whatever_is_asked_for_and_not_there_is_just_not_there(tmp_path: Path, key: str) -> None:
    """Also what LMDB could never hold, such as an id prefix of 600 digits that a user typed."""
    log = open_log(tmp_path / "log", "x" * 32)
    try:
        for view in VIEWS:
            assert log.get(view, key) is MemoryViews().get(view, key) is None
            assert log.scan(view, key) == []
        assert log.read_stream(key) == []
    finally:
        log.close()


def test_the_longest_names_that_are_taken_can_be_found(tmp_path: Path) -> None:
    """A name of 255 characters, and a tag as long as a reference may be."""
    name = check_container_name("n" * 255)
    tag = parse_reference("a" * 54 + ".io/" + "/".join(["c" * 40] * 5) + ":" + "t" * 128).name
    image, container = "sha256:" + "1" * 64, "c" * 64
    created = Created(container, name, ContainerSpec(image, "app", (), ()))
    member = (Proposed(container_stream(container), created), Proposed(tag_stream(tag), Tagged(tag, image, "")))
    log = open_log(tmp_path / "log", "x" * 32)
    try:
        (answer,) = log.append(appends([member]))
        assert isinstance(answer, tuple)
        key = f"container-name/{name}"
        assert log.get(CLAIMS, key) == ClaimState(container_stream(container))
        assert [key for key, _ in log.scan(CLAIMS, key)] == [key]
        assert log.get(TAGS, tag) == TagState(tag, image, 1000)
        assert log.read_stream(tag_stream(tag)) == [answer[1]]
    finally:
        log.close()
