"""A seccomp profile that somebody wrote, in Docker's format, read strictly.

The format is moby's (``profiles/seccomp/seccomp.go``): the OCI runtime spec's ``linux.seccomp`` with conditions.
A rule holds or not depending on the bounding set, the architecture and the kernel; ``Profile.resolve`` decides and
gives what a runtime reads (config-linux.md#seccomp). What is not understood is refused: a word that was passed
over might have been what confines. That is why a profile without a default action is no profile, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from lading.events.errors import Invalid
from lading.events.strictjson import parse_object

__all__ = ["SIZE_LIMIT", "Profile", "parse_profile"]

SIZE_LIMIT: Final = 1 << 20
"""Characters of a profile."""

_FIELD: Final = "seccomp profile"
_ACTION_WORDS: Final = "KILL KILL_PROCESS KILL_THREAD TRAP ERRNO TRACE ALLOW LOG"
_OPERATOR_WORDS: Final = "NE LT LE EQ GE GT MASKED_EQ"
_ACTIONS: Final = frozenset(f"SCMP_ACT_{word}" for word in _ACTION_WORDS.split())
_OPERATORS: Final = frozenset(f"SCMP_CMP_{word}" for word in _OPERATOR_WORDS.split())
_FLAGS: Final = frozenset(f"SECCOMP_FILTER_FLAG_{word}" for word in ("TSYNC", "LOG", "SPEC_ALLOW"))
_NAME: Final = re.compile(r"[a-z0-9_]{1,64}", re.ASCII)
_ARCH: Final = re.compile(r"SCMP_ARCH_[A-Z0-9_]{1,32}", re.ASCII)
_KERNEL: Final = re.compile(r"(\d{1,3})\.(\d{1,3})", re.ASCII)
_NATIVE: Final = {
    "x86_64": "X86_64",
    "i386": "X86",
    "i686": "X86",
    "aarch64": "AARCH64",
    "loongarch64": "LOONGARCH64",
    "mips64": "MIPS64",
    "ppc64le": "PPC64LE",
    "riscv64": "RISCV64",
    "s390x": "S390X",
}
"""``uname -m`` -> libseccomp's word, after ``SCMP_ARCH_``."""

_TOP: Final = frozenset(
    ("defaultAction", "defaultErrnoRet", "architectures", "archMap", "flags", "syscalls", "comment")
)
_CALL: Final = frozenset(("name", "names", "action", "errnoRet", "args", "comment", "includes", "excludes"))
_ARGUMENT: Final = frozenset(("index", "value", "valueTwo", "op"))
_CONDITION: Final = frozenset(("caps", "arches", "minKernel"))


@attrs.frozen
class _Condition:
    caps: frozenset[str]
    arches: frozenset[str]
    kernel: tuple[int, int] | None


@attrs.frozen
class _Call:
    entry: Mapping[str, object]
    includes: _Condition
    excludes: _Condition

    def applies(self, capabilities: frozenset[str], architecture: str, kernel: tuple[int, int]) -> bool:
        yes, no = self.includes, self.excludes
        return (
            capabilities >= yes.caps
            and capabilities.isdisjoint(no.caps)
            and (not yes.arches or architecture in yes.arches)
            and architecture not in no.arches
            and (yes.kernel is None or kernel >= yes.kernel)
            and (no.kernel is None or kernel < no.kernel)
        )


@attrs.frozen
class Profile:
    """A profile that is well formed. ``resolve`` makes of it what a runtime reads."""

    _base: Mapping[str, object]
    _architectures: tuple[str, ...]
    _map: Mapping[str, tuple[str, ...]]
    _calls: tuple[_Call, ...]

    def resolve(self, capabilities: frozenset[str], machine: str, kernel: tuple[int, int]) -> dict[str, object]:
        """``linux.seccomp`` for a container whose bounding set is ``capabilities`` (full names).

        ``machine`` is ``uname -m``, ``kernel`` is (major, minor).
        """
        native = f"SCMP_ARCH_{'ARM' if machine.startswith('arm') else _NATIVE.get(machine, machine.upper())}"
        docker = {"x86_64": "amd64", "aarch64": "arm64", "i386": "x86", "i686": "x86"}.get(machine, machine)
        docker = "arm" if machine.startswith("arm") else docker
        resolved: dict[str, object] = dict(self._base)
        architectures = (native, *self._map[native]) if native in self._map else self._architectures
        if architectures:
            resolved["architectures"] = list(architectures)
        resolved["syscalls"] = [call.entry for call in self._calls if call.applies(capabilities, docker, kernel)]
        return resolved


def parse_profile(text: str) -> Profile:
    """The profile that ``text`` (JSON) is. Raises ``Invalid`` for anything that isn't wholly understood."""
    if len(text) > SIZE_LIMIT:
        raise Invalid(_FIELD, f"{len(text)} characters", f"at most {SIZE_LIMIT}")
    try:
        profile = parse_object(text.encode())
    except UnicodeEncodeError:
        raise Invalid(_FIELD, text[:80], "it is not Unicode text") from None
    except ValueError as error:
        raise Invalid(_FIELD, text[:80], f"decoding it failed: {error}") from None
    _only(profile, _TOP, "it")
    base: dict[str, object] = {"defaultAction": _word(profile, "defaultAction", _ACTIONS)}
    if profile.get("defaultErrnoRet") is not None:
        base["defaultErrnoRet"] = _number(profile["defaultErrnoRet"], 4095, "defaultErrnoRet")
    flags = _words(profile, "flags")
    if not set(flags) <= _FLAGS:
        raise Invalid(_FIELD, flags, f"a flag is one of {', '.join(sorted(_FLAGS))}")
    if flags:
        base["flags"] = flags
    architectures, known = tuple(_words(profile, "architectures")), _architecture_map(profile)
    if architectures and known:
        raise Invalid(_FIELD, "archMap", "either architectures or archMap, not both")
    for name in architectures:
        _matches(_ARCH, name, "an architecture")
    calls = _list(profile, "syscalls")
    return Profile(base, architectures, known, tuple(_call(call) for call in calls))


def _architecture_map(profile: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    known = {}
    for entry in _list(profile, "archMap"):
        _only(entry, frozenset(("architecture", "subArchitectures")), "an entry of archMap")
        name = _matches(_ARCH, entry.get("architecture"), "an architecture")
        known[name] = tuple(_matches(_ARCH, sub, "an architecture") for sub in _words(entry, "subArchitectures"))
    return known


def _call(call: Any) -> _Call:
    _only(call, _CALL, "a rule of syscalls")
    names = _words(call, "names")
    if call.get("name"):
        if names:
            raise Invalid(_FIELD, call["name"], "either name or names, not both")
        names = [call["name"]]
    if not names:
        raise Invalid(_FIELD, call, "a rule names system calls")
    entry: dict[str, object] = {"names": [_matches(_NAME, name, "a system call") for name in names]}
    entry["action"] = _word(call, "action", _ACTIONS)
    if call.get("errnoRet") is not None:
        entry["errnoRet"] = _number(call["errnoRet"], 4095, "errnoRet")
    arguments = [_argument(argument) for argument in _list(call, "args")]
    if arguments:
        entry["args"] = arguments
    return _Call(entry, _condition(call, "includes"), _condition(call, "excludes"))


def _argument(argument: Any) -> dict[str, object]:
    _only(argument, _ARGUMENT, "an argument")
    made: dict[str, object] = {
        "index": _number(argument.get("index"), 5, "index"),
        "value": _number(argument.get("value", 0), 2**64 - 1, "value"),
        "op": _word(argument, "op", _OPERATORS),
    }
    if argument.get("valueTwo"):
        made["valueTwo"] = _number(argument["valueTwo"], 2**64 - 1, "valueTwo")
    return made


def _condition(call: Mapping[str, Any], key: str) -> _Condition:
    given = call.get(key) or {}
    _only(given, _CONDITION, key)
    kernel = None
    if given.get("minKernel"):
        _matches(_KERNEL, given["minKernel"], "minKernel, such as 4.8,")
        major, _, minor = given["minKernel"].partition(".")
        kernel = (int(major), int(minor))
    return _Condition(frozenset(_words(given, "caps")), frozenset(_words(given, "arches")), kernel)


def _only(value: Any, keys: frozenset[str], what: str) -> None:
    if not isinstance(value, dict):
        raise Invalid(_FIELD, value, f"{what} should be an object")
    if unknown := sorted(value.keys() - keys):
        raise Invalid(_FIELD, unknown[0], f"{what} may have {', '.join(sorted(keys))}, and nothing else")


def _list(value: Mapping[str, Any], key: str) -> list[Any]:
    found = value.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        raise Invalid(_FIELD, found, f"{key} should be a list")
    return found


def _words(value: Mapping[str, Any], key: str) -> list[str]:
    found = _list(value, key)
    if not all(isinstance(word, str) for word in found):
        raise Invalid(_FIELD, found, f"{key} should be a list of strings")
    return found


def _word(value: Mapping[str, Any], key: str, known: frozenset[str]) -> str:
    word = value.get(key)
    if not isinstance(word, str) or word not in known:
        raise Invalid(_FIELD, word, f"{key} should be one of {', '.join(sorted(known))}")
    return word


def _matches(pattern: re.Pattern[str], word: Any, what: str) -> str:
    if not isinstance(word, str) or pattern.fullmatch(word) is None:
        raise Invalid(_FIELD, word, f"{what} should look like {pattern.pattern}")
    return word


def _number(value: Any, most: int, what: str) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise Invalid(_FIELD, value, f"{what} should be a number from 0 to {most}")
    return value
