"""Nurseries that nobody needs to know of: one error comes out bare, whatever else happens at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from lading.engine.nursery import open_bare_nursery, together


async def _fails() -> None:
    raise ValueError("the only error")


async def _in_bare_nursery(*functions: Callable[[], Awaitable[None]]) -> None:
    async with open_bare_nursery() as nursery:
        for function in functions:
            nursery.start_soon(function)


async def test_one_error_comes_out_as_it_was_raised() -> None:
    with pytest.raises(ValueError, match="the only error"):
        await _in_bare_nursery(_fails)


async def test_several_errors_come_as_a_group() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await _in_bare_nursery(_fails, _fails)
    assert len(caught.value.exceptions) == 2


async def test_an_error_beside_a_cancel_from_outside_is_bare_too() -> None:
    outside = trio.CancelScope()

    async def fails_when_cancelled() -> None:
        outside.cancel()
        await _fails()

    async def both() -> None:
        with outside:
            await _in_bare_nursery(trio.sleep_forever, fails_when_cancelled)

    with pytest.raises(ValueError, match="the only error"):
        await both()


async def test_a_cancel_from_outside_alone_stays_one() -> None:
    with trio.CancelScope() as outside:
        async with open_bare_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            outside.cancel()
    assert outside.cancelled_caught


async def test_the_first_error_of_those_together_comes_alone_and_ends_the_others() -> None:
    with pytest.raises(ValueError, match="the only error"):
        await together(trio.sleep_forever, _fails, _fails)
