"""The OCI runtime's ``config.json`` for one container, with Docker's defaults, as a pure function.

:func:`render` turns a :class:`BundleSpec` and the facts of the :class:`Host` into bytes. The format is that
of the OCI runtime spec (config.md and config-linux.md); the values are those of moby's
``daemon/pkg/oci/defaults.go`` and ``daemon/oci_linux.go``: capabilities, masked and read-only paths, mounts,
device rules, seccomp profile. crun and runc both read it.

Nothing of a container or an image becomes an annotation or a hook: some runtimes obey annotations, and an
image could bring them. The one annotation there is comes from the runtime (:func:`render`, ``compiled``).

Most of the document is the same for every container, above all its seccomp profile. Those parts are encoded
once and kept as bytes; for each container only its own words are encoded, and the parts are joined.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import attrs

from lading.engine import seccomp
from lading.events.errors import Invalid

__all__ = ["DEFAULT_CAPABILITIES", "DEFAULT_SHM_SIZE", "BundleSpec", "Host", "MountEntry", "render"]

DEFAULT_CAPABILITIES: Final = frozenset(
    {
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
    }
)

DEFAULT_SHM_SIZE: Final = 64 * 1024 * 1024

_MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)

_READONLY_PATHS: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_MOUNTS: Final = (
    ("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    ("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
    ("/sys/fs/cgroup", "cgroup", "cgroup", ("ro", "nosuid", "noexec", "nodev")),
    ("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
)

# Everything is denied, then: zero, null, urandom, random, tty, console; and never fuse.
_DEVICE_RULES: Final = (
    {"allow": False, "access": "rwm"},
    *(
        {"allow": allow, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        for allow, major, minor in (
            (True, 1, 5),
            (True, 1, 3),
            (True, 1, 9),
            (True, 1, 8),
            (True, 5, 0),
            (True, 5, 1),
            (False, 10, 229),
        )
    ),
)

# Unprivileged ping and low ports are safe in a network namespace of the container's own.
_NETWORK_SYSCTLS: Final = (
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
)


@attrs.frozen(cache_hash=True)
class Host:
    """What the document depends on besides the container; the same for the life of the engine.

    ``machine`` is ``uname -m`` and ``kernel`` its ``(major, minor)``. ``cgroup_v2`` says that cgroup v2 is
    the only hierarchy. ``masked_paths`` are those to mask on this machine besides the fixed ones, and
    ``sysctls`` those of a new network namespace that this kernel has.
    """

    machine: str
    kernel: tuple[int, int]
    cgroup_v2: bool
    masked_paths: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = _NETWORK_SYSCTLS

    @classmethod
    def probe(cls) -> Host:
        """The facts of this machine, from uname(2), /sys and /proc. About a millisecond; call it once."""
        system = os.uname()
        release = re.match(r"(\d+)\.(\d+)", system.release, re.ASCII)
        if release is None:
            raise Invalid("kernel release", system.release, "it should start with major.minor")
        # The counters of thermal throttling are a side channel between containers.
        cpus = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle")
        return cls(
            machine=system.machine,
            kernel=(int(release[1]), int(release[2])),
            cgroup_v2=os.path.exists("/sys/fs/cgroup/cgroup.controllers"),
            masked_paths=tuple(sorted(str(path) for path in cpus)),
            sysctls=tuple(
                (name, value)
                for name, value in _NETWORK_SYSCTLS
                if os.path.exists("/proc/sys/" + name.replace(".", "/"))
            ),
        )


@attrs.frozen
class MountEntry:
    """One mount beside the usual ones, as the runtime spec has it (config.md, Mounts)."""

    destination: str
    type: str
    source: str
    options: tuple[str, ...]


@attrs.frozen(kw_only=True)
class BundleSpec:
    """One container as the runtime should make it.

    ``rootfs`` is the mounted root's absolute path. ``env`` is ``KEY=value`` words, ``cwd`` absolute, and
    ``uid``, ``gid`` and ``additional_gids`` numbers: names are resolved before. ``capabilities`` are full
    names (``CAP_CHOWN``); they are the bounding set, and also effective and permitted for uid 0. The UTS
    namespace is always the container's own; ``hostname`` None leaves in it the name that it is made with,
    which is the host's. With ``network`` "none" there is a new network namespace, with "host" the engine's.
    ``files`` are (host path, path in the container) of private files such as /etc/hosts, mounted over
    the image's own. ``mounts`` come before the files, the less deep first; one at the place of a usual mount
    or of a file is there instead of it. ``propagation`` is the root's, ``rprivate`` if empty: a mount that wants
    more needs it. ``nofile`` is RLIMIT_NOFILE, (soft, hard). ``shm_size`` is in bytes.
    """

    container_id: str
    rootfs: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    cgroups_path: str
    nofile: tuple[int, int]
    network: Literal["none", "host"]
    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()
    hostname: str | None = None
    terminal: bool = False
    readonly_rootfs: bool = False
    capabilities: frozenset[str] = DEFAULT_CAPABILITIES
    no_new_privileges: bool = False
    files: tuple[tuple[str, str], ...] = ()
    mounts: tuple[MountEntry, ...] = ()
    propagation: str = ""
    shm_size: int = DEFAULT_SHM_SIZE
    seccomp: bool = True


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def _json(value: object) -> bytes:
    return _encode(value).encode()


@functools.lru_cache(maxsize=64)
def _capabilities(capabilities: frozenset[str], root: bool) -> bytes:
    """``,"capabilities":{...}`` of ``process``. Inheritable and ambient stay empty: a set that survives
    execve would give an unprivileged user what only uid 0 should have (CVE-2022-24769)."""
    bounding = sorted(capabilities)
    held = bounding if root else []
    sets = {"bounding": bounding, "effective": held, "permitted": held, "inheritable": [], "ambient": []}
    return b',"capabilities":' + _json(sets)


@functools.lru_cache(maxsize=64)
def _mounts(shm_size: int) -> bytes:
    """``"mounts":[...`` without its closing bracket, so that the private files can follow."""
    shm = ("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", f"size={shm_size}"))
    mounts = [
        {"destination": destination, "type": kind, "source": source, "options": options}
        for destination, kind, source, options in (*_MOUNTS, shm)
    ]
    return b'"mounts":' + _json(mounts)[:-1]


def _files(files: Iterable[tuple[str, str]], readonly: bool) -> bytes:
    """The bind mounts of private files, each with its leading comma."""
    options = ("rbind", "ro", "rprivate") if readonly else ("rbind", "rprivate")
    mounts = [
        {"destination": destination, "type": "bind", "source": source, "options": options}
        for source, destination in files
    ]
    return b"," + _json(mounts)[1:-1] if mounts else b""


def _all_mounts(spec: BundleSpec) -> bytes:
    """``"mounts":[...`` without its closing bracket, of a container that mounts something of its own.

    As Docker does it: usual mounts give way to one at the same place, and those in /dev to one of all of /dev.
    """
    usual = json.loads(b"{" + _mounts(spec.shm_size) + b"]}")["mounts"]
    files = json.loads(b"[" + _files(spec.files, spec.readonly_rootfs)[1:] + b"]")
    own = {entry.destination for entry in spec.mounts}
    kept = [
        mount
        for mount in usual
        if mount["destination"] not in own and not ("/dev" in own and mount["destination"].startswith("/dev/"))
    ]
    others = [attrs.asdict(entry) for entry in spec.mounts]
    others += [mount for mount in files if mount["destination"] not in own]
    others.sort(key=lambda mount: mount["destination"].count("/"))
    return b'"mounts":' + _json([*kept, *others])[:-1]


@functools.lru_cache(maxsize=64)
def _linux(host: Host, network: str, capabilities: frozenset[str], confined: bool) -> bytes:
    """Everything of ``linux`` that follows ``cgroupsPath``, up to the end of the document."""
    namespaces = ["pid", "ipc", "uts", "mount"]
    if network != "host":
        namespaces.append("network")
    # With cgroup v1 Docker shares the host's: a private one would hide the container's path from nothing.
    if host.cgroup_v2:
        namespaces.append("cgroup")
    linux: dict[str, object] = {
        "namespaces": [{"type": namespace} for namespace in namespaces],
        "resources": {"devices": _DEVICE_RULES},
        "maskedPaths": [*_MASKED_PATHS, *host.masked_paths],
        "readonlyPaths": _READONLY_PATHS,
    }
    if network != "host" and host.sysctls:
        linux["sysctl"] = dict(host.sysctls)
    if confined:
        linux["seccomp"] = seccomp.resolve(capabilities, host.machine, host.kernel)
    return b"," + _json(linux)[1:] + b"}"


def render(spec: BundleSpec, host: Host, compiled: str = "") -> bytes:
    """The bytes of ``config.json`` for ``spec`` on ``host``: compact JSON in UTF-8, the same for equal input.

    ``compiled``: the default seccomp profile as the runtime itself compiled it before (base64 of BPF). A crun
    that was built without its cache would otherwise spend some 14 ms on it for every container. It goes in as
    crun's annotation ``run.oci.seccomp_bpf_data`` (crun(1)), beside the profile, for runtimes that don't know it.

    Raises :class:`Invalid` for what no runtime could be given: no command, a NUL byte or a text that isn't
    Unicode anywhere, a cgroup path that is relative or has ``..`` in it.
    """
    if not spec.args:
        raise Invalid("command", spec.args, "no command specified")
    if not spec.cgroups_path.startswith("/") or ".." in spec.cgroups_path.split("/"):
        raise Invalid("cgroups_path", spec.cgroups_path, "it must be absolute and without ..")
    hostname = spec.hostname
    confined = compiled and spec.seccomp and spec.capabilities == DEFAULT_CAPABILITIES
    process = {
        "terminal": spec.terminal,
        "user": {"uid": spec.uid, "gid": spec.gid, "additionalGids": spec.additional_gids},
        "args": spec.args,
        "env": spec.env,
        "cwd": spec.cwd,
        "noNewPrivileges": spec.no_new_privileges,
        "rlimits": ({"type": "RLIMIT_NOFILE", "soft": spec.nofile[0], "hard": spec.nofile[1]},),
    }
    try:
        parts = (
            b'{"ociVersion":"1.0.2","process":',
            _json(process)[:-1],
            _capabilities(spec.capabilities, spec.uid == 0),
            b'},"root":',
            _json({"path": spec.rootfs, "readonly": spec.readonly_rootfs}),
            b',"hostname":' + _json(hostname) + b"," if hostname else b",",
            _all_mounts(spec)
            if spec.mounts
            else _mounts(spec.shm_size) + _files(spec.files, spec.readonly_rootfs),
            b'],"annotations":{"run.oci.seccomp_bpf_data":' + _json(compiled) + b"}" if confined else b"]",
            b',"linux":{"cgroupsPath":',
            _json(spec.cgroups_path),
            b',"rootfsPropagation":' + _json(spec.propagation) if spec.propagation else b"",
            _linux(host, spec.network, spec.capabilities, spec.seccomp),
        )
    except UnicodeEncodeError as error:
        raise Invalid("bundle", error.object[:120], "not Unicode text: a runtime can't be given it") from error
    document = b"".join(parts)
    # A runtime written in C would cut the word at the NUL and run something else. JSON escapes it; the
    # same characters typed by a user are escaped once more and are no NUL.
    if b"\\u0000" in document and b"\\u0000" in document.replace(b"\\\\", b""):
        raise Invalid("bundle", spec.container_id, "a NUL byte in its command, environment or paths")
    return document
