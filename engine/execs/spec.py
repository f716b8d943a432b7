"""What a command in a running container (exec) is given: the OCI runtime's process.json.

What the container itself got is the measure: its environment, directory, identity, limits and capabilities are
read from the configuration that its run was started with. A command gets as much, or what was asked for instead;
more capabilities only if it is privileged (OCI runtime spec, config.md, "process"; moby's
``daemon/exec_linux.go``). The runtime applies the container's seccomp filter itself, from its own state.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any, Final

import attrs

from lading.engine.oci.identity import resolve
from lading.engine.oci.process import check_command, with_env, with_home, working_dir
from lading.events.container import ContainerState
from lading.events.errors import HostError, Invalid
from lading.events.execs import ExecSpec
from lading.events.settings import ContainerSettings
from lading.storage.store import Paths

__all__ = ["RunConfig", "read_run_config", "render_process", "write_process"]

_CAPABILITIES: Final = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *("LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER"),
    *("SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
    *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP"),
    *("MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF"),
    "CHECKPOINT_RESTORE",
)
"""By their numbers (linux/capability.h)."""

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


@attrs.frozen
class RunConfig:
    """``process`` of the configuration that run ``run`` of a container was started with."""

    run: int
    process: dict[str, Any]

    @property
    def cwd(self) -> str:
        """The directory that its command began in."""
        return str(self.process["cwd"])


def read_run_config(paths: Paths, state: ContainerState) -> RunConfig:
    """That of the run that is under way. Raises ``HostError`` if it isn't there (any more)."""
    path = f"{paths.run}/bundles/{state.id}/config.json"
    try:
        with open(path, "rb") as file:
            return RunConfig(state.run, json.loads(file.read())["process"])
    except (OSError, ValueError, KeyError) as error:
        number = error.errno if isinstance(error, OSError) else 0
        raise HostError("read the container's configuration", path, number or 0) from error


def render_process(
    paths: Paths,
    state: ContainerState,
    settings: ContainerSettings,
    config: RunConfig,
    spec: ExecSpec,
    size: tuple[int, int] = (0, 0),
) -> bytes:
    """The bytes of process.json. ``size``: the terminal's rows and columns, (0, 0): the runtime's own.

    Raises ``Invalid`` for what can't be run, a user that the container doesn't have among it, and ``HostError``.
    Reads the container's own /etc/passwd and /etc/group for a user that was asked for.
    """
    process = dict(config.process)
    if spec.user:
        root = f"{paths.run}/bundles/{state.id}/rootfs"
        identity = resolve(root, spec.user)
        groups = identity.additional_gids
        if settings.groups:  # they are the container's, whoever runs in it
            own = resolve(root, state.spec.user).additional_gids
            added = [gid for gid in process["user"].get("additionalGids", ()) if gid not in own]
            groups = tuple(dict.fromkeys((*groups, *added)))
        process["user"] = {"uid": identity.uid, "gid": identity.gid, "additionalGids": groups}
        env = with_home(with_env(state.spec.env, spec.env, terminal=spec.tty), identity.home)
    else:
        env = with_env(process["env"], spec.env, terminal=spec.tty)
    process["capabilities"] = _capabilities(process, spec.privileged)
    check_command(spec.args, env)
    process |= {
        "terminal": spec.tty,
        "args": spec.args,
        "env": env,
        "cwd": working_dir(spec.working_dir),
    }
    process.pop("consoleSize", None)
    if spec.tty and size != (0, 0):
        process["consoleSize"] = {"height": size[0], "width": size[1]}
    try:
        return _encode(process).encode()
    except UnicodeEncodeError as error:
        raise Invalid("command", error.object[:120], "not Unicode text: a runtime can't be given it") from error


def _capabilities(process: dict[str, Any], privileged: bool) -> dict[str, Any]:
    """The container's own, or all there are; none inheritable or ambient; held by uid 0 alone."""
    own = process.get("capabilities") or {}
    bounding = list(_all_capabilities()) if privileged else own.get("bounding", [])
    held = bounding if process["user"]["uid"] == 0 else []
    return {"bounding": bounding, "effective": held, "permitted": held, "inheritable": [], "ambient": []}


@functools.cache
def _all_capabilities() -> tuple[str, ...]:
    """Those that this process has: nobody can give more."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapPrm":
            mine = int(value, 16)
            return tuple(f"CAP_{each}" for bit, each in enumerate(_CAPABILITIES) if mine >> bit & 1)
    return ()


def write_process(path: str, document: bytes) -> None:
    """Put ``document`` at ``path``, for the runtime alone. ``HostError``."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, document)
        finally:
            os.close(fd)
    except OSError as error:
        raise HostError("write", path, error.errno or 0) from error
