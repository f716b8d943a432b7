"""What an update may ask for, and what it leaves as it is; in moby's words where it can't be."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from lading.engine.api.createlimits import Machine, changed, parse_resources
from lading.engine.http.message import HttpError
from lading.events.settings import Resources

V2 = Machine(True, frozenset(range(4)), frozenset((0,)))
MIB = 1 << 20


def update(known: Resources, **body: Any) -> Resources:
    resources, _ = parse_resources(body, V2, update=True)
    return changed(known, resources)


def test_an_update_changes_what_it_names() -> None:
    known = Resources(memory=64 * MIB, memory_swap=128 * MIB, cpu_shares=512, pids=10)
    assert update(known) == known
    assert update(known, PidsLimit=None, MemorySwappiness=None, OomKillDisable=None) == known
    assert update(known, CpuShares=100, CpusetCpus="0") == attrs.evolve(known, cpu_shares=100, cpuset_cpus="0")
    assert update(known, Memory=100 * MIB) == attrs.evolve(known, memory=100 * MIB)
    for unlimited in (-1, 0):
        assert update(known, PidsLimit=unlimited) == attrs.evolve(known, pids=0)
    assert update(known, MemorySwap=-1) == attrs.evolve(known, memory_swap=-1)
    assert update(Resources(), Memory=64 * MIB) == Resources(memory=64 * MIB)


@pytest.mark.parametrize(
    ("known", "body", "status", "words"),
    [
        (Resources(cpu_period=1000), {"NanoCpus": 10**9}, 409, "as CPU Period has already been set"),
        (Resources(cpu_quota=1000), {"NanoCpus": 10**9}, 409, "as CPU Quota has already been set"),
        (Resources(nano_cpus=10**9), {"CpuPeriod": 1000}, 409, "as NanoCPUs has already been set"),
        (Resources(nano_cpus=10**9), {"CpuQuota": 1000}, 409, "as NanoCPUs has already been set"),
        (
            Resources(memory=64 * MIB, memory_swap=128 * MIB),
            {"Memory": 129 * MIB},
            409,
            "Memory limit should be smaller than already set memoryswap limit",
        ),
        (Resources(memory=64 * MIB), {"Memory": 129 * MIB}, 409, "already set memoryswap limit"),
        (Resources(), {"MemorySwap": 64 * MIB}, 400, "You should always set the Memory limit"),
        (Resources(memory=64 * MIB), {"MemorySwap": 63 * MIB}, 400, "should be larger than memory limit"),
        (Resources(memory=64 * MIB), {"MemoryReservation": 65 * MIB}, 400, "memory reservation limit"),
        (Resources(), {"Memory": 1}, 400, "Minimum memory limit allowed is 6MB"),
        (Resources(), {"NanoCpus": 5 * 10**9}, 400, "Range of CPUs is from 0.01 to 4.00"),
    ],
    ids=str,
)
def test_an_update_that_can_not_be_is_refused(
    known: Resources, body: dict[str, Any], status: int, words: str
) -> None:
    with pytest.raises(HttpError) as refusal:
        update(known, **body)
    assert (refusal.value.status, words in refusal.value.message) == (status, True), refusal.value.message


def test_the_machine_is_looked_at() -> None:
    found = Machine.probe(cgroup_v2=True)
    assert found.cpus
    assert 0 in found.mems
