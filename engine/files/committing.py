"""An image made of a container: its image, what it wrote as one more layer, and how it was run.

Of a container that doesn't run nothing is copied: its writable layer is sealed (``engine/sealing``). Of one that
runs it is packed and unpacked like any layer, while the container is held still. The image's config is its own
image's, with what the container was given and with one more step in the history, as moby makes it
(``daemon/commit.go``, ``image/image.go``).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import attrs
import trio

from lading.engine.core import Caller, Core
from lading.engine.files.changing import own_layers
from lading.engine.files.freezing import frozen
from lading.engine.files.roots import is_still, settled
from lading.engine.files.sealing import draw_layer, seal_writable
from lading.engine.images.facts import document_of
from lading.engine.images.publish import NewImage, digest_of, publish
from lading.engine.oci.process import DEFAULT_PATH
from lading.engine.queries import ImageQueries
from lading.engine.retry import first_result
from lading.engine.stream import chunks
from lading.events.container import ContainerState, Phase, Rebased, advance
from lading.events.containerviews import SETTINGS
from lading.events.dockerfilechanges import RunConfig, change_run
from lading.events.envelope import Proposed
from lading.events.errors import Conflict, HostError, Invalid, NotFound, Refused, WrongPhase
from lading.events.ids import ChainId, Digest, ImageId, chain_id, image_stream, tag_stream
from lading.events.image import ImageAdded, ImageConfig, ImageState, Tagged
from lading.events.imageconfig import Healthcheck, HistoryEntry, parse_config
from lading.events.imagedocument import child_document
from lading.events.imageviews import SEALED
from lading.events.reference import parse_reference
from lading.events.settings import ContainerSettings
from lading.events.views import IMAGES, LAYERS, TAGS
from lading.storage.layers import StagedLayer, blob_name
from lading.storage.pack import pack
from lading.storage.sealing import has_changes, keep_document

__all__ = ["CommitOptions", "commit_container", "run_config"]

_USUAL = ContainerSettings()


@attrs.frozen(kw_only=True)
class CommitOptions:
    """What an image should be like. ``name``: a name with or without a tag, or None. ``changes``: Dockerfile
    instructions. ``pause``: hold a container that runs still. ``config``: in place of what the container was
    given, which fills what it leaves empty."""

    name: str | None = None
    author: str = ""
    message: str = ""
    changes: Sequence[str] = ()
    pause: bool = True
    config: RunConfig | None = None


async def commit_container(core: Core, container: str, options: CommitOptions, caller: Caller) -> ImageState:
    """The new image. Raises ``NotFound``, also for an image that was removed by force, ``WrongPhase``,
    ``Invalid``, ``ImageInvalid`` and ``HostError``. A cancel or a crash leaves nothing, or all of it.
    """
    core.check_open()
    name = _tag_name(options.name)
    state = core.state(container)
    run = _wanted(core, state, options)
    first = first_result(core, caller, ImageAdded)
    if first is not None:
        assert isinstance(first.event, ImageAdded)
        return ImageQueries(core.log).resolve(first.event.image)
    while True:
        running = await settled(core, container)
        state = core.state(container)
        if state.phase in (Phase.REMOVING, Phase.DEAD):
            raise WrongPhase(state.id, str(state.phase), "commit")
        async with core.holds.alone(container):
            state = core.state(container)
            sealable = advance(state.phase, Rebased) is not None
            if not running and not is_still(core, container):
                continue
            commit = _Commit(core, state, run, name, options, caller)
            try:
                if not await trio.to_thread.run_sync(has_changes, core.paths, container):
                    image = await commit.unchanged()
                elif sealable:
                    image = await commit.sealed()
                else:
                    image = await commit.copied()
            except Conflict:  # it was started or renamed meanwhile
                continue
        return ImageQueries(core.log).resolve(image)


class _Commit:
    def __init__(
        self,
        core: Core,
        state: ContainerState,
        run: RunConfig,
        name: str | None,
        options: CommitOptions,
        caller: Caller,
    ) -> None:
        self._core, self._state, self._run, self._name = core, state, run, name
        self._options, self._caller = options, caller
        image = core.log.get(IMAGES, state.spec.image)
        if image is None:
            raise NotFound("image", state.spec.image)
        self._image = image
        self._own = own_layers(core.log, state)[1]

    async def unchanged(self) -> ImageId:
        """No layer more: only a config."""
        return await self._published(self._document(None), {})

    async def sealed(self) -> ImageId:
        """What it wrote becomes a layer where it is."""
        core, state = self._core, self._state
        top = [*self._image.layers, *self._own]
        layer = draw_layer(state)
        document = self._document(layer.diff_id)
        parsed = parse_config(document)
        image = ImageId(digest_of(document))
        chains = (*top, layer.chain)
        added = ImageAdded(
            image,
            chains,
            parsed.diff_ids,
            parsed.config,
            parsed.created,
            parsed.architecture,
            parsed.os,
            "commit",
            parsed.comment,
        )

        def more() -> list[Proposed]:
            events = [Proposed(image_stream(image), added, core.log.version(image_stream(image)))]
            if self._name is not None:
                tag = core.log.get(TAGS, self._name)
                tagged = Tagged(self._name, image, tag.image if tag else "")
                events.append(Proposed(tag_stream(self._name), tagged))
            return events

        async with core.content.using():
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(keep_document, core.paths, digest_of(document), document)
                try:
                    await seal_writable(core, state, layer, more, self._caller)
                except (Refused, HostError):
                    core.paths.discard(blob_name(core.paths, image))  # drawn at random, so nobody else's
                    raise
        return image

    async def copied(self) -> ImageId:
        """What it wrote is packed, held still, and unpacked as a layer."""
        core, state = self._core, self._state
        staging = core.paths.staging / secrets.token_hex(8)
        upper = core.paths.container(state.id) / "upper"
        try:
            staging.mkdir(mode=0o700)
            async with AsyncExitStack() as stack:
                if self._options.pause:
                    await stack.enter_async_context(frozen(core, state))
                staged = await core.unpackers.unpack(
                    chunks(pack(upper, whiteouts=True, live=True)),
                    staging,
                    limits=core.limits,
                    keep_raw=False,
                    split=False,
                )
            diff = Digest(staged.unpacked.diff_id)
            below = (*self._image.layers, *self._own)
            chain = chain_id(below[-1] if below else None, diff)
            return await self._published(self._document(diff), {chain: staged})
        finally:
            core.paths.discard(staging)
            core.trash.filled()

    async def _published(self, document: bytes, staged: dict[ChainId, StagedLayer]) -> ImageId:
        names = () if self._name is None else (self._name,)
        new = NewImage(document, parse_config(document), "commit", staged, names=names)
        await publish(self._core, [new], self._caller)
        return new.image

    def _document(self, diff: Digest | None) -> bytes:
        core, options = self._core, self._options
        created = datetime.fromtimestamp(core.journal.clock() / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        own = [core.log.get(LAYERS, chain) for chain in self._own]
        diffs = [*self._image.diff_ids, *(layer.diff_id for layer in own if layer is not None)]
        words = " ".join(self._state.spec.cmd)
        history = [HistoryEntry(self._sealed_at(chain), words) for chain in self._own]
        history.append(HistoryEntry(created, words, options.author, options.message, diff is None))
        if diff is not None:
            diffs.append(diff)
        return child_document(
            document_of(core, self._image),
            self._run,
            diffs,
            history,
            created=created,
            author=options.author,
            comment=options.message,
            container=self._state.id,
        )

    def _sealed_at(self, chain: ChainId) -> str:
        sealed = self._core.log.get(SEALED, chain)
        if sealed is None:
            return ""
        return datetime.fromtimestamp(sealed.sealed_at / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _wanted(core: Core, state: ContainerState, options: CommitOptions) -> RunConfig:
    image = core.log.get(IMAGES, state.spec.image)
    if image is None:
        raise NotFound("image", state.spec.image)
    given = run_config(state, core.log.get(SETTINGS, state.id) or _USUAL, image.config)
    return _merged(change_run(options.changes, options.config or given), given)


def run_config(state: ContainerState, settings: ContainerSettings, image: ImageConfig) -> RunConfig:
    """How the container is run, as an image says it: what Docker calls its config."""
    spec = state.spec
    own = {word.partition("=")[0] for word in image.env}
    made = {f"HOSTNAME={spec.hostname}", f"PATH={DEFAULT_PATH}", *(("TERM=xterm",) if settings.tty else ())}
    health = settings.health
    return RunConfig(
        ImageConfig(
            entrypoint=spec.entrypoint,
            cmd=spec.cmd,
            env=tuple(word for word in spec.env if word not in made or word.partition("=")[0] in own),
            working_dir=spec.working_dir if image.working_dir or spec.working_dir != "/" else "",
            user=spec.user,
            labels=spec.labels,
            exposed_ports=image.exposed_ports,
            volumes=tuple(dict.fromkeys((*image.volumes, *settings.volumes))),
            stop_signal=spec.stop_signal if image.stop_signal or spec.stop_signal != "SIGTERM" else "",
        ),
        healthcheck=None
        if health is None
        else Healthcheck(
            health.test,
            health.interval,
            health.timeout,
            health.start_period,
            health.start_interval,
            health.retries,
        ),
    )


def _merged(wanted: RunConfig, given: RunConfig) -> RunConfig:
    """``wanted``, where it says nothing what ``given`` says (moby ``daemon/commit.go``, merge)."""
    own, other = wanted.config, given.config
    names = {word.partition("=")[0] for word in own.env}
    entrypoint, cmd = own.entrypoint, own.cmd
    if not entrypoint:
        entrypoint, cmd = other.entrypoint, cmd or other.cmd
    return attrs.evolve(
        wanted,
        config=ImageConfig(
            entrypoint=entrypoint,
            cmd=cmd,
            env=(*own.env, *(word for word in other.env if word.partition("=")[0] not in names)),
            working_dir=own.working_dir or other.working_dir,
            user=own.user or other.user,
            labels={**other.labels, **own.labels},
            exposed_ports=tuple(dict.fromkeys((*own.exposed_ports, *other.exposed_ports))),
            volumes=tuple(dict.fromkeys((*own.volumes, *other.volumes))),
            stop_signal=own.stop_signal or other.stop_signal,
        ),
        healthcheck=wanted.healthcheck or given.healthcheck,
    )


def _tag_name(reference: str | None) -> str | None:
    if not reference:
        return None
    parsed = parse_reference(reference)
    if parsed.digest is not None or parsed.tag is None:
        raise Invalid("image reference", reference, "a commit is named by a tag, not by a digest")
    return parsed.name
