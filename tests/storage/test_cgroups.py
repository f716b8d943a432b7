"""Whose a process is: it is in the cgroup, or below it, and no name that only begins alike will do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lading.storage import cgroups
from lading.storage.cgroups import in_cgroup


def test_a_process_is_in_its_own_cgroup_and_in_no_other() -> None:
    own = Path("/proc/self/cgroup").read_text().splitlines()[0].split(":", 2)[2]
    assert in_cgroup(os.getpid(), own.rstrip("/"))
    assert not in_cgroup(os.getpid(), "/lading/none")
    assert not in_cgroup(2**22 + 1, "")


@pytest.mark.parametrize(
    ("line", "inside"),
    [
        ("0::/lading/a/b", True),
        ("0::/lading/a/b/container", True),
        ("5:devices:/lading/a/b", True),
        ("0::/outer/lading/a/b", True),
        ("0::/lading/a/bc", False),
        ("0::/lading/a", False),
        ("0::/", False),
        ("0::/xlading/a/b", False),
    ],
)
def test_the_whole_path_counts(line: str, inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cgroup").write_text(f"1:name=systemd:/elsewhere\n{line}\n")
    monkeypatch.setattr(cgroups, "open", lambda _, **options: (tmp_path / "cgroup").open(**options), raising=False)
    assert in_cgroup(7, "/lading/a/b") is inside
