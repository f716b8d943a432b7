"""The engine or its keeper is killed while execs run: they go on, or die with their container; and it is told."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import trio
from stage import IMAGE, Stage, agree, empty, processes

import lading
from lading.events.container import Exited
from lading.events.execs import ExecCreated, ExecExited
from lading.events.views import EXECS

sys.path.insert(0, str(Path(__file__).parent))
from child import child_engine

pytestmark = [pytest.mark.real, pytest.mark.slow]

START = f"""
        from lading.engine.core import new_caller
        from lading.events.execs import ExecSpec
        made = await containers.create({IMAGE!r}, ["sleep", "1000"], name="web")
        await made.start()
        execs = engine.core.execs
        async def begin(*words, detach=False, tty=False):
            live = await execs.create(made.id, ExecSpec(words, working_dir="", tty=tty), new_caller())
            await execs.start(live.id, new_caller(), detach=detach)
            await live.kept.begun.wait()
            say(live.id)
"""
SCRIPT = "yes | head -c 1000000; while [ ! -e /tmp/go ]; do sleep 0.02; done; yes | head -c 1000000; exit 9"


def ends(engine: lading.Engine) -> dict[str, ExecExited]:
    return {
        record.stream.removeprefix("exec/"): record.event
        for record in engine.core.log.read(0, 10**6)
        if isinstance(record.event, ExecExited)
    }


async def finish(engine: lading.Engine) -> None:
    await empty(engine)
    assert engine.core.log.scan(EXECS) == []
    told = engine.core.log.read(0, 10**6)
    container = [record.position for record in told if isinstance(record.event, Exited)]
    assert all(record.position < container[-1] for record in told if isinstance(record.event, ExecExited))


def go(stage: Stage) -> None:
    """Let the scripts go on."""
    for pid, words in processes(stage.paths.run).items():
        if words.startswith("sleep 1000"):
            Path(f"/proc/{pid}/root/tmp/go").touch()


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("tty", [False, True])
async def test_execs_outlive_the_engine(stage: Stage, attached: bool, tty: bool) -> None:
    begin = f"        await begin('sh', '-c', {SCRIPT!r}, detach={not attached}, tty={tty})\n"
    async with child_engine(stage, START + begin) as child:
        exec_id, *_ = await child.until("done")
        child.kill()
    async with stage.engine() as engine:
        view = engine.core.execs.inspect(exec_id)
        assert view.phase == "running"
        assert Path(f"/proc/{view.pid}/comm").read_text().strip() == "sh"
        live = engine.core.execs.get(exec_id)
        assert engine.core.execs.ids(view.container) == [exec_id]
        go(stage)
        with trio.fail_after(20):  # what it prints stops it no more
            assert await live.wait() == 9
        assert ends(engine) == {exec_id: ExecExited(9)}
        await finish(engine)


async def test_an_exec_that_ends_without_an_engine_is_told_by_the_next(stage: Stage) -> None:
    begin = f"        await begin('sh', '-c', {SCRIPT!r})\n        await begin('sleep', '1000')\n"
    async with child_engine(stage, START + begin) as child:
        exec_id, other, *_ = await child.until("done")
        child.kill()
    go(stage)
    agree(lambda: [words for words in processes(stage.paths.run).values() if words.startswith("sh -c")], [])
    async with stage.engine() as engine:
        with trio.fail_after(10):
            while exec_id not in ends(engine):  # noqa: ASYNC110  # at opening, or as its keeper tells
                await trio.sleep(0.01)
        assert ends(engine) == {exec_id: ExecExited(9)}
        assert engine.core.execs.inspect(other).phase == "running"
        await finish(engine)
        assert ends(engine)[other] == ExecExited(137)


async def test_when_everything_ends_without_an_engine_the_execs_come_first(stage: Stage) -> None:
    begin = "        await begin('sleep', '1001')\n        await begin('sleep', '1002', detach=True)\n"
    async with child_engine(stage, START + begin) as child:
        await child.until("done")
        child.kill()
    for pid, words in processes(stage.paths.run).items():
        if words.startswith("sleep 1000"):
            os.kill(pid, signal.SIGKILL)
    agree(lambda: processes(stage.paths.run), {})  # the keeper, too
    async with stage.engine() as engine:
        assert list(ends(engine).values()) == [ExecExited(137), ExecExited(137)]
        position = engine.log.position
        await finish(engine)
        assert position <= engine.log.position


async def test_without_a_keeper_the_truth_is_that_nobody_knows(stage: Stage) -> None:
    async with stage.emptied() as engine:
        one = await engine.containers.create(IMAGE, ["sleep", "1000"])
        await one.start()
        results: list[object] = []

        async def run() -> None:
            results.append(await one.exec(["sleep", "1001"]))

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                while not any(live.pid for live in engine.core.execs._live.values()):  # noqa: ASYNC110
                    await trio.sleep(0.01)
                os.kill(engine.core.link.keeper_pid, signal.SIGKILL)
        (result,) = results
        assert result.exit_code is None  # type: ignore[attr-defined]
        assert "keeper" in result.why  # type: ignore[attr-defined]
        assert [event.exit_code for event in ends(engine).values()] == [None]
        begun = [r for r in engine.core.log.read(0, 10**6) if isinstance(r.event, ExecCreated)]
        assert len(begun) == 1
        await finish(engine)


async def test_both_killed_leaves_the_truth_that_nobody_knows(stage: Stage) -> None:
    begin = "        await begin('sleep', '1001')\n        say(engine.core.link.keeper_pid)\n"
    async with child_engine(stage, START + begin) as child:
        exec_id, keeper, *_ = await child.until("done")
        child.kill()
        os.kill(int(keeper), signal.SIGKILL)
    async with stage.engine() as engine:
        assert ends(engine)[exec_id].exit_code is None
        assert ends(engine)[exec_id].why
        await finish(engine)
