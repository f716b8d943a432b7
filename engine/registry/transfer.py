"""One blob, streamed: taken up again where a cut ended it, never longer than it may be, its digest checked."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import trio

from lading.engine.registry.session import Session
from lading.events.errors import (
    DigestMismatch,
    ImageInvalid,
    LadingError,
    NotFound,
    RegistryError,
    RegistryUnavailable,
)
from lading.events.manifest import Descriptor

if TYPE_CHECKING:
    from lading.engine.registry.connections import Answer

__all__ = ["Blob", "Hasher"]

_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/(?:([0-9]{1,19})|\*)", re.ASCII)
_PROGRESS = 64 << 10
"""Bytes that count as progress, after which failures are counted anew. Fewer could be given out for ever."""

_SLOWEST = 512
"""Bytes a second, over the time of a stall, below which a connection is taken for a stalled one."""


class Hasher(Protocol):
    """What `hashlib` makes."""

    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class Blob:
    """The bytes of ``descriptor`` from ``offset`` on: an async iterator of parts, to be used in ``async with``.

    ``sessions``: gives the places where it can be had, in the order to ask. A connection that is cut, or stalls
    for the settings' time, is replaced by another, which goes on where the first one ended; after several without
    progress, the next place's turn comes, and in the end its error is raised: ``NotFound``, ``Unauthorized``,
    ``RegistryUnavailable``. More or fewer bytes than the descriptor has: ``ImageInvalid``. The digest of the whole
    is compared after the last part: ``DigestMismatch``. So nothing that was given out is to be believed until the
    iteration has ended.

    ``hasher``: a SHA-256 that has seen the first ``offset`` bytes; with an offset and without it, or without
    ``verify``, nothing is compared: whoever reads must. A cancel closes the connection. ``position``: bytes of the
    blob that were given out, with ``offset``.
    """

    def __init__(
        self,
        sessions: Callable[[], Awaitable[Sequence[Session]]],
        descriptor: Descriptor,
        offset: int = 0,
        hasher: Hasher | None = None,
        verify: bool = True,
    ) -> None:
        if not 0 <= offset <= descriptor.size:
            raise ValueError(f"offset {offset} is not in a blob of {descriptor.size} bytes")
        self.descriptor = descriptor
        self.position: int = offset
        self._find_sessions = sessions
        self._sessions: list[Session] = []
        self._hasher = hasher if hasher is not None or offset or not verify else hashlib.sha256()
        self._answer: Answer | None = None
        self._waited, self._came = 0.0, 0
        self._skip = 0
        self._failures = 0
        self._progress_from = offset
        self._ranges = True
        self._done = False

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give up the connection. May be done twice."""
        answer, self._answer = self._answer, None
        if answer is not None:
            await answer.aclose()

    async def __anext__(self) -> bytes:
        if not self._sessions:
            self._sessions = list(await self._find_sessions())
        while not self._done:
            opened = False
            try:
                if self._answer is None and self.position < self.descriptor.size:
                    self._answer = await self._open()
                opened = True
                part = await self._next()
            except BaseException as error:
                await self.aclose()
                if not isinstance(error, LadingError):
                    raise
                await self._failed(error, opened)
                continue
            if part:
                return part
            await self._finish()
        raise StopAsyncIteration

    # -- inside --------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"blob {self.descriptor.digest}"

    @property
    def _what(self) -> str:
        return f"fetch {self._name} of {self._sessions[0].name}"

    async def _open(self) -> Answer:
        """An answer whose next new byte is the one at ``position``, after ``_skip`` known ones."""
        session = self._sessions[0]
        start, size = self.position, self.descriptor.size
        ranged = start > 0 and self._ranges
        answer = await session.send(
            "GET",
            f"blobs/{self.descriptor.digest}",
            what=self._what,
            expect=(200, 206, 416) if ranged else (200,),
            missing=("blob", self.descriptor.digest),
            headers={"Range": f"bytes={start}-"} if ranged else {},
            persist=start > 0,
        )
        try:
            length, expected = answer.length, size
            if answer.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
                raise RegistryError(session.host, self._what, "the blob came compressed, which was not asked for")
            self._skip = start
            if answer.status == 206:
                self._skip, expected = 0, size - start
                self._check_range(answer, session)
            elif answer.status == 416:
                self._ranges = False
                raise RegistryUnavailable(
                    session.host, self._what, "it can't go on where it was cut", 416, "", "range"
                )
            if length is not None and length != expected:
                raise ImageInvalid(
                    f"{self._name} has {size} bytes by its manifest, but {session.host} has "
                    f"{length + start - self._skip} for it"
                )
        except BaseException:
            await answer.aclose()
            raise
        return answer

    def _check_range(self, answer: Answer, session: Session) -> None:
        start, size = self.position, self.descriptor.size
        said = answer.headers.get("content-range", "")
        found = _RANGE.fullmatch(said)
        if (
            found is None
            or int(found[1]) != start
            or int(found[2]) != size - 1
            or (found[3] is not None and int(found[3]) != size)
        ):
            self._ranges = False  # from the beginning, then, passing over what is known
            why = f"it was asked for bytes {start}-{size - 1} and sends {said[:60]!r}"
            raise RegistryUnavailable(session.host, self._what, why, 206, "", "range")

    async def _next(self) -> bytes:
        """Bytes that are new; empty at the end, which is at the right place. The connection may be used again."""
        answer, size = self._answer, self.descriptor.size
        if answer is None:
            return b""
        while part := await self._part(answer):
            if self._skip:
                known = min(self._skip, len(part))
                self._skip -= known
                part = part[known:]
                if not part:
                    continue
            if self.position + len(part) > size:
                raise ImageInvalid(f"{self._name} is longer than the {size} bytes that its manifest says")
            self.position += len(part)
            if self._hasher is not None:
                self._hasher.update(part)
            if self.position - self._progress_from >= _PROGRESS:
                self._failures = 0
                self._progress_from = self.position
            return part
        if self.position < size:
            # an end that looks like one: chunked, or a connection that was closed instead
            why = f"the blob ended after {self.position} of {size} bytes"
            raise RegistryUnavailable(self._sessions[0].host, self._what, why, 0, "", "cut")
        return b""

    async def _part(self, answer: Answer) -> bytes:
        """The next part; the time that is waited for it counts, not what is done with it between."""
        began = trio.current_time()
        part = await answer.part()
        stall = self._sessions[0].settings.stall_timeout
        self._waited += trio.current_time() - began
        self._came += len(part)
        if self._waited >= stall:
            if part and self._came < _SLOWEST * stall:
                why = f"only {self._came} bytes came in {self._waited:.0f} s"
                raise RegistryUnavailable(self._sessions[0].host, self._what, why, 0, "", "timeout")
            self._waited, self._came = 0.0, 0
        return part

    async def _failed(self, error: LadingError, opened: bool) -> None:
        """Wait and try again, or turn to the next place, or raise ``error``.

        What kept a transfer from being ``opened`` was tried again before, except for a range that is not the one.
        """
        session = self._sessions[0]
        if isinstance(error, RegistryUnavailable) and (opened or error.fact == "range"):
            self._failures += 1
            if self._failures < session.backoff.attempts:
                if error.fact != "range":
                    await trio.sleep(session.backoff.delay(self._failures))
                return
        if len(self._sessions) == 1 or not isinstance(error, RegistryError | NotFound | ImageInvalid):
            raise error
        del self._sessions[0]
        self._failures, self._ranges = 0, True

    async def _finish(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            await answer.aclose()  # read to its end: the connection stays
        self._done = True
        if self._hasher is not None:
            actual = f"sha256:{self._hasher.hexdigest()}"
            if actual != self.descriptor.digest:
                where = f"{self._name} of {self._sessions[0].name} from {self._sessions[0].host}"
                raise DigestMismatch(where, self.descriptor.digest, actual)
