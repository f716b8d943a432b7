"""A real registry on loopback: Debian's ``docker-registry`` (distribution 2.8), for as long as a test needs it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from certificates import Certificates, make_certificates
from peers import program

PROGRAM = program("docker-registry")

USER = "lading"
PASSWORD = "s3cret-of-tests"
# bcrypt of PASSWORD, the only hash that the registry takes
_HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuuQvdQC0iyoEpKKmAu/3kGsQt0UPm2Gom\n"


class LocalRegistry:
    """One ``docker-registry serve``, its files below ``directory``: a context manager, or ``start`` and ``stop``.

    ``address``: ``127.0.0.1:PORT``, valid once started, the same after a restart. ``auth``: it wants ``USER`` and
    ``PASSWORD``. ``tls``: it speaks TLS only, with ``certificates``. Blobs can be deleted. ``storage``: where the
    registry keeps its files.
    """

    def __init__(self, directory: Path, *, auth: bool = False, tls: bool = False) -> None:
        self.directory = directory
        self.storage = directory / "storage"
        self.auth = auth
        self.certificates: Certificates | None = make_certificates(directory / "tls") if tls else None
        self.address = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.certificates else 'http'}://{self.address}"

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        if PROGRAM is None:
            pytest.skip("docker-registry is not installed")
        assert self._process is None
        self.storage.mkdir(parents=True, exist_ok=True)
        for _ in range(5):
            address = self.address or f"127.0.0.1:{_free_port()}"
            with open(self.directory / "registry.log", "ab") as log:
                process = subprocess.Popen(
                    [PROGRAM, "serve", self._config(address)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={"PATH": os.environ.get("PATH", ""), "OTEL_TRACES_EXPORTER": "none"},
                )
            if _accepts(address, process):
                self._process, self.address = process, address
                return
            process.kill()
            process.wait()
        raise AssertionError((self.directory / "registry.log").read_text()[-2000:])

    def stop(self) -> None:
        """End it; what was pushed stays for the next start."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _config(self, address: str) -> str:
        """The path of its configuration; JSON is YAML."""
        config: dict[str, object] = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.storage)},
                "delete": {"enabled": True},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
        }
        http: dict[str, object] = {"addr": address, "secret": "of the tests"}
        if self.certificates is not None:
            http["tls"] = {"certificate": str(self.certificates.server), "key": str(self.certificates.key)}
        config["http"] = http
        if self.auth:
            path = self.directory / "htpasswd"
            path.write_text(_HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(path)}}
        path = self.directory / "config.yml"
        path.write_text(json.dumps(config))
        return str(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts(address: str, process: subprocess.Popen[bytes]) -> bool:
    host, _, port = address.partition(":")
    for _ in range(500):
        if process.poll() is not None:
            return False
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.01)
        else:
            return process.poll() is None
    return False
