"""Containers in the shapes that Docker's clients read.

Source: Docker Engine API v1.47: ContainerSummary, ContainerInspectResponse. Every field that a client may rely on
is there; what this release doesn't have is said as Docker says "none of it". Images are in ``api_imageshapes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from lading.engine.api.healthshapes import health_of, health_shape
from lading.engine.api.settingshapes import health_config, settings_shape
from lading.engine.api.volumeshapes import host_config_mounts, mount_points
from lading.engine.api.words import instant, status_line
from lading.engine.containers.health import HealthLog
from lading.events.container import ContainerState, Phase, status
from lading.events.settings import ContainerSettings
from lading.events.upkeep import Health, SupervisionState
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


def container_summary(
    state: ContainerState,
    image: str,
    now: int,
    sizes: Sizes | None,
    *,
    mounts: Sequence[Json] = (),
    health: Health = "",
) -> Json:
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
        "Status": status_line(state, now, health),
        "HostConfig": {"NetworkMode": spec.network},
        "NetworkSettings": {"Networks": {spec.network: _endpoint()}},
        "Mounts": list(mounts),
    }


def container_inspect(
    state: ContainerState,
    settings: ContainerSettings,
    supervision: SupervisionState,
    paths: Paths,
    runtime: str,
    sizes: Sizes | None,
    *,
    cgroup_v2: bool,
    probes: HealthLog | None = None,
    execs: Sequence[str] = (),
) -> Json:
    """All of a container; ``runtime`` is the name of the OCI runtime, empty if there is none.

    ``probes``: what is known of its health check. ``execs``: the ids of its execs.
    """
    spec = state.spec
    own = paths.container(state.id)
    return {
        "Id": state.id,
        "Created": instant(state.created_at),
        "Path": spec.args[0],
        "Args": list(spec.args[1:]),
        "State": _state(state, supervision) | health_shape(health_of(state, settings, supervision), probes),
        "Image": spec.image,
        "ResolvConfPath": str(paths.bundle(state.id) / "resolv.conf"),
        "HostnamePath": str(paths.bundle(state.id) / "hostname"),
        "HostsPath": str(paths.bundle(state.id) / "hosts"),
        "LogPath": str(own / "output"),
        "Name": f"/{state.name}",
        "RestartCount": supervision.restarts,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": list(execs) or None,
        "HostConfig": {
            **settings_shape(settings, cgroup_v2=cgroup_v2),
            **host_config_mounts(settings),
            "VolumesFrom": None,
            "VolumeDriver": "",
            "NetworkMode": spec.network,
            "AutoRemove": spec.auto_remove,
            "ReadonlyRootfs": spec.read_only,
            "Runtime": runtime,
        },
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
        "Mounts": mount_points(settings, paths),
        "Config": {
            "Hostname": spec.hostname,
            "Domainname": settings.domainname,
            "User": spec.user,
            "AttachStdin": spec.stdin_once,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": settings.tty,
            "OpenStdin": spec.open_stdin,
            "StdinOnce": spec.stdin_once,
            "Env": list(spec.env),
            "Cmd": list(spec.cmd) or None,
            "Image": spec.image_name,
            "Volumes": {target: {} for target in settings.volumes} or None,
            "WorkingDir": spec.working_dir,
            "Entrypoint": list(spec.entrypoint) or None,
            "OnBuild": None,
            "Labels": dict(spec.labels),
            "StopSignal": spec.stop_signal,
            "StopTimeout": spec.stop_timeout,
            **health_config(settings.health),
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


def _state(state: ContainerState, supervision: SupervisionState) -> Json:
    word = status(state)
    return {
        "Status": word,
        "Running": word in ("running", "paused", "restarting"),  # all three are up in Docker's eyes
        "Paused": word == "paused",
        "Restarting": word == "restarting",
        "OOMKilled": supervision.oom,
        "Dead": word == "dead",
        "Pid": state.process.pid if state.process else 0,
        "ExitCode": 0 if word in ("running", "paused") else shown_exit(state),
        "Error": state.error,
        "StartedAt": instant(state.started_at),
        "FinishedAt": instant(state.finished_at),
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
