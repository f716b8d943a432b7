"""What a container's health check becomes of the request's and the image's."""

from __future__ import annotations

import pytest

from lading.engine.containers.imagehealth import settle_health
from lading.engine.containers.recipe import make_recipe
from lading.events.imageconfig import Healthcheck
from lading.events.settings import HealthCheck, Resources

S = 10**9
IMAGE = Healthcheck(("CMD", "ok"), interval=5 * S, retries=9)
USUAL = HealthCheck(("CMD", "x"))


@pytest.mark.parametrize(
    ("asked", "image", "settled"),
    [
        (None, None, None),
        (None, Healthcheck(), None),
        (None, Healthcheck(("NONE",)), None),
        (None, Healthcheck(("RUN", "x")), None),
        (None, Healthcheck(("CMD",)), None),
        (None, Healthcheck(("CMD", "x"), interval=-1, timeout=-(2**63), retries=-1), USUAL),
        (HealthCheck(("NONE",)), IMAGE, None),
        (HealthCheck((), 7 * S, 0, 0, 0, 0), None, None),
        (None, IMAGE, HealthCheck(("CMD", "ok"), interval=5 * S, retries=9)),
        (HealthCheck((), 7 * S, 0, 0, 0, 0), IMAGE, HealthCheck(("CMD", "ok"), interval=7 * S, retries=9)),
        (HealthCheck(("CMD", "x"), 0, 0, 0, 0, 0), None, USUAL),
        (
            HealthCheck(("CMD", "x"), 0, 0, 3 * S, 0, 0),
            IMAGE,
            HealthCheck(("CMD", "x"), 5 * S, start_period=3 * S, retries=9),
        ),
    ],
)
def test_health_is_settled(
    asked: HealthCheck | None, image: Healthcheck | None, settled: HealthCheck | None
) -> None:
    assert settle_health(asked, image) == settled
    assert settle_health(settled or HealthCheck(("NONE",)), image) == settled, "and stays so"


def test_options_are_of_the_recipe_or_of_the_settings() -> None:
    recipe = make_recipe("app", ["x"], {"user": "1", "resources": Resources(memory=5), "tty": True})
    assert (recipe.user, recipe.settings.resources.memory, recipe.settings.tty) == ("1", 5, True)
    with pytest.raises(TypeError):
        make_recipe("app", ["x"], {"no_such_option": 1})
