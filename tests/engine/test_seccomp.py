"""The resolved seccomp profile: what it allows, what it refuses, and on what that depends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lading.engine.oci import seccomp
from lading.engine.oci.config import DEFAULT_CAPABILITIES

KERNEL = (6, 1)
NAMESPACE_FLAGS = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}

DANGEROUS = """
keyctl add_key request_key bpf unshare setns mount umount2 open_tree move_mount fsopen mount_setattr
pivot_root io_uring_setup io_uring_enter io_uring_register userfaultfd perf_event_open init_module
finit_module delete_module kexec_load kexec_file_load open_by_handle_at reboot swapon swapoff
settimeofday clock_settime iopl ioperm acct syslog quotactl lookup_dcookie nfsservctl uselib ustat
sysfs vm86 create_module get_mempolicy mbind move_pages kcmp pidfd_getfd process_madvise vhangup
sethostname
"""

NEEDED = """
read openat openat2 execve mmap futex clone fork vfork chroot wait4 epoll_pwait2 faccessat2
clock_gettime close_range statx rseq getrandom seccomp prctl capset mknodat futex_waitv arch_prctl
modify_ldt
"""


def resolved(*capabilities: str, machine: str = "x86_64", kernel: tuple[int, int] = KERNEL) -> dict[str, Any]:
    return seccomp.resolve(DEFAULT_CAPABILITIES.union(capabilities), machine, kernel)


def entries(profile: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [entry for entry in profile["syscalls"] if name in entry["names"]]


def allowed(profile: dict[str, Any], name: str) -> bool:
    """Whether any entry allows ``name`` with any arguments."""
    return any(entry["action"] == "SCMP_ACT_ALLOW" for entry in entries(profile, name))


def test_what_no_rule_names_fails_with_eperm() -> None:
    profile = resolved()
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)


@pytest.mark.parametrize(
    "name",
    DANGEROUS.split(),
)
def test_dangerous_calls_are_refused_by_default(name: str) -> None:
    assert not allowed(resolved(), name)


@pytest.mark.parametrize(
    "name",
    NEEDED.split(),
)
def test_what_programs_need_is_allowed_by_default(name: str) -> None:
    assert allowed(resolved(), name)


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        ("CAP_SYS_ADMIN", "mount"),
        ("CAP_SYS_ADMIN", "bpf"),
        ("CAP_BPF", "bpf"),
        ("CAP_PERFMON", "perf_event_open"),
        ("CAP_SYSLOG", "syslog"),
        ("CAP_SYS_BOOT", "reboot"),
        ("CAP_SYS_MODULE", "finit_module"),
        ("CAP_SYS_NICE", "mbind"),
        ("CAP_SYS_PACCT", "acct"),
        ("CAP_SYS_PTRACE", "kcmp"),
        ("CAP_SYS_RAWIO", "iopl"),
        ("CAP_SYS_TIME", "clock_settime"),
        ("CAP_SYS_TTY_CONFIG", "vhangup"),
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ],
)
def test_a_capability_brings_its_calls(capability: str, name: str) -> None:
    assert not allowed(resolved(), name)
    assert allowed(resolved(capability), name)


def test_without_its_capability_even_a_default_call_is_refused() -> None:
    assert allowed(resolved(), "chroot")
    assert not allowed(seccomp.resolve(frozenset(), "x86_64", KERNEL), "chroot")


def test_clone_may_not_make_namespaces_and_clone3_says_enosys() -> None:
    (clone,) = entries(resolved(), "clone")
    assert clone["args"] == [{"index": 0, "value": NAMESPACE_FLAGS, "op": "SCMP_CMP_MASKED_EQ"}]
    (clone3,) = entries(resolved(), "clone3")
    assert clone3 == {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}


def test_with_sys_admin_clone_and_clone3_are_free() -> None:
    for name in ("clone", "clone3"):
        (entry,) = entries(resolved("CAP_SYS_ADMIN"), name)
        assert entry["action"] == "SCMP_ACT_ALLOW"
        assert "args" not in entry


def test_the_flags_of_clone_are_its_second_argument_on_s390x() -> None:
    (clone,) = entries(resolved(machine="s390x"), "clone")
    assert clone["args"][0]["index"] == 1


@pytest.mark.parametrize(
    ("family", "fits"), [(1, 1), (2, 1), (10, 1), (16, 1), (38, 0), (39, 1), (40, 0), (41, 1)]
)
def test_sockets_are_of_any_family_but_alg_and_vsock(family: int, fits: int) -> None:
    compare = {"SCMP_CMP_LT": int.__lt__, "SCMP_CMP_EQ": int.__eq__, "SCMP_CMP_GT": int.__gt__}
    rules = [entry["args"] for entry in entries(resolved(), "socket")]
    assert sum(all(compare[arg["op"]](family, arg["value"]) for arg in args) for args in rules) == fits


@pytest.mark.parametrize(("kernel", "fine"), [((3, 10), False), ((4, 7), False), ((4, 8), True), ((5, 0), True)])
def test_ptrace_needs_linux_4_8_or_its_capability(kernel: tuple[int, int], fine: bool) -> None:
    assert allowed(resolved(kernel=kernel), "ptrace") is fine
    assert allowed(resolved("CAP_SYS_PTRACE", kernel=kernel), "ptrace")


@pytest.mark.parametrize(
    ("machine", "architectures", "name"),
    [
        ("x86_64", ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "arch_prctl"),
        ("aarch64", ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"], "arm_fadvise64_64"),
        ("s390x", ["SCMP_ARCH_S390X", "SCMP_ARCH_S390"], "s390_runtime_instr"),
        ("riscv64", ["SCMP_ARCH_RISCV64"], "riscv_flush_icache"),
        ("armv7l", None, "set_tls"),
        ("ppc64le", None, "swapcontext"),
        ("i686", None, "modify_ldt"),
    ],
)
def test_each_machine_has_its_architectures_and_calls(
    machine: str, architectures: list[str] | None, name: str
) -> None:
    profile = resolved(machine=machine)
    assert profile.get("architectures") == architectures
    assert allowed(profile, name)
    assert allowed(profile, name) != allowed(resolved(machine="pdp11"), name)


def test_an_unknown_machine_is_confined_too() -> None:
    profile = resolved(machine="pdp11")
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert "architectures" not in profile
    assert not allowed(profile, "mount")


def test_rules_that_agree_are_one_entry() -> None:
    for profile in (resolved(), resolved("CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_BPF")):
        kinds = [json.dumps({**entry, "names": None}) for entry in profile["syscalls"]]
        assert len(set(kinds)) == len(kinds) <= 11
        for entry in profile["syscalls"]:
            assert entry["names"] == sorted(set(entry["names"]))


def test_the_default_is_the_size_that_its_source_has() -> None:
    """367 unconditional names: a change of the data file that nobody meant shows here."""
    assert len(resolved()["syscalls"][0]["names"]) == 367


def test_equal_input_gives_the_same_object() -> None:
    assert resolved() is resolved()
