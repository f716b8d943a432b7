"""What storage makes as an iterator, for tasks: each piece is made in a thread, when it is asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator

import trio

__all__ = ["chunks"]

_PIECE = 1 << 20


async def chunks(pieces: Iterator[bytes], size: int = _PIECE) -> AsyncGenerator[bytes, None]:
    """``pieces`` in chunks of about ``size`` bytes, so that a trip to a thread is worth its while.

    Raises what ``pieces`` raises. Closing this early closes ``pieces``, if it is a generator.
    """

    def gather() -> bytes:
        gathered: list[bytes] = []
        left = size
        for piece in pieces:
            gathered.append(piece)
            left -= len(piece)
            if left <= 0:
                break
        return gathered[0] if len(gathered) == 1 else b"".join(gathered)

    try:
        while chunk := await trio.to_thread.run_sync(gather):
            yield chunk
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
