"""Verifying a log in a process of its own: it may take minutes, and damaged pages can end a process that reads
them.

LMDB trusts its page headers: where one was altered, reading may end with SIGSEGV, SIGBUS or SIGABRT. The child
notes each position in memory that it shares with the parent, so that even then the damage is told by its
position. An engine goes on meanwhile: the child reads beside it.

Run as ``python -m lading.engine.history.verifier ROOT``, it prints one JSON object a line: ``{"at": n, "of": m}``
on the way, and at the end what was found.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

from lading.events.errors import HostError, LadingError, StoreCorrupt, StoreNewer
from lading.storage.store import read_log
from lading.storage.verify import Verified, verify_log

__all__ = ["verify_aside"]

_PLACE = struct.Struct("<Q")


async def verify_aside(root: Path, progress: Callable[[int, int], None] | None = None) -> Verified:
    """What ``Log.verify`` says of the store at ``root``, found by a child process; it is killed on a cancel.

    Raises ``StoreCorrupt`` also for what ended the child: at the position after the last that it could read.
    """
    place = os.memfd_create("lading-verify", os.MFD_CLOEXEC)
    try:
        os.ftruncate(place, mmap.PAGESIZE)
        command = [sys.executable, "-P", "-m", "lading.engine.history.verifier", os.fspath(root), str(place)]
        result = await _run(command, place, progress)
    finally:
        os.close(place)
    match result:
        case {"ok": dict(found)}:
            return Verified(**{**found, "chain": bytes.fromhex(found["chain"])})
        case {"corrupt": int(position), "why": str(why)}:
            raise StoreCorrupt(position, why)
        case {"newer": [str(path), str(what), str(release)]}:
            raise StoreNewer(path, what, release)
    raise HostError("verify the store at", os.fspath(root), 0, str(result.get("error", "its child said nothing")))


async def _run(command: list[str], place: int, progress: Callable[[int, int], None] | None) -> dict[str, object]:
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(_child, command, place)
        assert process.stdout is not None
        said = b""
        result: dict[str, object] = {}
        while data := await process.stdout.receive_some(1 << 16):
            *lines, said = (said + data).split(b"\n")
            for line in lines:
                told = json.loads(line)
                if "at" in told:
                    if progress is not None:
                        progress(told["at"], told["of"])
                else:
                    result = told
        status = await process.wait()
    if status < 0:
        [reached] = _PLACE.unpack(os.pread(place, _PLACE.size, 0))
        name = signal.Signals(-status).name
        raise StoreCorrupt(
            reached + 1, f"reading on from there ended the process ({name}); restore it from a backup"
        )
    return result


async def _child(
    command: list[str], place: int, task_status: trio.TaskStatus[trio.Process] = trio.TASK_STATUS_IGNORED
) -> None:
    await trio.run_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        pass_fds=(place,),
        check=False,
        deliver_cancel=_kill,
        task_status=task_status,
    )


async def _kill(process: trio.Process) -> None:
    process.kill()


def _main(root: str, place: int) -> dict[str, object]:
    with mmap.mmap(place, mmap.PAGESIZE) as shared:

        def watch(position: int) -> None:
            _PLACE.pack_into(shared, 0, position)

        def tell(at: int, of: int) -> None:
            print(json.dumps({"at": at, "of": of}), flush=True)

        log = read_log(Path(root))
        try:
            verified = verify_log(log.db, tell, watch)
        finally:
            log.close()
    return {"ok": {**attrs.asdict(verified), "chain": verified.chain.hex()}}


def _answer(root: str, place: int) -> dict[str, object]:
    try:
        return _main(root, place)
    except StoreCorrupt as error:
        return {"corrupt": error.position, "why": error.why}
    except StoreNewer as error:
        return {"newer": [error.path, error.what, error.release]}
    except LadingError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    print(json.dumps(_answer(sys.argv[1], int(sys.argv[2]))), flush=True)
