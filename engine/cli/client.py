"""The way from a command to the engine: where it is, that it runs, and asking it things.

When no engine answers, one is started in the background; it leaves again when it has been idle for a while.
Commands that find none at the same moment agree by a lock on who starts it, and the others wait with them.
Nobody waits longer than ``_PATIENCE``, and an engine that dies on the way has its last words quoted.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from lading.engine.cli.progress import is_progress

if TYPE_CHECKING:
    import subprocess

    from lading.engine.http.client import Client

__all__ = [
    "CLIENT",
    "DEFAULT_ROOT",
    "IN_USE",
    "Place",
    "answers",
    "at_option",
    "each",
    "find_place",
    "get_at",
    "get_json",
    "message_of",
    "open_client",
    "post",
    "run_with_engine",
    "say_error",
    "target",
]

DEFAULT_ROOT = "/var/lib/lading"
API = "/v1.47"
CLIENT = {"User-Agent": "lading-cli"}
"""What the log has as the client of whatever is asked for here."""

IN_USE = 75
"""What ``lading serve`` exits with when another process owns the store (EX_TEMPFAIL, sysexits.h)."""

F = TypeVar("F", bound=Callable[..., Any])

_PATIENCE = 10.0
_PING = 5.0
_PAUSE = 0.3
_IDLE = "30"
_LOG_LIMIT = 1 << 20
_ABSENT = frozenset({errno.ENOENT, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE})


class Place(NamedTuple):
    """Where an engine is: its store and its socket, both absolute."""

    root: str
    socket: str


def find_place(root: str | None = None, socket: str | None = None) -> Place:
    """The place that the options name, or else the environment, or else the default."""
    chosen = os.path.abspath(root or os.environ.get("LADING_ROOT") or DEFAULT_ROOT)
    named = socket or os.environ.get("LADING_SOCKET")
    return Place(chosen, os.path.abspath(named) if named else os.path.join(chosen, "lading.sock"))


at_option: Callable[[F], F] = click.option(
    "--at", metavar="WHEN", help="As it was then: a position, a time such as '2026-01-31 10:00', or '2h ago'."
)
"""The option of commands that show any moment of the history."""


# -- requests -------------------------------------------------------------------------------------------


def target(*path: str, **query: object) -> str:
    """The target of a request: each member of ``path`` is one segment. A query of None is left out.

    An argument that is no text goes as the bytes that it is, so that the engine can say so.
    """
    from urllib.parse import quote, urlencode

    words = {key: value for key, value in query.items() if value is not None}
    where = "/".join(quote(part, safe="", errors="surrogateescape") for part in path)
    return f"{API}/{where}" + (f"?{urlencode(words, errors='surrogateescape')}" if words else "")


async def get_json(client: Client, *path: str, **query: object) -> Any:
    """The JSON answer to a GET. Raises ``HttpError`` for an error status."""
    async with await client.request("GET", target(*path, **query), headers=CLIENT) as reply:
        await reply.check()
        return await reply.json()


async def get_at(client: Client, *path: str, at: str | None, **query: object) -> tuple[Any, float]:
    """The JSON answer to a GET about the moment ``at``, and that moment in seconds since 1970 (None: now).

    Says on standard error which moment it is. Raises ``HttpError`` for an error status.
    """
    import time

    async with await client.request("GET", target(*path, at=at, **query), headers=CLIENT) as reply:
        await reply.check()
        headers = dict(reply.headers)
        found = await reply.json()
    position = headers.get("lading-position")
    if position is None:
        return found, time.time()
    now = int(headers["lading-time"]) / 1e9
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)) if now else "before the first record"
    print(f"as of position {position}, {shown}", file=sys.stderr)
    return found, now


async def post(client: Client, *path: str, method: str = "POST", **query: object) -> int:
    """Ask without a body and drop the answer's; its status. Raises ``HttpError`` for an error status."""
    async with await client.request(method, target(*path, **query), headers=CLIENT) as reply:
        await reply.check()
        return reply.status


async def each(
    client: Client,
    names: Sequence[str],
    action: Callable[[Client, str], Awaitable[str]],
    *,
    together: bool = False,
) -> int:
    """Do ``action`` for each name and print what it returns, in order; 1 if any of them failed, else 0.

    A failure is told on standard error and doesn't keep the rest from being done. ``together``: all at once.
    """
    import trio

    from lading.engine.http.message import HttpError
    from lading.engine.nursery import open_bare_nursery
    from lading.events.errors import Refused

    outcomes: list[str | HttpError | Refused] = [""] * len(names)
    done = [trio.Event() for _ in names]

    async def act(number: int) -> None:
        try:
            outcomes[number] = await action(client, names[number])
        except (HttpError, Refused) as error:
            outcomes[number] = error
        done[number].set()

    failed = 0
    async with open_bare_nursery() as nursery:
        if together:
            for number in range(len(names)):
                nursery.start_soon(act, number)
        for number in range(len(names)):
            if not together:
                await act(number)
            await done[number].wait()
            outcome = outcomes[number]
            if isinstance(outcome, str):
                print(outcome, flush=True)
            else:
                say_error(message_of(outcome))
                failed = 1
    return failed


def message_of(error: BaseException) -> str:
    """What an error says to a person, in one line."""
    text = getattr(error, "message", None)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    return " ".join((text if isinstance(text, str) else str(error)).split()) or type(error).__name__


def say_error(message: str) -> None:
    """Tell of an error, in one line on standard error."""
    from lading.engine.cli.tables import one_line

    print(f"lading: {one_line(message)}", file=sys.stderr, flush=True)


# -- being connected ------------------------------------------------------------------------------------


def run_with_engine(place: Place, work: Callable[[Client], Awaitable[int]]) -> int:
    """``work`` with a client of the engine at ``place``, which is started if need be; what ``work`` returns."""
    import trio

    async def connected() -> int:
        async with open_client(place) as client:
            return await work(client)

    return trio.run(connected)


@asynccontextmanager
async def open_client(place: Place) -> AsyncIterator[Client]:
    """A client of the engine at ``place``. Raises ``HostError`` if there is none and none can be started."""
    from lading.engine.http.client import connect

    if not await answers(place.socket):
        await _start(place)
    async with connect(place.socket) as client:
        yield client


async def answers(socket: str) -> bool:
    """Whether an engine answers at ``socket``. Raises ``HostError`` if something is there that is none."""
    import trio

    from lading.engine.http.client import connect
    from lading.events.errors import HostError

    try:
        with trio.fail_after(_PING):
            async with connect(socket) as client, await client.request("GET", "/_ping", headers=CLIENT) as reply:
                if reply.status != 200:
                    hint = "what answers there is not an engine: choose another --socket"
                    raise HostError("talk to the engine at", socket, errno.EPROTO, hint)
                return True
    except trio.TooSlowError:
        hint = f"it takes connections and doesn't answer for {_PING:.0f} s: see whether its process is stopped"
        raise HostError("talk to the engine at", socket, errno.ETIMEDOUT, hint) from None
    except HostError as error:
        # An engine that is just leaving hangs up: it is absent too.
        if error.errno in _ABSENT:
            return False
        raise


async def _start(place: Place) -> None:
    """Start an engine in the background, unless somebody else does, and return when it answers."""
    import trio

    from lading.events.errors import HostError

    if os.geteuid() != 0:
        raise HostError("find an engine at", place.socket, errno.ENOENT, "start one as root: sudo lading serve")
    try:
        os.makedirs(place.root, mode=0o700, exist_ok=True)
        lock = os.open(os.path.join(place.root, "serve.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError("use the root", place.root, error.errno or 0, "choose another --root") from error
    child: _Child | None = None
    ours = False
    why_in_use = ""
    why = f"somebody else starts it: see {place.root}/serve.log"
    deadline = trio.current_time() + _PATIENCE
    try:
        while not await answers(place.socket):
            if child is not None and child.makes_progress():
                deadline = trio.current_time() + _PATIENCE
            if trio.current_time() > deadline:
                raise HostError("reach an engine at", place.socket, errno.ETIMEDOUT, why)
            if not ours:
                ours = _try_lock(lock)
                if ours:
                    continue  # it may have come up just before the lock was ours
            elif child is None:
                child = _Child(place)
            elif (code := child.process.poll()) is None:
                why = why_in_use or f"it is not up yet: see {child.log}"
            elif code != IN_USE:
                raise HostError(f"start an engine: {child.last_words()}", "", 0, f"see {child.log}")
            else:
                # Somebody has the store and not (yet, or any more) the socket: look again, and try again.
                why = why_in_use = child.last_words()
                child = None
                await trio.sleep(_PAUSE)
            await trio.sleep(0.02)
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Child:
    """An engine in the background: in a session of its own, with its words in the store's ``serve.log``."""

    def __init__(self, place: Place) -> None:
        import subprocess

        self.log = os.path.join(place.root, "serve.log")
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self.log, flags, 0o600), "ab", closefd=True) as log:
            if os.fstat(log.fileno()).st_size > _LOG_LIMIT:
                log.truncate(0)
            self._begin = self._seen = os.fstat(log.fileno()).st_size
            # -P: a directory called lading where the engine works must not be taken for this package.
            command = [sys.executable, "-P", "-m", "lading.engine.cli.main"]
            command += ["--root", place.root, "--socket", place.socket]
            command += ["serve", "--idle", os.environ.get("LADING_IDLE") or _IDLE]
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
            )

    def makes_progress(self) -> bool:
        """Whether it has got further, since this was last asked, with what it does before it can answer."""
        said = self.last_words() if os.path.getsize(self.log) != self._seen else ""
        self._seen = os.path.getsize(self.log)
        if not is_progress(said):
            return False
        if sys.stderr.isatty():
            print(f"\r{said}", end="" if not said.endswith("100 %") else "\n", file=sys.stderr, flush=True)
        return True

    def last_words(self) -> str:
        """The last line that it wrote, in which it says why it did not come up."""
        with open(self.log, "rb") as log:
            log.seek(self._begin)
            said = log.read(1 << 16).decode("utf-8", "replace").strip().splitlines()
        return said[-1].removeprefix("lading: ") if said else f"it ended with {self.process.poll()}"
