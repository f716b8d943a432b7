"""Docker's default seccomp profile, resolved for one capability set, architecture and kernel.

The facts are in ``seccomp_default.json``, taken from moby's ``profiles/seccomp/default.json``
(Apache-2.0, https://github.com/moby/profiles). That file is not what a runtime reads: its rules hold or not
depending on the container's bounding set, on the architecture and on the kernel's version. What a runtime
reads is ``linux.seccomp`` of the OCI runtime spec (config-linux.md#seccomp), and that is the result here.

The data file, so that it can be read and compared by eye:

- ``architectures``: ``uname -m`` -> the native architecture first, then those that the CPU also runs.
- ``rules``: each has ``action``, ``names`` (lists of words), and may have ``errno``, ``args`` as
  ``[index, operator, value]``, ``when`` (all must hold) and ``unless`` (none may hold). A condition is
  ``caps`` (``when``: all of them; ``unless``: any of them), ``arches`` (any of them, in Docker's names) or
  ``kernel`` (at least this version).
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Final, NotRequired, TypedDict, cast

__all__ = ["resolve"]

_DATA: Final = Path(__file__).with_name("seccomp_default.json")

_Argument = tuple[int, str, int]


class _Condition(TypedDict):
    caps: NotRequired[list[str]]
    arches: NotRequired[list[str]]
    kernel: NotRequired[list[int]]


class _Rule(TypedDict):
    action: str
    names: list[str]
    errno: NotRequired[int]
    args: NotRequired[list[list[int | str]]]
    when: NotRequired[_Condition]
    unless: NotRequired[_Condition]


class _Default(TypedDict):
    action: str
    errno: int


class _Profile(TypedDict):
    default: _Default
    architectures: dict[str, list[str]]
    rules: list[_Rule]


@functools.cache
def _profile() -> _Profile:
    return cast(_Profile, json.loads(_DATA.read_bytes()))


def _docker_architecture(machine: str) -> str:
    """The name that the profile's conditions use for ``machine`` (``uname -m``)."""
    if machine.startswith("arm"):
        return "arm"
    return {"x86_64": "amd64", "aarch64": "arm64", "i386": "x86", "i686": "x86"}.get(machine, machine)


def _applies(rule: _Rule, capabilities: frozenset[str], architecture: str, kernel: tuple[int, int]) -> bool:
    """Whether everything in ``when`` and nothing in ``unless`` holds."""
    when, unless = rule.get("when", {}), rule.get("unless", {})
    needed, barred = when.get("caps", ()), unless.get("caps", ())
    arches, least, since = when.get("arches"), when.get("kernel"), unless.get("kernel")
    return (
        capabilities.issuperset(needed)
        and capabilities.isdisjoint(barred)
        and (arches is None or architecture in arches)
        and architecture not in unless.get("arches", ())
        and (least is None or kernel >= tuple(least))
        and (since is None or kernel < tuple(since))
    )


@functools.lru_cache(maxsize=64)
def resolve(capabilities: frozenset[str], machine: str, kernel: tuple[int, int]) -> dict[str, object]:
    """The ``linux.seccomp`` object for a container whose bounding set is ``capabilities``.

    ``capabilities`` are full names (``CAP_CHOWN``), ``machine`` is ``uname -m``, ``kernel`` is
    ``(major, minor)``. Whatever no rule allows fails with EPERM; clone3 fails with ENOSYS, so that a C
    library falls back to clone, whose flags a filter can see. On an architecture that the profile doesn't
    know, the filter is for the native one only and is no wider.

    Rules with the same action, errno and arguments become one entry, its names sorted, so that equal input
    gives equal bytes (crun caches compiled filters by their content). The result is shared between callers:
    don't change it.
    """
    profile = _profile()
    architecture = _docker_architecture(machine)
    merged: dict[tuple[str, int | None, tuple[_Argument, ...]], set[str]] = {}
    for rule in profile["rules"]:
        if not _applies(rule, capabilities, architecture, kernel):
            continue
        arguments = tuple(cast(_Argument, tuple(argument)) for argument in rule.get("args", ()))
        names = merged.setdefault((rule["action"], rule.get("errno"), arguments), set())
        for words in rule["names"]:
            names.update(words.split())
    entries: list[dict[str, object]] = []
    for (action, errno, arguments), names in merged.items():
        entry: dict[str, object] = {"names": sorted(names), "action": action}
        if errno is not None:
            entry["errnoRet"] = errno
        if arguments:
            entry["args"] = [{"index": index, "value": value, "op": op} for index, op, value in arguments]
        entries.append(entry)
    resolved: dict[str, object] = {
        "defaultAction": profile["default"]["action"],
        "defaultErrnoRet": profile["default"]["errno"],
        "syscalls": entries,
    }
    if architectures := profile["architectures"].get(machine):
        resolved["architectures"] = list(architectures)
    return resolved
