"""Hostile bytes: whatever is read as a record or a state is one, or refused as documented, soon and in bounds."""

from __future__ import annotations

import json
import random
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plainviews import MemoryViews
from strategies import container_states, records

from lading.events.codec import GENESIS, decode_record, decode_state, encode_record, encode_state
from lading.events.container import ContainerState
from lading.events.envelope import Record
from lading.events.errors import StoreCorrupt
from lading.events.execs import ExecCreated, evolve_exec
from lading.events.ids import ChainId
from lading.events.image import GoingState
from lading.events.upkeep import Configured, SupervisionState
from lading.events.views import EXECS, GOING, SETTINGS, SUPERVISION, VIEWS, project

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "records.json").read_text())
BODIES = tuple(bytes.fromhex(stored)[:-32] for stored in GOLDEN.values())
"""The golden records without their chains: what is told of a body must hold whatever its chain."""
POSITION = 300
CHAIN = bytes(32)


def golden_states() -> Iterator[tuple[type[Any], bytes]]:
    """A state of each view, with its class."""
    views = MemoryViews()
    images = ("layer.added/1", "layer.archived/1", "image.added/1", "image.manifest-added/1", "tag.set/1")
    others = ("pull.requested/1", "lease.taken/1", "volume.created/1", "layer.sealed/1")
    for key in ("container.created/1", *images, *others):
        project(decode_record(bytes.fromhex(GOLDEN[key]), POSITION), views)
    configured = decode_record(bytes.fromhex(GOLDEN["container.configured/1"]), POSITION).event
    execution = decode_record(bytes.fromhex(GOLDEN["exec.created/1"]), POSITION).event
    assert isinstance(configured, Configured)
    assert isinstance(execution, ExecCreated)
    views.put(SETTINGS, "x", configured.settings)
    views.put(SUPERVISION, "x", SupervisionState(1, 2, 3, True, True, "unhealthy"))
    running = evolve_exec(None, execution, 1)
    assert running is not None
    views.put(EXECS, "x", running)
    views.put(GOING, "x", GoingState(ChainId("x"), 1))
    for view, _, state in views.items():
        yield view.state, encode_state(state)


STATES = tuple(golden_states())

HOSTILE: tuple[bytes, ...] = (
    *(b"\xc1", b"\xc0", b"\xc2", b"\xc3", b"\x00", b"\xff", b"\x80", b"\x90", b"\xa0"),  # never used; the small
    *(b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xda\xff\xff", b"\xd9\xff"),  # texts that are not there
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xde\xff\xff"),  # nor are these lists
    *(
        b"\x91" * 30,
        b"\x91" * 1000 + b"\xc0",
        b"\x91" * 2000,
        b"\x81\xa1a" * 600,
        b"\xdd\x00\x00\x00\x01" * 1100,
    ),  # deep
    *(b"\xca\x7f\xc0\x00\x00", b"\xcb\x7f\xf8" + bytes(6), b"\xcb" + bytes(8)),  # not a number, and 0.0
    *(b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7), b"\xcd\x00\x01"),  # the ends of 64 bits; 1 in two bytes
    *(b"\xd6\xff" + bytes(4), b"\xd7\xff" + b"\xff" * 8, b"\xc7\x0c\xff" + b"\xff" * 12),  # timestamps
    *(b"\xc7\x05\xff12345", b"\xd4\x01\x02", b"\xd8\x7f" + bytes(16), b"\xc9\xff\xff\xff\xff\x01"),  # extensions
    *(b"\xc4\x01x", b"\xa1\xff", b"\xa2\xc0\x80", b"\xa3\xed\xa0\x80", b"\xa4\xf4\x90\x80\x80"),  # bytes; no UTF-8
    *(b"\x81\x01\x02", b"\x81\xc4\x01a\xa1b", b"\x81\x90\x01", b"\x82\xa1a\xa1b\xa1a\xa1c"),  # maps with odd keys
)

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**64 - 1, -(2**63), 1.0, float("nan"), "", "x", "\0", b"", b"x", [], {}),
    *([None], [[]], {"a": "b"}, {"a": 1}, {b"a": "b"}, ["x"] * 20, "created", "running", "r" * 300),
    *(msgpack.ExtType(1, b"x"), msgpack.Timestamp(1, 2), [[[[[[]]]]]]),
)


def flip(draw: random.Random, body: bytes) -> bytes:
    at = draw.randrange(len(body))
    return body[:at] + bytes([body[at] ^ (1 << draw.randrange(8))]) + body[at + 1 :]


def overwrite(draw: random.Random, body: bytes) -> bytes:
    at = draw.randrange(len(body))
    return body[:at] + bytes([draw.randrange(256)]) + body[at + 1 :]


def cut(draw: random.Random, body: bytes) -> bytes:
    return body[: draw.randrange(len(body))]


def insert(draw: random.Random, body: bytes) -> bytes:
    at = draw.randrange(len(body) + 1)
    return body[:at] + draw.randbytes(draw.randint(1, 8)) + body[at:]


def drop(draw: random.Random, body: bytes) -> bytes:
    at = draw.randrange(len(body))
    return body[:at] + body[at + draw.randint(1, 8) :]


def splice(draw: random.Random, body: bytes) -> bytes:
    other = draw.choice(BODIES)
    return body[: draw.randrange(len(body))] + other[draw.randrange(len(other)) :]


def plant(draw: random.Random, body: bytes) -> bytes:
    """Something hostile in the middle, in addition or instead."""
    at, seed = draw.randrange(len(body) + 1), draw.choice(HOSTILE)
    return body[:at] + seed + body[at + draw.choice((0, 1, len(seed))) :]


def misdeclare(draw: random.Random, body: bytes) -> bytes:
    """Another length where one may be declared."""
    at = draw.randrange(len(body))
    return body[:at] + bytes([draw.choice(b"\xd9\xda\xdb\xdc\xdd\xde\xdf\xc4\xc5\xc6")]) + body[at + 1 :]


def exchange(draw: random.Random, body: bytes) -> bytes:
    """Well-formed, with one part somewhere within it of another type or value."""
    try:
        whole = msgpack.unpackb(body, strict_map_key=False)
    except (ValueError, TypeError):
        return flip(draw, body)
    place = within = whole
    while isinstance(within, list) and within:
        place, at = within, draw.randrange(len(within))
        within = within[at]
        if draw.random() < 0.3:
            break
    if not isinstance(place, list) or not place:
        return flip(draw, body)
    place[at] = draw.choice(VALUES)
    try:
        return bytes(msgpack.packb(whole))
    except (ValueError, TypeError):
        return flip(draw, body)


MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(flip, overwrite, cut, insert, drop, splice, plant, misdeclare, exchange, exchange),
)


def mutated(draw: random.Random, body: bytes) -> bytes:
    """``body`` after one to three mutations."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        body = draw.choice(MUTATIONS)(draw, body) if body else draw.randbytes(4)
    return body


def try_record(body: bytes) -> bool:
    """Whether ``body`` is a record; asserts that it is one in earnest, or refused as ``StoreCorrupt``.

    In earnest: what it was read as is written and read again as the same, so every part had its very type.
    """
    record = read(lambda: decode_record(body + CHAIN, POSITION), StoreCorrupt)
    if isinstance(record, StoreCorrupt):
        assert record.position == POSITION
        return False
    assert type(record) is Record
    stored, chain = encode_record(record, GENESIS)
    assert decode_record(stored, POSITION, GENESIS) == attrs.evolve(record, chain=chain)
    return True


def try_state(cls: type[Any], stored: bytes) -> bool:
    """Whether ``stored`` is a state of ``cls``; asserts that it is one in earnest, or a ``ValueError``."""
    state = read(lambda: decode_state(cls, stored), ValueError)
    if isinstance(state, ValueError):
        return False
    assert type(state) is cls
    assert decode_state(cls, encode_state(state)) == state
    return True


def read(decode: Callable[[], Any], refusal: type[Exception]) -> Any:
    """What ``decode`` gives, or its refusal, in words that somebody may read."""
    try:
        return decode()
    except refusal as error:
        told = error
    assert len(str(told)) < 2000
    return told


def fuzz(seed: int, count: int) -> tuple[int, int]:
    """``count`` mutations of records and as many of states; how many of them were ones."""
    draw = random.Random(seed)
    taken = [0, 0]
    for _ in range(count):
        began = time.perf_counter()
        taken[0] += try_record(mutated(draw, draw.choice(BODIES)))
        cls, stored = draw.choice(STATES)
        taken[1] += try_state(cls, mutated(draw, stored))
        assert time.perf_counter() - began < 5, "a few hundred bytes took seconds"
    return taken[0], taken[1]


def test_the_sources_are_sound() -> None:
    """Or else everything below would be refused for the wrong reason."""
    assert all(try_record(body) for body in BODIES)
    assert all(try_state(cls, stored) for cls, stored in STATES)
    assert {cls for cls, _ in STATES} == {view.state for view in VIEWS}


@pytest.mark.slow
def test_mutations_are_refused_as_documented_or_are_sound() -> None:
    """And some of both happen, so that both are tested."""
    for taken in fuzz(seed=1, count=10_000):
        assert 100 < taken < 8000


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_many_mutations_are_refused_as_documented_or_are_sound(seed: int) -> None:
    fuzz(seed=1000 + seed, count=250_000)


@pytest.mark.slow
@settings(max_examples=100)
@given(records, container_states, st.integers(0, 2**32))
def test_mutations_of_anything_are_refused_as_documented_or_are_sound(
    record: Record, state: ContainerState, seed: int
) -> None:
    draw = random.Random(seed)
    body = encode_record(attrs.evolve(record, position=POSITION), GENESIS)[0][:-32]
    for _ in range(10):
        try_record(mutated(draw, body))
        try_state(ContainerState, mutated(draw, encode_state(state)))


def test_every_hostile_value_in_every_place_is_refused_or_sound() -> None:
    """Each part of each record and state, replaced by each of them as it is."""
    for source, attempt in (
        *((body, try_record) for body in BODIES),
        *((stored, lambda bent, cls=cls: try_state(cls, bent)) for cls, stored in STATES),
    ):
        whole = msgpack.unpackb(source)
        packed = [msgpack.packb(part) for part in whole]
        head = source[:3] if source[0] == 0xDC else source[:1]
        for at in range(len(packed)):
            for seed in HOSTILE:
                attempt(b"".join((head, *packed[:at], seed, *packed[at + 1 :])))


def nested(depth: int, count: int, length: int) -> bytes:
    """``depth`` lists in one another, each said to have ``count`` parts, in ``length`` bytes."""
    lists = (b"\xdd" + struct.pack(">I", count)) * depth
    return lists + b"\xc0" * (length - len(lists))


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(nested(1, 2**32 - 1, 100), id="four billion parts"),
        pytest.param(nested(1000, 9_000, 10_000), id="a thousand lists of as many parts as there are bytes"),
        pytest.param(nested(1000, 1_000_000, 1_000_000), id="the same, longer"),
        pytest.param(nested(200_000, 1, 1_000_000), id="deeper than any stack"),
        pytest.param(b"\x9c" + b"\xdb\xff\xff\xff\xff" * 12, id="texts of four gigabytes"),
        pytest.param(b"\x9c" + b"\xc9\xff\xff\xff\xff\x01" * 12, id="extensions of four gigabytes"),
        pytest.param(b"\xdf\xff\xff\xff\xff" + b"\xa1a\xa1b" * 1000, id="a map of four billion"),
        pytest.param(b"\xdd\x00\x0f\x42\x40" + b"\xc0" * 1_000_000, id="a million parts that are there"),
    ],
)
def test_memory_and_time_are_bounded_by_what_is_there(body: bytes) -> None:
    """Never by what is declared: 16 bytes for each that was read, and what msgpack makes ready for its deepest
    stack of lists (1,024, each up to 10,000 parts)."""
    tracemalloc.start()
    began = time.perf_counter()
    try:
        assert not try_record(body)
        assert not try_state(ContainerState, body)
        assert tracemalloc.get_traced_memory()[1] < 16 * len(body) + 1024 * 10_000 * 8 + 2**20
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - began < 10
