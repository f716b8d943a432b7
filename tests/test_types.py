"""The types of the public interface are complete: whoever uses the package needs to guess none of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.long
def test_every_public_name_has_a_type(tmp_path: Path) -> None:
    """By pyright's measure, of the package as it is installed."""
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        (tmp_path / installed.name).symlink_to(installed)
    shutil.copytree(ROOT / "src" / "lading", tmp_path / "lading", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "basedpyright",
            "--pythonpath",
            sys.executable,
            "--verifytypes",
            "lading",
            "--ignoreexternal",
            "--outputjson",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.fspath(tmp_path)},
        capture_output=True,
        check=False,
    )
    told = json.loads(done.stdout)["typeCompleteness"]
    lacking = [
        f"{symbol['name']}: {problem['message']}"
        for symbol in told["symbols"]
        for problem in symbol.get("diagnostics", ())
        if problem["severity"] == "error"
    ]
    assert told["symbols"]
    assert lacking == []
    assert told["completenessScore"] == 1
