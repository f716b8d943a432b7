"""What a container is allowed and given, beyond the command it runs: everything that most containers leave alone.

A container whose settings are the usual ones (``ContainerSettings()``) has no record of them: its life costs
nothing more for what others may want. The rest are told by ``Configured``, in the same append as ``Created``.
Of all of them only ``resources`` and ``restart`` can be changed later (``Updated``).

The words are those of the Docker Engine API v1.47 (HostConfig, Config, Resources), in our spelling. ``0``, ``""``
and empty mean "not asked for" unless a field says otherwise. Times are nanoseconds, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import attrs

__all__ = [
    "DEFAULT_SHM_SIZE",
    "ContainerSettings",
    "Device",
    "HealthCheck",
    "Mount",
    "MountKind",
    "Resources",
    "RestartName",
    "RestartPolicy",
    "Ulimit",
]

DEFAULT_SHM_SIZE: Final = 64 << 20

RestartName = Literal["no", "on-failure", "always", "unless-stopped"]
MountKind = Literal["bind", "volume", "tmpfs"]


@attrs.frozen
class Resources:
    """Limits that the container's control group has. They can be changed while it runs.

    ``memory_swap``: memory and swap together; -1: no limit to swap; 0: twice the memory. ``cpu_quota`` in
    microseconds of each ``cpu_period``; ``nano_cpus``: billionths of a CPU, instead of these two.
    ``pids``: -1 or 0: unlimited. ``blkio_weight``: 10 to 1000. ``swappiness``: -1 leaves it alone.
    ``read_bps``, ``write_bps``, ``read_iops``, ``write_iops``: ``PATH:RATE`` of block devices.
    """

    memory: int = 0
    memory_reservation: int = 0
    memory_swap: int = 0
    swappiness: int = -1
    oom_kill_disable: bool = False
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    nano_cpus: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids: int = 0
    blkio_weight: int = 0
    read_bps: tuple[str, ...] = ()
    write_bps: tuple[str, ...] = ()
    read_iops: tuple[str, ...] = ()
    write_iops: tuple[str, ...] = ()


@attrs.frozen
class RestartPolicy:
    """What follows an exit. ``maximum``: of ``on-failure``, how many restarts in all; 0: no bound."""

    name: RestartName = "no"
    maximum: int = 0


@attrs.frozen
class HealthCheck:
    """How it is found out whether the container works.

    ``test``: ``("CMD", word, ...)`` or ``("CMD-SHELL", line)``. ``retries``: failures in a row that make it
    unhealthy. Failures in the first ``start_period`` don't count, and ``start_interval`` is the pause between
    two probes in it.
    """

    test: tuple[str, ...]
    interval: int = 30_000_000_000
    timeout: int = 30_000_000_000
    start_period: int = 0
    start_interval: int = 5_000_000_000
    retries: int = 3


@attrs.frozen
class Mount:
    """Something mounted over the image's files.

    ``source``: a path of the host (bind) or a volume's name. ``target``: absolute, normalised, in the container.
    ``copy``: a volume that is empty gets what the image has there. ``subpath``: of a volume, the directory in it.
    ``propagation``: of a bind, ``rprivate`` if empty. ``recursive``: what is mounted below comes with a bind.
    ``size`` and ``mode``: of a tmpfs; ``options``: its other mount options. ``anonymous``: the volume is this
    container's own and goes with it.
    """

    kind: MountKind
    source: str
    target: str
    read_only: bool = False
    copy: bool = True
    subpath: str = ""
    propagation: str = ""
    recursive: bool = True
    size: int = 0
    mode: int = 0
    options: tuple[str, ...] = ()
    anonymous: bool = False


@attrs.frozen
class Ulimit:
    """A resource limit of the first process, by Docker's name (``nofile``); -1: unlimited."""

    name: str
    soft: int
    hard: int


@attrs.frozen
class Device:
    """A device of the host, and what may be done with it: letters of ``rwm``."""

    path: str
    target: str
    permissions: str = "rwm"


@attrs.frozen
class ContainerSettings:
    """All of it, as it was when the container was made, with the image's own wishes merged in.

    ``seccomp``: empty for the default profile, ``unconfined``, or the profile itself (JSON). ``masked`` and
    ``readonly``: None for the usual paths. ``extra_hosts``: ``NAME:IP``. ``deadline``: how long a run may take
    before it is stopped, from its start. ``restart_unhealthy``: an unhealthy container is stopped and started
    again. ``log_size`` and ``log_files``: when the output's file is rotated and how many are kept (0: never).
    ``pid_mode``, ``ipc_mode``, ``uts_mode``, ``cgroupns_mode``: ``host`` shares the host's namespace, empty is
    a private one. ``forked_from``: the container whose file system this one goes on from.
    """

    tty: bool = False
    init: bool = False
    resources: Resources = attrs.field(factory=Resources)
    restart: RestartPolicy = attrs.field(factory=RestartPolicy)
    health: HealthCheck | None = None
    restart_unhealthy: bool = False
    deadline: int = 0
    mounts: tuple[Mount, ...] = ()
    shm_size: int = DEFAULT_SHM_SIZE
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    no_new_privileges: bool = False
    seccomp: str = ""
    masked: tuple[str, ...] | None = None
    readonly: tuple[str, ...] | None = None
    devices: tuple[Device, ...] = ()
    device_rules: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    sysctls: Mapping[str, str] = attrs.field(factory=dict)
    oom_score: int = 0
    domainname: str = ""
    extra_hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    pid_mode: str = ""
    ipc_mode: str = ""
    uts_mode: str = ""
    cgroupns_mode: str = ""
    log_size: int = 0
    log_files: int = 0
    volumes: tuple[str, ...] = ()
    forked_from: str = ""
