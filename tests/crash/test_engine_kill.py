"""The engine is killed, or its keeper, or both: what runs goes on, and what ended is told as it was."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import trio
import trio.testing
from stage import IMAGE, Stage, agree, empty, event, happens, output, printed, processes, story

from lading.events.container import Exited, Phase, Started
from lading.events.errors import NotFound
from lading.storage.linux import mount
from lading.storage.overlay import mounts_below
from lading.storage.procfs import is_alive

sys.path.insert(0, str(Path(__file__).parent))
from child import child_engine

pytestmark = [pytest.mark.real, pytest.mark.slow]

FOREVER = ["sleep", "1000"]
TICKER = ["sh", "-c", "trap 'exit 5' TERM; n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done"]


async def quiet(stage: Stage) -> None:
    """Opening the store again appends nothing."""
    for _ in range(2):
        async with stage.engine() as engine:
            position = engine.log.position
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert engine.log.position == position
            await engine.log.verify()


async def finish(stage: Stage) -> None:
    """Remove everything; nothing is left then."""
    async with stage.engine() as engine:
        await empty(engine)
        assert engine.containers.list() == []


@pytest.mark.long
async def test_containers_outlive_the_engine_and_are_adopted(stage: Stage) -> None:
    start = f"""
        for name in ("one", "two", "three"):
            made = await containers.create({IMAGE!r}, {TICKER!r}, name=name)
            await made.start()
            await printed(made, b"3")
    """
    async with child_engine(stage, start) as child:
        await child.until("done")
        child.kill()
    async with stage.engine() as engine:
        before = {state.name: state for state in engine.containers.list()}
        assert before.keys() == {"one", "two", "three"}
        for name, state in before.items():
            made = engine.containers.get(name)
            assert state.phase is Phase.RUNNING
            assert state.process is not None
            assert is_alive(state.process)
            said = [int(line) for line in (await output(made)).split()]
            await printed(made, b"%d" % (said[-1] + 5))  # it goes on
            assert await made.stop() == 5
            lines = [int(line) for line in (await output(made)).split()]
            assert lines == list(range(1, len(lines) + 1))  # and nothing is missing
            assert story(engine, made.id) == ["Created", "StartRequested", "Started", "StopRequested", "Exited"]
            assert event(engine, made.id, Exited).why == ""
    await quiet(stage)
    await finish(stage)


async def test_an_exit_that_no_engine_saw_is_told_with_its_code_and_time(stage: Stage) -> None:
    start = f"""
        for code in (0, 3, 137):
            script = f"while [ ! -e /tmp/go ]; do sleep 0.02; done; echo bye; exit {{code}}"
            made = await containers.create({IMAGE!r}, ["sh", "-c", script], name=f"code{{code}}")
            await made.start()
        made = await containers.create({IMAGE!r}, {FOREVER!r}, name="killed")
        await made.start()
    """
    async with child_engine(stage, start) as child:
        await child.until("done")
        child.kill()
    for pid, words in processes(stage.paths.run).items():
        if words.startswith("sh -c"):
            Path(f"/proc/{pid}/root/tmp/go").touch()
        elif words.startswith("sleep 1000"):
            os.kill(pid, signal.SIGKILL)
    began = time.time_ns()
    agree(lambda: processes(stage.paths.run), {})  # the keeper has nothing to keep and leaves, too
    ended = time.time_ns()
    async with stage.engine() as engine:
        for name, code in (("code0", 0), ("code3", 3), ("code137", 137), ("killed", 137)):
            made = engine.containers.get(name)
            assert (made.status, made.state.exit_code, await made.wait()) == ("exited", code, code)
            seen = event(engine, made.id, Exited)
            assert seen.why == ""
            assert began - 2e9 < seen.at < ended
            assert made.state.finished_at == seen.at
            assert name == "killed" or await output(made) == b"bye\n"
    await quiet(stage)
    await finish(stage)


async def test_a_killed_keeper_takes_its_containers_down_as_unknown(stage: Stage) -> None:
    async with stage.engine() as engine:
        made = [await engine.containers.create(IMAGE, FOREVER) for _ in range(3)]
        for each in made:
            await each.start()
        pids = [each.pid for each in made]
        os.kill(engine.core.link.keeper_pid, signal.SIGKILL)
        for each in made:
            with trio.fail_after(10):
                assert await each.wait() is None
            ended = event(engine, each.id, Exited)
            assert ended.exit_code is None
            assert "keeper" in ended.why
            assert each.status == "exited"
        assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
        done = await engine.containers.run(IMAGE, ["echo", "new keeper"])
        assert done.stdout == b"new keeper\n"
        await made[0].start()
        assert made[0].status == "running"
        await made[0].stop(timeout=0)
        for each in made:
            await each.remove()
    await quiet(stage)


async def test_keeper_and_engine_killed_together(stage: Stage) -> None:
    start = f"""
        for number in range(3):
            await (await containers.create({IMAGE!r}, {FOREVER!r}, name=f"c{{number}}")).start()
        say(engine.core.link.keeper_pid)
    """
    async with child_engine(stage, start) as child:
        keeper = int((await child.until("done"))[-2])
        os.kill(keeper, signal.SIGSTOP)
        child.kill()
        os.kill(keeper, signal.SIGKILL)
    async with stage.engine() as engine:
        for state in engine.containers.list():
            assert (state.phase, state.exit_code, state.process) == (Phase.STOPPED, None, None)
            assert event(engine, state.id, Exited).why != ""
        assert set(processes(stage.paths.run).values()) == set()
        made = engine.containers.get("c1")
        await made.start()
        await made.stop(timeout=0)
    await quiet(stage)
    await finish(stage)


async def test_a_killed_runtime_process_does_not_take_the_truth_with_it(stage: Stage) -> None:
    """The container becomes the keeper's own child, and its exit code stays known."""
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, TICKER)
        await made.start()
        await printed(made, b"2")
        bundle = os.fspath(stage.paths.bundle(made.id))
        [runtime] = [pid for pid in processes(stage.paths.run) if bundle in _words(pid)]
        os.kill(runtime, signal.SIGKILL)
        await printed(made, b"10")
        assert made.status == "running"
        assert await made.stop() == 5
        await made.start()
        assert await made.stop() == 5


def _words(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


@pytest.mark.long
async def test_a_stop_in_progress_is_carried_out_by_the_next_engine(stage: Stage) -> None:
    stubborn = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]
    start = f"""
        made = await containers.create({IMAGE!r}, {stubborn!r}, name="it")
        await made.start()
        await printed(made, b"ready")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.stop, 2)
            await happens(engine, made.id, lading.events.container.StopRequested)
            say("stopping")
            await trio.sleep_forever()
    """
    async with child_engine(stage, start, prelude="import lading.events.container") as child:
        await child.until("stopping")
        child.kill()
    async with stage.engine() as engine:
        made = engine.containers.get("it")
        with trio.fail_after(8):
            assert await made.wait() == 137
        assert story(engine, made.id)[-2:] == ["StopRequested", "Exited"]
    await quiet(stage)
    await finish(stage)


async def test_a_removal_in_progress_is_carried_out_by_the_next_engine(stage: Stage) -> None:
    prelude = """
        import lading.engine.containers.lifecycle as place
        async def never(*args):
            say("removing")
            await trio.sleep_forever()
        place.remove_container = never
    """
    start = f"""
        made = await containers.create({IMAGE!r}, {FOREVER!r}, name="it")
        await made.start()
        await made.remove(force=True)
    """
    async with child_engine(stage, start, prelude=prelude) as child:
        await child.until("removing")
        child.kill()
    async with stage.engine() as engine:
        async for record in engine.log.follow(0):
            if type(record.event).__name__ == "Removed":
                break
        with pytest.raises(NotFound):
            engine.containers.get("it")
        assert list(stage.paths.containers.iterdir()) == []
    await quiet(stage)


@pytest.mark.parametrize("moment", ["running", "after the exit", "after the exit was recorded"])
async def test_what_asked_to_be_removed_at_its_end_is(stage: Stage, moment: str) -> None:
    prelude = """
        import lading.engine.containers.supervisor as place
        async def never(self, remove):
            say("recorded")
            await trio.sleep_forever()
    """
    if moment == "after the exit was recorded":
        prelude += "    place.Supervisor._leave = never\n"
    script = "while [ ! -e /tmp/go ]; do sleep 0.02; done"
    start = f"""
        made = await containers.create({IMAGE!r}, ["sh", "-c", {script!r}], name="it", auto_remove=True)
        await made.start()
        say("running")
        if {moment!r} == "after the exit was recorded":
            Path(f"/proc/{{made.pid}}/root/tmp/go").touch()
    """
    async with child_engine(stage, start, prelude=prelude) as child:
        await child.until("recorded" if moment == "after the exit was recorded" else "running")
        child.kill()
    if moment == "after the exit":
        for pid, words in processes(stage.paths.run).items():
            if words.startswith("sh -c"):
                Path(f"/proc/{pid}/root/tmp/go").touch()
        agree(lambda: processes(stage.paths.run), {})
    async with stage.engine() as engine:
        if moment == "running":
            made = engine.containers.get("it")
            assert made.status == "running"
            Path(f"/proc/{made.pid}/root/tmp/go").touch()
        with trio.fail_after(5):
            async for record in engine.log.follow(0):
                if type(record.event).__name__ == "Removed":
                    break
        assert engine.containers.list() == []
    await quiet(stage)


async def test_orphans_of_a_crash_are_swept(stage: Stage) -> None:
    async with stage.engine() as engine:
        kept = await engine.containers.create(IMAGE, ["true"])
        await kept.start()
        await kept.wait()
    paths = stage.paths
    stray = "f" * 64
    for directory in (paths.container(stray) / "upper/deep", paths.layers / stray, paths.staging / "half/made"):
        directory.mkdir(parents=True)
        (directory / "file").write_text("left")
    async with child_engine(stage, "") as child:  # an engine that is killed leaves its run directory
        await child.until("done")
        child.kill()
    bundle = paths.bundle(stray) / "rootfs"
    bundle.mkdir(parents=True)
    mount(b"lading", os.fsencode(bundle), b"tmpfs", 0, b"")
    (bundle / "file").touch()
    async with stage.engine() as engine:
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert [path.name for path in paths.containers.iterdir()] == [kept.id]
        assert len(list(paths.layers.iterdir())) == 1
        assert list(paths.staging.iterdir()) == []
        assert mounts_below(paths.run) == []
        assert not paths.bundle(stray).exists()
        while list(paths.trash.iterdir()):  # noqa: ASYNC110  # nobody tells
            await trio.sleep(0.01)
        await engine.containers.get(kept.id).start()  # what is not an orphan still works
        assert await engine.containers.get(kept.id).wait() == 0
    await finish(stage)


async def test_on_exit_stop_holds_even_if_the_engine_is_killed(stage: Stage) -> None:
    start = f"""
        made = await containers.create({IMAGE!r}, {TICKER!r}, name="it")
        await made.start()
        await printed(made, b"3")
    """
    async with child_engine(stage, start, on_exit="stop") as child:
        await child.until("done")
        child.kill()
    agree(lambda: processes(stage.paths.run), {})
    async with stage.engine() as engine:
        assert engine.containers.get("it").state.exit_code == 5
    await quiet(stage)
    await finish(stage)


@pytest.mark.long
async def test_on_exit_stop_holds_for_a_paused_container_too(stage: Stage) -> None:
    start = f"""
        made = await containers.create({IMAGE!r}, {FOREVER!r}, name="it", stop_timeout=1)
        await made.start()
        await made.pause()
    """
    async with child_engine(stage, start, on_exit="stop") as child:
        await child.until("done")
        child.kill()
    agree(lambda: processes(stage.paths.run), {})
    async with stage.engine() as engine:
        assert engine.containers.get("it").state.exit_code in (137, 143)
    await quiet(stage)
    await finish(stage)


@pytest.mark.long
async def test_killed_in_a_storm_of_starts_at_any_moment(stage: Stage) -> None:
    """Every container is adopted or has an outcome, twenty times over, and retrying works."""
    draw = random.Random(5)
    storm = f"""
        async def one(number):
            command = {FOREVER!r} if number % 2 else ["sh", "-c", f"exit {{number}}"]
            made = await containers.create({IMAGE!r}, command, name=f"n{{number}}-{{time.time_ns()}}")
            say("created", made.id)
            await made.start()
            say("started", made.id)
        say("storm")
        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(one, number)
    """
    for _ in range(20):
        async with child_engine(stage, storm) as child:
            await child.until("storm")
            with trio.move_on_after(draw.uniform(0, 0.8)):
                await trio.sleep_forever()
            child.kill()
            said = []
            while line := await child.line():
                said.append(line.split())
        async with stage.engine() as engine:
            known = {state.id: state for state in engine.containers.list()}
            for words in said:
                if words[0] == "created":
                    assert words[1] in known  # what was acknowledged is there
                if words[0] == "started":
                    assert known[words[1]].run == 1
                    assert known[words[1]].started_at > 0
            for state in known.values():
                made = engine.containers.get(state.id)
                if supervisor := engine.core.live.get(state.id):
                    await supervisor.begun.wait()
                state = made.state
                if state.phase is Phase.RUNNING:
                    assert state.process is not None
                    number = int(state.name[1:].split("-")[0])
                    assert is_alive(state.process) or number % 2 == 0
                if state.process is None and state.started_at:
                    number = int(state.name[1:].split("-")[0])
                    assert state.exit_code in ((None,) if number % 2 else (number, None))
            await engine.log.verify()
            await engine.containers.run(IMAGE, ["true"])
            for state in engine.containers.list():  # a retry succeeds
                made = engine.containers.get(state.id)
                if made.state.phase in (Phase.STOPPED, Phase.CREATED):
                    await made.start()
                    break
            await empty(engine)
            bundles = stage.paths.run / "bundles"
            left = {path.name: (os.listdir(path), story(engine, path.name)) for path in bundles.iterdir()}
            assert left == {}
            strays = {pid: words for pid, words in processes(stage.paths.run).items() if "keeper" not in words}
            assert strays == {}
    await quiet(stage)


async def test_started_is_not_told_twice_nor_for_the_wrong_process(stage: Stage) -> None:
    """A kill between the command's execution and its record: the adopted process is the one that runs."""
    prelude = """
        import lading.engine.containers.supervisor as place
        record = place.Supervisor._record
        async def never(self, *events):
            if type(events[0]).__name__ == "Started":
                say("executed", events[0].process.pid)
                await trio.sleep_forever()
            await record(self, *events)
        place.Supervisor._record = never
    """
    start = f"""
        made = await containers.create({IMAGE!r}, {FOREVER!r}, name="it")
        await made.start()
    """
    async with child_engine(stage, start, prelude=prelude) as child:
        word, pid = (await child.line()).split()
        assert word == "executed"
        child.kill()
    async with stage.engine() as engine:
        made = engine.containers.get("it")
        await happens(engine, made.id, Started)
        assert (made.pid, made.status) == (int(pid), "running")
        assert story(engine, made.id) == ["Created", "StartRequested", "Started"]
        assert await made.stop(timeout=0) == 137
    await quiet(stage)
    await finish(stage)
