"""The command line as its users run it: a process of its own, on a store of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from lading.storage.procfs import processes_naming

PROGRAM = [sys.executable, "-P", "-m", "lading.engine.cli.main"]


@attrs.frozen
class Cli:
    """``lading`` on one store. ``idle``: what an engine that it starts in the background waits before leaving."""

    root: Path
    idle: str = "20"

    def command(self, *words: str) -> list[str]:
        return [*PROGRAM, "--root", os.fspath(self.root), *words]

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LADING_")}
        return kept | {"LADING_IDLE": self.idle}

    def __call__(
        self, *words: str, stdin: str | None = None, code: int | None = 0, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end; ``code`` is the exit code that it must have."""
        done = subprocess.run(
            self.command(*words),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=self.environ | environ,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def start(
        self, *words: str, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Run it beside the test."""
        return subprocess.Popen(
            self.command(*words),
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environ,
        )

    def engines(self) -> list[int]:
        """The engines that run for this store."""
        return [pid for pid in processes_naming(os.fspath(self.root)) if b"\0serve\0" in _words(pid)]


def _words(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def wait_until(true: Callable[[], bool], what: str, seconds: float = 15) -> None:
    """Return when ``true()``; fail, with ``what`` was waited for, after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)


def end_engines(cli: Cli) -> None:
    """Ask the store's engines to leave, and wait until they have."""
    for pid in cli.engines():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not cli.engines(), "the engines' leaving")
