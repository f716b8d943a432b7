"""One exec from its creation to its outcome, and what can be said of that."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import attrs
import trio

from lading.engine.execs.streams import ExecStreams
from lading.engine.keeper.execlink import KeptExec
from lading.engine.oci.exitwords import classify_failure
from lading.events.execs import ExecId, ExecSpec
from lading.events.ids import ContainerId
from lading.events.signals import signal_number
from lading.events.spec import ProcessId
from lading.storage.procfs import boot_id, send_signal
from lading.storage.store import Paths

if TYPE_CHECKING:
    from lading.engine.core import Caller

__all__ = ["ExecView", "LiveExec", "noted_exit", "verdict"]

_NEVER_RAN = "its container ended before it was started"
_EXEC_ERRORS = ("exec format error", "no such file or directory", "permission denied", "is a directory")
_UNKNOWN = "its keeper was gone; its exit status is unknown"


@attrs.define(eq=False)
class LiveExec:
    """An exec that is not over, or was not when somebody asked for it.

    ``settled``: its creation is in the log, or was refused. ``ended``: its outcome is in the log, and
    ``exit_code`` and ``why`` have it (see ``ExecExited``). ``kept``: what the keeper tells, once it was started.
    ``caller`` and ``cause`` are those of the request that started it. ``reading``: somebody has its ``streams``.
    ``claimed``, ``taken_over``: see ``execs``.
    """

    id: ExecId
    container: ContainerId
    run: int
    spec: ExecSpec
    caller: Caller | None
    cause: int = 0
    settled: trio.Event = attrs.field(factory=trio.Event)
    ended: trio.Event = attrs.field(factory=trio.Event)
    requested: bool = False
    claimed: bool = False
    kept: KeptExec | None = None
    streams: ExecStreams = attrs.field(factory=ExecStreams)
    exit_code: int | None = None
    why: str = ""
    reading: bool = False
    taken_over: bool = False
    runc: bool = False

    @property
    def pid(self) -> int:
        """The host's pid of its process, 0 if it has none (yet, or any more)."""
        return self.kept.pid if self.kept is not None and not self.kept.ended.is_set() else 0

    async def wait(self) -> int | None:
        """Its exit code, once that is in the log; None: unknown, or it never ran. A cancel leaves it running."""
        await self.ended.wait()
        return self.exit_code

    async def kill(self, signal: str | int = "SIGKILL") -> bool:
        """Send ``signal`` to its process, as soon as it has one; False if it is gone."""
        if self.kept is None:
            return False
        await self.kept.begun.wait()
        if self.kept.ended.is_set():
            return False
        number = signal_number(signal) if isinstance(signal, str) else signal
        return send_signal(ProcessId(boot_id(), self.kept.pid, self.kept.ticks), number)


@attrs.frozen
class ExecView:
    """What is known of an exec. ``phase``: created, running or exited; ``exit_code``, ``why``: of the end."""

    id: ExecId
    container: ContainerId
    spec: ExecSpec
    phase: str
    pid: int = 0
    exit_code: int | None = None
    why: str = ""


def verdict(live: LiveExec) -> tuple[int | None, str]:
    """Exit code and reason, as far as they are known (see ``ExecExited``)."""
    kept = live.kept
    if kept is None:
        return None, _NEVER_RAN
    if kept.lost or not kept.ended.is_set():
        return None, _UNKNOWN
    why = kept.why or _said_by_runc(live)
    if not why:
        return kept.code, ""
    code, words = classify_failure(why)
    return (126 if code == 125 else code), words


def _said_by_runc(live: LiveExec) -> str:
    """The words of a runc that had let go when execve(2) failed: one line on standard error, and nothing else."""
    if not live.runc or live.kept is None or live.kept.code not in (1, 255):
        return ""
    said = live.streams.stderr.first or live.streams.stderr.peek()
    line = said.decode("utf-8", "replace").strip()
    if line.startswith("exec /") and "\n" not in line and line.endswith(_EXEC_ERRORS):
        return line
    return ""


def noted_exit(paths: Paths, exec_id: ExecId) -> KeptExec:
    """What a keeper that has left noted of the exec's end: see ``keeper.exec``."""
    kept = KeptExec(exec_id)
    note = paths.run / "exits" / exec_id
    try:
        record = json.loads(note.read_bytes())
        kept.code, kept.why = int(record["code"]), str(record["why"])
    except (OSError, ValueError, KeyError, TypeError):
        kept.lost = True
    note.unlink(missing_ok=True)
    kept.end()
    return kept
