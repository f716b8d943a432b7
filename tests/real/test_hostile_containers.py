"""Images and requests that mean harm, with both runtimes: refused, or kept inside; the host stays as it is."""

from __future__ import annotations

import errno
import io
import os
import platform
import struct
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from stage import IMAGE, Stage, agree

from lading.events.errors import CannotStart, Invalid, LadingError
from lading.events.settings import ContainerSettings, Device, Resources
from lading.storage.cgroups import cgroup_mounts

pytestmark = [pytest.mark.real, pytest.mark.slow]

EVIL = "evil:1"


@pytest.fixture(params=["crun", "runc"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def image(stage: Stage, links: dict[str, str], files: dict[str, tuple[bytes, int]] | None = None) -> io.BytesIO:
    """The usual root file system, in which ``links`` are links, and which has ``files`` (content, mode)."""
    out = io.BytesIO()
    changed = {f"./{name}" for name in (*links, *(files or {}))}
    with tarfile.open(stage.tar) as source, tarfile.open(fileobj=out, mode="w") as tar:
        for member in source:
            if not any(member.name == name or member.name.startswith(f"{name}/") for name in changed):
                tar.addfile(member, source.extractfile(member) if member.isreg() else None)
        for name, target in links.items():
            link = tarfile.TarInfo(f"./{name}")
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        for name, (content, mode) in (files or {}).items():
            file = tarfile.TarInfo(f"./{name}")
            file.size, file.mode = len(content), mode
            tar.addfile(file, io.BytesIO(content))
    out.seek(0)
    return out


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host's that has to be at the end what it is now."""
    place = tmp_path / "victim"
    (place / "below").mkdir(parents=True)
    (place / "file").write_text("precious")
    yield place
    found = sorted(str(path.relative_to(place)) for path in place.rglob("*"))
    assert found == ["below", "file"]
    assert (place / "file").read_text() == "precious"


@contextmanager
def unchanged(*paths: str) -> Iterator[None]:
    before = {path: Path(path).read_text() for path in paths}
    yield
    assert {path: Path(path).read_text() for path in paths} == before


async def test_no_descriptor_of_the_engines_gets_into_a_container(stage: Stage, runtime: str) -> None:
    """B1: not even one that somebody left inheritable in the process that opened the engine."""
    left = [os.open("/", os.O_RDONLY | os.O_DIRECTORY) for _ in range(20)]
    try:
        for fd in left:
            os.set_inheritable(fd, True)
        async with stage.engine(runtime=runtime) as engine:
            for options in ({}, {"init": True}, {"resources": Resources(memory=32 << 20)}):
                script = "ls /proc/1/fd /proc/self/fd"
                done = await engine.containers.run(IMAGE, ["sh", "-c", script], **options)
                words = {word for word in done.stdout.decode().split() if word.isdigit()}
                # 3 and 4 are ls's own directory and, with init, its descriptor for signals.
                assert words <= {"0", "1", "2", "3", "4"}, (options, done)
                done = await engine.containers.run(IMAGE, ["sh", "-c", "readlink /proc/1/fd/*"], **options)
                assert b"\n/\n" not in b"\n" + done.stdout
            for number in (3, 7, 9, 30):
                with pytest.raises(Invalid):
                    await engine.containers.create(IMAGE, ["true"], working_dir=f"/proc/self/fd/{number}")
    finally:
        for fd in left:
            os.close(fd)


@pytest.mark.parametrize("target", ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern"])
async def test_masks_do_not_lead_elsewhere(stage: Stage, runtime: str, target: str) -> None:
    """B6: what the image calls /dev/null, which runtimes mask with, is not what is mounted over."""
    async with stage.bare(runtime=runtime) as engine:
        with unchanged("/proc/sys/kernel/core_pattern"):
            await engine.images.import_rootfs(image(stage, {"dev/null": target, "dev/pts": target}), EVIL)
            script = (
                "stat -c %t:%T /dev/null; wc -c < /proc/interrupts; (echo x > /proc/sys/kernel/core_pattern) 2>&1"
            )
            done = await engine.containers.run(EVIL, ["sh", "-c", script])
        lines = done.stdout.decode().splitlines()
        assert lines[:2] == ["1:3", "0"], done
        assert "Read-only" in lines[2]


@pytest.mark.parametrize("name", ["hosts", "resolv.conf", "hostname"])
@pytest.mark.parametrize("kind", ["file", "none", "directory"])
async def test_private_files_are_not_written_through_the_images_links(
    stage: Stage, victim: Path, runtime: str, name: str, kind: str
) -> None:
    """B8: a link at their place, to a file, to where there is none, to a directory."""
    target = {"file": "file", "none": "new", "directory": "below"}[kind]
    async with stage.bare(runtime=runtime) as engine:
        await engine.images.import_rootfs(image(stage, {f"etc/{name}": str(victim / target)}), EVIL)
        with suppress(CannotStart):
            await engine.containers.run(
                EVIL, ["sh", "-c", f"echo pwned > /etc/{name}"], extra_hosts=("a:1.2.3.4",)
            )


@pytest.mark.parametrize("name", ["etc", "sbin", "dev/shm", "opt"])
async def test_nothing_is_made_behind_a_directory_that_is_a_link(
    stage: Stage, victim: Path, runtime: str, name: str
) -> None:
    """B8, B2: the private files in /etc, init in /sbin, a working directory, a device in /opt."""
    async with stage.bare(runtime=runtime) as engine:
        await engine.images.import_rootfs(image(stage, {name: str(victim)}), EVIL)
        asked = {"init": True, "devices": (Device("/dev/null", "/opt/device"),)}
        for given in (asked, {"devices": asked["devices"]}, {"init": True}):
            with suppress(CannotStart):
                await engine.containers.run(EVIL, ["true"], working_dir="/opt/work", **given)


@pytest.mark.parametrize(
    "user", ["4294967296", "2147483648", "-1", "1_000", "٠", " 0", "0x0", "0:-1", "root:4294967296", "app\n", ":0"]
)
async def test_who_is_nobody_never_becomes_root(stage: Stage, user: str) -> None:
    """B10."""
    async with stage.engine() as engine:
        with pytest.raises((Invalid, CannotStart)):
            await engine.containers.run(IMAGE, ["id"], user=user)


async def test_a_number_is_no_name(stage: Stage) -> None:
    """B10, B12: an entry that is called 1000 and is root; a group file that puts everybody into it."""
    passwd = b"1000:x:0:0::/root:/bin/sh\nroot:x:0:0::/root:/bin/sh\nx\x85evil:x:0:0::/:\n"
    group = b"root:x:0:1000\nwheel:x:10:1000,evil\n"
    async with stage.bare() as engine:
        files = {"etc/passwd": (passwd, 0o644), "etc/group": (group, 0o644)}
        await engine.images.import_rootfs(image(stage, {}, files), EVIL)
        done = await engine.containers.run(EVIL, ["sh", "-c", "id -u; id -g; id -G"], user="1000")
        assert done.stdout.split() == [b"1000", b"0", b"0"]
        for user in ("evil", "x\x85evil", "x\u2028evil"):
            with pytest.raises((Invalid, CannotStart)):
                await engine.containers.run(EVIL, ["id"], user=user)


@pytest.mark.parametrize("target", ["/proc/self/environ", "/dev/zero", "/etc/shadow", "/etc/group"])
@pytest.mark.parametrize("name", ["passwd", "group"])
async def test_account_files_are_the_images_own(stage: Stage, name: str, target: str) -> None:
    """B11: a link to what would be the host's is one within the image, where there is nothing of the kind."""
    async with stage.bare() as engine:
        await engine.images.import_rootfs(image(stage, {f"etc/{name}": target}), EVIL)
        with pytest.raises((Invalid, CannotStart)):
            await engine.containers.run(EVIL, ["id"], user="daemon:shadow", groups=("shadow",))


async def test_labels_are_data(stage: Stage, victim: Path, runtime: str) -> None:
    """B16: words that crun, or a runtime's manager, would obey as annotations."""
    labels = {
        "run.oci.hooks.stdout": str(victim / "out"),
        "run.oci.hooks.stderr": str(victim / "err"),
        "run.oci.handler": "krun",
        "run.oci.keep_original_groups": "1",
        "run.oci.seccomp_bpf_data": "AAAA",
        "org.systemd.property.ExecStart": "/bin/sh",
    }
    async with stage.engine(runtime=runtime) as engine:
        done = await engine.containers.run(IMAGE, ["grep", "Seccomp:", "/proc/self/status"], labels=labels)
        assert done.stdout.split() == [b"Seccomp:", b"2"]


BAD: list[dict[str, Any]] = [
    {"sysctls": {"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/x"}},
    {"sysctls": {"kernel.core_pattern": "|/x"}},
    {"sysctls": {"net.core.somaxconn": "1"}},  # which is the host's
    {"extra_hosts": ("a:1.2.3.4\n6.6.6.6 evil",)},
    {"dns": ("1.1.1.1\nnameserver 6.6.6.6",)},
    {"dns_search": ("a\nnameserver 6.6.6.6",)},
    {"hostname": "a\nb"},
    {"resources": Resources(cpuset_cpus="0-999999999")},
    {"resources": Resources(memory=-5)},
    {"shm_size": 2**63},
    {"seccomp": '{"defaultAction": ""}'},
    {"seccomp": "nonsense"},
    {"cap_add": ("EVERYTHING",)},
    {"pid_mode": "container:x"},
]


async def test_what_cannot_be_is_refused_and_leaves_nothing(stage: Stage) -> None:
    """B17, B23, B31, B32: before anything is recorded."""
    watched = ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/shm_rmid_forced", "/proc/sys/net/core/somaxconn")
    async with stage.engine() as engine:
        head = engine.core.log.head()
        with unchanged(*watched):
            for options in BAD:
                with pytest.raises(Invalid):
                    await engine.containers.run(IMAGE, ["true"], **options)
        assert (engine.core.log.head(), engine.containers.list()) == (head, [])
        await engine.containers.run(IMAGE, ["true"])


async def test_a_log_from_elsewhere_is_not_believed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What creating would have refused is refused at the start, too."""
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["true"])
        for settings in (
            ContainerSettings(sysctls={"kernel.core_pattern": "|/x"}),
            ContainerSettings(extra_hosts=("a:1.2.3.4\n6.6.6.6 evil",)),
            ContainerSettings(seccomp="{}"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(type(engine.core), "settings", lambda core, container, it=settings: it)
                with unchanged("/proc/sys/kernel/core_pattern"), pytest.raises(CannotStart, match="invalid"):
                    await made.start()


async def test_a_container_stays_in_its_cgroup(stage: Stage, runtime: str) -> None:
    """B31: a privileged one may make groups below its own, and those go with it."""
    async with stage.emptied(runtime=runtime) as engine:
        script = "for c in /sys/fs/cgroup/*; do mkdir -p $c/below/deeper 2>/dev/null; done; sleep 1000"
        made = await engine.containers.create(IMAGE, ["sh", "-c", script], privileged=True)
        await made.start()
        group = f"lading/{stage.paths.run.name}"
        assert any((mount / group / made.id).exists() for mount in cgroup_mounts())
        await made.stop(timeout=0)
        await made.remove()
        agree(lambda: [mount for mount in cgroup_mounts() if (mount / group / made.id).exists()], [])


# -- B23: system calls ------------------------------------------------------------------------------------------

NEW_USER = 0x10000000
CALLS: dict[str, tuple[int, tuple[int, ...], int]] = {
    "af_alg": (41, (38, 5, 0), errno.EPERM),
    "af_vsock": (41, (40, 1, 0), errno.EPERM),
    "keyctl": (250, (0, 0, 0), errno.EPERM),
    "add_key": (248, (0, 0, 0), errno.EPERM),
    "request_key": (249, (0, 0, 0), errno.EPERM),
    "bpf": (321, (0, 0, 0), errno.EPERM),
    "unshare": (272, (NEW_USER,), errno.EPERM),
    "setns": (308, (0, 0), errno.EPERM),
    "mount": (165, (0, 0, 0), errno.EPERM),
    "io_uring_setup": (425, (1, 0), errno.EPERM),
    "userfaultfd": (323, (0,), errno.EPERM),
    "perf_event_open": (298, (0, 0, 0), errno.EPERM),
    "kexec_load": (246, (0, 0, 0), errno.EPERM),
    "init_module": (175, (0, 0, 0), errno.EPERM),
    "open_by_handle_at": (304, (0, 0, 0), errno.EPERM),
    "clone_newuser": (56, (NEW_USER | 17, 0, 0), errno.EPERM),
    "clone3": (435, (0, 0), errno.ENOSYS),
    "getpid": (39, (), 0),
}
"""Name -> number and arguments (x86_64), and what it should fail with."""


def program(number: int, arguments: tuple[int, ...]) -> bytes:
    """An executable that makes one system call, and exits with its error (0: it went well)."""
    registers = (b"\x48\xbf", b"\x48\xbe", b"\x48\xba")  # movabs to rdi, rsi, rdx
    code = b"".join(
        register + struct.pack("<Q", value) for register, value in zip(registers, arguments, strict=False)
    )
    code += b"\xb8" + struct.pack("<I", number) + b"\x0f\x05"  # mov eax, number; syscall
    code += b"\x31\xff\x85\xc0\x79\x04\xf7\xd8\x89\xc7"  # edi = 0; if eax < 0: edi = -eax
    code += b"\xb8\x3c\x00\x00\x00\x0f\x05"  # exit(edi)
    base, size = 0x400000, 120
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + size, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    header += struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size + len(code), size + len(code), 0x1000)
    return header + code


@pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code for x86_64")
async def test_the_filter_refuses_what_it_should(stage: Stage, runtime: str) -> None:
    files = {f"calls/{name}": (program(number, given), 0o755) for name, (number, given, _) in CALLS.items()}
    expected = {name: error for name, (_, _, error) in CALLS.items()}
    script = "cd /calls; for each in *; do ./$each; echo $each $?; done"
    async with stage.bare(runtime=runtime) as engine:
        await engine.images.import_rootfs(image(stage, {}, files), EVIL)
        for options in (
            {},
            {"user": "app"},
            {"no_new_privileges": True},
            {"resources": Resources(memory=32 << 20)},
        ):
            done = await engine.containers.run(EVIL, ["sh", "-c", script], **options)
            found = {
                name: int(code) for name, code in (line.split() for line in done.stdout.decode().splitlines())
            }
            assert found == expected, options
        done = await engine.containers.run(EVIL, ["sh", "-c", script], seccomp="unconfined")
        found = {name: int(code) for name, code in (line.split() for line in done.stdout.decode().splitlines())}
        assert found["keyctl"] != errno.EPERM  # the control: it is the filter that refuses
        assert found["clone3"] != errno.ENOSYS
        with pytest.raises(LadingError):
            await engine.containers.run(EVIL, ["true"], seccomp='{"defaultAction":"SCMP_ACT_NOTIFY"}')
