"""Containers: making them, running them, and finding them."""

from __future__ import annotations

import contextlib
import random
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs
import trio

from lading.engine.containers.container import Container
from lading.engine.containers.hostchecks import check_host
from lading.engine.containers.imagehealth import ImageHealth, settle_health
from lading.engine.containers.mapping import Results
from lading.engine.containers.names import random_name
from lading.engine.containers.recipe import Recipe, make_recipe, make_spec
from lading.engine.containers.removal import own_volumes, remove_container
from lading.engine.containers.restarts import restart_when_due
from lading.engine.containers.running import Running
from lading.engine.containers.supervisor import Supervisor
from lading.engine.core import Caller, Core, new_caller
from lading.engine.files.exporting import export_container
from lading.engine.images.images import Images
from lading.engine.queries import ContainerQueries
from lading.engine.retry import deciding, first_result
from lading.engine.volumes.mounts import settle_mounts
from lading.engine.volumes.volumes import new_directories
from lading.events.commands import (
    Command,
    CreateContainer,
    RemoveContainer,
    decide,
)
from lading.events.container import LIVE, ContainerState, Created, StartRequested
from lading.events.envelope import Actor, Proposed, Record
from lading.events.errors import (
    AlreadyExists,
    Conflict,
    EngineClosed,
    HostError,
    Invalid,
    NotFound,
    WrongPhase,
)
from lading.events.ids import ContainerId, check_container_name, container_stream
from lading.events.image import ImageConfig
from lading.events.settingchecks import check_settings
from lading.events.settings import ContainerSettings
from lading.events.volume import volume_stream

__all__ = ["Containers"]

_CAPTURE = 16 << 20

USUAL = ContainerSettings()


class Containers:
    """Every container of the store."""

    def __init__(self, core: Core, images: Images) -> None:
        self.core = core
        self._images = images
        self._health = ImageHealth(core)
        self._queries = ContainerQueries(core.log)
        self._draw = random.Random(secrets.randbits(64))

    # -- queries: they read a snapshot, and never wait ------------------------------------------------------

    def get(self, reference: str) -> Container:
        """The container with this id, name, or unique id prefix, in this order.

        Raises ``NotFound`` or ``Ambiguous``.
        """
        return Container(self, self._queries.get(reference).id)

    def list(self, *, all: bool = True) -> list[ContainerState]:  # Docker's word
        """Every container (or only those that run), the newest first."""
        return self._queries.list(all=all)

    def export(self, reference: str) -> AbstractAsyncContextManager[AsyncGenerator[bytes, None]]:
        """The container's file system as a tar archive, to be read in ``async with``; made while it is read.

        Of one that runs, too: a file that changes meanwhile has the length that it had first. No mount is
        followed: volumes, /proc and /dev are empty directories. Raises ``NotFound``, ``Ambiguous``; entering and
        reading raise ``HostError``.
        """
        return export_container(self.core, self._queries.get(reference))

    # -- commands -------------------------------------------------------------------------------------------

    async def create(
        self,
        image: str,
        command: Sequence[str] = (),
        *,
        name: str | None = None,
        actor: Actor | None = None,
        caller: Caller | None = None,
        **options: Any,
    ) -> Container:
        """A new container from ``image`` (name, id or id prefix); not started. ``options`` as in ``Recipe`` and
        ``ContainerSettings``.

        ``actor``: who asks, for the history; or ``caller``, with the command id as well. Costs one append: the
        writable layer is made at the first start.
        """
        recipe = make_recipe(image, command, options)
        caller = caller or new_caller(actor=actor)
        container, _ = await self.make(recipe, name=name, start=False, caller=caller)
        return container

    def run(
        self,
        image: str,
        command: Sequence[str] = (),
        *,
        name: str | None = None,
        remove: bool = True,
        stdin: bytes | None = None,
        capture: int = _CAPTURE,
        actor: Actor | None = None,
        caller: Caller | None = None,
        **options: Any,
    ) -> Running:
        """Create a container and run it: to its end with ``await``, for the time of a block with ``async with``.

        ``await run(...)`` gives the exit code and (up to ``capture`` bytes of) output. A cancel stops the
        container, within its stop timeout, and removes it (with ``remove``); only then is the cancel delivered.

        ``async with run(...) as container`` gives the running container; leaving the block kills and removes it
        (without ``remove``: kills it), however the block is left. It never outlives the block.

        Both raise ``CannotStart`` if the command can't be executed; the container is removed then, too. A retry
        (``Caller.once``) waits for the first try's run; of one that is over it knows the exit code, and the output
        as long as the container is there (``truncated`` says that it isn't). ``options`` as in ``Recipe`` and
        ``ContainerSettings``.
        """
        fed = stdin is not None
        own = {"auto_remove": remove, "open_stdin": fed, "stdin_once": fed}
        recipe = make_recipe(image, command, {**own, **options})
        caller = caller or new_caller(actor=actor)
        return Running(self, recipe, name=name, remove=remove, stdin=stdin, capture=capture, caller=caller)

    def map(
        self,
        image: str,
        commands: Iterable[Sequence[str]] | AsyncIterable[Sequence[str]],
        *,
        limit: int = 64,
        capture: int = _CAPTURE,
        actor: Actor | None = None,
        **options: Any,
    ) -> Results:
        """Run each of ``commands`` in a container of its own, at most ``limit`` at once; results as they come::

            async with engine.containers.map("busybox", commands, limit=64) as results:
                async for done in results:
                    print(done.index, done.completed or done.error)

        ``commands`` may be endless: none is taken before there is room for it. ``options`` as for ``run``, for
        all of them; each container is removed at its end. Leaving the block early, or a cancel, stops and removes
        those that run.
        """

        def begin(command: Sequence[str]) -> Running:
            return self.run(image, command, capture=capture, actor=actor, **options)

        return Results(begin, commands, limit)

    async def make(
        self, recipe: Recipe, *, name: str | None, start: bool, caller: Caller
    ) -> tuple[Container, Supervisor | None]:
        """Create a container and, with ``start``, ask for its first run in the same append.

        For a retry: the container of the first try, with the supervisor of its first run while that goes on.
        """
        self.core.check_open()
        async with deciding(self.core, caller):
            first = first_result(self.core, caller, Created)
            if first is not None:
                return self._made(first)
            return await self._make(recipe, name, start, caller)

    async def _make(
        self, recipe: Recipe, name: str | None, start: bool, caller: Caller
    ) -> tuple[Container, Supervisor | None]:
        if name is not None:
            check_container_name(name)
        if recipe.settings != ContainerSettings():
            check_settings(recipe.settings, recipe.network)
            check_host(recipe.settings, self.core.host)
        async with self.core.content.using():  # the image's layers stay until the container is there to need them
            image = self._images.resolve(recipe.image)
            spec = attrs.evolve(make_spec(recipe, image), layers=self._images.visible_layers(image))
            health = settle_health(recipe.settings.health, self._health.of(image))
            if health is None and recipe.settings.restart_unhealthy:
                why = "nothing tells whether it is healthy: give it a health check, or use an image that has one"
                raise Invalid("restart when unhealthy", image.image, why)
            if health != recipe.settings.health:
                recipe = attrs.evolve(recipe, settings=attrs.evolve(recipe.settings, health=health))
            asked = CreateContainer(ContainerId(secrets.token_hex(32)), name or "", spec, start)
            if recipe.settings != USUAL or image.config.volumes or recipe.volumes_from:
                container, records = await self._append_configured(recipe, image.config, asked, caller)
            else:
                container, records = await self._append_created(asked, caller)
        supervisor = self._supervise(container, caller, records[-1]) if start else None
        return Container(self, container), supervisor

    async def _append_configured(
        self, recipe: Recipe, image: ImageConfig, asked: CreateContainer, caller: Caller
    ) -> tuple[ContainerId, tuple[Record, ...]]:
        """As ``_append_created``, with settings, and all of the volumes that are made for it, or none of them."""
        core = self.core

        def settle() -> tuple[CreateContainer, list[Proposed]]:
            settings, made = settle_mounts(core, recipe.settings, image, recipe.volumes_from)
            return attrs.evolve(asked, settings=settings), made

        configured, made = settle()
        if not made:
            return await self._append_created(configured, caller)
        async with core.volume_lock:
            configured, made = settle()
            async with new_directories(core, [each.stream.removeprefix(volume_stream("")) for each in made]):
                created = await self._append_created(configured, caller, made)
        return created

    async def _append_created(
        self, asked: CreateContainer, caller: Caller, before: Sequence[Proposed] = ()
    ) -> tuple[ContainerId, tuple[Record, ...]]:
        """Append ``before`` and what makes a container as ``asked``; without a name, with one drawn at random."""
        container = asked.container
        stream = container_stream(container)
        for attempt in range(100):
            chosen = asked.name or random_name(self._draw) + (
                f"_{self._draw.randrange(10**4)}" if attempt > 4 else ""
            )
            events = decide(None, attrs.evolve(asked, name=chosen))
            proposed = [Proposed(stream, event, 0 if number == 0 else None) for number, event in enumerate(events)]
            try:
                records = await self.core.journal.append(
                    [*before, *proposed], actor=caller.actor, command=caller.command
                )
            except AlreadyExists:
                if asked.name:
                    raise
            else:
                return container, records
        raise AlreadyExists("container", "(a random one)", container)

    def _made(self, first: Record) -> tuple[Container, Supervisor | None]:
        assert isinstance(first.event, Created)
        container = first.event.container
        supervisor = self.core.live.get(container)
        return Container(self, container), supervisor if supervisor and supervisor.run_number == 1 else None

    async def request_removal(
        self, container: ContainerId, caller: Caller, *, force: bool = False, volumes: bool = False
    ) -> tuple[Record, ...]:
        """Append the intent to remove it and, with ``volumes``, its own volumes (``removal.own_volumes``)."""
        if not volumes or not self.core.settings(container).mounts:
            return await self.command(container, RemoveContainer(force), caller)
        async with self.core.content.removing():
            return await self.command(container, RemoveContainer(force), caller, own_volumes(self.core, container))

    async def command(
        self, container: ContainerId, command: Command, caller: Caller, also: Sequence[Proposed] = ()
    ) -> tuple[Record, ...]:
        """Decide ``command`` and append its intents, and ``also``; decided again if it changed meanwhile.

        A retry is not looked for: that is for who knows what its answer is.
        """
        self.core.check_open()
        stream = container_stream(container)
        while True:
            state = self.core.state(container)
            events = decide(state, command)
            try:
                return await self.core.journal.append(
                    [
                        Proposed(stream, events[0], state.version),
                        *(Proposed(stream, event) for event in events[1:]),
                        *also,
                    ],
                    actor=caller.actor,
                    command=caller.command,
                )
            except Conflict:
                continue

    async def begin(self, container: ContainerId, command: Command, caller: Caller) -> Supervisor:
        """Ask for a start and have it supervised."""
        records = await self.command(container, command, caller)
        return self._supervise(container, caller, records[-1])

    async def supervisor(self, container: ContainerId) -> Supervisor | None:
        """The supervisor of the run that is under way, once its start has an outcome; None if nothing runs."""
        while True:
            supervisor = self.core.live.get(container)
            if supervisor is not None:
                await supervisor.begun.wait()
                return None if supervisor.ended.is_set() else supervisor
            if self.core.state(container).phase not in LIVE:
                return None
            # Its start is in the log and the task that asked for it is about to run: let it.
            await trio.lowlevel.checkpoint()

    def _supervise(self, container: ContainerId, caller: Caller, record: Record) -> Supervisor:
        state = self.core.state(container)
        supervisor = Supervisor(self.core, state, caller, record.position)
        self.core.nursery.start_soon(supervisor.start, state, self)
        return supervisor

    def go_on(self, container: ContainerId, record: Record) -> None:
        """Take up what ``record`` says comes after a run that is over: the next run, now or later."""
        if isinstance(record.event, StartRequested):
            self._supervise(container, Caller(record.actor, record.command), record)
        else:
            self.restart_later(container)

    def restart_later(self, container: ContainerId) -> None:
        """Wait for the restart that the log has for ``container``, in a task of the engine's."""
        self.core.nursery.start_soon(restart_when_due, self, container)

    def auto_remove(self, container: ContainerId, caller: Caller) -> Callable[[], Awaitable[None]]:
        """What a supervisor calls for a container that asked to be removed at its end."""

        async def remove() -> None:
            try:
                records = await self.request_removal(container, caller, volumes=True)
            except (NotFound, WrongPhase):
                return  # somebody else removes it, or did
            except EngineClosed:
                return  # the next engine does it
            with contextlib.suppress(HostError):  # recorded as RemoveFailed, and nobody waits to hear it
                await remove_container(self.core, container, caller, records[0].position)

        return remove
