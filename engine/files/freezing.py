"""A container's processes held still for a moment, while its files are copied.

Not a pause that somebody asked for: nothing is recorded, and a container that is paused stays so. After a crash
the next opening lets go of whatever the log doesn't have as paused.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import trio

from lading.engine.containers.freezer import freeze, is_frozen, thaw
from lading.engine.core import Core
from lading.events.container import LIVE, ContainerState, Phase
from lading.events.errors import HostError
from lading.events.views import CONTAINERS
from lading.storage.store import Paths

__all__ = ["frozen", "let_go"]


@asynccontextmanager
async def frozen(core: Core, state: ContainerState) -> AsyncIterator[bool]:
    """Inside, nothing in the container runs; False where the kernel has no freezer for it, or it takes too
    long."""
    if state.phase is Phase.PAUSED:
        yield True
        return
    held = False
    try:
        with contextlib.suppress(HostError):
            await trio.to_thread.run_sync(freeze, core.paths, state.id)
            held = True
        yield held
    finally:
        now = core.log.get(CONTAINERS, state.id)
        if now is not None and now.phase is not Phase.PAUSED:  # somebody may have paused it meanwhile
            thaw(core.paths, state.id)


def let_go(paths: Paths, states: Iterable[ContainerState]) -> None:
    """Let those of ``states`` that should run go on: an engine may have ended while it held them."""
    for state in states:
        if state.phase in LIVE and state.phase is not Phase.PAUSED and is_frozen(paths, state.id):
            thaw(paths, state.id)
