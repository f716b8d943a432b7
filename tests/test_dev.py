"""The developer's scripts: they parse, they say what they can do, and they refuse what they can't."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["dev", ".ci/run", "docs/timeline.sh", "examples/rootfs.sh"]


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=10, check=False)


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_parses_and_is_executable(script: str) -> None:
    assert (ROOT / script).stat().st_mode & 0o111
    checked = run("bash", "-n", script)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("argv", [["help"], ["--help"], []])
def test_help_lists_every_command(argv: list[str]) -> None:
    shown = run("./dev", *argv)
    assert shown.returncode == 0
    listed = [line.split()[0] for line in shown.stdout.splitlines() if line.startswith("  ")]
    assert listed == ["demo", "test", "check", "bench", "setup", "help"]


def test_unknown_command_exits_2_with_usage() -> None:
    refused = run("./dev", "nonesuch")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("usage: ./dev")


def test_nothing_that_starts_a_daemon_is_installed() -> None:
    """Installing these starts a service on most hosts; what is needed of them is fetched beside instead."""
    words = re.findall(r"(?:install_packages|missing\+=\()([^)\n;|&#]*)", (ROOT / "dev").read_text())
    installed = {word.strip('"') for line in words for word in line.split()}
    assert {"skopeo", "strace", "chromium"} <= installed
    assert not installed & {"docker.io", "docker-ce", "containerd", "docker-registry", "podman"}
