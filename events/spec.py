"""What a container is made from: everything decided when it is created, and never changed after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from lading.events.ids import ChainId, ImageId

__all__ = ["ContainerSpec", "NetworkMode", "ProcessId"]

NetworkMode = Literal["host", "none"]


@attrs.frozen
class ContainerSpec:
    """One container's recipe, with the image's defaults already merged in.

    ``layers``: chain ids of the read-only layers, lowest first. ``args``: the command that runs.
    ``entrypoint`` and ``cmd``: the two halves of it, as Docker's clients show them. ``env``: ``K=V``.
    ``user``: as given (name or number), resolved in the container's own files at each start.
    ``stop_timeout``: seconds between the stop signal and SIGKILL.
    """

    image: ImageId
    image_name: str
    layers: tuple[ChainId, ...]
    args: tuple[str, ...]
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = "/"
    user: str = ""
    hostname: str = ""
    labels: Mapping[str, str] = attrs.field(factory=dict)
    network: NetworkMode = "host"
    open_stdin: bool = False
    stdin_once: bool = False
    auto_remove: bool = False
    stop_signal: str = "SIGTERM"
    stop_timeout: int = 10
    read_only: bool = False


@attrs.frozen
class ProcessId:
    """A process that can't be mistaken for another.

    A pid alone is reused; ``boot`` (``/proc/sys/kernel/random/boot_id``) and ``start_ticks`` (field 22 of
    ``/proc/PID/stat``, clock ticks since boot) make it an identity. ``start_ticks`` is 0 for a process that
    was gone before it could be read: such an identity matches nothing alive.
    """

    boot: str
    pid: int
    start_ticks: int
