"""``lading keygen`` and ``lading seal``: keys, and signatures over the head of the log."""

from __future__ import annotations

import os
import sys

import click

from lading.engine.cli.client import Place

__all__ = ["COMMANDS"]

_LONGEST_KEY = 1 << 16


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  lading keygen ~/lading.key\n"
        "  openssl genpkey -algorithm ed25519 -out lading.key    # does as well"
    )
)
@click.argument("file", type=click.Path(dir_okay=False))
def keygen(file: str) -> int:
    """Make a key for seals, and FILE.pub to check them with.

    FILE is an Ed25519 private key in PEM, for its owner only; keep it where the store is not. Files that are there
    already are never overwritten.
    """
    from lading.storage.seal import make_keys

    private, public = make_keys()
    _create(file, private, 0o600)
    try:
        _create(f"{file}.pub", public, 0o644)
    except BaseException:
        os.unlink(file)
        raise
    print(f"{file}.pub")
    return 0


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  lading seal --key ~/lading.key -o /mnt/elsewhere/monday.seal\n"
        "  lading verify --seal /mnt/elsewhere/monday.seal --key ~/lading.key.pub"
    )
)
@click.option("--key", required=True, type=click.Path(dir_okay=False), help="The private key, in PEM.")
@click.option("-o", "--output", metavar="FILE", help="A new file for the seal, instead of standard output.")
@click.pass_obj
def seal(place: Place, key: str, output: str | None) -> int:
    """Sign the log as it is now.

    The seal proves later, to whoever has the public key, that nothing of the history up to now was changed,
    removed or put in another order. Keep it where the store is not. Works with or without an engine.
    """
    import time
    from pathlib import Path

    from lading.storage.seal import seal_head
    from lading.storage.store import read_identity, read_log

    with open(key, "rb") as file:
        private = file.read(_LONGEST_KEY)
    root = Path(place.root)
    history = read_log(root)
    try:
        made = seal_head(private, read_identity(root), history, time.time_ns())
    finally:
        history.close()
    if output is None:
        sys.stdout.write(made.content.decode("ascii"))
    else:
        _create(output, made.content, 0o644)
        print(f"sealed {made.position} records in {output}")
    return 0


def _create(path: str, content: bytes, mode: int) -> None:
    """Write a file that was not there, durably; nothing of it stays on an error. ``HostError``."""
    from lading.events.errors import HostError

    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise HostError("write", path, error.errno or 0, "it is never overwritten: name another file") from error
    except OSError as error:
        raise HostError("write", path, error.errno or 0) from error
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
    except OSError as error:
        os.unlink(path)
        raise HostError("write", path, error.errno or 0) from error


COMMANDS = (keygen, seal)
