"""Any moment can be gone back to: snapshots, positions of instants, and what holds when snapshots are lost."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from histories import histories
from hypothesis import strategies as st
from logbook import BORN, append, busy, dump, everything, made, member, told
from plainviews import MemoryViews

from lading.events.envelope import Proposed
from lading.events.errors import NotInHistory
from lading.events.views import CONTAINERS, VIEWS, project
from lading.storage import snapshots
from lading.storage.environment import open_log
from lading.storage.log import Log

EVERY = 7


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots every few records, and new epochs soon."""
    for name in ("snapshots", "log", "rebuild"):
        monkeypatch.setattr(f"lading.storage.{name}.EVERY", EVERY)
    monkeypatch.setattr(snapshots, "_SMALL", 20)


def folded(log: Log, position: int) -> dict[str, list[tuple[str, Any]]]:
    """What the first ``position`` records give, folded plainly."""
    views = MemoryViews()
    for record in log.read(0, position):
        project(record, views)
    found: dict[str, list[tuple[str, Any]]] = {view.name: [] for view in VIEWS}
    for view, key, state in views.items():
        found[view.name].append((key, state))
    return {name: sorted(states, key=lambda entry: entry[0]) for name, states in found.items()}


def test_every_position_gives_what_the_queries_gave_then(path: Path) -> None:
    """Through many snapshots and epochs, with the log closed and opened now and then."""

    def reopen(log: Log) -> Log:
        log.close()
        return open_log(path)

    seen = {}
    log = open_log(path, "id")
    for log in busy(log, 150, reopen=reopen):  # noqa: B020  # the log that goes on
        seen[log.position] = everything(log)
    with log.db.read() as txn:
        marks = snapshots.marks(log.db, txn)
    assert len(marks) > 15
    assert len({mark.epoch for mark in marks}) > 3
    for position, then in seen.items():
        past = log.at(position)
        assert past.position == position
        assert everything(past) == then == folded(log, position)
        for key, state in then["container"]:
            assert past.get(CONTAINERS, key) == state
        assert past.scan(CONTAINERS, "0", 2) == then["container"][:2]
    assert everything(log.at(0)) == {view.name: [] for view in VIEWS}
    log.verify()
    log.close()


@pytest.mark.parametrize("position", [-1, 99])
def test_what_is_not_in_the_log_is_refused(log: Log, position: int) -> None:
    told(log, BORN, made(1))
    with pytest.raises(NotInHistory, match="position"):
        log.at(position)


def test_a_snapshot_is_a_cache(log: Log) -> None:
    """Dropped, nothing is lost; made again, they are sound."""
    for _ in busy(log, 60):
        pass
    before = [everything(log.at(position)) for position in range(log.position + 1)]
    tables = dump(log)

    def drop(txn: Any) -> tuple[None, int, int]:
        for name in ("past", "mark"):
            txn.drop(log.db.tables[name], delete=False)
        return None, 2, 0

    log.db.write(drop)
    assert [everything(log.at(position)) for position in range(log.position + 1)] == before
    log.verify()
    log.rebuild()
    assert {name: table for name, table in dump(log).items() if name not in ("past", "mark")} == {
        name: table for name, table in tables.items() if name not in ("past", "mark")
    }
    assert len(dump(log)["mark"]) > 5
    assert [everything(log.at(position)) for position in range(log.position + 1)] == before
    told(log, made(1000))
    log.verify()


@hypothesis.given(history=histories(), cut=st.integers(0, 10**6))
def test_any_valid_history_can_be_travelled(
    history: list[tuple[Proposed, ...]], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = open_log(tmp_path_factory.mktemp("log") / "log", "id")
    try:
        for number, events in enumerate(history):
            append(log, *events, time=number)
            if number % 7 == 3:  # a batch in which everything is refused
                log.append([member(made(1, expect=9))])
        position = cut % (log.position + 1)
        assert everything(log.at(position)) == folded(log, position)
        log.verify()
    finally:
        log.close()


@hypothesis.given(
    times=st.lists(st.integers(0, 60), min_size=1, max_size=50), asked=st.integers(-1, 61), late=st.booleans()
)
@hypothesis.settings(deadline=timedelta(seconds=5))
def test_an_instant_is_the_last_position_at_or_before_it(
    times: list[int], asked: int, late: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """However the clock stepped: log order counts, and the mirror image for the first at or after it."""
    log = open_log(tmp_path_factory.mktemp("log") / "log", "id")
    try:
        for number, time in enumerate(times):
            append(log, made(number), time=time)
        if late:
            log.rebuild()
        assert log.position_at(asked) == max(
            (number for number, time in enumerate(times, 1) if time <= asked), default=0
        )
        assert log.position_from(asked) == min(
            (number for number, time in enumerate(times, 1) if time >= asked), default=len(times) + 1
        )
    finally:
        log.close()
