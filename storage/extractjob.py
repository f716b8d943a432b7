"""Extracting an archive into a container as a worker's job (:mod:`lading.storage.worker`)."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from typing import Any

from lading.storage.confinement import write_only_beneath
from lading.storage.extracting import Rules, extract
from lading.storage.plan import Limits
from lading.storage.worker import FdSource, Talk

__all__ = ["extract_job"]


def extract_job(arguments: Mapping[str, Any], fds: list[int], talk: Talk) -> Mapping[str, Any]:
    """``extract`` of ``fds[0]`` into the directory ``fds[1]`` of the root ``fds[2]``, beneath which alone this
    process can write from then on: it is of no use for another job.

    ``arguments``: ``limits``, ``path`` (of the directory in the root), ``keep_kinds``, ``owner`` (uid and gid, or
    None). The result: ``entries`` and ``bytes``.
    """
    write_only_beneath(fds[2])
    limits = Limits(**arguments["limits"])
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (max(limits.file_bytes, limits.stream_bytes), resource.RLIM_INFINITY)
    )
    source = FdSource(fds[0])
    owner = arguments["owner"]
    done = extract(
        source,
        fds[1],
        root=fds[2],
        path=arguments["path"],
        rules=Rules(arguments["keep_kinds"], None if owner is None else (owner[0], owner[1])),
        limits=limits,
        stop=lambda: talk.progress(source.count),
    )
    return {"entries": done.entries, "bytes": done.file_bytes}
