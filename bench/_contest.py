"""Those who load, pull, save and push in the image benches, each behind the same few methods.

Every one has a store of its own below a directory that it is given. What one of them can't do, its command
refuses (``CalledProcessError``). ``pids`` are the processes whose memory counts, at this moment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import _debian  # noqa: F401 - it makes the tests' helpers importable
import peers
import trio

import lading


class Contestant(ABC):
    """An engine, or a set of tools. The image is always named ``localhost/bench/...`` or by its registry."""

    name: str
    counted = True
    """Whether ``pids`` has all that works for it, and nothing else."""

    @abstractmethod
    async def load(self, archive: Path) -> None:
        """Take in an archive."""

    @abstractmethod
    async def pull(self, reference: str) -> None:
        """Fetch from the loopback registry."""

    @abstractmethod
    async def save(self, reference: str, archive: Path) -> None:
        """Write as an archive."""

    @abstractmethod
    async def push(self, reference: str, name: str) -> None:
        """Send what ``reference`` is to the registry as ``name``."""

    @abstractmethod
    async def forget(self) -> None:
        """Remove every image, so that the next time everything has to be done again."""

    def pids(self) -> Collection[int]:
        """Processes that work for it now; children are found."""
        return ()


class Command(Contestant):
    """A client with docker's words."""

    options: tuple[str, ...] = ()
    """For what speaks to a registry."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    async def _run(self, *words: str | Path) -> None:
        await trio.run_process(
            self._engine.command(*words),
            env=self._engine.environment,
            capture_stdout=True,
            capture_stderr=True,
            stdin=b"",
        )

    async def load(self, archive: Path) -> None:
        await self._run("load", "--quiet", "--input", archive)

    async def pull(self, reference: str) -> None:
        await self._run("pull", "--quiet", *self.options, reference)

    async def save(self, reference: str, archive: Path) -> None:
        await self._run("save", "--output", archive, reference)

    async def push(self, reference: str, name: str) -> None:
        await self._run("tag", reference, name)
        await self._run("push", "--quiet", *self.options, name)


class Docker(Command):
    """dockerd and its client."""

    name = "docker"

    async def forget(self) -> None:
        await self._run("image", "prune", "--all", "--force")

    def pids(self) -> Collection[int]:
        return self._engine.pids  # type: ignore[no-any-return]


class Podman(Command):
    """podman, which is one process a command."""

    name = "podman"
    options = ("--tls-verify=false",)

    async def forget(self) -> None:
        await self._run("image", "rm", "--all", "--force")

    def pids(self) -> Collection[int]:
        program = peers.program("podman")
        found = []
        for entry in os.listdir("/proc"):
            with suppress(OSError):
                if entry.isdecimal() and os.readlink(f"/proc/{entry}/exe") == program:
                    found.append(int(entry))
        return found


class SkopeoUmoci(Contestant):
    """skopeo into an OCI layout, then umoci into a tree: what has no engine."""

    name = "skopeo + umoci"
    counted = False

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True)

    async def _run(self, *argv: str) -> None:
        environment = peers.ENVIRONMENT | {"TMPDIR": str(self._directory)}
        await trio.run_process(argv, env=environment, capture_stdout=True, capture_stderr=True, stdin=b"")

    async def _take(self, source: str) -> None:
        layout = f"{self._directory}/layout"
        await self._run("skopeo", "copy", "-q", "--src-tls-verify=false", source, f"oci:{layout}:bench")
        await self._run("umoci", "unpack", "--image", f"{layout}:bench", f"{self._directory}/bundle")

    async def load(self, archive: Path) -> None:
        await self._take(
            f"docker-archive:{archive}" if archive.name.startswith("plain") else f"oci-archive:{archive}"
        )

    async def pull(self, reference: str) -> None:
        await self._take(f"docker://{reference}")

    async def save(self, reference: str, archive: Path) -> None:
        await self._run(
            "skopeo", "copy", "-q", f"oci:{self._directory}/layout:bench", f"docker-archive:{archive}:{reference}"
        )

    async def push(self, reference: str, name: str) -> None:
        layout = f"oci:{self._directory}/layout:bench"
        await self._run("skopeo", "copy", "-q", "--dest-tls-verify=false", layout, f"docker://{name}")

    async def forget(self) -> None:
        shutil.rmtree(self._directory)
        self._directory.mkdir()


class Library(Contestant):
    """Lading in this very process."""

    name = "lading, library"
    counted = False

    def __init__(self, engine: lading.Engine) -> None:
        self._images: Any = engine.images
        self._trash = engine.store.paths.trash

    async def load(self, archive: Path) -> None:
        await self._images.load(archive)

    async def pull(self, reference: str) -> None:
        await self._images.pull(reference)

    async def save(self, reference: str, archive: Path) -> None:
        async with self._images.save([reference]) as pieces:
            with archive.open("wb") as out:
                async for piece in pieces:
                    out.write(piece)

    async def push(self, reference: str, name: str) -> None:
        await self._images.tag(reference, name)
        await self._images.push(name)

    async def forget(self) -> None:
        await self._images.prune(all=True)
        await emptied(self._trash)


class Api(Docker):
    """``lading serve``, spoken to by the docker client."""

    name = "lading, API"

    async def forget(self) -> None:
        await super().forget()
        await emptied(self._engine.trash)


async def emptied(trash: Path) -> None:
    """Wait until what was removed is deleted: nobody else's turn is to suffer from that."""
    while os.listdir(trash):  # noqa: ASYNC110  # the engine has no event for it
        await trio.sleep(0.02)


class Served:
    """``lading serve`` as a process, with what ``Api`` needs of it. A context manager."""

    def __init__(self, directory: Path) -> None:
        self._socket = directory / "s"
        self._root = directory / "store"
        self._config = directory / "client"
        directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Served:
        place = ["--root", self._root, "--socket", self._socket]
        argv = [sys.executable, "-P", "-m", "lading.engine.cli.main", *place, "serve"]
        with (self._socket.parent / "log").open("wb") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while not self._socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise peers.Failed("lading serve does not answer")
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)

    @property
    def pids(self) -> list[int]:
        return [self._process.pid]

    @property
    def trash(self) -> Path:
        return self._root / "trash"

    @property
    def environment(self) -> dict[str, str]:
        config = {"DOCKER_HOST": f"unix://{self._socket}", "DOCKER_CONFIG": str(self._config)}
        return peers.ENVIRONMENT | config

    def command(self, *args: str | Path) -> list[str | os.PathLike[str]]:
        return [peers.program("docker") or "docker", *args]


NAMES = ("docker", "podman", "skopeo", "library", "api")
NEEDED = {
    "docker": ("docker", "dockerd", "containerd"),
    "podman": ("podman", "conmon"),
    "skopeo": ("skopeo", "umoci"),
}


@asynccontextmanager
async def contestants(directory: Path, only: Collection[str]) -> AsyncIterator[dict[str, Contestant]]:
    """Those of ``only`` that are here, with stores below ``directory``; ended and deleted at the end."""
    found: dict[str, Contestant] = {}
    async with AsyncExitStack() as stack:
        for name in only:
            if peers.missing(*NEEDED.get(name, ())):
                continue
            place = directory / name
            match name:
                case "docker":
                    found[name] = Docker(stack.enter_context(peers.Docker(place)))
                case "podman":
                    podman = peers.Podman(place)
                    stack.callback(podman.close)
                    found[name] = Podman(podman)
                case "skopeo":
                    found[name] = SkopeoUmoci(place)
                case "library":
                    found[name] = Library(await stack.enter_async_context(lading.open_engine(place)))
                case "api":
                    found[name] = Api(stack.enter_context(Served(place)))
        yield found
