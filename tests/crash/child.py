"""An engine in a process of its own, to be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from stage import IMAGE, Stage

_MAIN = """
import os, random, signal, sys, time
sys.path[:0] = {path!r}
import trio, lading
from stage import *
from pathlib import Path

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

{prelude}

async def main():
    async with lading.open_engine({root!r}, on_exit={on_exit!r}) as engine:
        if not engine.images.list():
            await engine.images.import_rootfs({tar!r}, {image!r})
        containers = engine.containers
{scenario}
        say("done")
        {after}

trio.run(main)
"""


class Child:
    """The process. ``line`` gives what it says; ``kill`` ends it without a word."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._said = b""

    async def line(self) -> str:
        """Its next line, without the newline; empty when it has ended."""
        assert self.process.stdout is not None
        while b"\n" not in self._said:
            await trio.lowlevel.wait_readable(self.process.stdout)
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                return ""
            self._said += data
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    async def until(self, word: str) -> list[str]:
        """What it says up to and including ``word``."""
        said = [await self.line()]
        while said[-1] != word:
            assert said[-1], f"it ended before it said {word!r}: {said}"
            said.append(await self.line())
        return said

    def kill(self) -> int:
        """SIGKILL; its wait status."""
        self.process.send_signal(signal.SIGKILL)
        return self.process.wait()


@asynccontextmanager
async def child_engine(
    stage: Stage, scenario: str, *, prelude: str = "", on_exit: str = "leave", stay: bool = True
) -> AsyncIterator[Child]:
    """An engine of ``stage`` in a child that executes ``scenario`` and says "done"; killed at the end."""
    text = _MAIN.format(
        path=[str(Path(__file__).parent.parent)],
        root=str(stage.root),
        tar=str(stage.tar),
        image=IMAGE,
        on_exit=on_exit,
        prelude=textwrap.dedent(prelude),
        scenario=textwrap.indent(textwrap.dedent(scenario), " " * 8),
        after="await trio.sleep_forever()" if stay else "",
    )
    with (stage.root.parent / "child.err").open("ab") as errors:
        process = subprocess.Popen(  # noqa: ASYNC220  # what ends it is the test
            [sys.executable, "-c", text],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    child = Child(process)
    try:
        with trio.fail_after(60):
            yield child
    finally:
        child.kill()
        assert process.stdout is not None
        process.stdout.close()
