"""A log, a journal on it, and the history that is read through both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from gate import Gate
from growing import growing

from lading.engine.history import follow, tail
from lading.engine.history.follow import History
from lading.engine.history.journal import Journal
from lading.storage.environment import open_log
from lading.storage.log import Log


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    opened = open_log(tmp_path / "log", "id")
    yield opened
    opened.close()


@pytest.fixture
def gate(log: Log) -> Gate:
    """What stands before the log's writer."""
    return Gate(log)


@pytest.fixture
async def journal(log: Log) -> AsyncIterator[Journal]:
    """A journal with three records, see ``growing``."""
    async with growing(log) as opened:
        yield opened


@pytest.fixture
def history(journal: Journal) -> History:
    return History(journal)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tail of twenty records and pages of eight: everything happens soon."""
    monkeypatch.setattr(tail, "_KEPT", 20)
    monkeypatch.setattr(tail, "_SLACK", 5)
    monkeypatch.setattr(follow, "_PAGE", 8)
    monkeypatch.setattr(follow, "_SKIP", 16)
