"""Where a command writes something whole: a file that gets its name when it is, or standard output."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import click

if TYPE_CHECKING:
    from lading.engine.http.client import ClientResponse

__all__ = ["opened_output", "refuse_terminal", "save_body"]


@contextlib.contextmanager
def opened_output(path: str) -> Iterator[BinaryIO]:
    """Somewhere to write; a file is the owner's alone, and gets its name, durably, when the block is left.

    ``-`` is standard output. A block that is left by an exception leaves no file.
    """
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    new = f"{path}.{secrets.token_hex(4)}"
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as out:
        try:
            yield out
            out.flush()
            os.fsync(out.fileno())
            os.rename(new, path)
        except BaseException:
            os.unlink(new)
            raise
    from pathlib import Path

    from lading.storage.linux import sync_directory

    sync_directory(Path(path).absolute().parent)


def refuse_terminal(path: str) -> None:
    """Raise ``click.UsageError`` where an archive would go to a terminal."""
    if path == "-" and sys.stdout.isatty():
        raise click.UsageError("An archive is not for a terminal: use -o FILE, or redirect standard output.")


async def save_body(reply: ClientResponse, path: str) -> None:
    """Write the body of ``reply`` to ``path`` (``-``: standard output). Raises ``HttpError`` and ``HostError``."""
    import trio

    await reply.check()
    with opened_output(path) as out:
        async for chunk in reply.stream():
            await trio.to_thread.run_sync(out.write, chunk)
