"""The envelope: what the log knows of every event besides the event itself.

A record's position orders it among all records; its version orders it within its stream. Its time is for
people to read and is never used for order, since clocks step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from lading.events.facts import Event
    from lading.events.ids import CommandId

__all__ = ["UNKNOWN", "Actor", "Proposed", "Record", "set_chain"]


@attrs.frozen
class Actor:
    """Who asked. Each of ``uid``, ``gid`` and ``pid`` is None when it is not known; unknown is never root."""

    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    client: str = ""


UNKNOWN = Actor()


@attrs.frozen
class Proposed:
    """An event that somebody wants appended to ``stream``.

    ``expect`` is the number of events the stream must hold at that moment (0 = it must not exist yet;
    None = any). It is checked inside the write transaction; of several events for one stream in one
    append, only the first needs it.
    """

    stream: str
    event: Event
    expect: int | None = None


@attrs.frozen
class Record:
    """One entry of the log.

    ``position``: from 1, without a gap, over the whole log. ``version``: from 1 within the stream.
    ``event_id``: 32 hexadecimal digits. ``time``: nanoseconds since 1970, UTC. ``command``: the request
    that led here. ``cause``: the position of the record that this one answers, 0 for none.
    ``chain``: sha256 over the previous record's chain and this record's bytes.
    """

    position: int
    stream: str
    version: int
    event_id: str
    time: int
    actor: Actor
    command: CommandId
    cause: int
    event: Event
    chain: bytes


def set_chain(record: Record, chain: bytes) -> Record:
    """``record``, which nobody else has seen yet, with its ``chain``: for a tenth of what a copy costs."""
    object.__setattr__(record, "chain", chain)
    return record
