"""The run directory: what lives as long as one boot, in memory.

It is a tmpfs of its own, private, so that it is gone after a reboot whatever ``/run`` is, costs no disk and
no journal, and overlay mounts below it are not propagated into other mount namespaces.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lading.events.errors import HostError
from lading.storage import linux

__all__ = ["mount_run", "unmount_run"]


def mount_run(run: Path) -> None:
    """Have a private tmpfs with mode 0700 at ``run``; one that is there already stays. Raises ``HostError``."""
    try:
        run.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        run.mkdir(mode=0o700, exist_ok=True)
        if not os.path.ismount(run):
            target = os.fsencode(run)
            flags = linux.MS_NOSUID | linux.MS_NODEV
            linux.mount(b"lading", target, b"tmpfs", flags, b"mode=0700")
            linux.mount(b"none", target, b"none", linux.MS_PRIVATE)
        for name in ("bundles", "pids", "exits", "execs"):
            (run / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        hint = "mounting needs root with CAP_SYS_ADMIN"
        raise HostError("mount the run directory", os.fspath(run), error.errno or 0, hint) from error


def unmount_run(run: Path) -> None:
    """Take it away. What is in it is lost; what isn't there is no error."""
    with contextlib.suppress(OSError):
        linux.umount2(os.fsencode(run), linux.MNT_DETACH | linux.UMOUNT_NOFOLLOW)
    for directory in (run, run.parent):
        with contextlib.suppress(OSError):
            directory.rmdir()
