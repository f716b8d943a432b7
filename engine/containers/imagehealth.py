"""The health check of a container: what was asked for, completed by what its image says.

Source: moby ``daemon/commit.go`` (merge) and ``daemon/health.go`` for the usual values (v27).
"""

from __future__ import annotations

from typing import Final

import attrs

from lading.engine.core import Core
from lading.engine.images.facts import document_of
from lading.events.errors import HostError
from lading.events.image import ImageState
from lading.events.imageconfig import Healthcheck, parse_config
from lading.events.settings import HealthCheck

__all__ = ["ImageHealth", "merge_health", "settle_health"]

_USUAL: Final = HealthCheck(())
_MOST_KNOWN: Final = 1000
_LEAST: Final = 1_000_000


class ImageHealth:
    """What images say of health. An image never changes: each is read once, and costs nothing after."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._known: dict[str, Healthcheck | None] = {}

    def of(self, image: ImageState) -> Healthcheck | None:
        """The check in the config of ``image``; none where that is not on disk any more."""
        if image.image not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                del self._known[next(iter(self._known))]
            try:
                self._known[image.image] = parse_config(document_of(self._core, image)).healthcheck
            except HostError:
                return None
        return self._known[image.image]


def settle_health(asked: HealthCheck | None, image: Healthcheck | None) -> HealthCheck | None:
    """The health check of a container whose settings have ``asked``: what is 0 or empty in it is the image's word.

    ``NONE`` takes the image's away. Settling what is settled changes nothing.
    """
    if asked is None:
        return merge_health(None, image)
    return merge_health(Healthcheck(**attrs.asdict(asked)), image)


def merge_health(asked: Healthcheck | None, image: Healthcheck | None) -> HealthCheck | None:
    """``asked``, with the image's word for each field that says nothing, and then the usual one.

    None where nothing is checked: nobody says how, or the test is ``NONE``. An image is not trusted to say
    anything sensible: a test of an unknown kind is none, and times below a millisecond are the usual ones.
    """
    said = [each for each in (asked, image) if each is not None]
    test = next((each.test for each in said if each.test), ())
    if not test or test[0] not in ("CMD", "CMD-SHELL") or not any(test[1:]) or any("\0" in word for word in test):
        return None

    def pick(name: str, least: int, usual: int) -> int:
        return next((value for each in said if (value := getattr(each, name)) >= least), usual)

    return HealthCheck(
        test,
        interval=pick("interval", _LEAST, _USUAL.interval),
        timeout=pick("timeout", _LEAST, _USUAL.timeout),
        start_period=pick("start_period", _LEAST, _USUAL.start_period),
        start_interval=pick("start_interval", _LEAST, _USUAL.start_interval),
        retries=pick("retries", 1, _USUAL.retries),
    )
