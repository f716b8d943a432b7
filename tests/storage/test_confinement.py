"""What a confined process can't do any more, and what it still can."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lading.storage.confinement import landlock_version

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="giving up privileges needs some")

CHILD = """
import os, socket, stat, sys
from lading.storage.confinement import confine, landlock_version, write_only_beneath
inside, outside, other = sys.argv[1:]
confine()
landlock = write_only_beneath(os.fsencode(inside))

def refused(what, *arguments):
    try:
        what(*arguments)
    except OSError as error:
        return error.errno
    raise AssertionError((what, arguments))

def connect():
    with socket.socket() as it:
        it.connect(("127.0.0.1", 9))

refused(connect)
refused(os.setuid, 1)
refused(os.chroot, "/")
if landlock:
    refused(open, outside + "/file", "r+")
    refused(open, outside + "/new", "w")
    refused(os.mkdir, outside + "/d")
    refused(os.unlink, outside + "/file")
    refused(os.rename, outside + "/file", inside + "/file")
    refused(os.link, outside + "/file", inside + "/file")
    refused(os.mknod, outside + "/n", stat.S_IFCHR, os.makedev(1, 3))
    refused(os.symlink, "x", outside + "/l")
    refused(os.truncate, outside + "/file", 0)
    refused(os.execv, "/bin/true", ["true"])
assert open(outside + "/file").read() == "kept"  # reading is no secret to keep: there is nowhere to tell it
for name in ("a", "b"):
    os.mkdir(inside + "/" + name)
with open(inside + "/a/f", "w") as file:
    file.write("x")
os.rename(inside + "/a/f", inside + "/b/f")
os.link(inside + "/b/f", inside + "/a/g")
os.mknod(inside + "/n", stat.S_IFCHR, 0)
os.mknod(inside + "/z", stat.S_IFBLK, os.makedev(7, 0))
os.mkfifo(inside + "/p")
os.symlink("x", inside + "/l")
os.chown(inside + "/b/f", 7, 8)
os.chmod(inside + "/b/f", 0o6711)
os.setxattr(inside + "/a", "trusted.overlay.opaque", b"y")
os.utime(inside + "/b/f", ns=(1, 1))
os.unlink(inside + "/n")
print(refused(os.kill, int(other), 0) if landlock_version() >= 6 else "-")
"""


def test_a_confined_process_makes_files_in_one_place_and_nothing_else(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for directory in (inside, outside):
        directory.mkdir()
    (outside / "file").write_text("kept")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, inside, outside, str(os.getpid())], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ("1" if landlock_version() >= 6 else "-")
    assert os.listdir(outside) == ["file"]
    assert (outside / "file").read_text() == "kept"
    found = (inside / "b/f").stat()
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid, found.st_nlink) == (0o6711, 7, 8, 2)
