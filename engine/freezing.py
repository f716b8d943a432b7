"""A container's processes held still for a moment, while its files are copied.

Not a pause that somebody asked for: nothing is recorded, and a container that is paused stays so. After a crash
the next opening lets go of whatever the log doesn't have as paused.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from lading.engine.runtime import cgroup_of
from lading.events.container import LIVE, ContainerState, Phase
from lading.storage.cgroups import cgroup_mounts
from lading.storage.store import Paths

__all__ = ["frozen", "let_go"]

_PATIENCE = 2.0


@asynccontextmanager
async def frozen(paths: Paths, state: ContainerState) -> AsyncIterator[bool]:
    """Inside, nothing in the container runs; False where the kernel has no freezer for it, or it takes too
    long."""
    if state.phase is Phase.PAUSED:
        yield True
        return
    file = _file(paths, state.id)
    if file is None:
        yield False
        return
    try:
        yield await _freeze(file)
    finally:
        _thaw(file)


def let_go(paths: Paths, states: Iterable[ContainerState]) -> None:
    """Let those of ``states`` that should run go on: an engine may have ended while it held them."""
    for state in states:
        if (
            state.phase in LIVE
            and state.phase is not Phase.PAUSED
            and (file := _file(paths, state.id)) is not None
        ):
            with contextlib.suppress(OSError):
                if file.read_text().strip() not in ("0", "THAWED"):
                    _thaw(file)


def _file(paths: Paths, container: str) -> Path | None:
    """The kernel's switch: ``cgroup.freeze`` of cgroup v2, or ``freezer.state`` of v1."""
    own = f"{cgroup_of(paths)}/{container}".lstrip("/")
    for mount in cgroup_mounts():
        for name in ("cgroup.freeze", "freezer.state"):
            if (mount / own / name).exists():
                return mount / own / name
    return None


async def _freeze(file: Path) -> bool:
    v1 = file.name == "freezer.state"
    try:
        file.write_text("FROZEN" if v1 else "1")
        with trio.move_on_after(_PATIENCE):
            while not (
                file.read_text().strip() == "FROZEN"
                if v1
                else "frozen 1" in (file.parent / "cgroup.events").read_text()
            ):
                if v1:
                    file.write_text("FROZEN")  # what was being made while it froze needs to be told again
                await trio.sleep(0.001)
            return True
    except OSError:
        pass
    return False


def _thaw(file: Path) -> None:
    with contextlib.suppress(OSError):  # it is gone with its container
        file.write_text("THAWED" if file.name == "freezer.state" else "0")
