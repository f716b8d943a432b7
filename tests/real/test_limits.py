"""Limits of a container that runs: changed, lifted, refused; and what becomes of those already changed then."""

from __future__ import annotations

from collections.abc import AsyncIterator

import attrs
import pytest
from stage import IMAGE, Stage, story

import lading
from lading.engine.oci.limits import apply_resources
from lading.events.errors import HostError, Invalid
from lading.events.settings import Resources
from lading.storage.cgroups import cgroup_mode, controller_mounts

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(cgroup_mode() == "v2", reason="the files of cgroup v1"),
]

MIB = 1 << 20
UNLIMITED = "9223372036854771712"
EATER = "head -c 40m /dev/zero > /dev/shm/file && echo full; sleep 1000"


@pytest.fixture(params=["crun", "runc"])
async def engine(request: pytest.FixtureRequest, stage: Stage) -> AsyncIterator[lading.Engine]:
    """An engine of either runtime."""
    async with stage.emptied(runtime=request.param) as engine:
        yield engine


def own(engine: lading.Engine, container: str, *names: str) -> list[str]:
    """What the container's cgroup has in these files, of the controller that each begins with."""
    group = f"lading/{engine.core.paths.run.name}/{container}"
    return [(controller_mounts()[name.partition(".")[0]] / group / name).read_text().strip() for name in names]


MEMORY = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
CPU = ("cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us")


async def test_every_limit_can_be_given_to_one_that_runs_and_taken_back(engine: lading.Engine) -> None:
    made = await engine.containers.create(IMAGE, ["sleep", "1000"])
    await made.start()
    usual = own(engine, made.id, *MEMORY, *CPU, "cpuset.cpus", "pids.max", "memory.soft_limit_in_bytes")
    asked = Resources(
        memory=64 * MIB,
        memory_reservation=32 * MIB,
        swappiness=3,
        oom_kill_disable=True,
        cpu_shares=100,
        nano_cpus=250_000_000,
        cpuset_cpus="0",
        pids=9,
    )
    await made.update(asked)
    assert own(engine, made.id, *MEMORY) == [str(64 * MIB), str(128 * MIB)]
    assert own(engine, made.id, *CPU) == ["100", "25000", "100000"]
    assert own(engine, made.id, "cpuset.cpus", "pids.max", "memory.swappiness") == ["0", "9", "3"]
    assert own(engine, made.id, "memory.oom_control")[0].startswith("oom_kill_disable 1")
    assert engine.core.settings(made.id).resources == asked
    assert story(engine, made.id)[-1] == "Updated"
    await made.update(Resources())
    assert own(engine, made.id, *MEMORY, *CPU, "cpuset.cpus", "pids.max", "memory.soft_limit_in_bytes") == usual
    assert own(engine, made.id, "memory.oom_control")[0].startswith("oom_kill_disable 0")


async def test_memory_goes_up_and_down_whatever_was_before(engine: lading.Engine) -> None:
    made = await engine.containers.create(IMAGE, ["sleep", "1000"], resources=Resources(memory=32 * MIB))
    await made.start()
    for memory, swap, both in (
        (128, 0, 256),
        (16, 0, 32),
        (200, 200, 200),
        (20, 300, 300),
        (64, -1, None),
        (8, 8, 8),
    ):
        await made.update(Resources(memory=memory * MIB, memory_swap=swap * MIB if swap > 0 else swap))
        expected = UNLIMITED if both is None else str(both * MIB)
        assert own(engine, made.id, *MEMORY) == [str(memory * MIB), expected], (memory, swap)


async def test_what_the_kernel_refuses_changes_nothing(engine: lading.Engine) -> None:
    made = await engine.containers.create(IMAGE, ["sh", "-c", EATER])
    await made.start()
    with made.logs(follow=True) as reader:
        async for _ in reader:
            break
    before = own(engine, made.id, *MEMORY, *CPU, "pids.max")
    with pytest.raises(HostError, match=r"memory\.limit_in_bytes"):
        await made.update(Resources(memory=8 * MIB, memory_swap=8 * MIB, cpu_shares=77, pids=5))
    assert own(engine, made.id, *MEMORY, *CPU, "pids.max") == before
    assert engine.core.settings(made.id).resources == Resources()
    # One that is refused late takes back those before it.
    given = Resources(memory=64 * MIB, cpu_shares=77, nano_cpus=10_000_000, pids=5, swappiness=9)
    apply_resources(engine.core.paths, made.id, given)
    assert own(engine, made.id, "pids.max", *CPU) == ["5", "77", "1000", "100000"]
    apply_resources(engine.core.paths, made.id, Resources(), given)
    with pytest.raises(HostError, match=r"cpuset\.cpus"):
        apply_resources(engine.core.paths, made.id, attrs.evolve(given, cpuset_cpus="7777"))
    assert own(engine, made.id, *MEMORY, *CPU, "pids.max") == before
    await made.stop(timeout=0)


async def test_bad_limits_are_refused_before_anything(engine: lading.Engine) -> None:
    made = await engine.containers.create(IMAGE, ["sleep", "1000"])
    await made.start()
    for resources in (Resources(memory=1), Resources(cpuset_cpus="0-999999999"), Resources(nano_cpus=10**15)):
        with pytest.raises(Invalid):
            await made.update(resources)
    assert "Updated" not in story(engine, made.id)
    await made.stop(timeout=0)
    with pytest.raises(HostError, match="has ended"):
        apply_resources(engine.core.paths, made.id, Resources(pids=3))
    await made.update(Resources(pids=3))  # of one that is down: for its next start
    await made.start()
    assert own(engine, made.id, "pids.max") == ["3"]
