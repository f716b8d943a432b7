"""What follows an exit, what is watched while a container runs, and what never outlives whom."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import trio
from stage import IMAGE, Stage, event, happens, output_of, printed, story, until

import lading
from lading import HealthCheck, Resources, RestartPolicy
from lading.events.container import Exited, HealthChanged, Phase, RestartScheduled, StartRequested, Unpaused
from lading.events.errors import CannotStart, Invalid, NotFound, WrongPhase
from lading.events.policy import SHORTEST_DELAY
from lading.storage.procfs import is_alive

pytestmark = [pytest.mark.real, pytest.mark.slow]

SLEEP = ["sleep", "1000"]
TWICE = ["sh", "-c", "test -e /again && exec sleep 1000; touch /again; exit 3"]
"""Fails once, and runs then."""


async def reaches(engine: lading.Engine, container: lading.Container, phase: Phase) -> None:
    await until(engine, lambda: container.state.phase is phase)


# -- restarts -----------------------------------------------------------------------------------------------


async def test_a_failed_run_is_followed_by_another_after_a_moment(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, TWICE, restart=RestartPolicy("on-failure"))
        await made.start()
        await happens(engine, made.id, RestartScheduled)
        await reaches(engine, made, Phase.RUNNING)
        assert story(engine, made.id)[:8] == [
            *("Created", "Configured", "StartRequested", "Started"),
            *("Exited", "RestartScheduled", "StartRequested", "Started"),
        ]
        assert event(engine, made.id, RestartScheduled) == RestartScheduled(SHORTEST_DELAY, 1)
        assert engine.core.supervision(made.id).restarts == 1
        first, second = (
            [r for r in engine.log.read_stream(f"container/{made.id}") if isinstance(r.event, kind)][-1]
            for kind in (RestartScheduled, StartRequested)
        )
        assert second.time - first.time >= SHORTEST_DELAY * 0.99


@pytest.mark.parametrize(
    ("policy", "code", "starts"),
    [
        (RestartPolicy("no"), 1, 1),
        (RestartPolicy("on-failure"), 0, 1),
        (RestartPolicy("on-failure", 2), 1, 3),
    ],
)
async def test_how_often_a_policy_restarts(stage: Stage, policy: RestartPolicy, code: int, starts: int) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["sh", "-c", f"exit {code}"], restart=policy)
        await made.start()
        await until(
            engine, lambda: story(engine, made.id).count("Exited") >= starts and made.status != "restarting"
        )
        await trio.sleep(0.05)
        assert story(engine, made.id).count("Started") == starts
        assert made.status == "exited"


async def test_what_somebody_stopped_stays_stopped(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, SLEEP, restart=RestartPolicy("always"))
        await made.start()
        await made.stop(timeout=0)
        assert made.status == "exited"
        assert "RestartScheduled" not in story(engine, made.id)
        await made.start()
        assert made.status == "running"


async def test_a_restart_that_is_waited_for_can_be_cancelled_and_the_container_removed(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["false"], restart=RestartPolicy("always"))
        await made.start()
        await reaches(engine, made, Phase.RESTARTING)
        with pytest.raises(WrongPhase):
            await made.remove()
        while True:  # it is in this phase most of the time, and may be just starting again
            await reaches(engine, made, Phase.RESTARTING)
            with suppress(WrongPhase):
                await made.stop()
            if made.status == "exited":
                break
        runs = made.state.run
        await trio.sleep(0.3)
        assert (made.status, made.state.run) == ("exited", runs)
        await made.remove()
        other = await engine.containers.create(IMAGE, ["false"], restart=RestartPolicy("always"))
        await other.start()
        await other.remove(force=True)
        with pytest.raises(NotFound):
            _ = other.status


async def test_restarts_go_on_with_the_next_engine(stage: Stage) -> None:
    async with stage.engine() as engine:
        waits = await engine.containers.create(IMAGE, TWICE, restart=RestartPolicy("always"))
        stays = await engine.containers.create(IMAGE, SLEEP, restart=RestartPolicy("unless-stopped"))
        comes = await engine.containers.create(IMAGE, SLEEP, restart=RestartPolicy("always"))
        never = await engine.containers.create(IMAGE, SLEEP, restart=RestartPolicy("always"))
        for each in (stays, comes):
            await each.start()
            await each.stop(timeout=0)
        await waits.start()
        await reaches(engine, waits, Phase.RESTARTING)
    async with stage.emptied() as engine:
        for container, running in ((waits, True), (stays, False), (comes, True), (never, False)):
            found = engine.containers.get(container.id)
            if running:
                await reaches(engine, found, Phase.RUNNING)
            assert (found.status == "running") is running


async def test_restart_stops_and_starts_and_says_so(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, SLEEP)
        await made.restart()
        first = made.pid
        await made.restart(timeout=0)
        assert made.status == "running"
        assert made.pid != first
        assert story(engine, made.id)[3:] == ["StopRequested", "Exited", "StartRequested", "Started"]
        assert engine.core.supervision(made.id).restarts == 0
        gone = await engine.containers.create(IMAGE, ["no-such-command"])
        with pytest.raises(CannotStart):
            await gone.restart()


async def test_a_cancelled_restart_is_carried_out(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, SLEEP)
        await made.start()
        first = made.pid
        with trio.move_on_after(0.05):
            await made.restart(timeout=1)
        await happens(engine, made.id, Exited)
        await reaches(engine, made, Phase.RUNNING)
        assert made.pid != first


# -- pause and update ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["crun", "runc"])
async def test_a_paused_container_stands_still_and_goes_on(stage: Stage, runtime: str) -> None:
    count = ["sh", "-c", "while :; do echo tick; usleep 5000; done"]
    async with stage.emptied(runtime=runtime) as engine:
        made = await engine.containers.create(IMAGE, count)
        await made.start()
        await printed(made, b"tick")
        await made.pause()
        assert made.status == "paused"
        size = (stage.paths.container(made.id) / "output").stat().st_size
        await trio.sleep(0.1)
        later = (stage.paths.container(made.id) / "output").stat().st_size
        await trio.sleep(0.2)
        assert (stage.paths.container(made.id) / "output").stat().st_size == later
        assert later - size < 10_000
        with pytest.raises(WrongPhase):
            await made.pause()
        await made.unpause()
        with trio.fail_after(10), made.logs(follow=True, tail=0) as reader:
            assert (await anext(reader)).data == b"tick\n"
        with pytest.raises(WrongPhase):
            await made.unpause()


@pytest.mark.parametrize("how", ["stop", "kill", "remove"])
async def test_a_paused_container_can_be_ended(stage: Stage, how: str) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, SLEEP)
        await made.start()
        process = made.state.process
        assert process is not None
        await made.pause()
        with trio.fail_after(10):
            if how == "stop":
                assert await made.stop(timeout=1) in (137, 143)
            elif how == "kill":
                await made.kill()
                assert await made.wait() == 137
            else:
                await made.remove(force=True)
        assert not is_alive(process)


async def test_a_paused_container_is_paused_for_the_next_engine_too(stage: Stage) -> None:
    async with stage.engine() as engine:
        made = await engine.containers.create(IMAGE, SLEEP)
        await made.start()
        await made.pause()
    async with stage.emptied() as engine:
        found = engine.containers.get(made.id)
        assert found.status == "paused"
        await found.unpause()
        assert event(engine, made.id, Unpaused) == Unpaused()


async def test_updates_are_recorded_and_hold_from_then_on(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, TWICE)
        await made.update(restart=RestartPolicy("always"))
        await made.update(Resources(memory=64 << 20))
        assert engine.core.settings(made.id).restart == RestartPolicy("always")
        assert engine.core.settings(made.id).resources == Resources(memory=64 << 20)
        await made.start()
        await happens(engine, made.id, RestartScheduled)
        once = await engine.containers.create(IMAGE, SLEEP, auto_remove=True)
        with pytest.raises(Invalid):
            await once.update(restart=RestartPolicy("always"))


# -- deadlines, waits, scopes -------------------------------------------------------------------------------


@pytest.mark.long
async def test_a_run_past_its_deadline_is_stopped(stage: Stage) -> None:
    async with stage.emptied() as engine:
        started = time.monotonic()
        done = await engine.containers.run(IMAGE, ["sh", "-c", "sleep 1000"], deadline=300_000_000, stop_timeout=1)
        assert done.exit_code in (137, 143)
        assert 0.3 <= time.monotonic() - started < 10
        quick = await engine.containers.run(IMAGE, ["true"], deadline=300_000_000)
        assert quick.exit_code == 0


@pytest.mark.long
async def test_a_deadline_goes_on_with_the_next_engine(stage: Stage) -> None:
    async with stage.engine() as engine:
        made = await engine.containers.create(IMAGE, SLEEP, deadline=1_000_000_000, stop_timeout=0)
        await made.start()
    async with stage.emptied() as engine:
        assert await engine.containers.get(made.id).wait() == 137


async def test_waits_for_the_next_exit_and_for_the_removal(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["sh", "-c", "exit 7"])
        seen: list[tuple[str, int | None]] = []

        async def wait(condition: str) -> None:
            seen.append((condition, await made.wait(condition)))  # type: ignore[arg-type]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, "next-exit")
            nursery.start_soon(wait, "removed")
            await trio.testing.wait_all_tasks_blocked()
            assert await made.wait() is None
            await made.start()
            assert await made.wait() == 7
            await trio.testing.wait_all_tasks_blocked()
            assert seen == [("next-exit", 7)]
            await made.remove()
        assert seen == [("next-exit", 7), ("removed", 7)]


async def test_a_container_held_by_a_block_never_outlives_it(stage: Stage) -> None:
    async with stage.emptied() as engine:
        async with engine.containers.run(IMAGE, SLEEP) as held:
            assert held.status == "running"
            process = held.state.process
        assert process is not None
        assert not is_alive(process)
        with pytest.raises(ValueError, match="mine"):
            async with engine.containers.run(IMAGE, SLEEP) as held:
                raise ValueError("mine")
        with trio.move_on_after(0.2):
            async with engine.containers.run(IMAGE, SLEEP) as held:
                await trio.sleep_forever()
        async with engine.containers.run(IMAGE, ["true"]) as held:
            await held.wait()
        with pytest.raises(CannotStart):
            async with engine.containers.run(IMAGE, ["no-such-command"]):
                raise AssertionError("it can't be entered")
        assert engine.containers.list() == []
        async with engine.containers.run(IMAGE, SLEEP, remove=False) as held:
            pass
        assert (held.status, held.state.exit_code) == ("exited", 137)


# -- many ---------------------------------------------------------------------------------------------------


async def test_many_commands_are_run_a_few_at_a_time(stage: Stage) -> None:
    async with stage.emptied() as engine:
        most = 0
        got: dict[int, bytes] = {}
        commands = (["sh", "-c", f"echo {number}; exit {number % 3}"] for number in range(24))
        async with engine.containers.map(IMAGE, commands, limit=4) as results:
            async for done in results:
                most = max(most, len(engine.containers.list()))
                assert done.completed is not None
                assert done.completed.exit_code == done.index % 3
                got[done.index] = done.completed.stdout
        assert got == {number: f"{number}\n".encode() for number in range(24)}
        assert most <= 4
        assert engine.containers.list() == []


async def test_leaving_many_early_leaves_none_of_them(stage: Stage) -> None:
    async def endless() -> AsyncIterator[list[str]]:
        yield ["true"]
        while True:
            yield SLEEP

    async with stage.emptied() as engine:
        async with engine.containers.map(IMAGE, endless(), limit=3, stop_timeout=0) as results:
            first = await anext(aiter(results))
            assert first.completed is not None
            assert first.completed.exit_code == 0
        assert engine.containers.list() == []


async def test_one_of_many_that_cant_run_is_told_with_the_others(stage: Stage) -> None:
    async with stage.emptied() as engine:
        async with engine.containers.map(IMAGE, [["no-such-command"], ["true"]], limit=2) as results:
            found = {done.index: done async for done in results}
        assert isinstance(found[0].error, CannotStart)
        assert found[1].error is None


async def test_what_the_commands_raise_comes_out(stage: Stage) -> None:
    def broken() -> list[list[str]]:
        raise ValueError("mine")

    async def run_them(engine: lading.Engine) -> None:
        async with engine.containers.map(IMAGE, (words for words in broken()), limit=2) as results:
            async for _ in results:
                pass

    async with stage.emptied() as engine:
        with pytest.raises(ValueError, match="mine"):
            await run_them(engine)
        assert await output_of(engine, IMAGE, "echo", "works") == b"works\n"


# -- health -------------------------------------------------------------------------------------------------


def quick(*test: str, **more: int) -> HealthCheck:
    """A check every 50 ms, two failures of which count."""
    times = {"interval": 50_000_000, "timeout": 2_000_000_000, "start_interval": 20_000_000, "retries": 2}
    return HealthCheck(test, **(times | more))


async def health_is(engine: lading.Engine, container: lading.Container, health: str) -> None:
    await until(engine, lambda: engine.core.supervision(container.id).health == health)


async def test_health_is_probed_and_its_changes_are_recorded(stage: Stage) -> None:
    flip = ["sh", "-c", "touch /ok; sleep 1000"]
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, flip, health=quick("CMD-SHELL", "cat /ok || exit 4"))
        await made.start()
        assert engine.core.supervision(made.id).health == "starting"
        await health_is(engine, made, "healthy")
        await made.exec(["rm", "/ok"])
        await health_is(engine, made, "unhealthy")
        last = engine.core.health[made.id].probes[-1]
        assert last.exit_code == 4
        assert "/ok" in last.output
        assert "/ok" in event(engine, made.id, HealthChanged).why
        await made.exec(["touch", "/ok"])
        await health_is(engine, made, "healthy")
        assert [name for name in story(engine, made.id) if name == "HealthChanged"] == ["HealthChanged"] * 3
        assert made.status == "running"


async def test_a_probe_that_takes_too_long_or_is_not_there_is_a_failure(stage: Stage) -> None:
    async with stage.emptied() as engine:
        slow = await engine.containers.create(IMAGE, SLEEP, health=quick("CMD", "sleep", "9", timeout=50_000_000))
        gone = await engine.containers.create(IMAGE, SLEEP, health=quick("CMD", "no-such-command"))
        for each, code in ((slow, -1), (gone, None)):
            await each.start()
            await health_is(engine, each, "unhealthy")
            found = engine.core.health[each.id].probes[-1]
            assert found.exit_code != 0
            assert code is None or found.exit_code == code
        await slow.stop(timeout=0)


async def test_an_unhealthy_container_is_restarted_if_it_asks_for_that(stage: Stage) -> None:
    once = ["sh", "-c", "test -e /was && touch /ok; touch /was; exec sleep 1000"]
    async with stage.emptied() as engine:
        made = await engine.containers.create(
            IMAGE, once, health=quick("CMD", "cat", "/ok"), restart_unhealthy=True, stop_timeout=0
        )
        await made.start()
        await happens(engine, made.id, RestartScheduled)
        assert event(engine, made.id, RestartScheduled).why == "unhealthy"
        await health_is(engine, made, "healthy")
        assert made.state.run == 2


async def test_health_goes_on_with_the_next_engine(stage: Stage) -> None:
    async with stage.engine() as engine:
        made = await engine.containers.create(
            IMAGE, ["sh", "-c", "touch /ok; sleep 1000"], health=quick("CMD", "cat", "/ok")
        )
        await made.start()
        await health_is(engine, made, "healthy")
        await made.exec(["rm", "/ok"])
    async with stage.emptied() as engine:
        await health_is(engine, engine.containers.get(made.id), "unhealthy")
