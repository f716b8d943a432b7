"""The OCI runtime: which one works here, found by trying, and the command lines we give it.

A version number says little: crun 1.8 refuses a host where cgroup v1 and v2 are mixed and the v2 tree has a
controller. So each candidate is asked to create a container, with the configuration that ours get, in a root
file system that has one empty file for a program, and to delete it again: nothing of it is ever executed.
From crun the same trial brings the seccomp filter that it compiled, so that it needs to do that only once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import resource
import secrets
import shutil
import subprocess
from pathlib import Path

import attrs

from lading.engine.oci import seccomp
from lading.engine.oci.config import DEFAULT_CAPABILITIES, BundleSpec, Host, render
from lading.events.errors import HostError
from lading.storage.procfs import boot_id
from lading.storage.store import Paths

__all__ = ["Runtime", "cgroup_of", "file_limit", "find_runtime"]

_CANDIDATES = ("crun", "runc")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@attrs.frozen
class Runtime:
    """A runtime that works here.

    ``state``: its state directory. ``refused``: why the ones that were preferred to it don't work. ``seccomp``:
    the default profile as it compiled it (base64), empty if it doesn't hand it out.
    """

    name: str
    path: str
    version: str
    state: str
    refused: tuple[str, ...] = ()
    seccomp: str = ""

    @property
    def detaches(self) -> bool:
        """Whether it leaves once it has started a command (an exec, or what has a terminal), as runc does.

        It can't hand out a terminal and stay, and would give an exec pipes of its own and wait for their end.
        """
        return self.name == "runc"

    def run(
        self, container: str, bundle: str, pid_file: str, log: str, console: str = "", *, detach: bool = False
    ) -> list[str]:
        """The command that runs ``container`` in the foreground and ends with its exit code.

        ``console``: the socket to send its terminal's master to, if it has one. With ``detach`` it ends once the
        command runs: the container is then a child of whoever adopts orphans, and its cgroup is there until
        ``delete``. See ``detaches`` for when that has to be.
        """
        return [
            *self.base(log),
            "run",
            *(["--detach"] if detach else []),
            *_console(console),
            "--bundle",
            bundle,
            "--pid-file",
            pid_file,
            container,
        ]

    def exec(self, container: str, process: str, pid_file: str, log: str, console: str = "") -> list[str]:
        """The command that runs what file ``process`` says (config.md, "process") in ``container``, as ``run``."""
        return [
            *self.base(log),
            "exec",
            *(["--detach"] if self.detaches else []),
            *_console(console),
            "--process",
            process,
            "--pid-file",
            pid_file,
            container,
        ]

    def delete(self, container: str) -> list[str]:
        """The command that kills and forgets ``container``, whatever state it is in."""
        return [*self.base(os.devnull), "delete", "--force", container]

    def base(self, log: str) -> list[str]:
        """The runtime and its global options; its errors go to ``log``, as JSON lines."""
        return [self.path, "--root", self.state, "--log", log, "--log-format", "json"]


def _console(socket: str) -> list[str]:
    return ["--console-socket", socket] if socket else []


def find_runtime(paths: Paths, host: Host, wanted: str | None = None) -> Runtime:
    """The first runtime that works, or the one called ``wanted``; remembered for this boot.

    Blocks for some 30 ms when nothing is remembered. Raises ``HostError`` that says what each one answered
    and what to install.
    """
    names = (wanted,) if wanted else _CANDIDATES
    memory = paths.run / "runtime.json"
    refused: list[str] = []
    for name in names:
        path = shutil.which(name, path=_PATH)
        if path is None:
            refused.append(f"{name}: not installed")
            continue
        status = os.stat(path)
        key = [boot_id(), path, status.st_mtime_ns, status.st_size, list(names), _profile(host)]
        known = _remembered(memory, key)
        if known is not None:
            return known
        state = paths.run / name
        state.mkdir(mode=0o700, exist_ok=True)
        runtime = Runtime(name, path, _version(path), os.fspath(state), tuple(refused))
        try:
            runtime = attrs.evolve(runtime, seccomp=_try_out(runtime, paths, host))
        except _DoesNotWorkError as error:
            refused.append(f"{name}: {error}")
            continue
        memory.write_text(json.dumps({"key": key, "runtime": attrs.asdict(runtime)}))
        return runtime
    raise HostError(
        "find an OCI runtime that works:",
        "; ".join(refused),
        0,
        "install crun or runc (apt-get install crun runc), or see what `lading doctor` says",
    )


def file_limit() -> tuple[int, int]:
    """RLIMIT_NOFILE for a container: a soft limit that old programs can stand, and all the hard one allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    hard = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    return min(1024, hard), hard


def _remembered(memory: Path, key: list[object]) -> Runtime | None:
    try:
        content = json.loads(memory.read_bytes())
        if content["key"] != key:
            return None
        fields = content["runtime"]
        return Runtime(**{**fields, "refused": tuple(fields["refused"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _version(path: str) -> str:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    return said.splitlines()[0].split()[-1] if said else "unknown"


class _DoesNotWorkError(Exception):
    """What a runtime said when it was tried."""


def _profile(host: Host) -> str:
    """What the compiled filter depends on, besides the runtime."""
    profile = json.dumps(seccomp.resolve(DEFAULT_CAPABILITIES, host.machine, host.kernel), sort_keys=True)
    return hashlib.sha256(profile.encode()).hexdigest()


def _try_out(runtime: Runtime, paths: Paths, host: Host) -> str:
    """Create and delete a container; the compiled seccomp filter, or ``_DoesNotWorkError`` with what it said."""
    name = f"probe-{secrets.token_hex(6)}"
    bundle = paths.bundle(name)
    log = bundle / "log"
    try:
        (bundle / "rootfs").mkdir(parents=True)
        program = bundle / "rootfs" / "program"
        program.touch()
        program.chmod(0o755)
        config = render(
            BundleSpec(
                container_id=name,
                rootfs=os.fspath(bundle / "rootfs"),
                args=("/program",),
                env=(f"PATH={_PATH}",),
                cwd="/",
                cgroups_path=f"{cgroup_of(paths)}/{name}",
                nofile=file_limit(),
                network="none",
            ),
            host,
        )
        (bundle / "config.json").write_bytes(config)
        done = subprocess.run(
            [*runtime.base(os.fspath(log)), "create", "--bundle", os.fspath(bundle), name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=30,
            env={"PATH": _PATH},
            check=False,
        )
        if done.returncode != 0:
            said = " ".join(log.read_text().split()) if log.exists() else ""
            raise _DoesNotWorkError(said[:500] or f"it ended with {done.returncode} and said nothing")
        compiled = Path(runtime.state) / name / "seccomp.bpf"
        return base64.b64encode(compiled.read_bytes()).decode() if compiled.exists() else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _DoesNotWorkError(str(error)) from error
    finally:
        subprocess.run(runtime.delete(name), capture_output=True, timeout=30, check=False)
        shutil.rmtree(bundle, ignore_errors=True)


def cgroup_of(paths: Paths) -> str:
    """The cgroup that holds the cgroups of this store's containers, the same in every hierarchy."""
    return f"/lading/{paths.run.name}"
