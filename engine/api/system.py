"""The engine itself over HTTP: ping, version, information.

Source: Docker Engine API v1.47, SystemPing, SystemPingHead, SystemVersion, SystemInfo.
"""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from lading.engine.api.request import API_MAXIMUM, API_MINIMUM
from lading.engine.engine import Engine
from lading.engine.http.message import Reply, Request, Response
from lading.engine.http.router import Router
from lading.engine.images.platform import host_platform
from lading.engine.oci.runtime import Runtime
from lading.engine.release import release
from lading.events.container import status
from lading.events.errors import HostError
from lading.storage.cgroups import cgroup_mode

__all__ = [
    "add_system_routes",
]

_SAFE: Final = {"crun": ((1, 28),), "runc": ((1, 3, 6), (1, 4, 3), (1, 5, 0))}
"""The first releases, one for each branch, in which an image's /dev can't make the runtime write on the host
(CVE-2026-47766, CVE-2026-41579)."""


def add_system_routes(router: Router, engine: Engine) -> None:
    """Route ping, version and info."""
    system = _System(engine)
    for method in ("GET", "HEAD"):
        router.add(method, "/_ping", system.ping)
    router.add("GET", "/version", system.version)
    router.add("GET", "/info", system.info)


class _System:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def ping(self, request: Request) -> Reply:
        fresh = {"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache"}
        return Response.text("OK", headers=fresh)

    async def version(self, request: Request) -> Reply:
        runtime, _ = await self._runtime()
        shown = release()
        newest, oldest = ("{}.{}".format(*version) for version in (API_MAXIMUM, API_MINIMUM))
        kernel = os.uname().release
        details = {
            "ApiVersion": newest,
            "MinAPIVersion": oldest,
            "Os": "linux",
            "Arch": host_platform().architecture,
            "KernelVersion": kernel,
            "GoVersion": f"none (Python {platform.python_version()})",
            "GitCommit": "",
            "BuildTime": "",
        }
        engine = {"Name": "Engine", "Version": shown, "Details": {**details, "Experimental": "false"}}
        components: list[dict[str, Any]] = [engine]
        if runtime is not None:
            components.append(
                {"Name": runtime.name, "Version": runtime.version, "Details": {"Path": runtime.path}}
            )
        return Response.json(
            {
                "Platform": {"Name": "Lading"},
                "Components": components,
                "Version": shown,
                **details,
            }
        )

    async def info(self, request: Request) -> Reply:
        engine = self._engine
        runtime, warnings = await self._runtime()
        states = engine.containers.list()
        count = Counter(status(state) for state in states)
        uname = os.uname()
        mode = cgroup_mode()
        if mode in ("v1", "hybrid", "none"):
            warnings.append(f"control groups are {mode} here: limits differ from those of a v2 host")
        return Response.json(
            {
                "ID": engine.store.identity,
                "Containers": len(states),
                "ContainersRunning": count["running"] + count["restarting"],
                "ContainersPaused": count["paused"],
                "ContainersStopped": len(states) - count["running"] - count["paused"] - count["restarting"],
                "Images": len(engine.images.list()),
                "Driver": "overlay2",
                "DriverStatus": [["Log position", str(engine.log.position)]],
                "Plugins": {
                    "Volume": ["local"],
                    "Network": ["host", "none"],
                    "Authorization": None,
                    "Log": ["json-file"],
                },
                "MemoryLimit": False,
                "SwapLimit": False,
                "CpuCfsPeriod": False,
                "CpuCfsQuota": False,
                "CPUShares": False,
                "CPUSet": False,
                "PidsLimit": False,
                "IPv4Forwarding": _reads("/proc/sys/net/ipv4/ip_forward", "1"),
                "Debug": False,
                "NFd": _descriptors(),
                "OomKillDisable": False,
                "NGoroutines": 0,
                "SystemTime": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z",
                "LoggingDriver": "json-file",
                "CgroupDriver": "none" if mode == "none" else "cgroupfs",
                "CgroupVersion": "2" if mode == "v2" else "1",
                "NEventsListener": 0,
                "KernelVersion": uname.release,
                "OperatingSystem": _operating_system(),
                "OSVersion": "",
                "OSType": "linux",
                "Architecture": uname.machine,
                "IndexServerAddress": "",
                "RegistryConfig": None,
                "NCPU": os.cpu_count() or 1,
                "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
                "GenericResources": None,
                "DockerRootDir": os.fspath(engine.root),
                "HttpProxy": "",
                "HttpsProxy": "",
                "NoProxy": "",
                "Name": uname.nodename,
                "Labels": [],
                "ExperimentalBuild": False,
                "ServerVersion": release(),
                "Runtimes": {runtime.name: {"path": runtime.path}} if runtime else {},
                "DefaultRuntime": runtime.name if runtime else "",
                "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False},
                "LiveRestoreEnabled": True,
                "Isolation": "",
                "InitBinary": "",
                "ContainerdCommit": {"ID": "", "Expected": ""},
                "RuncCommit": _commit(runtime),
                "InitCommit": {"ID": "", "Expected": ""},
                "SecurityOptions": ["name=seccomp,profile=builtin"],
                "CDISpecDirs": [],
                "Warnings": warnings or None,
            }
        )

    async def _runtime(self) -> tuple[Runtime | None, list[str]]:
        """The runtime, None if nothing works here, and what there is to say about it."""
        try:
            runtime = await self._engine.core.runtime()
        except HostError as error:
            return None, [f"no container can be started: {error}"]
        warnings = [f"the runtime {refused}" for refused in runtime.refused]
        if not _is_safe(runtime):
            first = ", ".join(".".join(map(str, version)) for version in _SAFE[runtime.name])
            warnings.append(
                f"{runtime.name} {runtime.version} has known ways out of a container that are closed in {first}; "
                "upgrade it before running images that you do not trust"
            )
        return runtime, warnings


def _is_safe(runtime: Runtime) -> bool:
    numbers = tuple(int(number) for number in re.findall(r"[0-9]{1,6}", runtime.version)[:3])
    branches = _SAFE.get(runtime.name, ((0,),))
    if numbers >= branches[-1]:
        return True
    return any(numbers[:2] == first[:2] and numbers >= first for first in branches)


def _commit(runtime: Runtime | None) -> dict[str, Any]:
    shown = f"{runtime.name} {runtime.version}" if runtime else ""
    return {"ID": shown, "Expected": shown}


def _operating_system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _reads(path: str, text: str) -> bool:
    try:
        return Path(path).read_text().strip() == text
    except OSError:
        return False
