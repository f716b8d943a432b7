"""Who a container runs as, from files that the image's author wrote."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lading.engine.oci.identity import MAX_ID, Identity, resolve
from lading.events.errors import HostError, Invalid

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
# a comment
daemon:x:1:1::/usr/sbin:/bin/false

www-data:x:33:33:www-data:/var/www:/bin/sh
1000:x:0:0:a name like a number:/evil:/bin/sh
app:x:1001:1002:App:/home/app:/bin/sh
app:x:5:5:second:/second:/bin/sh
homeless:x:7:7
relative:x:8:8::home:/bin/sh
latin:x:9:9::/home/\xe9:/bin/sh
sam$:x:10:10::/home/sam:/bin/sh
"""
GROUP = b"""root:x:0:
wheel:x:10:root,app
www-data:x:33:
docker:x:999:app,www-data
app:x:1002:app
2000:x:0:
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    etc = tmp_path / "root" / "etc"
    etc.mkdir(parents=True)
    (etc / "passwd").write_bytes(PASSWD)
    (etc / "group").write_bytes(GROUP)
    return etc.parent


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups", "home"),
    [
        ("", 0, 0, (0, 10), "/root"),
        ("0", 0, 0, (0, 10), "/root"),
        ("root", 0, 0, (0, 10), "/root"),
        ("www-data", 33, 33, (33, 999), "/var/www"),
        ("app", 1001, 1002, (1002, 10, 999), "/home/app"),
        ("1001", 1001, 1002, (1002, 10, 999), "/home/app"),
        ("app:", 1001, 1002, (1002, 10, 999), "/home/app"),
        ("app:docker", 1001, 999, (999,), "/home/app"),
        ("app:50", 1001, 50, (50,), "/home/app"),
        ("app:0", 1001, 0, (0,), "/home/app"),
        ("4242", 4242, 0, (0,), "/"),
        ("4242:4343", 4242, 4343, (4343,), "/"),
        ("4242:wheel", 4242, 10, (10,), "/"),
        ("0042", 42, 0, (0,), "/"),
        (str(MAX_ID), MAX_ID, 0, (0,), "/"),
        ("homeless", 7, 7, (7,), "/"),
        ("relative", 8, 8, (8,), "/"),
        ("latin", 9, 9, (9,), "/"),
        ("sam$", 10, 10, (10,), "/home/sam"),
    ],
)
def test_users_resolve_as_in_docker(
    root: Path, user: str, uid: int, gid: int, groups: tuple[int, ...], home: str
) -> None:
    assert resolve(str(root), user) == Identity(uid, gid, groups, home)


def test_a_number_is_never_a_name(root: Path) -> None:
    """The image calls uid 0 "1000" and gid 0 "2000"."""
    assert resolve(str(root), "1000").uid == 1000
    assert resolve(str(root), "33:2000").gid == 2000


@pytest.mark.parametrize(
    "word",
    [
        "-1",
        "+1",
        "1_000",
        " 0",
        "0 ",
        "0\n",
        "\t0",
        "0x0",
        "0b1",
        "0o17",
        "١٠٠٠",
        "０",
        "2147483648",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "9" * 5000,
        "a b",
        "a/b",
        "../x",
        "root\0",
        "root\n",
        "\udc80",
        "é",
        "-root",
    ],
)
def test_what_is_neither_a_number_nor_a_name_is_refused(root: Path, word: str) -> None:
    # Even an image that has an entry of that name doesn't make it one.
    line = word.encode(errors="surrogateescape") + b":x:0:0::/:/bin/sh\n"
    with (root / "etc/passwd").open("ab") as file:
        file.write(line)
    for user in (word, f"root:{word}"):
        with pytest.raises(Invalid) as caught:
            resolve(str(root), user)
        assert caught.value.field == "user"


@pytest.mark.parametrize("user", [":", ":0", ":root", "a:b:c", "0:0:0"])
def test_a_malformed_pair_is_refused(root: Path, user: str) -> None:
    with pytest.raises(Invalid):
        resolve(str(root), user)


def test_unknown_names_are_named_in_dockers_words(root: Path) -> None:
    with pytest.raises(Invalid, match="unable to find user nobody: no matching entries in passwd file"):
        resolve(str(root), "nobody")
    with pytest.raises(Invalid, match="unable to find group nobody: no matching entries in group file"):
        resolve(str(root), "root:nobody")


@pytest.mark.parametrize("gone", [("passwd", "group"), ("passwd",)])
def test_without_passwd_numbers_still_work(root: Path, gone: tuple[str, ...]) -> None:
    for name in gone:
        (root / "etc" / name).unlink()
    assert resolve(str(root), "") == Identity(0, 0, (0,), "/")
    assert resolve(str(root), "12:34") == Identity(12, 34, (34,), "/")
    with pytest.raises(Invalid, match="unable to find user root"):
        resolve(str(root), "root")


def test_an_empty_root_has_a_root_user(tmp_path: Path) -> None:
    assert resolve(str(tmp_path), "") == Identity(0, 0, (0,), "/")
    (tmp_path / "etc").write_bytes(b"a file")
    assert resolve(str(tmp_path), "7") == Identity(7, 0, (0,), "/")


@pytest.mark.parametrize(
    "line",
    [
        b"victim",
        b"victim:x",
        b"victim:x:5",
        b"victim:x::",
        b"victim:x:abc:0",
        b"victim:x:5:",
        b"victim:x:-1:5",
        b"victim:x:+5:5",
        b"victim:x:1_0:5",
        b"victim:x: 5:5",
        b"victim:x:4294967296:5",
        b"victim:x:5:2147483648",
        b"victim\0:x:5:5",
        b"vic\0tim:x:5:5:::",
        b":x:5:5::/:",
        b"#victim:x:5:5::/:",
    ],
)
def test_malformed_lines_are_passed_over(root: Path, line: bytes) -> None:
    """Above all, an id that doesn't parse is not 0."""
    (root / "etc/passwd").write_bytes(line + b"\n" + PASSWD)
    with pytest.raises(Invalid, match="unable to find user victim"):
        resolve(str(root), "victim")
    assert resolve(str(root), "app").uid == 1001


@pytest.mark.parametrize(
    "separator", [b"\r", b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", "\x85".encode(), "\u2028".encode()]
)
def test_only_a_line_feed_ends_a_line(root: Path, separator: bytes) -> None:
    line = b"app:x:1001:1002:App" + separator + b"forged:x:0:0::/:/bin/sh\n"
    (root / "etc/passwd").write_bytes(line)
    with pytest.raises(Invalid, match="unable to find user forged"):
        resolve(str(root), "forged")


def test_windows_line_ends_are_no_part_of_a_field(root: Path) -> None:
    (root / "etc/group").write_bytes(b"one:x:11:app\r\ntwo:x:12:bob,app\r\n")
    assert resolve(str(root), "app").additional_gids == (1002, 11, 12)


def test_a_group_given_by_hand_is_the_only_one(root: Path) -> None:
    assert resolve(str(root), "app:1002").additional_gids == (1002,)


@pytest.mark.parametrize("target", ["{secret}", "../../secret", "../../../../../../../..{secret}"])
def test_a_link_cannot_leave_the_root(root: Path, target: str) -> None:
    secret = root.parent / "secret"
    secret.write_bytes(b"hostonly:x:77:77::/:\n")
    passwd = root / "etc/passwd"
    passwd.unlink()
    passwd.symlink_to(target.format(secret=secret))
    with pytest.raises(Invalid, match="unable to find user hostonly"):
        resolve(str(root), "hostonly")


def test_links_inside_the_root_work_absolute_and_relative(root: Path) -> None:
    (root / "usr/lib").mkdir(parents=True)
    (root / "etc/passwd").rename(root / "usr/lib/passwd")
    for target in ("/usr/lib/passwd", "../usr/lib/passwd"):
        (root / "etc/passwd").unlink(missing_ok=True)
        (root / "etc/passwd").symlink_to(target)
        assert resolve(str(root), "app").uid == 1001


def test_a_linked_etc_stays_inside(root: Path) -> None:
    (root / "etc").rename(root / "real")
    outside = root.parent / "etc"
    outside.mkdir()
    (outside / "passwd").write_bytes(b"hostonly:x:77:77::/:\n")
    (root / "etc").symlink_to(outside)
    with pytest.raises(Invalid, match="unable to find user hostonly"):
        resolve(str(root), "hostonly")


def test_a_fifo_does_not_make_anyone_wait(root: Path) -> None:
    (root / "etc/passwd").unlink()
    os.mkfifo(root / "etc/passwd")
    for user in ("", "0", "app"):
        with pytest.raises(Invalid, match="not a regular file"):
            resolve(str(root), user)


def test_a_directory_and_a_loop_are_refused(root: Path) -> None:
    passwd = root / "etc/passwd"
    passwd.unlink()
    passwd.mkdir()
    with pytest.raises(Invalid, match="not a regular file"):
        resolve(str(root), "0")
    passwd.rmdir()
    passwd.symlink_to("passwd")
    with pytest.raises(Invalid, match="loop of links"):
        resolve(str(root), "0")


@pytest.mark.real
def test_a_magic_link_is_not_followed(root: Path, tmp_path: Path) -> None:
    """Even with a real /proc beneath the root, which a bind mount of the host's could bring."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"hostonly:x:77:77::/:\n")
    (root / "proc").mkdir()
    subprocess.run(["mount", "--bind", "/proc", root / "proc"], check=True)
    try:
        with secret.open("rb") as file:
            (root / "etc/passwd").unlink()
            (root / "etc/passwd").symlink_to(f"/proc/{os.getpid()}/fd/{file.fileno()}")
            with pytest.raises(Invalid, match="loop of links"):
                resolve(str(root), "hostonly")
    finally:
        subprocess.run(["umount", root / "proc"], check=True)


@pytest.mark.real
def test_a_device_is_never_opened(root: Path) -> None:
    (root / "etc/passwd").unlink()
    os.mknod(root / "etc/passwd", 0o020666, os.makedev(1, 5))  # /dev/zero
    with pytest.raises(Invalid, match="not a regular file"):
        resolve(str(root), "0")


def test_a_file_of_ten_mebibytes_is_read_and_one_byte_more_is_refused(root: Path) -> None:
    limit = 10 * 1024 * 1024
    passwd = root / "etc/passwd"
    line = b"last:x:3:3::/:\n"
    passwd.write_bytes(b"#" * (limit - len(line) - 1) + b"\n" + line)
    assert resolve(str(root), "last").uid == 3
    with passwd.open("ab") as file:
        file.write(b"\n")
    with pytest.raises(Invalid, match="larger than"):
        resolve(str(root), "last")


def test_a_sparse_giant_is_refused_unread(root: Path) -> None:
    os.truncate(root / "etc/group", 1 << 40)
    with pytest.raises(Invalid, match="larger than"):
        resolve(str(root), "app")


@pytest.mark.slow
def test_more_groups_than_the_kernel_takes_are_refused(root: Path) -> None:
    (root / "etc/group").write_bytes(b"".join(b"g%d:x:%d:app\n" % (gid, gid) for gid in range(5000, 5000 + 65535)))
    assert len(resolve(str(root), "app").additional_gids) == 65536
    with (root / "etc/group").open("ab") as file:
        file.write(b"more:x:4999:app\n")
    with pytest.raises(Invalid, match="groups"):
        resolve(str(root), "app")


def test_a_missing_root_is_the_hosts_error(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        resolve(str(tmp_path / "nowhere"), "0")


def test_no_descriptor_is_left_open(root: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for user in ("app", "app:wheel", "0", "1:2"):
        resolve(str(root), user)
    for user in ("nobody", "root:nobody", "+1"):
        with pytest.raises(Invalid):
            resolve(str(root), user)
    assert len(os.listdir("/proc/self/fd")) == len(before)
