"""The processes of a container, as the host's ``ps`` shows them (moby's ``daemon/top_unix.go``).

What runs is the host's binary, in the host's namespaces, and never one of the image's. The container has no say
but in its processes' names. Which processes are the container's says its cgroup.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import partial
from typing import Final

import attrs
import trio

from lading.engine.oci.runtime import cgroup_of
from lading.events.errors import HostError, Invalid
from lading.storage.cgroups import processes_in
from lading.storage.store import Paths

__all__ = ["DEFAULT_ARGS", "Top", "check_ps_args", "parse_ps", "top"]

DEFAULT_ARGS: Final = "-ef"

_PATH: Final = "/usr/bin:/bin:/usr/local/bin:/usr/sbin:/sbin"
_PATIENCE: Final = 10.0
_MOST_ARGS: Final = 1024
_MOST_OUTPUT: Final = 16 << 20
_RENAMED: Final = re.compile(r"\s+(\S*)=\s*(PID\S*)", re.ASCII)
_BLANK: Final = re.compile(r"[\t\n\f\r ]+")


@attrs.frozen
class Top:
    """``titles`` of the columns, and one row for each process (or thread), the last column with what is left."""

    titles: tuple[str, ...]
    processes: tuple[tuple[str, ...], ...]


async def top(paths: Paths, container: str, ps_args: str = DEFAULT_ARGS) -> Top:
    """The processes of ``container``, which runs; their numbers are the host's. A cancel ends ``ps``.

    Raises ``Invalid`` for arguments that would hide or forge the column of process ids, or that leave it out, and
    ``HostError`` if ``ps`` is missing or fails.
    """
    words = check_ps_args(ps_args)
    program = shutil.which("ps", path=_PATH)
    if program is None:
        raise HostError("find the program", "ps", 0, "apt-get install procps")
    found = await trio.to_thread.run_sync(processes_in, f"{cgroup_of(paths)}/{container}")
    if not found:
        return Top(parse_ps(await _run([program, *words]), set()).titles, ())
    listed = f"-q{','.join(map(str, sorted(found)))}"
    try:
        output = await _run([program, *words, listed])
    except HostError:  # some options, such as f, can't be used together with a list
        output = await _run([program, *words])
    return parse_ps(output, found)


def check_ps_args(ps_args: str) -> list[str]:
    """The words of ``ps_args``, split at spaces. Raises ``Invalid`` for what may not be handed on."""
    if len(ps_args) > _MOST_ARGS or not ps_args.isprintable():
        raise Invalid("ps arguments", ps_args, f"printable, and at most {_MOST_ARGS} characters")
    for name, title in _RENAMED.findall(f" {ps_args}"):
        if name != "pid":
            raise Invalid("ps arguments", ps_args, f"specifying {name}={title} is not allowed")
    return (ps_args or DEFAULT_ARGS).split(" ")


def parse_ps(output: str, found: set[int]) -> Top:
    """The rows of ``output`` whose process is in ``found``. A row for a thread follows its process.

    Raises ``Invalid`` if there is no column PID, and ``HostError`` for what no ``ps`` would print in it.
    """
    first, *lines = output.split("\n")
    titles = _fields(first)
    if "PID" not in titles:
        raise Invalid("ps arguments", first[:120], "couldn't find the PID field in the output of ps")
    column = titles.index("PID")
    rows = []
    ours = False
    for line in lines:
        fields = _fields(line)
        if len(fields) <= column:
            continue
        if fields[column] != "-":  # a thread's
            if not fields[column].isdecimal():
                raise HostError("read what ps printed:", f"unexpected pid {fields[column][:40]!r}", 0)
            ours = int(fields[column]) in found
        if ours:
            last = len(titles) - 1
            rows.append((*fields[:last], " ".join(fields[last:])))
    return Top(tuple(titles), tuple(rows))


def _fields(line: str) -> list[str]:
    """At ASCII blanks only: any others may be part of a command's name."""
    return [word for word in _BLANK.split(line) if word]


async def _run(argv: list[str]) -> str:
    """What ``argv`` prints, at most some mebibytes of it. Raises ``HostError`` with its words if it fails."""
    environ = {"PATH": _PATH, "LC_ALL": "C.UTF-8"}
    output = bytearray()
    with trio.move_on_after(_PATIENCE) as patience:
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                partial(
                    trio.run_process,
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    check=False,
                    env=environ,
                )
            )
            errors = bytearray()
            nursery.start_soon(_drain, process.stderr, errors, 4096)
            await _drain(process.stdout, output, _MOST_OUTPUT)
            if len(output) > _MOST_OUTPUT:
                nursery.cancel_scope.cancel()
    if patience.cancelled_caught:
        raise HostError("run", argv[0], 0, f"it took more than {_PATIENCE:.0f} seconds")
    if len(output) > _MOST_OUTPUT:
        raise HostError("run", argv[0], 0, f"it printed more than {_MOST_OUTPUT} bytes; ask for fewer columns")
    if process.returncode != 0:
        raise HostError("run", argv[0], 0, errors.decode("utf-8", "replace").partition("\n")[0][:200])
    return output.decode("utf-8", "replace")


async def _drain(stream: trio.abc.ReceiveStream, into: bytearray, most: int) -> None:
    """All of ``stream`` into ``into``, until it has more than ``most``."""
    while len(into) <= most and (data := await stream.receive_some(1 << 16)):
        into += data
