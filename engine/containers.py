"""Containers: making them, finding them, and a handle on each."""

from __future__ import annotations

import contextlib
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import attrs
import trio

from lading.engine.core import Caller, Core, new_caller
from lading.engine.images import Images
from lading.engine.names import random_name
from lading.engine.output import OutputReader
from lading.engine.recipe import Recipe, make_spec
from lading.engine.removal import remove_container
from lading.engine.supervisor import Supervisor
from lading.events.claims import container_name
from lading.events.commands import (
    Command,
    CreateContainer,
    KillContainer,
    RemoveContainer,
    RenameContainer,
    StartContainer,
    StopContainer,
    decide,
)
from lading.events.container import LIVE, ContainerState, status
from lading.events.envelope import Proposed, Record
from lading.events.errors import AlreadyExists, Ambiguous, Conflict, EngineClosed, HostError, NotFound, WrongPhase
from lading.events.ids import ContainerId, check_container_name, container_stream
from lading.events.signals import signal_number
from lading.events.views import CLAIMS, CONTAINERS

__all__ = ["Completed", "Container", "Containers"]

_CAPTURE = 16 << 20


@attrs.frozen
class Completed:
    """A run that is over. ``exit_code`` is None when it is unknown; ``truncated``: there was more output."""

    container: ContainerId
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    truncated: bool = False


class Container:
    """A handle on one container. Cheap: it holds an id, and asks the views when it is asked.

    Every method raises ``NotFound`` once the container is removed, and ``WrongPhase`` when the lifecycle
    doesn't allow it now. A cancelled method either never appended its intent, or what it intended is carried
    out by the engine without it.
    """

    def __init__(self, containers: Containers, container: ContainerId) -> None:
        self.id = container
        self._containers = containers

    def __repr__(self) -> str:
        return f"<Container {self.id[:12]}>"

    @property
    def state(self) -> ContainerState:
        """What the log says of it now."""
        return self._containers.core.state(self.id)

    @property
    def name(self) -> str:
        """Its name now."""
        return self.state.name

    @property
    def status(self) -> str:
        """Docker's word for its phase: created, running, exited, removing, dead."""
        return status(self.state)

    @property
    def pid(self) -> int:
        """The host's pid of its first process, 0 if it has none."""
        process = self.state.process
        return process.pid if process else 0

    async def start(self, *, caller: Caller | None = None) -> None:
        """Run it; returns once its command was executed. Raises ``CannotStart`` with Docker's exit code.

        A container that is to be removed at its end is gone when that is raised.
        """
        supervisor = await self._containers.begin(self.id, StartContainer(), caller)
        await supervisor.begun.wait()
        if supervisor.error is not None:
            if supervisor.auto_remove:
                await self._containers.core.wait_removed(self.id)
            raise supervisor.error

    async def stop(
        self, timeout: int | None = None, signal: str | None = None, *, caller: Caller | None = None
    ) -> int | None:
        """Send ``signal`` (its stop signal), then SIGKILL after ``timeout`` seconds (its stop timeout; negative:
        never); its exit code once it is down.

        A cancel does not take the stop back.
        """
        core = self._containers.core
        supervisor = await self._containers.supervisor(self.id)
        await self._containers.command(self.id, StopContainer(timeout, signal), caller)
        if supervisor is None:
            return None
        spec = core.state(self.id).spec
        number = signal_number(signal or spec.stop_signal)
        core.nursery.start_soon(supervisor.stop, number, spec.stop_timeout if timeout is None else timeout)
        await supervisor.ended.wait()
        return supervisor.exit_code

    async def kill(self, signal: str = "SIGKILL", *, caller: Caller | None = None) -> None:
        """Send ``signal`` to its first process. Does not wait for what comes of it."""
        supervisor = await self._containers.supervisor(self.id)
        await self._containers.command(self.id, KillContainer(signal), caller)
        if supervisor is not None:
            supervisor.signal(signal_number(signal))

    async def wait(self) -> int | None:
        """Its exit code once it doesn't run; at once if it doesn't. None: unknown, or it never ran."""
        supervisor = await self._containers.supervisor(self.id)
        if supervisor is None:
            return self.state.exit_code
        await supervisor.ended.wait()
        return supervisor.exit_code

    def logs(
        self,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: int = 0,
        until: int = 0,
        stdout: bool = True,
        stderr: bool = True,
    ) -> OutputReader:
        """What it printed, as an async iterator of ``LogPiece``; as a context manager, it closes its file.

        ``tail``: only the last so many lines. ``since``, ``until``: nanoseconds UTC, 0 for no bound. ``follow``:
        go on until its run ends.
        """
        _ = self.state
        streams = frozenset(number for number, wanted in ((1, stdout), (2, stderr)) if wanted)
        return OutputReader(
            self._containers.core, self.id, follow=follow, tail=tail, since=since, until=until, streams=streams
        )

    async def remove(self, *, force: bool = False, caller: Caller | None = None) -> None:
        """Delete it with its writable layer and its output; ``force`` kills its process first.

        Returns when it is gone. A cancel does not take the removal back. Raises ``HostError`` if something on the
        host would not go; remove it again then.
        """
        core = self._containers.core
        await self._containers.supervisor(self.id)
        caller = caller or new_caller()
        records = await self._containers.command(self.id, RemoveContainer(force), caller)
        outcome = Outcome()
        core.nursery.start_soon(outcome.run, partial(remove_container, core, self.id, caller, records[0].position))
        await outcome.wait()

    async def rename(self, name: str, *, caller: Caller | None = None) -> None:
        """Give it another name. Raises ``AlreadyExists`` or ``Invalid``."""
        await self._containers.command(self.id, RenameContainer(name), caller)


class Outcome:
    """The end of a task in the engine's own nursery, for a caller who may be cancelled while waiting for it."""

    def __init__(self) -> None:
        self._done = trio.Event()
        self._error: Exception | None = None

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work`` and keep what it raises for ``wait``."""
        try:
            await work()
        except Exception as error:
            self._error = error
        self._done.set()

    async def wait(self) -> None:
        """Return when it is done, or raise what it raised."""
        await self._done.wait()
        if self._error is not None:
            raise self._error


class Containers:
    """Every container of the store."""

    def __init__(self, core: Core, images: Images) -> None:
        self.core = core
        self._images = images
        self._draw = random.Random(secrets.randbits(64))

    # -- queries: they read a snapshot, and never wait ------------------------------------------------------

    def get(self, reference: str) -> Container:
        """The container with this id, name, or unique id prefix, in this order.

        Raises ``NotFound`` or ``Ambiguous``.
        """
        log = self.core.log
        if len(reference) == 64 and log.get(CONTAINERS, reference) is not None:
            return Container(self, ContainerId(reference))
        if reference.isascii() and 0 < len(reference) <= 256:
            named = log.get(CLAIMS, container_name(reference.removeprefix("/")).key)
            if named is not None:
                return Container(self, ContainerId(named.holder.partition("/")[2]))
            found = log.scan(CONTAINERS, reference, limit=5)
            if len(found) > 1:
                raise Ambiguous("container", reference, tuple(key for key, _ in found))
            if found:
                return Container(self, ContainerId(found[0][0]))
        raise NotFound("container", reference)

    def list(self, *, all: bool = True) -> list[ContainerState]:  # Docker's word
        """Every container (or only those that run), the newest first."""
        states = [state for _, state in self.core.log.scan(CONTAINERS)]
        if not all:
            states = [state for state in states if status(state) == "running"]
        return sorted(states, key=lambda state: (state.created_at, state.id), reverse=True)

    # -- commands -------------------------------------------------------------------------------------------

    async def create(
        self,
        image: str,
        command: Sequence[str] = (),
        *,
        name: str | None = None,
        caller: Caller | None = None,
        **options: object,
    ) -> Container:
        """A new container from ``image`` (name, id or id prefix); not started. ``options`` as in ``Recipe``.

        Costs one append: the writable layer is made at the first start.
        """
        recipe = Recipe(image=image, command=tuple(command), **options)  # type: ignore[arg-type]
        container, _ = await self.make(recipe, name=name, start=False, caller=caller or new_caller())
        return container

    async def run(
        self,
        image: str,
        command: Sequence[str] = (),
        *,
        name: str | None = None,
        remove: bool = True,
        stdin: bytes | None = None,
        capture: int = _CAPTURE,
        caller: Caller | None = None,
        **options: object,
    ) -> Completed:
        """Create a container, run it to its end, and return its exit code and (up to ``capture`` bytes of) output.

        A cancel stops the container, within its stop timeout, and removes it (with ``remove``); only then is the
        cancel delivered. Raises ``CannotStart`` if the command can't be executed; the container is removed then,
        too.
        """
        recipe = Recipe(
            image=image,
            command=tuple(command),
            auto_remove=remove,
            open_stdin=stdin is not None,
            stdin_once=stdin is not None,
            **options,  # type: ignore[arg-type]
        )
        caller = caller or new_caller()
        container, supervisor = await self.make(recipe, name=name, start=True, caller=caller)
        assert supervisor is not None
        reader = OutputReader(self.core, container.id, follow=True)
        try:
            await supervisor.begun.wait()
            if supervisor.error is not None:
                raise supervisor.error
            if stdin is not None:
                await self._feed(container.id, stdin)
            await supervisor.ended.wait()
            stdout, stderr, more = await reader.read_all(capture)
            if remove:
                await self.core.wait_removed(container.id)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._abandon(container, supervisor, remove, caller)
            raise
        finally:
            reader.close()
        return Completed(container.id, supervisor.exit_code, stdout, stderr, more)

    async def make(
        self, recipe: Recipe, *, name: str | None, start: bool, caller: Caller
    ) -> tuple[Container, Supervisor | None]:
        """Create a container and, with ``start``, ask for its first run in the same append."""
        self.core.check_open()
        spec = make_spec(recipe, self._images.resolve(recipe.image))
        if name is not None:
            check_container_name(name)
        container = ContainerId(secrets.token_hex(32))
        stream = container_stream(container)
        for attempt in range(100):
            chosen = name or random_name(self._draw) + (f"_{self._draw.randrange(10**4)}" if attempt > 4 else "")
            events = decide(None, CreateContainer(container, chosen, spec, start))
            try:
                records = await self.core.journal.append(
                    [Proposed(stream, event, 0 if number == 0 else None) for number, event in enumerate(events)],
                    actor=caller.actor,
                    command=caller.command,
                )
                break
            except AlreadyExists:
                if name is not None:
                    raise
        else:
            raise AlreadyExists("container", "(a random one)", container)
        supervisor = self._supervise(container, caller, records[-1]) if start else None
        return Container(self, container), supervisor

    async def command(self, container: ContainerId, command: Command, caller: Caller | None) -> tuple[Record, ...]:
        """Decide ``command`` and append its intents; decided again if the container changed meanwhile."""
        self.core.check_open()
        caller = caller or new_caller()
        stream = container_stream(container)
        while True:
            state = self.core.state(container)
            events = decide(state, command)
            try:
                return await self.core.journal.append(
                    [
                        Proposed(stream, events[0], state.version),
                        *(Proposed(stream, event) for event in events[1:]),
                    ],
                    actor=caller.actor,
                    command=caller.command,
                )
            except Conflict:
                continue

    async def begin(self, container: ContainerId, command: Command, caller: Caller | None) -> Supervisor:
        """Ask for a start and have it supervised."""
        caller = caller or new_caller()
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
        self.core.nursery.start_soon(supervisor.start, state, self.auto_remove(container, caller))
        return supervisor

    def auto_remove(self, container: ContainerId, caller: Caller) -> Callable[[], Awaitable[None]]:
        """What a supervisor calls for a container that asked to be removed at its end."""

        async def remove() -> None:
            try:
                records = await self.command(container, RemoveContainer(), caller)
            except (NotFound, WrongPhase):
                return  # somebody else removes it, or did
            except EngineClosed:
                return  # the next engine does it
            with contextlib.suppress(HostError):  # recorded as RemoveFailed, and nobody waits to hear it
                await remove_container(self.core, container, caller, records[0].position)

        return remove

    async def _feed(self, container: ContainerId, data: bytes) -> None:
        async with await self.core.link.open_stdin(container) as stream:
            with contextlib.suppress(trio.BrokenResourceError):  # it ended without reading everything
                await stream.send_all(data)
                await stream.end()

    async def _abandon(self, container: Container, supervisor: Supervisor, remove: bool, caller: Caller) -> None:
        """The end of a run that nobody waits for any more: stopped, and removed if it should be."""
        await supervisor.begun.wait()
        with contextlib.suppress(NotFound, WrongPhase, EngineClosed):  # it ended, or is removed, by itself
            if not supervisor.ended.is_set():
                await container.stop(caller=caller)
        if remove:
            await self.core.wait_removed(container.id)
