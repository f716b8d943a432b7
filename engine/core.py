"""What the parts of a running engine share."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, TypeVar

import attrs
import trio

from lading.engine.execs.execs import Execs
from lading.engine.files.holds import Holds
from lading.engine.history.journal import Journal
from lading.engine.images.content import ContentGate
from lading.engine.images.downloads import Downloads
from lading.engine.images.trash import Trash
from lading.engine.images.unpacking import Unpackers
from lading.engine.keeper.link import Link
from lading.engine.oci.config import Host
from lading.engine.oci.runtime import Runtime, find_runtime
from lading.engine.registry import CredentialStore, Registry, RegistrySettings, load_settings
from lading.events.container import LIVE, ContainerState, Phase
from lading.events.envelope import Actor
from lading.events.errors import EngineClosed, NotFound
from lading.events.ids import CommandId
from lading.events.settings import ContainerSettings
from lading.events.upkeep import SupervisionState
from lading.events.views import CONTAINERS, SETTINGS, SUPERVISION
from lading.storage.log import Log
from lading.storage.plan import DEFAULT_LIMITS, Limits
from lading.storage.store import Paths

if TYPE_CHECKING:
    from lading.engine.containers.health import HealthLog
    from lading.engine.containers.supervisor import Supervisor

__all__ = ["Caller", "Core", "new_caller", "new_command_id"]

T = TypeVar("T")

_USUAL = ContainerSettings()
_NOTHING = SupervisionState()

_TRANSFERS = 3
"""Layers that are fetched at once, of all pulls, as Docker does."""


@attrs.frozen
class Caller:
    """Who asks, and the id that correlates all that this one request leads to.

    ``once``: the request may have been made before, with the same id, by somebody who did not hear the answer.
    Then nothing is done twice: the answer is what the first one led to.
    """

    actor: Actor
    command: CommandId
    once: bool = False


def new_caller(client: str = "python", *, actor: Actor | None = None) -> Caller:
    """``actor``, or else this process, as the caller of a new request."""
    return Caller(actor or Actor(os.getuid(), os.getgid(), os.getpid(), client), new_command_id())


def new_command_id() -> CommandId:
    """An id that no request had: 48 bits of time (ms) and 80 of chance, so that ids sort as they were drawn."""
    return CommandId(f"{time.time_ns() // 10**6 & 0xFFFFFFFFFFFF:012x}{os.urandom(10).hex()}")


@attrs.define(eq=False)
class Core:
    """The open engine's parts. ``live``: the supervisor of each container that has a run under way.

    ``volume_lock``: held while volumes are looked for and made. ``filling``: held, each, by who may fill a volume.
    ``console_sizes``: rows and columns for the first start of containers with a terminal; only a hint, and
    forgotten with the engine.
    """

    paths: Paths
    log: Log
    journal: Journal
    link: Link
    trash: Trash
    host: Host
    nursery: trio.Nursery
    unpackers: Unpackers
    live: dict[str, Supervisor] = attrs.field(factory=dict)
    closing: bool = False
    wanted_runtime: str | None = None
    health: dict[str, HealthLog] = attrs.field(factory=dict)
    retries: dict[CommandId, trio.Lock] = attrs.field(factory=dict)
    pausing: trio.Lock = attrs.field(factory=trio.Lock)
    compacting: trio.Lock = attrs.field(factory=trio.Lock)
    content: ContentGate = attrs.field(factory=ContentGate)
    settling: trio.Lock = attrs.field(factory=trio.Lock)
    volume_lock: trio.Lock = attrs.field(factory=trio.Lock)
    filling: dict[str, trio.Lock] = attrs.field(factory=dict)
    holds: Holds = attrs.field(factory=Holds)
    resolving: trio.Lock = attrs.field(factory=trio.Lock)
    limits: Limits = DEFAULT_LIMITS
    transfers: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(_TRANSFERS))
    registries: RegistrySettings | None = None
    console_sizes: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    downloads: Downloads = attrs.field(init=False)
    execs: Execs = attrs.field(init=False)
    _runtime: Runtime | None = None
    _probing: trio.Lock = attrs.field(factory=trio.Lock)
    _registry: Registry | None = None
    _registry_lock: trio.Lock = attrs.field(factory=trio.Lock)
    _removals: dict[str, trio.Event] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.downloads = Downloads(self.paths, self.trash, self.nursery)
        self.execs = Execs(self)

    async def runtime(self) -> Runtime:
        """The runtime that works here; looked for once, in a thread. ``HostError`` if there is none."""
        if self._runtime is None:
            async with self._probing:
                if self._runtime is None:
                    self._runtime = await trio.to_thread.run_sync(
                        find_runtime, self.paths, self.host, self.wanted_runtime
                    )
        return self._runtime

    async def registry(self) -> Registry:
        """The registry client, opened at its first use: what it needs takes a while to import.

        Raises ``Invalid`` for settings that can't be used.
        """
        async with self._registry_lock:
            self.check_open()
            if self._registry is None:
                settings = self.registries or await trio.to_thread.run_sync(load_settings)
                registry = Registry(settings, credentials=CredentialStore().get)
                self._registry = await registry.__aenter__()
        return self._registry

    async def close_registry(self) -> None:
        """Close the client's connections, if there are any."""
        async with self._registry_lock:
            if self._registry is not None:
                await self._registry.__aexit__(None, None, None)

    def state(self, container: str) -> ContainerState:
        """The container's state now, or ``NotFound``."""
        state = self.log.get(CONTAINERS, container)
        if state is None:
            raise NotFound("container", container)
        return state

    def settings(self, container: str) -> ContainerSettings:
        """What the container is allowed and given; the usual settings if nothing else was asked for."""
        return self.log.get(SETTINGS, container) or _USUAL

    def supervision(self, container: str) -> SupervisionState:
        """What supervision remembers of the container."""
        return self.log.get(SUPERVISION, container) or _NOTHING

    def runs(self, container: str) -> bool:
        """Whether ``container`` has a run under way, from the request to start it to the record of its end."""
        supervisor = self.live.get(container)
        if supervisor is not None:
            return not supervisor.ended.is_set()
        state = self.log.get(CONTAINERS, container)
        return state is not None and state.phase in LIVE

    def check_open(self) -> None:
        """Raise ``EngineClosed`` once the engine has begun to close."""
        if self.closing:
            raise EngineClosed

    def removal(self, container: str) -> trio.Event:
        """The event that is set when the removal of ``container`` has an outcome."""
        return self._removals.setdefault(container, trio.Event())

    async def wait_removed(self, container: str) -> None:
        """Return when ``container`` is gone, or could not be removed."""
        state = self.log.get(CONTAINERS, container)
        if state is not None and state.phase is not Phase.DEAD:
            await self.removal(container).wait()

    def removed(self, container: str) -> None:
        """Tell who waits for ``removal``."""
        self.health.pop(container, None)
        event = self._removals.pop(container, None)
        if event is not None:
            event.set()
