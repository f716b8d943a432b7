"""Very many at once, and one that is stuck, broken or starved among others that must not notice."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path

import pytest
import trio
from stage import IMAGE, Stage, output_of, story

from lading.engine.containers.freezer import freeze
from lading.events.errors import AlreadyExists, CannotStart, HostError, LadingError
from lading.storage.cgroups import cgroup_mounts

pytestmark = [pytest.mark.real, pytest.mark.slow]

SLEEP = ["sleep", "1000"]


async def test_of_a_hundred_that_want_one_name_exactly_one_gets_it(stage: Stage) -> None:
    async with stage.emptied() as engine:
        got: list[str] = []
        refused: list[AlreadyExists] = []

        async def create() -> None:
            try:
                got.append((await engine.containers.create(IMAGE, SLEEP, name="one")).id)
            except AlreadyExists as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(create)
        assert len(got) == 1
        assert len(refused) == 99
        assert [state.id for state in engine.containers.list()] == got


@pytest.mark.long
async def test_eight_hundred_starts_at_once_lose_no_exit(stage: Stage) -> None:
    async with stage.emptied(timeout=240) as engine:
        codes: dict[int, int | None] = {}

        async def life(number: int) -> None:
            done = await engine.containers.run(IMAGE, ["sh", "-c", f"exit {number % 200}"])
            codes[number] = done.exit_code

        async with trio.open_nursery() as nursery:
            for number in range(800):
                nursery.start_soon(life, number)
        assert codes == {number: number % 200 for number in range(800)}
        assert engine.containers.list() == []


@pytest.mark.long
async def test_a_frozen_container_is_in_nobodys_way(stage: Stage) -> None:
    """Frozen from outside, so that nobody knows: it heeds no signal, and no one else waits for it."""
    async with stage.emptied() as engine:
        stuck = await engine.containers.create(IMAGE, SLEEP)
        await stuck.start()
        freeze(stage.paths, stuck.id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stuck.stop, 3)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(3):
                began = time.perf_counter()
                assert len(engine.containers.list()) == 1
                assert time.perf_counter() - began < 0.1
                assert await output_of(engine, IMAGE, "echo", "works") == b"works\n"
        assert stuck.state.exit_code in (137, 143)


async def test_a_reader_that_stalls_holds_back_nobody(stage: Stage) -> None:
    flood = ["sh", "-c", "head -c 20000000 /dev/zero; echo done >&2"]
    async with stage.emptied() as engine:
        loud = await engine.containers.create(IMAGE, flood)
        await loud.start()
        with loud.logs(follow=True) as stalled:
            await anext(aiter(stalled))
            with trio.fail_after(20):
                assert await loud.wait() == 0
            assert await output_of(engine, IMAGE, "echo", "works") == b"works\n"


async def test_one_of_fifty_broken_on_disk_leaves_the_others_working(stage: Stage) -> None:
    async with stage.engine() as engine:
        made = [await engine.containers.create(IMAGE, ["sh", "-c", "exit 5"]) for _ in range(50)]
        broken = made[7]
        await broken.start()
        await broken.wait()
    own = stage.paths.container(broken.id)
    shutil.rmtree(own)
    own.write_text("no directory")
    async with stage.emptied() as engine:
        with pytest.raises(CannotStart):
            await engine.containers.get(broken.id).start()
        codes = []

        async def life(container: str) -> None:
            found = engine.containers.get(container)
            await found.start()
            codes.append(await found.wait())
            await found.remove()

        async with trio.open_nursery() as nursery:
            for each in made:
                if each is not broken:
                    nursery.start_soon(life, each.id)
        assert codes == [5] * 49
        await engine.containers.get(broken.id).remove()
        assert engine.containers.list() == []


@contextmanager
def few_files(pid: int, left: int) -> Iterator[None]:
    """``pid`` may open exactly ``left`` more files."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = (number for number in count() if number not in taken)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (next(islice(free, left, None)), before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("left", [0, 2, 5])
async def test_a_keeper_without_descriptors_says_so_and_goes_on(stage: Stage, left: int) -> None:
    async with stage.emptied() as engine:
        assert await output_of(engine, IMAGE, "echo", "works") == b"works\n"
        made = await engine.containers.create(IMAGE, SLEEP)
        with few_files(engine.core.link.keeper_pid, left):
            with pytest.raises(CannotStart, match="oo many open files"):
                await made.start()
            assert story(engine, made.id)[-1] == "StartFailed"
        await made.start()
        assert await output_of(engine, IMAGE, "echo", "works") == b"works\n"


@pytest.mark.parametrize("left", [0, 1, 4, 8, 40])
@pytest.mark.parametrize("tty", [False, True])
async def test_an_exec_for_which_the_keeper_has_no_descriptors_says_so(stage: Stage, left: int, tty: bool) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, SLEEP)
        await made.start()
        with few_files(engine.core.link.keeper_pid, left):
            failed = await made.exec(["echo", "works"], tty=tty)
            assert failed.exit_code != 0
            assert "oo many open files" in failed.why
            assert made.status == "running"
        assert (await made.exec(["echo", "works"], tty=tty)).stdout.strip() == b"works"


@pytest.mark.parametrize("left", range(12))
async def test_a_terminal_that_finds_no_room_in_the_engine_ends_its_exec_alone(stage: Stage, left: int) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, SLEEP)
        await made.start()
        with few_files(os.getpid(), left):
            said = ""
            try:
                said = (await made.exec(["echo", "works"], tty=True)).stdout.decode()
            except (LadingError, OSError) as error:
                said = str(error)
            assert "works" in said or "oo many open files" in said
        assert made.status == "running"
        assert (await made.exec(["echo", "works"], tty=True)).stdout.strip() == b"works"


@pytest.mark.parametrize("left", range(0, 8, 2))
async def test_an_engine_without_descriptors_says_so_and_goes_on(stage: Stage, left: int) -> None:
    async with stage.emptied() as engine:
        assert await output_of(engine, IMAGE, "echo", "works") == b"works\n"
        made = await engine.containers.create(IMAGE, SLEEP)
        with few_files(os.getpid(), left):
            failure: LadingError | None = None
            try:
                await made.start()
            except (CannotStart, HostError) as error:
                failure = error
        if failure is not None:
            assert "oo many open files" in str(failure)
            await made.start()
        assert made.status == "running"
        assert await output_of(engine, IMAGE, "echo", "works") == b"works\n"


@contextmanager
def few_processes(pid: int) -> Iterator[None]:
    """``pid`` may fork no more."""
    mount = next(mount for mount in cgroup_mounts() if (mount / "pids.max").exists() or mount.name == "pids")
    group = mount / f"few-{os.getpid()}"
    before = next(
        line.split(":", 2)[2]
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        if line.split(":")[1] in ("pids", "")
    )
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text("1")
        yield
    finally:
        (mount / before.lstrip("/") / "cgroup.procs").write_text(str(pid))
        group.rmdir()


async def test_a_keeper_that_cant_fork_says_so_and_goes_on(stage: Stage) -> None:
    async with stage.emptied() as engine:
        assert await output_of(engine, IMAGE, "echo", "works") == b"works\n"
        made = await engine.containers.create(IMAGE, SLEEP)
        unavailable = pytest.raises(CannotStart, match="Resource temporarily unavailable")
        with few_processes(engine.core.link.keeper_pid), unavailable:
            await made.start()
        await made.start()
        assert made.status == "running"
