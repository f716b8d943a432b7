"""A seccomp profile of somebody's own: what a runtime is given of it, and what is no profile."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lading.events.errors import Invalid
from lading.events.seccompprofile import SIZE_LIMIT, parse_profile

PROFILE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 1,
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": None},
    ],
    "flags": ["SECCOMP_FILTER_FLAG_LOG"],
    "syscalls": [
        {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "x", "includes": {}},
        {"name": "old", "action": "SCMP_ACT_ALLOW", "args": None},
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 97,
            "args": [{"index": 0, "value": 2**64 - 1, "valueTwo": 5, "op": "SCMP_CMP_MASKED_EQ"}],
        },
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}},
        {"names": ["nobpf"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_BPF"]}},
        {"names": ["arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
        {"names": ["notarm"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["arm64"]}},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"names": ["older"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "4.8"}},
    ],
}


def resolved(capabilities: frozenset[str], machine: str, kernel: tuple[int, int]) -> dict[str, Any]:
    return parse_profile(json.dumps(PROFILE)).resolve(capabilities, machine, kernel)


def test_the_whole_of_it() -> None:
    assert resolved(frozenset(), "x86_64", (6, 1)) == {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["old"], "action": "SCMP_ACT_ALLOW"},
            {
                "names": ["socket"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 97,
                "args": [{"index": 0, "value": 2**64 - 1, "op": "SCMP_CMP_MASKED_EQ", "valueTwo": 5}],
            },
            {"names": ["nobpf"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["notarm"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW"},
        ],
    }


@pytest.mark.parametrize(
    ("capabilities", "machine", "kernel", "names"),
    [
        (frozenset({"CAP_BPF"}), "x86_64", (4, 8), {"bpf", "notarm", "ptrace"}),
        (frozenset(), "aarch64", (4, 7), {"nobpf", "arm", "older"}),
        (frozenset(), "riscv64", (5, 0), {"nobpf", "notarm", "ptrace"}),
    ],
)
def test_conditions(capabilities: frozenset[str], machine: str, kernel: tuple[int, int], names: set[str]) -> None:
    found = resolved(capabilities, machine, kernel)
    assert {name for rule in found["syscalls"] for name in rule["names"]} - {
        "read",
        "write",
        "old",
        "socket",
    } == names
    assert found.get("architectures") == {
        "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64": ["SCMP_ARCH_AARCH64"],
    }.get(machine)


def test_plain_architectures_are_kept() -> None:
    text = json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_ARM"]})
    expected = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_ARM"], "syscalls": []}
    assert parse_profile(text).resolve(frozenset(), "x86_64", (6, 1)) == expected


CALL: dict[str, Any] = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}


@pytest.mark.parametrize(
    "change",
    [
        {"defaultAction": None},
        {"defaultAction": ""},
        {"defaultAction": "SCMP_ACT_NOTIFY"},  # which would ask a program of the host's
        {"listenerPath": "/run/x"},
        {"defaultErrnoRet": 4096},
        {"defaultErrnoRet": True},
        {"architectures": ["SCMP_ARCH_X86"]},  # beside archMap
        {"archMap": [{"architecture": "x"}]},
        {"archMap": {}},
        {"flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]},
        {"flags": "x"},
        {"syscalls": {}},
        {"syscalls": [1]},
        {"syscalls": [{**CALL, "action": "ALLOW"}]},
        {"syscalls": [{**CALL, "name": "x"}]},
        {"syscalls": [{"action": "SCMP_ACT_ALLOW"}]},
        {"syscalls": [{**CALL, "names": [1]}]},
        {"syscalls": [{**CALL, "names": ["a b"]}]},
        {"syscalls": [{**CALL, "errnoRet": -1}]},
        {"syscalls": [{**CALL, "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}]},
        {"syscalls": [{**CALL, "args": [{"index": 0, "value": 2**64, "op": "SCMP_CMP_EQ"}]}]},
        {"syscalls": [{**CALL, "args": [{"index": 0, "value": 1, "op": "EQ"}]}]},
        {"syscalls": [{**CALL, "args": [{"index": 0, "value": 1}]}]},
        {"syscalls": [{**CALL, "includes": {"minKernel": "five"}}]},
        {"syscalls": [{**CALL, "includes": {"minkernel": "4.8"}}]},
        {"syscalls": [{**CALL, "priority": 1}]},
        {"unknown": 1},
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        parse_profile(json.dumps({**PROFILE, **change}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        "{}",
        '{"defaultAction":"SCMP_ACT_ALLOW","defaultAction":"SCMP_ACT_KILL"}',
        '{"defaultAction":"SCMP_ACT_ALLOW"} x',
        "\ud800",
        "[" * 100_000,
        " " * (SIZE_LIMIT + 1),
    ],
    ids=lambda text: repr(text[:30]),
)
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_profile(text)
