"""What runs in a container and what it uses, as the kernel tells it."""

from __future__ import annotations

import os
import time

import pytest
import trio
from stage import IMAGE, Stage, printed

import lading
from lading.engine.api.statshape import docker_stats
from lading.engine.stats import read_stats
from lading.engine.top import top
from lading.events.errors import HostError, Invalid

pytestmark = [pytest.mark.real, pytest.mark.slow]

BUSY = ["sh", "-c", "sleep 1000 & head -c 30000000 /dev/zero > /file; sync; echo ready; while :; do :; done"]


async def busy(engine: lading.Engine, **options: object) -> lading.Container:
    made = await engine.containers.create(IMAGE, BUSY, **options)
    await made.start()
    await printed(made, b"ready")
    return made


@pytest.mark.parametrize("runtime", ["crun", "runc"])
async def test_top_tells_the_containers_processes_and_no_others(stage: Stage, runtime: str) -> None:
    async with stage.emptied(runtime=runtime) as engine:
        made = await busy(engine)
        titles, rows = top(engine.core, made.id)
        commands = [row[titles.index("CMD")] for row in rows]
        assert {int(row[titles.index("PID")]) for row in rows} >= {made.pid}
        assert sorted(command.split()[0] for command in commands) == ["sh", "sleep"]
        titles, rows = top(engine.core, made.id, "-o pid,comm")
        assert titles == ["PID", "COMMAND"]
        assert len(rows) == 2
        for wrong in ("-o comm", "-o pid,comm=PID", "--no-such-option"):
            with pytest.raises(Invalid):
                top(engine.core, made.id, wrong)


@pytest.mark.parametrize("runtime", ["crun", "runc"])
async def test_a_sample_tells_what_was_used(stage: Stage, runtime: str) -> None:
    async with stage.emptied(runtime=runtime) as engine:
        made = await busy(engine, network="none", resources=lading.Resources(memory=64 << 20, pids=50))
        before = read_stats(engine.core, made.id)
        await trio.sleep(0.3)
        now = read_stats(engine.core, made.id)
        assert now.cpu_time - before.cpu_time > 50_000_000
        assert now.system_time > before.system_time
        assert (now.memory_limit, now.pids_limit, now.pids) == (64 << 20, 50, 2)
        assert 1 << 20 < now.memory_used <= 64 << 20
        assert now.memory["cache" if not now.cgroup_v2 else "file"] > 0
        shown = docker_stats(now, before, "/web", made.id)
        assert shown["cpu_stats"]["cpu_usage"]["total_usage"] == now.cpu_time
        assert shown["precpu_stats"]["cpu_usage"]["total_usage"] == before.cpu_time
        assert shown["memory_stats"]["limit"] == 64 << 20
        assert shown["cpu_stats"]["online_cpus"] == os.cpu_count()
        await made.stop(timeout=0)
        with pytest.raises(HostError, match="doesn't run"):
            read_stats(engine.core, made.id)


async def test_samples_are_cheap_and_leave_nothing_open(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await busy(engine)
        fds = len(os.listdir("/proc/self/fd"))
        began = time.process_time()
        for _ in range(100):
            read_stats(engine.core, made.id)
        assert time.process_time() - began < 1
        assert len(os.listdir("/proc/self/fd")) == fds
