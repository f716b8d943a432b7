"""What every test shares: where the strategies are found, and how hypothesis runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # ``import strategies`` works under importmode=importlib, too

pytest.register_assert_rewrite("stage")
from registry import LocalRegistry  # noqa: E402
from stage import Census, Stage, stop_hanging  # noqa: E402

settings.register_profile(
    "lading",
    deadline=None,
    max_examples=50,
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
)
settings.load_profile("lading")

_CASES = 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The short run has one of the two runtimes, and of what is tried with many real containers some cases."""
    cases: Counter[str] = Counter()
    for item in items:
        if (callspec := getattr(item, "callspec", None)) is None:
            continue
        if "runc" in callspec.params.values():
            item.add_marker(pytest.mark.long)
            continue
        name = item.nodeid.partition("[")[0]
        cases[name] += 1
        if cases[name] > _CASES and item.get_closest_marker("real"):
            item.add_marker(pytest.mark.long)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """On a developer's machine a test may lack a tool or root; in CI what is skipped was not tested, and fails."""
    report = yield
    if os.environ.get("CI") and report.skipped:
        report.outcome = "failed"
    return report


@pytest.fixture(scope="session")
def local_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    """A registry without users or TLS that all tests share: each pushes to repositories of its own."""
    with LocalRegistry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    """An empty registry for this test alone."""
    with LocalRegistry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(scope="session")
def busybox_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system around the host's static busybox, as a tar archive."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed")
    top = tmp_path_factory.mktemp("busybox")
    root = top / "root"
    for name in ("bin", "etc", "home/app", "root", "tmp", "usr/bin", "var", "dev", "proc", "sys", "run"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    for applet in subprocess.check_output([busybox, "--list"], text=True).split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\napp:x:1000:\nstaff:x:50:app\naudio:x:29:app,other\n")
    (root / "etc/hello").write_text("hello from the image\n")
    (root / "var/run").symlink_to("/run")
    shutil.copy(busybox, root / "bin/su-like")
    for name, mode in (("tmp", 0o1777), ("root", 0o700), ("bin/su-like", 0o4755), ("etc/passwd", 0o644)):
        (root / name).chmod(mode)
    os.chown(root / "home/app", 1000, 1000)
    scripts = {
        "plain": ("#!/bin/sh\n", 0o644),  # a script that may not be executed
        "bad-format": ("\x7fELF is not enough\n", 0o755),
        "bad-interpreter": ("#!/no/such/interpreter\n", 0o755),
    }
    for name, (content, mode) in scripts.items():
        (root / "usr/bin" / name).write_text(content)
        (root / "usr/bin" / name).chmod(mode)
    archive = top / "busybox.tar"
    subprocess.run(["tar", "-C", root, "--numeric-owner", "-cf", archive, "."], check=True)
    shutil.rmtree(root)
    return archive


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB, which is soon full."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture
def engine_root(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / "store"


@pytest.fixture
def leakless(engine_root: Path, request: pytest.FixtureRequest) -> Iterator[Census]:
    """At the end, nothing of the store is left on the host, and its log is whole."""
    if os.geteuid() != 0:
        pytest.skip("real containers need root")
    census = Census(engine_root)
    disarm = stop_hanging(300 if request.node.get_closest_marker("long") else 90)
    try:
        yield census
        disarm()
        census.check()
    finally:
        disarm()
        census.clean()


@pytest.fixture
def stage(leakless: Census, busybox_tar: Path) -> Stage:
    """A store's root and an image's archive, for a test that leaves nothing behind."""
    return Stage(leakless.root, busybox_tar)
