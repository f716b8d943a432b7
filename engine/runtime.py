"""The OCI runtime: which one works here, found by trying, and the command lines we give it.

A version number says little: crun 1.8 refuses a host where cgroup v1 and v2 are mixed and the v2 tree has a
controller. So each candidate is asked to run a program that does not exist, in an empty root file system
with our own configuration: one that gets as far as not finding it has set up everything else.
"""

from __future__ import annotations

import json
import os
import resource
import secrets
import shutil
import subprocess
from pathlib import Path

import attrs

from lading.engine.oci import BundleSpec, Host, render
from lading.events.errors import HostError
from lading.storage.procfs import boot_id
from lading.storage.store import Paths

__all__ = ["Runtime", "cgroup_of", "file_limit", "find_runtime"]

_CANDIDATES = ("crun", "runc")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MISSING = "/lading-probe"


@attrs.frozen
class Runtime:
    """A runtime that works here. ``refused``: why the ones that were preferred to it don't."""

    name: str
    path: str
    version: str
    state: str
    refused: tuple[str, ...] = ()

    def run(self, container: str, bundle: Path, pid_file: Path, log: Path) -> list[str]:
        """The command that runs ``container`` in the foreground and ends with its exit code."""
        return [
            *self._base(log),
            "run",
            "--bundle",
            os.fspath(bundle),
            "--pid-file",
            os.fspath(pid_file),
            container,
        ]

    def delete(self, container: str) -> list[str]:
        """The command that kills and forgets ``container``, whatever state it is in."""
        return [*self._base(Path(os.devnull)), "delete", "--force", container]

    def _base(self, log: Path) -> list[str]:
        return [self.path, "--root", self.state, "--log", os.fspath(log), "--log-format", "json"]


def find_runtime(paths: Paths, host: Host, wanted: str | None = None) -> Runtime:
    """The first runtime that works, or the one called ``wanted``; remembered for this boot.

    Blocks for some 15 ms when nothing is remembered. Raises ``HostError`` that says what each one answered
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
        key = [boot_id(), path, status.st_mtime_ns, status.st_size, list(names)]
        known = _remembered(memory, key)
        if known is not None:
            return known
        state = paths.run / name
        state.mkdir(mode=0o700, exist_ok=True)
        runtime = Runtime(name, path, _version(path), os.fspath(state), tuple(refused))
        answer = _probe(runtime, paths, host)
        if answer is None:
            memory.write_text(json.dumps({"key": key, "runtime": attrs.asdict(runtime)}))
            return runtime
        refused.append(f"{name}: {answer}")
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


def _probe(runtime: Runtime, paths: Paths, host: Host) -> str | None:
    """None if ``runtime`` got as far as looking for the program, else what it said."""
    name = f"probe-{secrets.token_hex(6)}"
    bundle = paths.bundle(name)
    try:
        (bundle / "rootfs").mkdir(parents=True)
        config = render(
            BundleSpec(
                container_id=name,
                rootfs=os.fspath(bundle / "rootfs"),
                args=(_MISSING,),
                env=(f"PATH={_PATH}",),
                cwd="/",
                cgroups_path=f"{cgroup_of(paths)}/{name}",
                nofile=file_limit(),
                network="none",
            ),
            host,
        )
        (bundle / "config.json").write_bytes(config)
        log = bundle / "log"
        done = subprocess.run(
            runtime.run(name, bundle, bundle / "pid", log),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            env={"PATH": _PATH},
            check=False,
        )
        said = (log.read_text() if log.exists() else "") + done.stderr
        if done.returncode != 0 and _MISSING in said:
            return None
        return " ".join(said.split())[:500] or f"it ended with {done.returncode} and said nothing"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        subprocess.run(runtime.delete(name), capture_output=True, timeout=30, check=False)
        shutil.rmtree(bundle, ignore_errors=True)


def cgroup_of(paths: Paths) -> str:
    """The cgroup that holds the cgroups of this store's containers, the same in every hierarchy."""
    return f"/lading/{paths.run.name}"
