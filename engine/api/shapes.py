"""Containers in the shapes that Docker's clients read.

Source: Docker Engine API v1.47: ContainerSummary, ContainerInspectResponse. Every field that a client may rely on
is there; what this release doesn't have is said as Docker says "none of it". Images are in ``api_imageshapes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from lading.engine.api.words import instant, status_line
from lading.events.container import ContainerState, Phase, status
from lading.storage.store import Paths

__all__ = [
    "UNKNOWN_EXIT",
    "Sizes",
    "container_inspect",
    "container_summary",
    "shown_exit",
]

UNKNOWN_EXIT = 255
"""The exit code that is told when nobody knows it, always together with an error text."""

Json = dict[str, Any]


@attrs.frozen
class Sizes:
    """Bytes on disk: of the writable layer, and of it and the image together."""

    writable: int
    root: int

    def shape(self) -> Json:
        """As both container shapes have it."""
        return {"SizeRw": self.writable, "SizeRootFs": self.root}


def shown_exit(state: ContainerState) -> int:
    """The exit code as Docker's clients expect it: 0 before the first end, 255 where it is unknown."""
    if state.exit_code is not None:
        return state.exit_code
    return UNKNOWN_EXIT if state.phase is not Phase.CREATED and state.process is None and state.finished_at else 0


# -- containers ---------------------------------------------------------------------------------------------


def container_summary(state: ContainerState, image: str, now: int, sizes: Sizes | None) -> Json:
    """An entry of the list at ``now`` (nanoseconds UTC); ``image`` is the name to show."""
    spec = state.spec
    return {
        "Id": state.id,
        "Names": [f"/{state.name}"],
        "Image": image,
        "ImageID": spec.image,
        "Command": _command_line(spec.args),
        "Created": state.created_at // 1_000_000_000,
        "Ports": [],
        **(sizes.shape() if sizes else {}),
        "Labels": dict(spec.labels),
        "State": status(state),
        "Status": status_line(state, now),
        "HostConfig": {"NetworkMode": spec.network},
        "NetworkSettings": {"Networks": {spec.network: _endpoint()}},
        "Mounts": [],
    }


def container_inspect(state: ContainerState, paths: Paths, runtime: str, sizes: Sizes | None) -> Json:
    """All of a container; ``runtime`` is the name of the OCI runtime, empty if there is none."""
    spec = state.spec
    own = paths.container(state.id)
    return {
        "Id": state.id,
        "Created": instant(state.created_at),
        "Path": spec.args[0],
        "Args": list(spec.args[1:]),
        "State": _state(state),
        "Image": spec.image,
        "ResolvConfPath": str(paths.bundle(state.id) / "resolv.conf"),
        "HostnamePath": str(paths.bundle(state.id) / "hostname"),
        "HostsPath": str(paths.bundle(state.id) / "hosts"),
        "LogPath": str(own / "output"),
        "Name": f"/{state.name}",
        "RestartCount": 0,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": _host_config(state, runtime),
        "GraphDriver": {
            "Name": "overlay2",
            "Data": {
                "ID": state.id,
                "LowerDir": ":".join(str(paths.layer(chain)) for chain in reversed(spec.layers)),
                "MergedDir": str(paths.bundle(state.id) / "rootfs"),
                "UpperDir": str(own / "upper"),
                "WorkDir": str(own / "work"),
            },
        },
        **(sizes.shape() if sizes else {}),
        "Mounts": [],
        "Config": {
            "Hostname": spec.hostname,
            "Domainname": "",
            "User": spec.user,
            "AttachStdin": spec.stdin_once,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": False,
            "OpenStdin": spec.open_stdin,
            "StdinOnce": spec.stdin_once,
            "Env": list(spec.env),
            "Cmd": list(spec.cmd) or None,
            "Image": spec.image_name,
            "Volumes": None,
            "WorkingDir": spec.working_dir,
            "Entrypoint": list(spec.entrypoint) or None,
            "OnBuild": None,
            "Labels": dict(spec.labels),
            "StopSignal": spec.stop_signal,
            "StopTimeout": spec.stop_timeout,
        },
        "NetworkSettings": {
            "Bridge": "",
            "SandboxID": "",
            "SandboxKey": "",
            "Ports": {},
            "HairpinMode": False,
            "LinkLocalIPv6Address": "",
            "LinkLocalIPv6PrefixLen": 0,
            "SecondaryIPAddresses": None,
            "SecondaryIPv6Addresses": None,
            "EndpointID": "",
            "Gateway": "",
            "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0,
            "IPAddress": "",
            "IPPrefixLen": 0,
            "IPv6Gateway": "",
            "MacAddress": "",
            "Networks": {spec.network: _endpoint()},
        },
    }


def _state(state: ContainerState) -> Json:
    word = status(state)
    running = word == "running"
    return {
        "Status": word,
        "Running": running,
        "Paused": False,
        "Restarting": False,
        "OOMKilled": False,
        "Dead": word == "dead",
        "Pid": state.process.pid if state.process else 0,
        "ExitCode": 0 if running else shown_exit(state),
        "Error": state.error,
        "StartedAt": instant(state.started_at),
        "FinishedAt": instant(state.finished_at),
    }


def _host_config(state: ContainerState, runtime: str) -> Json:
    spec = state.spec
    return {
        **_each(
            "Binds CapAdd CapDrop ExtraHosts GroupAdd Links VolumesFrom SecurityOpt Devices DeviceCgroupRules "
            "DeviceRequests Ulimits BlkioWeightDevice BlkioDeviceReadBps BlkioDeviceWriteBps BlkioDeviceReadIOps "
            "BlkioDeviceWriteIOps MemorySwappiness OomKillDisable PidsLimit",
            None,
        ),
        **_each(
            "OomScoreAdj CpuShares Memory NanoCpus BlkioWeight CpuPeriod CpuQuota CpuRealtimePeriod "
            "CpuRealtimeRuntime MemoryReservation MemorySwap CpuCount CpuPercent IOMaximumIOps IOMaximumBandwidth",
            0,
        ),
        **_each("ContainerIDFile VolumeDriver Cgroup CgroupParent PidMode UTSMode Isolation", ""),
        **_each("CpusetCpus CpusetMems", ""),
        "LogConfig": {"Type": "json-file", "Config": {}},
        "NetworkMode": spec.network,
        "PortBindings": {},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": spec.auto_remove,
        "ConsoleSize": [0, 0],
        "CgroupnsMode": "",
        "Dns": [],
        "DnsOptions": [],
        "DnsSearch": [],
        "IpcMode": "private",
        "Privileged": False,
        "PublishAllPorts": False,
        "ReadonlyRootfs": spec.read_only,
        "UsernsMode": "",
        "ShmSize": 64 << 20,
        "Runtime": runtime,
        "MaskedPaths": None,
        "ReadonlyPaths": None,
    }


def _endpoint() -> Json:
    return {
        **_each("IPAMConfig Links Aliases DriverOpts DNSNames", None),
        **_each("MacAddress NetworkID EndpointID Gateway IPAddress IPv6Gateway GlobalIPv6Address", ""),
        **_each("IPPrefixLen GlobalIPv6PrefixLen", 0),
    }


def _each(names: str, value: object) -> Json:
    return dict.fromkeys(names.split(), value)


def _command_line(args: Sequence[str]) -> str:
    """The command as the list shows it: words with spaces in quotes, as Docker does it."""
    return " ".join([args[0], *(f"'{word}'" if " " in word else word for word in args[1:])])
