"""The runtime's config.json: equal to a plainly built one, and obeyed by real runtimes."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest

from lading.engine.oci import seccomp
from lading.engine.oci.config import DEFAULT_CAPABILITIES, BundleSpec, Host, render
from lading.events.errors import Invalid

V1 = Host(machine="x86_64", kernel=(6, 1), cgroup_v2=False)
V2 = Host(machine="aarch64", kernel=(5, 15), cgroup_v2=True, masked_paths=("/sys/x/thermal_throttle",), sysctls=())

SPEC = BundleSpec(
    container_id="0" * 64,
    rootfs="/var/lib/lading/merged",
    args=("/bin/sh", "-c", "exit 3"),
    env=("PATH=/bin", "A=b"),
    cwd="/srv",
    cgroups_path="/lading/" + "0" * 64,
    nofile=(1024, 524288),
    network="none",
    hostname="box",
)

MASKED = """
/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi
/proc/timer_list /proc/timer_stats /sys/devices/virtual/powercap /sys/firmware
"""


def plainly(spec: BundleSpec, host: Host) -> dict[str, Any]:
    """The same document, written out the long way from the specification and moby's defaults."""

    def mount(destination: str, kind: str, source: str, *options: str) -> dict[str, object]:
        return {"destination": destination, "type": kind, "source": source, "options": list(options)}

    def device(allow: bool, major: int, minor: int) -> dict[str, object]:
        return {"allow": allow, "type": "c", "major": major, "minor": minor, "access": "rwm"}

    bounding = sorted(spec.capabilities)
    held = bounding if spec.uid == 0 else []
    capabilities = {"bounding": bounding, "effective": held, "permitted": held, "inheritable": [], "ambient": []}
    namespaces = ["pid", "ipc", "uts", "mount"]
    linux: dict[str, Any] = {
        "cgroupsPath": spec.cgroups_path,
        "resources": {
            "devices": [
                {"allow": False, "access": "rwm"},
                device(True, 1, 5),
                device(True, 1, 3),
                device(True, 1, 9),
                device(True, 1, 8),
                device(True, 5, 0),
                device(True, 5, 1),
                device(False, 10, 229),
            ]
        },
        "maskedPaths": [*MASKED.split(), *host.masked_paths],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    }
    if spec.network == "none":
        namespaces.append("network")
        if host.sysctls:
            linux["sysctl"] = dict(host.sysctls)
    if host.cgroup_v2:
        namespaces.append("cgroup")
    linux["namespaces"] = [{"type": name} for name in namespaces]
    if spec.seccomp:
        linux["seccomp"] = seccomp.resolve(spec.capabilities, host.machine, host.kernel)
    private = ["rbind", "ro", "rprivate"] if spec.readonly_rootfs else ["rbind", "rprivate"]
    document: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": spec.terminal,
            "user": {"uid": spec.uid, "gid": spec.gid, "additionalGids": list(spec.additional_gids)},
            "args": list(spec.args),
            "env": list(spec.env),
            "cwd": spec.cwd,
            "noNewPrivileges": spec.no_new_privileges,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": spec.nofile[0], "hard": spec.nofile[1]}],
            "capabilities": capabilities,
        },
        "root": {"path": spec.rootfs, "readonly": spec.readonly_rootfs},
        "mounts": [
            mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
            mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            mount(
                "/dev/pts",
                "devpts",
                "devpts",
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ),
            mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev"),
            mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", f"size={spec.shm_size}"),
            *(mount(destination, "bind", source, *private) for source, destination in spec.files),
        ],
        "linux": linux,
    }
    if spec.hostname:
        document["hostname"] = spec.hostname
    return document


FILES = (("/state/hosts", "/etc/hosts"), ("/state/resolv.conf", "/etc/resolv.conf"))

NETWORKS: tuple[Literal["none", "host"], ...] = ("none", "host")


@pytest.mark.parametrize("host", [V1, V2], ids=["v1", "v2"])
def test_the_joined_document_is_the_plain_one(host: Host) -> None:
    product = itertools.product(NETWORKS, (0, 1000), (True, False), (True, False), ((), FILES), ("box", None))
    for network, uid, confined, readonly, files, hostname in product:
        spec = attrs.evolve(
            SPEC,
            network=network,
            uid=uid,
            gid=7,
            additional_gids=(7, 8),
            seccomp=confined,
            readonly_rootfs=readonly,
            terminal=readonly,
            no_new_privileges=confined,
            files=files,
            hostname=hostname,
            capabilities=DEFAULT_CAPABILITIES if confined else frozenset({"CAP_SYS_ADMIN"}),
            shm_size=1 << 20 if readonly else 64 << 20,
        )
        assert json.loads(render(spec, host)) == plainly(spec, host)


@pytest.mark.parametrize(
    "text",
    [
        '"',
        "\\",
        '"}],"root":{"path":"/"',
        "\n\t\x01\x7f",
        "é ☃ \U0001f600",
        "\\u0000",
        "\\\\u0000",
        "</script>",
        "",
    ],
)
def test_no_text_can_leave_its_place(text: str) -> None:
    spec = attrs.evolve(
        SPEC,
        args=("x", text),
        env=("A=" + text,),
        cwd="/" + text,
        rootfs="/r" + text,
        hostname="h" + text,
        files=(("/s" + text, "/d" + text),),
        cgroups_path="/c" + text,
    )
    assert json.loads(render(spec, V1)) == plainly(spec, V1)


def test_equal_input_gives_equal_compact_bytes() -> None:
    data = render(SPEC, V1)
    assert data == render(attrs.evolve(SPEC), attrs.evolve(V1))
    assert data == json.dumps(json.loads(data), ensure_ascii=False, separators=(",", ":")).encode()


def test_nothing_becomes_an_annotation_or_a_hook() -> None:
    document = json.loads(render(SPEC, V1))
    assert set(document) == {"ociVersion", "process", "root", "hostname", "mounts", "linux"}


def test_docker_default_capabilities_as_the_kernel_counts_them() -> None:
    bits = {
        "CHOWN": 0,
        "DAC_OVERRIDE": 1,
        "FOWNER": 3,
        "FSETID": 4,
        "KILL": 5,
        "SETGID": 6,
        "SETUID": 7,
        "SETPCAP": 8,
    }
    bits |= {
        "NET_BIND_SERVICE": 10,
        "NET_RAW": 13,
        "SYS_CHROOT": 18,
        "MKNOD": 27,
        "AUDIT_WRITE": 29,
        "SETFCAP": 31,
    }
    assert {f"CAP_{name}" for name in bits} == DEFAULT_CAPABILITIES
    assert sum(1 << bit for bit in bits.values()) == 0xA80425FB


@pytest.mark.parametrize(
    "change",
    [
        {"args": ()},
        {"args": ("a\0b",)},
        {"args": ("\\\0",)},
        {"env": ("A=\0",)},
        {"cwd": "/\0"},
        {"hostname": "h\0"},
        {"rootfs": "/\0"},
        {"files": (("/a\0", "/b"),)},
        {"args": ("\udcff",)},
        {"rootfs": "/\udcff"},
        {"cgroups_path": "/lading/../../x"},
        {"cgroups_path": "lading/x"},
        {"cgroups_path": "/lading/\0"},
    ],
)
def test_what_no_runtime_can_be_given_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        render(attrs.evolve(SPEC, **change), V1)


def test_the_host_is_probed() -> None:
    host = Host.probe()
    assert host.machine == os.uname().machine
    assert host.kernel >= (3, 10)
    assert {name for name, _ in host.sysctls} <= {
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
    }


Run = Callable[..., "subprocess.CompletedProcess[str]"]
APPLETS = (
    "sh",
    "id",
    "cat",
    "grep",
    "head",
    "hostname",
    "ls",
    "mount",
    "pwd",
    "sleep",
    "stat",
    "touch",
    "unshare",
    "wc",
)


@pytest.fixture(params=["crun", "runc"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Run a script as a container: ``run(script, **changes of the spec)``."""
    runtime = str(request.param)
    if os.geteuid() != 0 or shutil.which(runtime) is None or shutil.which("busybox") is None:
        pytest.skip(f"needs root, {runtime} and busybox")
    rootfs = tmp_path / "rootfs"
    (rootfs / "bin").mkdir(parents=True)
    for directory in ("etc", "proc", "sys", "dev", "tmp"):
        (rootfs / directory).mkdir()
    shutil.copy("/usr/bin/busybox", rootfs / "bin/busybox")
    for applet in APPLETS:
        (rootfs / "bin" / applet).symlink_to("busybox")
    os.chmod(tmp_path, 0o755)
    host = Host.probe()

    def start(script: str, **changes: Any) -> subprocess.CompletedProcess[str]:
        identity = f"lading-test-{uuid.uuid4().hex}"
        bundle = tmp_path / identity
        bundle.mkdir()
        spec = BundleSpec(
            container_id=identity,
            rootfs=str(rootfs),
            args=("/bin/sh", "-c", script),
            env=("PATH=/bin",),
            cwd="/",
            cgroups_path=f"/{identity}",
            nofile=(512, 1024),
            network="none",
            hostname="cargo",
        )
        (bundle / "config.json").write_bytes(render(attrs.evolve(spec, **changes), host))
        command = [runtime, "--root", str(tmp_path / "state")]
        try:
            return subprocess.run(
                [*command, "run", "--bundle", str(bundle), identity],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
        finally:
            subprocess.run([*command, "delete", "--force", identity], capture_output=True, check=False)

    return start


def status(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


@pytest.mark.real
def test_root_has_docker_confinement(run: Run) -> None:
    done = run("id -u; cat /proc/self/status; exit 7")
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.startswith("0\n")
    facts = status(done.stdout)
    assert facts["CapEff"] == facts["CapPrm"] == facts["CapBnd"] == "00000000a80425fb"
    assert facts["CapInh"] == facts["CapAmb"] == "0" * 16
    assert (facts["Seccomp"], facts["NoNewPrivs"]) == ("2", "0")


@pytest.mark.real
def test_a_user_has_no_capabilities_and_its_own_groups(run: Run) -> None:
    done = run("id -u; id -g; id -G; cat /proc/self/status", uid=1000, gid=50, additional_gids=(50, 999))
    assert done.stdout.splitlines()[:3] == ["1000", "50", "50 999"], done.stderr
    facts = status(done.stdout)
    assert facts["CapEff"] == facts["CapPrm"] == facts["CapInh"] == facts["CapAmb"] == "0" * 16
    assert (facts["CapBnd"], facts["Seccomp"]) == ("00000000a80425fb", "2")


@pytest.mark.real
def test_masked_paths_are_empty_and_read_only_ones_refuse(run: Run) -> None:
    """Every default path that this machine has, as the container's own mount table and a read show it."""
    linux = plainly(SPEC, Host.probe())["linux"]
    masked = [path for path in linux["maskedPaths"] if os.path.exists(path)]
    readonly = [path for path in linux["readonlyPaths"] if os.path.exists(path)]
    looks = "".join(f"if [ -d {path} ]; then ls -A {path}; else cat {path}; fi | wc -c;" for path in masked)
    done = run(f"{looks} echo --; cat /proc/mounts")
    contents, _, table = done.stdout.partition("--\n")
    assert contents.split() == ["0"] * len(masked), done
    mounts = {fields[1]: fields[3].split(",") for fields in (line.split() for line in table.splitlines())}
    assert mounts.keys() >= {*masked, *readonly, "/sys", "/proc"}
    for path in (*readonly, "/sys", *(path for path in mounts if path.startswith("/sys/fs/cgroup/"))):
        assert "ro" in mounts[path], path


@pytest.mark.real
def test_the_host_is_out_of_reach(run: Run) -> None:
    # What is written is what is there already: if the confinement fails, so does the test, and no more.
    done = run(
        "f=/proc/sys/kernel/domainname; v=$(cat $f); (echo $v > $f) 2>&1 | grep -ci 'read-only';"
        "touch /sys/x 2>&1 | grep -ci 'read-only';"
        "unshare -U true 2>&1 | grep -ci 'not permitted';"
        "mount -t tmpfs none /tmp 2>&1 | grep -ci 'denied'"
    )
    assert done.stdout.split() == ["1", "1", "1", "1"], done


@pytest.mark.real
def test_the_filter_is_what_refuses(run: Run) -> None:
    """The control of the test above: unfiltered, root without capabilities may make a user namespace."""
    done = run("grep Seccomp: /proc/self/status; unshare -U sh -c 'echo made'", seccomp=False)
    assert done.stdout.split() == ["Seccomp:", "0", "made"], done


@pytest.mark.real
def test_the_container_is_as_the_spec_says(run: Run, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 cargo\n")
    done = run(
        "hostname; cat /etc/hosts; ls /sys/class/net; pwd; echo $GREETING; ulimit -n; ulimit -Hn;"
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start; grep -c ' /dev/shm .*size=1024k' /proc/mounts",
        files=((str(hosts), "/etc/hosts"),),
        cwd="/tmp",
        env=("PATH=/bin", "GREETING=été ☃ \U0001f600"),
        shm_size=1 << 20,
    )
    expected = "cargo|127.0.0.1 cargo|lo|/tmp|été ☃ \U0001f600|512|1024|0|1"
    assert done.stdout.splitlines() == expected.split("|"), done


@pytest.mark.real
def test_host_network_is_the_hosts_and_the_hostname_is_not(run: Run) -> None:
    done = run("ls -l /proc/self/ns/net | grep -o '\\[.*'; hostname", network="host")
    namespace = os.readlink("/proc/self/ns/net").removeprefix("net:")
    assert done.stdout.split() == [namespace, "cargo"], done
    assert os.uname().nodename != "cargo"


@pytest.mark.real
def test_a_read_only_root_and_its_files_are(run: Run, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("here\n")
    done = run(
        "touch /x 2>&1 | grep -ci read-only; (echo forged > /etc/hosts) 2>&1 | grep -ci read-only;"
        "echo fine > /dev/shm/x && cat /dev/shm/x; grep NoNewPrivs /proc/self/status",
        files=((str(hosts), "/etc/hosts"),),
        readonly_rootfs=True,
        no_new_privileges=True,
    )
    assert done.stdout.split() == ["1", "1", "fine", "NoNewPrivs:", "1"], done
    assert hosts.read_text() == "here\n"


@pytest.mark.real
def test_capabilities_asked_for_are_had_and_widen_the_filter(run: Run) -> None:
    done = run(
        "grep CapEff /proc/self/status; mount -t tmpfs none /tmp && echo mounted",
        capabilities=frozenset({"CAP_SYS_ADMIN"}),
    )
    assert done.stdout.split() == ["CapEff:", "0000000000200000", "mounted"], done
