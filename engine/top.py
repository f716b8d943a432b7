"""The processes of a container, as the host's ``ps`` tells of them.

The host's, run in the host's namespaces: an image's own program would be a stranger's (CVE-2022-1227). Which of
them are the container's, its control group says, so a container without a process namespace of its own is told
right, too. Source: Docker Engine API v1.47, ContainerTop; moby ``daemon/top_unix.go``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Final

from lading.engine.core import Core
from lading.engine.runtime import cgroup_of
from lading.events.errors import HostError, Invalid
from lading.storage.cgroups import processes_in

__all__ = ["top"]

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CALLED_PID: Final = re.compile(r"([^\s,=]+)=\s*PID")
_PATIENCE: Final = 10


def top(core: Core, container: str, ps_args: str = "-ef") -> tuple[list[str], list[list[str]]]:
    """The titles of the columns, and a row for each process; pids are the host's. Blocks while ``ps`` runs.

    ``ps_args``: words for ps(1); they have to leave the column PID in. Raises ``Invalid``, and ``HostError`` if
    there is no ``ps``.
    """
    words = ps_args.split()
    if any(column != "pid" for column in _CALLED_PID.findall(ps_args)):
        raise Invalid("ps arguments", ps_args, "another column can't be called PID")
    program = shutil.which("ps", path=_PATH)
    if program is None:
        raise HostError("run", "ps", 2, "install it on the host (procps)")
    done = subprocess.run(
        [program, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
        timeout=_PATIENCE,
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Invalid("ps arguments", ps_args, said[0] if said else f"ps ended with {done.returncode}")
    return _rows(done.stdout.decode("utf-8", "replace"), processes_in(f"{cgroup_of(core.paths)}/{container}"))


def _rows(printed: str, pids: set[int]) -> tuple[list[str], list[list[str]]]:
    lines = printed.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise Invalid("ps arguments", " ".join(titles), "couldn't find PID field in ps output")
    place = titles.index("PID")
    rows = []
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) > place and fields[place].isdecimal() and int(fields[place]) in pids:
            rows.append(fields)
    return titles, rows
