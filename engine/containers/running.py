"""One run that belongs to whoever asked for it: waited for, or held for the time of a block."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING

import attrs
import trio

from lading.engine.containers.output import OutputReader
from lading.engine.containers.recipe import Recipe
from lading.engine.containers.supervisor import Supervisor
from lading.engine.core import Caller
from lading.engine.retry import end_of_run, start_error
from lading.events.errors import EngineClosed, NotFound, WrongPhase
from lading.events.ids import ContainerId

if TYPE_CHECKING:
    from lading.engine.containers.container import Container
    from lading.engine.containers.containers import Containers

__all__ = ["Completed", "Running"]


@attrs.frozen
class Completed:
    """A run that is over. ``exit_code`` is None when it is unknown; ``truncated``: there was more output."""

    container: ContainerId
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    truncated: bool = False


class Running:
    """What ``Containers.run`` gives: ``await`` it, or hold it with ``async with``. Once, either way.

    ``await``: the container runs to its end, and the result is its ``Completed``. A cancel stops it, within its
    stop timeout, and removes it; only then is the cancel delivered.

    ``async with``: the block has the ``Container``, whose command was executed. Leaving the block, however that
    comes, kills it, and removes it; it never outlives the block.
    """

    def __init__(
        self,
        containers: Containers,
        recipe: Recipe,
        *,
        name: str | None,
        remove: bool,
        stdin: bytes | None,
        capture: int,
        caller: Caller,
    ) -> None:
        self._containers = containers
        self._recipe = recipe
        self._name, self._remove, self._stdin, self._capture = name, remove, stdin, capture
        self._caller = caller
        self._held: tuple[Container, Supervisor | None] | None = None

    def __await__(self) -> Generator[object, None, Completed]:
        return self._complete().__await__()

    async def __aenter__(self) -> Container:
        container, supervisor = await self._make()
        try:
            if supervisor is not None:
                await supervisor.begun.wait()
                if supervisor.error is not None:
                    raise supervisor.error
                if self._stdin is not None:
                    await self._feed(container.id, self._stdin)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._end(container, supervisor)
            raise
        self._held = container, supervisor
        return container

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._held is not None
        with trio.CancelScope(shield=True):
            await self._end(*self._held)

    async def _make(self) -> tuple[Container, Supervisor | None]:
        recipe = self._recipe
        return await self._containers.make(recipe, name=self._name, start=True, caller=self._caller)

    async def _complete(self) -> Completed:
        container, supervisor = await self._make()
        if supervisor is None:
            return await self._completed_before(container)
        core = self._containers.core
        reader = OutputReader(core, container.id, follow=True)
        try:
            await supervisor.begun.wait()
            if supervisor.error is not None:
                raise supervisor.error
            if self._stdin is not None:
                await self._feed(container.id, self._stdin)
            await supervisor.ended.wait()
            stdout, stderr, more = await reader.read_all(self._capture)
            if self._remove:
                await core.wait_removed(container.id)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._abandon(container, supervisor)
            raise
        finally:
            reader.close()
        return Completed(container.id, supervisor.exit_code, stdout, stderr, more)

    async def _completed_before(self, container: Container) -> Completed:
        """A first run that is over, as far as it is still known."""
        core = self._containers.core
        error = start_error(core, container.id, 1)
        if error is not None:
            raise error
        end = end_of_run(core, container.id, 1)
        code = end.exit_code if end is not None else None
        try:
            with container.logs() as reader:
                stdout, stderr, more = await reader.read_all(self._capture)
        except NotFound:
            return Completed(container.id, code, b"", b"", truncated=True)
        return Completed(container.id, code, stdout, stderr, more)

    async def _feed(self, container: ContainerId, data: bytes) -> None:
        async with await self._containers.core.link.open_stdin(container) as stream:
            with contextlib.suppress(trio.BrokenResourceError):  # it ended without reading everything
                await stream.send_all(data)
                await stream.end()

    async def _abandon(self, container: Container, supervisor: Supervisor) -> None:
        """The end of a run that nobody waits for any more: stopped, and removed if it should be."""
        await supervisor.begun.wait()
        with contextlib.suppress(NotFound, WrongPhase, EngineClosed):  # it ended, or is removed, by itself
            if not supervisor.ended.is_set():
                await container.stop(caller=self._caller)
        if self._remove:
            await self._containers.core.wait_removed(container.id)

    async def _end(self, container: Container, supervisor: Supervisor | None) -> None:
        """The end of a block: nothing of the container is left, or (without ``remove``) nothing of it runs."""
        core = self._containers.core
        if supervisor is not None:
            await supervisor.begun.wait()
        with contextlib.suppress(NotFound, WrongPhase, EngineClosed):
            if self._remove:
                await container.remove(force=True, caller=self._caller)
            else:
                await container.stop(timeout=0, caller=self._caller)
        if self._remove:
            await core.wait_removed(container.id)
