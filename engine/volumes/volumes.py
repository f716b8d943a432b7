"""Volumes: made, found, removed.

Who uses a volume is worked out over the containers' settings each time and counted nowhere. What comes to use one
(a container that is made) goes on beside others of its kind; a removal goes on alone (``images.content``).

Source for rules and words: moby ``volume/local`` and ``volume/service`` (v27).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from lading.engine.core import Caller, Core, new_caller
from lading.engine.queries import labels_fit
from lading.engine.retry import deciding, first_result
from lading.events.containerviews import SETTINGS, VOLUMES
from lading.events.envelope import Actor, Proposed
from lading.events.errors import AlreadyExists, HostError, InUse, Invalid, LadingError, NotFound
from lading.events.view import Reader
from lading.events.volume import (
    VolumeCreated,
    VolumeRemoved,
    VolumeRemoveRequested,
    VolumeState,
    check_volume_name,
    volume_stream,
)
from lading.storage.volumes import make_volumes, measure_volume

__all__ = [
    "ANONYMOUS_LABEL",
    "PrunedVolumes",
    "VolumeQueries",
    "VolumeUsage",
    "Volumes",
    "check_options",
    "finish_volume_removals",
    "new_directories",
    "new_volume",
    "volume_usage",
    "volume_users",
]

ANONYMOUS_LABEL: Final = "com.docker.volume.anonymous"
"""The label, without a value, of every volume that nobody named."""

_OPTIONS: Final = ("type", "o", "device", "size")
_NEEDS: Final = {"device": ("type",), "type": ("device",), "o": ("device", "type")}


@attrs.frozen
class PrunedVolumes:
    """The names of the volumes that went, or would go, and how many bytes that frees on disk."""

    names: list[str]
    reclaimed: int


@attrs.frozen
class VolumeUsage:
    """A volume, its size in bytes as ``du`` counts (-1: unknown), and the ids of the containers that mount it."""

    volume: VolumeState
    size: int
    users: tuple[str, ...]


class VolumeQueries:
    """The volumes of one moment."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def get(self, name: str) -> VolumeState:
        """The volume called ``name``, or ``NotFound``."""
        state = self._reader.get(VOLUMES, name) if name.isascii() and 0 < len(name) < 256 else None
        if state is None:
            raise NotFound("volume", name)
        return state

    def list(
        self,
        *,
        names: Sequence[str] = (),
        labels: Sequence[str] = (),
        drivers: Sequence[str] = (),
        dangling: bool | None = None,
    ) -> list[VolumeState]:
        """The volumes by name. ``names``: with one of these in its name. ``labels``: with every one of these.

        ``dangling``: only those that no container mounts, or only the others.
        """
        users = volume_users(self._reader) if dangling is not None else {}
        return [
            state
            for _, state in self._reader.scan(VOLUMES)
            if (not names or any(name in state.name for name in names))
            and labels_fit(labels, state.labels)
            and (not drivers or "local" in drivers)
            and (dangling is None or dangling is (state.name not in users))
        ]


class Volumes(VolumeQueries):
    """Every volume of the store."""

    def __init__(self, core: Core) -> None:
        super().__init__(core.log)
        self.core = core

    async def create(
        self,
        name: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
        driver: str = "local",
        actor: Actor | None = None,
        caller: Caller | None = None,
    ) -> VolumeState:
        """The volume called ``name``, made if it isn't there; without a name, a new one.

        ``options`` as in ``check_options``. One that is there stays as it is: its labels are its own, and other
        options than its own are refused with ``AlreadyExists``. Raises ``Invalid``, ``NotFound`` for a driver that
        there isn't, ``InUse`` if it is being removed, ``HostError``. Once it has begun a cancel does not take it
        back.
        """
        core, caller = self.core, caller or new_caller(actor=actor)
        core.check_open()
        if driver not in ("", "local"):
            raise NotFound("volume driver", driver)
        event = new_volume(name, labels, options)
        async with deciding(core, caller):
            first = first_result(core, caller, VolumeCreated)
            if first is not None:
                assert isinstance(first.event, VolumeCreated)
                known = core.log.get(VOLUMES, first.event.name)
                return known or _state(first.event, first.time)
            async with core.content.using(), core.volume_lock:
                known = core.log.get(VOLUMES, event.name)
                if known is not None:
                    return _agreed(known, event)
                async with new_directories(core, [event.name]):
                    await core.journal.append(
                        [Proposed(volume_stream(event.name), event)], actor=caller.actor, command=caller.command
                    )
        return self.get(event.name)

    async def remove(
        self, name: str, *, force: bool = False, actor: Actor | None = None, caller: Caller | None = None
    ) -> None:
        """Delete the volume with all that is in it; ``force``: fine if there is none.

        Raises ``InUse`` with the ids of the containers that mount it, running or not, and ``NotFound``. Carried
        out once it has begun, also if cancelled; what a crash leaves is carried out at the next opening.
        """
        core, caller = self.core, caller or new_caller(actor=actor)
        core.check_open()
        async with deciding(core, caller):
            if first_result(core, caller, VolumeRemoveRequested) is not None:
                return
            async with core.content.removing():
                try:
                    state = self.get(name)
                except NotFound:
                    if force:
                        return
                    raise
                users = volume_users(core.log).get(name, ())
                if users:
                    raise InUse("volume", name, users, "remove those containers first")
                with trio.CancelScope(shield=True):
                    await self._remove([state.name], caller)

    async def prune(
        self,
        *,
        all: bool = False,  # Docker's word
        labels: Sequence[str] = (),
        not_labels: Sequence[str] = (),
        dry_run: bool = False,
        gone: Sequence[str] = (),
        actor: Actor | None = None,
        caller: Caller | None = None,
    ) -> PrunedVolumes:
        """Remove every anonymous volume (with ``all``: every volume) that no container mounts.

        ``labels``: only those with every one of these; ``not_labels``: with none of these. ``dry_run``: only tell
        what would go, the containers ``gone`` (ids) being as if they were not there. Otherwise as ``remove``.
        """
        core, caller = self.core, caller or new_caller(actor=actor)
        core.check_open()
        if dry_run:
            return await self._measured(self._unused(all, labels, not_labels, gone))
        async with core.content.removing():
            with trio.CancelScope(shield=True):
                told = await self._measured(self._unused(all, labels, not_labels))
                if told.names:
                    await self._remove(told.names, caller)
        return told

    def _unused(
        self, all: bool, labels: Sequence[str], not_labels: Sequence[str], gone: Sequence[str] = ()
    ) -> Sequence[str]:
        users = volume_users(self.core.log, gone)
        return [
            state.name
            for state in self.list(labels=labels)
            if state.name not in users
            and (all or state.anonymous)
            and not any(labels_fit((one,), state.labels) for one in not_labels)
        ]

    async def _measured(self, names: Sequence[str]) -> PrunedVolumes:
        paths = self.core.paths

        def measure() -> int:
            return sum(max(measure_volume(paths, name), 0) for name in names)

        return PrunedVolumes([*names], await trio.to_thread.run_sync(measure) if names else 0)

    async def _remove(self, names: Sequence[str], caller: Caller) -> None:
        """Intent, rename into the trash, outcome; nobody may come to use them meanwhile."""
        core = self.core
        intents = [
            Proposed(volume_stream(name), VolumeRemoveRequested()) for name in names if not self.get(name).removing
        ]
        if intents:
            await core.journal.append(intents, actor=caller.actor, command=caller.command)
        await _discard(core, names, caller)


async def finish_volume_removals(core: Core, caller: Caller) -> None:
    """What a crash left: removals of volumes that the log asks for, but for those that go with their container."""
    users = volume_users(core.log)
    going = [name for name, state in core.log.scan(VOLUMES) if state.removing and name not in users]
    if going:
        await _discard(core, going, caller)


async def _discard(core: Core, names: Sequence[str], caller: Caller) -> None:
    try:
        for name in names:
            core.paths.discard(core.paths.volume(name))
    except OSError as error:
        hint = "something may be mounted there; the removal is carried out at the next opening"
        raise HostError("remove the volume", os.fspath(error.filename), error.errno or 0, hint) from error
    outcomes = [Proposed(volume_stream(name), VolumeRemoved()) for name in names]
    await core.journal.append(outcomes, actor=caller.actor, command=caller.command)
    core.trash.filled()


@asynccontextmanager
async def new_directories(core: Core, names: Sequence[str]) -> AsyncIterator[None]:
    """Around the append that records new volumes: their directories are there before, and gone if it is refused.

    Shielded, so that nobody is left to wonder which. Raises ``HostError``.
    """
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(make_volumes, core.paths, names)
        try:
            yield
        except LadingError:
            for name in names:
                core.paths.discard(core.paths.volume(name))
            core.trash.filled()
            raise


def new_volume(
    name: str | None, labels: Mapping[str, str] | None = None, options: Mapping[str, str] | None = None
) -> VolumeCreated:
    """The event that makes the volume ``name``; None or empty: an anonymous one with a name drawn at random.

    Raises ``Invalid``.
    """
    checked = check_options(options or {})
    for key, value in (labels or {}).items():
        if not key or "\0" in key + value:
            raise Invalid("volume label", key, "a label has a key, and no NUL byte")
    if not name:
        return VolumeCreated(secrets.token_hex(32), {**(labels or {}), ANONYMOUS_LABEL: ""}, checked, True)
    return VolumeCreated(check_volume_name(name), dict(labels or {}), checked, False)


def check_options(options: Mapping[str, str]) -> dict[str, str]:
    """``options`` of the ``local`` driver, if this release has what they ask for, or ``Invalid``.

    ``type=tmpfs``, with its mount options in ``o``: one tmpfs for the containers that run with it, gone with the
    last of them. ``type=none``, ``o=bind`` (and ``ro``) and ``device``, an absolute path: that directory of the
    host.
    Whoever says so means it. Network file systems and disks are not mounted here: mount them on the host, and bind
    what is there.
    """
    for name in options:
        if name not in _OPTIONS:
            raise Invalid("volume option", name, f'invalid option: "{name}"')
    if options.get("size"):
        raise Invalid("volume option", "size", "quota size requested but no quota support")
    for name, needed in _NEEDS.items():
        for other in needed:
            if name in options and other not in options:
                raise Invalid("volume option", name, f'missing required option: "{other}"')
    if any("\0" in value for value in options.values()):
        raise Invalid("volume option", dict(options), "a NUL byte in it")
    if not options or set(options) == {"size"}:
        return {}
    words = options.get("o", "").split(",")
    if options["type"] == "tmpfs":
        return dict(options)
    if "bind" not in words and "rbind" not in words:
        raise Invalid(
            "volume option",
            options["type"],
            "this release mounts 'tmpfs', and directories of the host (type=none, o=bind): mount a network file "
            "system or a disk on the host, and bind what is there",
        )
    if set(words) - {"bind", "rbind", "ro", "rw", ""}:
        raise Invalid("volume option", options["o"], "beside 'bind' or 'rbind' there may be 'ro' or 'rw'")
    if not options["device"].startswith("/"):
        raise Invalid(
            "volume option", options["device"], "with o=bind the device is the absolute path of a directory"
        )
    return dict(options)


def _agreed(known: VolumeState, asked: VolumeCreated) -> VolumeState:
    if known.removing:
        raise InUse("volume", known.name, ("its removal",), "it is on its way out; try again")
    if asked.options and asked.options != known.options:
        raise AlreadyExists("volume", known.name, known.name)
    return known


def _state(event: VolumeCreated, time: int) -> VolumeState:
    return VolumeState(event.name, event.labels, event.options, event.anonymous, time)


def volume_users(reader: Reader, gone: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """The ids of the containers, but for ``gone``, that mount each volume that any mounts, running or not."""
    found: dict[str, tuple[str, ...]] = {}
    for container, settings in reader.scan(SETTINGS):
        if container not in gone:
            for name in {mount.source for mount in settings.mounts if mount.kind == "volume"}:
                found[name] = (*found.get(name, ()), container)
    return found


async def volume_usage(core: Core, reader: Reader) -> list[VolumeUsage]:
    """Every volume with its size, which is measured now, in a thread."""
    states = [state for _, state in reader.scan(VOLUMES)]
    users = volume_users(reader)
    sizes = await trio.to_thread.run_sync(lambda: [measure_volume(core.paths, state.name) for state in states])
    return [VolumeUsage(state, size, users.get(state.name, ())) for state, size in zip(states, sizes, strict=True)]
