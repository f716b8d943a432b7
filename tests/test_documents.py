"""What the documents show is true: it runs."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_the_readmes_example_runs(busybox_tar: Path, tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", (TOP / "README.md").read_text(), re.DOTALL)
    assert len(example.strip().splitlines()) <= 14
    example = example.replace("/var/lib/lading", str(tmp_path / "store")).replace("rootfs.tar", str(busybox_tar))
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    first, *history = done.stdout.splitlines()
    assert first == "0 b'hello\\n'"
    assert [line.split()[-1] for line in history][-4:] == ["Started", "Exited", "RemoveRequested", "Removed"]


@pytest.mark.long
def test_the_example_of_five_tells_its_story(busybox_tar: Path, tmp_path: Path) -> None:
    """With busybox for a server: the pages, the pids over a SIGKILL, the image, the history, the views."""
    rootfs = tmp_path / "busybox-httpd.tar"
    shutil.copy(busybox_tar, rootfs)
    with tarfile.open(rootfs, "a") as tar:
        page = tarfile.TarInfo("var/www/html/index.html")
        page.size = 4
        tar.addfile(page, io.BytesIO(b"here"))
    program = [sys.executable, str(TOP / "examples" / "five_nginx.py"), str(rootfs)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    for said in (
        "the image is unchanged: True",
        "same pids, still serving: True",
        "writable layers left: 0",
        "docker.io/library/nginx:demo",
        "container.removed",
        "entries equal the live ones",
    ):
        assert said in done.stdout
    assert len((TOP / "examples" / "five_nginx.py").read_text().splitlines()) < 100
