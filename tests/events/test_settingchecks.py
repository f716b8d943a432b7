"""Which settings are refused when a container is created, and which are not."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.events.errors import Invalid
from lading.events.limits import cpu_bandwidth, number_list, rate_of, swap_total, weight_from_shares, without
from lading.events.privileges import (
    CAPABILITIES,
    DEFAULT_CAPABILITIES,
    DeviceRule,
    capabilities_of,
    device_rule,
)
from lading.events.settingchecks import check_settings, extra_host
from lading.events.settings import ContainerSettings, Device, Resources, Ulimit

GIB = 1 << 30

GOOD: list[dict[str, Any]] = [
    {},
    {"resources": Resources(memory=6 << 20, memory_reservation=6 << 20, memory_swap=6 << 20, swappiness=0)},
    {"resources": Resources(memory=GIB, memory_swap=-1, swappiness=100, oom_kill_disable=True)},
    {"resources": Resources(memory_swap=-1, pids=-1, cpu_quota=-1)},
    {"resources": Resources(cpu_shares=2, cpu_period=1000, cpu_quota=1000, cpuset_cpus="0-2,7", cpuset_mems="0")},
    {"resources": Resources(nano_cpus=10_000_000, pids=1, blkio_weight=10)},
    {"resources": Resources(read_bps=("/dev/sda:1048576",), write_iops=("/dev/disk/by-id/a:b:5",))},
    {"cap_add": ("net_admin", "CAP_SYS_TIME", "ALL"), "cap_drop": ("all", "Mknod")},
    {"sysctls": {"net.ipv4.conf.eth0.rp_filter": "0", "net.core.somaxconn": "1024"}},
    {"sysctls": {"kernel.sem": "250 32000 32 128", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "9"}},
    {"ulimits": (Ulimit("nofile", 1, 1), Ulimit("core", 0, -1), Ulimit("memlock", -1, -1))},
    {"devices": (Device("/dev/null", "/dev/x", "r"), Device("/dev/snd", "/dev/snd"))},
    {"device_rules": ("c 1:3 r", "b *:* rwm", "a *:* rwm", "c 4294967295:* mr")},
    {"shm_size": 0, "oom_score": -1000},
    {"shm_size": 2**63 - 1, "oom_score": 1000},
    {"domainname": "example.org", "uts_mode": "private", "ipc_mode": "shareable", "pid_mode": "host"},
    {"extra_hosts": ("db:10.0.0.1", "a.b-c_d:::1", "six:[fe80::1]"), "dns": ("8.8.8.8", "::1")},
    {"dns_search": (".",), "dns_options": ("ndots:5", "use-vc", "timeout:3")},
    {"dns_search": ("example.org.", "corp"), "groups": ("0", "audio", "with.dot@x", "srv$")},
    {"masked": (), "readonly": ("/proc/sys", "/x y")},
]

BAD: list[dict[str, Any]] = [
    # B32: limits
    *(
        {"resources": resources}
        for resources in (
            Resources(memory=-5),
            Resources(memory=(6 << 20) - 1),
            Resources(memory=2**63),
            Resources(memory=float("nan")),  # type: ignore[arg-type]
            Resources(memory=True),
            Resources(memory_reservation=1),
            Resources(memory=GIB, memory_reservation=2 * GIB),
            Resources(memory=GIB, memory_swap=GIB - 1),
            Resources(memory_swap=GIB),
            Resources(memory=GIB, memory_swap=-2),
            Resources(swappiness=101),
            Resources(swappiness=-2),
            Resources(cpu_shares=-1),
            Resources(cpu_shares=1),
            Resources(cpu_shares=262145),
            Resources(cpu_period=999),
            Resources(cpu_period=1_000_001),
            Resources(cpu_quota=999),
            Resources(cpu_quota=-2),
            Resources(nano_cpus=-1),
            Resources(nano_cpus=1),
            Resources(nano_cpus=10**9, cpu_quota=5000),
            Resources(nano_cpus=10**9, cpu_period=5000),
            Resources(cpuset_cpus="0-999999999"),
            Resources(cpuset_cpus="3-1"),
            Resources(cpuset_cpus="0,"),
            Resources(cpuset_cpus="0\n"),
            Resources(cpuset_mems="0-99999"),
            Resources(cpuset_mems="٣"),
            Resources(cpuset_cpus="0," * 4000 + "0"),
            Resources(pids=-2),
            Resources(pids=1 << 40),
            Resources(blkio_weight=9),
            Resources(blkio_weight=1001),
            Resources(read_bps=("sda:5",)),
            Resources(read_bps=("/dev/sda",)),
            Resources(write_bps=("/dev/sda:-1",)),
            Resources(read_iops=("/dev/sda:1.5",)),
            Resources(write_iops=("/dev/sda:9223372036854775808",)),
            Resources(write_iops=("/dev/a\nb:1",)),
            Resources(read_bps=("/dev/sda:1",) * 300),
        )
    ),
    {"shm_size": 2**63},
    {"shm_size": -1},
    {"shm_size": 1.5},
    {"oom_score": 1001},
    {"oom_score": -1001},
    # B22: capabilities
    {"cap_add": ("CAP_NO_SUCH",)},
    {"cap_drop": ("CAP_",)},
    {"cap_drop": ("",)},
    {"cap_add": ("ﬀ",)},
    {"cap_add": ("ſys_admin",)},  # upper() of which is SYS_ADMIN
    # B23: profiles
    {"seccomp": "{}"},
    {"seccomp": "Unconfined"},
    {"seccomp": "/etc/profile.json"},
    # B17: sysctls
    *(
        {"sysctls": sysctls}
        for sysctls in (
            {"kernel.core_pattern": "|/x"},
            {"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/x"},
            {"kernel.shm_rmid_forced": "1\n"},
            {"kernel.shm_rmid_forced": ""},
            {"kernel.msgmax": "1\0"},
            {"kernel.shmmni.x": "1"},
            {"kernel/msgmax": "1"},
            {"net/../kernel/core_pattern": "1"},
            {"net.": "1"},
            {"net..core": "1"},
            {"net.core/../../kernel/core_pattern": "1"},
            {"net": "1"},
            {"vm.swappiness": "1"},
            {"fs.file-max": "1"},
            {"kernel.domainname": "x"},
            {"fs.mqueue.": "1"},
            {"NET.core.somaxconn": "1"},
            {"net.a" + "a" * 300: "1"},
        )
    ),
    {"ipc_mode": "host", "sysctls": {"kernel.msgmax": "1"}},
    {"ipc_mode": "host", "sysctls": {"fs.mqueue.msg_max": "1"}},
    # B17: names and addresses
    *(
        {"extra_hosts": (entry,)}
        for entry in (
            "a:1.2.3.4\n6.6.6.6 evil",
            "a\n6.6.6.6 evil:1.2.3.4",
            "a b:1.2.3.4",
            "a:1.2.3.4 evil",
            "a#:1.2.3.4",
            "a",
            ":1.2.3.4",
            "a:",
            "a:host-gateway",
            "a:1.2.3",
            "a:01.2.3.4",
            "a:fe80::1%eth0\nx",
            "a:[::1",
            "é:1.2.3.4",
        )
    ),
    {"extra_hosts": ("a:1.2.3.4",) * 2000},
    {"dns": ("8.8.8.8\nsearch evil",)},
    {"dns": ("resolver.example",)},
    {"dns": ("fe80::1%eth0",)},
    {"dns_search": ("a b",)},
    {"dns_search": ("a\nnameserver 6.6.6.6",)},
    {"dns_search": ("",)},
    {"dns_search": ("..",)},
    {"dns_options": ("ndots:1\nnameserver 6.6.6.6",)},
    {"dns_options": ("ndots: 1",)},
    {"domainname": "a\nb"},
    {"domainname": "a" * 65},
    {"domainname": "x", "uts_mode": "host"},
    # namespaces
    {"pid_mode": "container:abc"},
    {"pid_mode": "hosts"},
    {"ipc_mode": "container:x"},
    {"uts_mode": "shareable"},
    {"cgroupns_mode": "none"},
    # B10, B12: groups
    {"groups": ("",)},
    {"groups": ("-1",)},
    {"groups": ("a:b",)},
    {"groups": ("a\n",)},
    {"groups": ("٣",)},
    # ulimits
    {"ulimits": (Ulimit("as", 1, 1),)},
    {"ulimits": (Ulimit("nofile", 2, 1),)},
    {"ulimits": (Ulimit("nofile", -1, 1),)},
    {"ulimits": (Ulimit("nofile", -2, -1),)},
    {"ulimits": (Ulimit("nofile", 0, 2**63),)},
    {"ulimits": (Ulimit("core", 0, 0), Ulimit("core", 1, 1))},
    # devices
    {"devices": (Device("dev/null", "/dev/x"),)},
    {"devices": (Device("/dev/null", "/dev/../etc/x"),)},
    {"devices": (Device("/dev/../etc", "/dev/x"),)},
    {"devices": (Device("/dev/null", "/"),)},
    {"devices": (Device("/dev/null", "/dev/x\0"),)},
    {"devices": (Device("/dev/null", "/dev/x", ""),)},
    {"devices": (Device("/dev/null", "/dev/x", "rx"),)},
    {"devices": (Device("/dev/null", "/dev/x", "rr"),)},
    {"device_rules": ("c 1:3",)},
    {"device_rules": ("c 1:3 rwm\n",)},
    {"device_rules": ("a 1:3 r",)},  # which the kernel takes for every device
    {"device_rules": ("a *:* r",)},
    {"device_rules": ("c 4294967296:0 r",)},
    {"device_rules": ("c 1:3 rr",)},
    # paths
    {"masked": ("proc/x",)},
    {"masked": ("/proc/../etc",)},
    {"readonly": ("/x\0",)},
    {"readonly": ("/x/",)},
]


@pytest.mark.parametrize("settings", GOOD, ids=str)
def test_what_can_be_is_not_refused(settings: dict[str, Any]) -> None:
    check_settings(ContainerSettings(**settings), "none")


@pytest.mark.parametrize("settings", BAD, ids=lambda settings: repr(settings)[:80])
def test_what_cannot_be_is(settings: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        check_settings(ContainerSettings(**settings), "none")


def test_network_sysctls_need_an_own_network() -> None:
    settings = ContainerSettings(sysctls={"net.core.somaxconn": "1024"})
    check_settings(settings, "none")
    with pytest.raises(Invalid, match="the host's"):
        check_settings(settings, "host")


@given(st.text())
def test_any_text_is_judged_and_never_worse(text: str) -> None:
    for settings in (
        ContainerSettings(extra_hosts=(text,)),
        ContainerSettings(dns=(text,)),
        ContainerSettings(dns_search=(text,)),
        ContainerSettings(dns_options=(text,)),
        ContainerSettings(sysctls={text: "1"}),
        ContainerSettings(sysctls={"net.core.somaxconn": text}),
        ContainerSettings(seccomp=text),
        ContainerSettings(cap_add=(text,)),
        ContainerSettings(device_rules=(text,)),
        ContainerSettings(groups=(text,)),
        ContainerSettings(resources=Resources(cpuset_cpus=text)),
        ContainerSettings(resources=Resources(read_bps=(text,))),
    ):
        try:
            check_settings(settings, "none")
        except Invalid:
            continue
        for values in attrs.astuple(settings, recurse=False):
            for value in values if isinstance(values, tuple) else ():
                assert not isinstance(value, str) or "\n" not in value


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ((), (), DEFAULT_CAPABILITIES),
        (("sys_admin",), ("CAP_CHOWN",), DEFAULT_CAPABILITIES - {"CAP_CHOWN"} | {"CAP_SYS_ADMIN"}),
        (("ALL",), ("CHOWN",), frozenset(CAPABILITIES) - {"CAP_CHOWN"}),
        (("ALL",), ("ALL",), frozenset(CAPABILITIES)),
        (("KILL",), ("ALL",), {"CAP_KILL"}),
        (("KILL",), ("KILL",), DEFAULT_CAPABILITIES),  # what is added comes last
    ],
)
def test_capabilities_are_docker_s(add: tuple[str, ...], drop: tuple[str, ...], expected: frozenset[str]) -> None:
    assert capabilities_of(add, drop) == expected
    assert capabilities_of(add, drop, privileged=True) == frozenset(CAPABILITIES)


def test_the_kernel_s_numbers_of_capabilities() -> None:
    numbers = {name.removeprefix("CAP_"): number for number, name in enumerate(CAPABILITIES)}
    assert (numbers["CHOWN"], numbers["SYS_ADMIN"], numbers["CHECKPOINT_RESTORE"], len(numbers)) == (0, 21, 40, 41)


def test_values_are_read_as_they_are_meant() -> None:
    assert device_rule("b 8:* rw") == DeviceRule("b", 8, -1, "rw")
    assert number_list("x", "0-2,7") == {0, 1, 2, 7}
    assert number_list("x", "") == frozenset()
    assert rate_of("read_bps", "/dev/a:b:7") == ("/dev/a:b", 7)
    assert extra_host("a:[::1]") == ("a", "::1")
    assert cpu_bandwidth(Resources(nano_cpus=1_500_000_000)) == (150_000, 100_000)
    assert cpu_bandwidth(Resources(cpu_quota=5, cpu_period=6)) == (5, 6)
    assert [swap_total(Resources(memory=5, memory_swap=swap)) for swap in (0, 7, -1)] == [10, 7, -1]
    assert swap_total(Resources()) == 0
    assert [weight_from_shares(shares) for shares in (2, 1024, 262144)] == [1, 39, 10000]
    both = Resources(memory=5, pids=3)
    assert without(both, frozenset(("pids",))) == Resources(memory=5)
    assert without(both, frozenset(("swappiness",))) is both
