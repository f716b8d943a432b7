"""Stores for the command line, and the proof that nothing of them is left on the host."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import Census

sys.path.insert(0, str(Path(__file__).parent))  # ``import cli_program`` works under importmode=importlib, too
pytest.register_assert_rewrite("cli_program")
from cli_program import Cli, end_engines  # noqa: E402


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Cli]:
    """The command line on a store that nobody has made yet, whose engines leave soon."""
    yield from _watched(Cli(tmp_path / "store", idle="2"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, busybox_tar: Path) -> Iterator[Cli]:
    """The command line on a store with the image ``busybox:1``, which the tests of a module share."""
    for cli in _watched(Cli(tmp_path_factory.mktemp("shared") / "store")):
        cli("import", os.fspath(busybox_tar), "busybox:1", "-c", 'CMD ["sh"]')
        yield cli
        if ids := cli("ps", "-aq").stdout.split():
            cli("rm", "-f", *ids)


def _watched(cli: Cli) -> Iterator[Cli]:
    if os.geteuid() != 0:
        pytest.skip("containers need root")
    census = Census(cli.root)
    try:
        yield cli
        end_engines(cli)
        census.check()
    finally:
        end_engines(cli)
        census.clean()
