"""The Docker SDK for Python, which blocks, from trio."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import trio

__all__ = ["call"]


async def call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """The result of ``function``, which blocks."""
    return await trio.to_thread.run_sync(functools.partial(function, *args, **options))
