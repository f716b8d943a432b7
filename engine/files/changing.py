"""What a container changed of its image's files, and which of its layers are its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from itertools import islice
from pathlib import Path

import trio

from lading.engine.core import Core
from lading.events.container import ContainerState
from lading.events.errors import HostError
from lading.events.ids import ChainId
from lading.events.imageviews import SEALED
from lading.events.views import IMAGES, Reader
from lading.storage.changes import Change, changes

__all__ = ["container_changes", "own_layers"]

_PAGE = 1000


def own_layers(reader: Reader, state: ContainerState) -> tuple[tuple[ChainId, ...], tuple[ChainId, ...]]:
    """The layers of the container that are its image's, and those on top that it or the one that it was forked
    from wrote; both the lowest first."""
    image = reader.get(IMAGES, state.spec.image)
    if image is not None:
        known = frozenset(image.layers)
        count = sum(chain in known for chain in state.spec.layers)
    else:  # removed by force: what was sealed is no image's
        sealed = [reader.get(SEALED, chain) is not None for chain in state.spec.layers]
        count = sealed.index(True) if True in sealed else len(sealed)
    return state.spec.layers[:count], state.spec.layers[count:]


@asynccontextmanager
async def container_changes(
    core: Core, state: ContainerState
) -> AsyncIterator[AsyncGenerator[list[Change], None]]:
    """The changes, in pages of at most a thousand, found while they are read; of one that runs, too.

    What was committed since it was made is a change all the same. Raises ``HostError``.
    """
    base, own = own_layers(core.log, state)
    paths = core.paths
    with contextlib.ExitStack() as stack:

        def opened(path: Path) -> int:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            return fd

        mine = []
        try:
            with contextlib.suppress(FileNotFoundError):
                mine.append(opened(paths.container(state.id) / "upper"))
            mine += [opened(paths.layer(chain)) for chain in reversed(own)]
            below = [opened(path) for path in (*map(paths.layer, reversed(base)), paths.skeleton)]
        except OSError as error:
            raise HostError("open the layers of", state.id[:12], error.errno or 0) from error
        async with aclosing(_pages(changes(mine, below))) as pages:
            yield pages


async def _pages(found: Iterator[Change]) -> AsyncGenerator[list[Change], None]:
    while page := await trio.to_thread.run_sync(lambda: list(islice(found, _PAGE))):
        yield page
