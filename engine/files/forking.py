"""New containers that go on from another one's files, each by itself, from then on.

What the source wrote becomes a layer that all of them, and the source itself, have on top of its layers. Of a
source that doesn't run nothing is copied, however much that is (``engine/sealing``); of one that runs it is copied
once, while the source is held still, sharing blocks where the file system can.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Sequence

import attrs
import trio

from lading.engine.containers.names import random_name
from lading.engine.core import Caller, Core
from lading.engine.files.freezing import frozen
from lading.engine.files.roots import is_still, settled
from lading.engine.files.sealing import draw_layer, seal_copy, seal_writable
from lading.engine.retry import first_result
from lading.events.container import ContainerState, Created, Phase, Rebased, advance
from lading.events.containerviews import SETTINGS
from lading.events.envelope import Proposed, Record
from lading.events.errors import AlreadyExists, Conflict, Invalid, WrongPhase
from lading.events.ids import ChainId, ContainerId, check_container_name, container_stream
from lading.events.settings import ContainerSettings, Mount
from lading.events.spec import ContainerSpec
from lading.events.upkeep import Configured
from lading.events.volume import VolumeCreated, volume_stream
from lading.storage.sealing import copy_upper, has_changes
from lading.storage.volumes import make_volumes

__all__ = ["fork_container"]

_MOST = 1000
_USUAL = ContainerSettings()


async def fork_container(
    core: Core, container: str, n: int, names: Sequence[str] | None, command: Sequence[str] | None, caller: Caller
) -> list[ContainerId]:
    """Make ``n`` containers of ``container``, called ``names`` or by random names, in one append; not started.

    They are set up like it, with ``forked_from`` and, if given, ``command``; anonymous volumes are their own, and
    new. Raises ``NotFound``, ``Invalid``, ``AlreadyExists``, ``WrongPhase`` and ``HostError``. A cancel or a crash
    leaves nothing, or all of them.
    """
    core.check_open()
    if not 1 <= n <= _MOST:
        raise Invalid("number of forks", n, f"from 1 to {_MOST}")
    if names is not None and (len(names) != n or len(set(names)) != n):
        raise Invalid("names", list(names), f"{n} different ones are needed")
    for name in names or ():
        check_container_name(name)
    if first_result(core, caller, Created) is not None:
        first = core.log.first_append(caller.command) or ()
        return [record.event.container for record in first if isinstance(record.event, Created)]
    while True:
        running = await settled(core, container)
        async with core.holds.alone(container):
            state = core.state(container)
            if state.phase in (Phase.REMOVING, Phase.DEAD):
                raise WrongPhase(state.id, str(state.phase), "fork")
            if not running and not is_still(core, container):
                continue
            try:
                return await _Fork(core, state, n, names, command, caller).run()
            except Conflict:  # it was started or renamed meanwhile
                continue


class _Fork:
    def __init__(
        self,
        core: Core,
        state: ContainerState,
        n: int,
        names: Sequence[str] | None,
        command: Sequence[str] | None,
        caller: Caller,
    ) -> None:
        self._core, self._state, self._names, self._caller = core, state, names, caller
        self._ids = [ContainerId(secrets.token_hex(32)) for _ in range(n)]
        self._draw = random.Random(secrets.randbits(64))
        self._attempts = 0
        settings = core.log.get(SETTINGS, state.id) or _USUAL
        settings = attrs.evolve(settings, forked_from=state.id)
        self._settings = [_own_volumes(settings) for _ in self._ids]
        spec = state.spec
        if command is not None:
            words = tuple(command)
            spec = attrs.evolve(spec, cmd=words, args=(*spec.entrypoint, *words))
            if not spec.args or any("\0" in word for word in words):
                raise Invalid("command", list(words), "it is empty, or has a NUL byte in it")
        self._spec = spec

    async def run(self) -> list[ContainerId]:
        core, state = self._core, self._state
        volumes = [mount.source for settings in self._settings for mount in settings.mounts if mount.anonymous]
        changed = await trio.to_thread.run_sync(has_changes, core.paths, state.id)
        sealable = advance(state.phase, Rebased) is not None
        if changed and not sealable:
            return await self._copied(volumes)
        async with core.content.using():
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(make_volumes, core.paths, volumes)
                if changed:
                    layer = draw_layer(state)
                    more = self._created((*self._spec.layers, layer.chain))
                    await seal_writable(core, state, layer, more, self._caller, retry=self._names is None)
                else:
                    await self._append(self._created(self._spec.layers))
        return self._ids

    async def _copied(self, volumes: Sequence[str]) -> list[ContainerId]:
        core, state = self._core, self._state
        staging = core.paths.staging / secrets.token_hex(8)
        layer = draw_layer(state)
        more = self._created((*self._spec.layers, layer.chain))
        try:
            async with frozen(core, state):
                await trio.to_thread.run_sync(copy_upper, core.paths, state.id, staging)
            async with core.content.using():
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(make_volumes, core.paths, volumes)
                    await seal_copy(core, state, layer, staging, more, self._caller, retry=self._names is None)
        finally:
            core.paths.discard(staging)
            core.trash.filled()
        return self._ids

    async def _append(self, more: Callable[[], Sequence[Proposed]]) -> tuple[Record, ...]:
        core, caller = self._core, self._caller
        while True:
            try:
                return await core.journal.append(more(), actor=caller.actor, command=caller.command)
            except AlreadyExists:
                if self._names is not None:
                    raise

    def _created(self, layers: tuple[ChainId, ...]) -> Callable[[], list[Proposed]]:
        """What makes the events of all new containers, with other random names each time."""
        spec: ContainerSpec = attrs.evolve(self._spec, layers=layers)

        def events() -> list[Proposed]:
            self._attempts += 1
            found: list[Proposed] = []
            for settings in self._settings:
                for mount in settings.mounts:
                    if mount.anonymous:
                        made = VolumeCreated(mount.source, {}, {}, True)
                        found.append(Proposed(volume_stream(mount.source), made, 0))
            for container, name, settings in zip(self._ids, self._chosen(), self._settings, strict=True):
                stream = container_stream(container)
                found.append(Proposed(stream, Created(container, name, spec), 0))
                found.append(Proposed(stream, Configured(settings)))
            return found

        return events

    def _chosen(self) -> Sequence[str]:
        if self._names is not None:
            return self._names
        chosen: set[str] = set()
        while len(chosen) < len(self._ids):
            plain = self._attempts < 5 and len(self._ids) < 20
            chosen.add(random_name(self._draw) + ("" if plain else f"_{self._draw.randrange(10**4)}"))
        return sorted(chosen)


def _own_volumes(settings: ContainerSettings) -> ContainerSettings:
    """``settings`` with anonymous volumes of its own."""
    if not any(mount.anonymous for mount in settings.mounts):
        return settings
    mounts: list[Mount] = [
        attrs.evolve(mount, source=secrets.token_hex(32)) if mount.anonymous else mount
        for mount in settings.mounts
    ]
    return attrs.evolve(settings, mounts=tuple(mounts))
