"""Taking names and images away, by Docker's rules.

Source: moby, daemon/images/image_delete.go, for what is refused, when, and in which words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import attrs
import trio

from lading.engine.core import Caller, Core
from lading.engine.images.garbage import remove_unreached
from lading.engine.queries import ImageQueries
from lading.engine.retry import first_result
from lading.events.container import ContainerState, status
from lading.events.envelope import Proposed
from lading.events.errors import ImageInUse
from lading.events.facts import Event
from lading.events.ids import image_stream, tag_stream
from lading.events.image import ImageRemoved, ImageState, LayerRemoveRequested, Untagged
from lading.events.reference import parse_reference
from lading.events.views import CONTAINERS

__all__ = ["Removal", "removals", "remove_image"]


@attrs.frozen
class Removal:
    """What went: a name (in its familiar form), an image's id, or a layer's chain id."""

    kind: Literal["untagged", "deleted"]
    name: str


async def remove_image(core: Core, reference: str, force: bool, caller: Caller) -> list[Removal]:
    """Take the name ``reference`` from its image, or, by an id, all its names; and the image with its last name.

    An image that containers use stays without ``force``; one of which a container runs stays in any case. Layers
    stay as long as a container needs them. Raises ``NotFound``, ``Ambiguous``, ``Invalid`` and ``ImageInUse``.
    Carried out once it has begun, also if cancelled.
    """
    if caller.once and core.log.first_append(caller.command) is not None:
        return _told(core, caller)
    async with core.content.removing():
        with trio.CancelScope(shield=True):
            plan = _plan(core, reference, force)
            layers = await remove_unreached(core, caller, plan.events()) if plan.image_goes else []
            if not plan.image_goes and plan.names:
                await core.journal.append(
                    plan.events(), actor=caller.actor, command=caller.command, once=caller.once
                )
    return removals(
        [event.event for event in plan.events()] + [LayerRemoveRequested(chain) for chain in layers],
    )


def removals(events: Iterable[Event]) -> list[Removal]:
    """What ``events`` say that went, in their order."""
    found = []
    for event in events:
        match event:
            case Untagged():
                found.append(Removal("untagged", parse_reference(event.name).familiar))
            case ImageRemoved():
                found.append(Removal("deleted", event.image))
            case LayerRemoveRequested():
                found.append(Removal("deleted", event.chain))
            case _:
                pass
    return found


def _told(core: Core, caller: Caller) -> list[Removal]:
    """What the same request led to before. Raises ``CommandReused`` if that was another kind of request."""
    first_result(core, caller, Untagged, ImageRemoved)
    return removals(record.event for record in core.log.read_command(caller.command))


@attrs.frozen
class _Plan:
    image: ImageState
    names: tuple[str, ...]
    image_goes: bool

    def events(self) -> list[Proposed]:
        image = self.image.image
        events = [Proposed(tag_stream(name), Untagged(name, image)) for name in self.names]
        return [*events, Proposed(image_stream(image), ImageRemoved(image))] if self.image_goes else events


def _plan(core: Core, reference: str, force: bool) -> _Plan:
    queries = ImageQueries(core.log)
    image = queries.resolve(reference)
    users = [state for _, state in core.log.scan(CONTAINERS) if state.spec.image == image.image]
    if queries.is_id(reference, image):
        if _of_one_repository(image.tags):
            _check(reference, image, (), users, force)
            return _Plan(image, image.tags, True)
        _check(reference, image, image.tags, users, force)
        return _Plan(image, image.tags, True)
    name = parse_reference(reference).full
    if not force and users and _of_one_repository(image.tags):
        raise ImageInUse(
            "image",
            reference,
            tuple(state.id for state in users),
            "",
            f'unable to remove repository reference "{reference}" (must force) - container '
            f"{users[0].id[:12]} is using its referenced image {_short(image)}",
        )
    names = [name]
    left = [each for each in image.tags if each != name]
    if "@" not in name:
        # With a repository's last tag go the digests by which it is known there.
        repository = name.rpartition(":")[0]
        of_it = [each for each in left if parse_reference(each).repository == parse_reference(name).repository]
        if all(each.startswith(f"{repository}@") for each in of_it):
            names += of_it
            left = [each for each in left if each not in of_it]
    goes = not left and not any(status(state) == "running" for state in users) and (force or not users)
    return _Plan(image, tuple(names), goes)


def _check(
    asked: str, image: ImageState, names: Sequence[str], users: Sequence[ContainerState], force: bool
) -> None:
    """Raise ``ImageInUse`` if the image can't go, or not without force."""
    running = [state for state in users if status(state) in ("running", "paused", "restarting")]
    if running:
        raise _unable(image, running[0], "running", forcible=False)
    if names and not force:
        raise ImageInUse(
            "image",
            asked,
            tuple(names),
            "",
            f"unable to delete {_short(image)} (must be forced) - image is referenced in multiple repositories",
        )
    if users and not force:
        raise _unable(image, users[0], "stopped", forcible=True)


def _unable(image: ImageState, user: ContainerState, how: str, *, forcible: bool) -> ImageInUse:
    must = "must be forced" if forcible else "cannot be forced"
    why = f"unable to delete {_short(image)} ({must}) - image is being used by {how} container {user.id[:12]}"
    return ImageInUse("image", image.image, (user.id,), "", why, forcible)


def _of_one_repository(names: Sequence[str]) -> bool:
    """Whether there is at most one tag, and all names are of one repository."""
    repositories = {parse_reference(name).repository for name in names}
    return len(repositories) <= 1 and sum("@" not in name for name in names) <= 1


def _short(image: ImageState) -> str:
    return image.image.removeprefix("sha256:")[:12]
