"""The errors of the whole engine, one tree on one page, classed by what the caller should do next.

::

    LadingError
    |-- Refused          the request is well formed and the state says no: look, then ask differently
    |   |-- NotFound         no such container, image, layer, ...
    |   |-- Ambiguous        an id prefix that fits several
    |   |-- AlreadyExists    a name that something else holds
    |   |-- WrongPhase       the lifecycle does not allow it now
    |   |-- Conflict         somebody else changed the stream first: read again and decide again
    |   |-- CommandReused    the command id was given to another request before
    |   |-- NotInHistory     the position is not in the log: not yet, or compacted away
    |   `-- InUse            something depends on it
    |       `-- ImageInUse       a container, or another name, does
    |-- Invalid          the request itself is wrong: it will never succeed as it is
    |-- ImageInvalid     an image, layer or archive is wrong
    |   |-- DigestMismatch
    |   `-- BadLayer
    |-- RegistryError    a registry, or the way to it, did not do what was asked
    |   |-- Unauthorized         it wants other credentials, or none will do
    |   `-- RegistryUnavailable  it can't be reached, or has a fault: later may be better
    |-- HistoryInvalid   a seal, an export or a backup is not what was made
    |   |-- SealInvalid
    |   |-- ExportInvalid
    |   `-- BackupInvalid
    |-- CannotStart      the container's own command could not be executed (exit code 125, 126 or 127)
    |-- HostError        the machine refused an operation: see ``hint``
    |-- StoreBroken      the log could not be written; sticky until the store is opened again
    |-- StoreCorrupt     what is on disk is not what was written
    |-- StoreNewer       the store was written by a later release: the format, or an event, is unknown here
    `-- EngineClosed     the engine is closing or closed

Every message says what, which, where, and what to do next; the facts are attributes.
"""

from __future__ import annotations

import os

import attrs

__all__ = [
    "AlreadyExists",
    "Ambiguous",
    "BackupInvalid",
    "BadLayer",
    "CannotStart",
    "CommandReused",
    "Conflict",
    "DigestMismatch",
    "EngineClosed",
    "ExportInvalid",
    "HistoryInvalid",
    "HostError",
    "ImageInUse",
    "ImageInvalid",
    "InUse",
    "Invalid",
    "LadingError",
    "NotFound",
    "NotInHistory",
    "Refused",
    "RegistryError",
    "RegistryUnavailable",
    "SealInvalid",
    "StoreBroken",
    "StoreCorrupt",
    "StoreNewer",
    "Unauthorized",
    "WrongPhase",
]

_error = attrs.define(auto_exc=True, eq=False, str=False, slots=False)


class LadingError(Exception):
    """The root of the tree; catch it to catch everything this package raises on purpose."""


class Refused(LadingError):
    """The state says no. Nothing was changed."""


@_error
class NotFound(Refused):
    """``kind`` (container, image, ...) has nothing called ``name``."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"no such {self.kind}: {self.name}"


@_error
class Ambiguous(Refused):
    """``prefix`` fits more than one id; ``matches`` has some of them."""

    kind: str
    prefix: str
    matches: tuple[str, ...]

    def __str__(self) -> str:
        some = ", ".join(match[:12] for match in self.matches[:4])
        return f"{self.kind} id prefix {self.prefix!r} is ambiguous: it fits {some}; give more characters"


@_error
class AlreadyExists(Refused):
    """``name`` is taken by ``holder`` (an id)."""

    kind: str
    name: str
    holder: str

    def __str__(self) -> str:
        if self.kind == "host-port":
            return (
                f"the host port {self.name} is already in use by {self.holder[:12]}; stop that, or choose another"
            )
        return (
            f"the {self.kind} name {self.name!r} is already in use by {self.holder[:12]}; "
            f"remove or rename that {self.kind}, or choose another name"
        )


@_error
class WrongPhase(Refused):
    """Container ``container`` is in ``phase``, in which ``command`` is not allowed."""

    container: str
    phase: str
    command: str
    hint: str = ""

    def __str__(self) -> str:
        tail = f"; {self.hint}" if self.hint else ""
        return f"cannot {self.command} container {self.container[:12]}: it is {self.phase}{tail}"


@_error
class Conflict(Refused):
    """The stream is at version ``actual``; the append expected ``expected``. Nothing was appended."""

    stream: str
    expected: int
    actual: int

    def __str__(self) -> str:
        return (
            f"stream {self.stream} is at version {self.actual}, not {self.expected}: "
            "it changed meanwhile; read it again and decide again"
        )


@_error
class CommandReused(Refused):
    """``command`` is the id of another request, whose first event is at ``position``. Nothing was appended."""

    command: str
    position: int

    def __str__(self) -> str:
        return (
            f"command id {self.command} was used for another request, recorded at position {self.position}; "
            "only a retry of the same request may use it again"
        )


@_error
class NotInHistory(Refused):
    """``position`` is not in the log, which has ``first`` to ``last``."""

    position: int
    first: int
    last: int

    def __str__(self) -> str:
        if self.position > self.last:
            return f"position {self.position} is not in the log yet: it ends at {self.last}"
        return (
            f"position {self.position} is no longer in the log: it was compacted up to {self.first - 1}; "
            "give the archive that has it"
        )


@_error
class InUse(Refused):
    """``name`` is used by ``users`` and so can't be removed, opened or replaced."""

    kind: str
    name: str
    users: tuple[str, ...]
    hint: str = ""

    def __str__(self) -> str:
        tail = f"; {self.hint}" if self.hint else ""
        return f"{self.kind} {self.name} is in use by {', '.join(self.users)}{tail}"


@_error
class ImageInUse(InUse):
    """What was asked to go, image ``name``, is in use by ``users``: containers, or other names.

    ``forcible``: it can go all the same, if that is asked for. The words are Docker's, which its clients look for.
    """

    why: str = ""
    forcible: bool = True

    def __str__(self) -> str:
        return f"conflict: {self.why}"


@_error
class Invalid(LadingError):
    """``field`` has a value that can never be right; ``why`` says what would be."""

    field: str
    value: object
    why: str

    def __str__(self) -> str:
        shown = repr(self.value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        return f"invalid {self.field} {shown}: {self.why}"


class ImageInvalid(LadingError):
    """An image, layer or archive breaks its specification. Nothing of it is visible."""


@_error
class DigestMismatch(ImageInvalid):
    """The bytes of ``blob`` hash to ``actual``, not to ``expected``."""

    blob: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return f"digest mismatch in {self.blob}: expected {self.expected}, got {self.actual}"


@_error
class BadLayer(ImageInvalid):
    """The archive is corrupt or hostile at ``entry`` (bytes as in the archive, or empty) for ``why``."""

    why: str
    entry: bytes = b""

    def __str__(self) -> str:
        at = f" at entry {self.entry[:200]!r}" if self.entry else ""
        return f"bad layer archive{at}: {self.why}"


@_error
class RegistryError(LadingError):
    """``registry`` (host, with its port) did not do ``what``, for ``why``; ``hint`` says what to do next.

    ``status``: the HTTP status of its answer, 0 if there was none or it isn't what is wrong. No text in it is a
    secret, and what the registry said is bounded and printable.
    """

    registry: str
    what: str
    why: str
    status: int = 0
    hint: str = ""

    def __str__(self) -> str:
        tail = f"; {self.hint}" if self.hint else ""
        return f"cannot {self.what} at {self.registry}: {self.why}{tail}"


@_error
class Unauthorized(RegistryError):
    """The registry refuses this to these credentials, or to anybody without. Log in, or check the name."""


@_error
class RegistryUnavailable(RegistryError):
    """There was no answer, or one that the registry is at fault, also after trying again.

    ``fact``: ``refused`` (no connection), ``unresolved`` (no such host), ``tls`` (no trust), ``timeout``, ``cut``
    (the connection ended), ``garbled`` (no HTTP), or ``status``.
    """

    fact: str = "status"


class HistoryInvalid(LadingError):
    """A seal, an export or a backup is not what was made, or not of what it is held against."""


@_error
class SealInvalid(HistoryInvalid):
    """A seal and a log don't fit. ``fact`` is what is wrong: form, key, signature, store, position or chain.

    ``position``: of the first record that shows it; 0 where no record does.
    """

    fact: str
    why: str
    position: int = 0

    def __str__(self) -> str:
        at = f" at position {self.position}" if self.position else ""
        return f"the seal does not hold: {self.fact}{at}: {self.why}"


@_error
class ExportInvalid(HistoryInvalid):
    """Export ``file`` (empty: unnamed) is wrong at ``line`` (0: before any), for the record at ``position``."""

    line: int
    position: int
    why: str
    file: str = ""

    def __str__(self) -> str:
        what = f"the export {self.file}" if self.file else "the export"
        line = f" at line {self.line}" if self.line else ""
        position = f" (position {self.position})" if self.position else ""
        return f"{what} is wrong{line}{position}: {self.why}"


@_error
class BackupInvalid(HistoryInvalid):
    """The backup in directory ``path`` is not whole, or not what was copied."""

    path: str
    why: str

    def __str__(self) -> str:
        return f"the backup {self.path} can't be used: {self.why}"


@_error
class CannotStart(LadingError):
    """The command of ``container`` could not be executed.

    ``exit_code`` is Docker's: 127 when the executable is missing, 126 when it can't be executed, 125 for
    any other failure of the engine or runtime before the command ran.
    """

    container: str
    exit_code: int
    why: str

    def __str__(self) -> str:
        return f"container {self.container[:12]} could not start: {self.why}"


@_error
class HostError(LadingError):
    """The machine refused operation ``op`` on ``path`` with ``errno``; ``hint`` says what to do next."""

    op: str
    path: str
    errno: int
    hint: str = ""

    def __str__(self) -> str:
        reason = f": {os.strerror(self.errno)}" if self.errno else ""
        where = f" {self.path}" if self.path else ""
        tail = f"; {self.hint}" if self.hint else ""
        return f"cannot {self.op}{where}{reason}{tail}"


@_error
class StoreBroken(LadingError):
    """A commit failed, so this process can't trust its store any more. Open the store again."""

    why: str

    def __str__(self) -> str:
        return f"the store is broken until it is opened again: {self.why}"


@_error
class StoreCorrupt(LadingError):
    """The record or page at ``position`` (0 = not at a record) is not what was written."""

    position: int
    why: str

    def __str__(self) -> str:
        at = f" at position {self.position}" if self.position else ""
        return f"the store is corrupt{at}: {self.why}"


@_error
class StoreNewer(LadingError):
    """The store at ``path`` has ``what`` (a format, or a kind of event), which release ``release`` or later can
    read.
    """

    path: str
    what: str
    release: str

    def __str__(self) -> str:
        needed = f"lading {self.release} or later" if self.release else "a newer lading"
        where = f"the store {self.path}" if self.path else "the store"
        return f"{where} has {self.what}, which this release can't read: install {needed}"


class EngineClosed(LadingError):
    """The engine is closing or closed. Whatever was acknowledged before is on disk."""

    def __str__(self) -> str:
        return "the engine is closed; open it again"
