"""What a running container uses, which processes it has, and freezing them: as the kernel has it."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from stage import IMAGE, Stage, agree, descriptors, output, printed

import lading
from lading.engine.containers.freezer import freeze, is_frozen, thaw
from lading.engine.containers.stats import Stats, read_stats
from lading.engine.containers.top import top
from lading.events.errors import HostError, Invalid
from lading.events.settings import Resources
from lading.storage.cgroups import cgroup_mode

pytestmark = [pytest.mark.real, pytest.mark.slow]

BUSY = "dd if=/dev/zero of=/dev/shm/file bs=1M count=20 2>/dev/null; sleep 1000 & echo ready; while :; do :; done"


@pytest.fixture(params=["crun", "runc"])
async def engine(request: pytest.FixtureRequest, stage: Stage) -> AsyncIterator[lading.Engine]:
    """An engine of either runtime."""
    async with stage.emptied(runtime=request.param) as engine:
        yield engine


def sample(engine: lading.Engine, made: lading.Container, *, own_network: bool = False) -> Stats:
    """A sample of a container that runs."""
    found = read_stats(engine.core.paths, made.id, made.state.process, own_network=own_network)
    assert found is not None
    return found


async def test_the_numbers_are_there_and_move(engine: lading.Engine) -> None:
    resources = Resources(memory=64 << 20, pids=33, nano_cpus=300_000_000)
    made = await engine.containers.create(IMAGE, ["sh", "-c", BUSY], resources=resources, network="none")
    await made.start()
    await printed(made, b"ready")
    agree(lambda: sample(engine, made).pids, 2)
    first = sample(engine, made, own_network=True)
    assert first.unified is (cgroup_mode() == "v2")
    assert first.memory_limit == 64 << 20
    assert 20 << 20 <= first.memory_usage <= 64 << 20
    assert first.memory_stat["shmem"] >= 20 << 20
    assert first.pids_limit == 33
    assert first.online_cpus == len(os.sched_getaffinity(0)) or first.online_cpus == os.cpu_count()
    assert first.network == {}
    await trio.sleep(0.5)
    second = sample(engine, made)
    for field in ("cpu_total", "cpu_user", "system_cpu", "time"):
        assert getattr(second, field) > getattr(first, field), field
    assert second.cpu_total - first.cpu_total < 0.5 * (second.time - first.time)  # it has 0.3 of a CPU
    assert second.throttling[1] > first.throttling[1]
    if not second.unified:
        assert abs(sum(second.per_cpu) - second.cpu_total) < 50_000_000
        assert second.memory_max >= second.memory_usage


async def test_a_sample_is_cheap_and_leaves_nothing_open(engine: lading.Engine) -> None:
    made = await engine.containers.create(IMAGE, ["sleep", "1000"])
    await made.start()
    process = made.state.process
    before = descriptors()
    times = []
    for _ in range(50):
        began = time.perf_counter()
        read_stats(engine.core.paths, made.id, process, own_network=True)
        times.append(time.perf_counter() - began)
    assert descriptors() == before
    assert min(times) < 0.002
    await made.stop(timeout=0)
    assert read_stats(engine.core.paths, made.id, process, own_network=True) is None
    assert read_stats(engine.core.paths, made.id, None, own_network=True) is None
    assert descriptors() == before


async def test_processes_are_the_hosts_numbers_and_the_hosts_ps(engine: lading.Engine) -> None:
    script = (
        "mkdir -p /tmp/bin; printf '#!/bin/sh\\necho forged' > /bin/ps 2>/dev/null; sleep 1111 & sleep 2222 & wait"
    )
    made = await engine.containers.create(IMAGE, ["sh", "-c", script])
    await made.start()
    paths = engine.core.paths
    with trio.fail_after(10):
        while len((found := await top(paths, made.id)).processes) < 3:
            await trio.lowlevel.checkpoint()
    assert found.titles[:3] == ("UID", "PID", "PPID")
    commands = {row[-1]: int(row[1]) for row in found.processes}
    assert {"sleep 1111", "sleep 2222"} < set(commands)
    assert made.pid in commands.values()
    for name, pid in commands.items():
        assert Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip() == name
    found = await top(paths, made.id, "-o pid,args")
    assert (found.titles, len(found.processes)) == (("PID", "COMMAND"), 3)
    found = await top(paths, made.id, "axf")  # which can't be together with a list
    assert sorted(int(row[0]) for row in found.processes) == sorted(commands.values())
    for words in ("-o args", "-o ppid=PID", "-o pid=PID,args=PID2", "-o pid\n"):
        with pytest.raises(Invalid):
            await top(paths, made.id, words)
    with pytest.raises(HostError, match=r"unknown|error"):
        await top(paths, made.id, "--no-such-option")


async def test_frozen_is_frozen(engine: lading.Engine) -> None:
    script = "while :; do echo x; sleep 0.01; done & while :; do echo y; sleep 0.01; done"
    made = await engine.containers.create(IMAGE, ["sh", "-c", script])
    await made.start()
    paths = engine.core.paths
    for _ in range(3):
        freeze(paths, made.id)
        assert is_frozen(paths, made.id)
        await trio.sleep(0.05)  # what is still in the pipe
        size = len(await output(made))
        await trio.sleep(0.1)
        assert len(await output(made)) == size
        thaw(paths, made.id)
        assert not is_frozen(paths, made.id)
        await trio.sleep(0.1)
        assert len(await output(made)) > size
    thaw(paths, made.id)
    await made.stop(timeout=0)
    thaw(paths, made.id)
    assert not is_frozen(paths, made.id)
    with pytest.raises(HostError, match="no cgroup with a freezer"):
        freeze(paths, made.id)
