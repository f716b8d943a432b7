"""Following real containers' lives: by what they were made with, live and afterwards, until the engine closes."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from stage import IMAGE, Stage, story

import lading
from lading.events.codec import event_tag
from lading.storage.lookback import Lookback

pytestmark = [pytest.mark.real, pytest.mark.slow]

LIFE = [
    *("container.created", "container.start-requested", "container.started", "container.exited"),
    *("container.remove-requested", "container.removed"),
]


async def test_a_label_picks_lives_live_and_after_they_are_over(stage: Stage) -> None:
    """Containers of two teams at once; a label is in the first record of a life only, and they all end."""
    seen: list[lading.Record] = []
    async with stage.engine() as engine:
        caught_up = trio.Event()

        async def watch() -> None:
            async for item in engine.log.follow(0, labels=["team=a"], notices=True):
                if isinstance(item, lading.CaughtUp):
                    caught_up.set()
                elif isinstance(item, lading.Record):
                    seen.append(item)

        async def live(number: int) -> None:
            team = {"team": "a" if number % 2 else "b"}
            await engine.containers.run(IMAGE, ["true"], labels=team)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await caught_up.wait()
            async with trio.open_nursery() as lives:
                for number in range(8):
                    lives.start_soon(live, number)
            with trio.fail_after(10):
                while sum(event_tag(record.event) == "container.removed" for record in seen) < 4:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        pages = engine.log.pages(0, labels=["team=a"])
        assert [record async for page in pages for record in page] == seen
        streams = {record.stream for record in seen}
        assert len(streams) == 4
        for stream in streams:
            assert [event_tag(record.event) for record in seen if record.stream == stream] == LIFE
        commands = {record.command for record in seen if record.stream == seen[0].stream}
        [command] = commands
        assert engine.log.read_command(command) == [
            record async for page in engine.log.pages(0, command=command) for record in page
        ]
        assert story(engine, seen[0].stream.removeprefix("container/"))[-1] == "Removed"
    async with stage.engine() as engine:
        pages = engine.log.pages(0, labels=["team=a"])
        assert [record async for page in pages for record in page] == seen, "another engine knows them, too"


async def test_a_follower_ends_with_its_engine_and_has_all_of_it(stage: Stage) -> None:
    seen: list[Any] = []
    async with trio.open_nursery() as nursery, stage.engine() as engine:

        async def watch() -> None:
            async for record in engine.log.follow(0):
                seen.append(record)

        nursery.start_soon(watch)
        await engine.containers.run(IMAGE, ["true"])
    log = lading.read_log(stage.root)
    try:
        assert seen == log.read()
    finally:
        log.close()


async def test_what_was_compacted_away_is_still_known_of_those_who_go_on(stage: Stage) -> None:
    """Labels, names and Docker's events of a container whose first records are in an archive."""
    async with stage.emptied() as engine:
        container = await engine.containers.create(IMAGE, ["true"], name="old", labels={"team": "a"})
        early = engine.log.follow(0, notices=True)
        cut = engine.log.position
        await container.rename("new")
        await engine.compact(cut)
        kept = [record async for page in engine.log.pages(cut, labels=["team=a"]) for record in page]
        assert [event_tag(record.event) for record in kept] == ["container.renamed"]
        with pytest.raises(lading.errors.NotInHistory):
            engine.log.follow(cut - 1)
        with pytest.raises(lading.errors.NotInHistory):
            await anext(early)
        lookback = Lookback(engine.core.log)
        before, after = lookback.step(kept[0])
        assert before is not None
        assert after is not None
        assert (before.name, after.name, after.spec.labels) == ("old", "new", {"team": "a"})
        assert [name for _, name in lookback.names(kept[0].stream)] == ["old", "new"]
