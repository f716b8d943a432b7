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
from typing import Final, Literal

import attrs

from lading.engine.oci import seccomp
from lading.engine.oci.linux import USUAL, Host, LinuxSpec, encode, linux_part
from lading.engine.oci.mounts import MountEntry, mounts_part
from lading.events.errors import Invalid
from lading.events.privileges import DEFAULT_CAPABILITIES
from lading.events.settings import DEFAULT_SHM_SIZE

__all__ = [
    "DEFAULT_CAPABILITIES",
    "DEFAULT_SHM_SIZE",
    "UNLIMITED",
    "BundleSpec",
    "Host",
    "LinuxSpec",
    "MountEntry",
    "render",
]

UNLIMITED: Final = 2**64 - 1
"""RLIM_INFINITY (getrlimit(2))."""


@attrs.frozen(kw_only=True)
class BundleSpec:
    """One container as the runtime should make it.

    ``rootfs`` is the mounted root's absolute path. ``env`` is ``KEY=value`` words, ``cwd`` absolute, and ``uid``,
    ``gid`` and ``additional_gids`` numbers: names are resolved before. ``capabilities`` are full names
    (``CAP_CHOWN``); they are the bounding set, and also effective and permitted for uid 0. The UTS namespace is
    the container's own unless ``linux`` shares it; ``hostname`` None leaves in it the name that it is made with,
    which is the host's. With ``network`` "none" there is a new network namespace, with "host" the engine's.
    ``console_size``: rows and columns of the terminal, (0, 0) for whatever the runtime gives it.
    ``files`` are (host path, path in the container) of private files such as /etc/hosts, mounted over the image's
    own. ``mounts`` come with the files, the less deep first; one at the place of a usual mount or of a file is
    there instead of it. ``propagation`` is the root's, ``rprivate`` if empty: a mount that wants to give to the
    host or take from it needs another. ``nofile`` is RLIMIT_NOFILE, (soft, hard); ``rlimits`` are others: Docker's
    name, soft, hard (-1: unlimited). ``shm_size`` is in bytes. ``writable_sys``: /sys and the cgroups can be
    written; ``hidden``: usual mounts that are not made. ``linux``: what else is not usual.
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
    console_size: tuple[int, int] = (0, 0)
    readonly_rootfs: bool = False
    capabilities: frozenset[str] = DEFAULT_CAPABILITIES
    no_new_privileges: bool = False
    files: tuple[tuple[str, str], ...] = ()
    mounts: tuple[MountEntry, ...] = ()
    propagation: str = ""
    shm_size: int = DEFAULT_SHM_SIZE
    seccomp: bool = True
    rlimits: tuple[tuple[str, int, int], ...] = ()
    oom_score: int = 0
    writable_sys: bool = False
    hidden: frozenset[str] = frozenset()
    linux: LinuxSpec = USUAL


@functools.lru_cache(maxsize=64)
def _capabilities(capabilities: frozenset[str], root: bool) -> bytes:
    """``,"capabilities":{...}`` of ``process``. Inheritable and ambient stay empty: a set that survives
    execve would give an unprivileged user what only uid 0 should have (CVE-2022-24769)."""
    bounding = sorted(capabilities)
    held = bounding if root else []
    sets = {"bounding": bounding, "effective": held, "permitted": held, "inheritable": [], "ambient": []}
    return b',"capabilities":' + encode(sets)


def _has_default_filter(spec: BundleSpec, host: Host) -> bool:
    """Whether the default profile comes to the same for its capabilities as for the default ones."""
    if spec.capabilities == DEFAULT_CAPABILITIES:
        return True
    own, usual = (
        seccomp.resolve(each, host.machine, host.kernel) for each in (spec.capabilities, DEFAULT_CAPABILITIES)
    )
    return own == usual


def _rlimit(name: str, soft: int, hard: int) -> dict[str, object]:
    soft, hard = (UNLIMITED if value < 0 else value for value in (soft, hard))
    return {"type": f"RLIMIT_{name.upper()}", "soft": soft, "hard": hard}


def render(spec: BundleSpec, host: Host, compiled: str = "") -> bytes:
    """The bytes of ``config.json`` for ``spec`` on ``host``: compact JSON in UTF-8, the same for equal input.

    ``compiled``: the default seccomp profile as the runtime itself compiled it before (base64 of BPF). A crun
    that was built without its cache would otherwise spend some 14 ms on it for every container. It goes in as
    crun's annotation ``run.oci.seccomp_bpf_data`` (crun(1)), beside the profile, for runtimes that don't know it.

    Raises :class:`Invalid` for what no runtime could be given: no command, a NUL byte or a text that isn't
    Unicode anywhere, a cgroup path that is relative or has ``..`` in it, a seccomp profile that isn't one.
    """
    if not spec.args:
        raise Invalid("command", spec.args, "no command specified")
    if not spec.cgroups_path.startswith("/") or ".." in spec.cgroups_path.split("/"):
        raise Invalid("cgroups_path", spec.cgroups_path, "it must be absolute and without ..")
    hostname = spec.hostname
    confined = compiled and spec.seccomp and not spec.linux.profile and _has_default_filter(spec, host)
    process: dict[str, object] = {
        "terminal": spec.terminal,
        "user": {"uid": spec.uid, "gid": spec.gid, "additionalGids": spec.additional_gids},
        "args": spec.args,
        "env": spec.env,
        "cwd": spec.cwd,
        "noNewPrivileges": spec.no_new_privileges,
        "rlimits": ({"type": "RLIMIT_NOFILE", "soft": spec.nofile[0], "hard": spec.nofile[1]},),
    }
    if spec.terminal and spec.console_size != (0, 0):
        process["consoleSize"] = {"height": spec.console_size[0], "width": spec.console_size[1]}
    if spec.rlimits:
        process["rlimits"] = [_rlimit("nofile", *spec.nofile), *(_rlimit(*limit) for limit in spec.rlimits)]
    if spec.oom_score:
        process["oomScoreAdj"] = spec.oom_score
    try:
        parts = (
            b'{"ociVersion":"1.0.2","process":',
            encode(process)[:-1],
            _capabilities(spec.capabilities, spec.uid == 0),
            b'},"root":',
            encode({"path": spec.rootfs, "readonly": spec.readonly_rootfs}),
            b',"hostname":' + encode(hostname) + b"," if hostname else b",",
            mounts_part(
                *(spec.shm_size, spec.files, spec.readonly_rootfs, spec.mounts, spec.writable_sys, spec.hidden)
            ),
            b'],"annotations":{"run.oci.seccomp_bpf_data":' + encode(compiled) + b"}" if confined else b"]",
            b',"linux":{"cgroupsPath":',
            encode(spec.cgroups_path),
            b',"rootfsPropagation":' + encode(spec.propagation) if spec.propagation else b"",
            linux_part(host, spec.network, spec.capabilities, spec.seccomp, spec.linux),
        )
    except UnicodeEncodeError as error:
        raise Invalid("bundle", error.object[:120], "not Unicode text: a runtime can't be given it") from error
    document = b"".join(parts)
    # A runtime written in C would cut the word at the NUL and run something else. JSON escapes it; the
    # same characters typed by a user are escaped once more and are no NUL.
    if b"\\u0000" in document and b"\\u0000" in document.replace(b"\\\\", b""):
        raise Invalid("bundle", spec.container_id, "a NUL byte in its command, environment or paths")
    return document
