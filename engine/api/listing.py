"""Which containers a list shows, and under which image name.

Source: Docker Engine API v1.47, ContainerList. Newest first; ``limit`` and the filters ``status``, ``before`` and
``since`` show stopped containers, too, as in moby.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from lading.engine.api.healthshapes import health_of
from lading.engine.api.past import Seen
from lading.engine.api.request import Filters, check_reference
from lading.engine.api.shapes import Sizes, container_summary, shown_exit
from lading.engine.api.volumeshapes import mount_points
from lading.engine.http.message import HttpError
from lading.engine.queries import labels_fit
from lading.events.container import ContainerState, status
from lading.events.errors import Ambiguous, Invalid, NotFound
from lading.storage.store import Paths

__all__ = ["LISTING_FILTERS", "Listing", "name_fits", "summary_of"]

LISTING_FILTERS: Final = frozenset(
    {
        *("id", "name", "status", "label", "ancestor", "exited", "before", "since", "network", "is-task"),
        *("health", "volume"),
    }
)
_STATUSES: Final = frozenset(["created", "restarting", "running", "removing", "paused", "exited", "dead"])
_HEALTH: Final = ("none", "starting", "healthy", "unhealthy")
_EXPRESSION: Final = frozenset("()[]{}|+*?\\^$")


class Listing:
    """One list request, checked when it is made: raises `HttpError` 400 and ``NotFound``."""

    def __init__(
        self, seen: Seen, filters: Filters, *, all: bool, limit: int = 0, since: str = "", before: str = ""
    ) -> None:
        self._seen = seen
        self._limit = limit
        self._names: dict[tuple[str, str], str] = {}
        self._tests: list[Callable[[ContainerState], bool]] = []
        bounds = ((*filters.get("before", ()), before), (*filters.get("since", ()), since))
        self._all = all or limit > 0 or "status" in filters or any(word for bound in bounds for word in bound)
        for name, values in filters.items():
            self._add(name, values)
        for word in filter(None, bounds[0]):
            self._tests.append(_created(seen.containers.get(word), later=False))
        for word in filter(None, bounds[1]):
            self._tests.append(_created(seen.containers.get(word), later=True))

    def states(self) -> Iterator[ContainerState]:
        """What to show, in order."""
        left = self._limit if self._limit > 0 else -1
        for state in self._seen.containers.list(all=self._all):
            if left == 0:
                return
            if all(test(state) for test in self._tests):
                left -= 1
                yield state

    def image_name(self, state: ContainerState) -> str:
        """The name that the container was made by, while that still is its image; after that, the image's id."""
        key = state.spec.image_name, state.spec.image
        if key not in self._names:
            try:
                found = self._seen.images.resolve(state.spec.image_name).image
            except (NotFound, Ambiguous, Invalid):
                found = None
            self._names[key] = state.spec.image_name if found == state.spec.image else state.spec.image
        return self._names[key]

    def _add(self, name: str, values: tuple[str, ...]) -> None:
        match name:
            case "id":
                self._tests.append(lambda state: state.id.startswith(values))
            case "name":
                for value in values:
                    _check_pattern(value)
                self._tests.append(lambda state: any(name_fits(value, state.name) for value in values))
            case "status":
                for value in values:
                    if value not in _STATUSES:
                        raise HttpError(400, f"invalid filter 'status={value[:80]}'")
                self._tests.append(lambda state: status(state) in values)
            case "label":
                self._tests.append(lambda state: labels_fit(values, state.spec.labels))
            case "exited":
                codes = {_exit_code(value) for value in values}
                self._tests.append(lambda state: status(state) == "exited" and shown_exit(state) in codes)
            case "ancestor":
                images = {self._image(value) for value in values}
                self._tests.append(lambda state: state.spec.image in images)
            case "health":
                for value in values:
                    if value not in _HEALTH:
                        words = f"invalid filter 'health={value[:80]}': it must be one of {', '.join(_HEALTH)}"
                        raise HttpError(400, words)
                self._tests.append(lambda state: (self._health(state) or "none") in values)
            case "volume":
                self._tests.append(lambda state: self._mounts(state, values))
            case "network":
                self._tests.append(lambda state: state.spec.network in values)
            case "is-task":
                if any(value.lower() in ("true", "1") for value in values):
                    self._tests.append(lambda state: False)

    def _health(self, state: ContainerState) -> str:
        return health_of(state, self._seen.settings(state.id), self._seen.supervision(state.id))

    def _mounts(self, state: ContainerState, values: tuple[str, ...]) -> bool:
        """Whether it mounts one of ``values``: a volume's name, a path of the host, or one of the container."""
        mounts = self._seen.settings(state.id).mounts
        return any(mount.target in values or (mount.source or None) in values for mount in mounts)

    def _image(self, reference: str) -> str | None:
        try:
            return self._seen.images.resolve(check_reference(reference)).image
        except (NotFound, Ambiguous, Invalid):
            return None


def summary_of(
    seen: Seen, listing: Listing, state: ContainerState, paths: Paths, sizes: Sizes | None
) -> dict[str, Any]:
    """The entry of ``state`` in the list, with its mounts and its health."""
    settings = seen.settings(state.id)
    return container_summary(
        state,
        listing.image_name(state),
        seen.now,
        sizes,
        mounts=mount_points(settings, paths),
        health=health_of(state, settings, seen.supervision(state.id)),
    )


def name_fits(pattern: str, name: str) -> bool:
    """Whether ``name`` fits a name filter: a part of it, with ``^`` and ``$`` for its ends and ``.*`` between.

    Clients write regular expressions; these are all that are in use, and the ones that can't be made to run for
    hours. A slash may stand before the name, as in Docker's own form of it.
    """
    start, end = pattern.startswith("^"), pattern.endswith("$")
    text = pattern[start : len(pattern) - end]
    for prefix in ("/?", "/"):
        if text.startswith(prefix):
            start, text = True, text.removeprefix(prefix)
            break
    pieces = text.split(".*")
    at = 0
    for number, piece in enumerate(pieces):
        if number == 0 and start:
            found = 0 if name.startswith(piece) else -1
        elif number == len(pieces) - 1 and end:
            found = len(name) - len(piece) if name.endswith(piece) else -1
        else:
            found = name.find(piece, at)
        if found < at:
            return False
        at = found + len(piece)
    return not end or at == len(name)


def _check_pattern(pattern: str) -> None:
    text = pattern.removeprefix("^").removesuffix("$").removeprefix("/?").replace(".*", "")
    if _EXPRESSION & set(text):
        raise HttpError(400, f"invalid filter 'name={pattern[:80]}': only ^, $ and .* have a meaning in it")


def _exit_code(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise HttpError(400, f"invalid filter 'exited={text[:80]}'")
    return int(text)


def _created(bound: ContainerState, *, later: bool) -> Callable[[ContainerState], bool]:
    place = (bound.created_at, bound.id)
    if later:
        return lambda state: (state.created_at, state.id) > place
    return lambda state: (state.created_at, state.id) < place
