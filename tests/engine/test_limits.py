"""What is written for a container's limits on cgroup v2, in an imitation of its directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from lading.engine.oci import limits
from lading.engine.oci.limits import apply_resources
from lading.engine.oci.runtime import cgroup_of
from lading.events.errors import HostError
from lading.events.settings import Resources
from lading.storage.store import Paths, locate

FILES = {
    "memory.max": "max",
    "memory.swap.max": "max",
    "memory.low": "0",
    "cpu.weight": "100",
    "cpu.max": "max 100000",
    "cpuset.mems": "",
    "cpuset.cpus": "",
    "pids.max": "max",
    "io.weight": "default 100",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Paths, Path]:
    """A store's paths and the directory of container ``box``'s cgroup."""
    (tmp_path / "store").mkdir()
    paths = locate(tmp_path / "store")
    group = tmp_path / "cgroup" / cgroup_of(paths).lstrip("/") / "box"
    group.mkdir(parents=True)
    for name, content in FILES.items():
        (group / name).write_text(content + "\n")
    monkeypatch.setattr(limits, "cgroup_mode", lambda: "v2")
    monkeypatch.setattr(limits, "controller_mounts", lambda: {"unified": tmp_path / "cgroup"})
    monkeypatch.setattr(limits, "missing_limits", frozenset)
    return paths, group


def content(group: Path) -> dict[str, str]:
    return {path.name: path.read_text().strip() for path in group.iterdir()}


ASKED = Resources(
    memory=64 << 20,
    memory_swap=96 << 20,
    memory_reservation=32 << 20,
    cpu_shares=1024,
    cpu_quota=5000,
    cpu_period=20_000,
    cpuset_cpus="0-1",
    pids=9,
    blkio_weight=505,
)
WRITTEN = {
    "memory.max": str(64 << 20),
    "memory.swap.max": str(32 << 20),
    "memory.low": str(32 << 20),
    "cpu.weight": "39",
    "cpu.max": "5000 20000",
    "cpuset.mems": "",
    "cpuset.cpus": "0-1",
    "pids.max": "9",
    "io.weight": "default 5000",
}


def test_limits_are_given_and_lifted(place: tuple[Paths, Path]) -> None:
    paths, group = place
    apply_resources(paths, "box", ASKED)
    assert content(group) == WRITTEN
    apply_resources(paths, "box", Resources(), ASKED)
    assert content(group) == FILES


def test_only_what_is_asked_for_is_written(place: tuple[Paths, Path]) -> None:
    paths, group = place
    apply_resources(paths, "box", Resources(memory=64 << 20))
    assert content(group) == {**FILES, "memory.max": str(64 << 20), "memory.swap.max": str(64 << 20)}
    apply_resources(paths, "box", Resources(memory=64 << 20, memory_swap=-1))
    assert content(group)["memory.swap.max"] == "max"


def test_one_that_fails_takes_back_those_before(place: tuple[Paths, Path]) -> None:
    paths, group = place
    (group / "pids.max").unlink()
    with pytest.raises(HostError, match=r"pids\.max"):
        apply_resources(paths, "box", ASKED)
    assert content(group) == {name: value for name, value in FILES.items() if name != "pids.max"}
