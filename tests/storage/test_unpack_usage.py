"""What a layer takes on disk is what ``du`` says, on file systems that allocate now and on those that wait."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lading.storage import treewriter
from lading.storage.unpack import unpack

END = bytes(1024)


@pytest.fixture(params=["tmpfs", "ext4", "ext4-small"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on a fresh file system."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    where = tmp_path / "disk"
    where.mkdir()
    if request.param == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", where], check=True)
    else:
        maker = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if maker is None:
            pytest.skip("mkfs.ext4 is not installed")
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(256 << 20)
        small = ["-b", "1024", "-O", "inline_data"] if request.param == "ext4-small" else []
        subprocess.run([maker, "-q", *small, image], check=True)
        subprocess.run(["mount", "-o", "loop", image, where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


def du(path: Path) -> tuple[int, int]:
    def ask(*flags: str) -> int:
        return int(subprocess.check_output(["du", "-s", *flags, path], text=True).split()[0])

    return ask("--block-size=1"), ask("--inodes")


def archive(tar: Any, *, replaced: bool) -> bytes:
    pax = (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9000000")
    pieces = [
        tar.d(b"./"),
        *(tar.f(b"many/%03d-%s" % (number, b"n" * 90), b"x" * number * 7) for number in range(300)),
        tar.f(b"big", os.urandom(3_000_001)),
        tar.x(*pax),
        tar.f(b"sparse", tar.pad(b"2\n0\n5\n8000000\n6\n") + b"abcdefghijk"),
        tar.x((b"SCHILY.xattr.user.long", b"v" * 900)),
        tar.f(b"attributes", b"x"),
        tar.x((b"SCHILY.xattr.user.long", b"v" * 900)),
        tar.d(b"attributed"),
        tar.s(b"short", b"target"),
        tar.s(b"long", b"t" * 99),
        tar.x((b"linkpath", b"t" * 800)),
        tar.s(b"longer", b""),
        tar.lnk(b"hard", b"big"),
        tar.lnk(b"many/hard", b"big"),
        tar.header(b"fifo", b"6"),
        tar.header(b"null", b"3", major=1, minor=3),
        tar.f(b"gone/.wh.x"),
        tar.f(b"hidden/.wh..wh..opq"),
        tar.f(b"deep/er/and/deeper", b"y"),
    ]
    if replaced:
        pieces += [tar.f(b"big", b"less"), tar.s(b"many", b"away"), tar.f(b"gone/x/y"), tar.d(b"fifo")]
    return b"".join(pieces) + END


@pytest.mark.slow
@pytest.mark.parametrize("replaced", [False, True])
def test_usage_is_what_du_says(disk: Path, tar: Any, replaced: bool) -> None:
    tree = disk / "tree"
    tree.mkdir()
    made = unpack(io.BytesIO(gzip.compress(archive(tar, replaced=replaced), 1)), tree)
    now = du(tree)
    os.sync()
    assert (made.disk_bytes, made.inodes) == now == du(tree)


@pytest.mark.slow
def test_usage_needs_no_second_walk(place: Any, tar: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where something was replaced, or the file system is one whose numbers change later."""
    monkeypatch.setattr(treewriter, "filesystem_type", lambda fd: treewriter.STEADY[0])
    monkeypatch.setattr(treewriter, "measure_tree", None)
    made = place.unpack(archive(tar, replaced=False), end=b"")
    assert (made.disk_bytes, made.inodes) == du(place.root)
