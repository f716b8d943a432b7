"""The engine at any moment, and requests that are made twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import attrs
import pytest
import trio
from stage import IMAGE, Stage, empty, story

import lading
from lading.engine.core import new_command_id
from lading.events.container import KillRequested, Removed, Started
from lading.events.envelope import Actor
from lading.events.errors import CommandReused, Invalid, NotFound, NotInHistory

pytestmark = pytest.mark.real

NAIVE = datetime(2026, 1, 1)


@pytest.mark.slow
async def test_the_engine_of_any_moment_has_the_queries_of_now(stage: Stage) -> None:
    """By position, instant and words; what came later is not there, and what went is."""
    async with stage.emptied() as engine:
        before = engine.log.position
        web = await engine.containers.create(IMAGE, ["sleep", "60"], name="web")
        created = engine.log.position
        await web.start()
        running, then = engine.log.position, datetime.now(UTC)
        await web.rename("api")
        await web.stop(timeout=0)
        await web.remove()
        assert engine.containers.list() == []
        past = await engine.at(created)
        assert [state.name for state in past.containers.list()] == ["web"]
        assert past.containers.list(all=False) == []
        assert past.images.resolve(IMAGE).image == engine.images.resolve(IMAGE).image
        for moment in (running, then, then.astimezone(timezone(timedelta(hours=5))), f"@{running}"):
            past = await engine.at(moment)
            assert past.position == running
            assert past.containers.get("web").process is not None
            assert past.containers.get(web.id[:10]).id == web.id
            with pytest.raises(NotFound):
                past.containers.get("api")
        assert (await engine.at("now")).position == engine.log.position
        past = await engine.at(before)
        assert past.containers.list() == []
        assert (await engine.at(0)).images.list() == []
        for wrong, error in (
            (engine.log.position + 1, NotInHistory),
            ("soon", Invalid),
            (-1, Invalid),
            (True, Invalid),
            (datetime.now(), Invalid),
        ):
            with pytest.raises(error):
                await engine.at(wrong)


@pytest.mark.slow
async def test_compacted_history_is_gone_from_the_log_and_all_else_goes_on(stage: Stage) -> None:
    """With a container that runs throughout, adopted by the next engine though its first records are archived."""
    async with stage.engine() as engine:
        web = await engine.containers.create(IMAGE, ["sleep", "60"], name="web")
        await web.start()
        pid, cut = web.pid, engine.log.position
        event = await engine.compact("now")
        assert (event.first, event.last) == (1, cut)
        assert engine.log.read()[0].position == cut + 1
        process = (await engine.at(cut)).containers.get("web").process
        assert process is not None
        assert process.pid == pid
        with pytest.raises(NotInHistory, match="give the archive"):
            await engine.at(cut - 1)
        assert (stage.root / "archive" / event.archive).stat().st_size > 0
    async with stage.emptied() as engine:
        web = engine.containers.get("web")
        assert (web.pid, web.status) == (pid, "running")
        await web.stop(timeout=0)
        await web.start()
        await web.remove(force=True)
        assert story(engine, web.id)[-1] == "Removed"
        assert (await engine.log.verify()).first == cut + 1


@pytest.mark.slow
async def test_a_stop_whose_request_was_compacted_is_still_carried_out(stage: Stage) -> None:
    """Recovery takes up a stop that the log no longer has the words of."""
    async with stage.engine() as engine:
        deaf = await engine.containers.create(
            IMAGE, ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], name="deaf", stop_timeout=1
        )
        await deaf.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deaf.stop, 300)
            while deaf.state.phase.value != "stopping":  # noqa: ASYNC110  # the phase has no event of its own
                await trio.sleep(0.01)
            await engine.compact("now")
            nursery.cancel_scope.cancel()
    async with stage.engine() as engine:
        with trio.fail_after(20):
            assert await engine.containers.get("deaf").wait() == 137
        await empty(engine)


def caller(actor: Actor | None = None) -> lading.Caller:
    return lading.Caller(actor or Actor(1000, 1000, None, "test"), new_command_id(), once=True)


@pytest.mark.slow
async def test_a_request_made_twice_is_done_once(stage: Stage) -> None:
    """Each kind of request, at once and later, also when its container has another name or is gone."""
    async with stage.emptied() as engine:
        create, start, rename, kill, remove = (caller() for _ in range(5))
        first = await engine.containers.create(IMAGE, ["sleep", "60"], name="web", caller=create)
        assert (await engine.containers.create(IMAGE, ["sleep", "60"], name="web", caller=create)).id == first.id
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(lambda: first.start(caller=start))
        await first.start(caller=start)
        assert story(engine, first.id).count("Started") == 1
        await first.rename("api", caller=rename)
        await first.rename("api", caller=rename)
        for _ in range(3):
            await first.kill("SIGKILL", caller=kill)
        assert await first.wait() == 137
        await first.start(caller=start)  # a late retry does not start it again
        assert first.status == "exited"
        for _ in range(3):
            await first.remove(caller=remove)
        with pytest.raises(NotFound):
            await first.remove()
        with pytest.raises(CommandReused):
            await first.remove(caller=create)
        kinds = [type(record.event) for record in engine.log.read(limit=1000)]
        assert [kinds.count(kind) for kind in (Started, KillRequested, Removed)] == [1, 1, 1]
        records = engine.log.read(limit=1000)
        asked = [record for record in records if record.command == kill.command]
        assert {record.actor for record in asked} == {kill.actor}


@pytest.mark.slow
async def test_a_run_made_twice_has_one_result(stage: Stage) -> None:
    """While it goes on, and after it is over: then its output is gone with its container, and its code is
    known.
    """
    async with stage.engine() as engine:
        who = caller()
        done: list[lading.Completed] = []

        async def run() -> None:
            done.append(await engine.containers.run(IMAGE, ["sh", "-c", "echo hi; exit 3"], caller=who))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            nursery.start_soon(run)
        late = await engine.containers.run(IMAGE, ["sh", "-c", "echo hi; exit 3"], caller=who)
        assert {completed.container for completed in (*done, late)} == {late.container}
        assert [completed.exit_code for completed in (*done, late)] == [3, 3, 3]
        assert b"hi\n" in [completed.stdout for completed in done]
        assert (late.stdout, late.truncated) == (b"", True)
        failing = caller()
        for _ in range(2):
            with pytest.raises(lading.errors.CannotStart) as failed:
                await engine.containers.run(IMAGE, ["/no/such"], caller=failing)
            assert failed.value.exit_code == 127


async def test_an_import_made_twice_is_one_image(stage: Stage) -> None:
    async with stage.engine() as engine:
        who = caller()
        first = await engine.images.import_rootfs(stage.tar, "twice:1", caller=who)
        position = engine.log.position
        again = await engine.images.import_rootfs(stage.tar, "twice:1", caller=who)
        assert (again, engine.log.position) == (first, position)


@pytest.mark.slow
async def test_who_asks_is_recorded_with_everything_it_led_to(stage: Stage) -> None:
    """An actor that is given; without one this process; a part that is unknown stays unknown, and is never
    root.
    """
    async with stage.emptied() as engine:
        someone = Actor(None, None, None, "grader")
        await engine.containers.run(IMAGE, ["true"], actor=someone)
        records = engine.log.read(limit=1000)
        ours = [record for record in records if record.actor == someone]
        assert len({record.command for record in ours}) == 1
        assert [type(record.event).__name__ for record in ours] == [
            "Created",
            "StartRequested",
            "Started",
            "Exited",
            "RemoveRequested",
            "Removed",
        ]
        assert engine.core.log.read_command(ours[0].command) == ours
        assert attrs.astuple(ours[0].actor) == (None, None, None, "grader")
