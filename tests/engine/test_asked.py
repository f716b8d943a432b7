"""What the runtime is told of each setting, exactly; everything else stays as it is without."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import attrs
import pytest

from lading.engine.containers.hostchecks import check_host, unsupported
from lading.engine.oci import asked, seccomp
from lading.engine.oci.asked import with_settings
from lading.engine.oci.config import DEFAULT_CAPABILITIES, BundleSpec, Host, MountEntry, render
from lading.engine.oci.initprogram import is_static
from lading.engine.oci.privatefiles import private_files
from lading.events.errors import HostError, Invalid
from lading.events.ids import ImageId
from lading.events.privileges import CAPABILITIES
from lading.events.settings import ContainerSettings, Device, Resources, Ulimit
from lading.events.spec import ContainerSpec

V1 = Host(machine="x86_64", kernel=(6, 1), cgroup_v2=False)
V2 = attrs.evolve(V1, cgroup_v2=True)
MIB = 1 << 20


@pytest.fixture
def spec(tmp_path: Path) -> BundleSpec:
    """A container whose image has some groups."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_text("root:x:0:\nfirst:x:11:\nfirst:x:12:\n12:x:0:\nbad:x:zz:\n")
    return BundleSpec(
        container_id="0" * 64,
        rootfs=str(tmp_path),
        args=("/bin/sh",),
        env=("A=b",),
        cwd="/",
        cgroups_path="/lading/x",
        nofile=(1024, 4096),
        network="none",
        uid=5,
        gid=6,
        additional_gids=(6,),
        hostname="box",
        files=(("/b/hosts", "/etc/hosts"), ("/b/resolv.conf", "/etc/resolv.conf")),
    )


def rendered(spec: BundleSpec, host: Host = V1, **settings: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(render(with_settings(spec, ContainerSettings(**settings), host), host))
    return document


def changes(spec: BundleSpec, host: Host = V1, **settings: Any) -> dict[str, Any]:
    """The parts that differ from the usual document: ``path.to.part`` -> what it is now."""
    usual = json.loads(render(spec, host))
    found: dict[str, Any] = {}

    def compare(path: str, before: Any, after: Any) -> None:
        if isinstance(before, dict) and isinstance(after, dict):
            for key in before.keys() | after.keys():
                compare(f"{path}.{key}" if path else key, before.get(key), after.get(key))
        elif before != after:
            found[path] = after

    compare("", usual, rendered(spec, host, **settings))
    return found


def test_the_usual_settings_are_the_usual_document(spec: BundleSpec) -> None:
    assert changes(spec) == {}
    assert render(with_settings(spec, ContainerSettings(), V1), V1) == render(spec, V1)


LIMITS = Resources(
    memory=64 * MIB,
    memory_reservation=32 * MIB,
    swappiness=0,
    oom_kill_disable=True,
    cpu_shares=512,
    nano_cpus=1_500_000_000,
    cpuset_cpus="0-1",
    cpuset_mems="0",
    pids=7,
    blkio_weight=300,
)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"tty": True}, {"process.terminal": True}),
        (
            {"resources": LIMITS},
            {
                "linux.resources.memory": {
                    "limit": 64 * MIB,
                    "reservation": 32 * MIB,
                    "swap": 128 * MIB,
                    "swappiness": 0,
                    "disableOOMKiller": True,
                },
                "linux.resources.cpu": {
                    "shares": 512,
                    "quota": 150000,
                    "period": 100000,
                    "cpus": "0-1",
                    "mems": "0",
                },
                "linux.resources.pids": {"limit": 7},
                "linux.resources.blockIO": {"weight": 300},
            },
        ),
        (
            {"resources": Resources(memory=64 * MIB, memory_swap=-1, pids=-1, cpu_quota=-1, cpu_period=5000)},
            {"linux.resources.memory": {"limit": 64 * MIB}, "linux.resources.cpu": {"quota": -1, "period": 5000}},
        ),
        (
            {"ulimits": (Ulimit("nofile", 7, -1), Ulimit("core", -1, -1))},
            {
                "process.rlimits": [
                    {"type": "RLIMIT_NOFILE", "soft": 7, "hard": 2**64 - 1},
                    {"type": "RLIMIT_CORE", "soft": 2**64 - 1, "hard": 2**64 - 1},
                ]
            },
        ),
        (
            {"sysctls": {"net.ipv4.ping_group_range": "1 1", "kernel.msgmax": "5"}, "domainname": "example.org"},
            {
                "linux.sysctl.net.ipv4.ping_group_range": "1 1",
                "linux.sysctl.kernel.msgmax": "5",
                "linux.sysctl.kernel.domainname": "example.org",
            },
        ),
        (
            {"oom_score": -5, "no_new_privileges": True},
            {"process.oomScoreAdj": -5, "process.noNewPrivileges": True},
        ),
        ({"masked": (), "readonly": ("/x",)}, {"linux.maskedPaths": [], "linux.readonlyPaths": ["/x"]}),
        ({"seccomp": "unconfined"}, {"linux.seccomp": None}),
        ({"groups": ("first", "77", "12", "6")}, {"process.user.additionalGids": [6, 11, 77, 12]}),
        (
            {"pid_mode": "host", "cgroupns_mode": "private"},
            {"linux.namespaces": [{"type": name} for name in ("ipc", "uts", "mount", "network", "cgroup")]},
        ),
        (
            {"uts_mode": "host"},
            {
                "hostname": None,
                "linux.namespaces": [{"type": name} for name in ("pid", "ipc", "mount", "network")],
            },
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_each_setting_changes_its_part_alone(
    spec: BundleSpec, settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert changes(spec, **settings) == expected


def test_capabilities_change_the_filter_with_them(spec: BundleSpec) -> None:
    found = changes(spec, cap_add=("SYS_ADMIN",), cap_drop=("CHOWN",))
    capabilities = frozenset(DEFAULT_CAPABILITIES - {"CAP_CHOWN"} | {"CAP_SYS_ADMIN"})
    assert found.pop("process.capabilities.bounding") == sorted(capabilities)
    assert {key.partition(".syscalls")[0] for key in found} == {"linux.seccomp"}
    linux = rendered(spec, cap_add=("SYS_ADMIN",), cap_drop=("CHOWN",))["linux"]
    assert linux["seccomp"] == seccomp.resolve(capabilities, "x86_64", (6, 1))


def test_only_capabilities_that_the_engine_has_are_given(spec: BundleSpec) -> None:
    host = attrs.evolve(V1, capabilities=DEFAULT_CAPABILITIES | {"CAP_SYS_ADMIN"})
    found = rendered(spec, host, cap_add=("ALL",))["process"]["capabilities"]["bounding"]
    assert set(found) == host.capabilities
    with pytest.raises(Invalid, match="the engine itself lacks it"):
        check_host(ContainerSettings(cap_add=("SYS_BOOT",)), host)
    check_host(ContainerSettings(cap_add=("ALL", "sys_admin")), host)


def test_privileged(spec: BundleSpec) -> None:
    document = rendered(attrs.evolve(spec, uid=0), privileged=True)
    linux, process = document["linux"], document["process"]
    assert process["capabilities"] == {
        **{name: sorted(CAPABILITIES) for name in ("bounding", "effective", "permitted")},
        "inheritable": [],
        "ambient": [],
    }
    assert "seccomp" not in linux
    assert (linux["maskedPaths"], linux["readonlyPaths"]) == ([], [])
    assert linux["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    places = {device["path"]: device for device in linux["devices"]}
    null = os.stat("/dev/null")
    assert places["/dev/null"] == {
        "path": "/dev/null",
        "type": "c",
        "major": 1,
        "minor": 3,
        "fileMode": null.st_mode & 0o7777,
        "uid": null.st_uid,
        "gid": null.st_gid,
    }
    assert not any(path.startswith(("/dev/pts", "/dev/shm", "/dev/fd")) for path in places)
    mounts = {mount["destination"]: mount["options"] for mount in document["mounts"]}
    assert "ro" not in mounts["/sys"] + mounts["/sys/fs/cgroup"]
    profile = '{"defaultAction":"SCMP_ACT_ALLOW"}'
    linux = rendered(spec, privileged=True, seccomp=profile, masked=("/x",))["linux"]
    assert (linux["seccomp"], linux["maskedPaths"]) == (
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []},
        ["/x"],
    )


def test_devices_come_with_their_rules(spec: BundleSpec) -> None:
    settings = {"devices": (Device("/dev/full", "/dev/x", "r"),), "device_rules": ("b 8:* rw", "a *:* rwm")}
    linux = rendered(spec, **settings)["linux"]
    full = os.stat("/dev/full")
    assert linux["devices"] == [
        {
            "path": "/dev/x",
            "type": "c",
            "major": 1,
            "minor": 7,
            "fileMode": full.st_mode & 0o7777,
            "uid": full.st_uid,
            "gid": full.st_gid,
        }
    ]
    assert linux["resources"]["devices"][8:] == [
        {"allow": True, "type": "c", "major": 1, "minor": 7, "access": "r"},
        {"allow": True, "type": "b", "major": 8, "access": "rw"},
        {"allow": True, "type": "a", "access": "rwm"},
    ]


def test_a_link_to_a_device_is_the_device_and_one_to_nowhere_an_error(spec: BundleSpec, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/full")
    [device] = rendered(spec, devices=(Device(str(tmp_path / "link"), "/dev/x"),))["linux"]["devices"]
    assert (device["path"], device["minor"]) == ("/dev/x", 7)
    with pytest.raises(HostError):
        rendered(spec, devices=(Device(str(tmp_path / "none"), "/dev/x"),))
    with pytest.raises(Invalid):
        rendered(spec, devices=(Device(str(tmp_path / "etc"), "/dev/x"),))


def test_a_rate_has_its_device_s_numbers(
    spec: BundleSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = os.stat

    def block(path: Any, *arguments: Any, **options: Any) -> Any:
        if str(path) != "/dev/some-disk":
            return real(path, *arguments, **options)
        fields = [0o060660, *range(9)]
        return os.stat_result(fields, {"st_rdev": os.makedev(8, 17)})

    monkeypatch.setattr(os, "stat", block)
    resources = Resources(
        read_bps=("/dev/some-disk:5",), write_iops=("/dev/some-disk:6",), read_iops=("/dev/some-disk:0",)
    )
    linux = rendered(spec, resources=resources)["linux"]
    assert linux["resources"]["blockIO"] == {
        "throttleReadBpsDevice": [{"major": 8, "minor": 17, "rate": 5}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 17, "rate": 6}],
    }
    with pytest.raises(Invalid, match="no block device"):
        rendered(spec, resources=Resources(read_bps=("/dev/null:5",)))


def test_mounts_are_where_docker_has_them(spec: BundleSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    own = (
        MountEntry("/a/b/c", "bind", "/s3", ("rbind",)),
        MountEntry("/a", "bind", "/s1", ("rbind",)),
        MountEntry("/etc/hosts", "bind", "/mine", ("rbind",)),
        MountEntry("/dev/mqueue", "tmpfs", "tmpfs", ()),
    )
    monkeypatch.setattr(asked, "find_init", lambda: "/usr/bin/some-init")
    document = rendered(attrs.evolve(spec, mounts=own), init=True, ipc_mode="host", shm_size=MIB)
    assert document["process"]["args"] == ["/sbin/docker-init", "--", "/bin/sh"]
    places = [mount["destination"] for mount in document["mounts"]]
    assert places == [
        *("/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup"),
        *("/a", "/dev/shm", "/etc/hosts", "/dev/mqueue", "/sbin/docker-init", "/etc/resolv.conf", "/a/b/c"),
    ]
    by_place = {mount["destination"]: mount for mount in document["mounts"]}
    assert by_place["/sbin/docker-init"]["options"] == ["bind", "ro"]
    assert (by_place["/dev/shm"]["source"], by_place["/etc/hosts"]["source"]) == ("/dev/shm", "/mine")
    everything = (MountEntry("/dev", "bind", "/dev", ("rbind",)),)
    places = [mount["destination"] for mount in rendered(attrs.evolve(spec, mounts=everything))["mounts"]]
    assert places == ["/proc", "/sys", "/sys/fs/cgroup", "/dev", "/etc/hosts", "/etc/resolv.conf"]
    places = [mount["destination"] for mount in rendered(spec, ipc_mode="none")["mounts"]]
    assert "/dev/shm" not in places
    shm = next(m for m in rendered(spec, shm_size=MIB)["mounts"] if m["destination"] == "/dev/shm")
    assert shm["options"][-1] == f"size={MIB}"


def test_init_is_not_in_the_way_of_the_host_s(spec: BundleSpec) -> None:
    assert rendered(spec, init=True, pid_mode="host")["process"]["args"] == ["/bin/sh"]


def test_limits_that_the_kernel_lacks_are_left_out_and_told(spec: BundleSpec) -> None:
    host = attrs.evolve(V1, missing=frozenset(("memory_swap", "blkio_weight", "swappiness")))
    resources = rendered(spec, host, resources=LIMITS)["linux"]["resources"]
    assert "blockIO" not in resources
    assert resources["memory"].keys() == {"limit", "reservation", "disableOOMKiller"}
    told = unsupported(ContainerSettings(resources=LIMITS), host)
    assert [words.split(" or ")[0].removeprefix("Your kernel does not support ") for words in told] == [
        *("memory swappiness capabilities", "Block I/O weight", "swap limit capabilities"),
    ]
    assert unsupported(ContainerSettings(resources=LIMITS), V1) == ()


def test_v2_has_a_cgroup_namespace_unless_it_is_the_host_s(spec: BundleSpec) -> None:
    def namespaces(mode: str) -> list[str]:
        return [each["type"] for each in rendered(spec, V2, cgroupns_mode=mode)["linux"]["namespaces"]]

    assert "cgroup" in namespaces("") and "cgroup" in namespaces("private")  # noqa: PT018
    assert "cgroup" not in namespaces("host")


@pytest.mark.parametrize("group", ["none", "bad", "-1", "0x0"])
def test_groups_that_are_none_are_refused(spec: BundleSpec, group: str) -> None:
    with pytest.raises(Invalid):
        rendered(spec, groups=(group,))


@pytest.mark.parametrize("kind", ["fifo", "link", "large"])
def test_a_hostile_group_file_is_not_read(spec: BundleSpec, kind: str) -> None:
    path = Path(spec.rootfs) / "etc/group"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/etc/group")  # in the root, that is itself
    else:
        with path.open("wb") as file:
            file.truncate(1 << 30)
    with pytest.raises(Invalid):
        rendered(spec, groups=("root",))


def files(settings: ContainerSettings, network: Any) -> dict[str, str]:
    spec = ContainerSpec(
        image=ImageId("sha256:0"), image_name="x", layers=(), args=("x",), hostname="box", network=network
    )
    return {name: content.decode() for name, content in private_files(spec, settings)}


def test_private_files_are_the_usual_ones_with_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    local = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    assert files(ContainerSettings(), "none") == {"hostname": "box\n", "hosts": local, "resolv.conf": ""}
    found = files(ContainerSettings(extra_hosts=("a:1.2.3.4", "b:[::2]"), dns_search=("x", "y")), "none")
    assert (found["hosts"], found["resolv.conf"]) == (f"{local}1.2.3.4\ta\n::2\tb\n", "search x y\n")
    host = {
        "/etc/hosts": b"10.0.0.1 me",
        "/etc/resolv.conf": b"# x\nnameserver 1.1.1.1\ndomain old\nsearch corp lan\nnameserver 2.2.2.2\n"
        b"options edns0\n",
    }
    monkeypatch.setattr("lading.engine.oci.privatefiles._read", host.__getitem__)
    assert files(ContainerSettings(), "host")["resolv.conf"] == host["/etc/resolv.conf"].decode()
    assert files(ContainerSettings(extra_hosts=("a:1.2.3.4",)), "host")["hosts"] == "10.0.0.1 me\n1.2.3.4\ta\n"
    for given, expected in (
        ({"dns": ("9.9.9.9",)}, "search corp lan\nnameserver 9.9.9.9\noptions edns0\n"),
        ({"dns_search": (".",)}, "nameserver 1.1.1.1\nnameserver 2.2.2.2\noptions edns0\n"),
        (
            {"dns_options": ("rotate",)},
            "search corp lan\nnameserver 1.1.1.1\nnameserver 2.2.2.2\noptions rotate\n",
        ),
    ):
        assert files(ContainerSettings(**given), "host")["resolv.conf"] == expected  # type: ignore[arg-type]
    with pytest.raises(Invalid):
        files(ContainerSettings(dns=("1.1.1.1\nnameserver 6.6.6.6",)), "none")


def test_an_init_has_to_be_static(tmp_path: Path) -> None:
    assert not is_static(os.path.realpath("/bin/sh"))
    assert not is_static(str(tmp_path))
    (tmp_path / "script").write_text("#!/bin/sh\n")
    assert not is_static(str(tmp_path / "script"))


def test_a_compiled_filter_is_handed_back_only_for_the_profile_that_it_is_of(spec: BundleSpec) -> None:
    def annotated(**settings: Any) -> bool:
        document = json.loads(render(with_settings(spec, ContainerSettings(**settings), V1), V1, "QUJD"))
        return "annotations" in document

    assert annotated()
    assert annotated(cap_drop=("KILL",))
    assert annotated(cap_add=("NET_ADMIN",), no_new_privileges=True)
    different: list[dict[str, Any]] = [
        {"cap_add": ("SYS_ADMIN",)},
        {"cap_drop": ("SYS_CHROOT",)},
        {"seccomp": "unconfined"},
        {"seccomp": '{"defaultAction":"SCMP_ACT_ALLOW"}'},
        {"privileged": True},
    ]
    for settings in different:
        assert not annotated(**settings), settings
