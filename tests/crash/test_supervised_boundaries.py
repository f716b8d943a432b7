"""Crash points of what supervision adds to a life: restarts, pauses, updates; the engine dies at each of their
steps.

See ``boundaries``. What must hold is told by the log itself: an exit that its policy answers with a restart has
that restart in the same append, and a container that was to be up comes up.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from stage import IMAGE, Census, Stage, agree, empty, processes, records, until

from lading.engine.containers.freezer import is_frozen
from lading.events.container import Exited, Phase, RestartScheduled, StopRequested
from lading.events.errors import NotFound
from lading.storage.procfs import is_alive

sys.path.insert(0, str(Path(__file__).parent))
from boundaries import PARTS, PRELUDE, die_at_each_step

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.long]

UNSETTLED = (Phase.STARTING, Phase.RESTARTING, Phase.STOPPING)

FREEZING = """
import lading.engine.containers.pausing
crashing(lading.engine.containers.pausing, "freeze")
crashing(lading.engine.containers.pausing, "thaw")
"""

LIFE = f"""
    from lading import Resources, RestartPolicy
    again = ["sh", "-c", "test -e /again && exec sleep 1000; touch /again; exit 3"]
    made = await containers.create({IMAGE!r}, again, name="again", restart=RestartPolicy("on-failure", 5))
    say("created", made.id)
    await made.start()
    while not engine.core.supervision(made.id).restarts or made.status != "running":
        await trio.sleep(0.005)
    say("up", made.id)
    await made.pause()
    say("paused", made.id)
    await made.unpause()
    say("unpaused", made.id)
    await made.update(restart=RestartPolicy("always"))
    say("updated", made.id)
    await made.restart(timeout=0)
    say("up", made.id)
    await made.pause()
    say("paused", made.id)
    await made.stop(timeout=0)
    say("down", made.id)
    await made.remove()
    say("removed", made.id)
    say("steps", steps)
"""


async def holds(stage: Stage, said: list[list[str]]) -> None:
    """What was acknowledged is there, and what the policy promises comes true."""
    last = said[-1][0] if said else ""
    async with stage.engine(timeout=40) as engine:
        try:
            made = engine.containers.get("again")
        except NotFound:
            assert not said or last in ("removed", "steps", "step", "down"), said
            return
        if made.state.phase is Phase.REMOVING:
            await engine.core.wait_removed(made.id)
            return
        events = records(engine, made.id)
        for record in events:
            if isinstance(record.event, Exited) and record.event.exit_code == 3:
                following = [each.event for each in events if each.position == record.position + 1]
                assert isinstance(following[0], RestartScheduled), "the restart is in the same append"
                assert events[record.version].command == record.command
        asked_down = any(isinstance(each.event, StopRequested) for each in events[-4:])
        await until(engine, lambda: made.state.phase not in UNSETTLED)
        state = made.state
        assert state.phase in (Phase.CREATED, Phase.RUNNING, Phase.PAUSED, Phase.STOPPED), state
        if state.phase is Phase.STOPPED:
            assert asked_down or state.error, [type(each.event).__name__ for each in events]
        if state.process is not None:
            assert is_alive(state.process)
            assert is_frozen(stage.paths, made.id) == (state.phase is Phase.PAUSED)
        if last == "paused":
            assert state.phase in (Phase.PAUSED, Phase.RUNNING, Phase.STOPPED)
        if [words[0] for words in said].count("updated"):
            assert engine.core.settings(made.id).restart.name == "always"
        await engine.log.verify()


async def again(stage: Stage) -> None:
    """It can be made to run once more, and taken away."""
    async with stage.engine(timeout=40) as engine:
        try:
            made = engine.containers.get("again")
        except NotFound:
            made = await engine.containers.create(IMAGE, ["sleep", "1000"], name="again")
        await until(engine, lambda: made.state.phase not in UNSETTLED)
        if made.status == "paused":
            await made.unpause()
        if made.status != "running":
            await made.start()
        await made.restart(timeout=0)
        await empty(engine)
    agree(lambda: processes(stage.paths.run), {})


@pytest.mark.parametrize("part", range(PARTS))
async def test_every_step_of_a_supervised_life_can_be_the_last(
    leakless: Census, busybox_tar: Path, part: int
) -> None:
    where = Stage(leakless.root, busybox_tar)

    async def check(said: list[list[str]]) -> None:
        await holds(where, said)
        await again(where)

    await die_at_each_step(leakless, where, LIFE, check, prelude=PRELUDE + FREEZING, part=part, least=40)
