"""Engines of other makers, each private: own directory, own socket, nothing on the host but files in there.

``Podman`` and ``skopeo`` are commands; ``Docker`` is a dockerd with its containerd, started by hand and ended by
pid, in a mount namespace of its own. Where a program is not installed, ``require`` skips the test.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

CACHE = Path(__file__).resolve().parent.parent / ".cache/bin"
SEARCH = os.pathsep.join((str(CACHE), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
ENVIRONMENT = {"PATH": SEARCH, "LANG": "C.UTF-8", "HOME": "/nonexistent"}
PATIENCE = 60.0
"""Seconds that a daemon is given to answer, or to end."""


def program(name: str) -> str | None:
    """Where ``name`` is, if it is installed or was fetched by ``./dev``."""
    return shutil.which(name, path=SEARCH)


def missing(*names: str) -> list[str]:
    """Those of ``names`` that are not here."""
    return [name for name in names if program(name) is None]


def require(*names: str) -> None:
    """Skip the test where one of ``names`` is not here."""
    if absent := missing(*names):
        pytest.skip(f"not installed: {', '.join(absent)}")


class Failed(Exception):
    """A peer's command ended with another code than 0; says what it printed."""


def run(
    argv: Sequence[str | os.PathLike[str]],
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
    environment: dict[str, str] | None = None,
) -> str:
    """What ``argv`` prints, if it isn't given somewhere to print to; an error if it fails."""
    done = subprocess.run(
        argv,
        stdin=stdin or subprocess.DEVNULL,
        stdout=stdout or subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT | (environment or {}),
        timeout=600,
        check=False,
    )
    if done.returncode:
        words = " ".join(os.fspath(each) for each in argv)
        raise Failed(f"{words}: {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}")
    return "" if stdout else done.stdout.decode(errors="replace").strip()


def skopeo(*args: str | os.PathLike[str]) -> str:
    """Run skopeo."""
    return run([program("skopeo") or "skopeo", *args])


def skopeo_copy(source: str, target: str, *options: str) -> None:
    """Copy an image between any two of skopeo's transports; registries are spoken to without TLS."""
    skopeo("copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false", *options, source, target)


class Podman:
    """podman with a store of its own below ``directory``; keeps no lock, event or state elsewhere."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        config = directory / "containers.conf"
        tmp = json.dumps(str(directory / "tmp"))
        settings = (
            'cgroup_manager = "cgroupfs"',
            'events_logger = "none"',
            'lock_type = "file"',
            f"tmp_dir = {tmp}",
        )
        config.write_text("\n".join(("[engine]", *settings, "")))
        storage = directory / "storage.conf"
        roots = (f"{key} = {json.dumps(str(directory / key))}" for key in ("graphroot", "runroot"))
        storage.write_text("\n".join(("[storage]", 'driver = "overlay"', *roots, "")))
        self._environment = {
            "CONTAINERS_CONF": str(config),
            "CONTAINERS_STORAGE_CONF": str(storage),
            "TMPDIR": str(directory),
        }

    def run(
        self, *args: str | os.PathLike[str], stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
    ) -> str:
        """Run podman with ``args``: what it prints."""
        return run(self.command(*args), stdin, stdout, self._environment)

    def command(self, *args: str | os.PathLike[str]) -> list[str | os.PathLike[str]]:
        return [program("podman") or "podman", *args]

    @property
    def environment(self) -> dict[str, str]:
        return ENVIRONMENT | self._environment

    def close(self) -> None:
        """Undo the mounts of its images and of its store, and delete it."""
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in sorted((each for each in mounts if each.startswith(f"{self._directory}/")), reverse=True):
            run(["umount", mount])
        shutil.rmtree(self._directory, ignore_errors=True)


# dockerd writes a key below /etc and sockets below /run, and its containerd makes directories below /opt.
_PRIVATE = """
set -e
own=$1
shift
for name in etc opt; do
  mkdir -p "$own/$name" "$own/$name-work"
  mount -t overlay -o "lowerdir=/$name,upperdir=$own/$name,workdir=$own/$name-work" overlay "/$name"
done
mount -t tmpfs tmpfs /run
exec "$@"
"""


class Docker:
    """A dockerd below ``directory`` that starts its own containerd, without a network. A context manager.

    ``socket`` is where it listens. Its storage driver is overlay2. It runs containers only without a network, or
    with the host's.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._daemon: subprocess.Popen[bytes] | None = None
        self.socket = directory / "docker.sock"

    def __enter__(self) -> Docker:
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """dockerd; containerd is its child."""
        return [] if self._daemon is None else [self._daemon.pid]

    @property
    def environment(self) -> dict[str, str]:
        """The client's environment."""
        config = {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_CONFIG": str(self._directory / "client")}
        return ENVIRONMENT | config

    def command(self, *args: str | os.PathLike[str]) -> list[str | os.PathLike[str]]:
        return [program("docker") or "docker", *args]

    def run(
        self, *args: str | os.PathLike[str], stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
    ) -> str:
        """Run the docker client with ``args``: what it prints."""
        return run(self.command(*args), stdin, stdout, self.environment)

    def _start(self) -> None:
        top = self._directory
        (top / "daemon.json").write_text("{}")
        places = {
            "--config-file": top / "daemon.json",
            "--data-root": top / "data",
            "--exec-root": top / "state",
            "--pidfile": top / "docker.pid",
            "-H": f"unix://{self.socket}",
        }
        words = [str(word) for pair in places.items() for word in pair]
        quiet = ("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none")
        words += [*quiet, "--storage-driver", "overlay2", "--log-level", "warn"]
        # It ends with this process even if that is killed.
        private = [
            "setpriv",
            "--pdeathsig",
            "TERM",
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            _PRIVATE,
            "sh",
            str(top / "own"),
        ]
        with (top / "log").open("wb") as log:
            self._daemon = subprocess.Popen(
                [*private, program("dockerd") or "dockerd", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"dockerd does not answer: {(top / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        with suppress(Failed):
            self.run("version")
            return True
        return False

    def close(self) -> None:
        """End it; its mounts go with its namespace. Deletes the directory."""
        if self._daemon is not None:
            self._daemon.terminate()
            try:
                self._daemon.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()
            self._daemon = None
        shutil.rmtree(self._directory, ignore_errors=True)
