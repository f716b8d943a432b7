"""Each setting as a container's own command finds it, with both runtimes."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from stage import IMAGE, Stage, agree, event

import lading
from lading.events.container import Exited
from lading.events.errors import CannotStart, HostError, Invalid
from lading.events.privileges import CAPABILITIES, DEFAULT_CAPABILITIES
from lading.events.settings import Device, Resources, Ulimit
from lading.storage.cgroups import cgroup_mode, controller_mounts

pytestmark = [pytest.mark.real, pytest.mark.slow]

V1 = pytest.mark.skipif(cgroup_mode() == "v2", reason="the files of cgroup v1")


@pytest.fixture(params=["crun", "runc"])
async def engine(request: pytest.FixtureRequest, stage: Stage) -> AsyncIterator[lading.Engine]:
    """An engine of either runtime."""
    async with stage.emptied(runtime=request.param) as engine:
        yield engine


async def says(engine: lading.Engine, script: str, **options: Any) -> list[str]:
    """The lines that ``script`` prints in a container; it has to succeed."""
    done = await engine.containers.run(IMAGE, ["sh", "-c", script], **options)
    assert (done.exit_code, done.stderr) == (0, b""), done
    return done.stdout.decode().splitlines()


def bits(capabilities: frozenset[str]) -> int:
    return sum(1 << CAPABILITIES.index(name) for name in capabilities)


def own(engine: lading.Engine, container: str, controller: str, name: str) -> str:
    """What the host reads in file ``name`` of the container's cgroup."""
    group = f"lading/{engine.core.paths.run.name}/{container}"
    return (controller_mounts()[controller] / group / name).read_text().strip()


@V1
async def test_limits_are_in_the_cgroup(engine: lading.Engine) -> None:
    resources = Resources(
        memory=64 << 20,
        memory_reservation=32 << 20,
        memory_swap=96 << 20,
        swappiness=7,
        cpu_shares=512,
        nano_cpus=500_000_000,
        cpuset_cpus="0",
        cpuset_mems="0",
        pids=17,
    )
    script = """
        cd /sys/fs/cgroup
        cat memory/memory.limit_in_bytes memory/memory.soft_limit_in_bytes memory/memory.memsw.limit_in_bytes
        cat memory/memory.swappiness cpu/cpu.shares cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us
        cat cpuset/cpuset.cpus cpuset/cpuset.mems pids/pids.max
    """
    assert await says(engine, script, resources=resources) == [
        *(str(64 << 20), str(32 << 20), str(96 << 20), "7", "512", "50000", "100000", "0", "0", "17"),
    ]


@V1
async def test_limits_that_are_not_asked_for_are_not_there(engine: lading.Engine) -> None:
    script = """
        cd /sys/fs/cgroup
        cat cpu/cpu.shares cpu/cpu.cfs_quota_us pids/pids.max; wc -c < memory/memory.limit_in_bytes
    """
    assert await says(engine, script, oom_score=1) == ["1024", "-1", "max", "20"]


@V1
async def test_swap_is_as_much_as_memory_and_unlimited_if_asked(engine: lading.Engine) -> None:
    for swap, expected in ((0, str(32 << 20)), (-1, "9223372036854771712")):
        resources = Resources(memory=16 << 20, memory_swap=swap)
        script = "cat /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"
        assert await says(engine, script, resources=resources) == [expected]


async def test_too_many_processes_are_refused(engine: lading.Engine) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait"
    done = await engine.containers.run(IMAGE, ["sh", "-c", script], resources=Resources(pids=4))
    assert b"can't fork" in done.stderr


async def test_a_rate_has_its_device_and_a_directory_is_none(engine: lading.Engine) -> None:
    disk = next(
        (f"/dev/{name}" for name in ("vda", "sda", "nvme0n1", "loop0") if os.path.exists(f"/dev/{name}")), ""
    )
    if not disk:
        pytest.skip("no disk")
    number = os.stat(disk).st_rdev
    made = await engine.containers.create(
        IMAGE, ["sleep", "100"], resources=Resources(write_bps=(f"{disk}:1048576",), read_iops=(f"{disk}:77",))
    )
    await made.start()
    device = f"{os.major(number)}:{os.minor(number)}"
    if cgroup_mode() != "v2":
        assert own(engine, made.id, "blkio", "blkio.throttle.write_bps_device") == f"{device} 1048576"
        assert own(engine, made.id, "blkio", "blkio.throttle.read_iops_device") == f"{device} 77"
    for path, error in (("/dev", Invalid), ("/dev/no-such-disk", HostError)):
        with pytest.raises(error, match="block device"):
            await engine.containers.create(IMAGE, ["true"], resources=Resources(write_bps=(f"{path}:1",)))


async def test_ulimits_come_over_the_usual_one(engine: lading.Engine) -> None:
    limits = (
        Ulimit("nofile", 77, 78),
        Ulimit("core", 0, -1),
        Ulimit("memlock", 65536, 65536),
    )
    script = "ulimit -n; ulimit -Hn; ulimit -c; ulimit -Hc; ulimit -l"
    assert await says(engine, script, ulimits=limits) == ["77", "78", "0", "unlimited", "64"]


async def test_sysctls_are_those_of_its_namespaces_only(engine: lading.Engine) -> None:
    before = Path("/proc/sys/kernel/msgmax").read_text()
    sysctls = {
        "kernel.msgmax": "7777",
        "kernel.sem": "100 6400 100 64",
        "fs.mqueue.msg_max": "9",
        "net.core.somaxconn": "77",
        "net.ipv4.ip_unprivileged_port_start": "1000",
    }
    script = """
        cd /proc/sys; cat kernel/msgmax kernel/sem fs/mqueue/msg_max net/core/somaxconn
        cat net/ipv4/ip_unprivileged_port_start kernel/domainname
    """
    lines = await says(engine, script, sysctls=sysctls, network="none", domainname="example.org")
    assert [line.split() for line in lines] == [
        *(["7777"], ["100", "6400", "100", "64"], ["9"], ["77"], ["1000"], ["example.org"])
    ]
    assert Path("/proc/sys/kernel/msgmax").read_text() == before
    assert Path("/proc/sys/kernel/domainname").read_text() != "example.org\n"


async def test_shm_oom_score_and_no_new_privileges(engine: lading.Engine) -> None:
    script = """
        grep -c ' /dev/shm .*size=2048k' /proc/mounts; cat /proc/self/oom_score_adj
        grep NoNewPrivs /proc/self/status | cut -f2
    """
    given = {"shm_size": 2 << 20, "oom_score": 321, "no_new_privileges": True}
    assert await says(engine, script, **given) == ["1", "321", "1"]


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        (
            ("NET_ADMIN",),
            ("chown", "CAP_KILL"),
            (DEFAULT_CAPABILITIES | {"CAP_NET_ADMIN"}) - {"CAP_CHOWN", "CAP_KILL"},
        ),
        ((), ("ALL",), frozenset()),
        (("SYS_TIME",), ("all",), frozenset({"CAP_SYS_TIME"})),
        (("ALL",), ("MKNOD",), frozenset(CAPABILITIES) - {"CAP_MKNOD"}),
    ],
)
async def test_capabilities(
    engine: lading.Engine, add: tuple[str, ...], drop: tuple[str, ...], expected: frozenset[str]
) -> None:
    expected = expected & engine.core.host.capabilities
    options = {"cap_add": add, "cap_drop": drop}
    lines = await says(engine, "grep -E '^(Cap|Seccomp:)' /proc/self/status", **options)
    status = dict(line.split(":\t", 1) for line in lines)
    assert status["Seccomp"] == "2"
    for field, value in (("Prm", expected), ("Eff", expected), ("Bnd", expected), ("Inh", ()), ("Amb", ())):
        assert int(status[f"Cap{field}"], 16) == bits(frozenset(value)), field
    lines = await says(engine, "grep ^Cap /proc/self/status", user="app", **options)
    assert {line[3:6]: int(line.split()[1], 16) for line in lines} == {
        **dict.fromkeys(("Inh", "Prm", "Eff", "Amb"), 0),
        "Bnd": bits(expected),
    }


async def test_privileged_is_everything(engine: lading.Engine) -> None:
    script = """
        grep -E '^(CapEff|Seccomp:)' /proc/self/status | cut -f2
        test -w /proc/sys/kernel/domainname; echo $?
        mount -t tmpfs none /tmp; echo $?
        grep -c ' /sys sysfs rw' /proc/mounts; grep ' /sys/fs/cgroup/' /proc/mounts | grep -vc ' rw,'
        test -c /dev/kmsg; echo $?; head -c 1 /proc/keys | wc -c
    """
    done = await engine.containers.run(IMAGE, ["sh", "-c", script], privileged=True)
    every = bits(engine.core.host.capabilities)
    keys = "1" if Path("/proc/keys").read_bytes() else "0"
    lines = done.stdout.decode().split()
    assert int(lines[0], 16) == every
    assert lines[1:] == ["0", "0", "0", "1", "0", "0", keys], done


async def test_seccomp_as_asked(engine: lading.Engine) -> None:
    grep = "grep Seccomp: /proc/self/status | cut -f2; mkdir /x; echo $?"
    assert await says(engine, grep, seccomp="unconfined") == ["0", "0"]
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": f"SCMP_ARCH_{os.uname().machine.upper()}", "subArchitectures": None}],
        "syscalls": [
            {
                "names": ["mkdir", "mkdirat"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 28,
                "args": [],
                "includes": {},
            },
            {"names": ["exit_group"], "action": "SCMP_ACT_KILL", "includes": {"caps": ["CAP_SYS_BOOT"]}},
        ],
    }
    done = await engine.containers.run(IMAGE, ["sh", "-c", grep], seccomp=json.dumps(profile))
    assert (done.stdout.split(), done.exit_code) == ([b"2", b"1"], 0)
    assert b"No space left" in done.stderr


async def test_paths_are_masked_and_read_only_as_asked(engine: lading.Engine) -> None:
    script = (
        "head -c 1 /proc/keys | wc -c; head -c 1 /etc/hello | wc -c; (echo x > /etc/passwd) 2>/dev/null; echo $?"
    )
    given = {"masked": ("/etc/hello",), "readonly": ("/etc",)}
    keys = "1" if Path("/proc/keys").read_bytes() else "0"
    assert await says(engine, script, **given) == [keys, "0", "1"]


async def test_devices_and_what_may_be_done_with_them(engine: lading.Engine) -> None:
    script = """
        stat -c '%t:%T' /dev/mine; (head -c 1 /dev/mine | wc -c) 2>&1; (echo > /dev/mine) 2>/dev/null; echo $?
        (head -c 1 /dev/kmsg) 2>/dev/null; echo $?
    """
    given = (Device("/dev/full", "/dev/mine", "r"),)
    assert await says(engine, script, devices=given) == ["1:7", "1", "1", "1"]
    many = (Device("/dev/net", "/dev/many", "rwm"),)
    assert await says(engine, "ls /dev/many", devices=many) == sorted(os.listdir("/dev/net"))
    script = "mknod /dev/f c 10 234; : < /dev/f"  # that it is allowed doesn't mean that there is such a device
    for rules, refused in (
        (("c 10:234 rm",), False),
        (("a *:* rwm",), False),
        (("c 10:235 r", "b 10:234 rwm"), True),
        ((), True),
    ):
        done = await engine.containers.run(IMAGE, ["sh", "-c", script], device_rules=rules)
        assert (b"Operation not permitted" in done.stderr) is refused, done
    with pytest.raises(HostError, match="no-such-device"):
        await engine.containers.create(IMAGE, ["true"], devices=(Device("/dev/no-such-device", "/dev/x"),))
    with pytest.raises(Invalid, match="neither a device nor a directory"):
        await engine.containers.create(IMAGE, ["true"], devices=(Device("/etc/passwd", "/dev/x"),))


async def test_extra_groups_are_looked_up_in_the_image(engine: lading.Engine) -> None:
    [line] = await says(engine, "id -G", user="1234:5678", groups=("audio", "77", "staff", "77"))
    assert sorted(map(int, line.split())) == [29, 50, 77, 5678]
    with pytest.raises(CannotStart, match="unable to find it"):
        await engine.containers.run(IMAGE, ["true"], groups=("nobody-has-this",))


async def test_namespaces_of_the_host(engine: lading.Engine) -> None:
    modes = ("pid", "ipc", "uts")
    links = "; ".join(f"readlink /proc/self/ns/{name}" for name in modes)
    mine = [os.readlink(f"/proc/self/ns/{name}") for name in modes]
    assert await says(engine, links, pid_mode="host", ipc_mode="host", uts_mode="host") == mine
    private = await says(engine, links, oom_score=1)
    assert not set(private) & set(mine)
    [shm] = await says(engine, "grep -c ' /dev/shm ' /proc/mounts || true", ipc_mode="none")
    assert shm == "0"
    cgroup = os.readlink("/proc/self/ns/cgroup")
    assert await says(engine, "readlink /proc/self/ns/cgroup", cgroupns_mode="host") == [cgroup]
    assert await says(engine, "readlink /proc/self/ns/cgroup", cgroupns_mode="private") != [cgroup]


async def test_nothing_is_left_of_a_container_in_the_hosts_pid_namespace(
    engine: lading.Engine, stage: Stage
) -> None:
    """No namespace ends its other processes with its first one."""
    done = await engine.containers.run(IMAGE, ["sh", "-c", "sleep 1234 & echo $!"], pid_mode="host")
    assert done.exit_code == 0
    agree(lambda: os.path.exists(f"/proc/{int(done.stdout)}"), False)


async def test_hosts_and_resolver_as_asked(engine: lading.Engine) -> None:
    given = {
        "extra_hosts": ("db:10.0.0.7", "six:[fe80::1]"),
        "dns": ("9.9.9.9", "::1"),
        "dns_search": ("a.example", "b.example"),
        "dns_options": ("ndots:3", "rotate"),
    }
    lines = await says(engine, "cat /etc/hosts; echo --; cat /etc/resolv.conf", network="none", **given)
    assert lines == [
        *("127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"),
        *("10.0.0.7\tdb", "fe80::1\tsix", "--"),
        *("search a.example b.example", "nameserver 9.9.9.9", "nameserver ::1", "options ndots:3 rotate"),
    ]
    host = Path("/etc/hosts").read_text().splitlines()
    assert await says(engine, "cat /etc/hosts", extra_hosts=("db:10.0.0.7",)) == [*host, "10.0.0.7\tdb"]


async def test_init_is_the_first_process_and_reaps(engine: lading.Engine) -> None:
    script = """
        cat /proc/1/comm; sh -c 'sh -c "exit 0" & exit 0'; sleep 0.1
        grep -l '^State:.*Z' /proc/[0-9]*/status || true
    """
    assert await says(engine, script, init=True) == ["docker-init"]
    done = await engine.containers.run(IMAGE, ["sh", "-c", "exit 7"], init=True)
    assert done.exit_code == 7
    done = await engine.containers.run(IMAGE, ["sh", "-c", "echo x > /sbin/docker-init"], init=True)
    assert done.exit_code != 0
    [first] = await says(engine, "cat /proc/1/comm", init=True, pid_mode="host")
    assert first == Path("/proc/1/comm").read_text().strip()
    made = await engine.containers.create(IMAGE, ["sleep", "1000"], init=True, stop_timeout=20)
    await made.start()
    with trio.fail_after(10):
        assert await made.stop() == 143  # sleep, not being pid 1, dies of SIGTERM


async def test_a_container_with_settings_leaves_what_others_leave(engine: lading.Engine) -> None:
    resources = Resources(memory=16 << 20)
    for command, code in (("/no/such", 127), ("/usr/bin/bad-format", 126), ("/usr/bin/plain", 126)):
        with pytest.raises(CannotStart) as caught:
            await engine.containers.run(IMAGE, [command], resources=resources)
        assert caught.value.exit_code == code, caught.value
    assert engine.containers.list() == []


async def test_the_exit_says_whether_the_kernel_killed_for_memory(engine: lading.Engine) -> None:
    resources = Resources(memory=16 << 20)
    for script, code, oom in (
        ("exit 3", 3, False),
        ("kill -9 $$", 0, False),  # it is pid 1 of its namespace
        ("tail /dev/zero; exit 4", 4, True),  # a process of it, not the first
        ("exec tail /dev/zero", 137, True),
    ):
        made = await engine.containers.create(IMAGE, ["sh", "-c", script], resources=resources)
        await made.start()
        assert await made.wait() == code, script
        end = event(engine, made.id, Exited)
        assert (end.oom, end.exit_code) == (oom, code), script
        assert engine.core.supervision(made.id).oom is oom
        await made.remove()
    made = await engine.containers.create(IMAGE, ["sleep", "1000"], resources=resources)
    await made.start()
    assert await made.stop(timeout=0) == 137
    assert not event(engine, made.id, Exited).oom


async def test_a_limited_container_outlives_the_engine_and_its_end_is_told(stage: Stage) -> None:
    script = ["sh", "-c", "cat; tail /dev/zero"]
    async with stage.engine() as engine:
        made = await engine.containers.create(IMAGE, script, resources=Resources(memory=16 << 20), open_stdin=True)
        await made.start()
        pid = made.pid
    os.kill(pid, 0)
    async with stage.engine() as engine:
        assert engine.containers.get(made.id).pid == pid
        stream = await engine.core.link.open_stdin(made.id)
    await stream.end()
    agree(lambda: os.path.exists(f"/proc/{pid}"), False)
    async with stage.emptied() as engine:
        end = event(engine, made.id, Exited)
        assert (end.exit_code, end.oom, end.why) == (137, True, "")
        await engine.containers.get(made.id).start()  # and nothing of the run before is in the way
