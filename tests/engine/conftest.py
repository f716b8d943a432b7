"""A log, a journal on it, and the history that is read through both; an HTTP server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from gate import Gate
from growing import growing
from httpcalls import QUICK, Start

from lading.engine.history import follow, tail
from lading.engine.history.follow import History
from lading.engine.history.journal import Journal
from lading.engine.http.message import Handler
from lading.engine.http.server import Limits, serve
from lading.engine.http.unix_socket import listen_unix
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


@pytest.fixture
def start(tmp_path: Path, nursery: trio.Nursery) -> Start:
    """Serves a handler, and tells where."""

    async def start(handler: Handler, *, limits: Limits = QUICK, **options: Any) -> Path:
        path = tmp_path / "s"
        await nursery.start(partial(serve, [listen_unix(path)], handler, limits=limits, **options))
        return path

    return start
