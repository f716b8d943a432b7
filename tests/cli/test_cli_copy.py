"""``lading cp``, ``diff``, ``commit`` and ``fork``: what they print, what they do, and how they refuse."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_program import Cli

from lading.engine.cli.localcopy import End, place, split_end, unpack_local

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture
def box(shared: Cli) -> Iterator[str]:
    """The name of a container that never ran."""
    shared("run", "--name", "box", "busybox:1", "sh", "-c", "mkdir /d; echo x > /d/x; ln -s x /d/link")
    yield "box"
    shared("rm", "-f", "box", code=None)


@pytest.mark.long
def test_cp_goes_both_ways(shared: Cli, box: str, tmp_path: Path) -> None:
    said = shared("cp", "box:/d", str(tmp_path))
    assert said.stdout == ""
    assert re.fullmatch(rf"Successfully copied [0-9.]+kB to {re.escape(str(tmp_path))}\n", said.stderr)
    assert sorted(os.listdir(tmp_path / "d")) == ["link", "x"]
    assert shared("cp", "-q", "box:/d/.", str(tmp_path / "flat")).stderr == ""
    assert sorted(os.listdir(tmp_path / "flat")) == ["link", "x"]
    shared("cp", "-L", "box:/d/link", str(tmp_path / "followed"))
    assert (tmp_path / "followed").read_text() == "x\n"
    shared("cp", "box:/d/link", str(tmp_path / "link"))
    assert os.readlink(tmp_path / "link") == "x"
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "y").write_text("y")
    shared("cp", str(tmp_path / "up"), "box:/d")
    shared("cp", str(tmp_path / "up" / "y"), "box:/d/z")
    assert shared("diff", "box").stdout.splitlines() == [
        *("A /d", "A /d/link", "A /d/up", "A /d/up/y", "A /d/x", "A /d/z"),
    ]
    assert '"Kind": 1' in shared("diff", "--json", "box").stdout
    assert "KIND" in shared("diff", "1").stdout  # a position


@pytest.mark.long
def test_cp_refuses_in_one_line(shared: Cli, box: str, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("")
    for source, target, words in (
        ("box:/nope", str(tmp_path), "Could not find the file /nope"),
        ("box:/d", str(tmp_path / "file"), "cannot copy a directory to a file"),
        ("box:/d/x", f"{tmp_path}/nope/", "no such directory"),
        ("box:/d/x", str(tmp_path / "no/x"), "No such file or directory"),
        (str(tmp_path / "nope"), "box:/d", "No such file or directory"),
        (str(tmp_path / "file"), "box:/d/nope/", "no such directory"),
        (str(tmp_path / "dir"), "box:/d/x", "cannot copy a directory to a file"),
        (str(tmp_path / "file"), "box:/d", ""),
    ):
        said = shared("cp", source, target, code=1 if words else 0)
        assert words in said.stderr
        assert said.stderr.count("\n") == 1
    assert "Copying between containers" in shared("cp", "a:/x", "b:/x", code=2).stderr
    assert "must be CONTAINER:PATH" in shared("cp", "a", "b", code=2).stderr


@pytest.mark.long
def test_commit_and_fork_print_what_was_made(shared: Cli, box: str) -> None:
    said = shared("commit", "-a", "me", "-m", "why", "-c", 'CMD ["cat", "/d/x"]', "box", "boxed:1").stdout
    assert said.startswith("sha256:")
    assert shared("run", "--rm", "boxed:1").stdout == "x\n"
    assert shared("fork", "-n", "2", "--name", "try", "-s", "box", "cat", "/d/x").stdout == "try-1\ntry-2\n"
    shared("wait", "try-1", "try-2")
    assert shared("logs", "try-2").stdout == "x\n"
    assert shared("fork", "box").stdout.count("_") == 1
    log = shared("log", "box").stdout
    assert "container.rebased" in log
    assert "what it wrote is layer" in log
    for name in shared("ps", "-aq").stdout.split():
        shared("rm", name)
    shared("rmi", "boxed:1")


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (b"/a/b", (b"/a", b"b")),
        (b"/a/b/", (b"/a", b"b")),
        (b"/a/b/.", (b"/a/b", b".")),
        (b"b", (b".", b"b")),
        (b".", (b".", b".")),
        (b"/", (b"/", b"/")),
        (b"/.", (b"/", b".")),
        (b"a/../b", (b".", b"b")),
    ],
)
def test_paths_are_split_as_docker_splits_them(path: bytes, parts: tuple[bytes, bytes]) -> None:
    assert split_end(path) == parts


def test_where_a_copy_goes() -> None:
    file, directory = End(b"/s/f", True, False), End(b"/s/d", True, True)
    there, absent = End(b"/t/d", True, True), End(b"/t/n", False, False)
    assert place(file, there) == (b"/t/d", None)
    assert place(directory, there) == (b"/t/d", None)
    assert place(file, End(b"/t/f", True, False)) == (b"/t", b"f")
    assert place(file, absent) == (b"/t", b"n")
    assert place(directory, absent) == (b"/t", b"n")
    assert place(directory, End(b"/t/n/", False, False)) == (b"/t", b"n")
    with pytest.raises(NotADirectoryError):
        place(directory, End(b"/t/f", True, False))
    with pytest.raises(FileNotFoundError):
        place(file, End(b"/t/n/", False, False))


def test_what_a_container_sends_stays_in_the_directory(tmp_path: Path) -> None:
    """An archive from a container is no more trusted than any other."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "into").mkdir()
    for entries in (
        [("l", tarfile.SYMTYPE, str(tmp_path / "victim")), ("l/pwned", tarfile.REGTYPE, "")],
        [("l", tarfile.SYMTYPE, "../victim"), ("l/pwned", tarfile.REGTYPE, "")],
        [("../victim/pwned", tarfile.REGTYPE, "")],
        [("h", tarfile.LNKTYPE, "../victim"), ("h", tarfile.REGTYPE, "")],
    ):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, kind, link in entries:
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, link
                tar.addfile(info)
        path = tmp_path / "archive"
        path.write_bytes(out.getvalue())
        fd = os.open(path, os.O_RDONLY)
        try:
            with pytest.raises(Exception, match=r"bad layer archive"):
                unpack_local(fd, os.fsencode(tmp_path / "into"), b"x", None, owners=False)
        finally:
            os.close(fd)
    assert os.listdir(tmp_path / "victim") == []
