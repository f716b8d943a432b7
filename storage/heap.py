"""The heap of the C library, told what suits a process that passes large pieces of data from thread to thread.

glibc gives each thread an arena of its own (malloc(3), mallopt(3)). What one thread made and another frees goes
back to the first one's arena, where it helps no other thread, and the kernel gets it only from the arena's end.
Python's small objects don't come from there, so threads that take turns hardly ever meet in one arena for all.
"""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["share_arena"]

_M_ARENA_MAX: Final = -8  # malloc.h


def share_arena() -> bool:
    """Have all threads that are yet to start allocate from the first one's arena, for good. False where the C
    library isn't one that has arenas, as musl, or has no more of them than one already."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(ctypes.c_int(_M_ARENA_MAX), ctypes.c_int(1)) == 1
