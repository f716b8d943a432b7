"""An image archive read by a confined worker process gives what it gives here."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgpack
import pytest
from archives import AMD64, Archive, image

from lading.events.errors import ImageInvalid
from lading.events.imagearchive import read_images
from lading.storage.archivejob import decode_contents, limits_argument
from lading.storage.imagearchive import ArchiveLimits
from lading.storage.worker import command, decode_error, pack_message

Job = Callable[[Path, Path], Mapping[str, Any]]


@pytest.fixture
def job() -> Iterator[Job]:
    """Runs the job with an archive and a staging directory, in a worker, and gives its last message."""
    ours, theirs = socket.socketpair()
    held, lifeline = os.pipe()
    arguments = command(theirs.fileno(), held)
    with ours, subprocess.Popen(arguments, pass_fds=(theirs.fileno(), held), env={}) as worker:
        theirs.close()
        os.close(held)

        def run(archive: Path, staging: Path) -> Mapping[str, Any]:
            fds = [os.open(archive, os.O_RDONLY), os.open(staging, os.O_RDONLY | os.O_DIRECTORY)]
            request = {"job": "archive", "limits": limits_argument(ArchiveLimits()), "threads": 2}
            socket.send_fds(ours, [pack_message(request)], fds)
            for fd in fds:
                os.close(fd)
            with ours.makefile("rb") as answers:
                while True:
                    (size,) = struct.unpack(">I", answers.read(4))
                    message: Mapping[str, Any] = msgpack.unpackb(answers.read(size))
                    if "read" not in message:
                        return message

        yield run
        os.close(lifeline)
        worker.wait(10)


@pytest.mark.slow
def test_a_worker_reads_an_archive(job: Job, archive: Archive, tmp_path: Path, base: bytes, top: bytes) -> None:
    made = image(base, top)
    archive.add("cut.tar", base[:700])
    (tmp_path / "x.tar").write_bytes(archive.hybrid(made, "a:1").packed())
    (tmp_path / "staging").mkdir()
    contents = decode_contents(job(tmp_path / "x.tar", tmp_path / "staging")["done"])
    (found,) = read_images(contents.documents, contents.facts, contents.links, AMD64, contents.broken)
    assert (found.image, found.names) == (f"sha256:{made.id}", ("docker.io/library/a:1",))
    assert list(contents.broken) == ["cut.tar"]
    tree = tmp_path / "staging" / contents.layers[found.layers[1]].directory
    assert (tree / "etc/motd").read_bytes() == b"again"
    assert (tmp_path / "staging" / str(contents.layers[found.layers[1]].split) / "spill/0").exists()


@pytest.mark.slow
def test_a_worker_tells_what_is_wrong_with_an_archive(job: Job, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar" * 500)
    (tmp_path / "staging").mkdir()
    error = decode_error(job(tmp_path / "x.tar", tmp_path / "staging")["failed"])
    assert isinstance(error, ImageInvalid)
    assert "damaged or no tar" in str(error)
