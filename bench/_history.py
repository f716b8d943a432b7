"""The history that the benches write and read: whole lives of containers, a thousand under way at any time.

Six events a life (created, start requested, started, exited, remove requested, removed), each its own append
as the engine makes them, with a recipe of ordinary size: what an image with an entrypoint, six variables and
three labels gives.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lading.events.container import Created, Exited, Removed, RemoveRequested, Started, StartRequested
from lading.events.envelope import Actor, Proposed
from lading.events.ids import CommandId, ContainerId, container_stream
from lading.events.spec import ContainerSpec, ProcessId
from lading.storage.environment import open_log
from lading.storage.log import Append, Log

ACTOR = Actor(0, 0, 4242, "lading")
BOOT = "b0075ca1-0000-4000-8000-000000000000"
NOW = 1_700_000_000_000_000_000
UNDER_WAY = 1000


def hexes(*words: object) -> str:
    """64 hexadecimal digits that depend on ``words`` alone."""
    return hashlib.sha256(repr(words).encode()).hexdigest()


SPEC = ContainerSpec(
    image=f"sha256:{hexes('image')}",
    image_name="docker.io/library/web:1.27",
    layers=tuple(f"sha256:{hexes('layer', number)}" for number in range(4)),
    args=("/docker-entrypoint.sh", "nginx", "-g", "daemon off;"),
    entrypoint=("/docker-entrypoint.sh",),
    cmd=("nginx", "-g", "daemon off;"),
    env=(
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
        "VERSION=1.27.3",
        "A=1",
        "B=2",
        "C=3",
        "TZ=UTC",
    ),
    hostname="web",
    labels={"maintainer": "somebody@example.org", "app": "web", "tier": "front"},
    stop_signal="SIGQUIT",
)


def life(number: int, salt: str = "") -> Iterator[Proposed]:
    """The events of container ``number``, each expecting the version that the one before it left."""
    container = hexes(salt, number)
    name = f"web-{salt}{number}"
    events: tuple[Any, ...] = (
        Created(ContainerId(container), name, SPEC),
        StartRequested(1),
        Started(1, ProcessId(BOOT, 1000 + number % 30000, 123456 + number)),
        Exited(1, 0, NOW + number),
        RemoveRequested(False),
        Removed(name),
    )
    for version, event in enumerate(events):
        yield Proposed(container_stream(container), event, version)


def history() -> Iterator[Proposed]:
    """Lives without end, ``UNDER_WAY`` of them interleaved."""
    number = UNDER_WAY
    lives = [life(each) for each in range(UNDER_WAY)]
    # Not all at the same step: one whose turn it is may be anywhere in its life.
    for at, each in enumerate(lives):
        for _ in range(at % 6):
            yield next(each)
    while True:
        for at in range(UNDER_WAY):
            event = next(lives[at], None)
            if event is None:
                lives[at] = life(number)
                number += 1
                event = next(lives[at])
            yield event


def appends(count: int) -> Iterator[Append]:
    """The first ``count`` events of ``history``, each an append of its own."""
    for number, proposed in zip(range(count), history(), strict=False):
        identity = hexes("event", number)
        yield Append((proposed,), (identity[:32],), NOW + number * 1000, ACTOR, identity[32:])


def written(directory: Path, count: int) -> Log:
    """A log of ``count`` records, written in batches."""
    log = open_log(directory, "be" * 16)
    batch: list[Append] = []
    for append in appends(count):
        batch.append(append)
        if len(batch) == 5000:
            log.append(batch)
            batch.clear()
    log.append(batch)
    return log


def populated(directory: Path, records: int, containers: int) -> tuple[Log, str]:
    """A log of ``records`` in which ``containers`` exist at the end, started at the beginning; and the id of
    one.
    """
    log = open_log(directory, "be" * 16)
    lives = [life(number, "stays-") for number in range(containers)]
    stays = [next(each) for _ in range(3) for each in lives]
    batch: list[Append] = []
    for number, proposed in zip(range(records), itertools.chain(stays, history()), strict=False):
        identity = hexes("event", number)
        batch.append(
            Append((proposed,), (identity[:32],), NOW + number * 1000, ACTOR, CommandId(f"{number:032x}"))
        )
        if len(batch) == 5000:
            log.append(batch)
            batch.clear()
    log.append(batch)
    one = stays[0].stream.partition("/")[2]
    return log, one
