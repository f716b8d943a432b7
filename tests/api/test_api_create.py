"""What a creation may ask for: every field of Docker's, as settings or as a refusal in moby's words."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from lading.engine.api.create import CreateRequest, parse_create
from lading.engine.api.createlimits import Machine
from lading.engine.http.message import HttpError
from lading.events.errors import Invalid
from lading.events.settingchecks import check_settings
from lading.events.settings import (
    ContainerSettings,
    Device,
    HealthCheck,
    Resources,
    RestartPolicy,
    Ulimit,
)

# What `docker create busybox echo hi` of client 28.2.2 sends, every field of it.
STOCK = json.loads("""
{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":true,"AttachStderr":true,"Tty":false,
"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":["echo","hi"],"Image":"busybox","Volumes":{},"WorkingDir":"",
"Entrypoint":null,"OnBuild":null,"Labels":{},"HostConfig":{"Binds":null,"ContainerIDFile":"",
"LogConfig":{"Type":"","Config":{}},"NetworkMode":"default","PortBindings":{},
"RestartPolicy":{"Name":"no","MaximumRetryCount":0},"AutoRemove":false,"VolumeDriver":"","VolumesFrom":null,
"ConsoleSize":[0,0],"CapAdd":null,"CapDrop":null,"CgroupnsMode":"","Dns":[],"DnsOptions":[],"DnsSearch":[],
"ExtraHosts":null,"GroupAdd":null,"IpcMode":"","Cgroup":"","Links":null,"OomScoreAdj":0,"PidMode":"",
"Privileged":false,"PublishAllPorts":false,"ReadonlyRootfs":false,"SecurityOpt":null,"UTSMode":"","UsernsMode":"",
"ShmSize":0,"Isolation":"","CpuShares":0,"Memory":0,"NanoCpus":0,"CgroupParent":"","BlkioWeight":0,
"BlkioWeightDevice":[],"BlkioDeviceReadBps":[],"BlkioDeviceWriteBps":[],"BlkioDeviceReadIOps":[],
"BlkioDeviceWriteIOps":[],"CpuPeriod":0,"CpuQuota":0,"CpuRealtimePeriod":0,"CpuRealtimeRuntime":0,"CpusetCpus":"",
"CpusetMems":"","Devices":[],"DeviceCgroupRules":null,"DeviceRequests":null,"MemoryReservation":0,"MemorySwap":0,
"MemorySwappiness":-1,"OomKillDisable":false,"PidsLimit":0,"Ulimits":[],"CpuCount":0,"CpuPercent":0,
"IOMaximumIOps":0,"IOMaximumBandwidth":0,"MaskedPaths":null,"ReadonlyPaths":null},
"NetworkingConfig":{"EndpointsConfig":{"default":{"IPAMConfig":null,"Links":null,"Aliases":null,"MacAddress":"",
"DriverOpts":null,"GwPriority":0,"NetworkID":"","EndpointID":"","Gateway":"","IPAddress":"","IPPrefixLen":0,
"IPv6Gateway":"","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,"DNSNames":null}}}}
""")

V2 = Machine(True, frozenset(range(4)), frozenset((0,)))
V1 = attrs.evolve(V2, cgroup_v2=False)
MIB = 1 << 20
SECOND = 10**9


def asked(host: dict[str, Any] | None = None, machine: Machine = V2, **config: Any) -> CreateRequest:
    """What is made of a request, checked as it is when it is carried out."""
    body = STOCK | {"HostConfig": STOCK["HostConfig"] | {"NetworkMode": "none"} | (host or {}), **config}
    made = parse_create(body, machine)
    check_settings(made.recipe.settings, made.recipe.network)
    return made


def refused(host: dict[str, Any] | None = None, machine: Machine = V2, **config: Any) -> tuple[int, str]:
    """The status and the words of the refusal."""
    with pytest.raises((HttpError, Invalid)) as refusal:
        asked(host, machine, **config)
    error = refusal.value
    return (error.status, error.message) if isinstance(error, HttpError) else (400, str(error))


def test_what_the_stock_client_sends_unasked_is_accepted_and_asks_for_nothing() -> None:
    made = parse_create(STOCK, V2)
    assert (made.recipe.image, made.recipe.command, made.recipe.network) == ("busybox", ("echo", "hi"), "host")
    assert [("network" in warning) for warning in made.warnings] == [True]
    assert (made.recipe.settings, made.size) == (ContainerSettings(), None)


# -- what is carried out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "resources"),
    [
        ({"Memory": 64 * MIB}, Resources(memory=64 * MIB, memory_swap=128 * MIB)),
        ({"Memory": 64 * MIB, "MemorySwap": -1}, Resources(memory=64 * MIB, memory_swap=-1)),
        (
            {"Memory": 64 * MIB, "MemorySwap": 65 * MIB, "MemoryReservation": 32 * MIB},
            Resources(memory=64 * MIB, memory_swap=65 * MIB, memory_reservation=32 * MIB),
        ),
        ({"Memory": 2**63 - 1}, Resources(memory=2**63 - 1, memory_swap=2**63 - 1)),
        ({"NanoCpus": 1_500_000_000}, Resources(nano_cpus=1_500_000_000)),
        ({"CpuPeriod": 100_000, "CpuQuota": 50_000}, Resources(cpu_period=100_000, cpu_quota=50_000)),
        ({"CpuQuota": -1}, Resources(cpu_quota=-1)),
        ({"CpuShares": 512}, Resources(cpu_shares=512)),
        ({"CpusetCpus": "0-1,3", "CpusetMems": "0"}, Resources(cpuset_cpus="0-1,3", cpuset_mems="0")),
        ({"PidsLimit": 100}, Resources(pids=100)),
        ({"PidsLimit": -1}, Resources()),
        ({"BlkioWeight": 10}, Resources(blkio_weight=10)),
        (
            {
                "BlkioDeviceReadBps": [{"Path": "/dev/a", "Rate": 1}],
                "BlkioDeviceWriteBps": [{"Path": "/dev/a", "Rate": 2}, {"Path": "/dev/b:c", "Rate": 3}],
                "BlkioDeviceReadIOps": [{"Path": "/dev/a", "Rate": 4}],
                "BlkioDeviceWriteIOps": [{"Path": "/dev/a", "Rate": 5}],
            },
            Resources(
                read_bps=("/dev/a:1",),
                write_bps=("/dev/a:2", "/dev/b:c:3"),
                read_iops=("/dev/a:4",),
                write_iops=("/dev/a:5",),
            ),
        ),
    ],
    ids=str,
)
def test_limits(host: dict[str, Any], resources: Resources) -> None:
    made = asked(host)
    assert made.recipe.settings == ContainerSettings(resources=resources)
    assert made.warnings == ()


def test_what_only_old_control_groups_have_is_left_out_with_a_warning_on_new_ones() -> None:
    host = {"MemorySwappiness": 10, "OomKillDisable": True, "Memory": 64 * MIB}
    kept = asked(host, V1)
    assert kept.recipe.settings.resources == Resources(
        memory=64 * MIB, memory_swap=128 * MIB, swappiness=10, oom_kill_disable=True
    )
    assert kept.warnings == ()
    left = asked(host)
    assert left.recipe.settings.resources == Resources(memory=64 * MIB, memory_swap=128 * MIB)
    assert ["swappiness discarded" in left.warnings[0], "OomKillDisable discarded" in left.warnings[1]] == [
        True
    ] * 2
    [warning] = asked({"OomKillDisable": True}, V1).warnings
    assert warning.startswith("OOM killer is disabled for the container, but no memory limit is set")


PROFILE = '{"defaultAction":"SCMP_ACT_ALLOW"}'


@pytest.mark.parametrize(
    ("host", "settings"),
    [
        ({"Privileged": True}, {"privileged": True}),
        ({"CapAdd": ["SYS_ADMIN", "cap_net_admin", "ALL"]}, {"cap_add": ("SYS_ADMIN", "cap_net_admin", "ALL")}),
        ({"CapDrop": ["ALL"]}, {"cap_drop": ("ALL",)}),
        ({"SecurityOpt": ["no-new-privileges"]}, {"no_new_privileges": True}),
        ({"SecurityOpt": ["no-new-privileges:true"]}, {"no_new_privileges": True}),
        ({"SecurityOpt": ["no-new-privileges=false"]}, {}),
        ({"SecurityOpt": ["seccomp=unconfined"]}, {"seccomp": "unconfined"}),
        ({"SecurityOpt": ["seccomp:unconfined"]}, {"seccomp": "unconfined"}),
        ({"SecurityOpt": ["seccomp=builtin"]}, {}),
        ({"SecurityOpt": [f"seccomp={PROFILE}"]}, {"seccomp": PROFILE}),
        ({"SecurityOpt": ["label=disable", "label:type:x", "apparmor=unconfined", "writable-cgroups=false"]}, {}),
        ({"SecurityOpt": ["systempaths=unconfined"]}, {"masked": (), "readonly": ()}),
        ({"MaskedPaths": [], "ReadonlyPaths": ["/proc/x"]}, {"masked": (), "readonly": ("/proc/x",)}),
        (
            {"Devices": [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/f", "CgroupPermissions": "rw"}]},
            {"devices": (Device("/dev/fuse", "/dev/f", "rw"),)},
        ),
        ({"Devices": [{"PathOnHost": "/dev/fuse"}]}, {"devices": (Device("/dev/fuse", "/dev/fuse"),)}),
        ({"DeviceCgroupRules": ["c 1:3 mr", "a *:* rwm"]}, {"device_rules": ("c 1:3 mr", "a *:* rwm")}),
        ({"GroupAdd": ["audio", "1000"]}, {"groups": ("audio", "1000")}),
        (
            {"Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}, {"Name": "core", "Soft": -1, "Hard": -1}]},
            {"ulimits": (Ulimit("nofile", 10, 20), Ulimit("core", -1, -1))},
        ),
        ({"Sysctls": {"net.core.somaxconn": "128"}}, {"sysctls": {"net.core.somaxconn": "128"}}),
        ({"PidMode": "host", "IpcMode": "host"}, {"pid_mode": "host", "ipc_mode": "host"}),
        ({"UTSMode": "host", "CgroupnsMode": "host"}, {"uts_mode": "host", "cgroupns_mode": "host"}),
        ({"IpcMode": "shareable"}, {"ipc_mode": "shareable"}),
        ({"ShmSize": 5 * MIB}, {"shm_size": 5 * MIB}),
        ({"OomScoreAdj": -1000}, {"oom_score": -1000}),
        ({"Init": True}, {"init": True}),
        ({"ExtraHosts": ["a:1.2.3.4", "b.c:::1"]}, {"extra_hosts": ("a:1.2.3.4", "b.c:::1")}),
        (
            {"Dns": ["1.1.1.1", "::1"], "DnsSearch": ["a.example", "."], "DnsOptions": ["ndots:2"]},
            {"dns": ("1.1.1.1", "::1"), "dns_search": ("a.example", "."), "dns_options": ("ndots:2",)},
        ),
        ({"RestartPolicy": {"Name": "always"}}, {"restart": RestartPolicy("always")}),
        (
            {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}},
            {"restart": RestartPolicy("on-failure", 3)},
        ),
        ({"LogConfig": {"Type": "json-file", "Config": {"max-size": "10m"}}}, {"log_size": 10**7, "log_files": 1}),
        (
            {"LogConfig": {"Type": "", "Config": {"max-size": "1.5KiB", "max-file": "3", "mode": "blocking"}}},
            {"log_size": 1500, "log_files": 3},
        ),
        ({"LogConfig": {"Type": "local"}}, {"log_size": 2 * 10**7, "log_files": 5}),
        ({"LadingDeadline": 90 * SECOND}, {"deadline": 90 * SECOND}),
    ],
    ids=str,
)
def test_settings(host: dict[str, Any], settings: dict[str, Any]) -> None:
    assert asked(host).recipe.settings == ContainerSettings(**settings)


def test_settings_that_are_not_in_the_host_configuration() -> None:
    made = asked({"ConsoleSize": [24, 80]}, Tty=True, Domainname="example.org")
    assert made.recipe.settings == ContainerSettings(tty=True, domainname="example.org")
    assert made.size == (24, 80)
    assert asked({"Runtime": "crun"}).runtime == "crun"


def test_the_cgroup_namespace_that_is_usual_here_is_not_a_setting() -> None:
    for machine, usual, other in ((V2, "private", "host"), (V1, "host", "private")):
        assert asked({"CgroupnsMode": usual}, machine).recipe.settings == ContainerSettings()
        assert asked({"CgroupnsMode": other}, machine).recipe.settings == ContainerSettings(cgroupns_mode=other)


@pytest.mark.parametrize(
    "host",
    [
        {"UsernsMode": "host"}, {"IpcMode": "private"}, {"ShmSize": 64 << 20}, {"Isolation": "default"},
        {"LogConfig": {"Type": "json-file"}}, {"ConsoleSize": [24, 80]}, {"MemorySwap": -1},
        {"ContainerIDFile": "/tmp/id"}, {"RestartPolicy": {"Name": ""}}, {"SomethingNew": {}},
        {"RestartPolicy": {"Name": "", "MaximumRetryCount": 3}}, {"OomKillDisable": False}, {"Init": False},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_the_case_anyway_may_be_asked_for(host: dict[str, Any]) -> None:
    assert asked(host).recipe.settings == ContainerSettings()


# -- health -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "check"),
    [
        (None, None),
        ({"Test": ["NONE"]}, HealthCheck(("NONE",), 0, 0, 0, 0, 0)),
        ({"Interval": 10**6}, HealthCheck((), 10**6, 0, 0, 0, 0)),
        ({"Test": ["CMD-SHELL", "x"], "Retries": 2}, HealthCheck(("CMD-SHELL", "x"), 0, 0, 0, 0, 2)),
        (
            {"Test": ["CMD", "a", "b"], "Timeout": 2 * SECOND, "StartPeriod": SECOND, "StartInterval": 10**7},
            HealthCheck(("CMD", "a", "b"), 0, 2 * SECOND, SECOND, 10**7, 0),
        ),
    ],
    ids=str,
)
def test_what_is_not_said_of_health_is_left_to_the_image(
    said: dict[str, Any] | None, check: HealthCheck | None
) -> None:
    assert asked(Healthcheck=said).recipe.settings == ContainerSettings(health=check)


# -- what is refused --------------------------------------------------------------------------------------------

NOT_HERE: list[dict[str, Any]] = [
    {"ExposedPorts": {"80/tcp": {}}},
    {"NetworkDisabled": True},
    {"Shell": ["/bin/sh"]},
    {"tty": True},
    {"SomethingNew": 1},
]
NOT_HERE_HOST: list[dict[str, Any]] = [
    {"PortBindings": {"80/tcp": [{"HostPort": "80"}]}},
    {"PublishAllPorts": True},
    {"privileged": True},
    {"DeviceRequests": [{"Count": -1}]},
    {"BlkioWeightDevice": [{"Path": "/dev/sda", "Weight": 10}]},
    {"CgroupParent": "../../x"},
    {"CgroupParent": "/inside"},
    {"CpuRealtimeRuntime": 1},
    {"PidMode": "container:x"},
    {"IpcMode": "container:x"},
    {"SecurityOpt": ["apparmor=mine"]},
    {"SecurityOpt": ["writable-cgroups"]},
    {"LogConfig": {"Type": "none"}},
    {"LogConfig": {"Type": "json-file", "Config": {"compress": "true"}}},
    {"LogConfig": {"Type": "json-file", "Config": {"mode": "non-blocking"}}},
    {"LogConfig": {"Type": "json-file", "Config": {"labels": "a"}}},
    {"ExtraHosts": ["a:host-gateway"]},
    {"Annotations": {"run.oci.handler": "krun"}},
    {"StorageOpt": {"size": "1G"}},
    {"Links": ["a:b"]},
    {"SomethingNew": {"deep": [{"er": 1}]}},
]


@pytest.mark.parametrize(
    ("host", "config"),
    [*(({}, each) for each in NOT_HERE), *((each, {}) for each in NOT_HERE_HOST)],
    ids=[*map(str, NOT_HERE), *map(str, NOT_HERE_HOST)],
)
def test_nothing_that_is_asked_for_is_silently_left_out(host: dict[str, Any], config: dict[str, Any]) -> None:
    status, said = refused(host, **config)
    assert status == 501
    assert "not supported in this release" in said


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"Memory": 6 * MIB - 1}, "Minimum memory limit allowed is 6MB"),
    ({"Memory": -5}, "Minimum memory limit allowed is 6MB"),
    ({"Memory": 1.5}, "invalid Memory"),
    ({"Memory": float("nan")}, "invalid Memory"),
    ({"Memory": True}, "invalid Memory"),
    ({"Memory": "1g"}, "invalid Memory"),
    ({"Memory": 2**63}, "invalid Memory"),
    ({"Memory": 8 * MIB, "MemorySwap": 7 * MIB}, "Minimum memoryswap limit should be larger than memory limit"),
    ({"MemorySwap": 7 * MIB}, "You should always set the Memory limit when using Memoryswap limit, see usage"),
    ({"MemorySwap": -2}, "valid memory swap is -1"),
    ({"MemorySwappiness": 101}, "Invalid value: 101, valid memory swappiness range is 0-100"),
    ({"MemorySwappiness": -2}, "valid memory swappiness range is 0-100"),
    ({"MemoryReservation": 1}, "Minimum memory reservation allowed is 6MB"),
    ({"Memory": 8 * MIB, "MemoryReservation": 9 * MIB}, "can not be less than memory reservation limit"),
    ({"OomKillDisable": 1}, "invalid OomKillDisable"),
    ({"NanoCpus": 1, "CpuPeriod": 1000}, "Conflicting options: Nano CPUs and CPU Period cannot both be set"),
    ({"NanoCpus": 1, "CpuQuota": 1000}, "Conflicting options: Nano CPUs and CPU Quota cannot both be set"),
    ({"NanoCpus": 5 * 10**9}, "Range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available"),
    ({"NanoCpus": -1}, "Range of CPUs is from 0.01 to 4.00"),
    ({"CpuPeriod": 999}, "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"),
    ({"CpuPeriod": 1_000_001}, "CPU cfs period can not be less than 1ms"),
    ({"CpuQuota": 999}, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
    ({"CpuQuota": -2}, "invalid CPU cfs quota"),
    ({"CpuShares": -1}, "invalid CPU shares (-1): value must be a positive integer"),
    ({"CpuShares": 1}, "invalid CPU shares (1)"),
    ({"CpusetCpus": "0-9"}, "Requested CPUs are not available - requested 0-9, available: 0,1,2,3"),
    ({"CpusetCpus": "0-999999999"}, "Invalid value 0-999999999 for cpuset cpus"),
    ({"CpusetCpus": "x"}, "Invalid value x for cpuset cpus"),
    ({"CpusetCpus": "1-0"}, "Invalid value 1-0 for cpuset cpus"),
    ({"CpusetCpus": "0\n"}, "Invalid value"),
    ({"CpusetCpus": "\u0661"}, "Invalid value"),
    ({"CpusetMems": "7"}, "Requested memory nodes are not available"),
    ({"PidsLimit": 2**40}, "the maximum pids limit"),
    ({"BlkioWeight": 9}, "Range of blkio weight is from 10 to 1000"),
    ({"BlkioWeight": 1001}, "Range of blkio weight is from 10 to 1000"),
    ({"BlkioDeviceReadBps": [{"Path": "dev", "Rate": 1}]}, "invalid BlkioDeviceReadBps"),
    ({"BlkioDeviceReadBps": [{"Path": "/dev/x", "Rate": -1}]}, "the rate of /dev/x"),
    ({"BlkioDeviceReadBps": [{"Path": "/dev/x", "Rate": 1, "Weight": 1}]}, "it has no field 'Weight'"),
    ({"BlkioDeviceReadBps": ["/dev/x:1"]}, "it must be a list of objects"),
    ({"CapAdd": ["NOPE"]}, 'invalid CapAdd: unknown capability: "CAP_NOPE"'),
    ({"CapDrop": [5]}, "invalid CapDrop: it must be a list of strings"),
    ({"SecurityOpt": [""]}, 'invalid --security-opt: ""'),
    ({"SecurityOpt": ["no-new-privileges=perhaps"]}, 'invalid --security-opt: "no-new-privileges=perhaps"'),
    ({"SecurityOpt": ["nope=1"]}, "invalid --security-opt"),
    ({"SecurityOpt": ["seccomp=/etc/passwd"]}, "Decoding seccomp profile failed"),
    ({"SecurityOpt": ["seccomp=" + "[" * 100_000]}, "Decoding seccomp profile failed"),
    ({"MaskedPaths": ["proc"]}, "invalid masked path"),
    ({"ReadonlyPaths": ["/proc/../etc"]}, "invalid read-only path"),
    ({"Devices": [{"PathOnHost": "dev/x"}]}, "invalid device"),
    ({"Devices": [{"PathOnHost": "/dev/x", "CgroupPermissions": "rx"}]}, "invalid permissions of device /dev/x"),
    ({"DeviceCgroupRules": ["c 1:3"]}, "invalid device cgroup rule"),
    ({"DeviceCgroupRules": ["c 1:3 r\n"]}, "invalid device cgroup rule"),
    ({"GroupAdd": ["a b"]}, "invalid group 'a b'"),
    ({"Ulimits": [{"Name": "files", "Soft": 1, "Hard": 1}]}, "invalid ulimit type: files"),
    (
        {"Ulimits": [{"Name": "nofile", "Soft": 2, "Hard": 1}]},
        "soft limit must be less than or equal to hard limit",
    ),
    ({"Ulimits": [{"Name": "nofile", "Soft": -1, "Hard": 1}]}, "soft limit must be less than or equal"),
    ({"Ulimits": [{"Name": "nofile", "Soft": -2, "Hard": -2}]}, "invalid ulimit nofile -2"),
    ({"Sysctls": {"net/core": "1"}}, "invalid sysctl"),
    ({"Sysctls": {"net.a/../../x": "1"}}, "invalid sysctl"),
    ({"Sysctls": {"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/x"}}, "invalid value"),
    ({"Sysctls": {"net.a": "1\n"}}, "invalid value"),
    ({"Sysctls": {"net.a": 1}}, "invalid Sysctls: its values must be strings"),
    ({"PidMode": "private"}, "invalid PID mode: private"),
    ({"IpcMode": "nope"}, "invalid IPC mode: nope"),
    ({"UTSMode": "private"}, "invalid UTS mode: private"),
    ({"CgroupnsMode": "nope"}, "invalid cgroup namespace mode: nope"),
    ({"UsernsMode": "private"}, "invalid user namespace mode: private"),
    ({"ShmSize": -1}, "SHM size can not be less than 0"),
    ({"ShmSize": 2**63}, "invalid ShmSize"),
    ({"OomScoreAdj": 1001}, "Invalid value 1001, range for oom score adj is [-1000, 1000]"),
    ({"ExtraHosts": ["a"]}, "bad format for add-host: 'a'"),
    ({"ExtraHosts": [":1.2.3.4"]}, "bad format for add-host"),
    ({"ExtraHosts": ["a:1.2.3.4\n6.6.6.6 evil"]}, "IP address in add-host"),
    ({"ExtraHosts": ["a\nb:1.2.3.4"]}, "IP address in add-host"),
    ({"ExtraHosts": ["a:fe80::1%eth0"]}, "IP address in add-host"),
    ({"Dns": ["1.2.3"]}, "invalid dns server"),
    ({"Dns": ["1.2.3.4\nsearch x"]}, "invalid dns server"),
    ({"DnsSearch": ["a b"]}, "invalid dns search domain"),
    ({"DnsSearch": ["a\n"]}, "invalid dns search domain"),
    ({"DnsOptions": ["ndots:2\n"]}, "invalid dns option"),
    ({"RestartPolicy": {"Name": "sometimes"}}, "invalid restart policy: unknown policy 'sometimes'; use one of"),
    (
        {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 1}},
        "invalid restart policy: maximum retry count can only be used with 'on-failure'",
    ),
    ({"RestartPolicy": {"Name": "no", "MaximumRetryCount": -1}}, "'on-failure' and cannot be negative"),
    (
        {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}},
        "invalid restart policy: maximum retry count cannot be negative",
    ),
    (
        {"RestartPolicy": {"Name": "always"}, "AutoRemove": True},
        "can't create 'AutoRemove' container with restart",
    ),
    ({"RestartPolicy": {"name": "always"}}, "it has no field 'name'"),
    ({"LogConfig": {"Type": "syslog"}}, "logger: no log driver named 'syslog' is registered"),
    (
        {"LogConfig": {"Type": "json-file", "Config": {"nope": "1"}}},
        "unknown log opt 'nope' for json-file log driver",
    ),
    ({"LogConfig": {"Config": {"max-size": "0"}}}, "max-size must be a positive number"),
    ({"LogConfig": {"Config": {"max-size": "-1"}}}, "max-size must be a positive number"),
    ({"LogConfig": {"Config": {"max-file": "0"}}}, "invalid log opt max-file"),
    ({"LogConfig": {"Config": {"max-file": "x"}}}, "invalid log opt max-file"),
    ({"LadingDeadline": -1}, "invalid LadingDeadline"),
    ({"LadingDeadline": "1m"}, "invalid LadingDeadline"),
    ({"LadingRestartUnhealthy": 1}, "invalid LadingRestartUnhealthy"),
    ({"Init": "yes"}, "invalid Init"),
    ({"AutoRemove": 1}, "invalid AutoRemove"),
    ({"NetworkMode": "bridge"}, "does not exist"),
    ({"NetworkMode": "container:x"}, "does not exist"),
]


@pytest.mark.parametrize(("host", "words"), INVALID, ids=lambda each: str(each)[:80])
def test_what_can_not_be_is_refused_in_mobys_words(host: dict[str, Any], words: str) -> None:
    status, said = refused(host, V1)
    assert (status, words in said) == (400, True), said
    assert len(said) < 1100


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"Image": ""}, "no image"), ({"Image": 5}, "invalid Image"), ({"Image": ["a"]}, "invalid Image"),
        ({"Cmd": {"a": 1}}, "invalid Cmd"), ({"Cmd": [1]}, "invalid Cmd"), ({"Env": "A=1"}, "invalid Env"),
        ({"Env": [1]}, "invalid Env"), ({"Labels": {"a": 1}}, "invalid Labels"),
        ({"Labels": ["a"]}, "invalid Labels"), ({"User": 5}, "invalid User"), ({"User": "a\0"}, "NUL"),
        ({"OpenStdin": "yes"}, "invalid OpenStdin"), ({"StopTimeout": 1.5}, "invalid StopTimeout"),
        ({"StopTimeout": True}, "invalid StopTimeout"), ({"StopTimeout": 1 << 40}, "invalid StopTimeout"),
        ({"Tty": 1}, "invalid Tty"), ({"Hostname": "x" * 65}, "is too long (maximum 64 bytes)"),
        ({"Domainname": "a b"}, "invalid domain name"), ({"Domainname": "a\nb"}, "invalid domain name"),
        ({"Healthcheck": []}, "invalid Healthcheck"),
        ({"Healthcheck": {"Test": ["RUN", "x"]}}, "Unknown healthcheck type"),
        ({"Healthcheck": {"Test": ["CMD"]}}, "needs a command"),
        ({"Healthcheck": {"Test": ["CMD", "a\0"]}}, "NUL"),
        ({"Healthcheck": {"Interval": 999}}, "Interval in Healthcheck cannot be less than 1ms"),
        ({"Healthcheck": {"Timeout": -1}}, "Timeout in Healthcheck cannot be less than 1ms"),
        ({"Healthcheck": {"StartPeriod": 1}}, "StartPeriod in Healthcheck cannot be less than 1ms"),
        ({"Healthcheck": {"StartInterval": 1}}, "StartInterval in Healthcheck cannot be less than 1ms"),
        ({"Healthcheck": {"Retries": -1}}, "Retries in Healthcheck cannot be negative"),
        ({"Healthcheck": {"interval": 1}}, "it has no field 'interval'"),
        ({"NetworkingConfig": {"EndpointsConfig": []}}, "invalid EndpointsConfig"),
        ({"Tty": True, "HostConfig": {"ConsoleSize": [1, 2, 3]}}, "invalid ConsoleSize"),
        ({"Tty": True, "HostConfig": {"ConsoleSize": [1, -2]}}, "invalid ConsoleSize"),
        ({"Hostname": "x", "HostConfig": {"UTSMode": "host"}}, "conflicting options: hostname and the UTS mode"),
    ],
    ids=lambda each: str(each)[:80],
)  # fmt: skip
def test_what_is_malformed_is_refused_as_such(config: dict[str, Any], words: str) -> None:
    status, said = refused(config.pop("HostConfig", None), **config)
    assert (status, words in said) == (400, True), said


def test_an_empty_request_names_no_image() -> None:
    with pytest.raises(HttpError, match="no image"):
        parse_create({}, V2)
    with pytest.raises(HttpError, match="invalid HostConfig"):
        parse_create(STOCK | {"HostConfig": []}, V2)
