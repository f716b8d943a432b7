"""An engine that dies at each step of what it does, in turn.

A first child counts the steps: every append before and after it is on disk, every rename, mount and message to
the keeper, and what else ``crashing`` was called for. Then, for each step, a child kills itself there, the
recovery dies, too, and the store is opened again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from child import Child, child_engine
from stage import Census, Stage

Words = list[list[str]]
"""The lines that a child said, each in words."""

PARTS = 4
"""The steps of a life go to so many tests, one after the other."""

PRELUDE = """
import pathlib
import lading.engine.oci.bundle, lading.engine.history.journal, lading.engine.keeper.link
import lading.engine.images.publish, lading.engine.containers.removal, lading.engine.containers.supervisor
import lading.storage.layers, lading.storage.log, lading.storage.store

LAST, steps = {last}, 0

def step(what):
    global steps
    steps += 1
    if steps == LAST:
        say("step", what)
        os.kill(os.getpid(), signal.SIGKILL)

def crashing(place, name, after=True):
    real = getattr(place, name)
    def wrapped(*args, **options):
        step("before " + name)
        result = real(*args, **options)
        if after:
            step("after " + name)
        return result
    setattr(place, name, wrapped)

crashing(lading.storage.log.Log, "append")
crashing(pathlib.Path, "rename")
crashing(lading.engine.oci.bundle, "mount_overlay")
crashing(lading.engine.oci.bundle, "unmount")
crashing(lading.engine.keeper.link.Link, "_post")
crashing(lading.engine.images.publish, "place")
"""


async def die_at_each_step(
    census: Census,
    stage: Stage,
    life: str,
    check: Callable[[Words], Awaitable[None]],
    *,
    prelude: str = PRELUDE,
    part: int,
    least: int,
    begun: str = "",
) -> None:
    """Let the engine die at every step of ``life`` that belongs to ``part``, and ``check`` what is there then.

    ``check`` is given what the child said, also for a life that nothing ended, which has more than ``least`` steps
    and ends with ``say("steps", steps)``. ``begun``: the word that the child has to have said, or that step is
    left out. Every failure is told.
    """
    said = await _live(stage, life, prelude, 0)
    [count] = [int(words[1]) for words in said if words[0] == "steps"]
    assert count > least, said
    await check(said)
    wrong: list[Exception] = []
    for last in range(1 + part, count + 1, PARTS):
        census.clean()
        said = await _live(stage, life, prelude, last)
        if begun and [begun] not in said:
            continue
        await _live(stage, "", prelude, 1 + last % 5)  # at one of the recovery's first steps, if it has that many
        try:
            await check(said)
        except Exception as error:
            error.add_note(f"after the crash at step {last} of {count}: {said[-4:]}")
            wrong.append(error)
    if wrong:
        raise ExceptionGroup(f"{len(wrong)} of the crashes were not made good", wrong)


async def _live(stage: Stage, life: str, prelude: str, last: int) -> Words:
    async with child_engine(stage, life, prelude=prelude.format(last=last), stay=False) as child:
        return await _told(child)


async def _told(child: Child) -> Words:
    """Everything it says until it dies."""
    said = []
    while (line := await child.line()) and line != "done":
        said.append(line.split(" "))
    return said
