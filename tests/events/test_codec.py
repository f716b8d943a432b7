"""Records as bytes: the golden bytes of every event, round trips, and distrust of anything else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import attrs
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import EVENTS, records

from lading.events import codec
from lading.events.claims import ClaimReleased, ClaimTaken
from lading.events.codec import GENESIS, SCHEMAS, decode_record, encode_record, event_tag, upcast
from lading.events.compaction import LogCompacted
from lading.events.container import (
    Created,
    Exited,
    KillRequested,
    Paused,
    Removed,
    RemoveFailed,
    RemoveRequested,
    Renamed,
    Started,
    StartFailed,
    StartRequested,
    StopRequested,
    Unpaused,
)
from lading.events.envelope import UNKNOWN, Actor, Record
from lading.events.errors import StoreCorrupt
from lading.events.execs import ExecCreated, ExecExited, ExecRequested, ExecSpec
from lading.events.image import (
    ImageAdded,
    ImageConfig,
    ImageRemoved,
    LayerAdded,
    LayerArchived,
    LayerPacked,
    LayerRemoved,
    LayerRemoveRequested,
    LayerSealed,
    ManifestAdded,
    Pushed,
    Tagged,
    Untagged,
)
from lading.events.settings import (
    ContainerSettings,
    Device,
    HealthCheck,
    Mount,
    Resources,
    RestartPolicy,
    Ulimit,
)
from lading.events.spec import ContainerSpec, ProcessId
from lading.events.store import StoreCreated
from lading.events.transfer import (
    LeaseReleased,
    LeaseTaken,
    PullFailed,
    PullFinished,
    PullProgressed,
    PullRequested,
)
from lading.events.upkeep import (
    Configured,
    HealthChanged,
    Rebased,
    RestartCancelled,
    RestartScheduled,
    Updated,
)
from lading.events.volume import VolumeCreated, VolumeFilled, VolumeRemoved, VolumeRemoveRequested

GOLDEN_FILE = Path(__file__).parent.parent / "golden" / "records.json"
GOLDEN: dict[str, str] = json.loads(GOLDEN_FILE.read_text())
"""``tag/schema`` -> the stored bytes of one record, in hexadecimal. An entry is never changed, only added."""

IMAGE, OTHER = "sha256:" + "1a" * 32, "sha256:" + "2b" * 32
LAYERS, DIFF_IDS = ("sha256:" + "3c" * 32, "sha256:" + "4d" * 32), ("sha256:" + "5e" * 32, "sha256:" + "6f" * 32)
SPEC = ContainerSpec(
    image=IMAGE,
    image_name="docker.io/library/app:1",
    layers=LAYERS,
    args=("/bin/sh", "-c", "exit 3"),
    entrypoint=("/bin/sh", "-c"),
    cmd=("exit 3",),
    env=("PATH=/bin", "WORD=höhe"),
    working_dir="/srv",
    user="1000:1000",
    hostname="box",
    labels={"b": "2", "a": "1"},
    network="none",
    open_stdin=True,
    stdin_once=False,
    auto_remove=True,
    stop_signal="SIGQUIT",
    stop_timeout=-1,
    read_only=True,
)
CONFIG = ImageConfig(
    entrypoint=("/e",),
    cmd=("c", "d"),
    env=("A=1",),
    working_dir="/w",
    user="u",
    labels={"z": "", "k": "v"},
    exposed_ports=("80/tcp",),
    volumes=("/data",),
    stop_signal="SIGINT",
)
RESOURCES = Resources(
    memory=2**29,
    memory_reservation=2**28,
    memory_swap=-1,
    swappiness=10,
    oom_kill_disable=True,
    cpu_shares=512,
    cpu_period=100_000,
    cpu_quota=50_000,
    nano_cpus=1_500_000_000,
    cpuset_cpus="0-1",
    cpuset_mems="0",
    pids=64,
    blkio_weight=300,
    read_bps=("/dev/sda:1048576",),
    write_bps=("/dev/sda:2097152",),
    read_iops=("/dev/sda:100",),
    write_iops=("/dev/sda:200",),
)
SETTINGS = ContainerSettings(
    tty=True,
    init=True,
    resources=RESOURCES,
    restart=RestartPolicy("on-failure", 5),
    health=HealthCheck(("CMD-SHELL", "true"), 10**9, 2 * 10**9, 3 * 10**9, 4 * 10**9, 7),
    restart_unhealthy=True,
    deadline=60 * 10**9,
    mounts=(
        Mount("bind", "/srv", "/data", True, False, "", "rslave", False),
        Mount("volume", "cache", "/cache", subpath="a/b", anonymous=True),
        Mount("tmpfs", "", "/scratch", size=2**20, mode=0o1777, options=("exec",)),
    ),
    shm_size=2**20,
    privileged=True,
    cap_add=("NET_ADMIN",),
    cap_drop=("ALL",),
    no_new_privileges=True,
    seccomp="unconfined",
    masked=("/proc/kcore",),
    readonly=(),
    devices=(Device("/dev/fuse", "/dev/fuse", "rw"),),
    device_rules=("c 10:229 rwm",),
    groups=("video", "44"),
    ulimits=(Ulimit("nofile", 1024, 4096),),
    sysctls={"net.core.somaxconn": "64"},
    oom_score=-500,
    domainname="example.org",
    extra_hosts=("db:10.0.0.2",),
    dns=("10.0.0.1",),
    dns_search=("example.org",),
    dns_options=("ndots:2",),
    pid_mode="host",
    ipc_mode="host",
    uts_mode="host",
    cgroupns_mode="host",
    log_size=2**20,
    log_files=3,
    volumes=("/cache",),
    forked_from="7b" * 32,
)
EXAMPLES: tuple[Any, ...] = (
    StoreCreated("0f" * 16, 2, "0.2.0"),
    Created("7a" * 32, "web", SPEC),
    StartRequested(1),
    Started(1, ProcessId("b0075ca1-0000-4000-8000-000000000000", 4242, 987654321)),
    StartFailed(2, 127, 'exec: "nope": not found'),
    StopRequested("SIGTERM", 10),
    KillRequested("SIGHUP"),
    Exited(1, None, 0, "the machine was rebooted", True),
    Paused(),
    Unpaused(),
    Configured(SETTINGS),
    Updated(RESOURCES, RestartPolicy("always")),
    HealthChanged(3, "unhealthy", "connection refused"),
    RestartScheduled(800_000_000, 3, "unhealthy"),
    RestartCancelled(),
    Rebased(LAYERS[1]),
    ExecCreated(
        "8c" * 32,
        "7a" * 32,
        2,
        ExecSpec(("ls", "-l"), ("A=1",), "/srv", "1000", True, True, False, False, True),
    ),
    ExecRequested(),
    ExecExited(None, "its keeper was gone"),
    VolumeCreated("data", {"a": "1"}, {"type": "tmpfs"}, True),
    VolumeFilled("7a" * 32),
    VolumeRemoveRequested(),
    VolumeRemoved(),
    LayerSealed(LAYERS[1], "7a" * 32),
    Renamed("web", "api"),
    RemoveRequested(True),
    RemoveFailed("device busy"),
    Removed("api"),
    LayerAdded(LAYERS[1], DIFF_IDS[1], LAYERS[0], 2**40, 4096, 12, True),
    ImageAdded(IMAGE, LAYERS, DIFF_IDS, CONFIG, "2024-01-02T03:04:05Z", "amd64", "linux", "import", "by hand"),
    Tagged("docker.io/library/app:1", IMAGE, OTHER),
    ClaimTaken("host-port", "0.0.0.0:8080/tcp", "container/" + "7a" * 32),
    ClaimReleased("volume-name", "data", "container/" + "7a" * 32),
    LogCompacted(1, 250, "8b" * 32, "9c" * 32, "1-250.jsonl.gz", "ad" * 32),
    Untagged("docker.io/library/app:1", IMAGE),
    ImageRemoved(IMAGE),
    ManifestAdded(IMAGE, OTHER, "application/vnd.oci.image.manifest.v1+json", 4096),
    Pushed(IMAGE, "docker.io/library/app:1", OTHER, 1234),
    LayerArchived(LAYERS[1], "blob", DIFF_IDS[0], 2**33, "application/vnd.oci.image.layer.v1.tar+zstd", 8192),
    LayerPacked(LAYERS[0], DIFF_IDS[0], 2**20, "application/vnd.oci.image.layer.v1.tar+gzip"),
    LayerRemoveRequested(LAYERS[0]),
    LayerRemoved(LAYERS[0]),
    PullRequested("docker.io/library/app:1", "linux/arm64/v8"),
    PullProgressed(4, 1, 2**31, 2**20),
    PullFinished(IMAGE, OTHER, 2**31),
    PullFailed("digest mismatch in layer 3c3c3c: expected it, got another"),
    LeaseTaken("push", LAYERS),
    LeaseReleased("push"),
)
PREVIOUS = hashlib.sha256(b"the record before").digest()
ACTOR = Actor(0, None, 77, "docker/27.0")


def example_record(event: Any) -> Record:
    return Record(300, "some/stream", 2, "ab" * 16, 1_700_000_000_000_000_000, ACTOR, "cd" * 16, 299, event, b"")


def golden_key(event: Any) -> str:
    return f"{event_tag(event)}/{SCHEMAS[event_tag(event)][1]}"


PLAIN = example_record(EXAMPLES[2])


def body_of(record: Record) -> list[Any]:
    return msgpack.unpackb(encode_record(record, PREVIOUS)[0][:-32])  # type: ignore[no-any-return]


def stored_as(body: Any) -> bytes:
    """``body`` with a chain that is right, so that only what it says can be wrong."""
    packed = msgpack.packb(body)
    return bytes(packed) + hashlib.sha256(PREVIOUS + packed).digest()


def test_every_event_has_one_example_one_strategy_and_one_tag() -> None:
    today = {cls for cls, _ in SCHEMAS.values()}
    assert {type(event) for event in EXAMPLES} == today == EVENTS.keys()
    assert len(today) == len(SCHEMAS) == len(EXAMPLES)
    for tag, (cls, _) in SCHEMAS.items():
        assert event_tag(next(event for event in EXAMPLES if type(event) is cls)) == tag


def test_every_schema_ever_released_has_golden_bytes() -> None:
    """From 1 to today's for each tag, and none for what is not known."""
    known = {f"{tag}/{schema}" for tag, (_, today) in SCHEMAS.items() for schema in range(1, today + 1)}
    assert GOLDEN.keys() == known


@pytest.mark.parametrize("event", EXAMPLES, ids=golden_key)
def test_golden_bytes_both_ways(event: Any) -> None:
    """Byte for byte what was released; a difference is a new schema version, never a new golden entry."""
    record = example_record(event)
    stored, chain = encode_record(record, PREVIOUS)
    assert stored.hex() == GOLDEN.get(golden_key(event))
    assert chain == stored[-32:] == hashlib.sha256(PREVIOUS + stored[:-32]).digest()
    assert decode_record(stored, 300, PREVIOUS) == attrs.evolve(record, chain=chain)


@pytest.mark.parametrize("key", GOLDEN)
def test_every_golden_record_can_be_read(key: str) -> None:
    """Old schemas too: upcast to what holds the tag today."""
    record = decode_record(bytes.fromhex(GOLDEN[key]), 300, PREVIOUS)
    assert type(record.event) is SCHEMAS[key.partition("/")[0]][0]


def test_layout_of_the_array_is_as_documented() -> None:
    assert body_of(PLAIN) == [
        *(1, 300, "some/stream", 2, "ab" * 16, 1_700_000_000_000_000_000, [0, None, 77, "docker/27.0"]),
        *("cd" * 16, 299, "container.start-requested", 1, [1]),
    ]
    assert bytes(32) == GENESIS


def test_maps_are_written_in_the_order_of_their_keys() -> None:
    """So that the same fact has the same bytes, and so the same chain."""
    one = example_record(Created("c" * 64, "web", attrs.evolve(SPEC, labels={"a": "1", "b": "2"})))
    two = example_record(Created("c" * 64, "web", attrs.evolve(SPEC, labels={"b": "2", "a": "1"})))
    assert encode_record(one, GENESIS) == encode_record(two, GENESIS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_round_trip_of_every_event(kind: type[Any], data: st.DataObject) -> None:
    record = attrs.evolve(data.draw(records), event=data.draw(EVENTS[kind]))
    stored, chain = encode_record(record, PREVIOUS)
    again = decode_record(stored, record.position, PREVIOUS)
    assert again == attrs.evolve(record, chain=chain)
    assert encode_record(again, PREVIOUS) == (stored, chain)


@given(records, st.binary(min_size=32, max_size=32))
def test_a_record_after_another_past_is_refused(record: Record, past: bytes) -> None:
    stored, _ = encode_record(record, PREVIOUS)
    assert decode_record(stored, record.position).event == record.event
    if past != PREVIOUS:
        with pytest.raises(StoreCorrupt, match="hash does not follow") as refused:
            decode_record(stored, record.position, past)
        assert refused.value.position == record.position


mutations = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, 10_000), st.integers(1, 255)),
    st.tuples(st.just("cut"), st.integers(1, 10_000), st.just(0)),
    st.tuples(st.just("drop"), st.integers(0, 10_000), st.just(0)),
    st.tuples(st.just("insert"), st.integers(0, 10_000), st.integers(0, 255)),
)


def mutated(stored: bytes, kind: str, at: int, byte: int) -> bytes:
    at %= len(stored)
    if kind == "flip":
        return stored[:at] + bytes([stored[at] ^ byte]) + stored[at + 1 :]
    if kind == "cut":
        return stored[:at]
    if kind == "drop":
        return stored[:at] + stored[at + 1 :]
    return stored[:at] + bytes([byte]) + stored[at:]


def decoded_or_corrupt(stored: bytes, position: int) -> Record | StoreCorrupt:
    try:
        return decode_record(stored, position, PREVIOUS)
    except StoreCorrupt as error:
        return error


@pytest.mark.slow
@settings(max_examples=500)
@given(st.sampled_from(EXAMPLES).map(example_record) | records, mutations)
def test_damage_is_told_as_damage_of_that_record(record: Record, mutation: tuple[str, int, int]) -> None:
    """With the chain every change is found; without it, none gives any other exception."""
    damaged = mutated(encode_record(record, PREVIOUS)[0], *mutation)
    with pytest.raises(StoreCorrupt) as refused:
        decode_record(damaged, record.position, PREVIOUS)
    assert refused.value.position == record.position
    body = damaged[:-32]
    again = decoded_or_corrupt(body + hashlib.sha256(PREVIOUS + body).digest(), record.position)
    if isinstance(again, Record):
        encode_record(again, PREVIOUS)
    else:
        assert again.position == record.position
        assert f"at position {record.position}:" in str(again)


@given(st.binary(max_size=200), st.integers(1, 2**63))
@settings(max_examples=200)
def test_any_bytes_are_a_record_or_corrupt(stored: bytes, position: int) -> None:
    with pytest.raises(StoreCorrupt) as refused:
        decode_record(stored, position)
    assert refused.value.position == position


STRANGERS: tuple[Any, ...] = (None, True, 1, -1, 1.0, "x", b"x", [], [1], {}, {"a": "b"}, "abcd", [None] * 4)


@pytest.mark.parametrize(
    ("place", "of_type"),
    [
        pytest.param(0, (int,), id="format"),
        pytest.param(1, (int,), id="position"),
        pytest.param(2, (str,), id="stream"),
        pytest.param(3, (int,), id="version"),
        pytest.param(4, (str,), id="event_id"),
        pytest.param(5, (int,), id="time"),
        pytest.param(7, (str,), id="command"),
        pytest.param(8, (int,), id="cause"),
        pytest.param(9, (), id="tag"),
        pytest.param(10, (int,), id="schema"),
        pytest.param(11, (), id="fields"),
    ],
)
def test_every_part_of_the_envelope_has_its_type_or_is_corrupt(place: int, of_type: tuple[type, ...]) -> None:
    """As strict as the events: a float is no int, True is no 1, bytes are no text."""
    for stranger in STRANGERS:
        if type(stranger) in of_type or (place == 11 and stranger == [1]):
            continue
        body = body_of(attrs.evolve(PLAIN, position=1, version=1, time=1, cause=1))
        body[place] = stranger
        with pytest.raises(StoreCorrupt):
            pytest.fail(f"{stranger!r} was taken: {decode_record(stored_as(body), 1, PREVIOUS)}")


@pytest.mark.parametrize("place", range(4))
def test_every_part_of_the_actor_has_its_type_or_is_corrupt(place: int) -> None:
    for stranger in STRANGERS:
        if type(stranger) is str if place == 3 else type(stranger) is int or stranger is None:
            continue
        body = body_of(PLAIN)
        body[6][place] = stranger
        with pytest.raises(StoreCorrupt):
            pytest.fail(f"{stranger!r} was taken: {decode_record(stored_as(body), 300, PREVIOUS)}")


@pytest.mark.parametrize(
    "actor", ["abcd", b"abcd", {"1": 1, "2": 2, "3": 3, "4": 4}, [0, 0, 0], [0, 0, 0, "", 0], []]
)
def test_an_actor_is_a_list_of_four(actor: Any) -> None:
    body = body_of(PLAIN)
    body[6] = actor
    with pytest.raises(StoreCorrupt):
        decode_record(stored_as(body), 300, PREVIOUS)


@pytest.mark.parametrize("event", EXAMPLES, ids=golden_key)
def test_every_field_of_every_event_has_its_type_or_is_corrupt(event: Any) -> None:
    """Also when the chain is right: what is decoded can be trusted to be of the types it says."""
    fields = body_of(example_record(event))[11]
    for place, value in enumerate(fields):
        for stranger in (*STRANGERS, fields):
            body = body_of(example_record(event))
            body[11][place] = stranger
            try:
                again = decode_record(stored_as(body), 300, PREVIOUS)
            except StoreCorrupt:
                continue
            assert body_of(again)[11] == body[11]
            nullable = attrs.fields(type(event))[place].name == "exit_code"
            assert type(stranger) is type(value) or (nullable and type(stranger) in (int, type(None)))
    for wrong in ([*fields, 0], [fields], {}, None, *([fields[:-1]] if fields else [])):
        body = body_of(example_record(event))
        body[11] = wrong
        with pytest.raises(StoreCorrupt, match="at position 300"):
            decode_record(stored_as(body), 300, PREVIOUS)


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, 2), (0, 0), (1, 301), (9, "container.unknown"), (9, ["x"]), (10, 0), (10, 2), (10, -1)],
)
def test_unknown_formats_tags_and_schemas_are_corrupt(place: int, value: Any) -> None:
    body = body_of(PLAIN)
    body[place] = value
    with pytest.raises(StoreCorrupt, match="it can't be decoded") as refused:
        decode_record(stored_as(body), 300, PREVIOUS)
    assert refused.value.position == 300


def test_more_or_less_than_one_array_of_twelve_is_corrupt() -> None:
    body = body_of(PLAIN)
    packed = msgpack.packb(body)
    for wrong in (body[:-1], [*body, None], {"a": 1}, None, 1):
        with pytest.raises(StoreCorrupt):
            decode_record(stored_as(wrong), 300, PREVIOUS)
    for wrong_bytes in (packed + b"\xc0", packed[:-1], b"", b"\xc1", b"\x91" * 100_000):
        with pytest.raises(StoreCorrupt):
            decode_record(wrong_bytes + hashlib.sha256(PREVIOUS + wrong_bytes).digest(), 300, PREVIOUS)


def test_unknown_actor_is_not_root() -> None:
    stored, _ = encode_record(attrs.evolve(PLAIN, actor=UNKNOWN), PREVIOUS)
    actor = decode_record(stored, 300, PREVIOUS).actor
    assert (actor.uid, actor.gid, actor.pid, actor.client) == (None, None, None, "")


def test_old_schemas_are_brought_up_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    old = stored_as(body_of(PLAIN))
    tag = "container.start-requested"
    monkeypatch.setitem(codec.SCHEMAS, tag, (StartRequested, 3))
    monkeypatch.setitem(codec.UPCASTERS, (tag, 1), lambda fields: [*fields, "added in 2"])
    monkeypatch.setitem(codec.UPCASTERS, (tag, 2), lambda fields: [fields[0] * 10 + len(fields)])
    assert decode_record(old, 300, PREVIOUS).event == StartRequested(12)
    assert upcast(tag, 2, [7, "x"]) == [72]
    assert upcast(tag, 3, [7]) == [7]
    with pytest.raises(ValueError, match="has schema 4, and this release reads up to 3"):
        upcast(tag, 4, [7])
