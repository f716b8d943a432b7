"""Stores with a history that nobody lived: written as records, to be drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lading.events.container import (
    Created,
    Exited,
    Removed,
    RemoveRequested,
    Renamed,
    Started,
    StartFailed,
    StartRequested,
    StopRequested,
)
from lading.events.envelope import Actor, Proposed
from lading.events.ids import container_stream, image_stream, tag_stream
from lading.events.image import ImageAdded, ImageConfig, Tagged
from lading.events.spec import ContainerSpec, ProcessId
from lading.events.store import StoreCreated
from lading.storage.environment import FORMAT, open_log
from lading.storage.log import Append

START = 1_740_000_000 * 10**9
"""2025-02-19T21:20:00Z, when every such history begins."""
SECOND = 10**9
IMAGE, OTHER = ("sha256:" + digit * 64 for digit in "12")
PROCESS = ProcessId("boot", 77, 2**63 + 1)

HOSTILE = "</script><script>window.hit=1</script><img src=x onerror='window.hit=2'>\u2028\u202e"

Told = tuple[float, str, Any]  # seconds after START, stream, event


def write_store(root: Path, told: Sequence[Told], commands: Sequence[str] = ()) -> None:
    """A store at ``root`` with a record for each of ``told``, after the one that makes it."""
    root.mkdir(mode=0o700)
    log = open_log(root / "log", "0" * 32)
    try:
        for index, (at, stream, event) in enumerate([(0, "engine", StoreCreated("0" * 32, FORMAT)), *told]):
            name = hashlib.sha256(str(index).encode()).hexdigest()[:32]
            command = commands[index - 1] if 0 < index <= len(commands) else name
            proposed = (Proposed(stream, event),)
            who = Actor(0, 0, 7, "tester")
            [answer] = log.append(
                [Append(proposed, (name,), START + round(at * SECOND), who, command, index // 2)]
            )
            assert isinstance(answer, tuple), answer
    finally:
        log.close()
    (root / "store.json").write_text(json.dumps({"store": "0" * 32, "format": FORMAT}))


def identity(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def spec(image_name: str = "app:1", labels: dict[str, str] | None = None) -> ContainerSpec:
    return ContainerSpec(IMAGE, image_name, (), ("serve",), labels=labels or {})


def image(at: float, which: str = IMAGE, tag: str = "docker.io/library/app:1", previous: str = "") -> list[Told]:
    added = ImageAdded(which, (), (), ImageConfig(), "", "amd64", "linux", "import", "")
    return [(at, image_stream(which), added), (at, tag_stream(tag), Tagged(tag, which, previous))]


def life(name: str, at: float, *steps: tuple[float, Any], recipe: ContainerSpec | None = None) -> list[Told]:
    """``name`` is created at ``at``; ``steps`` follow, each so many seconds after that."""
    stream = container_stream(identity(f"{name} {at}"))
    made = Created(identity(f"{name} {at}"), name, recipe or spec())
    return [(at, stream, made), *((at + after, stream, event) for after, event in steps)]


def run(at: float, length: float, code: int | None, number: int = 1) -> list[tuple[float, Any]]:
    return [(at, StartRequested(number)), (at, Started(number, PROCESS)), (at + length, Exited(number, code, 0))]


def removal(at: float, name: str) -> list[tuple[float, Any]]:
    return [(at, RemoveRequested(False)), (at + 1, Removed(name))]


def evening() -> list[Told]:
    """A hundred seconds with one of everything."""
    crash = [*run(1, 20, 1), *run(30, 20, 1, 2), (60, StartRequested(3)), (61, Started(3, PROCESS))]
    stopped = [*run(0, 40, 0)[:2], (40, StopRequested("SIGTERM", 10)), (60, Exited(1, 143, 0))]
    missing = [(1, StartRequested(1)), (2, StartFailed(1, 127, "no such file"))]
    told = [
        *image(0),
        *life("web", 1, *stopped, (70, Renamed("web", "old")), *removal(80, "old")),
        *life("crash", 5, *crash),
        *life("missing", 10, *missing),
        *life("lost", 12, *run(0, 5, None)),
        *image(50, OTHER, previous=IMAGE),
        *life("blink", 55, *run(0, 0, 0), (0, RemoveRequested(False)), (0, Removed("blink"))),
        *life("web", 90),
    ]
    return sorted(told, key=lambda step: step[0])
