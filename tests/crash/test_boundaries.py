"""Crash points, enumerated: the engine dies at each step of a whole life, and the next one makes it whole.

See ``boundaries``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from stage import IMAGE, Census, Stage, agree, empty, processes, story

from lading.events.container import Phase
from lading.events.errors import NotFound
from lading.events.execs import ExecExited, exec_stream
from lading.events.views import EXECS
from lading.storage.overlay import mounts_below
from lading.storage.procfs import is_alive

sys.path.insert(0, str(Path(__file__).parent))
from boundaries import PARTS, die_at_each_step

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.long]

LIFE = f"""
    made = await containers.create({IMAGE!r}, ["sh", "-c", "echo hello; exit 3"], name="short")
    say("created", made.id)
    await made.start()
    say("started", made.id)
    await made.wait()
    say("exited", made.id)
    long = await containers.create({IMAGE!r}, ["sleep", "1000"], name="long")
    say("created", long.id)
    await long.start()
    say("started", long.id)
    done = await long.exec(["sh", "-c", "exit 7"])
    say("executed", done.exec, done.exit_code)
    await long.stop(timeout=0)
    say("stopped", long.id)
    await long.start()
    await made.remove()
    say("removed", made.id)
    await long.remove(force=True)
    say("removed", long.id)
    await containers.run({IMAGE!r}, ["true"])
    say("ran")
    say("steps", steps)
"""


ACKNOWLEDGED = {
    "created": "Created",
    "started": "Started",
    "exited": "Exited",
    "stopped": "Exited",
    "removed": "Removed",
}
"""What a caller was told, and the event that has to be in the log from then on."""


async def holds(stage: Stage, said: list[list[str]]) -> None:
    """What was acknowledged is there, what is there is whole, and nothing else is."""
    async with stage.engine(timeout=30) as engine:
        for state in engine.containers.list():
            if state.phase is Phase.REMOVING or (state.phase is Phase.STOPPED and state.spec.auto_remove):
                await engine.core.wait_removed(state.id)
            elif supervisor := engine.core.live.get(state.id):
                await (supervisor.ended if state.phase is Phase.STOPPING else supervisor.begun).wait()
        acknowledged = {(words[0], words[1]) for words in said if words[0] in ACKNOWLEDGED}
        for word, container in acknowledged:
            events = story(engine, container)
            if ("removed", container) in acknowledged:
                assert events[-1] == "Removed"
                with pytest.raises(NotFound):
                    engine.containers.get(container)
            assert ACKNOWLEDGED[word] in events
        for state in engine.containers.list():
            assert state.phase in (Phase.CREATED, Phase.RUNNING, Phase.STOPPED), state
            if state.phase is Phase.RUNNING:
                assert state.process is not None
                assert is_alive(state.process) or state.name == "short"
            if state.name == "short" and state.started_at and state.phase is Phase.STOPPED:
                assert state.exit_code in (3, None)
                assert state.exit_code == 3 or state.error
        for words in said:
            if words[0] == "executed":
                last = engine.log.read_stream(exec_stream(words[1]))[-1].event
                assert (last, words[2]) == (ExecExited(7), "7")
        for _, left in engine.core.log.scan(EXECS):
            assert engine.core.state(left.container).process is not None
        known = {state.id for state in engine.containers.list()}
        assert {path.name for path in stage.paths.containers.iterdir()} <= known
        assert len(list(stage.paths.layers.iterdir())) == 1
        assert list(stage.paths.staging.iterdir()) == []
        live = set(engine.core.live)
        assert {point.parent.name for point in mounts_below(stage.paths.run)} <= live
        assert {path.name for path in (stage.paths.run / "bundles").iterdir()} <= live
        await engine.log.verify()


async def again(stage: Stage) -> None:
    """Opening once more changes nothing, and what the life did can be done again."""
    async with stage.engine(timeout=30) as engine:
        position = engine.log.position
    async with stage.engine(timeout=30) as engine:
        assert engine.log.position == position
        for name in ("short", "long"):
            try:
                made = engine.containers.get(name)
            except NotFound:
                made = await engine.containers.create(IMAGE, ["true"], name=name)
            if made.state.phase is not Phase.RUNNING:
                await made.start()
        await engine.containers.run(IMAGE, ["true"])
        await empty(engine)
    agree(lambda: processes(stage.paths.run), {})


@pytest.mark.parametrize("part", range(PARTS))
async def test_every_step_of_a_life_can_be_the_last(leakless: Census, busybox_tar: Path, part: int) -> None:
    where = Stage(leakless.root, busybox_tar)

    async def check(said: list[list[str]]) -> None:
        await holds(where, said)
        await again(where)

    await die_at_each_step(leakless, where, LIFE, check, part=part, least=40)
