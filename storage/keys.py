"""The log's tables and their keys.

::

    log      position                                       -> record bytes || chain (events/codec)
    name     stream name                                    -> the stream's number: the position of its first event
    stream   stream's number, version                       -> position
    command  command id, NUL, first position of an append   -> how many records that append has
    view     view name, NUL, key                            -> the state's bytes
    past     epoch, view name, NUL, key, NUL, position      -> the state's bytes then; empty: it was not there
    mark     position of a snapshot                         -> its epoch, entries so far, times (storage/snapshots)
    meta     "format", "store", "views", "kinds", "base"    -> see below

Numbers in keys are 8 bytes, big endian, so that they sort. ``log`` is the truth; every other table is made from
it and can be made again (``storage/rebuild``), except for what stands for records that were compacted away: the
snapshot at the base, and the name and last entry of each stream from before it. Streams are numbered so that new
entries of the index come near its end, instead of anywhere: a commit writes fewer pages.

``meta``: the format's number; the store's identity; the views' names and schemas; the kinds of event that occur
in the log; and, once the log was compacted, the base: the last position that is gone, and the chain there.
"""

from __future__ import annotations

import struct
from typing import Any

from lading.events.views import View

__all__ = ["TABLES", "U64", "command_key", "name_key", "past_key", "state_key", "stream_key", "view_key"]

TABLES = ("log", "name", "stream", "command", "view", "past", "mark", "meta")

U64 = struct.Struct(">Q")
TWO = struct.Struct(">QQ")

_LONGEST = 511
"""LMDB's MDB_MAXKEYSIZE."""
_AROUND = 2 * U64.size + 1
"""What ``past_key`` puts around a view's key: a state that can be stored can be kept in a snapshot."""


def view_key(view: View[Any], key: str) -> bytes:
    """Where the state at ``key`` of ``view`` is; ``ValueError`` for a key that can't be one."""
    return state_key(f"{view.name}\0{key}")


def state_key(text: str) -> bytes:
    """``view name NUL key`` as bytes, checked."""
    return _checked(text.encode(), _AROUND)


def name_key(stream: str) -> bytes:
    """Where the number of ``stream`` is; ``ValueError`` for a name that can't be one."""
    if not stream:
        raise ValueError("a stream needs a name")
    return _checked(stream.encode())


def stream_key(number: int, version: int) -> bytes:
    """Where the position of event ``version`` of the stream with this number is."""
    return TWO.pack(number, version)


def command_key(command: str, position: int) -> bytes:
    """Where the length of the append of ``command`` that begins at ``position`` is."""
    return _checked(command.encode() + b"\0" + U64.pack(position))


def past_key(epoch: int, state: bytes, position: int) -> bytes:
    """Where the state at key ``state`` of the view table, as of the snapshot at ``position``, is."""
    return U64.pack(epoch) + state + b"\0" + U64.pack(position)


def _checked(key: bytes, around: int = 0) -> bytes:
    if len(key) > _LONGEST - around:
        raise ValueError(
            f"a key of {len(key)} bytes is longer than {_LONGEST - around}, the most that can be stored"
        )
    return key
