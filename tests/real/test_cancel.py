"""Cancelling callers at any instant: nothing is left half done, and nothing is left behind."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.lowlevel
from stage import IMAGE, Stage, event, happens, printed, processes, story

import lading
from lading.events.container import LIVE, Exited, Phase, Removed, Started, StopRequested
from lading.events.errors import NotFound, WrongPhase
from lading.storage.overlay import mounts_below

pytestmark = [pytest.mark.real, pytest.mark.slow]

FOREVER = ["sleep", "1000"]
STUBBORN = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]


async def test_a_cancelled_run_stops_and_removes_its_container_first(stage: Stage) -> None:
    async with stage.engine() as engine:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def run() -> None:
                    await engine.containers.run(IMAGE, STUBBORN, name="it", stop_timeout=1)

                nursery.start_soon(run)
                made = await named(engine, "it")
                await printed(made, b"ready")
                pid = made.pid
                began = trio.current_time()
                scope.cancel()
        assert scope.cancelled_caught
        assert 0.9 <= trio.current_time() - began < 3
        assert not os.path.exists(f"/proc/{pid}")
        assert engine.containers.list() == []
        assert story(engine, made.id)[-4:] == ["StopRequested", "Exited", "RemoveRequested", "Removed"]
        assert event(engine, made.id, Exited).exit_code == 137


async def test_a_cancelled_run_that_keeps_its_container_leaves_it_stopped(stage: Stage) -> None:
    async with stage.emptied() as engine:
        with trio.move_on_after(0.3) as scope:
            await engine.containers.run(IMAGE, FOREVER, name="kept", remove=False, stop_timeout=0)
        assert scope.cancelled_caught
        made = engine.containers.get("kept")
        assert (made.status, made.pid) == ("exited", 0)


async def test_an_error_beside_a_run_takes_it_down(stage: Stage) -> None:
    async with stage.engine() as engine:

        async def fail() -> None:
            await happens(engine, (await named(engine, "it")).id, Started)
            raise ZeroDivisionError

        async def run() -> None:
            await engine.containers.run(IMAGE, FOREVER, name="it", stop_timeout=0)

        async def both() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                nursery.start_soon(fail)

        with pytest.raises(ExceptionGroup) as caught:
            await both()
        assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
        assert engine.containers.list() == []


async def named(engine: lading.Engine, name: str) -> lading.Container:
    """The container called ``name``, once it is there."""
    while True:
        position = engine.log.position
        try:
            return engine.containers.get(name)
        except NotFound:
            await engine.log.follow(position).__anext__()


@pytest.mark.long
async def test_a_run_cancelled_at_any_moment_leaves_nothing(stage: Stage) -> None:
    draw = random.Random(1)
    async with stage.engine(timeout=120) as engine:
        await engine.containers.run(IMAGE, ["true"])
        for number in range(40):
            command = ["sh", "-c", "echo out; exit 3"] if number % 2 else FOREVER
            with trio.move_on_after(draw.uniform(0, 0.06)) as scope:
                await engine.containers.run(IMAGE, command, stop_timeout=0)
            assert scope.cancelled_caught or number % 2
            assert engine.containers.list() == []
            assert engine.core.live == {}
        assert os.listdir(stage.paths.run / "bundles") == []
        assert set(processes(stage.paths.run)) == {engine.core.link.keeper_pid}
        await engine.log.verify()


@pytest.mark.long
async def test_many_runs_cancelled_together_leave_nothing(stage: Stage) -> None:
    draw = random.Random(2)
    async with stage.engine(timeout=120) as engine:
        await engine.containers.run(IMAGE, ["true"])
        for _ in range(10):
            with trio.move_on_after(draw.uniform(0, 0.3)):
                async with trio.open_nursery() as nursery:
                    for _ in range(10):
                        nursery.start_soon(run_stopping_at_once, engine)
            assert engine.containers.list() == []
        assert os.listdir(stage.paths.run / "bundles") == []
        await engine.log.verify()


async def run_stopping_at_once(engine: lading.Engine) -> None:
    await engine.containers.run(IMAGE, FOREVER, stop_timeout=0)


async def test_a_cancelled_stop_is_carried_out_without_its_caller(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, STUBBORN)
        await made.start()
        await printed(made, b"ready")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.stop, 1)
            await happens(engine, made.id, StopRequested)
            nursery.cancel_scope.cancel()
        assert made.state.phase is Phase.STOPPING
        with trio.fail_after(5):
            assert await made.wait() == 137
        assert story(engine, made.id)[-2:] == ["StopRequested", "Exited"]


async def test_a_cancelled_removal_is_carried_out_without_its_caller(stage: Stage) -> None:
    async with stage.engine() as engine:
        made = await engine.containers.create(IMAGE, FOREVER)
        await made.start()
        removal = engine.core.removal(made.id)
        with trio.move_on_after(0):
            await made.remove(force=True)
        assert made.state.phase is Phase.RUNNING  # the cancel came before the decision
        async with trio.open_nursery() as nursery:

            async def remove() -> None:
                await made.remove(force=True)

            nursery.start_soon(remove)
            while made.state.phase is Phase.RUNNING:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            await removal.wait()
        assert engine.containers.list() == []
        assert story(engine, made.id)[-1] == "Removed"


async def test_a_cancelled_start_either_never_was_or_goes_on(stage: Stage) -> None:
    draw = random.Random(3)
    async with stage.emptied() as engine:
        for _ in range(15):
            made = await engine.containers.create(IMAGE, FOREVER)
            with trio.move_on_after(draw.uniform(0, 0.03)):
                await made.start()
            if "StartRequested" not in story(engine, made.id):
                assert made.state.phase is Phase.CREATED
            else:
                await happens(engine, made.id, Started)
                assert made.status == "running"
                assert os.path.exists(f"/proc/{made.pid}")
                await made.stop(timeout=0)


async def test_cancelled_callers_of_everything_leave_a_whole_log(stage: Stage) -> None:
    draw = random.Random(4)
    async with stage.emptied(timeout=120) as engine:
        made = await engine.containers.create(IMAGE, FOREVER)
        for number in range(60):
            steps: list[Any] = [made.start, lambda: made.stop(timeout=0), made.kill, made.wait]
            steps.append(lambda name=f"name{number}": made.rename(name))
            with trio.move_on_after(draw.uniform(0, 0.02)):
                with suppress(WrongPhase):
                    await draw.choice(steps)()
        await engine.log.verify()
        supervisor = engine.core.live.get(made.id)
        if supervisor is not None and supervisor.ended.is_set():
            await supervisor.done.wait()
        assert (made.id in engine.core.live) == (made.state.phase in LIVE)


async def test_a_users_exception_comes_out_as_it_was_raised(stage: Stage) -> None:
    async def fail() -> None:
        async with stage.engine() as engine:
            await engine.containers.run(IMAGE, ["true"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        await fail()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    with pytest.raises(NotFound):
        async with lading.open_engine(stage.root) as engine:
            engine.containers.get("nothing-like-that")


@pytest.mark.parametrize("how", ["end", "error", "cancel"])
async def test_on_exit_stop_stops_what_runs_however_the_block_ends(stage: Stage, how: str) -> None:
    made: list[lading.Container] = []
    with trio.CancelScope() as scope:
        try:
            async with stage.engine(on_exit="stop") as engine:
                for command in (STUBBORN, FOREVER):
                    made.append(await engine.containers.create(IMAGE, command, stop_timeout=1))
                    await made[-1].start()
                pids = [each.pid for each in made]
                await printed(made[0], b"ready")
                if how == "error":
                    raise ZeroDivisionError
                if how == "cancel":
                    scope.cancel()
                    await trio.sleep_forever()
        except ZeroDivisionError:
            assert how == "error"
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    async with stage.engine() as engine:
        position = engine.log.position
        assert [(state.phase, state.exit_code) for state in engine.containers.list()] == [(Phase.STOPPED, 137)] * 2
        assert engine.log.position == position


async def test_what_is_left_running_is_there_again_and_the_same(stage: Stage) -> None:
    async with stage.engine() as engine:
        made = await engine.containers.create(IMAGE, ["sh", "-c", "echo before; sleep 1000"])
        await made.start()
        await printed(made, b"before")
        process = made.state.process
    async with stage.engine() as engine:
        made = engine.containers.get(made.id)
        assert (made.status, made.state.process) == ("running", process)
        assert await made.stop(timeout=0) == 137
        await made.remove()
        assert story(engine, made.id)[-1] == Removed.__name__


@pytest.mark.long
async def test_an_exit_at_the_moment_of_closing_leaves_no_mount(stage: Stage) -> None:
    """Whoever saw a container's end and then closes the engine finds the host as it was."""
    for _ in range(5):
        async with stage.engine() as engine:
            made = await engine.containers.create(IMAGE, ["true"])
            await made.start()
            await made.wait()
        assert mounts_below(stage.paths.run) == []
