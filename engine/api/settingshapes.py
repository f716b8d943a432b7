"""A container's settings in the shapes that Docker's clients read: what would make such a container again.

Source: Docker Engine API v1.47: HostConfig, Resources and HealthConfig of ContainerInspectResponse; moby
``daemon/daemon_unix.go`` (adaptContainerSettings) for what is shown where nothing was asked for (v27).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from lading.events.settings import ContainerSettings, HealthCheck, Resources

__all__ = ["health_config", "settings_shape"]

Json = dict[str, Any]

_NEVER: Final[Json] = {
    **dict.fromkeys(("Links", "DeviceRequests", "BlkioWeightDevice"), None),
    **dict.fromkeys(("CpuRealtimePeriod", "CpuRealtimeRuntime", "CpuCount", "CpuPercent"), 0),
    **dict.fromkeys(("IOMaximumIOps", "IOMaximumBandwidth"), 0),
    **dict.fromkeys(("ContainerIDFile", "Cgroup", "CgroupParent", "Isolation", "UsernsMode"), ""),
    "PortBindings": {},
    "PublishAllPorts": False,
    "ConsoleSize": [0, 0],
}
"""What no container has in this release."""
_SIZES: Final = ((10**9, "g"), (10**6, "m"), (10**3, "k"))


def settings_shape(settings: ContainerSettings, *, cgroup_v2: bool) -> Json:
    """The fields of ``HostConfig`` that say something of settings, mounts left out."""
    return {
        **_NEVER,
        **_resources(settings.resources, cgroup_v2),
        **_security(settings),
        "LogConfig": {"Type": "json-file", "Config": _log(settings)},
        "RestartPolicy": {"Name": settings.restart.name, "MaximumRetryCount": settings.restart.maximum},
        "OomScoreAdj": settings.oom_score,
        "ShmSize": settings.shm_size,
        "ExtraHosts": _list(settings.extra_hosts),
        "Dns": list(settings.dns),
        "DnsOptions": list(settings.dns_options),
        "DnsSearch": list(settings.dns_search),
        "PidMode": settings.pid_mode,
        "IpcMode": settings.ipc_mode or "private",
        "UTSMode": settings.uts_mode,
        "CgroupnsMode": settings.cgroupns_mode or ("private" if cgroup_v2 else "host"),
        **({"Sysctls": dict(settings.sysctls)} if settings.sysctls else {}),
        **({"Init": True} if settings.init else {}),
        **({"LadingDeadline": settings.deadline} if settings.deadline else {}),
        **({"LadingRestartUnhealthy": True} if settings.restart_unhealthy else {}),
    }


def health_config(check: HealthCheck | None) -> Json:
    """``Healthcheck`` of ``Config``; nothing if there is none."""
    if check is None:
        return {}
    return {
        "Healthcheck": {
            "Test": list(check.test),
            "Interval": check.interval,
            "Timeout": check.timeout,
            **({"StartPeriod": check.start_period} if check.start_period else {}),
            "StartInterval": check.start_interval,
            "Retries": check.retries,
        }
    }


def _resources(resources: Resources, cgroup_v2: bool) -> Json:
    swap = resources.memory_swap or min(resources.memory * 2, 2**63 - 1)
    return {
        "Memory": resources.memory,
        "MemoryReservation": resources.memory_reservation,
        "MemorySwap": swap,
        "MemorySwappiness": None if resources.swappiness == -1 else resources.swappiness,
        "OomKillDisable": resources.oom_kill_disable or (None if cgroup_v2 else False),
        "CpuShares": resources.cpu_shares,
        "CpuPeriod": resources.cpu_period,
        "CpuQuota": resources.cpu_quota,
        "NanoCpus": resources.nano_cpus,
        "CpusetCpus": resources.cpuset_cpus,
        "CpusetMems": resources.cpuset_mems,
        "PidsLimit": resources.pids if resources.pids > 0 else None,
        "BlkioWeight": resources.blkio_weight,
        "BlkioDeviceReadBps": _rates(resources.read_bps),
        "BlkioDeviceWriteBps": _rates(resources.write_bps),
        "BlkioDeviceReadIOps": _rates(resources.read_iops),
        "BlkioDeviceWriteIOps": _rates(resources.write_iops),
    }


def _rates(rates: Iterable[str]) -> list[Json] | None:
    parts = (rate.rpartition(":") for rate in rates)
    return [{"Path": path, "Rate": int(rate)} for path, _, rate in parts] or None


def _security(settings: ContainerSettings) -> Json:
    options = ["no-new-privileges"] if settings.no_new_privileges else []
    options += [f"seccomp={settings.seccomp}"] if settings.seccomp else []
    devices = [
        {"PathOnHost": each.path, "PathInContainer": each.target, "CgroupPermissions": each.permissions}
        for each in settings.devices
    ]
    ulimits = [{"Name": each.name, "Soft": each.soft, "Hard": each.hard} for each in settings.ulimits]
    return {
        "Privileged": settings.privileged,
        "CapAdd": _list(settings.cap_add),
        "CapDrop": _list(settings.cap_drop),
        "SecurityOpt": options or None,
        "MaskedPaths": None if settings.masked is None else list(settings.masked),
        "ReadonlyPaths": None if settings.readonly is None else list(settings.readonly),
        "Devices": devices or None,
        "DeviceCgroupRules": _list(settings.device_rules),
        "GroupAdd": _list(settings.groups),
        "Ulimits": ulimits or None,
    }


def _log(settings: ContainerSettings) -> dict[str, str]:
    shown = {}
    if settings.log_size:
        divisor, unit = next((each for each in _SIZES if settings.log_size % each[0] == 0), (1, ""))
        shown["max-size"] = f"{settings.log_size // divisor}{unit}"
    if settings.log_files > 1 or (settings.log_files and not settings.log_size):
        shown["max-file"] = str(settings.log_files)
    return shown


def _list(items: tuple[str, ...]) -> list[str] | None:
    return list(items) or None
