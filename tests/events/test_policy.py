"""What follows an exit, and how healthy a container is: tables, and what holds whatever happened before."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.events.policy import (
    HEALTHY_RUN,
    LONGEST_DELAY,
    SHORTEST_DELAY,
    Pulse,
    after_exit,
    after_probe,
    at_opening,
)
from lading.events.settings import HealthCheck, RestartName, RestartPolicy
from lading.events.upkeep import RestartScheduled, SupervisionState

FRESH = SupervisionState()


@pytest.mark.parametrize(
    ("policy", "known", "exit_code", "restarts"),
    [
        (RestartPolicy("no"), FRESH, 1, False),
        (RestartPolicy("no"), FRESH, None, False),
        (RestartPolicy("always"), FRESH, 0, True),
        (RestartPolicy("always"), FRESH, None, True),
        (RestartPolicy("always"), SupervisionState(stopped=True), 1, False),
        (RestartPolicy("unless-stopped"), FRESH, 0, True),
        (RestartPolicy("unless-stopped"), SupervisionState(stopped=True), 1, False),
        (RestartPolicy("on-failure"), FRESH, 0, False),
        (RestartPolicy("on-failure"), FRESH, 1, True),
        (RestartPolicy("on-failure"), FRESH, None, True),
        (RestartPolicy("on-failure"), SupervisionState(restarts=1000), 1, True),
        (RestartPolicy("on-failure", 3), SupervisionState(restarts=2), 1, True),
        (RestartPolicy("on-failure", 3), SupervisionState(restarts=3), 1, False),
    ],
)
def test_which_exits_are_followed_by_a_restart(
    policy: RestartPolicy, known: SupervisionState, exit_code: int | None, restarts: bool
) -> None:
    assert (after_exit(policy, known, exit_code, 0) is not None) is restarts


def test_the_wait_doubles_and_a_healthy_run_makes_it_short_again() -> None:
    known, delays = FRESH, []
    for _ in range(14):
        asked = after_exit(RestartPolicy("always"), known, 1, HEALTHY_RUN - 1)
        assert asked is not None
        known = SupervisionState(streak=asked.streak)
        delays.append(asked.delay)
    assert delays[:4] == [SHORTEST_DELAY, 2 * SHORTEST_DELAY, 4 * SHORTEST_DELAY, 8 * SHORTEST_DELAY]
    assert delays[-1] == delays[-2] == LONGEST_DELAY
    assert after_exit(RestartPolicy("always"), known, 1, HEALTHY_RUN) == RestartScheduled(SHORTEST_DELAY, 0)


@given(st.sampled_from(get_args(RestartName)), st.integers(0, 2**60), st.integers(-(2**60), 2**60))
def test_a_wait_is_bounded_whatever_came_before(name: RestartName, streak: int, ran: int) -> None:
    asked = after_exit(RestartPolicy(name), SupervisionState(streak=streak), 1, ran)
    assert (asked is None) is (name == "no")
    assert asked is None or SHORTEST_DELAY <= asked.delay <= LONGEST_DELAY


def test_what_wants_a_restart_for_another_reason_gets_it() -> None:
    stopped = SupervisionState(stopped=True)
    assert after_exit(RestartPolicy("no"), stopped, 0, HEALTHY_RUN, why="unhealthy") == RestartScheduled(
        SHORTEST_DELAY, 0, "unhealthy"
    )


def test_which_containers_run_again_when_their_store_is_opened() -> None:
    stopped = SupervisionState(stopped=True)
    assert at_opening(RestartPolicy("always"), stopped, ran=True)
    assert not at_opening(RestartPolicy("always"), FRESH, ran=False)
    assert at_opening(RestartPolicy("unless-stopped"), FRESH, ran=True)
    assert not at_opening(RestartPolicy("unless-stopped"), stopped, ran=True)
    assert not at_opening(RestartPolicy("on-failure"), FRESH, ran=True)


def test_probes_make_a_container_unhealthy_and_healthy_again() -> None:
    check = HealthCheck(("CMD", "true"), start_period=100, retries=2)
    pulse = Pulse()
    assert after_probe(check, pulse, False, 99) == pulse, "a failure in the start period doesn't count"
    pulse = after_probe(check, pulse, False, 100)
    assert pulse == Pulse("starting", 1)
    pulse = after_probe(check, pulse, False, 101)
    assert pulse == Pulse("unhealthy", 2)
    assert after_probe(check, pulse, True, 102) == Pulse("healthy", 0)
    early = after_probe(check, Pulse(), True, 1)
    assert early == Pulse("healthy", 0)
    assert after_probe(check, early, False, 2) == Pulse("healthy", 1), "one success ends the start period"
