"""After a reboot: nothing runs, nothing is known of how it ended, and everything that was written is there."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from stage import IMAGE, Stage, agree, empty, event, processes

from lading.events.container import Exited, Phase
from lading.storage import procfs
from lading.storage.cgroups import remove_cgroup
from lading.storage.overlay import mounts_below, unmount

sys.path.insert(0, str(Path(__file__).parent))
from child import child_engine

pytestmark = [pytest.mark.real, pytest.mark.slow]

WRITER = ["sh", "-c", "echo run >> /tmp/runs; cat /tmp/runs; sleep 1000"]


def reboot(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a reboot takes: processes, mounts, cgroups, /run, and the boot's identity."""
    run = stage.paths.run

    def gone() -> dict[int, str]:
        for pid in (left := processes(run)):
            os.kill(pid, signal.SIGKILL)
        return left

    agree(gone, {})
    for point in (*mounts_below(run), run):
        unmount(point)
    shutil.rmtree(run)
    remove_cgroup(f"/lading/{run.name}")
    old = procfs.boot_id
    new = f"another boot after {old()}"
    for module in list(sys.modules.values()):
        if module is not None and vars(module).get("boot_id") is old:
            monkeypatch.setattr(module, "boot_id", lambda: new)


async def test_a_reboot_ends_what_ran_as_unknown_and_keeps_its_files(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = f"""
        for name in ("one", "two"):
            made = await containers.create({IMAGE!r}, {WRITER!r}, name=name)
            await made.start()
            await printed(made, b"run")
        ended = await containers.create({IMAGE!r}, ["sh", "-c", "exit 3"], name="ended")
        await ended.start()
        await ended.wait()
        await containers.create({IMAGE!r}, ["true"], name="never-ran")
        gone = await containers.create({IMAGE!r}, ["sleep", "1000"], name="gone", auto_remove=True)
        await gone.start()
        await (await containers.create({IMAGE!r}, ["sleep", "1000"], name="stopping")).start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(containers.get("stopping").stop, 1000)
            await happens(engine, containers.get("stopping").id, lading.events.container.StopRequested)
            say("stopping")
            await trio.sleep_forever()
    """
    async with child_engine(stage, start, prelude="import lading.events.container") as child:
        await child.until("stopping")
        child.kill()
    reboot(stage, monkeypatch)
    async with stage.engine() as engine:
        while any(state.name == "gone" for state in engine.containers.list()):  # its removal is taken up
            await engine.log.follow(engine.log.position).__anext__()
        states = {state.name: state for state in engine.containers.list()}
        assert {name: (state.phase, state.exit_code) for name, state in states.items()} == {
            "one": (Phase.STOPPED, None),
            "two": (Phase.STOPPED, None),
            "stopping": (Phase.STOPPED, None),
            "ended": (Phase.STOPPED, 3),
            "never-ran": (Phase.CREATED, None),
        }
        for name in ("one", "two", "stopping"):
            assert "reboot" in event(engine, states[name].id, Exited).why
            assert states[name].process is None
        assert event(engine, states["ended"].id, Exited).why == ""
    async with stage.engine() as engine:
        position = engine.log.position
    async with stage.engine() as engine:
        assert engine.log.position == position
        made = engine.containers.get("one")
        assert (stage.paths.container(made.id) / "upper/tmp/runs").read_text() == "run\n"
        await made.start()
        assert made.state.process is not None
        assert made.state.process.boot.startswith("another boot")
        assert await made.stop(timeout=0) == 137
        assert (stage.paths.container(made.id) / "upper/tmp/runs").read_text() == "run\nrun\n"
        await empty(engine)


async def test_an_exit_record_from_before_the_reboot_is_believed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container ended while no engine was there, its keeper wrote that down, and then the machine went."""
    start = f"""
        made = await containers.create({IMAGE!r}, ["sleep", "1000"], name="it")
        await made.start()
        say(made.pid)
    """
    async with child_engine(stage, start) as child:
        pid = int((await child.until("done"))[-2])
        child.kill()
    os.kill(pid, signal.SIGKILL)
    agree(lambda: processes(stage.paths.run), {})
    reboot(stage, monkeypatch)
    async with stage.engine() as engine:
        made = engine.containers.get("it")
        assert made.state.exit_code == 137
        assert event(engine, made.id, Exited).why == ""
        await made.remove()
