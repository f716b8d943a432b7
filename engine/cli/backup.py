"""``lading backup`` and ``lading restore``: the whole store, copied while it works, and made again."""

from __future__ import annotations

import click

from lading.engine.cli.client import Place, say_error
from lading.engine.cli.progress import showing_progress

__all__ = ["COMMANDS"]


@click.command(
    epilog="\b\nExamples:\n  lading backup /mnt/backups/monday\n  lading backup --log-only /mnt/backups/log"
)
@click.option("--log-only", is_flag=True, help="The history and its views, and no files.")
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@click.pass_obj
def backup(place: Place, directory: str, log_only: bool) -> int:
    """Copy the store into a new directory, while it works.

    The log is that of one instant; the images, layers and containers' files that it names are copied after. A
    container that runs meanwhile is copied as a power cut would leave it: stop it before if that will not do.
    """
    import time
    from pathlib import Path

    from lading.storage.backup import make_backup

    with showing_progress("copying") as told:
        done = make_backup(Path(place.root), Path(directory), time.time_ns(), files=not log_only, told=told)
    if not log_only:
        for container in done.running:
            say_error(f"note: container {container[:12]} was running: its files are as after a power cut")
        for container in done.missing:
            say_error(f"note: container {container[:12]} was removed meanwhile: its files are not all there")
    print(f"{directory}: store {done.store} up to position {done.position}, {_files(done.files, done.layers)}")
    return 0


@click.command(epilog="\b\nExample:\n  lading restore /mnt/backups/monday --root /srv/lading")
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@click.pass_obj
def restore(place: Place, directory: str) -> int:
    """Make a store of a backup.

    There must be no store yet at the root. All of the log is verified; all or nothing is there after. Don't let
    the store that was copied go on as well: both have the same identity, and from here on different histories.
    """
    from pathlib import Path

    from lading.storage.restoring import restore_backup

    with showing_progress("restoring") as told:
        done = restore_backup(Path(directory), Path(place.root), told)
    for container in done.missing:
        say_error(f"note: files of container {container[:12]} are missing: it was removed while it was copied")
    print(f"{place.root}: store {done.store} up to position {done.position}, {_files(done.files, done.layers)}")
    return 0


def _files(included: bool, layers: int) -> str:
    return f"with {layers} layer{'' if layers == 1 else 's'}" if included else "without files"


COMMANDS = (backup, restore)
